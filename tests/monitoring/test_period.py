"""A period is covered once, wholly, and by as few rollups as can be."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from novellus_lab.errors import InvalidRequestError
from novellus_lab.monitoring.period import Period, period, stretches

moments = st.datetimes(datetime(2025, 1, 1), datetime(2026, 12, 31), timezones=st.just(UTC))


@given(moments, st.timedeltas(timedelta(microseconds=1), timedelta(days=90)))
def test_the_stretches_join_without_gap_or_overlap(start, length) -> None:
    parts = stretches(Period(start, start + length, "", open=False))
    assert parts[0].low == start
    assert parts[-1].high == start + length
    assert all(a.high == b.low for a, b in itertools.pairwise(parts))
    for part in parts:
        if part.grain is not None:
            step = {"minute": 60, "hour": 3_600, "day": 86_400}[part.grain]
            assert part.low.timestamp() % step == part.high.timestamp() % step == 0
    # A minute, an hour and a day at most on each side, besides the whole of what is inside.
    assert len(parts) <= 7
    raw = sum((p.high - p.low for p in parts if p.grain is None), timedelta())
    assert raw < timedelta(minutes=2)


def test_durations_count_back_from_now() -> None:
    for text, length in (("1h", 3_600), ("24h", 86_400), ("30d", 30 * 86_400), ("90m", 5_400)):
        asked = period(text)
        assert asked.open
        assert (asked.end - asked.start).total_seconds() == pytest.approx(length, abs=1)
        assert asked.label == f"the last {text}"


def test_an_interval_has_an_end() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    asked = period((start, start + timedelta(hours=3)))
    assert (asked.start, asked.end, asked.open) == (start, start + timedelta(hours=3), False)
    assert period((start, None)).open
    assert period((timedelta(hours=2), timedelta(hours=1))).end < datetime.now(UTC)


@pytest.mark.parametrize(
    "wrong",
    [
        "yesterday",
        "",
        5,
        ("1h",),
        ("1h", "2h"),
        (datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)),
        datetime(2999, 1, 1, tzinfo=UTC),
    ],
)
def test_what_is_no_period_is_refused(wrong) -> None:
    with pytest.raises(InvalidRequestError, match="time_range"):
        period(wrong)
