"""What a period will have cost when it ends, and how sure that is."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import pairwise
from statistics import NormalDist, fmean
from typing import TYPE_CHECKING

from novellus_lab.analytics.frames import costs
from novellus_lab.analytics.intervals import LEVEL
from novellus_lab.analytics.timing import zone
from novellus_lab.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from zoneinfo import ZoneInfo

    from novellus_lab.analytics.grouping import Question
    from novellus_lab.analytics.log_mirror import LogMirror

PERIODS = ("day", "week", "month", "quarter", "year")
_HISTORY = 56
_WEEKDAYS_FROM = 28
_INTERVAL_FROM = 7


@dataclass(frozen=True, slots=True)
class Forecast:
    """Spend to the end of a period. Shows itself as a table."""

    period: str
    start: datetime
    end: datetime
    spent_usd: Decimal
    """Exact, so far, of the requests that have a price."""
    unpriced: int
    """Requests since `start` that nobody knows the price of: neither spend nor forecast has them."""
    expected_usd: Decimal | None
    """None: nothing to go by."""
    low_usd: Decimal | None
    high_usd: Decimal | None
    """95% interval; None: too few days for one."""
    days: int
    """Full days of history that it stands on."""
    notes: tuple[str, ...]
    """What to hold against it."""

    def _repr_html_(self) -> str:
        from novellus_lab.display import money, table_html

        sure = (
            "not known"
            if self.low_usd is None or self.high_usd is None
            else f"{money(self.low_usd)} to {money(self.high_usd)}"
        )
        rows = [
            ("spent so far", money(self.spent_usd)),
            ("at its end", "not known" if self.expected_usd is None else money(self.expected_usd)),
            ("with 95%", sure),
            ("without a price", f"{self.unpriced:,} requests"),
        ]
        header = (f"this {self.period}", f"to {self.end:%Y-%m-%d}")
        return table_html(header, rows, (f"from {self.days} days", *self.notes))


def forecast(
    mirror: LogMirror, question: Question, period: str, *, now: datetime | None = None
) -> Forecast:
    """Forecast the spend of the period that is under way, on the clock of the question's zone.

    The days before today (56 at most) give the level, from 28 on also the pattern of the week. The
    interval counts the scatter of days, how they hang together, and that the level itself is an estimate;
    it knows nothing of what never happened yet, such as a launch.

    Raises:
        InvalidRequestError: there is no such period.
    """
    if period not in PERIODS:
        raise InvalidRequestError(f"period must be one of {', '.join(PERIODS)}, not {period!r:.80}")
    place = zone(question.tz)
    moment = (now or datetime.now(UTC)).astimezone(place)
    today = moment.date()
    first, after = calendar_span(period, today)
    oldest = min(first, today - timedelta(days=_HISTORY))
    filters = {**(question.filters or {}), "until": moment}
    daily = costs(
        mirror,
        replace(question, since=_midnight(oldest, place), every="1d", by=None, filters=filters),
    )
    by_day = {
        row["time"].date(): (row["cost_usd"] or Decimal(0), row["unpriced"])
        for row in daily.to_dicts()
    }
    spent = sum((usd for day, (usd, _) in by_day.items() if day >= first), Decimal(0))
    unpriced = sum(n for day, (_, n) in by_day.items() if day >= first)
    known = [day for day in by_day if day < today]
    begun = max(min(known, default=today), today - timedelta(days=_HISTORY))
    history = [begun + timedelta(days=n) for n in range((today - begun).days)]
    spends = [float(by_day.get(day, (Decimal(0), 0))[0]) for day in history]

    midnight, next_midnight = _midnight(today, place), _midnight(today + timedelta(days=1), place)
    rest_of_today = (next_midnight - moment.astimezone(UTC)) / (next_midnight - midnight)
    days_left = [today + timedelta(days=n) for n in range((after - today).days)]
    ahead = [(day.weekday(), rest_of_today if day == today else 1.0) for day in days_left]
    rest, low, high, notes = remaining(spends, [day.weekday() for day in history], ahead)
    if unpriced:
        notes = (*notes, f"{unpriced:,} requests without a price are not in it")
    return Forecast(
        period,
        _midnight(first, place).astimezone(place),
        _midnight(after, place).astimezone(place),
        spent,
        unpriced,
        None if rest is None else spent + _usd(rest),
        None if low is None else spent + _usd(low),
        None if high is None else spent + _usd(high),
        len(history),
        notes,
    )


def remaining(
    spends: Sequence[float], weekdays: Sequence[int], ahead: Sequence[tuple[int, float]]
) -> tuple[float | None, float | None, float | None, tuple[str, ...]]:
    """Return what days ahead will cost, the bounds of that, and what to hold against it.

    Args:
        spends, weekdays: of each full day of history, oldest first.
        ahead: weekday, and how much of the day is still to come.
    """
    n = len(spends)
    if n == 0:
        return None, None, None, ("no full day of history yet: there is nothing to go by",)
    weights = dict.fromkeys(range(7), 1.0)
    notes: tuple[str, ...] = ()
    level = fmean(spends)
    if n >= _WEEKDAYS_FROM and level > 0:
        for weekday in range(7):
            same = [s for s, w in zip(spends, weekdays, strict=True) if w == weekday]
            # A tenth at least: a weekday that never cost anything may yet.
            weights[weekday] = max(fmean(same) / level, 0.1)
    else:
        notes = (f"{n} days of history: too few for the pattern of the week",)
    even = [s / weights[w] for s, w in zip(spends, weekdays, strict=True)]
    level = fmean(even)
    load = sum(weights[weekday] * share for weekday, share in ahead)
    expected = level * load
    if n < _INTERVAL_FROM:
        return expected, None, None, (*notes, "no interval before a week of history")
    # Each weekday's weight is an estimate too: it takes a degree of freedom.
    fitted = 7 if n >= _WEEKDAYS_FROM else 1
    variance = sum((e - level) ** 2 for e in even) / (n - fitted)
    kinship = _lag_1(even, level)
    together = (1 + kinship) / (1 - kinship)
    squares = sum((weights[weekday] * share) ** 2 for weekday, share in ahead)
    spread = math.sqrt(variance * together * (squares + load**2 / n))
    reach = _student(0.5 + LEVEL / 2, max(n / together - fitted, 3)) * spread
    return expected, max(expected - reach, 0.0), expected + reach, notes


def _lag_1(values: Sequence[float], mean: float) -> float:
    """How much a day is like the one before: 0 to 0.8; few days know it badly, and think it too small."""
    whole = sum((v - mean) ** 2 for v in values)
    if whole == 0:
        return 0.0
    found = sum((a - mean) * (b - mean) for a, b in pairwise(values)) / whole
    return min(max(found + 2 / len(values), 0.0), 0.8)


def _student(p: float, freedom: float) -> float:
    """Student's quantile, by Cornish and Fisher: right to 2% from three degrees of freedom on."""
    z = NormalDist().inv_cdf(p)
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )


def calendar_span(period: str, day: date) -> tuple[date, date]:
    """Return the first day of a period, and the first one after it."""
    if period == "day":
        return day, day + timedelta(days=1)
    if period == "week":
        first = day - timedelta(days=day.weekday())
        return first, first + timedelta(days=7)
    months = {"month": 1, "quarter": 3, "year": 12}[period]
    number = (day.year * 12 + day.month - 1) // months * months
    after = number + months
    return date(number // 12, number % 12 + 1, 1), date(after // 12, after % 12 + 1, 1)


def _midnight(day: date, place: ZoneInfo) -> datetime:
    return datetime.combine(day, time(), place).astimezone(UTC)


def _usd(amount: float) -> Decimal:
    return Decimal(amount).quantize(Decimal("0.000001"))
