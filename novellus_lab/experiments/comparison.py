"""What a comparison says: effects with intervals, a verdict in words, the raw pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

from novellus_lab.display import findings_html, money
from novellus_lab.errors import InvalidRequestError, did_you_mean
from novellus_lab.experiments.effects import Effect, effect
from novellus_lab.experiments.observation import frame_of, total_usd
from novellus_lab.experiments.stats.checks import effect_trend
from novellus_lab.experiments.stats.confidence import WARM_UP
from novellus_lab.experiments.stats.multiple import simultaneous_level
from novellus_lab.experiments.stats.verdict import should_stop
from novellus_lab.experiments.wording import interval_text, said, value_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from decimal import Decimal

    import polars as pl

    from novellus_lab.experiments.design import Design
    from novellus_lab.experiments.observation import Observation
    from novellus_lab.experiments.trial import Outcome


_SHORT_NAMES = 24
"""Of two arms: shown at the head of columns."""


class Ending(StrEnum):
    """Why no more items were asked."""

    RUNNING = "running"
    WHOLE = "all items were asked"
    DECIDED = "decided before all items were asked"
    OUT_OF_MONEY = "the money was spent"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Comparison:
    """Arms on the same items: what each did, what it differs by from the control, and how sure.

    Intervals of the deciding metric hold together, over all arms, at `design.level`; so do those of
    all other metrics among themselves (Bonferroni). Only items that were asked in every arm count.
    """

    design: Design
    ending: Ending
    observations: tuple[tuple[Observation, ...], ...]
    """One tuple an item, in the order of the arms: those items that were asked in every arm."""
    effects: tuple[Effect, ...]
    """Of every metric and arm but the control, the deciding metric first."""
    unfinished: int = 0
    """Items that were begun, and not asked in every arm."""
    notes: tuple[str, ...] = field(default=())

    @classmethod
    def of(cls, design: Design, outcomes: Sequence[Outcome], ending: Ending) -> Self:
        """Work out what outcomes say."""
        whole = sorted((o for o in outcomes if o.whole), key=lambda o: o.number)
        observations = tuple(outcome.observations for outcome in whole)
        effects = tuple(effects_of(design, observations)) if observations else ()
        return cls(
            design,
            ending,
            observations,
            effects,
            len(outcomes) - len(whole),
            (*_notes(design, whole), *_trends(design, observations)),
        )

    # --- to read -----------------------------------------------------------------------------

    @property
    def n(self) -> int:
        """Items that were asked in every arm."""
        return len(self.observations)

    @property
    def decided(self) -> bool:
        """Whether the deciding metric's interval excludes no difference, for all arms."""
        found = [e for e in self.effects if e.decides]
        return bool(found) and all(e.direction is not None for e in found)

    def effect(self, arm: str | None = None, metric: str | None = None) -> Effect:
        """Return one effect: by default the first arm's, of the deciding metric.

        Raises:
            InvalidRequestError: there is none of this arm and metric.
        """
        arm = self.design.names[1] if arm is None else arm
        metric = self.design.metric if metric is None else metric
        for found in self.effects:
            if found.arm == arm and found.metric.name == metric:
                return found
        told = sorted({e.metric.name for e in self.effects})
        raise InvalidRequestError(
            f"there is no effect of arm {arm!r} on {metric!r}: arms {', '.join(self.design.names[1:])};"
            f" metrics {', '.join(told)}. {did_you_mean(metric, told)}"
        )

    @property
    def verdict(self) -> str:
        """What came of it, in a sentence or two for each arm."""
        return " ".join(self._sentences())

    def _sentences(self) -> list[str]:
        if not self.observations:
            return ["Nothing was asked in every arm: there is nothing to say."]
        design = self.design
        told = [
            said(found, design.control, level=design.level)
            for found in self.effects
            if found.decides
        ]
        if not told:
            told = [f"No item has a number of {design.primary.title.lower()}: it can't decide."]
        return [*told, *self.notes]

    @property
    def cost_usd(self) -> tuple[Decimal, int]:
        """What all calls cost, scoring included, and of how many nobody knows it."""
        seen = [one for item in self.observations for one in item]
        asked, unknown = total_usd([one.cost_usd for one in seen])
        scored, more = total_usd([o.scoring_cost_usd for o in seen if o.score_reason is not None])
        return asked + scored, unknown + more

    # --- frames ------------------------------------------------------------------------------

    @property
    def frame(self) -> pl.DataFrame:
        """One row an item and arm: everything that was observed."""
        return frame_of(seen for item in self.observations for seen in item)

    @property
    def pairs(self) -> pl.DataFrame:
        """One row an item: cost, latency, score and answer of each arm side by side."""
        import polars as pl

        names = self.design.names
        shown = ("status", "cost_usd", "latency_ms", "score", "model", "content")
        rows = [
            {
                "item_id": item[0].item_id,
                **{
                    f"{name} {column}": getattr(seen, column)
                    for column in shown
                    for name, seen in zip(names, item, strict=True)
                },
            }
            for item in self.observations
        ]
        money_columns = {f"{name} cost_usd": pl.Decimal(38, 15) for name in names}
        return pl.DataFrame(rows, schema_overrides=money_columns, infer_schema_length=None)

    @property
    def table(self) -> pl.DataFrame:
        """One row an effect: values of control and arm, difference, interval, p."""
        import polars as pl

        return pl.DataFrame([_effect_row(found, self.design) for found in self.effects])

    # --- to look at --------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"<Comparison {self.design.name!r}: {self.n} items, {self.ending.value}>\n{self.verdict}"

    @property
    def tables(self) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
        """For each arm a title, a header and rows of text: what is shown."""
        control = self.design.control
        found: list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]] = []
        for arm in self.design.names[1:]:
            rows = [_cells(e) for e in self.effects if e.arm == arm]
            if rows:
                short = len(control) + len(arm) <= _SHORT_NAMES
                named = (control, arm) if short else ("control", "arm")
                header = ("", *named, "difference", "interval", "in percent", "")
                found.append((f"{arm}, against {control}", header, rows))
        return found

    def _repr_html_(self) -> str:
        return findings_html(self._sentences(), self.tables, self._about())

    def _about(self) -> list[str]:
        spent, unknown = self.cost_usd
        design = self.design
        about = [
            f"{self.n} of {design.n} items of {design.workload!r}, each asked in every arm · "
            f"{self.ending.value} · {money(spent)} spent"
            + (f", {unknown} calls of unknown cost" if unknown else ""),
            f"★ decides. Intervals at {design.level:.0%}"
            + (", valid however often they are looked at" if design.sequential else "")
            + ", together over arms (★) and over all other metrics",
        ]
        if design.load is not None:
            about.append(f"Under load: {design.load}; arms took turns, block by block")
        return about + self._replay()

    def _replay(self) -> list[str]:
        """Wherever recorded answers are among the calls, it is said."""
        if any(seen.provider == "replay" for item in self.observations for seen in item):
            return ["REPLAY: recorded answers; latencies are drawn from a stated distribution"]
        return []


