"""How sure, and for how many looks: the number of standard errors that an interval reaches.

One look at the end: the quantile of Student's t. Any number of looks: the boundary of the asymptotic
confidence sequence (Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas 2024, Annals of Statistics 52(6),
arXiv 2103.06476, theorem 2.2): with `t` units and a tuning `rho`,

    estimate ± se * sqrt((1 + 1 / (t rho^2)) * log((t rho^2 + 1) / alpha^2))

at all `t` at once. `rho` makes it narrowest at `peeking` units: `rho^2 * peeking` is
`-W(-alpha^2 / e) - 1` with the lower branch of Lambert's W. Student's t enters as in the single look:
the normal boundary is replaced by the quantile of t with the same tail, which matters for few units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from novellus_lab.errors import InvalidRequestError

WARM_UP = 50
"""Units before which an always-valid interval that stands on the central limit says nothing."""


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
        """Standard errors from the estimate to a bound; infinite while there are too few units."""
        alpha = 1 - self.level
        if self.peeking is None:
            return float(special.stdtrit(df, 1 - alpha / 2))
        if units < WARM_UP:
            return math.inf
        ratio = units * mixture_precision(alpha, self.peeking)
        z = math.sqrt((1 + 1 / ratio) * math.log((ratio + 1) / alpha**2))
        return _of_same_tail(z, df)

    def p_value(self, statistic: float, df: float, units: int) -> float:
        """Of a statistic in standard errors: at most 1 - level exactly where the interval excludes 0."""
        if self.peeking is None:
            return float(2 * special.stdtr(df, -abs(statistic)))
        if units < WARM_UP:
            return 1.0
        z = float(-special.ndtri(special.stdtr(df, -abs(statistic))))
        if not math.isfinite(z):
            return 0.0
        ratio = units * mixture_precision(1 - self.level, self.peeking)
        log_e = z * z / 2 * ratio / (1 + ratio) - math.log1p(ratio) / 2
        return min(1.0, math.exp(-log_e))

    def too_few(self, units: int) -> str:
        """Why the interval is infinite for so few units; empty where it is not."""
        if self.peeking is None or units >= WARM_UP:
            return ""
        return f"{units} units so far: an interval that may be looked at starts at {WARM_UP}"


ONE_LOOK = Confidence()
"""95%, looked at once."""


def mixture_precision(alpha: float, units: float) -> float:
    """`rho^2`: the variance of the mixing normal that makes the boundary narrowest at `units`."""
    return float((-special.lambertw(-(alpha**2) * np.exp(-1.0), k=-1).real - 1) / units)


def _of_same_tail(z: float, df: float) -> float:
    if math.isinf(df):
        return z
    return float(-special.stdtrit(df, special.ndtr(-z)))
