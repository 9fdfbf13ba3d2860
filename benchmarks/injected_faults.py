"""Faults at known times in real traffic: `python -m benchmarks.injected_faults [--seeds 5]`.

**Traffic.** Minutes of a real hour (Azure's 2023 conversation trace, or Mooncake's), drawn again and
again for four days, thinned by a day's shape (40 % of the requests at 3 h, all at 15 h). What was
asked and answered in a minute stays together; days and nights are made.

**Latency** is made from the tokens: `250 ms + 0.06 ms * input + 18 ms * output`, times a lognormal
factor (sigma 0.3). Errors are binomial with 1 %. Spend is 2.5 and 10 USD per million tokens. The cache
hit rate is the share of Mooncake's prefix blocks that came before in its hour.

**Faults**, one of each in the last 2.5 days, at random times at least four hours apart: see `FAULTS`.

**Judged** are alarms of all metrics together: one within a fault, or ten minutes after it, finds it;
any other is false. Alarms of one metric less than 30 minutes apart are one.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import sys
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table

from novellus_lab.monitoring.detect.hysteresis import Phase
from novellus_lab.monitoring.detect.learned import LearnedDetector
from novellus_lab.monitoring.detect.rules import Bucket, ErrorRateRule, LatencyRule, TrafficRule

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DATA = Path(__file__).parents[2] / "shared" / "data" / "traffic"
MINUTE = timedelta(minutes=1)
START = datetime(2026, 1, 5, tzinfo=UTC)
DAYS = 4
MINUTES = DAYS * 24 * 60
FIRST_FAULT = 36 * 60
GAP = 4 * 60
GRACE = 10
ONE_ALARM = 30


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong, for how many minutes, and what it does at its height."""

    name: str
    minutes: int
    latency: float = 1.0
    errors: float = 0.0
    traffic: int = 1
    output: float = 1.0
    hits: float = 1.0
    gradual: bool = False


FAULTS = (
    Fault("latency x2", 30, latency=2.0),
    Fault("latency x3", 15, latency=3.0),
    Fault("errors +10 points", 15, errors=0.10),
    Fault("errors +30 points", 5, errors=0.30),
    Fault("traffic x3", 15, traffic=3),
    Fault("outputs x2 (spend)", 30, output=2.0),
    Fault("cache hits x0.5", 30, hits=0.5),
    Fault("latency drifts to x2", 240, latency=2.0, gradual=True),
)


@dataclass(frozen=True, slots=True)
class Trace:
    """A real hour: tokens of each request and its minute; prefix blocks and those seen before."""

    name: str
    minute: np.ndarray
    input_tokens: np.ndarray
    output_tokens: np.ndarray
    blocks: np.ndarray
    hits: np.ndarray


@dataclass(frozen=True, slots=True)
class Injected:
    """A fault with its first minute and the one after its last."""

    fault: Fault
    first: int
    end: int


@dataclass(frozen=True, slots=True)
class Point:
    """What one minute shows."""

    bucket: Bucket
    spend_usd: float
    output_tokens: float
    hit_rate: float | None


def azure(folder: Path) -> Trace:
    """Azure's hour. It has no prefix blocks."""
    with gzip.open(folder / "AzureLLMInferenceTrace_2023_conv.csv.gz", "rt") as file:
        rows = [line.strip().split(",") for line in file][1:]
    times = [datetime.fromisoformat(row[0][:26]) for row in rows]
    minute = np.array([int((time - times[0]) / MINUTE) for time in times])
    tokens = np.array([[int(row[1]), int(row[2])] for row in rows])
    none = np.zeros(len(rows))
    return _whole_minutes(Trace("Azure", minute, tokens[:, 0], tokens[:, 1], none, none))


