"""How many calls and dollars an answer takes, before the first is asked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from novellus_lab.display import findings_html, money
from novellus_lab.errors import InvalidRequestError
from novellus_lab.experiments.stats.multiple import simultaneous_level
from novellus_lab.experiments.stats.planning import Design as Power
from novellus_lab.experiments.stats.planning import plan_equivalence, plan_mean
from novellus_lab.experiments.wording import value_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from decimal import Decimal

    from novellus_lab.experiments.metrics import Metric


@dataclass(frozen=True, slots=True)
class Pilot:
    """What is known of a metric beforehand, from a comparison or from the log."""

    mean: float
    sd: float
    """Of one call's value."""
    treatment_sd: float | None = None
    correlation: float = 0.0
    """Of the two values of a pair; 0 for the safe side."""
    cost_usd: Decimal | None = None
    """Of one call, in the control."""
    treatment_cost_usd: Decimal | None = None
    source: str = ""
    n: int = 0


@dataclass(frozen=True, slots=True)
class ExperimentPlan:
    """What a comparison takes. Shows itself as sentences."""

    metric: Metric
    effect: float
    """The smallest difference that is to be found, in the metric's unit."""
    items: int
    """Each asked in every arm."""
    arms: int
    cost_usd: Decimal | None
    """Of all calls; None where no cost of a call is known."""
    level: float
    power: float
    sequential: bool
    equivalence: bool
    pilot: Pilot

    @property
    def calls(self) -> int:
        """In all arms."""
        return self.items * self.arms

    @property
    def sentence(self) -> str:
        """What it takes, in words."""
        aim = (
            "to show that arms differ by less than"
            if self.equivalence
            else "to find a difference of"
        )
        size = value_text(self.effect, self.metric, signed=True).lstrip("+")
        spent = (
            "at an unknown cost" if self.cost_usd is None else f"for about {money(self.cost_usd)}"
        )
        return (
            f"{self.items:,} items in {self.arms} arms, {self.calls:,} calls {spent}, {aim} {size} in "
            f"{self.metric.title[0].lower()}{self.metric.title[1:]} with a power of {self.power:.0%} at "
            f"{self.level:.0%} confidence."
            + (" Stopping early is allowed: most runs end sooner." if self.sequential else "")
        )

    def __repr__(self) -> str:
        return f"<ExperimentPlan: {self.sentence}>"

    def _repr_html_(self) -> str:
        return findings_html((self.sentence,), (), (f"from {self.pilot.source}",))


def planned(
    metric: Metric,
    effect: float | str,
    pilot: Pilot,
    *,
    arms: int,
    level: float,
    power: float,
    sequential: bool,
    equivalence: bool,
    group_size: float,
    group_correlation: float,
) -> ExperimentPlan:
    """Return what a paired comparison of `arms` arms takes.

    Args:
        effect: in the metric's unit, or `"5%"` of the pilot's mean.
        equivalence: show that arms differ by less than `effect`, instead of finding it.
        group_size, group_correlation: of items that belong together.

    Raises:
        InvalidRequestError: no effect, no spread in the pilot, or numbers that are none.
    """
    if isinstance(arms, bool) or not isinstance(arms, int) or arms < 2:
        raise InvalidRequestError(f"arms must be a whole number of at least 2, not {arms!r:.80}")
    size = _size(effect, pilot.mean)
    design = Power(
        level=simultaneous_level(level, arms - 1),
        power=power,
        correlation=pilot.correlation,
        peeking=sequential,
        calls_per_session=group_size,
        within_session=group_correlation,
    )
    make = plan_equivalence if equivalence else plan_mean
    if equivalence:
        spread = math.sqrt((pilot.sd**2 + (pilot.treatment_sd or pilot.sd) ** 2) / 2)
        found = make(size, spread, design=design)
    else:
        found = plan_mean(size, pilot.sd, treatment_sd=pilot.treatment_sd, design=design)
    items = found.control_calls
    each = None
    if pilot.cost_usd is not None:
        other = pilot.cost_usd if pilot.treatment_cost_usd is None else pilot.treatment_cost_usd
        each = pilot.cost_usd + other * (arms - 1)
    return ExperimentPlan(
        metric,
        size,
        items,
        arms,
        None if each is None else each * items,
        level,
        power,
        sequential,
        equivalence,
        pilot,
    )


def pilot_of(
    control: Sequence[float],
    treatment: Sequence[float] | None,
    *,
    cost_usd: Decimal | None,
    treatment_cost_usd: Decimal | None,
    source: str,
) -> Pilot:
    """Return what values of an earlier run say: spread, and how pairs hang together.

    Raises:
        InvalidRequestError: fewer than 10 values: no spread can be told from them.
    """
    if len(control) < 10:
        raise InvalidRequestError(
            f"{source} has {len(control)} values of this metric: at least 10 are needed to plan by. Give "
            f"sd= instead"
        )
    import numpy as np

    one = np.asarray(control, dtype=np.float64)
    if treatment is None:
        return Pilot(
            float(one.mean()), float(one.std(ddof=1)), None, 0.0, cost_usd, None, source, len(one)
        )
    two = np.asarray(treatment, dtype=np.float64)
    flat = one.std() == 0 or two.std() == 0
    correlation = 0.0 if flat else float(np.clip(np.corrcoef(one, two)[0, 1], -0.99, 0.99))
    return Pilot(
        float(one.mean()),
        float(one.std(ddof=1)),
        float(two.std(ddof=1)),
        correlation,
        cost_usd,
        treatment_cost_usd,
        source,
        len(one),
    )


def _size(effect: float | str, mean: float) -> float:
    relative = isinstance(effect, str) and effect.strip().endswith("%")
    try:
        size = float(str(effect).strip().rstrip("%"))
    except ValueError:
        size = math.nan
    size = size / 100 * abs(mean) if relative else size
    if isinstance(effect, bool) or not math.isfinite(size) or size == 0:
        raise InvalidRequestError(
            f"effect must be a difference in the metric's unit (0.02), or '5%' of what it is now, not "
            f"{effect!r:.80}"
        )
    return abs(size)
