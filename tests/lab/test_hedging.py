"""A slow call is made a second time: who wins, what both cost, and what is left of either."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from decimal import Decimal

import pytest

from novellus_lab.errors import (
    ConfigurationError,
    DeadlineExceededError,
    InvalidRequestError,
    ProviderUnavailableError,
)
from tests.lab.conftest import openai_model
from tests.loopback import (
    Scripted,
    ScriptedServer,
    openai_chat_reply,
    openai_chat_stream,
    openai_error,
    openai_usage,
)

GOOD = openai_chat_reply("Good.", usage=openai_usage(10, 5))
"""Costs $0.02 at the loopback models' prices."""
LATE = Scripted(body=GOOD.body, delay_s=0.3)
HANG = Scripted(end="hang")
DOWN = openai_error(500)
AT_ONCE = {"after_ms": 0}


class Models:
    """A server that says for each model what its first, second, … call gets.

    A list in place of an answer: (model, answer) is given when that other model was asked, too.
    """

    def __init__(self, **answers) -> None:
        self._answers = {name: iter(said) for name, said in answers.items()}
        self.asked: list[str] = []
        self._news = {name: asyncio.Event() for name in answers}
        self.server = ScriptedServer(self._answer)

    async def _answer(self, request):
        name = request.json["model"]
        self.asked.append(name)
        self._news[name].set()
        said = next(self._answers[name])
        if isinstance(said, tuple):
            other, said = said
            await self._news[other].wait()
        return said

    def open(self, make_lab, *names, **options):
        models = [
            openai_model(name, self.server.url, priority=-place) for place, name in enumerate(names)
        ]
        options.setdefault("load_balancing", {"default_strategy": "priority"})
        options.setdefault("retries", {"max_attempts": 1})
        return make_lab(*models, **options)


def roles(attempts) -> list[tuple[int, str, str, str]]:
    return [(a.number, a.role, a.model_id, a.status.value) for a in attempts]


def test_the_second_call_answers_and_the_first_is_broken_off(make_lab, rows):
    models = Models(slow=[HANG], quick=[GOOD])
    with models.server as server:
        lab = models.open(make_lab, "slow", "quick")
        r = lab.complete("Hi there", hedge=AT_ONCE)
        assert server.client_left.wait(10)
        lab.flush()
    assert (r.content, r.model) == ("Good.", "quick")
    assert roles(r.attempts) == [
        (1, "primary", "slow", "cancelled"),
        (2, "hedge", "quick", "ok"),
    ]
    first, second = rows("ai_request_attempts", "number")
    # What nobody waits for is billed, too, as far as can be told: the prompt, and such an answer.
    assert first["usage_estimated"]
    assert first["output_tokens"] == second["output_tokens"] == 5
    assert first["cost_usd"] == Decimal(first["input_tokens"] + 2 * 5) / 1000
    assert first["error_message"] == "another call answered first"
    [row] = rows()
    assert (row["model"], row["picked_model"], row["attempts"]) == ("quick", "slow", 2)
    assert row["cost_usd"] == r.cost == first["cost_usd"] + second["cost_usd"]
    assert row["overhead_ms"] < row["latency_ms"]
    assert lab._live().pipeline._observed.latencies.forecast("slow").seen  # slower than that


def test_the_first_call_answers_after_all(make_lab, rows):
    models = Models(slow=[("quick", GOOD)], quick=[HANG])
    with models.server:
        lab = models.open(make_lab, "slow", "quick")
        r = lab.complete("Hi", hedge=AT_ONCE)
        lab.flush()
    assert r.model == "slow"
    assert roles(r.attempts) == [(1, "primary", "slow", "ok"), (2, "hedge", "quick", "cancelled")]
    [row] = rows()
    assert (row["model"], row["cost_usd"]) == ("slow", r.cost)
    assert row["raw_usage"]["total_tokens"] == 15
    assert lab.complete("Hi").cache.hit
    assert lab.complete("Hi").cost_saved == Decimal("0.02")


def test_a_quick_answer_needs_no_second(make_lab):
    models = Models(a=[GOOD], b=[])
    with models.server:
        lab = models.open(make_lab, "a", "b", hedging={"after_ms": 20_000})
        assert roles(lab.complete("Hi").attempts) == [(1, "primary", "a", "ok")]


def test_it_is_due_when_the_models_own_quantile_has_passed(make_lab):
    models = Models(a=[*[GOOD] * 6, HANG, GOOD])
    with models.server:
        lab = models.open(make_lab, "a")
        for number in range(6):
            lab.complete(str(number))
        r = lab.complete("slow one", hedge=True, timeout=60)
    assert roles(r.attempts) == [(1, "primary", "a", "cancelled"), (2, "hedge", "a", "ok")]


def test_nothing_is_hedged_of_which_nothing_is_known(make_lab):
    models = Models(a=[Scripted(body=GOOD.body, delay_s=0.2)], b=[])
    with models.server:
        lab = models.open(make_lab, "a", "b", hedging={})
        assert lab.complete("Hi").model == "a"


