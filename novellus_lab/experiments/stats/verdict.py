"""A verdict in plain words, from an estimate and what difference would matter.

The interval alone decides. Inside of the margin on both sides: equivalent, even if it excludes 0 (the
sentence says so). Entirely on the good side of 0: better. On the bad side: worse. Not beyond the margin
on the bad side: not worse (non-inferior). Else nobody can tell. A run stops by the verdict of the interval that is shown, and only if that one is always-valid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Literal

from novellus_lab.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from novellus_lab.experiments.stats.estimate import Estimate

Outcome = Literal["better", "worse", "equivalent", "not worse", "can't tell"]
Goal = Literal["better", "not worse", "equivalent", "any"]
"""What a run is for: it stops when that is shown, or can't be any more."""


@dataclass(frozen=True, slots=True)
class Metric:
    """How a metric is spoken of, and judged.

    Args:
        name: "cost", "p95 latency", "right answers".
        lower_is_better: true of cost, latency and errors.
        unit: "USD", "ms", "points" (of rates: shown times 100), or "%" (of relative differences).
        margin: the largest difference in the estimate's own unit (0.02 for two points or 2%) that
            does not matter; None: every difference does.
    """

    name: str
    lower_is_better: bool
    unit: str = ""
    margin: float | None = None

    def __post_init__(self) -> None:
        if self.margin is not None and not 0 < self.margin < math.inf:
            raise InvalidRequestError(
                f"margin of {self.name} is {self.margin}: expected a size above 0, or None."
            )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known about one metric of a treatment against its control."""

    outcome: Outcome
    sentence: str
    metric: Metric
    estimate: Estimate
    acceptable: bool
    """Whether the treatment is not worse by more than the margin (by anything, without one)."""


def judge(
    estimate: Estimate, metric: Metric, *, control: str = "control", treatment: str = "treatment"
) -> Verdict:
    """Say what the estimate of a difference (treatment minus control) means."""
    # In terms of "worse by": the bad direction is up.
    low, high = estimate.low, estimate.high
    if not metric.lower_is_better:
        low, high = -high, -low
    margin = metric.margin
    negligible = margin is not None and -margin < low and high < margin
    acceptable = high < margin if margin is not None else high < 0
    outcome: Outcome
    if negligible:
        outcome = "equivalent"
    elif high < 0:
        outcome = "better"
    elif low > 0:
        outcome = "worse"
    elif acceptable:
        outcome = "not worse"
    else:
        outcome = "can't tell"
    sentence = _sentence(outcome, estimate, metric, control, treatment)
    return Verdict(outcome, sentence, metric, estimate, acceptable)


def should_stop(verdicts: Iterable[Verdict], goal: Goal = "any") -> bool:
    """Whether a run has shown what it is for, in every metric that is given.

    "any": each metric's outcome is something else than "can't tell". Another goal: each metric has
    reached it, or one has shown that it never will (worse by more than is acceptable).

    Raises:
        InvalidRequestError: an interval is for one look: stopping by it breaks its level.
    """
    given = list(verdicts)
    for verdict in given:
        if not verdict.estimate.always_valid:
            raise InvalidRequestError(
                f"{verdict.metric.name}: this interval is for one look at the end. Estimate it with "
                "Confidence(peeking=...) to stop by it."
            )
    if not given:
        return False
    if goal == "any":
        return all(verdict.outcome not in ("can't tell", "not worse") for verdict in given)
    reached: dict[Goal, Callable[[Verdict], bool]] = {
        "better": lambda verdict: verdict.outcome == "better",
        "not worse": lambda verdict: verdict.acceptable,
        "equivalent": lambda verdict: verdict.outcome == "equivalent",
    }
    return all(map(reached[goal], given)) or any(_lost(verdict, goal) for verdict in given)


def _lost(verdict: Verdict, goal: Goal) -> bool:
    """Whether the interval excludes what the goal asks for."""
    low, high = verdict.estimate.low, verdict.estimate.high
    if not verdict.metric.lower_is_better:
        low, high = -high, -low
    margin = verdict.metric.margin or 0.0
    if goal == "better":
        return low > 0 or verdict.outcome == "equivalent"
    return low > margin or (goal == "equivalent" and high < -margin)


def _sentence(
    outcome: Outcome, estimate: Estimate, metric: Metric, control: str, treatment: str
) -> str:
    seen = "no value" if estimate.value is None else _number(estimate.value, metric)
    difference = f"{seen} ({_span(estimate, metric)})"
    margin = "" if metric.margin is None else _number(metric.margin, metric, sign="")
    name = metric.name
    if outcome == "equivalent":
        but = "; they differ, by less than matters" if estimate.excludes(0) else ""
        return f"{treatment} and {control} are equivalent in {name}, within {margin}{but}: {difference}."
    if outcome == "not worse":
        return (
            f"{treatment} is not worse than {control} in {name} by {margin} or more: {difference}."
        )
    if outcome == "can't tell":
        return f"Can't tell whether {treatment} or {control} is better in {name}: {difference}."
    return f"{treatment} is {outcome} than {control} in {name}: {difference}."


def _span(estimate: Estimate, metric: Metric) -> str:
    sure = f"{100 * estimate.level:.4g}%{' at every look' if estimate.always_valid else ''}"
    low, high = (_number(end, metric) for end in (estimate.low, estimate.high))
    if estimate.bounded:
        return f"{sure}: {low} to {high}"
    why = f"; {estimate.notes[0]}" if estimate.notes else ""
    if math.isfinite(estimate.low):
        return f"{sure}: at least {low}{why}"
    if math.isfinite(estimate.high):
        return f"{sure}: at most {high}{why}"
    return f"no interval{why}"


def _number(value: float, metric: Metric, *, sign: str = "+") -> str:
    """Three digits, never an exponent."""
    if not math.isfinite(value):
        return f"{value:+}"
    shown = 100 * value if metric.unit in ("%", "points") else value
    digits = f"{Decimal(f'{shown:.3g}'):{sign},f}"
    return f"{digits}%" if metric.unit == "%" else f"{digits} {metric.unit}".rstrip()
