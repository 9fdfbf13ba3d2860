"""What an anomaly is, whoever found it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from novellus_lab.monitoring.contributions import Contribution
    from novellus_lab.monitoring.detect.adaptive import Verdict


class AnomalyKind(StrEnum):
    """The seed's three rules, and the adaptive detector's finds by what saw them."""

    LATENCY = "latency"
    ERROR_RATE = "error_rate"
    TRAFFIC = "traffic"
    OFF_SEASON = "season"
    SUDDEN = "forecast"
    PATTERN = "pattern"
    SPREAD = "spread"
    SIZE = "size"
    SUSTAINED = "sustained"


class Severity(StrEnum):
    """How much an anomaly matters."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


@dataclass(frozen=True, slots=True)
class Anomaly:
    """One anomaly of one metric.

    `end` is None while it goes on. `observed` and `expected` are in the metric's own unit, observed
    being the worst of its points. `score` is 0 to 1; 0.5 just is one. Who made it knows no requests:
    `contributions` and `example_ids` (of `ai_requests`) are the caller's to fill.
    """

    kind: AnomalyKind
    metric: str
    start: datetime
    end: datetime | None
    observed: float
    expected: float
    score: float
    severity: Severity
    contributions: tuple[Contribution, ...] = ()
    example_ids: tuple[str, ...] = ()


def severity_of(score: float) -> Severity:
    """Low from 0.5 on, medium from 2/3 (twice what an alarm takes), high from 0.75 (three times).

    With `L = s / (1 - s)`: how often the evidence that makes an alarm is in the score.
    """
    if score >= 0.75:
        return Severity.HIGH
    return Severity.MEDIUM if score >= 2 / 3 else Severity.LOW


def anomaly_of(verdict: Verdict, metric: str, *, interval: timedelta) -> Anomaly:
    """The anomaly that an alarm of the adaptive detector stands for.

    It covers the points that the verdict looked at, each `interval` long and named by its start. An
    alarm says when something began; whether it lasts, the echo doesn't tell.
    """
    return Anomaly(
        kind=AnomalyKind(verdict.view),
        metric=metric,
        start=verdict.time - (verdict.points - 1) * interval,
        end=verdict.time + interval,
        observed=verdict.value,
        expected=verdict.expected,
        score=verdict.score,
        severity=severity_of(verdict.score),
    )