def effects_of(
    design: Design, observations: Sequence[Sequence[Observation]], *, only_primary: bool = False
) -> list[Effect]:
    """Return the effects of paired observations, corrected for their number."""
    arms = len(design.names) - 1
    metrics = design.metrics[:1] if only_primary else design.metrics
    others = max(1, len(design.metrics) - 1)
    peeking = max(1, design.n) if design.sequential else None
    found = []
    for metric in metrics:
        decides = metric.name == design.metric
        family = arms if decides else arms * others
        level = simultaneous_level(design.level, family)
        control = [item[0] for item in observations]
        for place, name in enumerate(design.names[1:], 1):
            one = effect(
                metric,
                name,
                control,
                [item[place] for item in observations],
                paired=True,
                level=level,
                peeking=peeking,
                decides=decides,
                margin=design.margin_of(metric, control),
            )
            if one is not None:
                found.append(one)
    return found


def decided(design: Design, outcomes: Sequence[Outcome]) -> bool:
    """Whether the interval that would be shown now lets a sequential comparison stop.

    It does when, for every arm, it says better, worse, or (with a margin) equivalent.
    """
    observations = [o.observations for o in outcomes if o.whole]
    if not observations:
        return False
    found = effects_of(design, observations, only_primary=True)
    return len(found) == len(design.names) - 1 and should_stop(one.verdict for one in found)


