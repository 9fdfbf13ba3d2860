"""Buckets of time on the clock of a place."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from zoneinfo import ZoneInfo

from novellus_lab.errors import InvalidRequestError

_EVERY = re.compile(
    r"(\d{0,6})\s*(m|min|minutes?|h|hours?|d|days?|w|weeks?|months?|mo|quarters?|y|years?)"
)
_MINUTES = {"m": 1, "h": 60, "d": 24 * 60, "w": 7 * 24 * 60}
_MONTHS = {"mo": 1, "q": 3, "y": 12}
_DAY_US = 86_400_000_000
_MONDAY_US = 4 * _DAY_US
"""The first Monday after 1970-01-01, from which weeks and runs of days are counted."""
_EPOCH = datetime(1970, 1, 1)


@dataclass(frozen=True, slots=True)
class Buckets:
    """Stretches of `every`, as the clocks of `zone` show them.

    Days begin at midnight there, and have 23 or 25 hours where clocks change; weeks begin on Monday. An
    hour that a clock shows twice is two buckets.
    """

    zone: ZoneInfo
    width_us: int
    """0: counted in months."""
    months: int

    def key(self, column: str, low: datetime, high: datetime) -> str:
        """Return SQL for a bucket's number; `start` makes a time of it.

        Args:
            column: a TIMESTAMPTZ column of DuckDB.
            low, high: earliest and latest time in it.
        """
        shifts = _shifts(self.zone, low, high)
        moment = f"epoch_us({column})"
        wall = f"({moment} + {_by_shift(column, shifts, 'offset')})"
        if self.months:
            month = f"datediff('month', TIMESTAMP '1970-01-01', make_timestamp({wall}))"
            return f"({month} - ((({month}) % {self.months}) + {self.months}) % {self.months})"
        origin = _MONDAY_US if self.width_us >= _DAY_US else 0
        into = f"((({wall} - {origin}) % {self.width_us}) + {self.width_us}) % {self.width_us}"
        if self._is_within_an_hour:
            begun = f"({moment} - {into})"
            if len(shifts) == 1:
                return begun
            # Where clocks change in the middle of a bucket, the second part begins with the change.
            return f"greatest({begun}, {_by_shift(column, shifts, 'since')})"
        return f"({wall} - {into})"

    def start(self, key: int) -> datetime:
        """Return when a bucket begins, in UTC: a clock that shows an hour twice could not tell."""
        if self._is_within_an_hour:
            return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=key)
        if self.months:
            wall = datetime(1970 + key // 12, key % 12 + 1, 1, tzinfo=self.zone)
        else:
            wall = (_EPOCH + timedelta(microseconds=key)).replace(tzinfo=self.zone)
        return wall.astimezone(
            UTC
        )  # a midnight that is skipped becomes the moment that came instead

    @property
    def _is_within_an_hour(self) -> bool:
        return 0 < self.width_us <= 3_600_000_000


def buckets(every: str, tz: str) -> Buckets:
    """Read `"1h"`, `"15m"`, `"1d"`, `"1w"`, `"month"`, `"quarter"` or `"year"`.

    Raises:
        InvalidRequestError: `every` or `tz` is none.
    """
    at = zone(tz)
    found = _EVERY.fullmatch(every.strip().lower()) if isinstance(every, str) else None
    if found is None:
        raise InvalidRequestError(
            f"every must be a width such as '15m', '1h', '1d', '1w', 'month', 'quarter' or 'year', "
            f"not {every!r:.80}"
        )
    number, unit = int(found[1] or 1), found[2]
    if unit.startswith(("mo", "q", "y")):
        months = number * _MONTHS["mo" if unit.startswith("mo") else unit[0]]
        if not 0 < months <= 12 or 12 % months:
            raise InvalidRequestError(f"every={every!r} does not divide a year evenly")
        return Buckets(at, 0, months)
    minutes = number * _MINUTES[unit[0]]
    if minutes == 0 or (minutes < 24 * 60 and (24 * 60) % minutes):
        raise InvalidRequestError(f"every={every!r} does not divide a day evenly")
    return Buckets(at, minutes * 60_000_000, 0)


def zone(tz: str) -> ZoneInfo:
    """Return a time zone by its IANA name.

    Raises:
        InvalidRequestError
    """
    try:
        return ZoneInfo(tz)
    except (ValueError, TypeError, OSError, KeyError):
        raise InvalidRequestError(
            f"tz must be a time zone such as 'UTC' or 'Europe/Berlin', not {tz!r:.80}"
        ) from None


@dataclass(frozen=True, slots=True)
class _Shift:
    since: int
    """Microseconds since 1970, UTC."""
    offset: int
    """What a wall clock shows then, less UTC, in microseconds."""


def _by_shift(column: str, shifts: tuple[_Shift, ...], field: str) -> str:
    latest = f"{getattr(shifts[-1], field)}"
    if len(shifts) == 1:
        return latest
    cases = " ".join(
        f"WHEN epoch_us({column}) < {after.since} THEN {getattr(before, field)}"
        for before, after in pairwise(shifts)
    )
    return f"CASE {cases} ELSE {latest} END"


@lru_cache(maxsize=64)
def _between(place: ZoneInfo, first_day: int, last_day: int) -> tuple[_Shift, ...]:
    """Find the changes of a zone's clocks, to the second. Days are counted from 1970-01-01."""

    def offset(second: int) -> int:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=second)
        shift = moment.astimezone(place).utcoffset()
        assert shift is not None  # noqa: S101
        return round(shift.total_seconds() * 1_000_000)

    start = first_day * 86_400
    shifts = [_Shift(-(2**62), offset(start))]
    for second in range(start, last_day * 86_400, 86_400):
        low, high = second, second + 86_400
        if offset(high) == shifts[-1].offset:
            continue
        while high - low > 1:
            middle = (low + high) // 2
            if offset(middle) == shifts[-1].offset:
                low = middle
            else:
                high = middle
        shifts.append(_Shift(high * 1_000_000, offset(high)))
    return tuple(shifts)


def _shifts(place: ZoneInfo, low: datetime, high: datetime) -> tuple[_Shift, ...]:
    if place.key in ("UTC", "Etc/UTC"):
        return (_Shift(-(2**62), 0),)
    day = timedelta(days=1)
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return _between(place, (low - epoch) // day - 1, (high - epoch) // day + 2)
