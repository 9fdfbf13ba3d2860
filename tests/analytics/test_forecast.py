"""Forecasts hold the truth as often as they say, and say when they can't know."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import numpy as np
import pytest

from novellus_lab.analytics.forecast import forecast, remaining
from novellus_lab.errors import InvalidRequestError
from tests.analytics.conftest import asked

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("days", "ahead", "kinship"),
    [(56, 10, 0.0), (56, 20, 0.4), (28, 5, 0.0), (10, 5, 0.0), (40, 1, 0.3)],
)
def test_the_interval_holds_the_truth_about_95_times_in_100(days, ahead, kinship):
    rng = np.random.default_rng(7)
    week = np.array([1.2, 1.3, 1.2, 1.1, 1.0, 0.6, 0.6]) if days >= 28 else np.ones(7)
    held = 0
    for _ in range(400):
        noise = rng.normal(0, 0.25, days + ahead)
        for n in range(1, len(noise)):
            noise[n] += kinship * (noise[n - 1])
        every = week[np.arange(days + ahead) % 7] * 100 * np.exp(noise)
        weekdays = [n % 7 for n in range(days + ahead)]
        coming = [(w, 1.0) for w in weekdays[days:]]
        _, low, high, _ = remaining(list(every[:days]), weekdays[:days], coming)
        held += low <= every[days:].sum() <= high
    assert 0.915 <= held / 400 <= 0.995


def test_the_month_so_far_and_to_its_end(mirror, log):
    days = [NOW - timedelta(days=n) for n in range(50)]
    log(*({"created_at": d, "cost_usd": Decimal("2.5")} for d in days))
    log({"created_at": NOW - timedelta(days=1), "cost_usd": None, "model": "x"})
    log({"created_at": NOW + timedelta(hours=1), "cost_usd": Decimal(99)})
    found = forecast(mirror, asked(), "month", now=NOW + timedelta(seconds=1))
    assert found.spent_usd == 24 * Decimal("2.5")
    assert float(found.expected_usd) == pytest.approx(60 + 6.5 * 2.5, rel=1e-3)
    assert found.low_usd <= found.expected_usd <= found.high_usd
    assert (found.days, found.unpriced) == (49, 1)
    assert any("without a price" in note for note in found.notes)
    assert (found.start.day, found.end.month, found.end.day) == (1, 12, 1)
    assert "this month" in found._repr_html_()
    assert forecast(mirror, asked(model="x"), "month", now=NOW).spent_usd == 0


def test_little_history_is_said_and_not_hidden(mirror, log):
    nothing = forecast(mirror, asked(), "month", now=NOW)
    assert (nothing.spent_usd, nothing.expected_usd, nothing.low_usd) == (0, None, None)
    assert "nothing to go by" in nothing.notes[0]
    assert "not known" in nothing._repr_html_()
    log(*({"created_at": NOW - timedelta(days=n), "cost_usd": 1} for n in range(4)))
    few = forecast(mirror, asked(), "week", now=NOW + timedelta(milliseconds=1))
    assert few.spent_usd == 2
    assert (few.days, few.low_usd, few.high_usd) == (3, None, None)
    assert float(few.expected_usd) == pytest.approx(float(few.spent_usd) + 5.5)
    assert "before a week" in few.notes[-1]
    log(*({"created_at": NOW - timedelta(days=n), "cost_usd": 1} for n in range(4, 10)))
    more = forecast(mirror, asked(), "week", now=NOW)
    assert more.low_usd is not None
    assert "pattern of the week" in more.notes[0]


def test_periods_are_those_of_the_place(mirror):
    late = datetime(2026, 10, 31, 23, 30, tzinfo=UTC)
    berlin = forecast(mirror, asked(tz="Europe/Berlin"), "month", now=late)
    assert (berlin.start.isoformat(), berlin.end.isoformat()) == (
        "2026-11-01T00:00:00+01:00", "2026-12-01T00:00:00+01:00",
    )  # fmt: skip
    spans = {"day": (31, 1), "week": (26, 2), "quarter": (1, 1), "year": (1, 1)}
    for period, (first, after) in spans.items():
        found = forecast(mirror, asked(), period, now=late)
        assert (found.start.day, found.end.day) == (first, after)
    with pytest.raises(InvalidRequestError, match="period"):
        forecast(mirror, asked(), "fortnight")
