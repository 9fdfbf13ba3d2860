"""How sure, and for how many looks: the number of standard errors that an interval reaches.

One look at the end: the quantile of Student's t. Any number of looks: the boundary of the asymptotic
confidence sequence (Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas 2024, Annals of Statistics 52(6),
arXiv 2103.06476, theorem 2.2): with `t` units and a tuning `rho`,

    estimate ± se * sqrt((1 + 1 / (t rho^2)) * log((t rho^2 + 1) / alpha^2))

at all `t` at once. `rho` makes it narrowest at `peeking` units: `rho^2 * peeking` is
`-W(-alpha^2 / e) - 1` with the lower branch of Lambert's W. Student's t enters as in the single look:
the normal boundary is replaced by the quantile of t with the same tail, which matters for few units.

The theorem is one for many units, and peeking finds every early weakness: of skewed values (costs, rare
errors) whose estimate has skewness `g`, the plain boundary was left by up to 35% of runs at 5%. So with
many looks the boundary holds for the statistic T and for Hall's (1992, JRSS B 54, 221-228), which takes
the skewness out: on each side the interval reaches as far as the wider of the two.

    T + g T^2 / 3 + g^2 T^3 / 27 + g / 6

And nothing is said before 50 units, and while |g| is above 0.25. All this vanishes as data come in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import special

from novellus_lab.errors import InvalidRequestError

WARM_UP = 50
"""Units before which an always-valid interval that stands on the central limit says nothing."""
SKEWNESS = 0.25
"""Of the estimate, above which it says nothing."""


class Reach(NamedTuple):
    """Standard errors from the estimate down to the lower bound, and up to the upper."""

    down: float
    up: float


@dataclass(frozen=True, slots=True)
class Confidence:
    """The level of an interval, and whether it is for one look or for many.

    Args:
        level: how often the interval holds the true value, 0.95 for 95%.
        peeking: None: it is looked at once, when all data are in. A number: it may be looked at as
            often as you like and the run stopped by what it shows; it is narrowest after about this
            many units (pairs, sessions or calls; of both arms together where they aren't paired).

    Raises:
        InvalidRequestError: level not between 0 and 1, or peeking below 1.
    """

    level: float = 0.95
    peeking: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise InvalidRequestError(
                f"level is {self.level}: expected one between 0 and 1 (0.95)."
            )
        if self.peeking is not None and not self.peeking >= 1:
            raise InvalidRequestError(
                f"peeking is {self.peeking}: expected the number of units at which the interval "
                "should be narrowest, or None for a single look."
            )

    @property
    def always_valid(self) -> bool:
        """Whether many looks are allowed."""
        return self.peeking is not None

    def critical(self, df: float, units: int) -> float:
        """Standard errors from the estimate to either bound, before any correction for skewness."""
        alpha = 1 - self.level
        if self.peeking is None:
            return float(special.stdtrit(df, 1 - alpha / 2))
        ratio = units * mixture_precision(alpha, self.peeking)
        z = math.sqrt((1 + 1 / ratio) * math.log((ratio + 1) / alpha**2))
        return _of_same_tail(z, df)

    def reach(self, df: float, units: int, skewness: float) -> Reach:
        """How far the interval goes; infinitely while there is too little to say anything.

        Args:
            df: degrees of freedom of the standard error.
            units: independent ones, of both arms.
            skewness: of the estimate (`Moments.skewness`), which goes to 0 with many units.
        """
        critical = self.critical(df, units)
        if self.peeking is None:
            return Reach(critical, critical)
        if self.too_early(units, skewness):
            return Reach(math.inf, math.inf)
        return Reach(
            max(critical, _unskewed(critical, skewness)),
            max(critical, -_unskewed(-critical, skewness)),
        )

    def p_value(self, statistic: float, df: float, units: int, skewness: float = 0.0) -> float:
        """Of a statistic in standard errors: below 1 - level exactly where the interval excludes 0."""
        if self.peeking is None:
            return float(2 * special.stdtr(df, -abs(statistic)))
        if self.too_early(units, skewness):
            return 1.0
        hall = statistic + skewness * statistic**2 / 3 + skewness**2 * statistic**3 / 27
        reached = min(abs(statistic), abs(hall + skewness / 6))
        z = float(-special.ndtri(special.stdtr(df, -reached)))
        if not math.isfinite(z):
            return 0.0
        ratio = units * mixture_precision(1 - self.level, self.peeking)
        log_e = z * z / 2 * ratio / (1 + ratio) - math.log1p(ratio) / 2
        return min(1.0, math.exp(-log_e))

    def too_early(self, units: int, skewness: float) -> str:
        """Why an interval for many looks says nothing yet; empty where it does."""
        if self.peeking is None:
            return ""
        if units < WARM_UP:
            return f"{units} units so far: an interval that may be looked at starts at {WARM_UP}"
        if abs(skewness) > SKEWNESS:
            return "still too skewed to be looked at: a few large values decide; more will tell"
        return ""


ONE_LOOK = Confidence()
"""95%, looked at once."""


def mixture_precision(alpha: float, units: float) -> float:
    """`rho^2`: the variance of the mixing normal that makes the boundary narrowest at `units`."""
    return float((-special.lambertw(-(alpha**2) * np.exp(-1.0), k=-1).real - 1) / units)


def _unskewed(boundary: float, skewness: float) -> float:
    """The statistic whose Hall transform is at the boundary."""
    if abs(skewness) < 1e-6:
        return boundary
    return float(3 / skewness * (np.cbrt(1 + skewness * (boundary - skewness / 6)) - 1))


def _of_same_tail(z: float, df: float) -> float:
    if math.isinf(df):
        return z
    return float(-special.stdtrit(df, special.ndtr(-z)))