def test_whoever_names_a_model_gets_no_other(make_lab):
    models = Models(a=[HANG, GOOD], b=[])
    with models.server:
        lab = models.open(make_lab, "a", "b", hedging=AT_ONCE)
        assert lab.complete("Hi", model_id="a").content == "Good."
        assert models.asked == ["a", "a"]


def test_the_same_model_by_option_and_a_rule_that_says_otherwise(make_lab):
    models = Models(a=[HANG, GOOD, HANG, GOOD, GOOD], b=[GOOD])
    with models.server:
        rules = [
            {"name": "never", "conditions": {"priority": "low"}, "hedging": {"enabled": False}},
            {
                "name": "next",
                "conditions": {"priority": "high"},
                "hedging": {**AT_ONCE, "to": "next"},
                "strategy": "priority",
            },
        ]
        lab = models.open(
            make_lab,
            "a",
            "b",
            hedging={**AT_ONCE, "to": "same"},
            load_balancing={"default_strategy": "priority", "rules": rules},
        )
        assert lab.complete("1").model == "a"
        assert lab.complete("2", priority="high").model == "b"
        assert (
            len(lab.complete("3", priority="low", model_selection_strategy="priority").attempts)
            == 1
        )
        assert len(lab.complete("4", hedge=False).attempts) == 1


def test_a_call_that_can_not_be_hedged_in_the_budget_goes_on_alone(make_lab, rows):
    models = Models(a=[Scripted(body=GOOD.body, delay_s=0.3)], b=[])
    with models.server:
        lab = models.open(
            make_lab,
            "a",
            "b",
            budgets=[{"name": "lab", "usd": "0.06", "per": "total"}],
            budget_policy={"settle_wait_s": 0},
        )
        r = lab.complete("Hi", hedge=AT_ONCE, max_tokens=5)
        lab.flush()
        assert roles(r.attempts) == [(1, "primary", "a", "ok")]
        [status] = lab.budgets.status()
        assert (status.spent_usd, status.reserved_usd) == (Decimal("0.02"), 0)


async def test_the_budget_holds_both_while_both_are_under_way(make_lab):
    models = Models(a=[HANG], b=[HANG])
    with models.server:
        lab = models.open(make_lab, "a", "b")
        with lab.budget(usd=10) as spending:
            task = asyncio.create_task(lab.acomplete("Hi", hedge=AT_ONCE, max_tokens=5))
            while len(models.asked) < 2:
                await asyncio.sleep(0.01)
            both = spending.reserved_usd
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert spending.reserved_usd == 0
            assert spending.spent_usd == both > Decimal("0.04")  # what nobody knows counts in full


async def test_both_are_cancelled_with_the_call(make_lab, rows):
    models = Models(a=[HANG], b=[HANG])
    with models.server:
        lab = models.open(make_lab, "a", "b")
        task = asyncio.create_task(lab.acomplete("Hi", hedge=AT_ONCE))
        while len(models.asked) < 2:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(lab.flush)
    [row] = rows()
    assert (row["status"], row["cost_usd"], row["attempts"]) == ("cancelled", None, 2)
    told = [(a["role"], a["status"], a["cost_usd"]) for a in rows("ai_request_attempts", "number")]
    assert told == [("primary", "cancelled", None), ("hedge", "cancelled", None)]


def test_an_interrupted_cell_leaves_neither(make_lab, rows):
    models = Models(a=[HANG, GOOD], b=[HANG])
    with models.server as server:
        lab = models.open(make_lab, "a", "b")

        def interrupt():
            while len(models.asked) < 2:
                threading.Event().wait(0.01)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            lab.complete("Slow", hedge=AT_ONCE)
        assert server.client_left.wait(10)
        assert lab.complete("Quick").content == "Good."
        lab.flush()
    assert [r["status"] for r in rows()] == ["cancelled", "ok"]
    assert [a["status"] for a in rows("ai_request_attempts")] == ["cancelled", "cancelled", "ok"]


def test_the_deadline_ends_both(make_lab, rows):
    models = Models(a=[HANG], b=[HANG])
    with models.server:
        lab = models.open(make_lab, "a", "b")
        with pytest.raises(DeadlineExceededError, match=r"a \(.*b \("):
            lab.complete("Hi", hedge=AT_ONCE, timeout=0.7)
        lab.flush()
    assert [r["status"] for r in rows()] == ["error"]
    told = [(a["role"], a["status"]) for a in rows("ai_request_attempts", "number")]
    assert told == [("primary", "error"), ("hedge", "error")]


def test_the_one_that_fails_leaves_it_to_the_other(make_lab):
    models = Models(a=[("b", DOWN), ("b", LATE)], b=[("a", GOOD), DOWN])
    with models.server:
        lab = models.open(make_lab, "a", "b")
        r = lab.complete("1", hedge=AT_ONCE)
        assert r.model == "b"
        assert {(a.role, a.status.value) for a in r.attempts} <= {
            ("primary", "error"), ("primary", "cancelled"), ("hedge", "ok")
        }  # fmt: skip
        r = lab.complete("2", hedge=AT_ONCE)
        assert roles(r.attempts) == [(1, "primary", "a", "ok"), (2, "hedge", "b", "error")]


