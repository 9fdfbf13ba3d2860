"""Score our detector by NAB's rules: `python -m benchmarks.nab [folder of NAB] [--sensitivity]`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.nab.corpus import Profile, Series, read_profiles, read_published, read_series
from benchmarks.nab.published import REPRODUCED
from benchmarks.nab.scoring import best_threshold, corpus_score, normalised, score_series
from novellus_lab.monitoring.detect.adaptive import AdaptiveDetector
from novellus_lab.monitoring.detect.baseline import Baseline
from novellus_lab.monitoring.detect.rules import latency_excess

DATA = Path(__file__).parents[2] / "tests" / "data" / "anomaly"

Scores = list[float]
Detector = Callable[[Series], Scores]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One detector's NAB scores by profile; None where they were not published for these series."""

    name: str
    scores: tuple[float | None, ...]
    threshold: str


def adaptive(series: Series) -> Scores:
    """Our detector as it comes."""
    detector = AdaptiveDetector()
    return [
        verdict.score for verdict in detector.run(zip(series.times, series.values, strict=True))
    ]


def plain_rule(series: Series) -> Scores:
    """The seed's "2x baseline": how much of twice the baseline each point reaches."""
    baseline = Baseline()
    scores = []
    for time_, value in zip(series.times, series.values, strict=True):
        expected = baseline.expected(time_)
        excess = latency_excess(value, expected.value) if expected else 0.0
        scores.append(excess / (1 + excess))
        baseline.add(time_, value)
    return scores


def run(detector: Detector, series: Sequence[Series], processes: int) -> list[Scores]:
    """All series' scores, series by series."""
    if processes == 1:
        return [detector(one) for one in series]
    with ProcessPoolExecutor(processes) as pool:
        return list(pool.map(detector, series))


def published_outcomes(folder: Path, series: Sequence[Series], profile: Profile) -> list[Outcome]:
    """What the published scores of the given series come to, best first (standard profile only)."""
    names = {one.name for one in series}
    outcomes = [
        Outcome(
            f"{name} (published)",
            (normalised(sum(scores[n] for n in names), series, profile), None, None),
            "its own, of all 58",
        )
        for name, scores in read_published(folder).items()
        if names <= scores.keys()
    ]
    return sorted(outcomes, key=lambda one: -(one.scores[0] or 0.0))


def proof(folder: Path, series: Sequence[Series], profile: Profile) -> list[str]:
    """Lines that say how many published scores the scorer hits to their last digit."""
    lines = []
    for name, (detector, threshold) in REPRODUCED.items():
        published = read_published(folder)[name]
        scored = [one for one in series if one.name in published]
        hits = sum(
            f"{score_series(one, detector(one), threshold, profile).score:.12g}"
            == f"{published[one.name]:.12g}"
            for one in scored
        )
        lines.append(f"{name}: {hits} of {len(scored)} published scores reproduced to 12 digits")
    return lines


def sensitivity(
    series: Sequence[Series], scores: Sequence[Scores], profile: Profile
) -> list[tuple[str, float, float]]:
    """For each group and series left out: the threshold that the rest would choose, and what the
    corpus scores if the left-out part has to live with it. Last: all parts so, together."""
    rows: list[tuple[str, float, float]] = []
    for part in ("group", "name"):
        chosen: dict[str, float] = {}
        for value in dict.fromkeys(getattr(one, part) for one in series):
            rest = [
                (s, z) for s, z in zip(series, scores, strict=True) if getattr(s, part) != value
            ]
            threshold, _ = best_threshold(rest, profile)
            rows.append((f"without {value}", threshold, corpus_score(rest, profile)))
            chosen |= {s.name: threshold for s in series if getattr(s, part) == value}
        together = corpus_score(list(zip(series, scores, strict=True)), profile, chosen)
        rows.append(
            (f"each {part.replace('name', 'series')} at the others' threshold", 0, together)
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.nab", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=DATA)
    parser.add_argument("--sensitivity", action="store_true", help="leave groups and series out")
    parser.add_argument("--by-series", action="store_true", help="our score of each series")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 120)

    series = read_series(options.folder)
    profiles = read_profiles(options.folder)
    standard = profiles[0]
    if (options.folder / "reference_scores").exists():
        for line in proof(options.folder, series, standard):
            console.print(line)
    started = time.process_time()
    outcomes: list[Outcome] = []
    ours: list[Scores] = []
    for name, detector in (("novellus adaptive", adaptive), ("seed's plain 2x rule", plain_rule)):
        scores = run(detector, series, options.processes)
        ours = ours or scores
        scored = list(zip(series, scores, strict=True))
        by_profile = tuple(corpus_score(scored, profile) for profile in profiles)
        chosen = f"{best_threshold(scored, standard)[0]:.3f}, of these"
        outcomes.append(Outcome(name, by_profile, chosen))
    if options.processes == 1:
        points = sum(len(one.values) for one in series)
        spent = (time.process_time() - started) / points * 1e6
        console.print(f"{spent:.0f} µs of processor time a point, both detectors")
    if (options.folder / "reference_scores").exists():
        outcomes += published_outcomes(options.folder, series, standard)

    windows = sum(len(one.windows) for one in series)
    table = Table(title=f"NAB on {len(series)} series, {windows} windows")
    for column in ("detector", *(profile.name for profile in profiles), "threshold"):
        table.add_column(column, justify="left" if column in ("detector", "threshold") else "right")
    for outcome in sorted(outcomes, key=lambda each: -(each.scores[0] or 0.0)):
        cells = ("" if score is None else f"{score:.1f}" for score in outcome.scores)
        table.add_row(outcome.name, *cells, outcome.threshold)
    console.print(table)

    if options.by_series:
        threshold = best_threshold(list(zip(series, ours, strict=True)), standard)[0]
        for one, its_scores in zip(series, ours, strict=True):
            result = score_series(one, its_scores, threshold, standard)
            console.print(
                f"{one.name}: {result.score:.2f} of {len(one.windows)}, "
                f"{result.false_positives} false alarms"
            )
    if options.sensitivity:
        for text, limit, score in sensitivity(series, ours, standard):
            console.print(f"{text}: {score:.1f}" + (f" (threshold {limit:.3f})" if limit else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
