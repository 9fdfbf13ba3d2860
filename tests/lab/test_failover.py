"""How often a model is asked again, by what went wrong, and who stands in for it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from novellus_lab.errors import (
    BadRequestError,
    ConfigurationError,
    ContentFilteredError,
    ContextWindowExceededError,
    ProviderUnavailableError,
    RateLimitError,
)
from tests.lab.conftest import QUICK_RETRIES, openai_model
from tests.loopback import Scripted, ScriptedServer, openai_chat_reply, openai_error

GOOD = openai_chat_reply("Good.")
FILTERED = openai_error(400, "no", code="content_filter")
TOO_LONG = openai_error(400, "too long", code="context_length_exceeded")
PRIORITY = {"default_strategy": "priority"}


def by_model(answers: dict[str, Scripted]):
    """One server that answers as the request's model is to answer."""
    return ScriptedServer(lambda request: answers[request.json["model"]])


def asked(server) -> list[str]:
    return [request.json["model"] for request in server.requests]


# --- retries -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after", "reply", "calls", "error"),
    [
        ({"rate_limit": 4}, openai_error(429), 5, RateLimitError),
        ({"rate_limit": 0}, openai_error(429), 1, RateLimitError),
        ({"rate_limit": 0}, openai_error(503), 3, ProviderUnavailableError),  # as max_attempts says
        ({"provider_error": 0}, openai_error(503), 1, ProviderUnavailableError),  # the rest of them
        ({"content_filtered": 1}, FILTERED, 2, ContentFilteredError),
        ({"bad_request": 1}, openai_error(400), 2, BadRequestError),
        # The provider says that waiting does not help.
        ({"rate_limit": 4}, openai_error(429, code="insufficient_quota"), 1, RateLimitError),
    ],
)
def test_each_kind_of_failure_has_its_number_of_retries(make_lab, after, reply, calls, error):
    with ScriptedServer(reply) as server:
        lab = make_lab(openai_model("m", server.url), retries={**QUICK_RETRIES, "after": after})
        with pytest.raises(error):
            lab.complete("Hi")
        assert len(server.requests) == calls


def test_kinds_are_counted_apart(make_lab):
    script = [openai_error(429), openai_error(503), openai_error(429), openai_error(503), GOOD]
    with ScriptedServer(script) as server:
        after = {"rate_limit": 2, "unavailable": 2}
        lab = make_lab(openai_model("m", server.url), retries={**QUICK_RETRIES, "after": after})
        r = lab.complete("Hi")
    assert [a.role for a in r.attempts] == ["primary", *["retry"] * 4]


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"retries": {"after": {"ratelimit": 1}}}, "'ratelimit' is no kind of failure.*rate_limit"),
        ({"retries": {"after": {"timeout": -1}}}, "retries.after.timeout"),
        ({"fallbacks": {"default": ["gpt-9"]}}, r"fallbacks.default\[0\] names 'gpt-9'"),
        ({"fallbacks": {"general": ["m"]}}, "'general' is no kind of failure"),
        (
            {"load_balancing": {"rules": [{"name": "r", "fallbacks": {"timeout": ["x"]}}]}},
            r"rules\[0\].fallbacks.timeout\[0\] names 'x'",
        ),
    ],
)
def test_what_is_wrong_in_the_configuration_is_named(make_lab, config, told):
    with pytest.raises(ConfigurationError, match=told):
        make_lab(openai_model("m", "http://127.0.0.1:9"), **config)


# --- stand-ins -----------------------------------------------------------------------------------


def test_the_default_chain_is_asked_when_all_candidates_failed(make_lab, rows):
    bad = openai_error(500)
    with by_model({"a": bad, "b": bad, "spare": bad, "last": GOOD}) as server:
        lab = make_lab(
            openai_model("a", server.url, priority=3),
            openai_model("b", server.url, priority=2),
            openai_model("spare", server.url, weight=0),
            openai_model("last", server.url, weight=0),
            load_balancing=PRIORITY,
            retries={"max_attempts": 1},
            fallbacks={"default": ["spare", "last"]},
        )
        r = lab.complete("Hi")
        assert asked(server) == ["a", "b", "spare", "last"]
        # Kept under the model that gave it, not under the pool that was asked.
        assert not lab.complete("Hi").cache.hit
        assert lab.complete("Hi", model_id="last").cache.hit
        lab.flush()
    assert r.model == "last"
    assert [a.role for a in r.attempts] == ["primary", *["failover"] * 3]
    row = rows()[0]
    assert (row["picked_model"], row["model"], row["propensity"]) == ("a", "last", 1.0)


