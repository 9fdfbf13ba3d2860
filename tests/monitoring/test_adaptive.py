"""What the adaptive detector finds, and how seldom it is wrong."""

from __future__ import annotations

import math
import pickle
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from novellus_lab.errors import InvalidRequestError
from novellus_lab.monitoring.detect.adaptive import AdaptiveDetector, Verdict
from novellus_lab.monitoring.detect.scales import MultiScaleDetector
from novellus_lab.monitoring.detect.surprise import Surprise

MONDAY = datetime(2026, 1, 5, tzinfo=UTC)
STEP = timedelta(minutes=5)
DAY = 288


def judge(values: np.ndarray, detector: AdaptiveDetector | None = None) -> list[Verdict]:
    detector = detector or AdaptiveDetector(false_alarm_rate=0.001)
    return detector.run((MONDAY + n * STEP, float(value)) for n, value in enumerate(values))


def seasonal(days: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    phase = np.arange(days * DAY) / DAY * 2 * np.pi
    return 100 + 40 * np.sin(phase) + rng.normal(0, 3, days * DAY)


def alarms_from(verdicts: list[Verdict], first: int, last: int) -> list[Verdict]:
    return [verdict for verdict in verdicts[first:last] if verdict.alarm]


FAULT = 8 * DAY + 100


@pytest.mark.parametrize(
    ("name", "change", "points"),
    [
        ("spike", lambda x: x + 60, 1),
        ("level shift", lambda x: x + 40, DAY),
        ("drop at the height of the day", lambda x: x * 0 + 62, 40),
        ("flat line at a usual value", lambda x: x * 0 + x[0], 60),
        ("restless", lambda x: x + 25 * (-1.0) ** np.arange(len(x)), 30),
        ("slow drift", lambda x: x + np.linspace(0, 60, len(x)), 2 * DAY),
    ],
)
def test_what_is_odd_is_found(name, change, points: int) -> None:
    values = seasonal(12)
    values[FAULT : FAULT + points] = change(values[FAULT : FAULT + points])
    verdicts = judge(values)
    assert alarms_from(verdicts, FAULT, FAULT + points + 12), name
    assert len(alarms_from(verdicts, DAY, FAULT)) <= 2


def test_a_spike_is_found_at_once_and_said_once() -> None:
    values = seasonal(10)
    values[FAULT : FAULT + 6] += 80
    verdicts = judge(values)
    assert verdicts[FAULT].alarm
    assert verdicts[FAULT].score > 0.5
    assert verdicts[FAULT].expected == pytest.approx(values[FAULT] - 80, abs=15)
    assert len(alarms_from(verdicts, FAULT, FAULT + 100)) == 1


@pytest.mark.parametrize(
    "values",
    [
        lambda rng, n: rng.normal(size=n),
        lambda rng, n: np.exp(rng.normal(size=n) / 2),
        lambda rng, n: rng.poisson(4, n),
        lambda rng, n: rng.binomial(200, 0.01, n) / 200,
    ],
    ids=["normal", "lognormal", "counts", "rates"],
)
def test_false_alarms_keep_to_the_rate(values) -> None:
    rate, learning = 0.01, 400
    counted = alarms = 0
    for seed in range(2):
        verdicts = judge(
            values(np.random.default_rng(seed), 2400), AdaptiveDetector(false_alarm_rate=rate)
        )
        counted += len(verdicts) - learning
        alarms += len(alarms_from(verdicts, learning, len(verdicts)))
    assert alarms <= rate * counted + 3 * math.sqrt(rate * counted)


def test_a_verdict_never_knows_what_comes() -> None:
    values = seasonal(3)
    whole = judge(values)
    assert judge(values[:500]) == whole[:500]


def test_a_detector_goes_on_where_it_was_pickled() -> None:
    values = seasonal(3)
    detector = AdaptiveDetector()
    judge(values[:400], detector)
    copy = pickle.loads(pickle.dumps(detector))
    later = [(MONDAY + n * STEP, float(values[n])) for n in range(400, 600)]
    assert copy.run(later) == detector.run(later)


def test_its_size_does_not_grow() -> None:
    detector = AdaptiveDetector()
    values = seasonal(10)
    judge(values[: 8 * DAY], detector)
    early = len(pickle.dumps(detector))
    judge(values[8 * DAY :], detector)
    assert len(pickle.dumps(detector)) < 1.1 * early


@pytest.mark.parametrize("value", [1e300, -1e300, 0.0, 5e-324])
def test_extreme_values_do_no_harm(value: float) -> None:
    values = seasonal(2)
    values[300] = value
    verdicts = judge(values)
    assert all(0 <= verdict.score <= 1 and 0 < verdict.p_value <= 1 for verdict in verdicts)


def test_a_constant_series_is_quiet_until_it_moves() -> None:
    values = np.full(1000, 45.0)
    values[900:] = 46.0
    verdicts = judge(values)
    assert not alarms_from(verdicts, 0, 900)
    assert verdicts[900].alarm


def test_missing_values_are_no_anomaly() -> None:
    values = seasonal(2)
    values[300:310] = math.nan
    verdicts = judge(values)
    assert {verdict.score for verdict in verdicts[300:310]} == {0.0}
    assert all(math.isfinite(verdict.score) for verdict in verdicts)


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="false_alarm_rate"):
        AdaptiveDetector(false_alarm_rate=0)
    with pytest.raises(InvalidRequestError, match="echo"):
        AdaptiveDetector(echo=0)
    with pytest.raises(InvalidRequestError, match="widths"):
        MultiScaleDetector(1, interval=STEP, widths=())


def test_alarms_per_week_are_a_rate_of_points() -> None:
    detector = AdaptiveDetector.alarms_per_week(2, interval=timedelta(minutes=1))
    assert detector.false_alarm_rate == pytest.approx(2 / 10080)


def test_a_shift_below_the_noise_is_found_in_the_mean() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(100, 10, 15 * 300)
    start = 15 * 250
    values[start : start + 90] += 12
    detector = MultiScaleDetector(7, interval=timedelta(minutes=1))
    verdicts = [
        detector.observe(MONDAY + n * timedelta(minutes=1), float(value))
        for n, value in enumerate(values)
    ]
    found = [verdict for verdict in verdicts[start : start + 90] if verdict and verdict.alarm]
    assert found
    assert found[0].points == 15


def test_p_values_are_uniform_among_equals() -> None:
    rng = np.random.default_rng(0)
    surprise = Surprise()
    p_values = []
    for value in rng.lognormal(size=6000):
        p_values.append(surprise.p_value(value))
        surprise.add(value)
    late = np.array(p_values[1000:])
    for share in (0.01, 0.05, 0.2, 0.5):
        assert (late <= share).mean() <= share + 3 * math.sqrt(share / len(late))
        assert (late <= share).mean() >= 0.7 * share
