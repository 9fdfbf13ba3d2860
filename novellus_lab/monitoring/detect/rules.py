"""The seed's three rules, on buckets of time.

| rule | a bucket is anomalous if | it is normal again if |
| --- | --- | --- |
| latency | it is at least 2 times its baseline | below 1.5 times |
| error rate | it lies more than 5 percentage points above its baseline, and not by chance | at most 2.5 points above |
| traffic | it is at least 3 times its baseline | below 2 times |

"2x" and "3x" are reached at exactly 2 and 3 times; "> 5 %" is not reached at exactly 5 points. "Not by
chance": errors at the baseline's rate would bring that many in at most 1 of 200 such buckets (exact
binomial tail), so 1 error of 3 calls is none and 30 of 300 is. For that a baseline below 1 % counts
as 1 %: where buckets are small, most have no error at all, and their median is 0.

A bucket of an ongoing anomaly, or of one about to start, is not learnt: an incident is no baseline.
After `Levels.relearn_after` buckets in a row it is: what lasts that long is the new normal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from novellus_lab.errors import InvalidRequestError
from novellus_lab.monitoring.anomaly import Anomaly, AnomalyKind, severity_of
from novellus_lab.monitoring.detect.baseline import Baseline, Expected
from novellus_lab.monitoring.detect.hysteresis import Hysteresis, Phase

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

CHANCE = 0.005
"""How probable that many errors may be at the baseline's rate for the rule to speak."""
LOWEST_BASE_RATE = 0.01


@dataclass(frozen=True, slots=True)
class Bucket:
    """What happened in one span of time. `latency_ms` is None without an answered request."""

    start: datetime
    requests: int
    errors: int = 0
    latency_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule makes of one bucket. `excess` 1 is exactly the rule's level; None: not judged."""

    start: datetime
    observed: float | None
    expected: Expected | None
    excess: float | None
    phase: Phase
    anomaly: Anomaly | None
    """The anomaly that started, goes on or just ended with this bucket."""


@dataclass(frozen=True, slots=True)
class _Judged:
    observed: float
    excess: float
    enters: bool
    leaves: bool


def latency_excess(observed_ms: float, expected_ms: float, factor: float = 2.0) -> float:
    """How much of the rule's level a latency reaches: 1 at `factor` times the baseline."""
    return observed_ms / (factor * expected_ms) if expected_ms > 0 else 0.0


def traffic_excess(requests: float, expected: float, factor: float = 3.0) -> float:
    """How much of the rule's level a number of requests reaches: 1 at `factor` times the baseline."""
    return requests / (factor * expected) if expected > 0 else 0.0


def error_rate_excess(
    errors: int, requests: int, expected_rate: float, points: float = 5.0
) -> float:
    """How much of the rule's level an error rate reaches; above 1 it is raised, and not by chance.

    Percentage points above the baseline over `points`; at most 1 where chance explains it.
    """
    above = (errors / requests - expected_rate) * 100
    # Counts are whole: what is exactly 5 points above must not be more by a rounding error.
    excess = round(above / points, 9)
    by_chance = binomial_tail(errors, requests, max(expected_rate, LOWEST_BASE_RATE))
    return excess if by_chance <= CHANCE else min(excess, 1.0)


def binomial_tail(successes: int, trials: int, rate: float) -> float:
    """The probability of at least so many successes."""
    if trials < 1 or not 0 <= successes <= trials:
        raise InvalidRequestError(f"{successes} of {trials} is no proportion")
    if successes == 0 or rate >= 1:
        return 1.0
    if rate <= 0:
        return 0.0
    if successes <= trials * rate:
        return 1.0 - _upper_sum(trials - successes + 1, trials, 1 - rate)
    return _upper_sum(successes, trials, rate)