def test_a_kind_of_failure_with_a_chain_of_its_own_goes_there(make_lab):
    with by_model({"a": FILTERED, "b": GOOD, "lenient": GOOD, "spare": GOOD}) as server:
        lab = make_lab(
            openai_model("a", server.url, priority=3),
            openai_model("b", server.url, priority=2),
            openai_model("lenient", server.url, weight=0),
            openai_model("spare", server.url, weight=0),
            load_balancing=PRIORITY,
            fallbacks={"content_filtered": ["lenient"], "default": ["spare"]},
        )
        assert lab.complete("Hi").model == "lenient"
        assert asked(server) == ["a", "lenient"]


def test_an_empty_chain_asks_nobody(make_lab):
    with by_model({"a": FILTERED, "b": GOOD}) as server:
        lab = make_lab(
            openai_model("a", server.url, priority=3),
            openai_model("b", server.url, priority=2),
            load_balancing=PRIORITY,
            fallbacks={"content_filtered": [], "default": ["b"]},
        )
        with pytest.raises(ContentFilteredError):
            lab.complete("Hi")
        assert asked(server) == ["a"]


def test_a_bad_request_goes_elsewhere_only_where_that_is_said(make_lab):
    with by_model({"a": openai_error(400), "b": GOOD}) as server:
        models = (
            openai_model("a", server.url, priority=3),
            openai_model("b", server.url, priority=2),
        )
        lab = make_lab(*models, load_balancing=PRIORITY, fallbacks={"default": ["b"]})
        with pytest.raises(BadRequestError):
            lab.complete("Hi")
        lab = make_lab(*models, load_balancing=PRIORITY, fallbacks={"bad_request": ["b"]})
        assert lab.complete("Hi").model == "b"


def test_rules_and_models_have_chains_of_their_own(make_lab):
    down = openai_error(500)
    answers = {"a": down, "b": TOO_LONG, "c": GOOD, "d": GOOD, "e": GOOD}
    with by_model(answers) as server:
        lab = make_lab(
            openai_model("a", server.url),
            openai_model("b", server.url, fallbacks={"context_window_exceeded": ["e"]}),
            *(openai_model(name, server.url, weight=0) for name in "cde"),
            retries={"max_attempts": 1},
            fallbacks={"default": ["c"]},
            load_balancing={
                "rules": [
                    {
                        "name": "urgent",
                        "model_pool": ["a"],
                        "conditions": {"priority": "high"},
                        "fallbacks": {"default": ["d"]},
                    },
                    {"name": "rest", "model_pool": ["a"]},
                ]
            },
        )
        assert lab.complete("1", priority="high").model == "d"
        assert lab.complete("2").model == "c"
        # Who names a model gets no other, but those that its own entry names.
        with pytest.raises(ProviderUnavailableError):
            lab.complete("3", model_id="a")
        assert lab.complete("4", model_id="b").model == "e"


def test_a_prompt_too_long_for_all_candidates_goes_to_the_chain_unsent(make_lab, rows):
    with by_model({"small": GOOD, "big": GOOD}) as server:
        lab = make_lab(
            openai_model("small", server.url, context_window=100),
            openai_model("big", server.url, context_window=100_000, weight=0),
            openai_model("blind", server.url, context_window=200, weight=0),
            fallbacks={"context_window_exceeded": ["blind", "big"]},
        )
        r = lab.complete("word " * 2_000)
        assert (r.model, asked(server)) == ("big", ["big"])
        assert r.route.strategy == "failover"
        explained = lab.router.explain("word " * 2_000)
        assert (explained.strategy, explained.refused) == ("failover", None)
        assert next((c.model_id, c.probability) for c in explained.candidates) == ("big", 1.0)
        assert "too long for small" in r.route.reason
        with pytest.raises(ContextWindowExceededError):
            lab.complete("word " * 2_000, model_id="small")
        lab.flush()
    row = rows()[0]
    assert (row["strategy"], row["picked_model"], row["propensity"]) == ("failover", "big", 1.0)
    assert row["route_reason"] == r.route.reason


