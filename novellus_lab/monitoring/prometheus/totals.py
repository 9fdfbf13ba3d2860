"""What was counted so far: in one process record by record, or from the log group by group."""

from __future__ import annotations

import os
import threading
import time
import weakref
from bisect import bisect_left
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from novellus_lab.monitoring.prometheus.metrics import (
    CACHE,
    CALLS,
    COST,
    DURATION,
    ERRORS,
    OVERHEAD,
    REQUESTS,
    SAVED,
    TOKENS,
    TTFT,
    UNPRICED,
    Metric,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST_MODELS = 200
MOST_VALUES = 50
"""Of any other label. A label with a value for everything a caller can think of brings a Prometheus
down: what comes after these is counted as `other`."""
OTHER = "other"
UNKNOWN = "unknown"
_LONGEST = 120
_HIT_RATE_MINUTES = 60


@dataclass(frozen=True, slots=True)
class Measured:
    """Durations of a group of requests that lie in one bucket."""

    bucket: int
    """Index of the bucket; the number of bounds, where they lie beyond the last."""
    total_s: float


@dataclass(frozen=True, slots=True)
class RequestGroup:
    """Requests that are alike in all that is counted."""

    count: int
    model: str | None
    status: str
    outcome: str
    """Of the cache."""
    error: str | None = None
    duration: Measured | None = None
    ttft: Measured | None = None
    overhead: Measured | None = None
    saved_usd: Decimal | None = None
    minute: int | None = None
    """When they were made, in minutes since 1970; None: more than an hour ago."""


@dataclass(frozen=True, slots=True)
class CallGroup:
    """Provider calls of one model, role and end."""

    count: int
    model: str
    role: str
    status: str
    unpriced: int
    cost_usd: Decimal
    tokens: Mapping[str, int]
    """By kinds that don't overlap."""


@dataclass(slots=True)
class Distribution:
    """How many lie in each bucket (the last: beyond all bounds), and what they come to."""

    counts: list[int]
    total_s: float = 0.0


Labels = tuple[str, ...]


class Totals:
    """Counters and histograms. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._reset()
        _alive.add(self)

    def _reset(self) -> None:
        self._counters: dict[Metric, dict[Labels, Decimal]] = {}
        self._distributions: dict[Metric, dict[Labels, Distribution]] = {}
        self._lookups: dict[int, list[int]] = {}
        """By minute: requests that looked in the cache, and those that it answered."""
        self._values: dict[str, dict[str, str]] = {}
        """Of each label, the values that were met, and how they are shown."""
        self._lock = threading.Lock()

    def add_requests(self, group: RequestGroup) -> None:
        """Count requests."""
        with self._lock:
            model = self._label("model", group.model)
            status = self._label("status", group.status)
            outcome = self._label("outcome", group.outcome)
            self._count(REQUESTS, (model, status), group.count)
            self._count(CACHE, (outcome,), group.count)
            if group.error is not None:
                self._count(ERRORS, (model, self._label("error", group.error)), group.count)
            if group.saved_usd:
                self._count(SAVED, (), group.saved_usd)
            self._measure(DURATION, (model,), group.duration, group.count)
            self._measure(TTFT, (model,), group.ttft, group.count)
            self._measure(OVERHEAD, (outcome,), group.overhead, group.count)
            if group.minute is not None and outcome not in _NO_LOOKUP:
                minute = self._lookups.setdefault(group.minute, [0, 0])
                minute[0] += group.count
                minute[1] += group.count * (outcome != "miss")

    def add_calls(self, group: CallGroup) -> None:
        """Count provider calls."""
        with self._lock:
            model = self._label("model", group.model)
            labels = model, self._label("role", group.role), self._label("status", group.status)
            self._count(CALLS, labels, group.count)
            self._count(COST, (model,), group.cost_usd)
            self._count(UNPRICED, (model,), group.unpriced)
            for kind, count in group.tokens.items():
                if count:
                    self._count(TOKENS, (model, kind), count)

    def hit_rate(self, now_s: float | None = None) -> float | None:
        """Return the share of hits among the last hour's look-ups; None where there were none."""
        first = int((time.time() if now_s is None else now_s) // 60) - _HIT_RATE_MINUTES
        with self._lock:
            for minute in [m for m in self._lookups if m <= first]:
                del self._lookups[minute]
            looked = sum(counts[0] for counts in self._lookups.values())
            hits = sum(counts[1] for counts in self._lookups.values())
        return hits / looked if looked else None

    def snapshot(
        self,
    ) -> tuple[dict[Metric, dict[Labels, Decimal]], dict[Metric, dict[Labels, Distribution]]]:
        """Return a copy that nobody changes."""
        with self._lock:
            return (
                {metric: dict(series) for metric, series in self._counters.items()},
                {
                    metric: {
                        labels: Distribution(list(one.counts), one.total_s)
                        for labels, one in series.items()
                    }
                    for metric, series in self._distributions.items()
                },
            )

    def _count(self, metric: Metric, labels: Labels, by: int | Decimal) -> None:
        series = self._counters.setdefault(metric, {})
        series[labels] = series.get(labels, _NOTHING) + by

    def _measure(
        self, metric: Metric, labels: Labels, measured: Measured | None, count: int
    ) -> None:
        if measured is None:
            return
        series = self._distributions.setdefault(metric, {})
        one = series.get(labels)
        if one is None:
            one = series[labels] = Distribution([0] * (len(metric.buckets) + 1))
        one.counts[measured.bucket] += count
        one.total_s += measured.total_s

    def _label(self, name: str, value: str | None) -> str:
        """Return a label's value: short, printable, and one of so many."""
        if value is None:
            return UNKNOWN
        known = self._values.setdefault(name, {})
        label = known.get(value)
        if label is None:
            if len(known) >= (MOST_MODELS if name == "model" else MOST_VALUES):
                return OTHER
            clean = "".join(c if c.isprintable() else "?" for c in value[:_LONGEST])
            label = known[value] = clean
        return label


_NOTHING = Decimal(0)
_NO_LOOKUP = ("off", "coalesced")
"""Who waited for an equal request's call found nothing, and missed nothing: as in `lab.metrics`."""


def measured(metric: Metric, milliseconds: float | None) -> Measured | None:
    """Return where one duration lies among a metric's buckets."""
    if milliseconds is None:
        return None
    seconds = max(0.0, milliseconds / 1000)
    return Measured(bisect_left(metric.buckets, seconds), seconds)


_alive: weakref.WeakSet[Totals] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    """A child counts what it does itself, and its parent's lock may be held by nobody who is here."""
    for totals in list(_alive):
        totals._reset()


os.register_at_fork(after_in_child=_after_fork_in_child)