def _notes(design: Design, whole: Sequence[Outcome]) -> tuple[str, ...]:
    seen = [one for outcome in whole for one in outcome.observations]
    notes = []
    failed = {name: sum(not o.ok for o in seen if o.arm == name) for name in design.names}
    if any(failed.values()):
        told = ", ".join(f"{name} {count}" for name, count in failed.items() if count)
        notes.append(f"Calls that failed: {told}.")
    if (unpriced := sum(o.cost_usd is None for o in seen)) and seen:
        notes.append(
            f"{unpriced} of {len(seen)} calls have no known cost and are left out of costs."
        )
    unscored = sum(o.score is None for o in seen)
    if design.scorer is not None and unscored:
        notes.append(f"{unscored} of {len(seen)} answers could not be scored and are left out.")
    return tuple(notes)


def _trends(design: Design, observations: Sequence[Sequence[Observation]]) -> list[str]:
    """Whether the deciding effect changed while it was measured: told, if so."""
    metric, told = design.primary, []
    for place, name in enumerate(design.names[1:], 1):
        rows = [
            (x, y, item[0].started_at.timestamp() / 60, item[0].group)
            for item in observations
            if (x := metric.of(item[0])) is not None and (y := metric.of(item[place])) is not None
        ]
        if len(rows) < 2 * WARM_UP:
            continue
        grouped = any(group for *_, group in rows)
        trend = effect_trend(
            [x for x, *_ in rows],
            [y for _, y, *_ in rows],
            [at - rows[0][2] for _, _, at, _ in rows],
            paired=True,
            clusters=[g or f"\0{i}" for i, (*_, g) in enumerate(rows)] if grouped else None,
        )
        if trend.check.alarm:
            told.append(f"{name}: {trend.check.sentence}")
    return told


def _cells(found: Effect) -> tuple[str, ...]:
    metric, change, relative = found.metric, found.difference, found.relative
    title = metric.title + (" ★" if found.decides else "")
    values = (value_text(found.control.value, metric), value_text(found.treatment.value, metric))
    if change.value is None or not change.bounded:
        return (title, *values, "can't be told", "", "", "; ".join(change.notes))
    percent = (
        ""
        if relative is None or relative.value is None
        else f"{relative.value:+.1%}".replace("-", "−")
    )
    difference = value_text(change.value, metric, signed=True)
    return (
        title,
        *values,
        difference,
        interval_text(change.low, change.high, metric),
        percent,
        found.direction or "unclear",
    )


def _effect_row(found: Effect, design: Design) -> dict[str, Any]:
    change, relative = found.difference, found.relative
    return {
        "metric": found.metric.name,
        "arm": found.arm,
        "control": design.control,
        "decides": found.decides,
        "control_value": found.control.value,
        "arm_value": found.treatment.value,
        "difference": change.value,
        "low": _finite(change.low),
        "high": _finite(change.high),
        "relative": None if relative is None else relative.value,
        "relative_low": None if relative is None else _finite(relative.low),
        "relative_high": None if relative is None else _finite(relative.high),
        "level": change.level,
        "p_value": change.p_value,
        "always_valid": change.always_valid,
        "direction": found.direction,
        "items": change.n,
        "left_out": found.left_out,
        "method": change.method,
        "notes": "; ".join(change.notes),
    }


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