def _upper_sum(successes: int, trials: int, rate: float) -> float:
    """Above the mean terms fall off at least geometrically: a few are all that counts."""
    term = math.exp(
        math.lgamma(trials + 1)
        - math.lgamma(successes + 1)
        - math.lgamma(trials - successes + 1)
        + successes * math.log(rate)
        + (trials - successes) * math.log1p(-rate)
    )
    total = term
    for k in range(successes, trials):
        term *= (trials - k) / (k + 1) * rate / (1 - rate)
        total += term
        if term < 1e-12 * total:
            break
    return min(1.0, total)


@dataclass(frozen=True, slots=True)
class Levels:
    """When a rule speaks.

    `enter` and `leave` are in the rule's own unit (times the baseline, or percentage points above
    it). A bucket with fewer than `min_requests` is not judged. `min_duration` buckets in a row begin
    an anomaly and `min_quiet` end it; one that lasts `relearn_after` buckets becomes the new normal.

    Raises:
        InvalidRequestError: `leave` is not between 0 and `enter`.
    """

    enter: float
    leave: float
    min_requests: int = 10
    min_duration: int = 2
    min_quiet: int = 2
    relearn_after: int = 240

    def __post_init__(self) -> None:
        if not 0 < self.leave <= self.enter:
            raise InvalidRequestError(
                f"leave ({self.leave}) must be above 0 and at most enter ({self.enter})"
            )


class Rule:
    """One rule on one series of buckets, oldest first: baseline, level and hysteresis together."""

    kind: ClassVar[AnomalyKind]
    metric: ClassVar[str]
    seed: ClassVar[Levels]
    """The levels that the seed states."""

    def __init__(self, levels: Levels | None = None, *, baseline: Baseline | None = None) -> None:
        self.levels = levels or self.seed
        self._baseline = baseline or Baseline()
        self._hysteresis = Hysteresis(self.levels.min_duration, self.levels.min_quiet)
        self._odd_in_a_row = 0
        self._pending: list[tuple[datetime, _Judged, float]] = []
        self._quiet_since: datetime | None = None
        self._anomaly: Anomaly | None = None

    def observe(self, bucket: Bucket) -> Finding:
        """Judge a bucket by the earlier ones, then learn it."""
        expected = self._baseline.expected(bucket.start)
        judged = self._judge(bucket, expected) if expected else None
        if judged is None or expected is None:
            # A bucket without requests, or without a past, neither begins nor ends anything.
            value = self._value(bucket)
            if value is not None and not self._hysteresis.active:
                self._baseline.add(bucket.start, value)
            phase = Phase.ONGOING if self._hysteresis.active else Phase.NORMAL
            return Finding(bucket.start, value, expected, None, phase, self._anomaly)
        phase = self._hysteresis.step(enters=judged.enters, leaves=judged.leaves)
        odd = phase in (Phase.PENDING, Phase.STARTED, Phase.ONGOING)
        self._odd_in_a_row = self._odd_in_a_row + 1 if odd else 0
        if not odd or self._odd_in_a_row > self.levels.relearn_after:
            self._baseline.add(bucket.start, judged.observed)
        anomaly = self._follow(phase, bucket.start, judged, expected.value)
        return Finding(bucket.start, judged.observed, expected, judged.excess, phase, anomaly)

    def remember(self, bucket: Bucket) -> None:
        """Take a bucket into the baseline without judging it: history of long ago."""
        value = self._value(bucket)
        if value is not None:
            self._baseline.add(bucket.start, value)

    def run(self, buckets: Iterable[Bucket]) -> list[Anomaly]:
        """All anomalies of a series, in order of their starts; a last one may have no end."""
        found: dict[datetime, Anomaly] = {}
        for bucket in buckets:
            anomaly = self.observe(bucket).anomaly
            if anomaly is not None:
                found[anomaly.start] = anomaly
        return list(found.values())

    def _follow(
        self, phase: Phase, start: datetime, judged: _Judged, expected: float
    ) -> Anomaly | None:
        match phase:
            case Phase.NORMAL:
                self._pending.clear()
            case Phase.PENDING:
                self._pending.append((start, judged, expected))
            case Phase.STARTED:
                since = [*self._pending, (start, judged, expected)]
                self._pending.clear()
                _, worst, usual = max(since, key=lambda one: one[1].excess)
                self._anomaly = self._describe(since[0][0], worst, usual)
            case Phase.ONGOING if self._anomaly is not None:
                if judged.leaves:
                    self._quiet_since = self._quiet_since or start
                else:
                    self._quiet_since = None
                if _score(judged.excess) > self._anomaly.score:
                    self._anomaly = self._describe(self._anomaly.start, judged, expected)
            case Phase.ENDED if self._anomaly is not None:
                ended = replace(self._anomaly, end=self._quiet_since or start)
                self._anomaly = self._quiet_since = None
                return ended
        return self._anomaly

    def _describe(self, start: datetime, worst: _Judged, expected: float) -> Anomaly:
        score = _score(worst.excess)
        return Anomaly(
            kind=self.kind,
            metric=self.metric,
            start=start,
            end=None,
            observed=worst.observed,
            expected=expected,
            score=score,
            severity=severity_of(score),
        )

    def _value(self, bucket: Bucket) -> float | None:
        """The bucket's value for the baseline; None where it has too little to say."""
        raise NotImplementedError

    def _judge(self, bucket: Bucket, expected: Expected) -> _Judged | None:
        raise NotImplementedError


