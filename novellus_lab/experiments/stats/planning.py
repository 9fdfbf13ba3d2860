"""How many calls and dollars a comparison needs, and what a given number can find.

All by the normal approximation with its usual formulas (Chow, Shao, Wang & Lokhnygina, Sample Size
Calculations in Clinical Research, 3 and 4), `z` for the level (two-sided) and for the power:

    two arms      n = (z + z')^2 (s_c^2 + s_t^2 / ratio) / effect^2        ratio = n_treatment / n_control
    pairs         n = (z + z')^2 (s_c^2 + s_t^2 - 2 r s_c s_t) / effect^2
    equivalence   both one-sided tests (TOST): z one-sided, z' of (1 + power) / 2 at no difference

Sessions of `m` calls with correlation `rho` within count as fewer: times 1 + (m - 1) rho (Kish 1965). An
interval that may be looked at any time reaches further: at the number it is tuned to, its boundary
takes the place of `z`. That plan is for a run that goes on to the end; most stop earlier.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scipy import special

from novellus_lab.errors import InvalidRequestError
from novellus_lab.experiments.stats.confidence import WARM_UP, Confidence

if TYPE_CHECKING:
    from decimal import Decimal


@dataclass(frozen=True, slots=True)
class Design:
    """How arms will be compared.

    Args:
        level: of confidence; `simultaneous_level` gives it for several comparisons.
        power: how often the effect is found if it is there.
        paired: both arms answer the same prompts.
        correlation: of a pair's two values; from a pilot, or 0 for the safe side.
        ratio: treatment calls for each control call, where they are not paired.
        peeking: whether the run may be looked at, and stopped, at any time.
        calls_per_session: mean size of sessions, if calls come in such.
        within_session: correlation of two calls of one session.
    """

    level: float = 0.95
    power: float = 0.8
    paired: bool = True
    correlation: float = 0.0
    ratio: float = 1.0
    peeking: bool = False
    calls_per_session: float = 1.0
    within_session: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.level < 1 or not 0 < self.power < 1:
            raise InvalidRequestError(
                f"level {self.level}, power {self.power}: expected both between 0 and 1."
            )
        if not -1 <= self.correlation < 1 or not 0 <= self.within_session <= 1:
            raise InvalidRequestError(
                f"correlation {self.correlation}: expected from -1 to below 1; within_session "
                f"{self.within_session}: from 0 to 1."
            )
        if not 0 < self.ratio < math.inf or not 1 <= self.calls_per_session < math.inf:
            raise InvalidRequestError(
                f"ratio {self.ratio}, calls_per_session {self.calls_per_session}: expected above 0, "
                "and at least 1."
            )
        if self.paired and self.ratio != 1:
            raise InvalidRequestError("Pairs have as many calls in both arms: leave out ratio.")

    @property
    def session_factor(self) -> float:
        """How many times more calls are needed because they come in sessions."""
        return 1 + (self.calls_per_session - 1) * self.within_session

    @property
    def peeking_factor(self) -> float:
        """How many times more calls are needed, at most, because peeking is allowed."""
        alone = _z((1 + self.level) / 2) + _z(self.power)
        return (self._reach + _z(self.power)) ** 2 / alone**2

    @property
    def _reach(self) -> float:
        if not self.peeking:
            return _z((1 + self.level) / 2)
        # Tuned to the number it ends at, the boundary there doesn't depend on that number.
        return Confidence(self.level, peeking=1_000).critical(math.inf, 1_000)

    def _variance(self, control_sd: float, treatment_sd: float) -> float:
        """Of the difference, times the control's number of calls."""
        if self.paired:
            shared = 2 * self.correlation * control_sd * treatment_sd
            return max(0.0, control_sd**2 + treatment_sd**2 - shared) * self.session_factor
        return (control_sd**2 + treatment_sd**2 / self.ratio) * self.session_factor


@dataclass(frozen=True, slots=True)
class Plan:
    """What it takes. Calls that fail come on top."""

    control_calls: int
    treatment_calls: int
    effect: float
    """What is found with the design's power, in the metric's unit."""
    design: Design
    cost_usd: Decimal | None
    """Of all calls; None where the cost of a call was not given."""
    peeking: int | None
    """For `Confidence(peeking=...)`: independent units at the planned end; None for one look."""

    @property
    def calls(self) -> int:
        """Of both arms."""
        return self.control_calls + self.treatment_calls


def plan_mean(
    effect: float,
    sd: float,
    *,
    treatment_sd: float | None = None,
    design: Design | None = None,
    control_cost_usd: Decimal | None = None,
    treatment_cost_usd: Decimal | None = None,
) -> Plan:
    """Return what a difference of means needs.

    Args:
        effect: the smallest difference that is worth finding, in the metric's unit.
        sd: standard deviation of one call's value, in the control; the treatment's by default too.
        control_cost_usd, treatment_cost_usd: of one call.

    Raises:
        InvalidRequestError: no effect, no spread, or numbers that are none.
    """
    design = design or Design()
    other = sd if treatment_sd is None else treatment_sd
    _check(effect, sd, other)
    needed = design._reach + _z(design.power)
    n = needed**2 * design._variance(sd, other) / effect**2
    return _plan(n, abs(effect), design, control_cost_usd, treatment_cost_usd)


