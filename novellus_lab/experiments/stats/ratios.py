"""Ratio metrics: a sum over a sum, such as the cost of a good answer or tokens a second.

A ratio is of sums, not the mean of ratios. One arm: Fieller's interval of the two means, clustered as
in moments.py. It has no bound where the denominator can't be told from 0: with three good answers
nobody knows what one costs. Two arms: MOVER (Zou & Donner 2008) from the two Fieller intervals, in
units; in percent the same of the logarithms (Donner & Zou 2012, Statistical Methods in Medical
Research 21). `standard_error` is the delta method's, with which Deng, Knoblich & Lu (2018, KDD,
arXiv 1803.06336) treat such metrics; for many units the intervals agree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from novellus_lab.errors import InvalidRequestError
from novellus_lab.experiments.stats.confidence import ONE_LOOK, Confidence
from novellus_lab.experiments.stats.estimate import Estimate, cannot_tell
from novellus_lab.experiments.stats.intervals import (
    Bounds,
    fieller,
    mover,
    reach_to_zero,
    two_sided,
)
from novellus_lab.experiments.stats.moments import Moments, moments
from novellus_lab.experiments.stats.samples import (
    Clusters,
    Floats,
    Grouping,
    checked_alike,
    grouping,
    spread_is_none,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike

_NO_DENOMINATOR = "the denominator can't be told from 0: the ratio has no bound"


@dataclass(frozen=True, slots=True)
class RatioSample:
    """One arm: what is summed above and below, an entry an observation.

    Args:
        numerator: such as the cost of each call.
        denominator: such as 1 where its answer was good, else 0. Not negative.
        clusters: a label an observation; None: each is its own. In paired arms the label belongs to
            the pair, and the treatment's are not asked for.
    """

    numerator: ArrayLike
    denominator: ArrayLike
    clusters: Clusters | None = None


def ratio(sample: RatioSample, *, confidence: Confidence = ONE_LOOK) -> Estimate:
    """Sum of the numerators over sum of the denominators, with Fieller's interval.

    Raises:
        InvalidRequestError: no observations, lengths that differ, NaN, negative denominators.
    """
    x, y = _checked(sample, "")
    groups = grouping([sample.clusters], [len(x)])
    method = "ratio of sums, Fieller"
    arm = _arm(x, y, groups)
    if isinstance(arm, str):
        return cannot_tell(_value(x, y), arm, confidence, method, len(x), groups.count)
    bounds = two_sided(arm.bounds, confidence.reach(arm.df, groups.count, arm.skewness))
    return Estimate(
        arm.value,
        *bounds,
        confidence.level,
        method,
        len(x),
        groups.count,
        standard_error=arm.standard_error,
        df=arm.df,
        always_valid=confidence.always_valid,
    ).with_notes(
        confidence.too_early(groups.count, arm.skewness)
        or ("" if bounds.bounded else _NO_DENOMINATOR)
    )


def ratio_difference(
    control: RatioSample,
    treatment: RatioSample,
    *,
    paired: bool = False,
    confidence: Confidence = ONE_LOOK,
) -> Estimate:
    """The treatment's ratio minus the control's, in units of the ratio.

    Raises:
        InvalidRequestError: as `ratio`, or pairs that don't match.
    """

    def bounds(one: _Arm, other: _Arm, correlation: float, critical: float) -> Bounds:
        return mover(
            one.value, one.bounds(critical), other.value, other.bounds(critical), correlation
        )

    def value(one: float, other: float) -> float:
        return other - one

    return _compare(control, treatment, paired, confidence, "difference of ratios", bounds, value)


def relative_ratio_difference(
    control: RatioSample,
    treatment: RatioSample,
    *,
    paired: bool = False,
    confidence: Confidence = ONE_LOOK,
) -> Estimate:
    """The treatment's ratio over the control's, minus 1: -0.2 is 20% less.

    Raises:
        InvalidRequestError: as `ratio_difference`.
    """

    def bounds(one: _Arm, other: _Arm, correlation: float, critical: float) -> Bounds:
        logs = [
            Bounds(*(math.log(end) if end > 0 else -math.inf for end in arm.bounds(critical)))
            for arm in (one, other)
        ]
        low, high = mover(math.log(one.value), logs[0], math.log(other.value), logs[1], correlation)
        return Bounds(math.expm1(low), math.expm1(high) if high < 700 else math.inf)

    def value(one: float, other: float) -> float | None:
        return other / one - 1 if one > 0 and other > 0 else None

    return _compare(
        control, treatment, paired, confidence, "relative difference of ratios", bounds, value
    )


@dataclass(frozen=True, slots=True)
class _Arm:
    """A ratio, the moments of numerator, denominator and error, and each observation's error."""

    value: float
    parts: Moments
    error: Floats
    df: float
    standard_error: float
    skewness: float

    def bounds(self, critical: float) -> Bounds:
        low, high = fieller(
            self.parts.means[0], self.parts.means[1], self.parts.covariance, critical
        )
        return Bounds(min(low, self.value), max(high, self.value))