def test_where_both_fail_the_call_goes_on_as_any_other(make_lab, rows):
    models = Models(a=[("b", DOWN)], b=[DOWN, DOWN], c=[GOOD])
    with models.server:
        lab = models.open(make_lab, "a", "b", "c")
        r = lab.complete("Hi", hedge=AT_ONCE)
        lab.flush()
    assert roles(r.attempts) == [
        (1, "primary", "a", "error"),
        (2, "hedge", "b", "error"),
        (3, "failover", "b", "error"),
        (4, "failover", "c", "ok"),
    ]
    assert [a["number"] for a in rows("ai_request_attempts", "number")] == [1, 2, 3, 4]


def test_where_all_fail_the_error_is_the_last_candidates(make_lab, rows):
    models = Models(a=[("b", DOWN)], b=[DOWN, openai_error(503)])
    with models.server:
        lab = models.open(make_lab, "a", "b")
        with pytest.raises(ProviderUnavailableError) as caught:
            lab.complete("Hi", hedge=AT_ONCE)
        lab.flush()
    assert (caught.value.status_code, caught.value.model) == (503, "b")
    assert [r["attempts"] for r in rows()] == [3]


# --- streams -------------------------------------------------------------------------------------


def test_a_stream_without_a_first_token_is_hedged(make_lab, rows):
    models = Models(a=[HANG], b=[openai_chat_stream(["Go", "od."])])
    with models.server:
        lab = models.open(make_lab, "a", "b")
        stream = lab.stream("Hi there", hedge=AT_ONCE)
        assert "".join(map(str, stream)) == "Good."
        assert stream.completion.model == "b"
        lab.flush()
    first, second = rows("ai_request_attempts", "number")
    assert (first["role"], first["status"], second["role"]) == ("primary", "cancelled", "hedge")
    # A stream that is closed before it begins is billed for its prompt.
    assert (first["output_tokens"], first["cost_usd"]) == (0, Decimal(first["input_tokens"]) / 1000)
    [row] = rows()
    assert row["ttft_ms"] == second["ttft_ms"] is not None


def test_of_two_streams_one_is_heard(make_lab):
    slow = openai_chat_stream([f"a{n} " for n in range(40)], between_s=0.002)
    quick = openai_chat_stream([f"b{n} " for n in range(40)], between_s=0.002)
    models = Models(a=[("b", slow)], b=[("a", quick)])
    with models.server:
        lab = models.open(make_lab, "a", "b")
        stream = lab.stream("Hi", hedge=AT_ONCE)
        said = "".join(map(str, stream)).split()
    name = stream.completion.model
    assert said == [f"{name}{n}" for n in range(40)]
    assert stream.completion.content.split() == said


def test_a_stream_that_has_begun_is_not_hedged(make_lab):
    slow = openai_chat_stream(["Go", "od", "."], between_s=0.25)
    models = Models(a=[slow], b=[])
    with models.server:
        lab = models.open(make_lab, "a", "b")
        stream = lab.stream("Hi", hedge={"after_ms": 1_000})
        assert "".join(map(str, stream)) == "Good."
        assert models.asked == ["a"]


def test_a_stream_that_breaks_after_winning_raises(make_lab, rows):
    broken = openai_chat_stream(["Go"], finish_reason=None, done=False, end="abort")
    models = Models(a=[HANG], b=[broken])
    with models.server:
        lab = models.open(make_lab, "a", "b")
        stream = lab.stream("Hi", hedge=AT_ONCE)
        with pytest.raises(ProviderUnavailableError) as caught:
            list(stream)
        assert caught.value.partial_content == "Go"
        lab.flush()
    [row] = rows()
    assert (row["status"], row["response"], row["attempts"]) == ("error", "Go", 2)


# --- bounds --------------------------------------------------------------------------------------


def test_hedges_by_configuration_are_a_bounded_share(make_lab):
    late = Scripted(body=GOOD.body, delay_s=0.02)
    models = Models(a=[late] * 60)
    with models.server:
        lab = models.open(make_lab, "a", hedging={**AT_ONCE, "max_share": 0.01})
        answers = [lab.complete(str(number)) for number in range(15)]
    assert sum(len(r.attempts) > 1 for r in answers) == 10  # what quiet times leave


@pytest.mark.parametrize(
    "hedge",
    [
        5,
        "yes",
        {"after": 5},
        {"after_ms": -1},
        {"after_ms": True},
        {"quantile": 1},
        {"to": "both"},
        {"min_calls": 0},
        {"max_share": 0.5},
    ],
)
def test_what_is_wrong_is_said_before_anything_is_sent(make_lab, hedge):
    lab = make_lab(openai_model("a", "http://127.0.0.1:9"))
    with pytest.raises(InvalidRequestError, match="hedge"):
        lab.complete("Hi", hedge=hedge)


def test_what_is_wrong_in_the_configuration_is_named(make_lab):
    with pytest.raises(ConfigurationError, match=r"hedging\.quantile must be less than 1"):
        make_lab(openai_model("a", "http://127.0.0.1:9"), hedging={"quantile": 95})
