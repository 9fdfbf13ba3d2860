"""Buckets follow the clocks of a place, also on the days when these are changed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from novellus_lab.analytics.timing import buckets

ZONES = [
    "UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe",
    "America/Sao_Paulo", "Africa/Casablanca", "Pacific/Apia", "Asia/Kathmandu", "Asia/Beirut",
]  # fmt: skip


def starts(times: list[datetime], every: str, tz: str) -> list[datetime]:
    split = buckets(every, tz)
    connection = duckdb.connect(config={"threads": 1})
    connection.execute("CREATE TABLE log (t TIMESTAMPTZ, n INT)")
    connection.executemany("INSERT INTO log VALUES (?, ?)", [[t, n] for n, t in enumerate(times)])
    key = split.key("t", min(times), max(times))
    rows = connection.execute(f"SELECT {key} FROM log ORDER BY n").fetchall()
    return [split.start(k) for (k,) in rows]


def shown(times: list[datetime], every: str, tz: str) -> list[datetime]:
    return [start.astimezone(ZoneInfo(tz)) for start in starts(times, every, tz)]


def expected(time: datetime, every: str, tz: str) -> datetime:
    """The latest moment, not after `time`, at which a clock there shows the start of a bucket."""
    zone = ZoneInfo(tz)
    wall = time.astimezone(zone).replace(tzinfo=None)
    midnight = wall.replace(hour=0, minute=0, second=0, microsecond=0)
    start = {
        "1d": midnight,
        "1w": midnight - timedelta(days=wall.weekday()),
        "month": midnight.replace(day=1),
        "quarter": midnight.replace(day=1, month=(wall.month - 1) // 3 * 3 + 1),
        "year": midnight.replace(day=1, month=1),
        "6h": wall.replace(hour=wall.hour // 6 * 6, minute=0, second=0, microsecond=0),
    }[every]
    return start.replace(tzinfo=zone).astimezone(UTC)


_times = st.datetimes(datetime(1995, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(_times, min_size=1, max_size=8),
    st.sampled_from(["6h", "1d", "1w", "month", "quarter", "year"]),
    st.sampled_from(ZONES),
)
def test_days_weeks_and_months_begin_when_the_clock_says_so(times, every, tz):
    assert starts(times, every, tz) == [expected(t, every, tz) for t in times]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(_times, min_size=1, max_size=8),
    st.sampled_from(["5m", "15m", "1h"]),
    st.sampled_from(ZONES),
)
def test_an_hour_is_never_longer_and_holds_its_times(times, every, tz):
    width = timedelta(minutes={"5m": 5, "15m": 15, "1h": 60}[every])
    for time, start in zip(times, starts(times, every, tz), strict=True):
        assert start <= time < start + width
        wall = start.astimezone(ZoneInfo(tz))
        changed = (
            wall.utcoffset() != (start - timedelta(seconds=1)).astimezone(wall.tzinfo).utcoffset()
        )
        assert changed or (wall.hour * 60 + wall.minute) % (width // timedelta(minutes=1)) == 0


def test_the_days_when_clocks_change():
    hours = [datetime(2026, 3, 28, 23, 30, tzinfo=UTC) + timedelta(hours=n) for n in range(24)]
    assert starts(hours, "1d", "Europe/Berlin").count(datetime(2026, 3, 28, 23, tzinfo=UTC)) == 23
    hours = [datetime(2026, 10, 24, 22, 30, tzinfo=UTC) + timedelta(hours=n) for n in range(26)]
    assert starts(hours, "1d", "Europe/Berlin").count(datetime(2026, 10, 24, 22, tzinfo=UTC)) == 25
    twice = starts(hours, "1h", "Europe/Berlin")
    assert len(set(twice)) == 26
    assert [t.astimezone(ZoneInfo("Europe/Berlin")).strftime("%H:%M %Z") for t in twice[2:4]] == [
        "02:00 CEST",
        "02:00 CET",
    ]
    # Midnight is skipped in Beirut: the day begins at one.
    [first] = shown([datetime(2026, 3, 29, 5, tzinfo=UTC)], "1d", "Asia/Beirut")
    assert (first.hour, first.utcoffset()) == (1, timedelta(hours=3))
    # Half an hour is put back on Lord Howe: what is shown again is a bucket of its own.
    half = [datetime(2026, 4, 4, 14, 30, tzinfo=UTC) + timedelta(minutes=20 * n) for n in range(5)]
    assert [t.strftime("%H:%M") for t in shown(half, "1h", "Australia/Lord_Howe")] == [
        "01:00", "01:00", "01:30", "02:00", "02:00"
    ]  # fmt: skip
    # Apia had no 30 December 2011.
    days = [datetime(2011, 12, 30, 0, tzinfo=UTC) + timedelta(hours=12 * n) for n in range(4)]
    assert [t.day for t in shown(days, "1d", "Pacific/Apia")] == [29, 31, 31, 1]


def test_spellings():
    assert buckets("hour", "UTC") == buckets("1h", "UTC") == buckets("60m", "UTC")
    assert buckets("3 months", "UTC") == buckets("quarter", "UTC")
    with pytest.raises(ValueError, match="year evenly"):
        buckets("5months", "UTC")
