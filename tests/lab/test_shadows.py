"""Shadow calls: another model is asked, too, and the caller notices nothing of it."""

from __future__ import annotations

import logging
import time
from decimal import Decimal

import pytest

from novellus_lab.errors import ConfigurationError, InvalidRequestError
from tests.lab.conftest import openai_model
from tests.loopback import (
    Scripted,
    ScriptedServer,
    openai_chat_reply,
    openai_chat_stream,
    openai_error,
    openai_usage,
)

MAIN = openai_chat_reply("Of the main.", usage=openai_usage(10, 5))
OTHER = openai_chat_reply("Of the shadow.", usage=openai_usage(10, 5))
"""Either costs $0.02 at the loopback models' prices."""


@pytest.fixture
def lab_with(make_lab):
    """Open a lab of `main`, and of `other`, which is asked in its shadow."""
    servers = []

    def make(main=MAIN, other=OTHER, *, models=(), more=None, **shadow):
        for script in (main, other):
            servers.append(ScriptedServer(script).start())
        first, second = servers[-2:]
        lab = make_lab(
            openai_model("main", first.url),
            openai_model("other", second.url, weight=0, **(more or {})),
            shadows=[{"model": "other", "share": 1.0, "usd": 10, **shadow}],
        )
        return lab, first, second

    yield make
    for server in servers:
        server.close()


def wait_for(server, requests):
    until = time.monotonic() + 20
    while len(server.requests) < requests and time.monotonic() < until:
        time.sleep(0.01)


def split(rows):
    """The rows of requests, and those of shadows by the request that each is of."""
    all_rows = rows()
    shadows = {r["tags"]["novellus.shadow_of"]: r for r in all_rows if r["strategy"] == "shadow"}
    return [r for r in all_rows if r["strategy"] != "shadow"], shadows


def test_a_shadow_is_a_request_of_its_own_tied_to_the_callers(lab_with, rows):
    lab, _, _ = lab_with()
    r = lab.complete(
        "Hi", temperature=0.5, tags={"team": "search"}, session_id="s", experiment="e", arm="a"
    )
    lab.flush()
    assert (r.content, r.cost, len(r.attempts)) == ("Of the main.", Decimal("0.02"), 1)
    [row], shadows = split(rows)
    shadow = shadows[str(r.request_id)]
    assert (row["response"], shadow["response"]) == ("Of the main.", "Of the shadow.")
    assert (shadow["model"], shadow["status"], shadow["cache"]) == ("other", "ok", "off")
    assert (shadow["cost_usd"], row["cost_usd"]) == (Decimal("0.02"), Decimal("0.02"))
    assert shadow["params"] == row["params"] == {"temperature": 0.5}
    assert shadow["prompt_hash"] == row["prompt_hash"]
    # It is nobody's choice, and in nobody's experiment, session or team.
    assert (shadow["propensity"], shadow["picked_model"], shadow["candidates"]) == (
        None,
        None,
        None,
    )
    assert (shadow["session_id"], shadow["experiment"], shadow["arm"]) == (None, None, None)
    assert shadow["tags"] == {
        "novellus.purpose": "shadow", "novellus.shadow_of": str(r.request_id)
    }  # fmt: skip
    attempts = {a["request_id"]: a["role"] for a in rows("ai_request_attempts")}
    assert attempts == {row["id"]: "primary", shadow["id"]: "shadow"}


def test_it_is_neither_from_the_cache_nor_in_it(lab_with, rows):
    lab, main, other = lab_with()
    lab.complete("Hi")
    assert lab.complete("Hi").content == "Of the main."
    lab.flush()
    assert not lab.complete("Hi", model_id="other").cache.hit
    lab.flush()
    # One was answered by a provider, one by the cache, and one by the other model itself.
    assert (len(main.requests), len(other.requests)) == (1, 2)
    assert len(split(rows)[1]) == 1


def test_streams_have_whole_shadows(lab_with, rows):
    lab, _, other = lab_with(openai_chat_stream(["Of the ", "main."]))
    assert "".join(map(str, lab.stream("Hi"))) == "Of the main."
    lab.flush()
    assert "stream" not in other.requests[0].json
    assert [r["response"] for r in split(rows)[1].values()] == ["Of the shadow."]


def test_the_caller_does_not_wait_and_a_close_breaks_it_off(lab_with, rows):
    lab, _, other = lab_with(other=Scripted(end="hang"))
    assert lab.complete("Hi").content == "Of the main."
    wait_for(other, 1)
    lab.close()
    assert other.client_left.wait(10)
    [row], shadows = split(rows)
    assert row["status"] == "ok"
    assert [(s["status"], s["attempts"]) for s in shadows.values()] == [("cancelled", 1)]


