"""Breaker, limits and budgets, from the YAML to what a call gets and the log keeps."""

from __future__ import annotations

import asyncio
import time
from decimal import Decimal

import pytest

from novellus_lab.errors import (
    BudgetExceededError,
    CircuitOpenError,
    ConfigurationError,
    LimitExceededError,
    ProviderError,
    UnknownPriceError,
)
from tests.lab.conftest import openai_model
from tests.loopback import Scripted, ScriptedServer, openai_chat_reply, openai_usage

GOOD = openai_chat_reply("yes", usage=openai_usage(10, 5))
"""Costs $0.02 at the loopback models' prices."""
LESS = {"max_tokens": 5}


# --- breaker -------------------------------------------------------------------------------------


def test_a_model_that_fails_is_left_out_until_it_is_back(make_lab, rows):
    with ScriptedServer(Scripted(500)) as bad, ScriptedServer(GOOD) as good:
        lab = make_lab(
            openai_model("bad", bad.url, priority=200),
            openai_model("good", good.url, priority=100),
            load_balancing={"default_strategy": "priority"},
            breaker={"consecutive_failures": 3, "cooldown_s": 0.5, "probes": 1},
        )
        first = lab.complete("1")  # three tries of the bad one, then the good one
        assert (first.model, len(bad.requests)) == ("good", 3)
        second = lab.complete("2")
        assert (second.model, len(bad.requests)) == ("good", 3)
        [told] = [c.dropped for c in second.route.candidates if c.model_id == "bad"]
        assert "circuit open" in told
        time.sleep(0.7)
        lab.complete("3")
        assert len(bad.requests) > 3  # it was probed
    lab.flush()
    candidates = rows()[1]["candidates"]
    assert [c["model_id"] for c in candidates if c.get("dropped")] == ["bad"]


def test_who_names_a_model_calls_it_whatever_its_circuit(make_lab):
    with ScriptedServer([*[Scripted(500)] * 3, GOOD]) as server:
        lab = make_lab(openai_model("m", server.url), breaker={"consecutive_failures": 3})
        with pytest.raises(ProviderError):
            lab.complete("1", model_id="m")
        assert lab.complete("2", model_id="m").content == "yes"


def test_where_every_circuit_is_open_each_model_is_tried_once(make_lab):
    bad_then_good = ScriptedServer([*[Scripted(500)] * 3, GOOD, Scripted(500)])
    with bad_then_good as first, ScriptedServer(Scripted(500)) as second:
        lab = make_lab(
            openai_model("first", first.url, priority=200),
            openai_model("second", second.url, priority=100),
            load_balancing={"default_strategy": "priority"},
            breaker={"consecutive_failures": 3},
        )
        with pytest.raises(ProviderError):
            lab.complete("1")
        assert lab.complete("2").model == "first"
        with pytest.raises(ProviderError):
            lab.complete("3")
        assert (len(first.requests), len(second.requests)) == (5, 4)


def test_whose_circuit_is_open_is_asked_when_all_others_have_failed(make_lab):
    bad = [Scripted(500)] * 3
    with ScriptedServer([*bad, GOOD]) as first, ScriptedServer([GOOD, *bad]) as second:
        lab = make_lab(
            openai_model("first", first.url, priority=200),
            openai_model("second", second.url, priority=100),
            load_balancing={"default_strategy": "priority"},
            breaker={"consecutive_failures": 3},
        )
        assert lab.complete("1").model == "second"
        answer = lab.complete("2")
    assert [a.model_id for a in answer.attempts] == ["second"] * 3 + ["first"]
    assert answer.route.picked == "second"


def test_a_breaker_can_be_switched_off(make_lab):
    with ScriptedServer(Scripted(500)) as bad, ScriptedServer(GOOD) as good:
        lab = make_lab(
            openai_model("bad", bad.url, priority=200),
            openai_model("good", good.url, priority=100),
            load_balancing={"default_strategy": "priority"},
            breaker={"enabled": False},
        )
        for number in range(4):
            lab.complete(str(number))
        assert len(bad.requests) == 12


# --- limits --------------------------------------------------------------------------------------


def test_calls_that_find_no_room_are_refused_or_go_elsewhere(make_lab, rows):
    with ScriptedServer(GOOD) as server:
        lab = make_lab(
            openai_model("a", server.url, rpm=2, weight=1),
            openai_model("b", server.url, weight=0),
            limits={"on_limit": "raise"},
        )
        answers = [lab.complete(str(n), **LESS).model for n in range(2)]
        with pytest.raises(LimitExceededError, match="a") as refused:
            lab.complete("3", **LESS)
        assert refused.value.never_sent
        assert answers == ["a", "a"]
        assert len(server.requests) == 2
    lab.flush()
    assert rows()[-1]["status"] == "refused"
    assert rows()[-1]["attempts"] == 0


def test_who_would_wait_goes_where_there_is_room(make_lab):
    with ScriptedServer(GOOD) as server:
        lab = make_lab(
            openai_model("a", server.url, rpm=1, priority=200),
            openai_model("b", server.url, priority=100),
            load_balancing={"default_strategy": "priority"},
        )
        assert [lab.complete(str(n), **LESS).model for n in range(3)] == ["a", "b", "b"]


async def test_calls_at_once_are_bounded_and_wait_their_turn(make_lab, rows):
    with ScriptedServer(Scripted(body=GOOD.body, delay_s=0.1)) as server:
        lab = make_lab(openai_model("a", server.url, concurrent=2))
        await asyncio.gather(*(lab.acomplete(str(n), **LESS) for n in range(6)))
    lab.flush()
    waited = sorted(row["queue_ms"] for row in rows())
    assert waited[1] < 60
    assert waited[-1] > 150
    assert all(row["overhead_ms"] < row["latency_ms"] for row in rows())