def mooncake(folder: Path) -> Trace:
    """Mooncake's hour."""
    with gzip.open(folder / "mooncake_conversation_trace.jsonl.gz") as file:
        rows = [json.loads(line) for line in file]
    seen: set[int] = set()
    hits = []
    for row in rows:
        hits.append(sum(block in seen for block in row["hash_ids"]))
        seen.update(row["hash_ids"])
    return _whole_minutes(
        Trace(
            "Mooncake",
            np.array([row["timestamp"] // 60_000 for row in rows]),
            np.array([row["input_length"] for row in rows]),
            np.array([row["output_length"] for row in rows]),
            np.array([len(row["hash_ids"]) for row in rows]),
            np.array(hits),
        )
    )


def _whole_minutes(trace: Trace) -> Trace:
    """Without the last minute, which is cut off, and the first ten, in which the cache fills."""
    kept = (trace.minute >= 10) & (trace.minute < trace.minute.max())
    columns = (trace.minute, trace.input_tokens, trace.output_tokens, trace.blocks, trace.hits)
    return Trace(trace.name, *(column[kept] for column in columns))


def plan(trace: Trace, rng: random.Random) -> list[Injected]:
    """When what goes wrong."""
    faults = [fault for fault in FAULTS if fault.hits == 1.0 or trace.blocks.any()]
    rng.shuffle(faults)
    free = MINUTES - FIRST_FAULT - sum(fault.minutes + GAP for fault in faults)
    cuts = sorted(rng.randrange(free) for _ in faults)
    planned, used = [], 0
    for cut, fault in zip(cuts, faults, strict=True):
        first = FIRST_FAULT + cut + used
        planned.append(Injected(fault, first, first + fault.minutes))
        used += fault.minutes + GAP
    return planned


def points(trace: Trace, planned: Sequence[Injected], rng: np.random.Generator) -> Iterator[Point]:
    """Minute by minute what the metrics show."""
    of_minute = [np.flatnonzero(trace.minute == m) for m in np.unique(trace.minute)]
    quiet = Fault("", 0)
    for number in range(MINUTES):
        now = next((one for one in planned if one.first <= number < one.end), None)
        fault = now.fault if now else quiet
        height = (number - now.first + 1) / fault.minutes if now and fault.gradual else 1.0
        hour = number / 60 % 24
        keep = 0.7 - 0.3 * np.cos((hour - 3) / 24 * 2 * np.pi)
        requests = np.concatenate(
            [of_minute[rng.integers(len(of_minute))] for _ in range(fault.traffic)]
        )
        requests = requests[rng.random(len(requests)) < keep]
        size = len(requests)
        output = trace.output_tokens[requests] * fault.output
        latency_ms = 250 + 0.06 * trace.input_tokens[requests] + 18 * output
        latency_ms = latency_ms * rng.lognormal(0, 0.3, size) * (1 + (fault.latency - 1) * height)
        blocks = int(trace.blocks[requests].sum())
        yield Point(
            Bucket(
                START + number * MINUTE,
                size,
                int(rng.binomial(size, 0.01 + fault.errors)),
                float(latency_ms.mean()) if size else None,
            ),
            float(2.5e-6 * trace.input_tokens[requests].sum() + 1e-5 * output.sum()),
            float(output.mean()) if size else float("nan"),
            float(trace.hits[requests].sum() * fault.hits / blocks) if blocks else None,
        )


def rules_alarms(series: Sequence[Point]) -> list[tuple[int, str]]:
    """The seed's three rules, with a recent baseline of one hour: four days have no weeks."""
    alarms = []
    for rule in (LatencyRule(), ErrorRateRule(), TrafficRule()):
        for number, point in enumerate(series):
            if rule.observe(point.bucket).phase is Phase.STARTED:
                alarms.append((number, rule.metric))
    return alarms


def adaptive_alarms(series: Sequence[Point], alarms_per_week: float) -> list[tuple[int, str]]:
    """What learns each metric by itself. Sizes go in as logarithms: a change is a factor."""
    metrics: dict[str, list[float]] = {
        "latency_ms": [_log(point.bucket.latency_ms) for point in series],
        "error_rate": [
            point.bucket.errors / point.bucket.requests if point.bucket.requests else float("nan")
            for point in series
        ],
        "requests": [_log(point.bucket.requests + 1) for point in series],
        "spend_usd": [_log(point.spend_usd) for point in series],
        "output_tokens": [_log(point.output_tokens) for point in series],
    }
    if series[0].hit_rate is not None:
        metrics["cache_hit_rate"] = [
            float("nan") if point.hit_rate is None else point.hit_rate for point in series
        ]
    alarms = []
    for metric, values in metrics.items():
        detector = LearnedDetector(alarms_per_week, interval=MINUTE)
        drifts = set()
        for number, value in enumerate(values):
            seen = detector.observe(series[number].bucket.start, value)
            if seen.verdict and seen.verdict.alarm:
                alarms.append((number, metric))
            if seen.drift and seen.drift.start not in drifts:
                drifts.add(seen.drift.start)
                alarms.append((number, metric))
    return alarms


def _log(value: float | None) -> float:
    return float(np.log(value)) if value else float("nan")


@dataclass(slots=True)
class Tally:
    """What was found over all runs."""

    delays: dict[str, list[int]]
    runs: dict[str, int]
    right: int = 0
    wrong: int = 0
    weeks: float = 0.0

    def add(self, alarms: Sequence[tuple[int, str]], planned: Sequence[Injected]) -> None:
        """Judge one run's alarms from the first possible fault on."""
        last: dict[str, int] = {}
        events = []
        for minute, metric in sorted(alarms):
            if minute >= FIRST_FAULT - GAP and minute - last.get(metric, -MINUTES) > ONE_ALARM:
                events.append(minute)
            last[metric] = minute
        found: defaultdict[str, list[int]] = defaultdict(list)
        for minute in events:
            hit = next((p for p in planned if p.first <= minute < p.end + GRACE), None)
            self.right += hit is not None
            self.wrong += hit is None
            if hit:
                found[hit.fault.name].append(minute - hit.first)
        for one in planned:
            name = one.fault.name
            self.runs[name] = self.runs.get(name, 0) + 1
            self.delays.setdefault(name, [])
            if found[name]:
                self.delays[name].append(min(found[name]) + 1)
        self.weeks += (MINUTES - FIRST_FAULT + GAP) / (7 * 24 * 60)


def measure(folder: Path, seeds: int, alarms_per_week: float) -> dict[str, dict[str, Tally]]:
    """Tallies by trace and detector."""
    result: dict[str, dict[str, Tally]] = {}
    for trace in (azure(folder), mooncake(folder)):
        tallies = {name: Tally({}, {}) for name in ("rules", "adaptive", "both")}
        for seed in range(seeds):
            planned = plan(trace, random.Random(seed))
            series = list(points(trace, planned, np.random.default_rng(seed)))
            by_rules = rules_alarms(series)
            by_adaptive = adaptive_alarms(series, alarms_per_week)
            tallies["rules"].add(by_rules, planned)
            tallies["adaptive"].add(by_adaptive, planned)
            tallies["both"].add(by_rules + by_adaptive, planned)
        result[trace.name] = tallies
    return result


def show(console: Console, result: dict[str, dict[str, Tally]]) -> None:
    """Found of injected and median delay by fault; then precision, recall and false alarms."""
    for trace, tallies in result.items():
        table = Table(title=f"{trace}: found of injected, median minutes until")
        table.add_column("fault")
        for name in tallies:
            table.add_column(name, justify="right")
        first = next(iter(tallies.values()))
        for fault in (fault.name for fault in FAULTS if fault.name in first.runs):
            cells = []
            for tally in tallies.values():
                delays = tally.delays[fault]
                after = f", {median(delays):g} min" if delays else ""
                cells.append(f"{len(delays)}/{tally.runs[fault]}{after}")
            table.add_row(fault, *cells)
        table.add_section()
        figures: dict[str, list[str]] = {"recall": [], "precision": [], "false alarms a week": []}
        for tally in tallies.values():
            found = sum(map(len, tally.delays.values()))
            alarms = tally.right + tally.wrong
            figures["recall"].append(f"{found / sum(tally.runs.values()):.2f}")
            figures["precision"].append(f"{tally.right / alarms:.2f}" if alarms else "no alarm")
            figures["false alarms a week"].append(f"{tally.wrong / tally.weeks:.1f}")
        for figure, values in figures.items():
            table.add_row(figure, *values)
        console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.injected_faults")
    parser.add_argument("folder", nargs="?", type=Path, default=DATA)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--alarms-per-week", type=float, default=2.0, help="of each metric")
    options = parser.parse_args(arguments)
    if not options.folder.exists():
        parser.error(f"no traffic traces in {options.folder}; name their folder")
    result = measure(options.folder, options.seeds, options.alarms_per_week)
    show(Console(width=None if sys.stdout.isatty() else 100), result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
