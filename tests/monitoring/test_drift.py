"""Slow change is found, what is no change is not."""

from __future__ import annotations

import math
import pickle
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from novellus_lab.errors import InvalidRequestError
from novellus_lab.monitoring.detect.drift import Drift, DriftDetector
from novellus_lab.monitoring.detect.learned import LearnedDetector

MONDAY = datetime(2026, 1, 5, tzinfo=UTC)
STEP = timedelta(minutes=5)
DAY = 288


def series(days: int, *, shape: float = 0.3, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    phase = np.arange(days * DAY) / DAY * 2 * np.pi
    return 7 + shape * np.sin(phase) + rng.normal(0, 0.15, days * DAY)


def drifts(values: np.ndarray, rate: float = 0.5, **more: int) -> list[tuple[int, Drift]]:
    detector = DriftDetector(rate, interval=STEP, **more)
    seen = ((n, detector.observe(MONDAY + n * STEP, float(v))) for n, v in enumerate(values))
    return [(n, drift) for n, drift in seen if drift]


def test_a_drift_over_hours_is_found_with_two_days_of_history_and_ends_with_itself() -> None:
    values = series(4)
    first, length = 2 * DAY + 100, 48
    values[first : first + length] += np.linspace(0, math.log(2), length)
    found = drifts(values)
    assert first < found[0][0] < first + length
    assert {drift.start for _, drift in found} == {found[0][1].start}
    last = found[-1][1]
    assert MONDAY + (first - 24) * STEP <= last.start <= MONDAY + (first + length) * STEP
    assert last.end is not None
    assert last.end <= MONDAY + (first + length + 24) * STEP
    assert last.observed - last.expected == pytest.approx(0.6, abs=0.15)


def test_a_short_incident_is_no_drift() -> None:
    values = series(4)
    values[2 * DAY : 2 * DAY + 9] += 3
    assert drifts(values) == []


def test_the_day_s_shape_is_no_drift_and_a_weekend_is_none_the_second_time() -> None:
    assert drifts(series(10, shape=2.0)) == []
    values = series(21)
    for week in range(3):
        values[(7 * week + 5) * DAY : (7 * week + 7) * DAY] -= 1.5
    first_monday_after = MONDAY + timedelta(days=8)
    assert max(drift.start for _, drift in drifts(values)) < first_monday_after
    assert drifts(values, min_days=8) == []


def test_what_lasts_a_day_is_the_new_normal() -> None:
    values = series(8)
    values[3 * DAY :] += 1
    found = drifts(values)
    assert len({drift.start for _, drift in found}) == 1
    assert found[-1][0] <= 4 * DAY + 12


def test_false_drifts_keep_to_the_rate() -> None:
    rate, weeks = 2.0, 3
    false = sum(
        len({drift.start for _, drift in drifts(series(7 * weeks, seed=seed), rate)})
        for seed in range(3)
    )
    expected = rate * weeks * 3
    assert false <= expected + 3 * math.sqrt(expected)


def test_gaps_are_no_drift_and_a_detector_goes_on_where_it_was_pickled() -> None:
    values = series(4)
    values[500:700] = math.nan
    assert drifts(values) == []
    detector = DriftDetector(0.5, interval=STEP)
    for n, value in enumerate(values[:800]):
        detector.observe(MONDAY + n * STEP, float(value))
    copy = pickle.loads(pickle.dumps(detector))
    later = [(MONDAY + n * STEP, float(values[n]) + 2) for n in range(900, 1100)]
    seen = [detector.observe(*point) for point in later]
    assert any(seen)
    assert [copy.observe(*point) for point in later] == seen


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="alarms_per_week"):
        DriftDetector(0, interval=STEP)
    with pytest.raises(InvalidRequestError, match="divide a day"):
        DriftDetector(1, interval=timedelta(minutes=7))


def test_all_that_learns_finds_the_sudden_and_the_slow() -> None:
    values = series(4, shape=0.0)
    values[600] += 3
    values[900:948] += np.linspace(0, 1, 48)
    detector = LearnedDetector(1, interval=STEP)
    seen = [detector.observe(MONDAY + n * STEP, float(v)) for n, v in enumerate(values)]
    assert any(one.verdict and one.verdict.alarm for one in seen[600:604])
    assert not any(one.drift for one in seen[500:900])
    assert any(one.drift for one in seen[900:950])
