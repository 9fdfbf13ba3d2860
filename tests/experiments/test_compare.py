"""`lab.compare`: arms asked the same items, and what is said of them."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from decimal import Decimal
from typing import Any

import pytest

from novellus_lab import ModelLoadBalancer
from novellus_lab.errors import InvalidRequestError, UnknownModelError
from novellus_lab.experiments.judge import Judge
from novellus_lab.providers.replay_data import recordings
from tests.experiments.conftest import STRONG, WEAK, replay_model
from tests.lab.conftest import openai_model
from tests.loopback import ScriptedServer, openai_chat_reply, openai_error

ARMS = {"strong": {"model": STRONG}, "weak": {"model": WEAK}}


def shares(n: int = 1307) -> tuple[float, float]:
    """Share of recorded answers that are right, by RouteLLM's own verdict."""
    found = [
        sum(answers[model.removeprefix("replay/")].correct for answers in recordings().values())
        for model in (STRONG, WEAK)
    ]
    return found[0] / n, found[1] / n


def test_the_recorded_models_differ_by_what_is_known_of_them(replay_lab):
    found = replay_lab.compare(ARMS, "gsm8k", n=400, scorer="recorded", progress=False)
    strong, weak = shares()
    effect = found.effect()
    assert effect.difference.low < weak - strong < effect.difference.high
    assert effect.direction == "worse"
    assert found.n == 400
    assert found.verdict.startswith("weak is worse than strong by")
    assert found.effect(metric="cost_usd").direction == "better"
    assert found.effect(metric="latency_ms").direction == "better"
    assert found.effect(metric="cost_per_good_answer_usd").direction == "better"


def test_all_calls_are_logged_under_the_experiment_and_cost_what_is_said(replay_lab, rows):
    found = replay_lab.compare(ARMS, "gsm8k", n=30, scorer="numeric", progress=False)
    replay_lab.flush()
    logged = rows()
    assert Counter(row["arm"] for row in logged) == {"strong": 30, "weak": 30}
    assert {row["experiment"] for row in logged} == {found.design.label}
    assert sum(row["cost_usd"] for row in logged) == found.cost_usd[0]
    assert {row["cache"] for row in logged} == {"off"}
    assert len(rows("ai_scores", "request_id")) == 60
    by_id = {str(row["id"]): row for row in logged}
    for seen in found.frame.iter_rows(named=True):
        assert by_id[seen["request_id"]]["tags"]["item"] == seen["item_id"]


def test_arms_take_turns_and_an_item_s_calls_stand_together(replay_lab):
    found = replay_lab.compare(
        ARMS, "gsm8k", n=60, scorer="numeric", max_concurrency=1, progress=False
    )
    first = Counter(item[0].turn for item in found.observations)
    assert 15 < first[0] < 45, "the order is drawn anew for each item"
    times = sorted((s.started_at, s.item_id) for item in found.observations for s in item)
    assert all(times[i][1] == times[i + 1][1] for i in range(0, 120, 2))


def test_the_same_seed_asks_the_same_items_in_the_same_order(replay_lab):
    one, two, other = (
        replay_lab.compare(ARMS, "gsm8k", n=20, scorer="numeric", seed=seed, progress=False)
        for seed in (3, 3, 4)
    )

    def told(found: Any) -> list[Any]:
        return [(s.item_id, s.arm, s.turn) for item in found.observations for s in item]

    assert told(one) == told(two)
    assert told(one) != told(other)


def test_a_sequential_comparison_stops_when_its_own_interval_says_so(replay_lab):
    found = replay_lab.compare(
        ARMS, "gsm8k", n=1000, scorer="numeric", sequential=True, progress=False
    )
    assert found.ending == "decided before all items were asked"
    assert found.n < 600
    effect = found.effect()
    assert effect.difference.always_valid
    assert effect.difference.excludes(0.0)


