"""Rates of yes-or-no metrics: errors, cache hits, right answers.

One rate: Wilson's score interval (1927, JASA 22). Two independent: Newcombe's method 10 (1998,
Statistics in Medicine 17, 873-890), which puts Wilson's together. Paired: Newcombe's method 10 for
pairs (1998, Statistics in Medicine 17, 2635-2650) and McNemar's exact test. Both stay within -1 and 1
and keep their level at rates near 0. Where observations come in clusters, a rate counts as one of
`n / design effect` observations (Korn & Graubard 1998, Survey Methodology 24), the design effect being
the clustered variance over the plain one, and never below 1.

With many looks, a single rate has the exact interval of a beta-binomial mixture; differences keep
Newcombe's with the wider boundary, which at small rates errs to the safe side. Of pairs, and in order,
`sequential.bounded_difference` is exact.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from novellus_lab.errors import InvalidRequestError
from novellus_lab.experiments.stats.confidence import ONE_LOOK, Confidence
from novellus_lab.experiments.stats.estimate import Estimate
from novellus_lab.experiments.stats.intervals import EVERYTHING, Bounds, mover, reach_to_zero
from novellus_lab.experiments.stats.moments import moments
from novellus_lab.experiments.stats.samples import (
    ArmClusters,
    Clusters,
    Floats,
    Grouping,
    checked,
    checked_alike,
    grouping,
    labels_of_arms,
    labels_of_pairs,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def rate(
    outcomes: ArrayLike, *, clusters: Clusters | None = None, confidence: Confidence = ONE_LOOK
) -> Estimate:
    """The rate of ones, by Wilson's interval.

    Args:
        outcomes: ones and zeros (or booleans).
        clusters: a label an outcome.

    Raises:
        InvalidRequestError: none, or other numbers than 0 and 1.
    """
    values = _outcomes(outcomes, "outcomes")
    groups = grouping([clusters], [len(values)])
    size = _effective_size(values, groups)
    value = float(values.mean())
    exact = confidence.always_valid and clusters is None
    if exact:
        low, high = beta_binomial(int(values.sum()), len(values), 1 - confidence.level)
    else:
        low, high = wilson(value, size, confidence.reach(math.inf, groups.count, 0.0).down)
    return Estimate(
        value,
        low,
        high,
        confidence.level,
        "rate, beta-binomial mixture" if exact else "rate, Wilson",
        len(values),
        groups.count,
        always_valid=confidence.always_valid,
    ).with_notes("" if exact else confidence.too_early(groups.count, 0.0))


def rate_difference(
    control: ArrayLike,
    treatment: ArrayLike,
    *,
    paired: bool = False,
    clusters: Clusters | ArmClusters | None = None,
    confidence: Confidence = ONE_LOOK,
) -> Estimate:
    """Rate of the treatment minus rate of the control: 0.03 is three percentage points more.

    Args and errors as `means.difference`; all values are 0 or 1. The p-value is McNemar's exact one
    for pairs without clusters and a single look, else the level at which the interval starts to
    exclude 0.
    """
    if paired:
        base, other = checked_alike(control=control, treatment=treatment)
        base, other = _outcomes(base, "control"), _outcomes(other, "treatment")
        groups = grouping([labels_of_pairs(clusters)], [len(base)])
        sides = Grouping((*groups.codes, *groups.codes), groups.count)
    else:
        base, other = _outcomes(control, "control"), _outcomes(treatment, "treatment")
        groups = sides = grouping(labels_of_arms(clusters), [len(base), len(other)])
    p, q = float(base.mean()), float(other.mean())
    sizes = [
        _effective_size(values, Grouping((codes,), sides.count))
        for values, codes in zip((base, other), sides.codes, strict=True)
    ]
    if paired and clusters is None:
        correlation = _paired_correlation(base, other)
    else:
        correlation = _clustered_correlation(base, other, sides)

    def bounds(critical: float) -> Bounds:
        if math.isinf(critical):
            return EVERYTHING
        wilsons = [wilson(v, n, critical) for v, n in zip((p, q), sizes, strict=True)]
        return mover(p, wilsons[0], q, wilsons[1], correlation)

    units = groups.count
    low, high = bounds(confidence.reach(math.inf, units, 0.0).down)
    if paired and clusters is None and not confidence.always_valid:
        p_value = mcnemar(int(((base == 1) & (other == 0)).sum()), int((base < other).sum()))
    else:
        p_value = confidence.p_value(reach_to_zero(bounds), math.inf, units)
    return Estimate(
        q - p,
        max(low, -1.0),
        min(high, 1.0),
        confidence.level,
        f"difference of {'paired ' if paired else ''}rates, Newcombe",
        len(base) + (0 if paired else len(other)),
        units,
        p_value=p_value,
        always_valid=confidence.always_valid,
    ).with_notes(confidence.too_early(units, 0.0))


def wilson(value: float, size: float, critical: float) -> Bounds:
    """Wilson's interval of a rate seen among `size` (need not be whole) observations."""
    if math.isinf(critical):
        return Bounds(0.0, 1.0)
    square = critical**2 / size
    middle = (value + square / 2) / (1 + square)
    half = math.sqrt(square * (value * (1 - value) + square / 4)) / (1 + square)
    return Bounds(
        0.0 if value == 0 else max(0.0, min(middle - half, value)),
        1.0 if value == 1 else min(1.0, max(middle + half, value)),
    )


