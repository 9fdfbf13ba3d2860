"""The period that a report is about, and the one that it is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING

from novellus_lab.analytics.forecast import PERIODS, calendar_span
from novellus_lab.analytics.requests import duration, moment
from novellus_lab.analytics.timing import zone
from novellus_lab.errors import InvalidRequestError

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

Period = str | timedelta | tuple[str | date | datetime, str | date | datetime]


@dataclass(frozen=True, slots=True)
class ReportPeriod:
    """From `start` to `end`; before it, from `before` to `start`. Times are on the report's clock."""

    before: datetime
    start: datetime
    end: datetime
    name: str
    before_name: str

    @property
    def every(self) -> str:
        """The width of buckets that suits its figures."""
        days = (self.end - self.start) / timedelta(days=1)
        return "1h" if days <= 3 else "1d" if days <= 120 else "1w" if days <= 800 else "month"


def report_period(
    period: Period, until: str | datetime | timedelta | None, tz: str, now: datetime | None = None
) -> ReportPeriod:
    """Read `"30d"`, a timedelta, `"month"` (so far), `"last month"`, or `(start, end)`.

    A period is compared with as long a one before it, a whole calendar period with the one before.

    Raises:
        InvalidRequestError: it is none of these, or has no length.
    """
    place = zone(tz)
    end = moment("until", until) or now or datetime.now(UTC)
    if isinstance(period, tuple) and len(period) == 2:
        start, end = (_time(edge, place) for edge in period)
        name = f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}"
        if {start.time(), end.time()} == {time()}:
            name = f"{start:%Y-%m-%d} to {end - timedelta(days=1):%Y-%m-%d}"
        return _against_as_long(start, end, name, place)
    words = period.strip().lower() if isinstance(period, str) else ""
    if words in PERIODS:
        first, _ = calendar_span(words, end.astimezone(place).date())
        return _against_as_long(_midnight(first, place), end, f"this {words} so far", place)
    if words.removeprefix("last ") in PERIODS:
        unit = words.removeprefix("last ")
        after, _ = calendar_span(unit, end.astimezone(place).date())
        first, _ = calendar_span(unit, after - timedelta(days=1))
        earlier, _ = calendar_span(unit, first - timedelta(days=1))
        before, start, end = (_midnight(day, place) for day in (earlier, first, after))
        name = f"the {unit} from {first:%Y-%m-%d}"
        return ReportPeriod(before, start, end, name, f"the {unit} before")
    try:
        length = duration("period", period)
    except InvalidRequestError:
        raise InvalidRequestError(
            f"period must be a duration such as '30d', 'month', 'last month' (or {', '.join(PERIODS)}), "
            f"or (start, end), not {period!r:.80}"
        ) from None
    if length <= timedelta(0):
        raise InvalidRequestError(f"period must be longer than nothing, not {period!r:.80}")
    try:
        return _against_as_long(end - length, end, f"the last {_words(length)}", place)
    except OverflowError:
        raise InvalidRequestError(f"the period is too long: {period!r:.80}") from None


def _words(length: timedelta) -> str:
    for unit, word in ((timedelta(days=1), "day"), (timedelta(hours=1), "hour")):
        if length >= unit:
            n = length / unit
            return word if n == 1 else f"{n:.4g} {word}s"
    return f"{length / timedelta(minutes=1):.4g} minutes"


def _against_as_long(start: datetime, end: datetime, name: str, place: ZoneInfo) -> ReportPeriod:
    start, end = start.astimezone(UTC), end.astimezone(UTC)  # clocks that change are no length
    if start >= end:
        raise InvalidRequestError(f"a period must end after it begins: {start} to {end}")
    try:
        before = (start - (end - start)).astimezone(place)
    except OverflowError:
        raise InvalidRequestError(f"the period is too long: {start} to {end}") from None
    start, end = start.astimezone(place), end.astimezone(place)
    return ReportPeriod(before, start, end, name, "as long before")


def _time(edge: object, place: ZoneInfo) -> datetime:
    try:
        if isinstance(edge, str):
            edge = datetime.fromisoformat(edge)
        if isinstance(edge, datetime):
            return edge if edge.tzinfo is not None else edge.replace(tzinfo=place)
        if isinstance(edge, date):
            return _midnight(edge, place)
    except ValueError:
        pass
    raise InvalidRequestError(f"a period's edge must be a time or a day, not {edge!r:.80}")


def _midnight(day: date, place: ZoneInfo) -> datetime:
    return datetime.combine(day, time(), place)
