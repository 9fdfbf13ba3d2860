"""Whatever the end of a request: one row, its attempts, and a cost that is their sum or unknown."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from decimal import Decimal

import pytest
from pydantic import BaseModel, field_validator

from novellus_lab.errors import (
    DeadlineExceededError,
    NoModelAvailableError,
    NovellusError,
    ProviderError,
    ProviderUnavailableError,
    ResponseParseError,
)
from tests.lab.conftest import embedding_model, openai_model
from tests.loopback import (
    Scripted,
    ScriptedServer,
    openai_chat_reply,
    openai_chat_stream,
    openai_embedding_reply,
    openai_error,
    openai_usage,
)

GOOD = openai_chat_reply("Good.", usage=openai_usage(10, 5))  # 10 x 0.001 + 5 x 0.002 = 0.02
COST = Decimal("0.02")


def attempt_costs(rows, request_id):
    attempts = [a for a in rows("ai_request_attempts") if a["request_id"] == request_id]
    return [a["cost_usd"] for a in sorted(attempts, key=lambda a: a["number"])]


@pytest.mark.parametrize(
    ("replies", "costs"),
    [
        ([GOOD], [COST]),
        ([openai_error(503), GOOD], [0, COST]),
        # A connection that broke after the question was sent may have been charged.
        ([Scripted(end="abort"), GOOD], [None, COST]),
        ([Scripted(200, body="{no json"), GOOD], [None, COST]),
        ([openai_error(429), openai_error(429), openai_error(500)], [0, 0, 0]),
    ],
)
def test_a_requests_cost_is_the_sum_of_its_attempts_and_unknown_if_one_is(
    make_lab, rows, replies, costs
):
    with ScriptedServer(replies) as server:
        lab = make_lab(openai_model("m", server.url))
        try:
            answer = lab.complete("Hi")
            assert answer.cost == (None if None in costs else sum(costs))
        except ProviderError:
            pass
        lab.flush()
    [row] = rows()
    assert attempt_costs(rows, row["id"]) == costs
    assert row["cost_usd"] == (None if None in costs else sum(costs))
    assert row["uncached_cost_usd"] == row["cost_usd"]
    assert row["attempts"] == len(costs)
    assert [a["number"] for a in rows("ai_request_attempts")] == list(range(1, len(costs) + 1))


def test_a_server_that_is_not_there_costs_nothing(make_lab, rows):
    lab = make_lab(openai_model("m", "http://127.0.0.1:9"), retries={"max_attempts": 1})
    with pytest.raises(ProviderUnavailableError):
        lab.complete("Hi")
    lab.flush()
    assert rows()[0]["cost_usd"] == 0


def test_a_stream_left_before_its_first_word_has_an_unknown_cost(make_lab, rows):
    with ScriptedServer(Scripted(end="hang")) as server:
        lab = make_lab(openai_model("m", server.url))
        stream = lab.stream("Hi")
        for _ in range(1500):
            if server.requests:
                break
            time.sleep(0.02)
        stream.close()
        lab.flush()
    [row] = rows()
    assert (row["status"], row["cost_usd"]) == ("cancelled", None)


def test_a_stream_that_told_its_usage_before_it_was_left_is_charged_by_it(
    make_lab, rows, monkeypatch
):
    from novellus_lab.providers.openai import OpenAIProvider
    from novellus_lab.types import Delta, Usage

    async def stream(self, call):
        yield Delta(usage=Usage(input_tokens=1000), raw_usage={"prompt_tokens": 1000})
        yield Delta(content="Once ", usage=Usage(1000, 1), raw_usage={"prompt_tokens": 1000})
        await asyncio.Event().wait()

    monkeypatch.setattr(OpenAIProvider, "stream", stream)
    lab = make_lab(openai_model("m", "http://127.0.0.1:9"))
    stream_ = lab.stream("Hi")
    next(stream_)
    stream_.close()
    lab.flush()
    [row] = rows()
    assert (row["input_tokens"], row["usage_estimated"]) == (1000, True)
    assert row["cost_usd"] == Decimal(1) + row["output_tokens"] * Decimal("0.002")
    assert row["raw_usage"] == {"prompt_tokens": 1000}


def test_a_cached_stream_that_is_left_half_way_is_one_row(make_lab, rows):
    many = [f"a word of some length, number {n} " for n in range(4000)]
    with ScriptedServer(openai_chat_stream(many)) as server:
        lab = make_lab(openai_model("m", server.url))
        list(lab.stream("Long"))
        lab.flush()
        stream = lab.stream("Long")
        next(stream)
        stream.close()
        lab.flush()
    whole, left = rows()
    assert (whole["status"], whole["cache"]) == ("ok", "miss")
    assert (left["status"], left["cache"]) == ("cancelled", "memory")
    assert (left["cost_usd"], left["attempts"], left["propensity"]) == (0, 0, None)


def test_a_deadline_that_passed_in_the_cache_sends_nothing(make_lab, rows, monkeypatch):
    from novellus_lab.cache.postgres import PostgresTier

    async def slow(self, key):
        await asyncio.sleep(30)

    monkeypatch.setattr(PostgresTier, "get", slow)
    with ScriptedServer(GOOD) as server:
        lab = make_lab(openai_model("m", server.url))
        with pytest.raises(DeadlineExceededError):
            lab.complete("Hi", timeout=0.2)
        assert not server.requests
        lab.flush()
    [row] = rows()
    assert (row["status"], row["attempts"], row["cost_usd"]) == ("error", 0, 0)


def test_who_was_left_out_and_why_is_logged_though_nobody_was_left(make_lab, rows):
    with ScriptedServer(GOOD) as server:
        lab = make_lab(openai_model("m", server.url, capabilities=["chat"]))
        tool = {"type": "function", "function": {"name": "f"}}
        with pytest.raises(NoModelAvailableError, match="function_calling"):
            lab.complete("Hi", tools=[tool])
        lab.flush()
    [row] = rows()
    assert (row["status"], row["strategy"]) == ("refused", "weighted")
    assert "function_calling" in row["candidates"][0]["dropped"]
    assert (row["picked_model"], row["propensity"]) == (None, None)


def test_the_logged_propensity_is_the_frequency_of_picks(make_lab, rows):
    """Also where a candidate was dropped: probabilities are those among the rest."""
    n = 400
    with ScriptedServer(GOOD) as server:
        lab = make_lab(
            openai_model("one", server.url, weight=1),
            openai_model("three", server.url, weight=3),
            openai_model("narrow", server.url, weight=4, context_window=10),
            seed=7,
        )
        prompt = "a prompt that is too long for the narrow one " * 5
        lab.batch([prompt] * n, use_cache=False, progress=False)
        lab.flush()
    logged = rows()
    picks = Counter(r["picked_model"] for r in logged)
    stated = {r["picked_model"]: r["propensity"] for r in logged}
    assert stated == {"one": 0.25, "three": 0.75}
    for name, p in stated.items():
        assert abs(picks[name] / n - p) < 5 * (p * (1 - p) / n) ** 0.5
    candidates = {c["model_id"]: c for c in logged[0]["candidates"]}
    assert candidates["narrow"]["dropped"]
    assert candidates["narrow"]["probability"] == 0


def test_a_seed_repeats_the_lottery_whatever_was_retried(make_lab):
    def picks(fail):
        count = 0

        def answer(request):
            nonlocal count
            count += 1
            return openai_error(503) if fail and count % 3 == 1 else GOOD

        with ScriptedServer(answer) as server:
            models = [openai_model(name, server.url) for name in "abc"]
            lab = make_lab(*models, seed=5)
            return [lab.complete("x", use_cache=False).route.picked for _ in range(12)]

    assert picks(fail=False) == picks(fail=True)


def test_every_batch_of_an_embedding_call_is_a_first_try(make_lab, rows):
    def answer(request):
        texts = request.json["input"]
        return openai_embedding_reply([[1.0]] * len(texts), tokens=len(texts))

    with ScriptedServer(answer) as server:
        lab = make_lab(embedding_model("e", server.url))
        lab.embed([f"text {n}" for n in range(600)])
        lab.flush()
    assert [a["role"] for a in rows("ai_request_attempts")] == ["primary"] * 3
    assert rows()[0]["cost_usd"] == sum(a["cost_usd"] for a in rows("ai_request_attempts"))


def test_embeddings_of_a_server_that_counts_nothing_are_counted_by_us(make_lab, rows):
    body = {"object": "list", "model": "e", "data": [{"index": 0, "embedding": [1.0]}]}
    with ScriptedServer(Scripted(body=body)) as server:
        lab = make_lab(embedding_model("e", server.url))
        lab.embed("some words to be embedded")
        lab.flush()
    [row] = rows()
    assert row["usage_estimated"] is True
    assert row["input_tokens"] > 0
    assert row["cost_usd"] > 0


def test_the_shares_of_an_embedding_batch_add_up_to_the_last_digit(make_lab, rows):
    def answer(request):
        return openai_embedding_reply([[1.0]] * len(request.json["input"]), tokens=7)

    texts = ["a", "some more", "and a good deal more of it than that"]
    with ScriptedServer(answer) as server:
        lab = make_lab(embedding_model("e", server.url))
        lab.embed(texts)
        lab.embed(texts)
        lab.flush()
    paid, hit = rows()
    assert hit["cost_usd"] == 0
    assert hit["uncached_cost_usd"] == paid["cost_usd"]


class Even(BaseModel):
    """Two classes with this schema differ in what they check."""

    n: int


def checking(name, check):
    return type(name, (Even,), {"check": field_validator("n")(classmethod(check))})


def test_a_kept_answer_that_the_class_no_longer_takes_is_asked_for_anew(make_lab):
    def refuse_one(cls, value):
        if value == 1:
            raise ValueError("1 is not even")
        return value

    before = type("Answer", (Even,), {})
    after = type("Answer", (Even,), {"check": field_validator("n")(classmethod(refuse_one))})
    assert before.model_json_schema() == after.model_json_schema()
    replies = [openai_chat_reply('{"n": 1}'), openai_chat_reply('{"n": 2}')]
    with ScriptedServer(replies) as server:
        lab = make_lab(openai_model("m", server.url))
        assert lab.complete("An even number?", response_format=before).parsed.n == 1
        second = lab.complete("An even number?", response_format=after)
        assert (second.parsed.n, second.cache) == (2, "miss")
        assert lab.complete("An even number?", response_format=after).cache == "memory"


def test_a_validator_that_breaks_is_an_answer_that_does_not_fit(make_lab, rows):
    def broken(cls, value):
        raise RuntimeError("a defect of the caller's")

    model = type("Broken", (Even,), {"check": field_validator("n")(classmethod(broken))})
    with ScriptedServer(openai_chat_reply('{"n": 1}')) as server:
        lab = make_lab(openai_model("m", server.url))
        with pytest.raises(ResponseParseError, match="RuntimeError"):
            lab.complete("x", response_format=model)
        lab.flush()
    assert rows()[0]["error_class"] == "ResponseParseError"


def test_errors_quote_neither_content_nor_what_is_redacted(make_lab, rows):
    echo = openai_error(400, "I can't take 'my secret' as a prompt")
    with ScriptedServer([openai_chat_reply("my secret"), echo]) as server:
        model = openai_model("m", server.url)
        off = make_lab(model, logging={"content": False})
        with pytest.raises(ResponseParseError, match="my secret"):
            off.complete("x", response_format="json")
        off.flush()
        lab = make_lab(model, redact=lambda text: text.replace("secret", "[gone]"))
        with pytest.raises(ProviderError, match="my secret"):
            lab.complete("x")
        lab.flush()
    logged = [*rows(), *rows("ai_request_attempts")]
    assert not any("secret" in str(r["error_message"]) for r in logged)
    assert any("my [gone]" in str(r["error_message"]) for r in logged)


def test_a_key_in_a_label_never_reaches_the_log(make_lab, rows, monkeypatch):
    key = "sk-verysecret0123456789"
    monkeypatch.setenv("MY_KEY", key)
    with ScriptedServer(openai_chat_reply("x")) as server:
        lab = make_lab(openai_model("m", server.url, api_key_env="MY_KEY"))
        labels = {"session_id": f"s {key}", "tags": {"note": key, "n": 1}, "priority": key}
        lab.complete("x", params={"user": key}, experiment=key, arm=key, **labels)
        for wrong in ({"model_id": key}, {"temperature": 7, "session_id": key}):
            with pytest.raises(NovellusError):
                lab.complete("x", **wrong)
        lab.flush()
    assert len(rows()) == 3
    assert key not in str(rows())
    assert rows()[0]["tags"] == {"note": "[redacted]", "n": 1}


def test_a_hit_says_which_rule_gave_its_pool(make_lab, rows):
    rule = {"name": "urgent", "model_pool": ["m"], "conditions": {"priority": "high"}}
    with ScriptedServer(GOOD) as server:
        lab = make_lab(
            openai_model("m", server.url),
            openai_model("n", server.url),
            load_balancing={"rules": [rule]},
        )
        for _ in range(2):
            lab.complete("x", priority="high")
        lab.flush()
    assert [(r["cache"], r["rule"]) for r in rows()] == [("miss", "urgent"), ("memory", "urgent")]


def test_a_failover_never_answers_for_a_model_that_was_named(make_lab):
    with ScriptedServer(openai_error(500)) as down, ScriptedServer(GOOD) as up:
        lab = make_lab(openai_model("a", down.url), openai_model("b", up.url))
        with pytest.raises(ProviderUnavailableError):
            lab.complete("x", model_id="a")
        assert not up.requests


def test_why_the_pick_failed_is_told_though_its_stand_in_can_not_do_it(make_lab, monkeypatch):
    from novellus_lab.errors import UnsupportedParameterError
    from novellus_lab.providers.openai import OpenAIProvider

    complete = OpenAIProvider.complete

    async def picky(self, call):
        if call.model == "b":
            raise UnsupportedParameterError("b has no seed")
        return await complete(self, call)

    monkeypatch.setattr(OpenAIProvider, "complete", picky)
    with ScriptedServer(openai_error(500)) as down:
        lab = make_lab(openai_model("a", down.url, priority=200), openai_model("b", down.url))
        with pytest.raises(ProviderUnavailableError):
            lab.complete("x", seed=1, model_selection_strategy="priority")


@pytest.mark.parametrize(
    ("name", "allowed"), [("m", True), ("openai/m", True), ("replay/gpt-4-1106-preview", True)]
)
def test_a_model_answers_to_its_full_name_too(make_lab, name, allowed):
    with ScriptedServer(GOOD) as server:
        lab = make_lab(
            openai_model("m", server.url),
            {"provider": "replay", "model_name": "gpt-4-1106-preview"},
        )
        assert lab.complete("x", model_id=name).content


def test_recorded_answers_are_not_given_for_a_live_models_name(make_lab):
    with ScriptedServer(GOOD) as server:
        lab = make_lab(
            openai_model("m", server.url, weight=0),
            {"provider": "replay", "model_name": "gpt-4-1106-preview"},
        )
        with pytest.raises(NovellusError, match="replay/gpt-4-1106-preview"):
            lab.complete("x", model_id="gpt-4-1106-preview")
        with pytest.raises(NoModelAvailableError, match="weight is 0"):
            lab.complete("x")


@pytest.mark.parametrize("ttl", [1e300, 10**400])
def test_a_time_to_live_beyond_all_calendars_is_for_ever(make_lab, rows, ttl):
    with ScriptedServer(GOOD) as server:
        lab = make_lab(openai_model("m", server.url))
        lab.complete("x", cache={"ttl": ttl})
        lab.flush()
    [entry] = rows("ai_response_cache", "cache_key")
    assert entry["expires_at"] is None
