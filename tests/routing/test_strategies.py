"""Strategies pick what they promise, with the probabilities that they state."""

from __future__ import annotations

import math
from collections import Counter
from decimal import Decimal
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from novellus_lab.errors import UnknownStrategyError
from novellus_lab.routing.latency import LatencyTracker
from novellus_lab.routing.strategies import (
    Option,
    RoutingContext,
    make_strategies,
    strategy_named,
)

NAMES = sorted(make_strategies())


def option(name, weight=1.0, priority=0.0, cost: str | None = None) -> Option:
    return Option(name, weight, priority, lambda: None if cost is None else Decimal(cost))


def context(seed=0, latencies=None, stream=False) -> RoutingContext:
    return RoutingContext(Random(seed), latencies or LatencyTracker(), stream)


OPTIONS = st.lists(
    st.builds(
        option,
        st.text("abcdef", min_size=1, max_size=3),
        weight=st.floats(0, 10),
        priority=st.integers(-3, 3),
        cost=st.sampled_from([None, "0.1", "0.2", "0.30"]),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda o: o.model_id,
)


@pytest.mark.parametrize("name", NAMES)
@given(options=OPTIONS, seed=st.integers(0, 99))
def test_every_ranking_is_a_permutation_whose_probabilities_sum_to_one(name, options, seed):
    ranking = make_strategies()[name].rank(options, context(seed))
    assert sorted(c.model_id for c in ranking.order) == sorted(o.model_id for o in options)
    assert math.isclose(sum(c.probability for c in ranking.order), 1.0, abs_tol=1e-9)
    if not (name == "weighted" and sum(o.weight for o in options) > 0):
        assert ranking.picked.probability > 0


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("weighted", [option("a", weight=1), option("b", weight=3), option("c", weight=0)]),
        ("priority", [option("a", priority=5), option("b", priority=5), option("c", priority=1)]),
        ("cost_optimized", [option("a", cost="0.1"), option("b", cost="0.10"), option("c")]),
        ("least_latency", [option("a"), option("b"), option("c")]),
        ("round_robin", [option("a"), option("b"), option("c")]),
    ],
)
def test_a_stated_probability_is_the_share_of_picks(name, options):
    strategy, shared = make_strategies()[name], context(seed=7)
    picks, stated = Counter(), {}
    n = 6000
    for _ in range(n):
        ranking = strategy.rank(options, shared)
        picks[ranking.picked.model_id] += 1
        stated = {c.model_id: c.probability for c in ranking.order}
    for model_id, p in stated.items():
        # five standard errors: a false alarm in one of a million runs
        assert abs(picks[model_id] / n - p) <= 5 * math.sqrt(p * (1 - p) / n) + 1e-12


def test_cost_optimized_takes_the_cheapest_and_leaves_unpriced_models_for_last():
    ranking = make_strategies()["cost_optimized"].rank(
        [option("unpriced"), option("dear", cost="0.2"), option("cheap", cost="0.1")], context()
    )
    assert [c.model_id for c in ranking.order] == ["cheap", "dear", "unpriced"]
    assert [c.score for c in ranking.order] == [0.1, 0.2, None]


def test_least_latency_tries_the_unseen_then_takes_the_fastest():
    latencies = LatencyTracker()
    latencies.observe("slow", 900, ttft_ms=10)
    latencies.observe("fast", 100, ttft_ms=50)
    options = [option("slow"), option("fast")]
    strategy = make_strategies()["least_latency"]
    assert strategy.rank(options, context(latencies=latencies)).picked.model_id == "fast"
    assert (
        strategy.rank(options, context(latencies=latencies, stream=True)).picked.model_id == "slow"
    )
    with_new = strategy.rank([*options, option("new")], context(latencies=latencies))
    assert with_new.picked.model_id == "new"


def test_priority_means_the_highest_number_first():
    ranking = make_strategies()["priority"].rank(
        [option("low", priority=1), option("high", priority=100)], context()
    )
    assert [c.model_id for c in ranking.order] == ["high", "low"]


def test_round_robin_takes_turns():
    strategy = make_strategies()["round_robin"]
    options = [option("b"), option("a"), option("c")]
    picks = [strategy.rank(options, context()).picked.model_id for _ in range(6)]
    assert picks == ["a", "b", "c", "a", "b", "c"]


def test_an_unknown_strategy_is_answered_with_near_names():
    with pytest.raises(UnknownStrategyError, match="'cost_optimized'"):
        strategy_named("cost-optimised", make_strategies())


def test_old_latencies_fade(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("novellus_lab.routing.latency.time.monotonic", lambda: now[0])
    tracker = LatencyTracker()
    tracker.observe("m", 1000)
    now[0] = 3000.0  # ten half-lives later
    tracker.observe("m", 100)
    assert tracker.latency_ms("m") == pytest.approx(100, rel=0.02)
