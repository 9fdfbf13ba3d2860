"""The detectors over the log: every metric of every model, and of all models together."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from novellus_lab.errors import InvalidRequestError
from novellus_lab.monitoring.anomaly import Anomaly, merged, without_echoes
from novellus_lab.monitoring.detect.baseline import WEEKS
from novellus_lab.monitoring.log_buckets import BucketsOfModels, Sums, floor, read_buckets
from novellus_lab.monitoring.metric_watch import MetricWatch
from novellus_lab.monitoring.watched import METRICS, Metric

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import psycopg

_WEEK = timedelta(weeks=1)
_MOST_LEARNT = 6
"""Models with most requests that are learnt; those after them have the rules alone."""
_MOST_BUCKETS = 100_000


@dataclass(frozen=True, slots=True)
class Watching:
    """What is looked at, and how.

    `false_alarms` is how many the learning detectors may give a week for one metric of one model; 0:
    they are not asked. `rules`: whether the rules are.
    """

    width: timedelta
    false_alarms: float = 1.0
    metrics: tuple[Metric, ...] = tuple(METRICS.values())
    model: str | None = None
    rules: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.false_alarms, bool) or not 0 <= self.false_alarms <= 1000:
            raise InvalidRequestError(
                f"false_alarms must be a number a week from 0 to 1000, not {self.false_alarms!r:.80}"
            )

    @property
    def learnt_before(self) -> timedelta:
        """How much of the log before a range is gone through, so that the range is judged by it."""
        for most_s, days in ((60, 1), (300, 4), (900, 7)):
            if self.width <= timedelta(seconds=most_s):
                return timedelta(days=days)
        return timedelta(days=28)


class Scan:
    """Watches for all models, fed bucket by bucket. A model is watched from its first request on."""

    def __init__(self, watching: Watching, learnt: Iterable[str | None]) -> None:
        self._watching = watching
        self._learnt = set(learnt)
        self._watches: dict[tuple[str | None, str], MetricWatch] = {}
        self._models: set[str | None] = set()

    def remember(self, buckets: BucketsOfModels) -> None:
        """Take buckets of weeks ago into the baselines."""
        for start in sorted(buckets):
            for model, sums in buckets[start].items():
                for watch in self._of(model):
                    watch.remember(start, sums)

    def observe(self, start: datetime, models: dict[str | None, Sums]) -> None:
        """Judge one bucket of all models. A model that is missing made no request in it."""
        nothing = Sums()
        for model in self._models | models.keys():
            for watch in self._of(model):
                watch.observe(start, models.get(model, nothing))

    def found(self, since: datetime) -> list[Anomaly]:
        """What went on at `since` or later, for each model and metric by itself."""
        return [one for watch in self._watches.values() for one in watch.found(since)]

    def forget(self, before: datetime) -> None:
        for watch in self._watches.values():
            watch.forget(before)

    def _of(self, model: str | None) -> Iterator[MetricWatch]:
        first = model not in self._models
        self._models.add(model)
        asked = self._watching
        for metric in asked.metrics:
            if first:
                learns = asked.false_alarms > 0 and model in self._learnt
                alarms = asked.false_alarms if learns else None
                self._watches[model, metric.name] = MetricWatch(
                    metric, model, asked.width, alarms, rules=asked.rules
                )
            yield self._watches[model, metric.name]


def together(scans: Iterable[Scan], since: datetime) -> list[Anomaly]:
    """What several scans found at `since` or later: one anomaly an event, oldest first."""
    found = without_echoes(merged(one for scan in scans for one in scan.found(since)))
    return sorted(found, key=lambda one: (one.start, one.metric))


def prepared(
    connection: psycopg.Connection, watching: Watching, since: datetime, until: datetime
) -> Scan:
    """Return a scan that has gone through the log before and within a range.

    The rules' baselines reach four weeks back, to the same hours of the week.

    Raises:
        InvalidRequestError: the range holds more than 100,000 buckets.
    """
    width = watching.width
    if (until - since) / width > _MOST_BUCKETS:
        raise InvalidRequestError(
            f"{until - since} in buckets of {width} are too many points: choose wider buckets"
        )
    first = floor(since - watching.learnt_before, width)
    end = floor(until, width)
    recent = read_buckets(connection, [(first, end)], width, watching.model)
    weeks_ago: list[tuple[datetime, datetime]] = []
    for week in range(WEEKS if watching.rules else 0, 0, -1):
        start = floor(since - week * _WEEK - timedelta(hours=1), width)
        stop = min(first, floor(until - week * _WEEK + timedelta(hours=1), width))
        if weeks_ago:
            start = max(start, weeks_ago[-1][1])
        if start < stop:
            weeks_ago.append((start, stop))
    past = read_buckets(connection, weeks_ago, width, watching.model)
    scan = Scan(watching, _busiest(recent))
    scan.remember(_without_the_whole_of_one(past))
    feed(scan, _without_the_whole_of_one(recent), end, width)
    return scan


def feed(
    scan: Scan,
    buckets: BucketsOfModels,
    end: datetime,
    width: timedelta,
    start: datetime | None = None,
) -> None:
    """Go through buckets up to `end`, empty ones too, from `start` or the first that has something."""
    if start is None:
        if not buckets:
            return
        start = min(buckets)
    while start < end:
        scan.observe(start, buckets.get(start, {}))
        start += width


def _busiest(buckets: BucketsOfModels) -> list[str | None]:
    requests: Counter[str | None] = Counter()
    for models in buckets.values():
        for model, sums in models.items():
            requests[model] += sums.requests
    busiest = [model for model, _ in requests.most_common() if model is not None]
    return [None, *busiest[:_MOST_LEARNT]]


def _without_the_whole_of_one(buckets: BucketsOfModels) -> BucketsOfModels:
    """Where there is but one model, all together are that one: no need to look twice."""
    models = {model for found in buckets.values() for model in found if model is not None}
    if len(models) == 1:
        (only,) = models
        whole = sum(found[None].requests for found in buckets.values() if None in found)
        its = sum(found[only].requests for found in buckets.values() if only in found)
        if whole in (its, 0):
            for found in buckets.values():
                found.pop(None, None)
    return buckets
