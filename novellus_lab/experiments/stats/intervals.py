"""Fieller's interval of a ratio of two means (1954, JRSS B 16, 175-185), and Zou & Donner's of two.

MOVER ("method of variance estimates recovery", Zou & Donner 2008, Statistics in Medicine 27) makes an
interval of a difference from the two intervals of what is subtracted, each of them good on its own and
asymmetric where it must be:

    low = d - sqrt((t - t_low)^2 - 2 r (t - t_low)(c_high - c) + (c_high - c)^2)

and mirrored for the other side, with `r` the correlation of the two estimates. With Wilson's intervals
it is Newcombe's method 10.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from novellus_lab.experiments.stats.confidence import Reach
    from novellus_lab.experiments.stats.samples import Floats


class Bounds(NamedTuple):
    """Of an interval; either may be infinite."""

    low: float
    high: float

    @property
    def bounded(self) -> bool:
        """Whether both are finite."""
        return math.isfinite(self.low) and math.isfinite(self.high)


EVERYTHING = Bounds(-math.inf, math.inf)


def fieller(above: float, below: float, covariance: Floats, critical: float) -> Bounds:
    """All ratios that the t-test does not reject.

    Args:
        above, below: the means of numerator and denominator.
        covariance: of the two means, in this order.
        critical: standard errors that the interval reaches.

    Returns:
        The whole line where the denominator can't be told from 0 at this critical value. Fieller's
        set is then the line or two rays, and what holds both rays is the line.
    """
    if math.isinf(critical):
        return EVERYTHING
    square = critical**2
    a = float(below**2 - square * covariance[1][1])
    if a <= 0:
        return EVERYTHING
    b = above * below - square * float(covariance[0][1])
    c = above**2 - square * float(covariance[0][0])
    half = math.sqrt(max(0.0, b * b - a * c))
    return Bounds(float(b - half) / a, float(b + half) / a)


def mover(
    control: float, of_control: Bounds, treatment: float, of_treatment: Bounds, correlation: float
) -> Bounds:
    """An interval of `treatment - control` from an interval of each."""
    if not (of_control.bounded and of_treatment.bounded):
        low = of_treatment.low - of_control.high
        high = of_treatment.high - of_control.low
        return Bounds(low, high)
    value = treatment - control
    down, up = treatment - of_treatment.low, of_control.high - control
    low = value - _combined(down, up, correlation)
    down, up = of_treatment.high - treatment, control - of_control.low
    return Bounds(low, value + _combined(down, up, correlation))


def two_sided(bounds: Callable[[float], Bounds], reach: Reach) -> Bounds:
    """The interval that reaches so far down and so far up, of one that reaches alike both ways."""
    return Bounds(bounds(reach.down).low, bounds(reach.up).high)


def reach_to_zero(bounds: Callable[[float], Bounds]) -> float:
    """The critical value at which an interval that grows with it just reaches 0; 40 at most.

    What `Confidence.p_value` makes of it is small exactly where the interval excludes 0.
    """
    outside, inside = 0.0, 40.0
    if not _holds_zero(bounds(inside)):
        return inside
    for _ in range(45):  # to 1e-12
        middle = (inside + outside) / 2
        if _holds_zero(bounds(middle)):
            inside = middle
        else:
            outside = middle
    return inside


def _holds_zero(bounds: Bounds) -> bool:
    return bounds.low <= 0 <= bounds.high


def _combined(one: float, other: float, correlation: float) -> float:
    return math.sqrt(max(0.0, one * one - 2 * correlation * one * other + other * other))
