"""Detectors whose published scores anyone can reproduce: they prove the scorer.

Written from their descriptions in numenta/NAB (`nab/detectors/`). Each yields one score a point.
`relative_entropy` is given the whole series' range beforehand, as NAB gives it to all its detectors.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.nab.corpus import Series


def null(series: Series) -> list[float]:
    """Never sure: 0.5 at each point."""
    return [0.5] * len(series.values)


def windowed_gaussian(series: Series) -> list[float]:
    """One less the normal tail probability, over the last 6400 values, moved on by 100 at a time.

    The published run kept 12 digits of a score, which makes 1 of what is almost 1: so do we.
    """
    window: list[float] = []
    waiting: list[float] = []
    mean, deviation, scores = 0.0, 1.0, []
    for value in series.values:
        z = abs(value - mean) / deviation
        score = 1 - 0.5 * math.erfc(z / math.sqrt(2)) if window else 0.0
        scores.append(float(f"{score:.12g}"))
        full = len(window) >= 6400
        (waiting if full else window).append(value)
        if full and len(waiting) == 100:
            window, waiting = window[100:] + waiting, []
        if not full or not waiting:
            mean, deviation = float(np.mean(window)), float(np.std(window)) or 0.000001
    return scores


def relative_entropy(series: Series) -> list[float]:
    """C. Wang et al.: Statistical Techniques for Online Anomaly Detection in Data Centers, 2011.

    Histograms (5 bins) of the last 52 values against all kinds of histogram seen before; 1 where
    none agrees (2 n KL below the 99 % point of chi-squared with 4 degrees of freedom).
    """
    bins, width, limit = 5, 52, 13.276704135987622
    lowest = min(series.values)
    step = (max(series.values) - lowest) / bins
    if not step:
        return [0.0] * len(series.values)
    levels = [math.ceil((value - lowest) / step) for value in series.values]
    known: list[np.ndarray] = []
    seen: list[int] = []
    scores = [0.0] * min(width - 1, len(levels))
    for end in range(width, len(levels) + 1):
        now = np.histogram(levels[end - width : end], bins=bins, range=(0, bins), density=True)[0]
        distances = [2 * width * _divergence(now, one) for one in known]
        agreeing = min(range(len(known)), key=distances.__getitem__, default=-1)
        if agreeing < 0 or not distances[agreeing] < limit:
            scores.append(1.0 if known else 0.0)
            known.append(now)
            seen.append(1)
        else:
            seen[agreeing] += 1
            scores.append(float(seen[agreeing] <= 1))
    return scores


def _divergence(p: np.ndarray, q: np.ndarray) -> float:
    p, q = p / p.sum(), q / q.sum()
    present = p > 0
    if (q[present] == 0).any():
        return math.inf
    return float((p[present] * np.log(p[present] / q[present])).sum())


REPRODUCED: dict[str, tuple[Callable[[Series], Sequence[float]], float]] = {
    "null": (null, 0.6),
    "relativeEntropy": (relative_entropy, 0.5),
    "windowedGaussian": (windowed_gaussian, 1.0),
}
"""By published name: the detector and its published threshold (standard profile)."""
