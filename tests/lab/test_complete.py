"""`lab.complete`, from the call to the row it leaves."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from pydantic import BaseModel

from novellus_lab import CacheOutcome, Completion
from novellus_lab.errors import (
    ContextWindowExceededError,
    InvalidRequestError,
    NoModelAvailableError,
    ResponseParseError,
    UnknownModelError,
    UnknownStrategyError,
)
from tests.lab.conftest import openai_model
from tests.loopback import Scripted, ScriptedServer, openai_chat_reply, openai_usage


def test_an_answer_is_priced_and_logged_with_all_that_is_known(make_lab, rows):
    usage = openai_usage(100, 20, cached=40, reasoning=5)
    with ScriptedServer(openai_chat_reply("Forty-two.", usage=usage)) as server:
        lab = make_lab(openai_model("gpt-4o", server.url, cached_input_token_cost="0.5"))
        r = lab.complete(
            "What is the answer?",
            max_tokens=200,
            temperature=0.7,
            tags={"team": "search"},
            session_id="s1",
            priority="high",
        )
        assert isinstance(r, Completion)
        assert (r.content, r["content"]) == ("Forty-two.", "Forty-two.")
        assert (r.model, r.provider, r.response_model) == ("gpt-4o", "openai", "gpt-4o-2024-08-06")
        # 60 plain at $1, 40 cached at $0.50, 20 out at $2, each per 1,000
        assert r.cost == r["cost"] == Decimal("0.12")
        assert f"{r['cost']:.6f}" == "0.120000"
        assert (r.usage.input_tokens, r.usage.cached_input_tokens) == (100, 40)
        assert r.cache == "miss"
        assert not r.cache.hit
        assert r.latency_ms > 0
        assert r.route is not None
        assert r.route.propensity == 1.0
        sent = server.requests[0].json
        assert sent["messages"] == [{"role": "user", "content": "What is the answer?"}]
        assert sent["temperature"] == 0.7
        lab.flush()
    [row] = rows()
    assert row["id"] == r.request_id
    assert row["id"].version == 7
    expected = {
        "status": "ok",
        "kind": "chat",
        "stream": False,
        "requested_model": None,
        "picked_model": "gpt-4o",
        "model": "gpt-4o",
        "provider": "openai",
        "response_model": "gpt-4o-2024-08-06",
        "strategy": "weighted",
        "propensity": 1.0,
        "cache": "miss",
        "input_tokens": 100,
        "output_tokens": 20,
        "cached_input_tokens": 40,
        "reasoning_tokens": 5,
        "usage_estimated": False,
        "cost_usd": Decimal("0.12"),
        "uncached_cost_usd": Decimal("0.12"),
        "price_version": "config",
        "attempts": 1,
        "tags": {"team": "search"},
        "session_id": "s1",
        "priority": "high",
        "params": {"max_tokens": 200, "temperature": 0.7},
        "messages": [{"role": "user", "content": "What is the answer?"}],
        "response": "Forty-two.",
        "finish_reason": "stop",
        "error_class": None,
    }
    assert {name: row[name] for name in expected} == expected
    assert row["candidates"][0]["model_id"] == "gpt-4o"
    assert row["raw_usage"]["prompt_tokens"] == 100
    assert row["latency_ms"] == pytest.approx(
        row["provider_ms"] + row["queue_ms"] + row["overhead_ms"]
    )
    assert len(row["prompt_hash"]) == 16
    [attempt] = rows("ai_request_attempts")
    assert attempt["request_id"] == r.request_id
    assert (attempt["number"], attempt["role"], attempt["status"]) == (1, "primary", "ok")
    assert attempt["cost_usd"] == Decimal("0.12")


def test_the_second_call_is_answered_from_memory_and_costs_nothing(make_lab, rows):
    with ScriptedServer(openai_chat_reply("Yes.")) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        first = lab.complete("Same?")
        second = lab.complete("Same?")
        assert len(server.requests) == 1
        lab.flush()
    assert second.cache is CacheOutcome.MEMORY
    assert (second.content, second.cost, second.cost_saved) == ("Yes.", 0, first.cost)
    assert second.cache_source_id == first.request_id
    assert second.route is None
    assert second.original_latency_ms == pytest.approx(first.attempts[0].latency_ms)
    hit = rows()[1]
    assert (hit["cache"], hit["cost_usd"], hit["propensity"]) == ("memory", 0, None)
    assert hit["uncached_cost_usd"] == first.cost
    assert hit["cache_source_id"] == first.request_id
    assert hit["attempts"] == 0
    assert len(rows("ai_request_attempts")) == 1


def test_another_lab_finds_the_answer_in_postgresql(make_lab, rows):
    with ScriptedServer(openai_chat_reply("Yes\x00, exactly.")) as server:
        model = openai_model("gpt-4o", server.url)
        first_lab = make_lab(model)
        first_lab.complete("Shared?")
        first_lab.flush()
        second = make_lab(model).complete("Shared?")
        assert len(server.requests) == 1
    assert second.cache == "postgres"
    assert second.content == "Yes\x00, exactly."
    [entry] = rows("ai_response_cache", "cache_key")
    assert entry["prompt"] == "Shared?"


@pytest.mark.parametrize(
    ("second", "calls"),
    [
        ({}, 1),
        ({"use_cache": False}, 2),
        ({"cache": {"no_store": True}}, 2),
        ({"cache": {"write_only": True}}, 2),
        ({"cache": {"read_only": True}}, 1),
        ({"cache": {"namespace": "other"}}, 2),
        ({"cache": {"sample": 1}}, 2),
        ({"cache": {"max_age": 0}}, 2),
        ({"temperature": 0.1}, 2),
        ({"experiment": "e", "arm": "a"}, 2),
        ({"tags": {"only": "a label"}}, 1),
    ],
)
def test_what_a_call_wants_of_the_cache_is_done(make_lab, second, calls):
    with ScriptedServer(openai_chat_reply("Yes.")) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        lab.complete("Same?")
        lab.complete("Same?", **second)
        assert len(server.requests) == calls


def test_entries_expire(make_lab):
    with ScriptedServer(openai_chat_reply("Yes.")) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        lab.complete("Same?", cache={"ttl": 0})
        lab.flush()
        lab.complete("Same?")
        assert len(server.requests) == 2


def test_a_changed_default_is_another_question(make_lab):
    with ScriptedServer(openai_chat_reply("Yes.")) as server:
        for temperature in (0.1, 0.9):
            lab = make_lab(openai_model("gpt-4o", server.url, temperature=temperature))
            lab.complete("Same?")
            lab.flush()
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    "reply",
    [
        openai_chat_reply("cut sh", finish_reason="length"),
        openai_chat_reply("", finish_reason="content_filter"),
        openai_chat_reply(
            None,
            finish_reason="tool_calls",
            tool_calls=[
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
            ],
        ),
    ],
)
def test_answers_that_are_not_whole_are_not_kept(make_lab, reply):
    with ScriptedServer(reply) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        for _ in range(2):
            try:
                lab.complete("Same?")
            except Exception as error:
                assert "filter" in type(error).__name__.lower()
        assert len(server.requests) == 2


class City(BaseModel):
    name: str
    people: int


def test_a_pydantic_model_comes_back_parsed_and_from_the_cache_too(make_lab):
    with ScriptedServer(openai_chat_reply('{"name": "Ghent", "people": 265000}')) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        for _ in range(2):
            r = lab.complete("A city?", response_format=City)
            assert r.parsed == City(name="Ghent", people=265000)
        sent = server.requests[0].json["response_format"]
        assert sent["json_schema"]["name"] == "City"


def test_an_answer_that_does_not_fit_its_format_is_an_error_that_was_paid_for(make_lab, rows):
    with ScriptedServer(openai_chat_reply('{"name": "Ghent"}')) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        with pytest.raises(ResponseParseError, match="City.*people") as caught:
            lab.complete("A city?", response_format=City)
        assert caught.value.content == '{"name": "Ghent"}'
        lab.flush()
    [row] = rows()
    assert (row["status"], row["error_class"]) == ("error", "ResponseParseError")
    assert row["response"] == '{"name": "Ghent"}'
    assert row["cost_usd"] > 0


def test_tool_calls_and_their_results_make_the_round_trip(make_lab):
    asked = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}
    replies = [
        openai_chat_reply(None, finish_reason="tool_calls", tool_calls=[asked]),
        openai_chat_reply("It is 2."),
    ]
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
    with ScriptedServer(replies) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        messages = [{"role": "user", "content": "1+1?"}]
        first = lab.complete(messages=messages, tools=tools, tool_choice="add")
        [call] = first.tool_calls
        assert (call.name, json.loads(call.arguments)) == ("add", {"a": 1})
        messages += [
            {"role": "assistant", "content": None, "tool_calls": [call.as_message_part()]},
            {"role": "tool", "tool_call_id": call.id, "content": "2"},
        ]
        assert lab.complete(messages=messages, tools=tools).content == "It is 2."
        assert server.requests[1].json["messages"][2]["content"] == "2"


def test_an_unknown_price_is_null_and_says_so_and_is_never_zero(make_lab, rows):
    with ScriptedServer(openai_chat_reply("Yes.")) as server:
        model = openai_model("my-own", server.url, input_token_cost=None, output_token_cost=None)
        lab = make_lab(model)
        r = lab.complete("Price?")
        lab.flush()
    assert r.cost is None
    assert any("cost unknown" in warning for warning in r.warnings)
    assert rows()[0]["cost_usd"] is None
    assert rows("ai_request_attempts")[0]["unpriced_reason"]


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"prompt": ""}, InvalidRequestError, "empty"),
        ({"prompt": "x", "max_tokens": -1}, InvalidRequestError, "max_tokens"),
        ({"prompt": "x", "model_id": "gpt-4p"}, UnknownModelError, "'gpt-4o'"),
        (
            {"prompt": "x", "model_selection_strategy": "wieghted"},
            UnknownStrategyError,
            "'weighted'",
        ),
        ({"prompt": "x", "model_id": "off"}, NoModelAvailableError, "enabled"),
        ({"prompt": "word " * 2_000_000}, ContextWindowExceededError, "Nothing was sent"),
    ],
)
def test_a_refused_call_costs_nothing_and_is_logged_as_refused(
    make_lab, rows, arguments, error, says
):
    with ScriptedServer(openai_chat_reply("never")) as server:
        lab = make_lab(
            openai_model("gpt-4o", server.url, context_window=128_000),
            openai_model("off", server.url, enabled=False),
        )
        with pytest.raises(error, match=says):
            lab.complete(**arguments)
        assert not server.requests
        lab.flush()
    [row] = rows()
    assert row["status"] == "refused"
    assert row["cost_usd"] == row["uncached_cost_usd"] == 0
    assert row["latency_ms"] > 0
    assert row["error_class"] == error.__name__
    assert row["attempts"] == 0


def test_nul_and_every_other_character_survive_or_are_marked(make_lab, rows):
    text = "a\x00b \\ \t \n ' \" 世界 🎈 \u2028"
    with ScriptedServer(openai_chat_reply(text)) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        assert lab.complete(text).content == text
        assert server.requests[0].json["messages"][0]["content"] == text
        lab.flush()
    [row] = rows()
    logged = text.replace("\x00", "\ufffd")
    assert row["messages"][0]["content"] == logged
    assert row["response"] == logged


def test_content_stays_out_of_the_log_when_it_is_switched_off(make_lab, rows):
    with ScriptedServer(openai_chat_reply("secret answer")) as server:
        lab = make_lab(openai_model("gpt-4o", server.url), logging={"content": False})
        lab.complete("secret question")
        lab.complete("secret question")
        lab.flush()
    for row in rows():
        assert (row["messages"], row["response"]) == (None, None)
        assert "secret" not in json.dumps(row, default=str)
    assert rows("ai_response_cache", "cache_key")[0]["prompt"] is None


def test_a_redactor_sees_every_text_and_a_broken_one_lets_none_through(make_lab, rows):
    with ScriptedServer(openai_chat_reply("call 555-1234")) as server:
        model = openai_model("gpt-4o", server.url)
        lab = make_lab(model, redact=lambda text: text.replace("555-1234", "[phone]"))
        assert lab.complete("is it 555-1234?").content == "call 555-1234"
        lab.flush()
        broken = make_lab(model, redact=lambda text: 1 / 0)
        broken.complete("or 555-1234?")
        broken.flush()
    assert "555-1234" not in json.dumps(rows(), default=str)
    assert rows()[0]["response"] == "call [phone]"
    assert rows()[1]["response"] == "[redacted]"


def test_keys_never_reach_the_log(make_lab, rows, monkeypatch):
    key = "sk-abcdefghijklmnopqrstuvwxyz0123456789"
    monkeypatch.setenv("MY_KEY", key)
    error = {"error": {"message": f"Incorrect API key provided: {key}", "code": "invalid_api_key"}}
    with ScriptedServer([openai_chat_reply(f"your key is {key}"), Scripted(401, body=error)]) as s:
        lab = make_lab(openai_model("gpt-4o", s.url, api_key_env="MY_KEY"))
        lab.complete(f"my key is {key}")
        assert s.requests[0].headers["authorization"] == f"Bearer {key}"
        with pytest.raises(Exception, match="key") as caught:
            lab.complete("again")
        assert key not in str(caught.value) + repr(caught.value)
        lab.flush()
    dump = json.dumps([rows(), rows("ai_request_attempts"), rows("ai_models")], default=str)
    assert key not in dump
    assert "[redacted]" in dump


def test_both_spellings_of_a_model_and_the_seeds_functions(make_lab):
    with ScriptedServer(openai_chat_reply("Yes.")) as server:
        a, b = ScriptedServer(openai_chat_reply("b")), server
        with a:
            lab = make_lab(
                openai_model("shared", a.url),
                {**openai_model("shared", b.url), "provider": "azure", "base_model": "gpt-4o"},
                openai_model("alone", b.url),
            )
            assert lab.complete("x", model_id="alone").model == "alone"
            assert lab.complete("x", model_id="openai/shared").model == "openai/shared"
            with pytest.raises(UnknownModelError, match="openai/shared.*azure/shared"):
                lab.complete("x", model_id="shared")


def test_closing_is_final_and_says_so(make_lab):
    with ScriptedServer(openai_chat_reply("Yes.")) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        lab.close()
        lab.close()
        with pytest.raises(Exception, match="closed"):
            lab.complete("x")
        assert repr(lab) == "Lab(closed)"
