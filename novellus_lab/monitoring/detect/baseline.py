"""What is normal for a time bucket: the same hour and weekday where there is history."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median
from typing import Literal

WEEKS = 4
"""How far back the same hour of the same weekday is looked for."""
_WEEK = timedelta(weeks=1)
_HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Expected:
    """A baseline's word on a bucket: the median of `samples` earlier ones, and which they were."""

    value: float
    samples: int
    source: Literal["same_hour_and_weekday", "recent"]


class Baseline:
    """The median of the buckets that started in the same hour of the week, over up to four weeks.

    Where fewer than `min_weeks` weeks have that hour, the median of the last `recent` buckets stands
    in, and where there are fewer than `min_samples` of those, nothing is known and nothing alarms.
    Medians: a week with an incident in it moves nothing. Pass times in the zone whose hours are
    meant; local midnight is where the zone says.

    Buckets come in order of time, one `add` for each, after its `expected` was asked for.
    """

    def __init__(self, *, min_weeks: int = 2, recent: int = 60, min_samples: int = 10) -> None:
        self._min_weeks = min_weeks
        self._min_samples = min_samples
        self._recent: deque[float] = deque(maxlen=recent)
        self._by_hour: dict[tuple[int, int], deque[tuple[datetime, float]]] = {}

    def expected(self, start: datetime) -> Expected | None:
        """What is normal for the bucket that starts then; None where too little is known."""
        of_hour = [
            (then, value)
            for then, value in self._by_hour.get(_hour_of_week(start), ())
            if _HOUR < start - then <= WEEKS * _WEEK + _HOUR
        ]
        if len({round((start - then) / _WEEK) for then, _ in of_hour}) >= self._min_weeks:
            values = [value for _, value in of_hour]
            return Expected(median(values), len(values), "same_hour_and_weekday")
        if len(self._recent) >= self._min_samples:
            return Expected(median(self._recent), len(self._recent), "recent")
        return None

    def add(self, start: datetime, value: float) -> None:
        """Take a bucket into account from now on."""
        self._recent.append(value)
        of_hour = self._by_hour.setdefault(_hour_of_week(start), deque())
        of_hour.append((start, value))
        while start - of_hour[0][0] > WEEKS * _WEEK + _HOUR:
            of_hour.popleft()


def _hour_of_week(start: datetime) -> tuple[int, int]:
    return start.weekday(), start.hour