def test_equal_arms_are_not_called_different_and_within_a_margin_they_are_equal(replay_lab):
    same = {"a": {"model": STRONG}, "b": {"model": STRONG}}
    found = replay_lab.compare(same, "gsm8k", n=300, scorer="numeric", margin=0.05, progress=False)
    assert found.effect().direction is None
    assert "b is as good as a in quality, within 5.0 points" in found.verdict
    unsure = replay_lab.compare(same, "gsm8k", n=300, metric="latency_ms", progress=False)
    assert unsure.effect().difference.low < 0 < unsure.effect().difference.high
    assert "can't be told whether b differs from a" in unsure.verdict


def test_the_money_ends_it_before_it_is_passed(replay_lab, rows):
    found = replay_lab.compare(
        ARMS, "gsm8k", n=500, scorer="numeric", max_usd="0.40", progress=False, max_tokens=200
    )
    replay_lab.flush()
    assert found.ending == "the money was spent"
    assert 0 < found.n < 500
    spent = sum(row["cost_usd"] or 0 for row in rows())
    assert spent <= Decimal("0.40")


def test_failures_count_against_an_arm_with_what_they_cost(make_lab, rows):
    with (
        ScriptedServer(openai_chat_reply("#### 4")) as good,
        ScriptedServer(openai_error(500, "down")) as bad,
    ):
        lab = make_lab(openai_model("good", good.url), openai_model("bad", bad.url))
        items = [{"prompt": f"What is 2 + 2? ({i})", "expected": 4} for i in range(12)]
        found = lab.compare(["good", "bad"], items, scorer="numeric", progress=False)
    assert found.effect(metric="error_rate").treatment.value == 1.0
    assert found.effect().treatment.value == 0.0
    assert found.effect(metric="cost_usd").treatment.value == 0.0
    assert "Calls that failed: bad 12." in found.verdict
    assert found.frame.filter(arm="bad")["error_class"].unique().to_list() == [
        "ProviderUnavailableError"
    ]


def test_balancers_strategies_and_whole_configurations_are_arms(replay_lab, make_lab, rows):
    class AlwaysWeak(ModelLoadBalancer):
        def select_model(self, **kwargs: Any) -> str:
            return WEAK

    found = replay_lab.compare(
        {
            "weighted": "weighted",
            "own": AlwaysWeak,
            "only strong": {"config": {"models": [replay_model(STRONG)]}},
        },
        "gsm8k",
        n=25,
        progress=False,
    )
    models = {
        arm: set(found.frame.filter(arm=arm)["model"].unique())
        for arm in ("weighted", "own", "only strong")
    }
    assert models == {"weighted": {STRONG, WEAK}, "own": {WEAK}, "only strong": {STRONG}}
    replay_lab.flush()
    assert Counter(row["arm"] for row in rows())["only strong"] == 25


def test_cache_settings_are_compared_and_arms_share_no_entries(replay_lab):
    twice = [
        {"prompt": p, "id": f"{p}{turn}"} for turn in range(2) for p in list(recordings())[:15]
    ]
    found = replay_lab.compare(
        {"without": {"use_cache": False}, "with": {"use_cache": True}},
        twice,
        model_id=WEAK,
        max_concurrency=1,
        progress=False,
    )
    assert found.effect(metric="cost_usd").direction == "better"
    hits = found.frame.filter(arm="with")["hit"].sum()
    assert hits == 15
    assert found.frame.filter(arm="without")["hit"].sum() == 0


def test_a_judge_is_asked_in_both_orders_and_a_turning_verdict_is_a_tie(make_lab):
    def verdict(request: Any) -> Any:
        text = request.json["messages"][0]["content"]
        if request.json["model"] != "judge":
            return openai_chat_reply("long" if "b" in request.json["model"] else "short")
        if "always-first" in text:
            return openai_chat_reply(json.dumps({"better": 1, "why": "it comes first"}))
        better = 1 if "ANSWER 1:\nlong" in text else 2
        return openai_chat_reply(json.dumps({"better": better, "why": "longer"}))

    with ScriptedServer(verdict) as llm:
        lab = make_lab(*(openai_model(name, llm.url) for name in ("a", "b", "judge")))
        items = [f"question {i}" for i in range(6)] + [f"always-first {i}" for i in range(6)]
        found = lab.compare(["a", "b"], items, scorer=Judge("judge"), progress=False)
    assert set(found.frame.filter(arm="b")["score"]) == {1.0, 0.5}
    assert found.effect().control.value == 0.5
    assert found.effect().treatment.value == 0.75
    spent, unknown = found.cost_usd
    assert unknown == 0
    assert spent > sum(s.cost_usd or 0 for item in found.observations for s in item)