def _arm(x: Floats, y: Floats, groups: Grouping) -> _Arm | str:
    if not y.any():
        return "all denominators are 0: the ratio has no value"
    value = float(x.sum() / y.sum())
    error = (x - value * y) / float(y.mean())
    parts = moments([x, y, error], Grouping(groups.codes * 3, groups.count))
    if isinstance(parts, str):
        return parts
    scale = float(np.abs(x).max() / y.mean())
    if spread_is_none(error, scale):
        return "all observations have the same ratio: nothing tells how it varies"
    own = [0.0, 0.0, 1.0]
    return _Arm(
        value,
        parts,
        error,
        parts.df(own),
        math.sqrt(parts.variance(own)),
        parts.skewness(own),
    )


def _compare(
    control: RatioSample,
    treatment: RatioSample,
    paired: bool,
    confidence: Confidence,
    method: str,
    bounds: Callable[[_Arm, _Arm, float, float], Bounds],
    difference: Callable[[float, float], float | None],
) -> Estimate:
    method = f"{'paired ' if paired else ''}{method}, Fieller and MOVER"
    x, y = _checked(control, "control's ")
    v, w = _checked(treatment, "treatment's ")
    if paired:
        checked_alike(control=x, treatment=v)
        groups = grouping([control.clusters], [len(x)])
        groups = Grouping((*groups.codes, *groups.codes), groups.count)
    else:
        groups = grouping([control.clusters, treatment.clusters], [len(x), len(v)])
    n, units = len(x) + (0 if paired else len(v)), groups.count
    one, other = (
        _arm(above, below, Grouping((codes,), units))
        for above, below, codes in ((x, y, groups.codes[0]), (v, w, groups.codes[1]))
    )
    if isinstance(one, str) or isinstance(other, str):
        why = f"control: {one}" if isinstance(one, str) else f"treatment: {other}"
        values = [_value(x, y), _value(v, w)]
        value = None if None in values else difference(*values)  # type: ignore[arg-type]
        return cannot_tell(value, why, confidence, method, n, units)
    value = difference(one.value, other.value)
    if value is None:
        why = "a ratio is not above 0: nothing to take a percentage of"
        return cannot_tell(None, why, confidence, method, n, units)
    joint = moments([one.error, other.error], groups)
    if isinstance(joint, str):
        return cannot_tell(value, joint, confidence, method, n, units)
    spread = math.sqrt(joint.covariance[0, 0] * joint.covariance[1, 1])
    correlation = float(np.clip(joint.covariance[0, 1] / spread, -1, 1)) if spread else 0.0
    df = joint.df([-1.0, 1.0])

    def at(critical: float) -> Bounds:
        return bounds(one, other, correlation, critical)

    skewness = joint.skewness([-1.0, 1.0])
    low, high = two_sided(at, confidence.reach(df, units, skewness))
    if low == high:
        why = "the arms' errors cancel out: nothing tells how their difference varies"
        return cannot_tell(value, why, confidence, method, n, units)
    statistic = math.copysign(reach_to_zero(at), value)
    return Estimate(
        value,
        min(low, value),
        max(high, value),
        confidence.level,
        method,
        n,
        units,
        df=df,
        p_value=confidence.p_value(statistic, df, units, skewness),
        always_valid=confidence.always_valid,
    ).with_notes(
        confidence.too_early(units, skewness)
        or ("" if math.isfinite(low) and math.isfinite(high) else _NO_DENOMINATOR)
    )


def _checked(sample: RatioSample, whose: str) -> tuple[Floats, Floats]:
    x, y = checked_alike(
        **{f"{whose}numerator": sample.numerator, f"{whose}denominator": sample.denominator}
    )
    if (y < 0).any():
        where = int(np.flatnonzero(y < 0)[0])
        raise InvalidRequestError(f"{whose}denominator[{where}] is {y[where]:g}: below 0.")
    return x, y


def _value(x: Floats, y: Floats) -> float | None:
    return float(x.sum() / y.sum()) if y.any() else None