def test_stand_ins_that_can_not_take_the_request_are_passed_by(make_lab):
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    with by_model({"a": openai_error(500), "plain": GOOD, "able": GOOD}) as server:
        lab = make_lab(
            openai_model("a", server.url),
            openai_model("plain", server.url, weight=0, capabilities=["chat"]),
            openai_model("able", server.url, weight=0, capabilities=["chat", "function_calling"]),
            retries={"max_attempts": 1},
            fallbacks={"default": ["plain", "able"]},
        )
        assert lab.complete("Hi", tools=tools).model == "able"


def test_a_stream_fails_over_to_the_chain(make_lab):
    from tests.loopback import openai_chat_stream

    with by_model({"a": FILTERED, "lenient": openai_chat_stream(["Go", "od."])}) as server:
        lab = make_lab(
            openai_model("a", server.url),
            openai_model("lenient", server.url, weight=0),
            fallbacks={"content_filtered": ["lenient"]},
        )
        assert "".join(map(str, lab.stream("Hi"))) == "Good."


def test_what_is_urgent_in_the_queue_is_urgent_for_rules(make_lab, rows):
    from novellus_lab.queue.worker import Worker

    with ScriptedServer(GOOD) as server:
        rule = {"name": "urgent", "conditions": {"priority": 7}}
        lab = make_lab(openai_model("m", server.url), load_balancing={"rules": [rule]})
        lab.queue_request({"prompt": "1"}, priority=7, scheduled_at=timedelta(0))
        lab.queue_request({"prompt": "2", "priority": "own"}, priority=7)
        lab.queue_request({"prompt": "3"})
        worker = Worker(lab._live(), once=True, concurrency=1)
        lab._live().thread.run(worker.run)
        lab.flush()
    told = {row["messages"][0]["content"]: (row["priority"], row["rule"]) for row in rows()}
    assert told == {"1": ("7", "urgent"), "2": ("own", None), "3": (None, None)}


# --- answers that were withheld ------------------------------------------------------------------

WITHHELD = openai_chat_reply("I can", finish_reason="content_filter")


def test_a_withheld_answer_is_asked_for_elsewhere_where_that_is_said(make_lab, rows):
    with by_model({"a": WITHHELD, "b": GOOD, "lenient": GOOD}) as server:
        models = [
            openai_model("a", server.url, priority=3),
            openai_model("b", server.url, priority=2),
            openai_model("lenient", server.url, weight=0),
        ]
        lab = make_lab(*models, load_balancing=PRIORITY, fallbacks={"default": ["lenient"]})
        assert lab.complete("1").finish_reason == "content_filter"
        lab = make_lab(
            *models, load_balancing=PRIORITY, fallbacks={"content_filtered": ["lenient"]}
        )
        r = lab.complete("2")
        lab.flush()
    assert (r.content, r.model) == ("Good.", "lenient")
    # Both were answers, and both are paid for.
    assert [(a.role, a.status.value) for a in r.attempts] == [("primary", "ok"), ("failover", "ok")]
    assert rows()[-1]["cost_usd"] == sum(a.price.cost_usd for a in r.attempts)


@pytest.mark.parametrize("error", [openai_error(500), openai_error(400)])
def test_a_withheld_answer_is_better_than_none(make_lab, rows, error):
    with by_model({"a": WITHHELD, "lenient": error}) as server:
        lab = make_lab(
            openai_model("a", server.url),
            openai_model("lenient", server.url, weight=0),
            retries={"max_attempts": 1},
            fallbacks={"content_filtered": ["lenient"]},
        )
        r = lab.complete("Hi")
        lab.flush()
    assert (r.content, r.model, r.finish_reason) == ("I can", "a", "content_filter")
    [row] = rows()
    assert (row["model"], row["status"], row["attempts"]) == ("a", "ok", 2)


def test_what_was_heard_of_a_stream_is_not_asked_for_again(make_lab):
    from tests.loopback import openai_chat_stream

    withheld = openai_chat_stream(["I ", "can"], finish_reason="content_filter")
    with by_model({"a": withheld, "lenient": GOOD}) as server:
        lab = make_lab(
            openai_model("a", server.url),
            openai_model("lenient", server.url, weight=0),
            fallbacks={"content_filtered": ["lenient"]},
        )
        assert "".join(map(str, lab.stream("Hi"))) == "I can"
        assert asked(server) == ["a"]