def test_a_prompt_beyond_the_limit_is_refused_at_once(make_lab):
    with ScriptedServer(GOOD) as server:
        lab = make_lab(openai_model("a", server.url, tpm=100))
        started = time.monotonic()
        with pytest.raises(LimitExceededError, match="tpm|tokens"):
            lab.complete("word " * 500, timeout=30)
        assert time.monotonic() - started < 5
        assert server.requests == []


# --- budgets -------------------------------------------------------------------------------------


def test_a_hard_budget_is_never_passed(make_lab, rows):
    with ScriptedServer(GOOD) as server:
        lab = make_lab(
            openai_model("a", server.url), budgets=[{"name": "lab", "usd": 0.1, "per": "day"}]
        )
        answered = 0
        with pytest.raises(BudgetExceededError, match="lab"):
            for number in range(20):
                lab.complete(str(number), **LESS)
                answered += 1
        assert answered == len(server.requests) > 0
    lab.flush()
    spent = sum(row["cost_usd"] for row in rows())
    assert Decimal("0.04") < spent <= Decimal("0.1")
    [status] = lab.budgets.status()
    assert (status.name, status.spent_usd, status.reserved_usd) == ("lab", spent, 0)
    assert "lab" in lab.budgets.status()._repr_html_()


async def test_many_calls_at_once_do_not_pass_it_together(make_lab, rows):
    with ScriptedServer(Scripted(body=GOOD.body, delay_s=0.05)) as server:
        lab = make_lab(
            openai_model("a", server.url),
            budgets=[{"name": "lab", "usd": 0.3, "per": "total"}],
            budget_policy={"settle_wait_s": 2},
        )
        results = await asyncio.gather(
            *(lab.acomplete(str(n), **LESS) for n in range(40)), return_exceptions=True
        )
    lab.flush()
    refused = [r for r in results if isinstance(r, BudgetExceededError)]
    assert 0 < len(refused) < 40
    assert sum(row["cost_usd"] for row in rows()) <= Decimal("0.3")


def test_budgets_by_tag_and_a_cheaper_model_when_one_is_spent(make_lab):
    with ScriptedServer(GOOD) as server:
        lab = make_lab(
            openai_model("dear", server.url, priority=200),
            openai_model(
                "cheap", server.url, priority=100, input_token_cost=0.001, output_token_cost=0.002
            ),
            load_balancing={"default_strategy": "priority"},
            budgets=[
                {
                    "name": "search",
                    "usd": 0.03,
                    "scope": {"tag": "team=search"},
                    "on_exceed": "downgrade",
                }
            ],
        )
        search = {"tags": {"team": "search"}, **LESS}
        for number in range(2):
            assert lab.complete(str(number), **search).model == "dear"
            lab.flush()
        last = lab.complete("3", **search)
        assert (last.model, last.route.strategy) == ("cheap", "cost_optimized")
        assert "search" in last.route.reason
        assert lab.complete("4", **LESS).model == "dear"


def test_a_block_may_have_a_budget_of_its_own(make_lab):
    with ScriptedServer(GOOD) as server:
        lab = make_lab(openai_model("a", server.url))
        with lab.budget(usd="0.06") as spending:
            lab.complete("1", **LESS)
            lab.complete("1", **LESS)  # from the cache, for nothing
            assert spending.spent_usd == Decimal("0.02")
            with pytest.raises(BudgetExceededError):
                for number in range(2, 9):
                    lab.complete(str(number), **LESS)
        assert spending.spent_usd <= Decimal("0.06")
        lab.complete("after", **LESS)


def test_a_price_that_nobody_knows_fits_into_no_hard_budget(make_lab):
    with ScriptedServer(GOOD) as server:
        unpriced = openai_model("mystery-1", server.url)
        del unpriced["input_token_cost"], unpriced["output_token_cost"]
        budget = {"budgets": [{"name": "lab", "usd": 1}]}
        lab = make_lab(unpriced, **budget)
        with pytest.raises(UnknownPriceError, match="mystery-1"):
            lab.complete("1")
        assert server.requests == []
        lab = make_lab(unpriced, **budget, budget_policy={"unpriced": "allow"})
        assert lab.complete("2").content == "yes"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"budgets": [{"name": "x"}]}, "usd"),
        ({"budgets": [{"name": "x", "usd": -1}]}, "usd"),
        ({"budgets": [{"name": "x", "usd": 1, "scope": {"tag": "team"}}]}, "team"),
        ({"budgets": [{"name": "x", "usd": 1, "time_zone": "Mars"}]}, "Mars"),
        ({"budgets": [{"name": "x", "usd": 1}, {"name": "x", "usd": 2}]}, "'x'"),
        ({"limits": {"on_limit": "pray"}}, "on_limit"),
        ({"breaker": {"cooldown_s": -1}}, "cooldown_s"),
    ],
)
def test_what_makes_no_sense_is_named_when_the_lab_opens(make_lab, wrong, says):
    with pytest.raises(ConfigurationError, match=says):
        make_lab(openai_model("a", "http://127.0.0.1:9"), **wrong)


def test_an_open_circuit_is_an_error_that_was_never_sent(make_lab):
    error = CircuitOpenError("m is not called now")
    assert error.never_sent
    assert not error.retryable
