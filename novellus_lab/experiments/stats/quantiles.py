"""Quantiles (latency at p50, p95, p99) and their differences between arms.

One sample: an interval between two order statistics, exact for any distribution. Of `n` values the
number below the true quantile is binomial, so that

    P(X_(r) <= quantile <= X_(s)) >= level   with r, s from the tails of Binomial(n, q)

(David & Nagaraja, Order Statistics, 7.1). Where `n` is too small for the upper tail (below 368 for p99
at 95%) the upper bound is infinite. Differences: the percentile bootstrap, of pairs or of sessions
where there are such; and MOVER from the two exact intervals where arms are independent, which
holds its level for few values in the tail, too. With many looks: the order statistics that a
beta-binomial mixture has not excluded (Howard & Ramdas 2022, Bernoulli 28(3), for the idea).

A quantile is the least value that has at least `q` of the values up to it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from novellus_lab.errors import InvalidRequestError
from novellus_lab.experiments.stats.bootstrap import (
    RESAMPLING,
    Resampling,
    WeightedQuantile,
    bootstrap,
)
from novellus_lab.experiments.stats.confidence import ONE_LOOK, Confidence, mixture_precision
from novellus_lab.experiments.stats.estimate import Estimate, cannot_tell
from novellus_lab.experiments.stats.intervals import Bounds, mover
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


def quantile(values: ArrayLike, q: float, *, confidence: Confidence = ONE_LOOK) -> Estimate:
    """A quantile of independent values, between order statistics.

    Raises:
        InvalidRequestError: no values, NaN, or q not between 0 and 1.
    """
    ordered = np.sort(checked(values, "values"))
    _check(q)
    bounds = order_bounds(ordered, q, confidence)
    return Estimate(
        float(ordered[rank(len(ordered), q) - 1]),
        *bounds,
        confidence.level,
        f"p{100 * q:g}, order statistics",
        len(ordered),
        len(ordered),
        always_valid=confidence.always_valid,
    ).with_notes(_why_open(len(ordered), q, bounds))


def quantile_difference(
    control: ArrayLike,
    treatment: ArrayLike,
    q: float,
    *,
    paired: bool = False,
    clusters: Clusters | ArmClusters | None = None,
    confidence: Confidence = ONE_LOOK,
    resampling: Resampling = RESAMPLING,
) -> Estimate:
    """The treatment's quantile minus the control's: not the quantile of the differences.

    Independent values in independent arms: MOVER of the exact intervals. Pairs or clusters: the
    percentile bootstrap, where each arm alone has a bounded interval; else nothing is said. Many
    looks: the two always-valid intervals at half of the error each, whatever the arms share.

    Args and errors as `means.difference`; and q not between 0 and 1, or many looks with clusters.
    """
    _check(q)
    if paired:
        base, other = checked_alike(control=control, treatment=treatment)
        groups = grouping([labels_of_pairs(clusters)], [len(base)])
        groups = Grouping(groups.codes * 2, groups.count)
    else:
        base, other = checked(control, "control"), checked(treatment, "treatment")
        groups = grouping(labels_of_arms(clusters), [len(base), len(other)])
    n = len(base) + (0 if paired else len(other))
    arms = np.sort(base), np.sort(other)
    at = [float(arm[rank(len(arm), q) - 1]) for arm in arms]
    method = f"difference of p{100 * q:g}"
    if confidence.always_valid or not (paired or clusters is not None):
        if clusters is not None:
            raise InvalidRequestError("Many looks at quantiles of clustered values: not supported.")
        if confidence.always_valid:
            half = Confidence((1 + confidence.level) / 2, confidence.peeking)
            one, two = (order_bounds(arm, q, half) for arm in arms)
            bounds = Bounds(two.low - one.high, two.high - one.low)
            method += ", order statistics of each arm"
        else:
            one, two = (order_bounds(arm, q, confidence) for arm in arms)
            bounds = mover(at[0], one, at[1], two, 0.0)
            method += ", order statistics and MOVER"
        if bounds.low == bounds.high:
            why = "the values around it are equal: nothing tells how it varies"
            return cannot_tell(at[1] - at[0], why, confidence, method, n, groups.count)
        return Estimate(
            at[1] - at[0],
            *bounds,
            confidence.level,
            method,
            n,
            groups.count,
            always_valid=confidence.always_valid,
        ).with_notes(_why_open(min(map(len, arms)), q, bounds))
    fewest = min(len(np.unique(codes)) for codes in groups.codes)
    if not order_bounds(np.arange(fewest, dtype=np.float64), q, confidence).bounded:
        why = f"{fewest} {'pairs' if clusters is None else 'sessions'} are too few for p{100 * q:g}"
        return cannot_tell(at[1] - at[0], why, confidence, method, n, groups.count)
    resampled = [
        WeightedQuantile(arm, codes, q)
        for arm, codes in zip((base, other), groups.codes, strict=True)
    ]
    return bootstrap(
        lambda weights: resampled[1](weights[0]) - resampled[0](weights[0]),
        [groups.count],
        method=f"{'paired ' if paired else ''}{method}",
        n=n,
        interval="percentile",
        null=0.0,
        confidence=confidence,
        resampling=resampling,
    )


def order_bounds(ordered: Floats, q: float, confidence: Confidence) -> Bounds:
    """The interval of the quantile of independent values, which come sorted."""
    n, alpha = len(ordered), 1 - confidence.level
    if confidence.peeking is None:
        cumulated = special.bdtr(np.arange(n + 1), n, q)
        first = int((cumulated <= alpha / 2).sum())
        last = int(np.argmax(1 - cumulated <= alpha / 2)) + 1
    else:
        # The mixture is as wide as the normal one of `Confidence` that is tuned to the same units.
        size = 1 / mixture_precision(alpha, confidence.peeking)
        a, b = q * size, (1 - q) * size
        count = np.arange(n + 1)
        log_e = (
            special.betaln(a + count, b + n - count)
            - special.betaln(a, b)
            - special.xlogy(count, q)
            - special.xlogy(n - count, 1 - q)
        )
        possible = np.flatnonzero(log_e < -np.log(alpha))
        first, last = int(possible[0]), int(possible[-1]) + 1
    return Bounds(
        float(ordered[first - 1]) if first >= 1 else -math.inf,
        float(ordered[last - 1]) if last <= n else math.inf,
    )


def rank(n: int, q: float) -> int:
    """Which of `n` sorted values, from 1, is the quantile: the first with `q` of them up to it."""
    return max(1, math.ceil(n * q * (1 - 1e-12)))


def _why_open(n: int, q: float, bounds: Bounds) -> str:
    return "" if bounds.bounded else f"{n} values are too few to bound p{100 * q:g}"


def _check(q: float) -> None:
    if not 0 < q < 1:
        raise InvalidRequestError(f"q is {q}: expected one between 0 and 1 (0.95 for p95).")
