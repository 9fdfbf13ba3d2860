"""The seed's three rules at their boundaries."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from novellus_lab.errors import InvalidRequestError
from novellus_lab.monitoring.anomaly import AnomalyKind, Severity
from novellus_lab.monitoring.detect.baseline import Baseline
from novellus_lab.monitoring.detect.hysteresis import Hysteresis, Phase
from novellus_lab.monitoring.detect.rules import (
    Bucket,
    ErrorRateRule,
    LatencyRule,
    Levels,
    TrafficRule,
    binomial_tail,
    error_rate_excess,
)

MONDAY = datetime(2026, 1, 5, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
QUIET = 30


def latencies(*values: float) -> list[Bucket]:
    quiet = [100.0] * QUIET
    return [
        Bucket(MONDAY + number * MINUTE, 50, 0, value)
        for number, value in enumerate([*quiet, *values])
    ]


def traffic(*values: int) -> list[Bucket]:
    quiet = [100] * QUIET
    return [
        Bucket(MONDAY + number * MINUTE, value) for number, value in enumerate([*quiet, *values])
    ]


def errors(*values: tuple[int, int], usual: int = 10) -> list[Bucket]:
    quiet = [(usual, 1000)] * QUIET
    return [
        Bucket(MONDAY + number * MINUTE, requests, wrong)
        for number, (wrong, requests) in enumerate([*quiet, *values])
    ]


class TestBoundaries:
    def test_exactly_twice_the_latency_is_an_anomaly(self) -> None:
        (found,) = LatencyRule().run(latencies(200.0, 200.0))
        assert (found.kind, found.observed, found.expected) == (AnomalyKind.LATENCY, 200.0, 100.0)
        assert found.score == pytest.approx(0.5)
        assert found.severity is Severity.LOW

    def test_a_little_less_is_none(self) -> None:
        assert LatencyRule().run(latencies(*[199.99] * 20)) == []

    def test_exactly_three_times_the_traffic_is_an_anomaly(self) -> None:
        assert len(TrafficRule().run(traffic(300, 300))) == 1

    def test_one_request_less_is_none(self) -> None:
        assert TrafficRule().run(traffic(*[299] * 20)) == []

    def test_five_points_more_errors_are_none_and_one_error_more_is_an_anomaly(self) -> None:
        assert ErrorRateRule().run(errors(*[(60, 1000)] * 20)) == []
        assert len(ErrorRateRule().run(errors((61, 1000), (61, 1000)))) == 1

    @given(st.integers(0, 900), st.integers(20, 1000))
    def test_exactly_five_points_above_never_count(self, usual: int, twentieths: int) -> None:
        requests = 20 * twentieths
        expected = usual / 1000
        wrong = round((expected + 0.05) * requests)
        if wrong / requests - expected <= 0.05:
            assert error_rate_excess(wrong, requests, expected) <= 1

    def test_one_of_three_is_chance(self) -> None:
        rule = ErrorRateRule(Levels(enter=5.0, leave=2.5, min_requests=1))
        assert rule.run(errors(*[(1, 3)] * 4, usual=50)) == []
        assert error_rate_excess(1, 3, 0.0) == 1.0
        assert error_rate_excess(100, 300, 0.06) > 5

    def test_a_bucket_with_few_requests_is_not_judged(self) -> None:
        slow = [Bucket(MONDAY + (QUIET + number) * MINUTE, 9, 9, 900.0) for number in range(5)]
        assert LatencyRule().run([*latencies(), *slow]) == []
        assert ErrorRateRule().run([*errors(), *slow]) == []

    def test_a_few_requests_instead_of_one_are_no_flood(self) -> None:
        ones = [Bucket(MONDAY + number * MINUTE, 1) for number in range(QUIET)]
        flood = [Bucket(MONDAY + (QUIET + number) * MINUTE, 8) for number in range(5)]
        assert TrafficRule().run([*ones, *flood]) == []

    def test_nothing_is_said_without_a_past(self) -> None:
        assert LatencyRule().run(latencies()[:5] + latencies(900.0, 900.0)[QUIET:]) == []

    @pytest.mark.parametrize(("enter", "leave"), [(2.0, 2.5), (2.0, 0.0)])
    def test_levels_that_cannot_be_are_refused(self, enter: float, leave: float) -> None:
        with pytest.raises(InvalidRequestError, match="leave"):
            Levels(enter=enter, leave=leave)


class TestLastingAndEnding:
    def test_a_single_slow_bucket_is_none(self) -> None:
        assert LatencyRule().run(latencies(900.0, 100.0, 900.0, 100.0)) == []

    def test_it_starts_with_the_first_slow_bucket_and_ends_with_the_first_quiet_one(self) -> None:
        (found,) = LatencyRule().run(latencies(250.0, 300.0, 260.0, 100.0, 100.0))
        assert found.start == MONDAY + QUIET * MINUTE
        assert found.end == MONDAY + (QUIET + 3) * MINUTE
        assert found.observed == 300.0

    def test_between_the_levels_it_goes_on(self) -> None:
        (found,) = LatencyRule().run(latencies(250.0, 250.0, *[160.0] * 10))
        assert found.end is None

    def test_exactly_at_the_leave_level_it_goes_on(self) -> None:
        assert LatencyRule().run(latencies(250.0, 250.0, *[150.0] * 10))[0].end is None
        assert LatencyRule().run(latencies(250.0, 250.0, *[149.9] * 10))[0].end is not None

    def test_an_incident_is_not_learnt(self) -> None:
        (found,) = LatencyRule().run(latencies(*[250.0] * 200))
        assert found.end is None

    def test_what_lasts_becomes_normal(self) -> None:
        rule = LatencyRule(Levels(enter=2.0, leave=1.5, relearn_after=50))
        (found,) = rule.run(latencies(*[250.0] * 200))
        assert found.end is not None

    def test_empty_buckets_change_nothing(self) -> None:
        gap = [Bucket(MONDAY + (QUIET + 2 + n) * MINUTE, 0) for n in range(5)]
        (found,) = LatencyRule().run([*latencies(250.0, 250.0), *gap])
        assert found.end is None

    @given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=40))
    def test_phases_follow_one_another(self, steps: list[tuple[bool, bool]]) -> None:
        hysteresis = Hysteresis(2, 2)
        active = False
        for enters, leaves in steps:
            phase = hysteresis.step(enters=enters, leaves=leaves and not enters)
            assert phase in (
                (Phase.ONGOING, Phase.ENDED)
                if active
                else (Phase.NORMAL, Phase.PENDING, Phase.STARTED)
            )
            active = phase in (Phase.STARTED, Phase.ONGOING)
            assert hysteresis.active == active


class TestBaseline:
    def test_the_same_hour_and_weekday_counts_where_there_is_history(self) -> None:
        baseline = Baseline()
        hour = timedelta(hours=1)
        for number in range(24 * 21):
            start = MONDAY + number * hour
            baseline.add(start, 500.0 if start.hour == 9 and start.weekday() == 0 else 100.0)
        expected = baseline.expected(MONDAY + timedelta(weeks=3, hours=9))
        assert expected is not None
        assert (expected.value, expected.source) == (500.0, "same_hour_and_weekday")
        assert expected.samples == 3

    def test_one_bad_week_moves_nothing(self) -> None:
        baseline = Baseline()
        for week, value in enumerate([100.0, 100.0, 9000.0]):
            baseline.add(MONDAY + timedelta(weeks=week), value)
        expected = baseline.expected(MONDAY + timedelta(weeks=3))
        assert expected is not None
        assert expected.value == 100.0

    def test_older_than_four_weeks_is_forgotten(self) -> None:
        baseline = Baseline(min_samples=1)
        for week in range(6):
            baseline.add(MONDAY + timedelta(weeks=week), float(week))
        expected = baseline.expected(MONDAY + timedelta(weeks=6))
        assert expected is not None
        assert (expected.value, expected.samples) == (3.5, 4)

    def test_this_very_hour_is_no_history(self) -> None:
        baseline = Baseline(min_samples=5)
        for minute in range(30):
            baseline.add(MONDAY + minute * MINUTE, 1.0)
        expected = baseline.expected(MONDAY + 30 * MINUTE)
        assert expected is not None
        assert expected.source == "recent"


@given(st.integers(1, 60), st.floats(0, 1), st.integers(0, 1000).map(lambda n: n / 1000))
def test_the_binomial_tail_is_exact(trials: int, share: float, rate: float) -> None:
    successes = round(share * trials)
    terms = (
        math.comb(trials, k) * Fraction(rate) ** k * (1 - Fraction(rate)) ** (trials - k)
        for k in range(successes, trials + 1)
    )
    expected = float(sum(terms))
    assert binomial_tail(successes, trials, rate) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_a_proportion_has_parts() -> None:
    with pytest.raises(InvalidRequestError):
        binomial_tail(3, 2, 0.1)
