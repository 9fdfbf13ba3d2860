"""A call that was made before is known again; nothing but its id and its times is taken from then."""

from __future__ import annotations

import itertools
import math
from datetime import timedelta

import pytest

from novellus_lab.errors import InvalidRequestError
from tests.lab.conftest import openai_model
from tests.loopback import ScriptedServer, openai_chat_reply

HITS = 4


@pytest.fixture
def answers():
    """What the server says; tests change it."""
    return ["Yes."]


@pytest.fixture
def llm(answers):
    with ScriptedServer(lambda request: openai_chat_reply(answers[0])) as server:
        yield server


def test_every_hit_has_a_row_that_differs_in_id_and_times_only(make_lab, rows, llm, answers):
    answers[0] = "line one\nline\ttwo \\ 'three'"
    lab = make_lab(openai_model("m", llm.url), openai_model("n", llm.url, weight=0))
    arguments = {"temperature": 0.5, "tags": {"team": "a\tb"}, "session_id": "s\\1", "priority": 3}
    first = lab.complete("Hi\\there\n", **arguments)
    hits = [lab.complete("Hi\\there\n", **arguments) for _ in range(HITS)]
    lab.flush()

    made, *logged = rows()
    assert [hit.content for hit in hits] == [first.content] * HITS
    assert len({first.request_id, *(hit.request_id for hit in hits)}) == HITS + 1
    assert [row["id"] for row in logged] == [hit.request_id for hit in hits]
    assert [row["latency_ms"] for row in logged] == [hit.latency_ms for hit in hits]
    assert all(row["overhead_ms"] == row["latency_ms"] for row in logged)
    for earlier, later in itertools.pairwise(logged):
        assert timedelta(0) < later["created_at"] - earlier["created_at"] < timedelta(minutes=1)
        own = ("id", "created_at", "latency_ms", "overhead_ms")
        assert {k: v for k, v in earlier.items() if k not in own} == {
            k: v for k, v in later.items() if k not in own
        }
    for name in ("messages", "response", "tags", "session_id", "priority", "params", "model"):
        assert logged[-1][name] == made[name]
    assert {row["cache"] for row in logged} == {"memory"}
    assert {row["cache_source_id"] for row in logged} == {first.request_id}
    assert len(llm.requests) == 1


def test_what_looks_alike_is_not_the_same_call(make_lab, llm):
    lab = make_lab(openai_model("m", llm.url))
    right = {"max_tokens": 1, "timeout": None, "seed": 0, "tags": {"a": None}}
    lab.complete("Hi", **right)
    for wrong in (
        {"max_tokens": True},
        {"max_tokens": 1.0},
        {"timeout": math.nan},
        {"seed": 0.0},
        {"tags": {"a": math.inf}},
        {"temprature": 1},
    ):
        with pytest.raises(InvalidRequestError):
            lab.complete("Hi", **{**right, **wrong})


def test_arguments_that_change_after_the_call_are_read_anew(make_lab, rows, llm):
    lab = make_lab(openai_model("m", llm.url))
    messages, tags = [{"role": "user", "content": "first"}], {"n": 1}
    lab.complete(messages=messages, tags=tags)
    messages[0]["content"], tags["n"] = "second", 2
    lab.complete(messages=messages, tags=tags)
    lab.flush()
    assert [row["messages"][0]["content"] for row in rows()] == ["first", "second"]
    assert [row["tags"] for row in rows()] == [{"n": 1}, {"n": 2}]


def test_a_new_answer_takes_the_place_of_the_one_that_was_known(make_lab, llm, answers):
    lab = make_lab(openai_model("m", llm.url))
    answers[0] = "old"
    assert [lab.complete("Hi").content for _ in range(3)] == ["old"] * 3
    answers[0] = "new"
    assert lab.complete("Hi", cache={"write_only": True}).content == "new"
    assert [lab.complete("Hi").content for _ in range(3)] == ["new"] * 3


def test_many_different_calls_are_not_remembered_for_ever(make_lab, llm):
    lab = make_lab(openai_model("m", llm.url), cache={"enabled": False})
    intake = lab._live().intake
    for number in range(5_000):
        intake.prepare(f"question {number}", {}, 0.0, stream=False)
    intake.prepare("long " * 10_000, {}, 0.0, stream=False)
    assert len(intake._latest) + len(intake._older) <= 2_000
    assert all(len(key) < 10_000 for key in intake._latest)
