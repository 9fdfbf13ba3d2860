"""Strategies pick what they promise, with the probabilities that they state."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from novellus_lab.errors import ConfigurationError, UnknownStrategyError
from novellus_lab.routing.registry import Registry
from novellus_lab.routing.strategies import Option
from tests.routing.requests import Known, Request, context, options

NAMES = (
    "weighted", "cost_optimized", "least_latency", "round_robin", "priority", "least_busy",
    "health_weighted", "cascade",
)  # fmt: skip


def strategy(name: str, **stated):
    return Registry().get(name, stated)


def busy_world() -> Known:
    known = Known(costs={"a": "0.1", "b": "0.10", "c": "0.4"})
    for ms in (300, 500, 400):
        known.latencies.observe("a", ms, ttft_ms=ms / 3, output_tokens=256, input_tokens=10)
        known.latencies.observe("b", 1.2 * ms, output_tokens=256, input_tokens=10)
    for _ in range(3):
        known.traffic.begin("b")
    for answered in (True, False, False):
        known.traffic.begin("c")
        known.traffic.end("c", answered)
    return known


OPTIONS = st.lists(
    st.builds(
        Option,
        st.text("abcdef", min_size=1, max_size=3),
        weight=st.floats(0, 10),
        priority=st.integers(-3, 3),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda o: o.model_id,
)


@pytest.mark.parametrize("name", NAMES)
@given(given_=OPTIONS, seed=st.integers(0, 99), epsilon=st.sampled_from([0.0, 0.2, 1.0]))
def test_every_ranking_is_a_permutation_whose_probabilities_sum_to_one(name, given_, seed, epsilon):
    ranking = strategy(name).rank(given_, context(seed, busy_world()), epsilon)
    assert sorted(c.model_id for c in ranking.order) == sorted(o.model_id for o in given_)
    assert math.isclose(sum(c.probability for c in ranking.order), 1.0, abs_tol=1e-9)
    assert ranking.picked.probability > 0


@pytest.mark.parametrize("epsilon", [0.0, 0.3])
@pytest.mark.parametrize("name", NAMES)
def test_a_stated_probability_is_the_share_of_picks(name, epsilon):
    models = options("a", "b", "c", a={"weight": 1, "priority": 5}, b={"weight": 3, "priority": 5},
                     c={"weight": 0.5})  # fmt: skip
    subject, shared = strategy(name), context(7, busy_world())
    picks: Counter[str] = Counter()
    stated: Counter[str] = Counter()
    n = 6000
    for _ in range(n):
        ranking = subject.rank(models, shared, epsilon)
        picks[ranking.picked.model_id] += 1
        for c in ranking.order:
            stated[c.model_id] += c.probability / n  # they may change a little with time
    for model_id, p in stated.items():
        # five standard errors: a false alarm in one of a million runs
        assert abs(picks[model_id] / n - p) <= 5 * math.sqrt(max(p * (1 - p), 0) / n) + 1e-9
    if epsilon:
        assert min(stated.values()) >= epsilon / 3 - 1e-9


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_and_state_give_the_same_picks(name):
    models = options(*"abcdefgh")

    def picks(seed: int) -> list[tuple[str, ...]]:
        subject, shared = strategy(name), context(seed, Known())
        rankings = [subject.rank(models, shared, 0.1) for _ in range(20)]
        return [tuple(c.model_id for c in r.order) for r in rankings]

    assert picks(3) == picks(3)


@pytest.mark.parametrize("name", NAMES)
def test_judging_changes_nothing(name):
    models, subject = options("a", "b", "c"), strategy(name)
    shared = context(1, Known())
    before = shared.random.getstate()
    judged = [subject.judge(models, shared) for _ in range(3)]
    assert judged[0] == judged[1] == judged[2]
    assert shared.random.getstate() == before
    twin, other = strategy(name), context(1, Known())
    assert subject.rank(models, shared) == twin.rank(models, other)


def test_the_rest_of_a_lottery_follows_by_the_same_lottery():
    models = options("a", "b", "c", a={"weight": 8}, b={"weight": 1}, c={"weight": 1})
    subject, shared = strategy("weighted"), context(5)
    second = Counter(
        ranking.order[1].model_id
        for ranking in (subject.rank(models, shared) for _ in range(4000))
        if ranking.picked.model_id == "b"
    )
    share = second["a"] / sum(second.values())
    assert abs(share - 8 / 9) < 5 * math.sqrt(8 / 81 / sum(second.values()))


def test_a_lottery_without_weights_is_even():
    judged = strategy("weighted").judge(
        options("a", "b", a={"weight": 0}, b={"weight": 0}), context()
    )
    assert [c.probability for c in judged] == [0.5, 0.5]


def test_cost_optimized_takes_the_cheapest_and_leaves_unpriced_models_for_last():
    known = Known(costs={"dear": "0.2", "cheap": "0.1"})
    ranking = strategy("cost_optimized").rank(
        options("unpriced", "dear", "cheap"), context(known=known)
    )
    assert [c.model_id for c in ranking.order] == ["cheap", "dear", "unpriced"]
    assert [c.score for c in ranking.order] == [0.1, 0.2, None]


def test_cost_optimized_keeps_to_a_quality():
    known = Known(costs={"dear": "0.2", "cheap": "0.1", "unknown": "0.01"})
    models = options("dear", "cheap", "unknown")
    qualities = {"dear": 0.95, "cheap": 0.7}

    def first(least: float) -> str:
        subject = strategy("cost_optimized", min_quality=least, qualities=qualities)
        return subject.rank(models, context(known=known)).picked.model_id

    assert [first(q) for q in (0.5, 0.9, 0.99)] == ["cheap", "dear", "dear"]
    with pytest.raises(ConfigurationError, match="qualities"):
        strategy("cost_optimized", min_quality=0.9)


def test_priority_means_the_highest_number_first():
    models = options("low", "high", low={"priority": 1}, high={"priority": 100})
    ranking = strategy("priority").rank(models, context())
    assert [(c.model_id, c.score) for c in ranking.order] == [("high", 100), ("low", 1)]


def test_round_robin_takes_turns():
    subject, models = strategy("round_robin"), options("b", "a", "c")
    picks = [subject.rank(models, context()).picked.model_id for _ in range(6)]
    assert picks == ["a", "b", "c", "a", "b", "c"]


def test_least_busy_goes_where_fewest_calls_are_under_way():
    known = Known()
    for model_id in ("a", "a", "b"):
        known.traffic.begin(model_id)
    subject, models = strategy("least_busy"), options("a", "b", "c")
    ranking = subject.rank(models, context(known=known))
    assert [c.model_id for c in ranking.order] == ["c", "b", "a"]
    known.traffic.end("b", None)
    judged = {c.model_id: c.probability for c in subject.judge(models, context(known=known))}
    assert judged == {"a": 0, "b": 0.5, "c": 0.5}


def test_health_weighted_leaves_the_ailing_less():
    known = Known()
    for _ in range(12):
        known.traffic.begin("ill")
        known.traffic.end("ill", False)
    judged = {
        c.model_id: c.probability
        for c in strategy("health_weighted").judge(options("ill", "well"), context(known=known))
    }
    assert judged["ill"] == pytest.approx(0.25 / 1.25, rel=0.01)


# --- least_latency -------------------------------------------------------------------------------


def seen(known: Known, model_id: str, ms: float, times: int, **more) -> None:
    for _ in range(times):
        known.latencies.observe(model_id, ms, input_tokens=10, output_tokens=256, **more)


def chances(known: Known, *names: str) -> dict[str, float]:
    judged = strategy("least_latency").judge(options(*names), context(known=known))
    return {c.model_id: c.probability for c in judged}


def test_least_latency_takes_what_is_surely_faster_and_tries_what_it_does_not_know():
    known = Known()
    seen(known, "fast", 300, 20)
    seen(known, "slow", 3000, 20)
    found = chances(known, "slow", "fast")
    assert found["fast"] > 0.99
    found = chances(known, "slow", "fast", "new")
    assert 0.05 < found["new"] < 0.6
    assert found["slow"] < 0.01
    assert chances(known, "x", "y") == {"x": 0.5, "y": 0.5}


def test_a_stream_goes_by_its_first_token():
    known = Known()
    seen(known, "slow", 3000, 20, ttft_ms=50)
    seen(known, "fast", 300, 20, ttft_ms=250)
    assert chances(known, "slow", "fast")["fast"] > 0.99
    known.stream = True
    assert chances(known, "slow", "fast")["slow"] > 0.99


def test_old_latencies_fade_and_are_tried_again(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("novellus_lab.routing.latency.time.monotonic", lambda: now[0])
    known = Known()
    seen(known, "fast", 400, 20)
    seen(known, "slow", 800, 20)
    assert chances(known, "fast", "slow")["slow"] < 0.01
    now[0] += 3600
    assert 0.03 < chances(known, "fast", "slow")["slow"] < 0.4
    seen(known, "slow", 100, 10)
    assert known.latencies.latency_ms("slow") == pytest.approx(100, rel=0.25)
    assert chances(known, "fast", "slow")["slow"] > 0.9


def test_calls_under_way_count_against_a_model():
    known = Known()
    seen(known, "a", 500, 30)
    seen(known, "b", 600, 30)
    alone = chances(known, "a", "b")["a"]
    for _ in range(16):
        known.traffic.begin("a")
    assert alone > 0.8
    assert chances(known, "a", "b")["a"] < 0.1


def test_a_burst_is_not_sent_to_one_model():
    known = Known()
    for name in "abcd":
        seen(known, name, 500, 5)
    subject, shared = strategy("least_latency"), context(1, known)
    for _ in range(100):
        known.traffic.begin(subject.rank(options(*"abcd"), shared).picked.model_id)
    assert min(known.traffic.in_flight(name) for name in "abcd") > 12


# --- names and options ---------------------------------------------------------------------------


def test_an_unknown_strategy_is_answered_with_near_names():
    with pytest.raises(UnknownStrategyError, match="'cost_optimized'"):
        Registry().get("cost-optimised")
    for odd in (7, None, ["weighted"]):
        with pytest.raises(UnknownStrategyError):
            Registry().get(odd)


def test_options_that_a_strategy_does_not_take_are_named():
    with pytest.raises(ConfigurationError, match=r"'cascade' takes no options 'chek'.*check"):
        strategy("cascade", chek="json")


@pytest.mark.parametrize(
    "stated",
    [{"strong_share": 2}, {"strong_share": 0.1, "min_quality": 0.9}, {"value_usd": "much"}],
)
def test_learned_refuses_wishes_that_can_not_be(stated):
    with pytest.raises(ConfigurationError, match="learned"):
        strategy("learned", **stated)


# --- learned -------------------------------------------------------------------------------------


class Oracle:
    """A router that knows by the prompt's first number."""

    class summary:
        weak_model, strong_model = "weak", "strong"

    def win_probability(self, prompt):
        return float(prompt)

    def expected_gain(self, prompt):
        return float(prompt) / 2

    def threshold_for(self, strong_share=None, min_quality=None):
        class found:
            win_probability = strong_share if strong_share is not None else 1 - min_quality

        return found


def learned_pick(prompt: str, known: Known | None = None, **stated) -> str:
    asked = Request(last_user_text=prompt)
    shared = context(known=known, request=asked, router=lambda name: Oracle())
    ranking = strategy("learned", **stated).rank(options("other", "weak", "strong"), shared)
    assert ranking.picked.probability == 1
    return ranking.picked.model_id


def test_learned_asks_the_strong_model_from_a_threshold_on():
    assert [learned_pick(p, threshold=0.4) for p in ("0.3", "0.4")] == ["weak", "strong"]
    assert [learned_pick(p, strong_share=0.3) for p in ("0.2", "0.4")] == ["weak", "strong"]
    assert [learned_pick(p, min_quality=0.8) for p in ("0.1", "0.4")] == ["weak", "strong"]


def test_learned_weighs_the_gain_against_what_this_call_costs_more():
    known = Known(costs={"weak": "0.001", "strong": "0.021"})
    assert learned_pick("0.5", known, value_usd="0.10") == "strong"  # 0.025 > 0.02
    assert learned_pick("0.3", known, value_usd=0.10) == "weak"  # 0.015
