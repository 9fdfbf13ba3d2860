"""Rules of the YAML, and what a request needs of a model: who may answer, and who is left out and why."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
from pydantic import BaseModel

from novellus_lab.errors import (
    NoModelAvailableError,
    UnknownStrategyError,
)
from tests.lab.conftest import openai_model
from tests.loopback import ScriptedServer, openai_chat_reply

PIXEL = "data:image/png;base64,iVBORw0KGgo="
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


class City(BaseModel):
    name: str


@pytest.fixture
def llm():
    with ScriptedServer(openai_chat_reply('{"name": "Ghent"}')) as llm:
        yield llm


def rule(name: str, pool: list[str], **more: Any) -> dict[str, Any]:
    return {"rules": [{"name": name, "model_pool": pool, **more}]}


def test_the_first_rule_that_matches_gives_pool_and_strategy_and_is_logged(make_lab, rows, llm):
    rules = {
        "rules": [
            {
                "name": "urgent",
                "strategy": "priority",
                "model_pool": ["fast", "faster"],
                "conditions": {"priority": ["high", 9]},
            },
            {"name": "search", "model_pool": ["cheap"], "conditions": {"tags": {"team": "search"}}},
            {"name": "long", "model_pool": ["wide"], "conditions": {"min_input_tokens": 500}},
        ]
    }
    lab = make_lab(
        openai_model("fast", llm.url, priority=1),
        openai_model("faster", llm.url, priority=2),
        openai_model("cheap", llm.url, weight=0),
        openai_model("wide", llm.url),
        openai_model("rest", llm.url),
        load_balancing=rules,
    )
    tags = {"team": "search"}
    for arguments, model, name, strategy in (
        ({"priority": "high"}, "faster", "urgent", "priority"),
        ({"priority": 9, "tags": tags}, "faster", "urgent", "priority"),
        ({"priority": "9"}, "faster", "urgent", "priority"),
        (
            {"tags": tags},
            "cheap",
            "search",
            "weighted",
        ),  # weight 0 keeps out of automatic pools only
        ({"tags": tags, "prompt": "word " * 800}, "cheap", "search", "weighted"),
        ({"prompt": "word " * 800}, "wide", "long", "weighted"),
    ):
        r = lab.complete(**{"prompt": "Hi", **arguments}, use_cache=False)
        assert (r.model, r.route.rule, r.route.strategy) == (model, name, strategy)
    assert lab.complete("Hi", use_cache=False, tags={"team": "other"}).route.rule is None
    named = lab.complete("Hi", model_id="rest", priority="high", use_cache=False)
    assert (named.model, named.route.rule) == ("rest", None)
    other = lab.complete(
        "Hi", priority="high", model_selection_strategy="round_robin", use_cache=False
    )
    assert (other.route.rule, other.route.strategy) == ("urgent", "round_robin")
    lab.flush()
    assert [r["rule"] for r in rows()][:3] == ["urgent"] * 3


def test_a_rule_without_a_usable_model_is_an_error_that_says_why(make_lab, llm):
    lab = make_lab(
        {"provider": "anthropic", "model_name": "claude-3-opus"},
        openai_model("rest", llm.url),
        load_balancing=rule("only_claude", ["claude-3-opus"], conditions={"priority": "high"}),
    )
    with pytest.raises(NoModelAvailableError, match=r"only_claude.*CLAUDE_API_KEY"):
        lab.complete("Hi", priority="high")
    assert lab.complete("Hi").model == "rest"
    assert len(llm.requests) == 1


def test_a_rule_bounds_cost_and_unpriced_models_are_beyond_any_bound(make_lab, llm):
    lab = make_lab(
        openai_model("dear", llm.url, input_token_cost=9, output_token_cost=9),
        openai_model("fair", llm.url, input_token_cost="0.001", output_token_cost="0.001"),
        {"provider": "openai", "model_name": "unpriced", "base_url": f"{llm.url}/v1"},
        load_balancing={"rules": [{"name": "thrifty", "conditions": {"max_cost_usd": "0.01"}}]},
    )
    for n in range(8):
        r = lab.complete(f"Hi {n}")
        assert r.model == "fair"
    left_out = {c.model_id: c.dropped for c in r.route.candidates if c.dropped}
    assert "exceeds the rule's $0.01" in left_out["dear"]
    assert "price is unknown" in left_out["unpriced"]
    with pytest.raises(NoModelAvailableError, match="thrifty"):
        lab.complete("word " * 30_000)
    assert len(llm.requests) == 8


def test_a_rule_passes_slow_models_by_unless_all_are_slow(make_lab, llm):
    with ExitStack() as stack:
        lab = make_lab(
            openai_model("one", llm.url),
            openai_model("two", llm.url),
            load_balancing={"rules": [{"name": "quick", "conditions": {"max_latency_ms": 1e-6}}]},
        )
        stack.callback(lab.close)
        assert lab.complete("Hi", model_id="one", use_cache=False).model == "one"
        r = lab.complete("Hi", use_cache=False)  # "two" was not seen yet
        assert r.model == "two"
        assert "recent latency" in next(
            c.dropped for c in r.route.candidates if c.model_id == "one"
        )
        r = lab.complete("Hi", use_cache=False)
        assert all(c.dropped is None for c in r.route.candidates)


@pytest.mark.parametrize(
    ("arguments", "lacking"),
    [
        ({"tools": [TOOL]}, "function_calling"),
        ({"functions": [TOOL["function"]]}, "function_calling"),
        ({"response_format": City}, "json_schema"),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": "What is this?"},
                            {"type": "image_url", "image_url": {"url": PIXEL}},
                        ],
                    }
                ]
            },
            "vision",
        ),
    ],
)
def test_a_request_goes_only_to_models_that_are_capable_of_it(make_lab, llm, arguments, lacking):
    ask = {**({} if "messages" in arguments else {"prompt": "Hi"}), **arguments, "use_cache": False}
    plain = openai_model("plain", llm.url, capabilities=["chat"])
    able = openai_model("able", llm.url, capabilities=["chat", lacking])
    unsaid = openai_model("unsaid", llm.url)
    lab = make_lab(plain, able, unsaid)
    for _ in range(6):
        r = lab.complete(**ask)
        assert r.model in ("able", "unsaid")
        (left_out,) = [c for c in r.route.candidates if c.dropped]
        assert (left_out.model_id, left_out.probability) == ("plain", 0)
        assert lacking in left_out.dropped
        assert sum(c.probability for c in r.route.candidates) == pytest.approx(1)
    # whoever names a model means it
    assert lab.complete(**ask, model_id="plain").model == "plain"
    alone = make_lab(plain)
    sent = len(llm.requests)
    with pytest.raises(NoModelAvailableError, match=lacking):
        alone.complete(**ask)
    assert len(llm.requests) == sent


def test_a_text_that_only_speaks_of_images_needs_no_eyes(make_lab, llm):
    lab = make_lab(openai_model("plain", llm.url, capabilities=["chat"]))
    assert lab.complete('The key "image_url" holds a URL').model == "plain"


def test_hot_requests_pass_the_cache_by(make_lab, llm):
    lab = make_lab(
        openai_model("cool", llm.url), openai_model("hot", llm.url, temperature=1.5),
        cache={"max_temperature": 0.5},
    )  # fmt: skip
    for temperature, model_id, outcomes in (
        (0.2, "cool", ["miss", "memory"]),
        (0.9, "cool", ["off", "off"]),
        (None, "cool", ["off", "off"]),  # the provider's own, which is 1
        (None, "hot", ["off", "off"]),
    ):
        asked = {"temperature": temperature, "model_id": model_id}
        assert [lab.complete("Hi", **asked).cache for _ in range(2)] == outcomes


def test_an_unknown_strategy_of_a_rule_is_named_at_the_start(make_lab, llm):
    with pytest.raises(UnknownStrategyError, match="wieghted"):
        make_lab(openai_model("a", llm.url), load_balancing=rule("r", ["a"], strategy="wieghted"))


def test_a_long_prompt_is_counted_once_however_many_models_and_rules_ask(
    make_lab, llm, monkeypatch
):
    from novellus_lab.pipeline import question

    counted = []
    count = question.estimate_message_tokens

    def counting(*arguments):
        counted.append(arguments)
        return count(*arguments)

    monkeypatch.setattr(question, "estimate_message_tokens", counting)
    lab = make_lab(
        *(openai_model(f"m{n}", llm.url, context_window=20_000) for n in range(5)),
        load_balancing={
            "default_strategy": "cost_optimized",
            "rules": [
                {"name": f"r{n}", "conditions": {"min_input_tokens": 1_000_000}} for n in range(3)
            ],
        },
    )
    lab.complete("word " * 8_000)
    assert len(counted) == 1
