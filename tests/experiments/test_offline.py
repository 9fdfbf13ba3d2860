"""Strategies judged from the log alone, plans, and what is recommended."""

from __future__ import annotations

import statistics
from decimal import Decimal
from typing import Any

import pytest

from novellus_lab import ModelLoadBalancer
from novellus_lab.errors import InvalidRequestError
from novellus_lab.experiments.datasets import built_in
from novellus_lab.providers.replay_data import recordings
from tests.experiments.conftest import STRONG, WEAK, replay_model

N = 300


@pytest.fixture
def explored(replay_lab: Any) -> Any:
    """A lab whose log holds calls that a coin chose for, and the items that were asked."""
    arms = {"coin": "weighted", "also": {"strategy": "weighted", "tags": {"other": True}}}
    found = replay_lab.compare(arms, "gsm8k", n=N // 2, scorer="recorded", progress=False)
    replay_lab.asked = [item[0].item_id for item in found.observations]
    return replay_lab


def truth(lab: Any, model: str) -> float:
    items = {item.id: item for item in built_in("gsm8k")}
    return statistics.mean(items[id].about["recorded"][model] for id in lab.asked)


@pytest.mark.parametrize("model", [STRONG, WEAK])
def test_a_model_alone_is_known_from_a_log_that_tossed_coins(explored, model):
    found = explored.experiments.evaluate_offline({"model": model})
    assert found.calls == N
    quality = found["score"]
    assert quality.value.low < truth(explored, model) < quality.value.high
    assert quality.direction == ("better" if model == STRONG else "worse")
    assert found["cost_usd"].direction == ("worse" if model == STRONG else "better")
    assert found["latency_ms"].direction == ("worse" if model == STRONG else "better")
    assert 0.35 * N < quality.overlap.effective_n < 0.65 * N
    assert quality.live_calls > 0.4 * N
    assert found.share[model] == 1.0
    assert "REPLAY" not in found._repr_html_()


def test_what_was_done_is_what_it_was(explored):
    found = explored.experiments.evaluate_offline("weighted")
    for one in found.values:
        assert one.plain.value == pytest.approx(one.logged.value, rel=1e-9, abs=1e-9)
        assert one.value.low <= one.logged.value <= one.value.high
        assert one.direction is None
        assert one.overlap.effective_n == pytest.approx(N, rel=1e-6)


def test_code_of_one_s_own_is_judged_too(explored):
    class ShortToWeak(ModelLoadBalancer):
        def select_model(self, **kwargs: Any) -> str:
            return WEAK if len(kwargs["prompt"]) < 200 else STRONG

    found = explored.experiments.evaluate_offline(ShortToWeak)
    assert 0.1 < found.share[WEAK] < 0.9
    assert (
        found["cost_usd"].value.value
        < explored.experiments.evaluate_offline({"model": STRONG})["cost_usd"].value.value
    )
    assert "ShortToWeak would have had" in found.verdict


def test_it_refuses_where_the_log_can_t_say(make_lab):
    lab = make_lab(replay_model(STRONG), replay_model(WEAK), seed=1)
    lab.compare(
        {"a": "cost_optimized", "b": {"strategy": "cost_optimized", "max_tokens": 900}},
        "gsm8k",
        n=60,
        progress=False,
    )
    found = lab.experiments.evaluate_offline({"model": STRONG})
    assert found.refused
    assert "can't say" in found.verdict
    assert found["cost_usd"].value is None
    same = lab.experiments.evaluate_offline("cost_optimized")
    assert same["cost_usd"].value is not None
    empty = make_lab(replay_model(STRONG), replay_model(WEAK)).experiments.evaluate_offline(
        "weighted", experiment="nothing"
    )
    assert "nothing to judge by" in empty.verdict


def test_calls_whose_text_is_not_kept_are_left_out_and_counted(make_lab):
    lab = make_lab(replay_model(STRONG), replay_model(WEAK), logging={"content": False})
    for _ in range(3):
        lab.complete("How many?", use_cache=False)
    found = lab.experiments.evaluate_offline("weighted")
    assert found.calls == 0
    assert found.left_out == {"whose text is not in the log": 3}


def test_what_is_recommended_saves_and_does_no_harm(explored):
    found = explored.experiments.recommend(margin=0.6)
    assert found.chosen is not None
    evaluation = found.evaluations[found.chosen]
    assert evaluation["cost_usd"].direction == "better"
    assert found.plan is not None
    assert found.plan.items > 1
    assert "confirm it live" in found.verdict
    careful = explored.experiments.recommend({"weak": {"model": WEAK}}, margin=0.001)
    assert careful.chosen is None
    assert "may lose more quality than allowed" in careful.why_not["weak"]
    assert "surely better" in careful.verdict
    quality = explored.experiments.recommend(objective="score")
    assert quality.chosen == f"always {STRONG}"
    assert quality.spec == {"model": STRONG}


def test_the_thresholds_of_trained_routers_are_searched_too(explored):
    outcomes = [
        {"prompt": prompt, "weak": answers["mixtral-8x7b-instruct"].correct,
         "strong": answers["gpt-4-1106-preview"].correct}
        for prompt, answers in list(recordings().items())[:600]
    ]  # fmt: skip
    explored.router.train(outcomes, weak=WEAK, strong=STRONG, embed=False, folds=2)
    found = explored.experiments.recommend(margin=0.6, limit=100)
    tried = [name for name in found.evaluations if name.startswith("router default, ")]
    assert len(tried) == 4
    shares = [found.evaluations[name].share.get(STRONG, 0.0) for name in tried]
    assert shares == sorted(shares)
    assert shares[0] < 0.3 < shares[-1]


# --- plans ---------------------------------------------------------------------------------------


def test_a_plan_from_an_earlier_comparison_knows_how_pairs_hang_together(replay_lab):
    arms = {"strong": {"model": STRONG}, "weak": {"model": WEAK}}
    pilot = replay_lab.compare(arms, "gsm8k", n=200, scorer="numeric", progress=False)
    plan = replay_lab.experiments.plan(0.05, like=pilot)
    wider = replay_lab.experiments.plan(0.1, like=pilot)
    assert plan.items == pytest.approx(4 * wider.items, rel=0.02)
    peeked = replay_lab.experiments.plan(0.05, like=pilot, sequential=True)
    assert peeked.items > 1.5 * plan.items
    mean_cost = sum(s.cost_usd for item in pilot.observations for s in item) / 200
    assert plan.cost_usd == pytest.approx(mean_cost * plan.items, rel=Decimal("0.001"))
    assert f"{plan.calls:,} calls for about $" in plan.sentence
    relative = replay_lab.experiments.plan("10%", like=pilot, metric="cost_usd")
    assert relative.effect == pytest.approx(float(mean_cost) * 0.1, rel=0.1)
    three = replay_lab.experiments.plan(0.05, like=pilot, arms=3)
    assert three.items > plan.items


def test_a_plan_from_the_log_or_from_what_is_stated(explored):
    assert explored.experiments.plan(0.05, metric="score").pilot.source == "the log, 30d"
    stated = explored.experiments.plan(0.5, metric="cost_usd", sd=1.0, cost_usd="0.01")
    # (1.96 + 0.84)^2 * 2 / 0.25 pairs, the usual formula.
    assert stated.items == 63
    assert stated.cost_usd == Decimal("1.26")
    equal = explored.experiments.plan(0.5, metric="cost_usd", sd=1.0, equivalence=True)
    assert equal.items > stated.items


def test_plans_that_can_t_be_made_say_why(replay_lab):
    for options, says in (
        ({"effect": 0.1}, "at least 10 are needed"),
        ({"effect": 0, "sd": 1.0}, "effect must be"),
        ({"effect": 0.1, "sd": 1.0, "metric": "latency_p95_ms"}, "plans are for means"),
        ({"effect": "much", "sd": 1.0}, "effect must be"),
        ({"effect": 0.1, "sd": 1.0, "arms": 1}, "arms must be"),
    ):
        with pytest.raises(InvalidRequestError, match=says):
            replay_lab.experiments.plan(**options)