def beta_binomial(ones: int, size: int, alpha: float) -> Bounds:
    """Every rate whose likelihood is above alpha times that of a uniform mixture of all rates.

    Of the true rate this is so at all sizes at once with probability 1 - alpha (Ville; Robbins 1970,
    Annals of Mathematical Statistics 41, 1397-1409).
    """
    needed = special.betaln(1 + ones, 1 + size - ones) + math.log(alpha)

    def excess(p: float) -> float:
        return float(special.xlogy(ones, p) + special.xlogy(size - ones, 1 - p)) - float(needed)

    ends = []
    for outside in (0.0, 1.0):
        inside = ones / size
        if excess(outside) > 0 or inside == outside:
            ends.append(outside)
            continue
        for _ in range(60):
            middle = (outside + inside) / 2
            outside, inside = (outside, middle) if excess(middle) > 0 else (middle, inside)
        ends.append(outside)
    return Bounds(*ends)


def mcnemar(control_only: int, treatment_only: int) -> float:
    """The exact two-sided p-value of discordant pairs: binomial with 1/2."""
    total = control_only + treatment_only
    if not total:
        return 1.0
    return min(1.0, 2 * float(special.bdtr(min(control_only, treatment_only), total, 0.5)))


def _outcomes(values: ArrayLike, name: str) -> Floats:
    array = checked(values, name)
    odd = np.flatnonzero((array != 0) & (array != 1))
    if len(odd):
        raise InvalidRequestError(f"{name}[{odd[0]}] is {array[odd[0]]:g}: expected 0 or 1.")
    return array


def _effective_size(values: Floats, groups: Grouping) -> float:
    """How many independent observations tell as much."""
    n = len(values)
    own = len(np.unique(groups.codes[0]))
    if own == n:
        return float(n)
    p = float(values.mean())
    found = moments([values], groups)
    if isinstance(found, str) or p in (0, 1):
        return float(own)  # all alike within clusters, for all we know
    effect = found.variance([1.0]) / (p * (1 - p) / n)
    return n / max(1.0, effect)


def _paired_correlation(base: Floats, other: Floats) -> float:
    """Newcombe's continuity-corrected phi of the four-fold table."""
    n = len(base)
    a = float((base * other).sum())
    b, c = float(base.sum()) - a, float(other.sum()) - a
    d = n - a - b - c
    below = (a + b) * (c + d) * (a + c) * (b + d)
    if below == 0:
        return 0.0
    cross = a * d - b * c
    above = max(cross - n / 2, 0.0) if cross > 0 else cross
    return above / math.sqrt(below)


def _clustered_correlation(base: Floats, other: Floats, sides: Grouping) -> float:
    found = moments([base, other], sides)
    if isinstance(found, str):
        return 0.0
    (v, c), (_, w) = found.covariance
    return float(np.clip(c / math.sqrt(v * w), -1, 1)) if v > 0 and w > 0 else 0.0
