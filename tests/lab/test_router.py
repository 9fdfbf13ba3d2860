"""`lab.router`, strategies of one's own, and what routing does to calls."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest

import novellus_lab
from novellus_lab import ModelLoadBalancer, integration
from novellus_lab.errors import (
    ConfigurationError,
    InvalidRequestError,
    UnknownModelError,
    UnknownStrategyError,
)
from tests.lab.conftest import openai_model
from tests.loopback import Scripted, ScriptedServer, openai_chat_reply, openai_chat_stream


@pytest.fixture
def llm():
    with ScriptedServer(openai_chat_reply("Hello there, at some length.")) as llm:
        yield llm


class Dearest(ModelLoadBalancer):
    """The dearest model, as if money were no object."""

    def select_model(self, **kwargs: Any) -> Any:
        self.state["asked"] = self.state.get("asked", 0) + 1
        return max(kwargs["candidates"], key=lambda c: c.expected_cost_usd).model_id


class Coin(ModelLoadBalancer):
    def select_model(self, **kwargs: Any) -> Any:
        first, second = (c.model_id for c in kwargs["candidates"])
        return {first: 0.8, second: 0.2}


def two(llm: ScriptedServer) -> list[dict[str, Any]]:
    return [
        openai_model("dear", llm.url, input_token_cost=9, output_token_cost=9),
        openai_model("cheap", llm.url),
    ]


# --- strategies of one's own ---------------------------------------------------------------------


def test_a_balancer_is_registered_by_name_and_chooses(make_lab, rows, llm):
    assert novellus_lab.ModelLoadBalancer is integration.ModelLoadBalancer
    lab = make_lab(*two(llm))
    lab.router.register("dearest", Dearest)
    for _ in range(3):
        r = lab.complete("Hi", model_selection_strategy="dearest", use_cache=False)
        assert (r.model, r.route.strategy, r.route.propensity) == ("dear", "dearest", 1.0)
    assert lab.router.strategies()["dearest"].startswith("The dearest model")
    lab.flush()
    (row, *_) = rows()
    assert (row["strategy"], row["propensity"], row["picked_model"]) == ("dearest", 1.0, "dear")


def test_it_is_told_all_about_the_request(make_lab, llm):
    lab, told = make_lab(*two(llm)), {}

    @lab.router.register("curious")
    async def curious(**kwargs: Any) -> str:
        """Look at everything."""
        told.update(kwargs)
        return "cheap"

    lab.complete(
        messages=[{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hi"}],
        max_tokens=7, tags={"team": "search"}, priority="high", session_id="s1",
        model_selection_strategy="curious",
    )  # fmt: skip
    assert (told["prompt"], told["priority"], told["session_id"]) == ("Hi", "high", "s1")
    assert told["params"] == {"max_tokens": 7}
    assert told["tags"] == {"team": "search"}
    assert [m["role"] for m in told["messages"]] == ["system", "user"]
    dear, cheap = told["candidates"]
    assert (dear.provider, dear.expected_output_tokens, cheap.in_flight) == ("openai", 7, 0)
    assert dear.expected_cost_usd > cheap.expected_cost_usd
    assert dear.expected_latency_ms is None
    assert told["input_tokens"] > 0
    assert lab.router.strategies()["curious"] == "Look at everything."


def test_its_probabilities_are_drawn_by_the_lab_and_logged(make_lab, llm):
    def picks() -> list[str]:
        lab = make_lab(*two(llm), seed=5)
        lab.router.register("coin", Coin)
        found = []
        for n in range(60):
            r = lab.complete(f"Hi {n}", model_selection_strategy="coin", use_cache=False)
            stated = {c.model_id: c.probability for c in r.route.candidates}
            assert stated == pytest.approx({"dear": 0.8, "cheap": 0.2})
            assert r.route.propensity == stated[r.model]
            found.append(r.model)
        return found

    first = picks()
    assert first == picks()
    assert 36 <= Counter(first)["dear"] <= 58


def test_exploration_is_mixed_into_its_probabilities(make_lab, llm):
    lab = make_lab(*two(llm), load_balancing={"epsilon": 0.2}, seed=1)
    lab.router.register("dearest", Dearest)
    r = lab.complete("Hi", model_selection_strategy="dearest")
    assert {c.model_id: c.probability for c in r.route.candidates} == pytest.approx(
        {"dear": 0.9, "cheap": 0.1}
    )


def raises(**kwargs: Any) -> Any:
    raise RuntimeError("out of ideas")


def odd(**kwargs: Any) -> Any:
    return 7


def stranger(**kwargs: Any) -> Any:
    return "gpt-9"


def negative(**kwargs: Any) -> Any:
    return {"cheap": -1}


def silent(**kwargs: Any) -> Any:
    return None


@pytest.mark.parametrize(
    ("select", "told"),
    [
        (raises, "RuntimeError: out of ideas"),
        (odd, "returned 7"),
        (stranger, "'gpt-9', which is no candidate"),
        (negative, "the probability -1"),
        (silent, "named no model"),
    ],
)
def test_where_it_fails_the_default_strategy_decides(make_lab, llm, caplog, select, told):
    lab = make_lab(*two(llm), load_balancing={"default_strategy": "cost_optimized"})
    lab.router.register("mine", select)
    with caplog.at_level(logging.WARNING, "novellus_lab"):
        r = lab.complete("Hi", model_selection_strategy="mine")
    assert (r.model, r.route.strategy) == ("cheap", "cost_optimized")
    assert told in r.route.reason
    assert bool(caplog.records) == (select is not silent)


def test_one_that_hangs_holds_nobody_up_for_long(make_lab, llm):
    class Hanging(ModelLoadBalancer):
        timeout_s = 0.05

        def select_model(self, **kwargs: Any) -> Any:
            time.sleep(0.5)

    lab = make_lab(*two(llm))
    lab.router.register("hanging", Hanging)
    r = lab.complete("Hi", model_selection_strategy="hanging", use_cache=False)
    assert r.route.strategy == "weighted"
    assert "TimeoutError" in r.route.reason

    async def many() -> list[Any]:
        return await asyncio.gather(
            *(
                lab.acomplete(f"{n}", model_selection_strategy="hanging", use_cache=False)
                for n in range(40)
            )
        )

    assert any("calls of its select_model hang" in r.route.reason for r in asyncio.run(many()))


def test_names_of_the_yaml_are_known_at_the_start(make_lab, llm, tmp_path, monkeypatch):
    (tmp_path / "house_rules.py").write_text(
        "from novellus_lab import ModelLoadBalancer\n"
        "class Second(ModelLoadBalancer):\n"
        "    def __init__(self, place=1):\n"
        "        self.place = place\n"
        "    def select_model(self, **kwargs):\n"
        "        return kwargs['candidates'][self.place].model_id\n"
        "class Nothing: pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    rule = {"name": "r", "strategy": "house_rules:Second", "conditions": {"priority": "high"}}
    lab = make_lab(*two(llm), load_balancing={"rules": [rule]})
    assert lab.complete("Hi", priority="high").model == "cheap"
    lab = make_lab(*two(llm), load_balancing={"rules": [{**rule, "options": {"place": 0}}]})
    assert lab.complete("Hi", priority="high", use_cache=False).model == "dear"
    with pytest.raises(ConfigurationError, match=r"takes no options 'plaice'; it takes place"):
        make_lab(*two(llm), load_balancing={"rules": [{**rule, "options": {"plaice": 0}}]})
    for wrong in ("house_rules:Nothing", "house_rules:Absent", "no_such_module:X"):
        with pytest.raises(ConfigurationError, match=wrong):
            make_lab(*two(llm), load_balancing={"rules": [{**rule, "strategy": wrong}]})
    lab = make_lab(
        *two(llm), load_balancing={"default_strategy": "mine"}, strategies={"mine": Coin}
    )
    assert lab.complete("Hi", use_cache=False).route.strategy == "mine"


def test_an_entry_point_adds_one(make_lab, llm, tmp_path, monkeypatch):
    (tmp_path / "acme_routing.py").write_text(
        "from novellus_lab import ModelLoadBalancer\n"
        "class Last(ModelLoadBalancer):\n"
        "    'The last one.'\n"
        "    def select_model(self, **kwargs):\n"
        "        return kwargs['candidates'][-1].model_id\n"
    )
    about = tmp_path / "acme-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[novellus_lab.strategies]\nlast = acme_routing:Last\nbroken = acme_routing:Absent\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    lab = make_lab(*two(llm))
    assert lab.router.strategies()["last"] == "The last one."
    assert "acme can't be loaded" in lab.router.strategies()["broken"]
    assert lab.complete("Hi", model_selection_strategy="last").model == "cheap"


def test_what_is_no_strategy_is_refused(make_lab, llm):
    lab = make_lab(*two(llm))
    for name, strategy in (("weighted", Coin), ("", Coin), ("mine", 7), ("mine", dict)):
        with pytest.raises(InvalidRequestError):
            lab.router.register(name, strategy)
    with pytest.raises(UnknownStrategyError, match="least_latency"):
        lab.complete("Hi", model_selection_strategy="least_latancy")


def test_registering_anew_replaces_it_also_for_questions_asked_before(make_lab, llm):
    lab = make_lab(*two(llm))
    for model in ("dear", "cheap", "dear"):
        lab.router.register("fixed", lambda model=model, **kwargs: model)
        asked = {"model_selection_strategy": "fixed", "use_cache": False}
        assert lab.complete("Hi", **asked).model == model


# --- cascade -------------------------------------------------------------------------------------


def by_model(replies: dict[str, Any]) -> ScriptedServer:
    def answer(request: Any) -> Scripted:
        reply = replies[request.json["model"]]
        if isinstance(reply, Scripted):
            return reply
        if request.json.get("stream"):
            return openai_chat_stream([reply[:5], reply[5:]])
        return openai_chat_reply(reply)

    return ScriptedServer(answer)


REFUSAL = "I'm sorry, but I can't help with that."


def test_a_cascade_climbs_where_the_answer_is_not_good_enough(make_lab, rows):
    with by_model({"cheap": REFUSAL, "dear": "Of course: 42."}) as llm:
        lab = make_lab(*two(llm), load_balancing={"default_strategy": "cascade"})
        r = lab.complete("Hi")
        assert (r.model, r.content) == ("dear", "Of course: 42.")
        assert [(a.model_id, a.role) for a in r.attempts] == [
            ("cheap", "primary"), ("dear", "failover"),
        ]  # fmt: skip
        assert r.cost == sum(a.price.cost_usd for a in r.attempts)
        assert (r.route.picked, r.route.propensity) == ("cheap", 1.0)
        assert "cheap was not good enough (not_refused" in r.route.reason
        lab.flush()
        assert [a["role"] for a in rows("ai_request_attempts", "number")] == ["primary", "failover"]
        assert rows()[0]["model"] == "dear"
        streamed = list(lab.stream("Hi there"))
        assert "".join(map(str, streamed)) == "Of course: 42."
        assert len(streamed) > 1


def test_a_cascade_is_content_with_a_good_answer(make_lab):
    with by_model({"cheap": "Paris, of course.", "dear": "Paris."}) as llm:
        lab = make_lab(*two(llm), load_balancing={"default_strategy": "cascade"})
        assert lab.complete("Hi").model == "cheap"
        assert "".join(map(str, lab.stream("Hello"))) == "Paris, of course."
        assert {r.json["model"] for r in llm.requests} == {"cheap"}


def test_where_the_stronger_model_fails_the_weaker_answer_stays(make_lab):
    with by_model({"cheap": REFUSAL, "dear": Scripted(500)}) as llm:
        lab = make_lab(*two(llm), load_balancing={"default_strategy": "cascade"})
        r = lab.complete("Hi")
        assert (r.model, r.content) == ("cheap", REFUSAL)
        assert [a.model_id for a in r.attempts] == ["cheap", *["dear"] * 3]


def test_a_cascade_goes_by_ones_own_checks(make_lab):
    with by_model({"cheap": "yes", "dear": "yes, and here is why"}) as llm:
        stated = {"cascade": {"check": ["wordy", {"min_length": 2}], "order": ["cheap", "dear"]}}
        with pytest.raises(ConfigurationError, match="no check 'wordy'"):
            make_lab(*two(llm), load_balancing={"options": stated})
        lab = make_lab(*two(llm), load_balancing={"default_strategy": "cascade"})

        @lab.router.register_check("not_empty_handed")
        def check(answer: Any) -> bool:
            return " " in answer.content

        stated["cascade"]["check"] = [{"min_length": 10}]
        lab = make_lab(*two(llm), load_balancing={"options": stated})
        r = lab.complete("Hi", model_selection_strategy="cascade")
        assert r.model == "dear"
        assert "it has 3 of 10 characters" in r.route.reason


def test_a_cascade_checks_json_where_json_was_asked_for(make_lab):
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    with by_model({"cheap": '{"n": "many"}', "dear": '{"n": 7}'}) as llm:
        lab = make_lab(*two(llm), load_balancing={"default_strategy": "cascade"})
        r = lab.complete("Hi", response_format=schema)
        assert (r.model, r.parsed) == ("dear", {"n": 7})
        assert "it.n is no integer" in r.route.reason


# --- what calls teach ----------------------------------------------------------------------------


def test_costs_are_expected_by_how_long_a_model_answers(make_lab, llm):
    """One model is dear by the token and brief, the other cheap and wordy."""

    def answer(request: Any) -> Scripted:
        tokens = 2000 if request.json["model"] == "wordy" else 10
        return openai_chat_reply("Hi", usage={"prompt_tokens": 5, "completion_tokens": tokens})

    with ScriptedServer(answer) as server:
        models = [
            openai_model("wordy", server.url, input_token_cost=1, output_token_cost=1),
            openai_model("brief", server.url, input_token_cost=1, output_token_cost=3),
        ]
        lab = make_lab(*models)
        ask = {"use_cache": False, "model_selection_strategy": "cost_optimized"}
        assert lab.complete("Hi", **ask).model == "wordy"  # nothing is known: 256 tokens each
        for n in range(8):
            for model_id in ("wordy", "brief"):
                lab.complete(f"Hi {n}", model_id=model_id)
        assert lab.complete("Hi", **ask).model == "brief"
        explained = lab.router.explain("Hi", **ask)
        assert explained["brief"].expected_output_tokens < 150
        lab.flush()
        lab.close()
        again = make_lab(*models)  # another process, another day: it reads the log
        again.complete("Hi", **ask)
        deadline = time.monotonic() + 5
        while again.router.explain("Hi", **ask)["wordy"].expected_output_tokens < 800:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert again.complete("Hi", **ask).model == "brief"


# --- rules of the clock and of sessions ----------------------------------------------------------


def at(lab: Any, moment: str) -> None:
    candidates = lab._live().pipeline._candidates
    candidates._clock = lambda: datetime.fromisoformat(moment).replace(tzinfo=UTC)


def test_rules_look_at_the_clock_with_every_call(make_lab, llm):
    night = {"time": "22:00-06:00", "weekdays": "fri-sat", "time_zone": "Europe/Berlin"}
    lab = make_lab(
        *two(llm),
        load_balancing={
            "rules": [
                {"name": "night", "model_pool": ["cheap"], "conditions": night},
                {"name": "day", "model_pool": ["dear"]},
            ]
        },
    )
    for moment, name in (
        ("2026-11-27T20:59", "day"),  # Friday, 21:59 in Berlin
        ("2026-11-27T21:00", "night"),
        ("2026-11-28T04:59", "night"),  # Saturday, still Friday's night
        ("2026-11-28T05:00", "day"),
        ("2026-11-29T03:00", "night"),  # Sunday: Saturday's night
        ("2026-11-29T22:00", "day"),
        ("2026-07-03T20:00", "night"),  # 22:00 in summer
    ):
        at(lab, moment)
        assert lab.complete("Hi", use_cache=False).route.rule == name
        assert lab.router.explain("Hi").rule == name
    at(lab, "2026-11-24T12:00")
    (night_verdict, _) = lab.router.explain("Hi").rules
    assert night_verdict.reason == "it is Tue 13:00 in Europe/Berlin, not within 22:00-06:00"


@pytest.mark.parametrize(
    ("conditions", "told"),
    [
        ({"time": "9-17"}, "09:00-17:30"),
        ({"time": 540}, "09:00-17:30"),
        ({"time": "09:00-09:00"}, "09:00-17:30"),
        ({"weekdays": ["someday"]}, "someday"),
        ({"weekdays": "mon", "time_zone": "Europe/Atlantis"}, "Europe/Atlantis"),
    ],
)
def test_a_time_that_is_none_is_named(make_lab, llm, conditions, told):
    rules = [{"name": "r", "conditions": conditions}]
    with pytest.raises(ConfigurationError, match=told):
        make_lab(*two(llm), load_balancing={"rules": rules})


def test_a_rule_for_sessions(make_lab, llm):
    rules = [{"name": "r", "model_pool": ["cheap"], "conditions": {"session": "support-*"}}]
    lab = make_lab(*two(llm), load_balancing={"rules": rules})
    assert lab.complete("Hi", session_id="support-7").route.rule == "r"
    assert lab.complete("Hi", session_id="sales-7").route.rule is None
    assert "'sales-7'" in lab.router.explain("Hi", session_id="sales-7").rules[0].reason


# --- explain -------------------------------------------------------------------------------------


def test_explain_tells_the_choice_and_changes_nothing(make_lab, rows, llm):
    rules = [
        {"name": "urgent", "conditions": {"priority": "high"}},
        {"name": "long", "conditions": {"min_input_tokens": 100}},
        {"name": "thrifty", "strategy": "round_robin", "conditions": {"max_cost_usd": "1"}},
        {"name": "rest"},
    ]
    lab = make_lab(
        *two(llm),
        openai_model("free", llm.url, input_token_cost=0, output_token_cost=0),
        openai_model("blind", llm.url, capabilities=["vision"]),
        load_balancing={"rules": rules, "epsilon": 0.1},
        seed=4,
    )
    lab.router.register("dearest", Dearest)
    explained = lab.router.explain("Hi")
    assert (explained.rule, explained.strategy) == ("thrifty", "round_robin")
    assert [(r.name, r.decides) for r in explained.rules] == [
        ("urgent", False), ("long", False), ("thrifty", True), ("rest", False),
    ]  # fmt: skip
    reasons = [r.reason for r in explained.rules]
    assert reasons[0] == "priority is none, not high"
    assert "fewer than 100" in reasons[1]
    assert "thrifty comes before it" in reasons[3]
    assert sum(c.probability for c in explained.candidates) == pytest.approx(1)
    assert "exceeds the rule's $1" in explained["dear"].dropped
    assert explained["free"].expected_cost_usd == 0
    html = explained._repr_html_()
    assert "thrifty comes before it" in html
    assert "expected cost" in html
    assert "dear: dropped" in str(explained)
    # Nothing was sent, no row written, no turn taken, no lot drawn, no state of a balancer touched.
    before = lab._live().pipeline._random.getstate()
    for name in (*lab.router.strategies(), "dearest"):
        lab.router.explain("Hi there", model_selection_strategy=name)
    assert lab._live().pipeline._random.getstate() == before
    assert lab._live().strategies.get("dearest").state == {}
    assert not llm.requests
    lab.flush()
    assert rows() == []
    picks = [lab.complete(f"Hi {n}", use_cache=False).route.picked for n in range(2)]
    twin = make_lab(
        *two(llm),
        openai_model("free", llm.url, input_token_cost=0, output_token_cost=0),
        openai_model("blind", llm.url, capabilities=["vision"]),
        load_balancing={"rules": rules, "epsilon": 0.1},
        seed=4,
    )
    assert picks == [twin.complete(f"Hi {n}", use_cache=False).route.picked for n in range(2)]


def test_what_explain_states_is_what_happens(make_lab, llm):
    lab = make_lab(
        *two(llm), load_balancing={"default_strategy": "cost_optimized", "epsilon": 0.3}, seed=2
    )
    stated = {c.model_id: c.probability for c in lab.router.explain("Hi").candidates}
    n = 300
    picks = Counter(lab.complete("Hi", use_cache=False).route.picked for _ in range(n))
    for model_id, p in stated.items():
        assert abs(picks[model_id] / n - p) < 5 * math.sqrt(p * (1 - p) / n)


def test_explain_tells_what_would_be_refused(make_lab, llm):
    lab = make_lab(openai_model("small", llm.url, context_window=50))
    explained = lab.router.explain("word " * 1000)
    assert "shorten it" in explained.refused
    assert "context window" in explained["small"].dropped
    with pytest.raises(UnknownModelError):
        lab.router.explain("Hi", model_id="gpt-9")
    with pytest.raises(InvalidRequestError):
        lab.router.explain("Hi", max_tokens=-1)
    named = lab.router.explain("Hi", model_id="small")
    assert (named.strategy, named["small"].probability) == ("explicit", 1.0)


async def test_explain_works_in_a_running_loop(make_lab, llm):
    lab = make_lab(*two(llm))
    assert (await lab.router.aexplain("Hi", stream=True)).strategy == "weighted"
    assert lab.router.explain("Hi").rule is None


# --- the learned router --------------------------------------------------------------------------


def outcomes(n: int = 160) -> list[dict[str, Any]]:
    """Long prompts are hard: only the strong model answers them."""
    random = Random(1)
    found = []
    for k in range(n):
        hard = random.random() < 0.5
        prompt = f"Question {k}: " + "and then what is the sum " * (30 if hard else 2)
        found.append({"prompt": prompt, "weak": 0.0 if hard else 1.0, "strong": 1.0})
    return found


EASY, HARD = "Question 7: and then what", "Question 9: " + "and then what is the sum " * 30


def test_a_trained_router_routes_here_and_in_other_processes(make_lab, llm):
    rules = [
        {"name": "r", "strategy": "learned", "model_pool": ["cheap", "dear"],
         "options": {"router": "sums", "threshold": 0.4}},
    ]  # fmt: skip
    lab = make_lab(*two(llm), load_balancing={"rules": rules})
    r = lab.complete(EASY, use_cache=False)
    assert r.route.strategy == "weighted"
    assert "no router 'sums' was trained" in r.route.reason
    trained = lab.router.train(
        outcomes(), weak="cheap", strong="dear", name="sums", embed=False, folds=3
    )
    assert trained.summary.informative
    for prompt, model in ((EASY, "cheap"), (HARD, "dear")):
        r = lab.complete(prompt, use_cache=False)
        assert (r.model, r.route.strategy, r.route.propensity) == (model, "learned", 1.0)
    explained = lab.router.explain(HARD)
    assert explained["dear"].score == pytest.approx(trained.win_probability(HARD))
    (stored,) = lab.router.routers()
    assert (stored.name, stored.weak_model, stored.strong_model) == ("sums", "cheap", "dear")
    assert "sums" in lab.router.routers()._repr_html_()
    other = make_lab(*two(llm), load_balancing={"rules": rules})
    assert [other.complete(p).model for p in (EASY, HARD)] == ["cheap", "dear"]
    assert other.router.trained("sums").summary == trained.summary
    with pytest.raises(InvalidRequestError, match="no router 'absent'"):
        lab.router.trained("absent")


def test_a_router_learns_from_thumbs_on_logged_calls(make_lab, llm):
    import polars as pl

    lab = make_lab(*two(llm), seed=1)
    ratings = []
    for row in outcomes(120):
        r = lab.complete(row["prompt"], use_cache=False)
        side = "strong" if r.model == "dear" else "weak"
        quality = row[side] if len(ratings) % 10 else 0.0
        ratings.append({"request_id": str(r.request_id), "quality": quality})
    trained = lab.router.train(
        pl.DataFrame(ratings), weak="cheap", strong="dear", embed=False, folds=3
    )
    assert trained.summary.outcomes == 120
    assert trained.win_probability(HARD) > trained.win_probability(EASY)


def test_outcomes_that_are_none_are_refused(make_lab, llm):
    lab = make_lab(*two(llm))
    for wrong, told in (
        ("thumbs", "rows"),
        ([{"request_id": "x", "quality": 1}], r"outcomes\[0\]"),
        (outcomes(10), "at least"),
    ):
        with pytest.raises(InvalidRequestError, match=told):
            lab.router.train(wrong, weak="cheap", strong="dear")
    with pytest.raises(InvalidRequestError, match="two models"):
        lab.router.train(outcomes(), weak="cheap", strong="cheap")
    with pytest.raises(UnknownModelError):
        lab.router.train(outcomes(), weak="cheap", strong="gpt-9")
