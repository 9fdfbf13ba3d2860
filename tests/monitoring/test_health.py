"""Each deduction begins, grows and ends where it is said to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from novellus_lab.monitoring.health import (
    ANOMALY_POINTS,
    HealthFacts,
    HealthRules,
    HealthScore,
    in_order,
    score_health,
)

RULES = HealthRules()
WELL = HealthFacts(
    "gpt-4o", "the last 1 h", asked=1_000, failed=0, median_ms=100.0, p95_ms=300.0, baseline_ms=100.0,
    baseline_answers=5_000, lookups=1_000, hits=500,
)  # fmt: skip


def points(cause: str, rules: HealthRules = RULES, **changed: Any) -> float:
    score = score_health(replace(WELL, **changed), rules)
    [deduction] = [d for d in score.deductions if d.cause == cause]
    assert score.score == pytest.approx(100 - sum(d.points for d in score.deductions))
    return deduction.points


def test_a_model_of_which_nothing_is_to_say_has_all_points() -> None:
    assert score_health(WELL, RULES).score == 100


@pytest.mark.parametrize(
    ("failed", "lost"), [(0, 0), (10, 0), (11, 0.2), (105, 20), (199, 39.8), (200, 40), (1_000, 40)]
)
def test_errors_take_points_between_1_and_20_percent(failed, lost) -> None:
    assert points("errors", failed=failed) == lost


@pytest.mark.parametrize(
    ("median_ms", "lost"),
    [(50, 0), (150, 0), (151, 0.2), (225, 15), (299, 29.8), (300, 30), (900, 30)],
)
def test_slowness_takes_points_between_1_5_and_3_times_the_baseline(median_ms, lost) -> None:
    assert points("latency", median_ms=float(median_ms)) == lost


@pytest.mark.parametrize(
    ("p95_ms", "lost"), [(900, 0), (1_000, 0), (1_500, 15), (2_000, 30), (9_000, 30)]
)
def test_a_limit_takes_points_up_to_twice_of_it(p95_ms, lost) -> None:
    rules = HealthRules(max_latency_ms=1_000)
    assert points("latency", rules, p95_ms=float(p95_ms)) == lost
    assert points("latency", p95_ms=float(p95_ms)) == 0


def test_of_limit_and_baseline_the_worse_counts() -> None:
    rules = HealthRules(max_latency_ms=1_000)
    assert points("latency", rules, p95_ms=1_100.0, median_ms=225.0) == 15
    assert points("latency", rules, p95_ms=1_900.0, median_ms=225.0) == 27


def test_without_a_baseline_slowness_takes_nothing_and_says_so() -> None:
    assert points("latency", median_ms=900.0, baseline_answers=50) == 30
    assert points("latency", median_ms=900.0, baseline_answers=49) == 0
    score = score_health(replace(WELL, baseline_answers=49), RULES)
    assert "no baseline yet: 49 answers" in score.deductions[1].why


@pytest.mark.parametrize(("hits", "lost"), [(500, 0), (200, 0), (198, 0.1), (100, 5), (0, 10)])
def test_few_cache_hits_take_points_below_20_percent(hits, lost) -> None:
    assert points("cache", hits=hits) == pytest.approx(lost, abs=0.051)


def test_the_cache_counts_only_where_it_is_on_and_was_asked_enough() -> None:
    assert points("cache", lookups=50, hits=0) == 10
    assert points("cache", lookups=49, hits=0) == 0
    assert points("cache", hits=0, caching=False) == 0


def test_anomalies_take_points_by_severity_up_to_20() -> None:
    for severity, lost in ANOMALY_POINTS.items():
        assert points("anomalies", anomalies=((severity, "latency"),)) == lost
    assert points("anomalies", anomalies=(("high", "a"), ("medium", "b"), ("low", "c"))) == 17
    assert points("anomalies", anomalies=(("high", "a"), ("high", "b"))) == 20
    assert points("anomalies", anomalies=(("high", "a"),) * 5) == 20
    assert points("anomalies", anomalies=()) == 0


def test_all_at_their_worst_leave_nothing() -> None:
    worst = replace(
        WELL, failed=900, median_ms=900.0, hits=0, anomalies=(("high", "a"), ("high", "b"))
    )
    score = score_health(worst, RULES)
    assert score.score == 0
    assert [d.points for d in score.deductions] == [40, 30, 10, 20]


def test_too_little_data_is_unknown_and_not_healthy() -> None:
    assert score_health(replace(WELL, asked=10), RULES).score == 100
    unknown = score_health(replace(WELL, asked=9, failed=9), RULES)
    assert unknown.score is None
    assert "9 requests" in unknown.note
    assert "unknown" in repr(unknown)
    assert "unknown" in unknown._repr_html_()


def test_each_deduction_is_told_in_numbers() -> None:
    ill = replace(WELL, failed=105, worst_error="ProviderTimeoutError", median_ms=225.0, hits=100,
                  anomalies=(("high", "latency since 11-24 12:00"),))  # fmt: skip
    score = score_health(ill, RULES)
    assert score.score == 50
    errors, latency, cache, anomalies = (d.why for d in score.deductions)
    assert "105 of 1,000 requests failed (10.5 %, mostly ProviderTimeoutError)" in errors
    assert "2.25 times" in latency
    assert "100 of 1,000 came from the cache (10 %)" in cache
    assert "high: latency since 11-24 12:00" in anomalies
    page = score._repr_html_()
    assert "-20 of -40" in page
    assert "50 of 100" in page


@settings(max_examples=60)
@given(
    st.builds(
        HealthFacts,
        st.just("m"),
        st.just("w"),
        asked=st.integers(0, 1_000),
        failed=st.integers(0, 0),
        median_ms=st.none() | st.floats(0.1, 1e6),
        p95_ms=st.none() | st.floats(0.1, 1e6),
        baseline_ms=st.none() | st.floats(0, 1e6),
        baseline_answers=st.integers(0, 100),
        lookups=st.integers(60, 100),
        hits=st.integers(0, 60),
        anomalies=st.lists(st.tuples(st.sampled_from(["low", "high"]), st.text())).map(tuple),
    ),
    st.floats(0, 1),
)
def test_a_score_is_within_0_and_100_and_more_failures_never_raise_it(facts, share) -> None:
    some = replace(facts, failed=int(facts.asked * share))
    score, better = score_health(some, RULES).score, score_health(facts, RULES).score
    if score is None or better is None:
        assert facts.asked < RULES.min_requests
    else:
        assert 0 <= score <= better <= 100


def test_scores_are_a_mapping_the_worst_first() -> None:
    def one(model: str, score: float | None) -> HealthScore:
        return HealthScore(model, score, "the last 1 h", 10, (), "" if score else "too few")

    scores = in_order([one("unknown", None), one("good", 100.0), one("<b>", 12.5)])
    assert list(scores.items()) == [("<b>", 12.5), ("good", 100.0), ("unknown", None)]
    assert repr(scores) == "HealthScores(<b>: 12.5, good: 100, unknown: unknown)"
    assert "&lt;b&gt;" in scores._repr_html_()
