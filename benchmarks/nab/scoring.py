"""NAB's scoring, written from its paper and its published source.

A. Lavin, S. Ahmad: Evaluating Real-time Anomaly Detection Algorithms: the Numenta Anomaly
Benchmark, 2015 (arXiv 1510.03336); numenta/NAB v1.1, `nab/sweeper.py`.

The first alarm within a labelled window earns `hit * sigma(y) / sigma(-1)`, where `y` runs from -1
(the window's first point) towards 0 (its last) and `sigma(y) = 2 / (1 + exp(5 y)) - 1`. A window
without an alarm costs `miss`. Each alarm outside of windows costs `false_alarm`, and less than that
just after a window: `false_alarm * sigma(y)`, `y` the distance to the last window in its widths, and
-1 from three widths on. The first 15 % of a series, at most 750 points, are for learning and don't
count. One threshold, the best one, holds for the whole corpus. The sum is put on a scale on which a
detector that never alarms has 0 and one that is right at once everywhere has 100.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.nab.corpus import Profile, Series

    Floats = np.ndarray[tuple[int], np.dtype[np.float64]]
    Scored = Sequence[tuple[Series, Sequence[float]]]

PROBATION = 0.15
PROBATION_OF_AT_MOST = 5000
NEVER = 1.1
"""A threshold that no score reaches."""


@dataclass(frozen=True, slots=True)
class SeriesScore:
    """How one series was judged at one threshold; counts are of points, as NAB counts them."""

    score: float
    true_positives: int
    true_negatives: int
    false_positives: int
    false_negatives: int


def sigma(position: float) -> float:
    """NAB's scaled sigmoid."""
    return -1.0 if position >= 3.0 else 2 / (1 + math.exp(5 * position)) - 1.0


def probation(length: int) -> int:
    """How many points at the start don't count."""
    return int(min(math.floor(PROBATION * length), PROBATION * PROBATION_OF_AT_MOST))


def weights_of_points(series: Series, profile: Profile) -> tuple[Floats, np.ndarray]:
    """What an alarm at each point would add, and the window (or -1) that the point is in."""
    weights = np.empty(len(series.values))
    window_of = np.full(len(series.values), -1)
    last: tuple[int, int] | None = None
    upcoming = list(series.windows)
    inside: tuple[int, int] | None = None
    for i in range(len(weights)):
        if upcoming and i == upcoming[0][0]:
            inside = upcoming.pop(0)
        if inside is not None:
            first, right = inside
            position = -(right - i + 1) / float(right - first + 1)
            weights[i] = sigma(position) * profile.hit / sigma(-1.0)
            window_of[i] = len(series.windows) - len(upcoming) - 1
            if i == right:
                last, inside = inside, None
        else:
            past = 3.0 if last is None else abs(last[1] - i) / float(last[1] - last[0])
            weights[i] = sigma(past) * profile.false_alarm
    return weights, window_of


def score_series(
    series: Series, scores: Sequence[float], threshold: float, profile: Profile
) -> SeriesScore:
    """Score one series: an alarm is each point with a score of at least `threshold`."""
    weights, window_of = weights_of_points(series, profile)
    counted = np.arange(len(weights)) >= probation(len(weights))
    alarm = (np.asarray(scores, dtype=float) >= threshold) & counted
    outside = counted & (window_of < 0)
    parts = [float(sum(weights[alarm & outside].tolist()))]
    for number in range(len(series.windows)):
        of_window = counted & (window_of == number)
        if of_window.any():
            hits = weights[alarm & of_window]
            parts.append(float(hits.max()) if hits.size else -profile.miss)
    return SeriesScore(
        score=sum(parts),
        true_positives=int((alarm & ~outside).sum()),
        true_negatives=int((outside & ~alarm).sum()),
        false_positives=int((alarm & outside).sum()),
        false_negatives=int((counted & ~outside & ~alarm).sum()),
    )


def best_threshold(scored: Scored, profile: Profile) -> tuple[float, float]:
    """Find the one threshold that is best over all series: NAB's optimiser. (threshold, raw score).

    Going down through all scores that occur, the total changes by each point's weight if the point
    is outside of windows, and within one by what it improves on the window's best so far.
    """
    everything, changes = [], []
    total = 0.0
    for series, scores in scored:
        weights, window_of = weights_of_points(series, profile)
        start = probation(len(weights))
        points = np.asarray(scores, dtype=float)[start:]
        weights, window_of = weights[start:], window_of[start:]
        change = np.where(window_of < 0, weights, 0.0)
        for number in np.unique(window_of[window_of >= 0]):
            total -= profile.miss
            members = np.flatnonzero(window_of == number)
            members = members[np.argsort(-points[members], kind="stable")]
            best = np.maximum.accumulate(np.maximum(weights[members], -profile.miss))
            change[members] = np.diff(best, prepend=-profile.miss)
        everything.append(points)
        changes.append(change)
    points = np.concatenate(everything)
    order = np.argsort(-points, kind="stable")
    points, running = points[order], total + np.cumsum(np.concatenate(changes)[order])
    ends = np.flatnonzero(np.append(points[1:] != points[:-1], True))
    thresholds = np.concatenate([[NEVER], points[ends]])
    totals = np.concatenate([[total], running[ends]])
    best_at = int(np.argmax(totals))
    return float(thresholds[best_at]), float(totals[best_at])


def normalised(raw: float, series: Sequence[Series], profile: Profile) -> float:
    """Put a sum of scores on NAB's scale: 0 is no alarm at all, 100 is perfect."""
    windows = sum(len(one.windows) for one in series)
    null, perfect = -windows * profile.miss, windows * profile.hit
    return 100 * (raw - null) / (perfect - null)


def corpus_score(
    scored: Scored, profile: Profile, threshold: float | Mapping[str, float] | None = None
) -> float:
    """NAB's score of a corpus, at the best threshold or at the given one(s, by name of series)."""
    if threshold is None:
        threshold = best_threshold(scored, profile)[0]
    raw = sum(
        score_series(
            series,
            scores,
            threshold if isinstance(threshold, float) else threshold[series.name],
            profile,
        ).score
        for series, scores in scored
    )
    return normalised(raw, [series for series, _ in scored], profile)
