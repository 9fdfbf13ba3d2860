"""What arms differ by: one effect for each metric and arm, against the control."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from novellus_lab.experiments.metrics import Metric, Summary
from novellus_lab.experiments.stats.confidence import Confidence
from novellus_lab.experiments.stats.means import difference, mean, relative_difference
from novellus_lab.experiments.stats.proportions import rate, rate_difference
from novellus_lab.experiments.stats.quantiles import quantile, quantile_difference
from novellus_lab.experiments.stats.ratios import (
    RatioSample,
    ratio,
    ratio_difference,
    relative_ratio_difference,
)
from novellus_lab.experiments.stats.verdict import Metric as Spoken
from novellus_lab.experiments.stats.verdict import Verdict, judge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from novellus_lab.experiments.observation import Observation
    from novellus_lab.experiments.stats.estimate import Estimate


@dataclass(frozen=True, slots=True)
class Effect:
    """One metric of one arm, against the control's."""

    metric: Metric
    arm: str
    control: Estimate
    treatment: Estimate
    difference: Estimate
    """Treatment minus control, in the metric's unit."""
    relative: Estimate | None
    """The same as a share of the control's value, where that means something."""
    decides: bool
    """Whether it is of the metric that decides."""
    left_out: int
    """Items without a number, in one of the two arms at least."""
    verdict: Verdict
    """What the interval means, with the margin of the metric that decides."""

    @property
    def direction(self) -> str | None:
        """`better` or `worse` where the interval excludes no difference, else None."""
        if not self.difference.excludes(0.0) or self.difference.value is None:
            return None
        lower = self.difference.high < 0
        return "better" if lower == (self.metric.better == "lower") else "worse"


@dataclass(frozen=True, slots=True)
class _Numbers:
    """What two arms have of a metric: item by item where they are paired."""

    control: list[float]
    treatment: list[float]
    control_per: list[float]
    treatment_per: list[float]
    clusters: tuple[list[str] | None, list[str] | None]
    left_out: int


def effect(
    metric: Metric,
    arm: str,
    control: Sequence[Observation],
    treatment: Sequence[Observation],
    *,
    paired: bool,
    level: float,
    peeking: int | None,
    decides: bool,
    margin: float | None = None,
) -> Effect | None:
    """Return what an arm differs by; None where no item has a number of this metric.

    Args:
        control, treatment: of the same items in the same order if `paired`.
        level: of confidence, after the correction for many comparisons.
        peeking: see `Confidence`.
        margin: of differences that don't matter, in the metric's unit.
    """
    confidence = Confidence(level, peeking)
    found = _pairs(metric, control, treatment) if paired else _apart(metric, control, treatment)
    if found is None:
        return None
    one, two = found.control, found.treatment
    own, other_own = found.clusters
    both: Any = own if paired or own is None else (own, other_own)
    relative: Estimate | None = None
    if metric.summary is Summary.QUANTILE:
        assert metric.quantile is not None  # noqa: S101
        q = metric.quantile
        # No interval is known that holds at every look for quantiles of clustered values.
        once = peeking is not None and own is not None
        confidence = Confidence(level) if once else confidence
        base = quantile(one, q, confidence=confidence)
        other = quantile(two, q, confidence=confidence)
        change = quantile_difference(
            one, two, q, paired=paired, clusters=both, confidence=confidence
        ).with_notes("for one look: groups' quantiles have no other" if once else "")
    elif metric.summary is Summary.RATIO:
        below = RatioSample(one, found.control_per, own)
        above = RatioSample(two, found.treatment_per, other_own)
        base, other = ratio(below, confidence=confidence), ratio(above, confidence=confidence)
        change = ratio_difference(below, above, paired=paired, confidence=confidence)
        relative = relative_ratio_difference(below, above, paired=paired, confidence=confidence)
    elif metric.unit in ("share", "") and _binary(one) and _binary(two):
        base = rate(one, clusters=own, confidence=confidence)
        other = rate(two, clusters=other_own, confidence=confidence)
        change = rate_difference(one, two, paired=paired, clusters=both, confidence=confidence)
    else:
        base = mean(one, clusters=own, confidence=confidence)
        other = mean(two, clusters=other_own, confidence=confidence)
        change = difference(one, two, paired=paired, clusters=both, confidence=confidence)
        relative = relative_difference(
            one, two, paired=paired, clusters=both, confidence=confidence
        )
    spoken = Spoken(metric.title, metric.better == "lower", metric.unit, margin)
    verdict = judge(change, spoken, treatment=arm)
    return Effect(metric, arm, base, other, change, relative, decides, found.left_out, verdict)


_Row = tuple[float, float, "str | None"]
"""Number, denominator, group."""


def _pairs(
    metric: Metric, control: Sequence[Observation], treatment: Sequence[Observation]
) -> _Numbers | None:
    rows = [
        (x, y)
        for a, b in zip(control, treatment, strict=True)
        if (x := _row(metric, a)) is not None and (y := _row(metric, b)) is not None
    ]
    return _numbers([x for x, _ in rows], [y for _, y in rows], len(control) - len(rows))


def _apart(
    metric: Metric, control: Sequence[Observation], treatment: Sequence[Observation]
) -> _Numbers | None:
    one = [row for seen in control if (row := _row(metric, seen)) is not None]
    two = [row for seen in treatment if (row := _row(metric, seen)) is not None]
    return _numbers(one, two, len(control) + len(treatment) - len(one) - len(two))


def _row(metric: Metric, seen: Observation) -> _Row | None:
    value = metric.of(seen)
    per = 1.0 if metric.per is None else metric.per(seen)
    return None if value is None or per is None else (value, per, seen.group)


def _numbers(one: Sequence[_Row], two: Sequence[_Row], left_out: int) -> _Numbers | None:
    if not one or not two:
        return None
    grouped = any(group is not None for rows in (one, two) for *_, group in rows)

    def clusters(rows: Sequence[_Row]) -> list[str] | None:
        # What has no group stands for itself.
        return [g or f"\0{n}" for n, (*_, g) in enumerate(rows)] if grouped else None

    return _Numbers(
        [row[0] for row in one],
        [row[0] for row in two],
        [row[1] for row in one],
        [row[1] for row in two],
        (clusters(one), clusters(two)),
        left_out,
    )


def _binary(values: Sequence[float]) -> bool:
    return all(value in (0.0, 1.0) for value in values)
