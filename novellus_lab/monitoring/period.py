"""The time that a question is about, and the rollups that cover it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from novellus_lab.analytics.requests import moment
from novellus_lab.errors import InvalidRequestError
from novellus_lab.monitoring.rollups import DAY, HOUR, MINUTE, floor

if TYPE_CHECKING:
    from collections.abc import Iterator

TimeRange = (
    str
    | timedelta
    | datetime
    | tuple[str | timedelta | datetime | None, str | timedelta | datetime | None]
    | None
)
"""`"24h"` back from now, a timedelta, since a datetime; or (start, end), None for open."""

_BEGINNING = datetime(2000, 1, 1, tzinfo=UTC)
_STEPS = (("minute", MINUTE), ("hour", HOUR), ("day", DAY))


@dataclass(frozen=True, slots=True)
class Period:
    """From `start` on, before `end`; `label` is for people."""

    start: datetime
    end: datetime
    label: str
    open: bool
    """Whether it goes on until now: rows that are a clock's difference ahead belong to it, too."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a period: whole buckets of a grain, or, between minutes, rows of the log itself."""

    grain: str | None
    low: datetime
    high: datetime


def period(time_range: TimeRange) -> Period:
    """Return the period that is meant.

    Raises:
        InvalidRequestError: it is no duration, time or interval, or ends before it begins.
    """
    now = datetime.now(UTC)
    if isinstance(time_range, (tuple, list)):
        if len(time_range) != 2:
            raise InvalidRequestError(
                f"time_range must be a duration or (start, end), not {time_range!r:.80}"
            )
        start = moment("time_range[0]", time_range[0]) or _BEGINNING
        end = moment("time_range[1]", time_range[1])
        last = now if end is None else end
        if last <= start:
            raise InvalidRequestError(f"time_range ends before it begins: {time_range!r:.120}")
        label = f"{start.astimezone():%Y-%m-%d %H:%M} to {last.astimezone():%Y-%m-%d %H:%M}"
        return Period(max(start, _BEGINNING), last, label, end is None)
    start = moment("time_range", time_range) or _BEGINNING
    if start > now:
        raise InvalidRequestError(f"time_range begins in the future: {time_range!r:.80}")
    if isinstance(time_range, str):
        label = f"the last {time_range.strip()}"
    else:
        label = f"since {start.astimezone():%Y-%m-%d %H:%M}"
    return Period(max(start, _BEGINNING), now, label, True)


def stretches(period: Period) -> tuple[Stretch, ...]:
    """Return what covers a period: the coarsest rollups inside, finer ones at its ends."""
    end = floor(period.end, DAY) + DAY if period.open else period.end
    return tuple(_cover(period.start, end, len(_STEPS) - 1))


def _cover(low: datetime, high: datetime, level: int) -> Iterator[Stretch]:
    if low >= high:
        return
    if level < 0:
        yield Stretch(None, low, high)
        return
    grain, step = _STEPS[level]
    first, last = floor(low + step - timedelta(microseconds=1), step), floor(high, step)
    if first >= last:
        yield from _cover(low, high, level - 1)
        return
    yield from _cover(low, first, level - 1)
    yield Stretch(grain, first, last)
    yield from _cover(last, high, level - 1)