def test_its_failures_are_its_own(lab_with, rows):
    lab, _, _ = lab_with(other=openai_error(401))
    assert lab.complete("Hi").content == "Of the main."
    lab.flush()
    [row], shadows = split(rows)
    told = [(s["status"], s["error_class"]) for s in shadows.values()]
    assert (row["status"], told) == ("ok", [("error", "AuthenticationError")])


def test_what_failed_has_no_shadow(lab_with, rows):
    lab, _, other = lab_with(openai_error(401))
    with pytest.raises(Exception, match="401"):
        lab.complete("Hi")
    lab.flush()
    assert other.requests == []


def test_it_has_a_budget_of_its_own_and_spares_the_callers(lab_with, rows, caplog):
    caplog.set_level(logging.WARNING)
    lab, _, other = lab_with(usd="0.07", more={"max_tokens": 5})
    with lab.budget(usd="0.5") as spending:
        for number in range(6):
            lab.complete(str(number), max_tokens=5)
            lab.flush()
        assert spending.spent_usd == Decimal("0.12")
    assert 0 < len(other.requests) < 4
    [status] = lab.budgets.status()
    assert status.name == "shadow calls of other"
    assert status.spent_usd == Decimal("0.02") * len(other.requests) <= Decimal("0.07")
    requests, shadows = split(rows)
    assert (len(requests), len(shadows)) == (6, len(other.requests))
    told = [r.message for r in caplog.records if "no shadow calls of other" in r.message]
    assert len(told) == 1
    assert "budget" in told[0]


def test_it_takes_no_room_that_there_is_not(lab_with):
    lab, _, other = lab_with(more={"rpm": 1})
    for number in range(3):
        lab.complete(str(number))
        lab.flush()
    assert len(other.requests) == 1


def test_as_many_at_once_as_allowed(lab_with):
    lab, _, other = lab_with(other=Scripted(end="hang"), max_concurrent=2)
    for number in range(5):
        lab.complete(str(number), max_tokens=5)
    wait_for(other, 2)
    lab.close()
    assert len(other.requests) == 2


def test_a_share_by_conditions_and_by_call(lab_with, rows):
    lab, _, other = lab_with(share=1e-9, conditions={"tags": {"secret": False}})
    lab.complete("1", tags={"secret": False})  # not drawn
    lab.complete("2", tags={"secret": True}, shadow=True)  # against the conditions
    lab.complete("3", tags={"secret": False}, shadow=True)
    lab.flush()
    assert [r.json["messages"][0]["content"] for r in other.requests] == ["3"]
    lab, _, other = lab_with()
    lab.complete("4", shadow=False)
    lab.flush()
    assert other.requests == []


def test_a_model_that_can_not_take_it_is_not_asked(lab_with):
    lab, _, other = lab_with(more={"context_window": 50})
    assert lab.complete("word " * 500).content == "Of the main."
    lab.flush()
    assert other.requests == []


def test_picks_are_the_same_with_and_without_shadows(make_lab):
    with ScriptedServer(MAIN) as server:
        models = [openai_model(name, server.url) for name in "abcd"]
        plain = make_lab(*models, seed=7)
        shadowed = make_lab(*models, seed=7, shadows=[{"model": "d", "share": 0.5, "usd": 10}])
        picks = [
            [lab.complete(str(n), use_cache=False).model for n in range(20)]
            for lab in (plain, shadowed)
        ]
    assert picks[0] == picks[1]


@pytest.mark.parametrize(
    ("shadow", "told"),
    [
        ({"model": "x", "share": 0.1, "usd": 1}, r"shadows\[0\].model names 'x'"),
        ({"model": "main", "usd": 1}, r"shadows\[0\].share is missing"),
        ({"model": "main", "share": 0.1}, r"shadows\[0\].usd is missing"),
        ({"model": "main", "share": 2, "usd": 1}, r"shadows\[0\].share must be"),
        (
            {"model": "main", "share": 0.1, "usd": 1, "conditions": {"max_cost_usd": 1}},
            r"conditions must not hold 'max_cost_usd'",
        ),
    ],
)
def test_what_is_wrong_in_the_configuration_is_named(make_lab, shadow, told):
    with pytest.raises(ConfigurationError, match=told):
        make_lab(openai_model("main", "http://127.0.0.1:9"), shadows=[shadow])


def test_what_is_wrong_in_a_call_is_said(make_lab):
    lab = make_lab(openai_model("main", "http://127.0.0.1:9"))
    for shadow, told in (("other", "True or False"), (True, "no `shadows`")):
        with pytest.raises(InvalidRequestError, match=told):
            lab.complete("Hi", shadow=shadow)