def test_what_was_observed_outlives_an_interrupt(replay_lab):
    seen = []

    async def interrupted() -> None:
        task = asyncio.create_task(
            replay_lab.acompare(
                {"a": {"model": STRONG}, "b": {"model": WEAK}},
                "gsm8k",
                name="cut short",
                scorer="numeric",
                max_concurrency=1,
                on_look=lambda c: seen.append(c.n),
                params={"time_scale": 0.001},
                progress=False,
            )
        )
        while not seen:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(interrupted())
    again = replay_lab.experiments.load("cut short")
    assert again.n >= seen[0] > 0
    assert again.ending == "interrupted"
    assert replay_lab.experiments.list()[0].status == "stopped"


def test_a_comparison_is_loaded_as_it_was(replay_lab):
    found = replay_lab.compare(ARMS, "gsm8k", n=40, scorer="numeric", name="again", progress=False)
    again = replay_lab.experiments.load("again")
    assert again.verdict == found.verdict
    assert again.design == found.design
    assert again.table.equals(found.table)
    assert again.frame["content"].null_count() == 80, "texts are in the log alone"


def test_a_comparison_shows_itself_and_escapes_what_it_shows(replay_lab):
    arms = {"<script>alert(1)</script>": {"model": STRONG}, "b": {"model": WEAK}}
    found = replay_lab.compare(arms, "gsm8k", n=60, scorer="numeric", progress=False)
    page = found._repr_html_()
    assert "<script>" not in page
    assert "REPLAY" in page
    assert "<script>" not in found.figure().to_json()
    assert "<script>" not in found.frontier().to_json()


@pytest.mark.parametrize(
    ("arms", "options", "says"),
    [
        (["weighted"], {}, "at least two arms"),
        (["weighted", "weighted"], {}, "two arms have the name"),
        (["weighted", "wieghted"], {}, "neither a strategy nor a model"),
        ({"a": {"max_tokens": 1}, "b": {"max_token": 2}}, {}, "no 'max_token'"),
        ("weighted", {}, "strategies must be a list"),
        (ARMS, {"scorer": "numbers"}, "no scorer 'numbers'"),
        (ARMS, {"metric": "score"}, "needs a scorer"),
        (ARMS, {"metric": "price"}, "no metric 'price'"),
        (ARMS, {"n": 0}, "whole number of items above 0"),
        (ARMS, {"n": 5000}, "1307 items, not 5000"),
        (ARMS, {"level": 95}, "between 0 and 1"),
        (ARMS, {"margin": -1}, "margin must be above 0"),
        (ARMS, {"max_usd": 0}, "max_usd must be a number of dollars above 0"),
        (ARMS, {"max_concurrency": 0}, "max_concurrency"),
        (ARMS, {"temprature": 0.5}, "no argument 'temprature'"),
        (ARMS, {"scorer": "judge"}, "say who judges"),
    ],
)
def test_mistakes_are_told_before_anything_is_sent(replay_lab, rows, arms, options, says):
    with pytest.raises(InvalidRequestError, match=says):
        replay_lab.compare(arms, "gsm8k", **{"n": 5, **options}, progress=False)
    replay_lab.flush()
    assert [row for row in rows() if row["status"] == "ok"] == []


def test_a_wrong_call_ends_the_comparison_at_once(replay_lab):
    with pytest.raises(InvalidRequestError, match="temperature"):
        replay_lab.compare(ARMS, "gsm8k", n=50, temperature=7.0, progress=False)
    with pytest.raises(UnknownModelError):
        replay_lab.compare(
            {"a": {"model": STRONG}, "b": {"model": "gpt-nothing"}}, "gsm8k", n=5, progress=False
        )