def plan_rates(
    control: float,
    treatment: float,
    *,
    design: Design | None = None,
    control_cost_usd: Decimal | None = None,
    treatment_cost_usd: Decimal | None = None,
) -> Plan:
    """Return what it needs to tell two rates apart, such as 0.80 and 0.85 right answers.

    Raises:
        InvalidRequestError: rates that are equal or not between 0 and 1, or a correlation that such
            rates can't have.
    """
    design = design or Design()
    if not (0 <= control <= 1 and 0 <= treatment <= 1) or control == treatment:
        raise InvalidRequestError(
            f"rates {control} and {treatment}: expected two different ones between 0 and 1."
        )
    sds = [math.sqrt(rate * (1 - rate)) for rate in (control, treatment)]
    both = control * treatment + design.correlation * sds[0] * sds[1]
    if design.paired and not (
        max(0.0, control + treatment - 1) - 1e-9 <= both <= min(control, treatment) + 1e-9
    ):
        raise InvalidRequestError(
            f"Pairs with rates {control} and {treatment} can't have a correlation of "
            f"{design.correlation}."
        )
    effect = treatment - control
    # The variance of a difference of rates at the alternative; see Chow et al., 4.2.
    needed = design._reach + _z(design.power)
    variance = design._variance(*sds)
    if design.paired:
        variance = max(variance, abs(effect) * (1 - abs(effect)) * design.session_factor)
    n = needed**2 * variance / effect**2
    return _plan(n, abs(effect), design, control_cost_usd, treatment_cost_usd)


def plan_equivalence(
    margin: float,
    sd: float,
    *,
    one_sided: bool = False,
    design: Design | None = None,
    control_cost_usd: Decimal | None = None,
    treatment_cost_usd: Decimal | None = None,
) -> Plan:
    """Return what it needs to show that arms that are equal differ by less than the margin.

    Args:
        margin: the largest difference that does not matter, in the metric's unit.
        one_sided: only that the treatment is not worse by the margin (non-inferiority).

    Raises:
        InvalidRequestError: as `plan_mean`.
    """
    design = design or Design()
    _check(margin, sd, sd)
    reach = design._reach
    power = design.power if one_sided else (1 + design.power) / 2
    n = (reach + _z(power)) ** 2 * design._variance(sd, sd) / margin**2
    return _plan(n, abs(margin), design, control_cost_usd, treatment_cost_usd)


def detectable_effect(
    control_calls: int,
    sd: float,
    *,
    treatment_sd: float | None = None,
    design: Design | None = None,
) -> float:
    """Return the smallest difference of means that so many calls find with the design's power.

    Raises:
        InvalidRequestError: fewer than two calls, or no spread.
    """
    design = design or Design()
    other = sd if treatment_sd is None else treatment_sd
    _check(1.0, sd, other)
    if control_calls < 2:
        raise InvalidRequestError(f"{control_calls} calls: expected at least 2 in the control.")
    needed = design._reach + _z(design.power)
    return needed * math.sqrt(design._variance(sd, other) / control_calls)


def power_of_mean(
    effect: float,
    control_calls: int,
    sd: float,
    *,
    treatment_sd: float | None = None,
    design: Design | None = None,
) -> float:
    """Return how often so many calls find the effect. The design's own power is not looked at.

    Raises:
        InvalidRequestError: as `detectable_effect`.
    """
    design = design or Design()
    other = sd if treatment_sd is None else treatment_sd
    _check(effect, sd, other)
    if control_calls < 2:
        raise InvalidRequestError(f"{control_calls} calls: expected at least 2 in the control.")
    error = math.sqrt(design._variance(sd, other) / control_calls)
    at = abs(effect) / error
    return float(special.ndtr(at - design._reach) + special.ndtr(-at - design._reach))


def _plan(
    n: float,
    effect: float,
    design: Design,
    control_cost_usd: Decimal | None,
    treatment_cost_usd: Decimal | None,
) -> Plan:
    least = 2 * design.calls_per_session
    if design.peeking:
        least = WARM_UP * design.calls_per_session / (1 if design.paired else 1 + design.ratio)
    # A hair less, so that 500.0000001 calls of floating point are 500.
    control = math.ceil(max(n, least) * (1 - 1e-9))
    treatment = control if design.paired else math.ceil(control * design.ratio * (1 - 1e-9))
    cost = None
    if control_cost_usd is not None and treatment_cost_usd is not None:
        cost = control * control_cost_usd + treatment * treatment_cost_usd
    units = (control if design.paired else control + treatment) / design.calls_per_session
    return Plan(
        control, treatment, effect, design, cost, math.ceil(units) if design.peeking else None
    )


def _z(level: float) -> float:
    return float(special.ndtri(level))


def _check(effect: float, *sds: float) -> None:
    if not math.isfinite(effect) or effect == 0:
        raise InvalidRequestError(
            f"effect is {effect}: expected the smallest difference that is worth finding."
        )
    if not all(math.isfinite(sd) and sd > 0 for sd in sds):
        raise InvalidRequestError(
            f"sd is {', '.join(map(str, sds))}: expected a standard deviation above 0, from a pilot or "
            "the log."
        )
