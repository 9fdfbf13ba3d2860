"""A metric around an anomaly, beside what is usual: what a figure of it shows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import TYPE_CHECKING

from novellus_lab.monitoring.detection import connected
from novellus_lab.monitoring.log_buckets import Sums, floor, read_buckets
from novellus_lab.monitoring.watched import METRICS, Metric

if TYPE_CHECKING:
    from collections.abc import Sequence

    from novellus_lab.monitoring.anomaly import Anomaly

_DAYS = 7
_NEAR = 2
"""Buckets to either side of the same time of an earlier day."""
_FEWEST = 3
_RECENT = 60
_DEVIATIONS = 3.0
_SIGMA = 1.4826
"""Standard deviation of normal noise whose median absolute deviation is 1."""
_NEARLY_ALL = 0.99
_BEFORE = timedelta(hours=12)


@dataclass(frozen=True, slots=True)
class SeriesHistory:
    """Values of a metric, in its unit, with what was expected and the usual range; NaN: no value.

    `expected` is the median at that time of the day over a week, or of the last 60 buckets where there
    are no days; between `low` and `high` lie three deviations of the quiet part, and 99 % of it.
    """

    metric: Metric
    model: str | None
    times: tuple[datetime, ...]
    values: tuple[float, ...]
    expected: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def history_of(conninfo: str, anomaly: Anomaly) -> SeriesHistory:
    """Read the metric of an anomaly from half a day before it (three times its length, if that is more).

    Raises:
        StoreUnavailableError: the database does not answer.
    """
    width, metric = anomaly.bucket, METRICS[anomaly.metric]
    now = floor(datetime.now(UTC), width)
    end = anomaly.end or now
    margin = max(_BEFORE, 3 * (end - anomaly.start))
    first = floor(anomaly.start - margin, width)
    last = min(now, floor(end + margin / 3, width) + width)
    with connected(conninfo) as connection:
        start = first - timedelta(days=_DAYS)
        buckets = read_buckets(connection, [(start, last)], width, anomaly.model)
    none = Sums()
    times, values = [], []
    time = min(buckets, default=last)
    while time < last:
        times.append(time)
        values.append(metric.value(buckets.get(time, {}).get(anomaly.model) or none))
        time += width
    quiet = [not anomaly.start <= time < end for time in times]
    expected = _expected(values, quiet, timedelta(days=1) // width)
    low, high = _usual_range(metric, values, expected, quiet)
    shown = slice(next((n for n, time in enumerate(times) if time >= first), len(times)), None)
    return SeriesHistory(
        metric,
        anomaly.model,
        *(tuple(column[shown]) for column in (times, values, expected, low, high)),  # type: ignore[arg-type]
    )


def _expected(values: Sequence[float], quiet: Sequence[bool], a_day: int) -> list[float]:
    expected = []
    recent: list[float] = []
    for n, value in enumerate(values):
        same = [
            values[at]
            for day in range(1, _DAYS + 1)
            for at in range(n - day * a_day - _NEAR, n - day * a_day + _NEAR + 1)
            if at >= 0 and quiet[at] and not math.isnan(values[at])
        ]
        known = same if len(same) >= _FEWEST else recent
        expected.append(median(known) if known else math.nan)
        if quiet[n] and not math.isnan(value):
            recent = [*recent[1 - _RECENT :], value]
    return expected


def _usual_range(
    metric: Metric, values: Sequence[float], expected: Sequence[float], quiet: Sequence[bool]
) -> tuple[list[float], list[float]]:
    usual = [metric.learnt(value) for value in expected]
    away = [
        abs(metric.learnt(value) - centre)
        for value, centre, calm in zip(values, usual, quiet, strict=True)
        if calm
    ]
    known = sorted(one for one in away if not math.isnan(one))
    # Of rates that are mostly 0 the median deviation is, too.
    nearly_all = known[int(_NEARLY_ALL * (len(known) - 1))] if known else math.nan
    reach = max(_DEVIATIONS * _SIGMA * median(known), nearly_all) if known else math.nan
    low = [metric.unlearnt(centre - reach) for centre in usual]
    high = [metric.unlearnt(centre + reach) for centre in usual]
    if not metric.as_log:
        low, high = [max(0.0, one) for one in low], [min(1.0, one) for one in high]
    return low, high
