"""All detectors on one metric of one model, and what they say about it together."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from novellus_lab.monitoring.anomaly import (
    Anomaly,
    AnomalyKind,
    DetectorName,
    Evidence,
    Severity,
    merged,
    severity_of,
)
from novellus_lab.monitoring.detect.learned import LearnedDetector
from novellus_lab.monitoring.detect.rules import CHANCE, Bucket, binomial_tail

if TYPE_CHECKING:
    from datetime import datetime

    from novellus_lab.monitoring.detect.adaptive import Verdict
    from novellus_lab.monitoring.detect.drift import Drift
    from novellus_lab.monitoring.log_buckets import Sums
    from novellus_lab.monitoring.watched import Metric

_QUIET = 2
_LONGEST = 24
"""Hours: a change that lasts longer is no event."""
_LASTS = 3
"""Buckets from which on the size of a change counts for its severity."""
_SIZEABLE, _LARGE = 4.0, 8.0
"""Times the least change that is told: a factor of 2 and of 4, 8 and 16 points of a rate."""
_SHAPES = ("pattern", "spread")
_WINDOW = timedelta(hours=2)
_DRIFT_BY_CHANCE = 1e-4
_LOWEST_RATE = 0.01


@dataclass(slots=True)
class _Event:
    """A sudden change that was seen, followed until the series is half-way back."""

    start: datetime
    end: datetime
    kind: AnomalyKind
    view: str
    score: float
    learnt: float
    """The worst value, as it is learnt."""
    usual: float
    quiet: int = 0
    open: bool = True


class MetricWatch:
    """One metric of one model, bucket after bucket, oldest first.

    Args:
        alarms_per_week: false alarms that what learns may give here; None: rules alone.
        rules: whether the seed's rule is asked, where the metric has one.
    """

    def __init__(
        self,
        metric: Metric,
        model: str | None,
        width: timedelta,
        alarms_per_week: float | None,
        *,
        rules: bool = True,
    ) -> None:
        self.metric = metric
        self.model = model
        self._width = width
        self._rule = metric.rule() if rules and metric.rule else None
        self._learned = (
            LearnedDetector(alarms_per_week, interval=width, min_days=metric.min_days)
            if alarms_per_week
            else None
        )
        self._recent: deque[Sums] = deque(maxlen=max(15, _WINDOW // width))
        self._events: list[_Event] = []
        self._found: dict[tuple[str, datetime], Anomaly] = {}

    def remember(self, start: datetime, sums: Sums) -> None:
        """Take a bucket of weeks ago into the rule's baseline, without judging it."""
        if self._rule is not None:
            self._rule.remember(self._bucket(start, sums))

    def observe(self, start: datetime, sums: Sums) -> None:
        """Judge a bucket by all earlier ones, then learn it."""
        if self._rule is not None:
            anomaly = self._rule.observe(self._bucket(start, sums)).anomaly
            if anomaly is not None:
                self._keep("rule", self._of_rule(anomaly))
        if self._learned is not None:
            learnt = self.metric.learnt(self.metric.value(sums))
            self._recent.append(sums)
            seen = self._learned.observe(start, learnt)
            self._follow(start, learnt)
            if seen.verdict is not None and seen.verdict.alarm:
                self._alarm(seen.verdict)
            if seen.drift is not None:
                self._drift(seen.drift)

    def found(self, since: datetime | None = None) -> list[Anomaly]:
        """What was found, one anomaly an event; those only that went on at `since` or later."""
        found = [*self._found.values(), *map(self._of_event, self._events)]
        return merged(one for one in found if since is None or one.end is None or one.end > since)

    def forget(self, before: datetime) -> None:
        """Let go of what ended before a time: a watch that never ends must not grow."""
        self._events = [one for one in self._events if one.open or one.end >= before]
        self._found = {
            key: one for key, one in self._found.items() if one.end is None or one.end >= before
        }

    def _bucket(self, start: datetime, sums: Sums) -> Bucket:
        if self.metric.name == "error_rate":
            return Bucket(start, sums.ended, sums.errors)
        latency_ms = sums.latency_ms / sums.answered if sums.answered else None
        requests = sums.answered if self.metric.name == "latency_ms" else sums.requests
        return Bucket(start, requests, latency_ms=latency_ms)

    def _keep(self, source: str, anomaly: Anomaly) -> None:
        self._found[source, anomaly.start] = anomaly

    def _of_rule(self, anomaly: Anomaly) -> Anomaly:
        said = Evidence(
            DetectorName.RULES,
            anomaly.kind.value,
            anomaly.score,
            anomaly.start,
            anomaly.end,
            self.model,
        )
        return replace(anomaly, model=self.model, bucket=self._width, evidence=(said,))

    def _alarm(self, verdict: Verdict) -> None:
        change = verdict.value - verdict.expected
        kind = self.metric.rises if change > 0 else self.metric.falls
        if abs(change) < self.metric.least or kind is None:
            if verdict.view not in _SHAPES or abs(change) >= self.metric.least:
                return  # too small to matter, or welcome
            kind = AnomalyKind.UNUSUAL
        elif self._by_chance(verdict.points, verdict.expected) > CHANCE:
            return
        start = verdict.time - (verdict.points - 1) * self._width
        event = _Event(
            start,
            verdict.time + self._width,
            kind,
            verdict.view,
            verdict.score,
            verdict.value,
            verdict.expected,
            open=kind is not AnomalyKind.UNUSUAL,
        )
        for other in self._events:
            if other.open and other.kind == kind:
                other.score = max(other.score, event.score)
                return
        self._events.append(event)

    def _follow(self, start: datetime, learnt: float) -> None:
        for event in self._events:
            if not event.open or start < event.end:
                continue
            off = (learnt - event.usual) / (event.learnt - event.usual)
            event.quiet = 0 if off >= 0.5 else event.quiet + 1
            if event.quiet == 0:
                event.end = start + self._width
                if off > 1:
                    event.learnt = learnt
            too_long = (event.end - event.start).total_seconds() > _LONGEST * 3600
            event.open = event.quiet < _QUIET and not too_long

    def _of_event(self, event: _Event) -> Anomaly:
        end = None if event.open else event.end
        low = event.kind is AnomalyKind.UNUSUAL
        return Anomaly(
            kind=event.kind,
            metric=self.metric.name,
            start=event.start,
            end=end,
            observed=self.metric.unlearnt(event.learnt),
            expected=self.metric.unlearnt(event.usual),
            score=event.score,
            severity=Severity.LOW if low else self._severity(event),
            model=self.model,
            detector=DetectorName.ADAPTIVE,
            bucket=self._width,
            evidence=(
                Evidence(
                    DetectorName.ADAPTIVE, event.view, event.score, event.start, end, self.model
                ),
            ),
        )

    def _severity(self, event: _Event) -> Severity:
        """By its score, which says how rare it is; what is large and lasts is no small matter."""
        rare = severity_of(event.score)
        if (event.end - event.start) / self._width < _LASTS:
            return rare
        size = abs(event.learnt - event.usual) / self.metric.least
        matters = (
            Severity.HIGH if size >= _LARGE else Severity.MEDIUM if size >= _SIZEABLE else rare
        )
        return max(rare, matters, key=list(Severity).index)

    def _drift(self, drift: Drift) -> None:
        change = drift.observed - drift.expected
        kind = self.metric.rises if change > 0 else self.metric.falls
        if kind is None or abs(change) < self.metric.least:
            return
        points = max(4, _WINDOW // self._width)
        known = ("drift", drift.start) in self._found
        if not known and (
            drift.end is not None or self._by_chance(points, drift.expected) > _DRIFT_BY_CHANCE
        ):
            return
        rarity = -math.log10(max(drift.p_value, 1e-300))
        score = rarity / (rarity + 3)
        said = Evidence(DetectorName.ADAPTIVE, "drift", score, drift.start, drift.end, self.model)
        anomaly = Anomaly(
            kind=AnomalyKind.DRIFT,
            metric=self.metric.name,
            start=drift.start,
            end=drift.end,
            observed=self.metric.unlearnt(drift.observed),
            expected=self.metric.unlearnt(drift.expected),
            score=score,
            severity=severity_of(score),
            model=self.model,
            detector=DetectorName.ADAPTIVE,
            bucket=self._width,
            evidence=(said,),
        )
        self._keep("drift", anomaly)

    def _by_chance(self, points: int, expected: float) -> float:
        """How probable the last points are at the expected rate, if this is a rate: exact counts.

        Small numbers make rates jump. As in the error rule, a rate below 1 % counts as 1 %.
        """
        if self.metric.as_log or self.metric.per is None:
            return 0.0
        last = list(self._recent)[-points:]
        of = sum(getattr(sums, self.metric.per) for sums in last)
        odd, usual = sum(getattr(sums, self.metric.measure) for sums in last), expected
        if self.metric.falls is not None:
            odd, usual = of - odd, 1 - expected
        return binomial_tail(odd, of, min(1.0, max(usual, _LOWEST_RATE))) if of else 1.0