class LatencyRule(Rule):
    """Latency of at least twice its baseline."""

    kind = AnomalyKind.LATENCY
    metric = "latency_ms"
    seed = Levels(enter=2.0, leave=1.5)

    def _value(self, bucket: Bucket) -> float | None:
        return bucket.latency_ms if bucket.requests >= self.levels.min_requests else None

    def _judge(self, bucket: Bucket, expected: Expected) -> _Judged | None:
        latency_ms = self._value(bucket)
        if latency_ms is None:
            return None
        excess = latency_excess(latency_ms, expected.value, self.levels.enter)
        leaves = excess < self.levels.leave / self.levels.enter
        return _Judged(latency_ms, excess, enters=excess >= 1, leaves=leaves)


class ErrorRateRule(Rule):
    """Error rate (0 to 1) more than 5 percentage points above its baseline, and not by chance."""

    kind = AnomalyKind.ERROR_RATE
    metric = "error_rate"
    seed = Levels(enter=5.0, leave=2.5)

    def _value(self, bucket: Bucket) -> float | None:
        enough = bucket.requests >= max(1, self.levels.min_requests)
        return bucket.errors / bucket.requests if enough else None

    def _judge(self, bucket: Bucket, expected: Expected) -> _Judged | None:
        rate = self._value(bucket)
        if rate is None:
            return None
        points = self.levels.enter
        excess = error_rate_excess(bucket.errors, bucket.requests, expected.value, points)
        return _Judged(rate, excess, enters=excess > 1, leaves=excess <= self.levels.leave / points)


class TrafficRule(Rule):
    """At least three times as many requests as usual.

    A bucket without requests counts as 0. It is the baseline that must hold `min_requests`: 3
    requests instead of 1 are no flood.
    """

    kind = AnomalyKind.TRAFFIC
    metric = "requests"
    seed = Levels(enter=3.0, leave=2.0)

    def _value(self, bucket: Bucket) -> float | None:
        return float(bucket.requests)

    def _judge(self, bucket: Bucket, expected: Expected) -> _Judged | None:
        if expected.value < self.levels.min_requests:
            return None
        excess = traffic_excess(bucket.requests, expected.value, self.levels.enter)
        leaves = excess < self.levels.leave / self.levels.enter
        return _Judged(float(bucket.requests), excess, enters=excess >= 1, leaves=leaves)


def _score(excess: float) -> float:
    """0.5 at the rule's level, 2/3 at twice, 0.75 at three times of it."""
    return excess / (1 + excess)
