"""What an estimator says: a number, an interval that holds no NaN, and what to know about it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from novellus_lab.experiments.stats.confidence import Confidence

_BOUNDS = "an interval's bounds are numbers with low <= high, or infinite"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and the interval that holds the true one at `level`.

    Where the data can't say, the interval says so: a bound is infinite, and `notes` tell why.
    `value` is None where there is not even a best guess (nothing to divide by).
    """

    value: float | None
    low: float
    high: float
    level: float
    """Of confidence: 0.95 is 95%."""
    method: str
    n: int
    """Observations behind it, of both arms where there are two."""
    units: int
    """How many of them are independent: pairs, sessions, or the observations themselves."""
    standard_error: float | None = None
    df: float | None = None
    """Degrees of freedom of the standard error."""
    p_value: float | None = None
    """Of no effect; None where there is none to ask about. Always-valid where the interval is."""
    always_valid: bool = False
    """Whether the interval holds however often it is looked at while data come in."""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.low <= self.high or (self.value is not None and not math.isfinite(self.value)):
            raise ArithmeticError(
                f"{self.method}: {self.value} [{self.low}, {self.high}]: {_BOUNDS}"
            )

    @property
    def bounded(self) -> bool:
        """Whether both bounds are finite."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def excludes(self, number: float) -> bool:
        """Whether the number is outside of the interval."""
        return not self.low <= number <= self.high

    def with_notes(self, *notes: str) -> Estimate:
        """The same with more notes; empty ones are left out."""
        return replace(self, notes=(*self.notes, *(note for note in notes if note)))


def cannot_tell(
    value: float | None, why: str, confidence: Confidence, method: str, n: int, units: int
) -> Estimate:
    """An estimate whose interval is the whole line, with the reason."""
    return Estimate(
        value,
        -math.inf,
        math.inf,
        confidence.level,
        method,
        n,
        units,
        always_valid=confidence.always_valid,
        notes=(why,),
    )
