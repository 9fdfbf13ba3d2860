"""Batches at providers, against a server that speaks both protocols: paid once, whatever happens."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from decimal import Decimal

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from novellus_lab.errors import (
    AuthenticationError,
    BadRequestError,
    BudgetExceededError,
    InvalidRequestError,
    JobCancelledError,
    JobNotDoneError,
    NovellusError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    StoreUnavailableError,
    UnknownJobError,
    UnsupportedParameterError,
)
from novellus_lab.providers.batches import json_lines
from novellus_lab.queue import batch_rows, provider_batches
from tests.lab.conftest import QUICK_RETRIES, openai_model
from tests.loopback import Scripted, openai_error
from tests.queue.batch_server import BatchServer
from tests.queue.conftest import until

ALLOWED = {name: {"options": {"batches": True}} for name in ("openai", "anthropic")}
COST = Decimal("0.06")
"""Of 100 tokens at $1 and 10 at $2 per 1,000, halved."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(provider_batches, "_POLL_S", (0.02, 0.05))
    monkeypatch.setattr(provider_batches, "_SEARCHES_S", (0.01, 0.02))


@pytest.fixture
def api():
    with BatchServer() as api:
        yield api


@pytest.fixture(params=["openai", "anthropic"])
def kind(request):
    return request.param


def model(kind, api, **more):
    if kind == "openai":
        return openai_model("gpt-4o", api.url, batch_discount="0.5", **more)
    name = {"provider": "anthropic", "model_name": "claude-haiku-4-5", "base_url": api.url}
    return openai_model("", "") | name | {"batch_discount": "0.5", **more}


def name_of(kind):
    return "gpt-4o" if kind == "openai" else "claude-haiku-4-5"


def path_of(kind):
    return "/v1/batches" if kind == "openai" else "/v1/messages/batches"


@pytest.fixture
def lab_of(make_lab, api):
    def make(kind="openai", **options):
        options.setdefault("providers", ALLOWED)
        return make_lab(model(kind, api), **options)

    return make


def last_text(body):
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else content[0]["text"]


def echo(body):
    return f"to {last_text(body)}"


def settled(lab, rows):
    lab.flush()
    return rows()


# --- what is asked, answered, priced and kept -------------------------------------------------


def test_answers_come_in_order_at_batch_price_one_row_each(lab_of, api, rows, kind):
    api.says = echo
    lab = lab_of(kind)
    name = name_of(kind)
    found = lab.batch(
        [
            "one",
            [{"role": "user", "content": "zwei ½\u2028"}],
            {"prompt": "three", "tags": {"t": 1}},
        ],
        provider_batch=True,
        model_id=name,
    )
    assert [r.content for r in found] == ["to one", "to zwei ½\u2028", "to three"]
    assert [r.cost for r in found] == [COST] * 3
    assert len(api.asked("POST", path_of(kind))) == 1
    logged = settled(lab, rows)
    assert [row["id"] for row in logged] == [r.request_id for r in found]
    for row, result in zip(logged, found, strict=True):
        assert (row["status"], row["cost_usd"], row["model"]) == ("ok", COST, name)
        assert row["strategy"] == "provider_batch"
        assert row["price_version"] == "config, batch"
        assert row["latency_ms"] is row["provider_ms"] is None  # no latency of the model's
        assert row["queue_ms"] > 0
        assert row["response"] == result.content
    assert logged[2]["tags"] == {"t": 1}
    attempts = rows("ai_request_attempts", "started_at")
    assert {a["request_id"] for a in attempts} == {row["id"] for row in logged}
    assert {a["cost_usd"] for a in attempts} == {COST}


def test_the_same_is_sent_as_by_a_normal_call(lab_of, api, kind):
    lab = lab_of(kind)
    arguments = {
        "model_id": name_of(kind),
        "max_tokens": 77,
        "temperature": 0.5,
        "stop": ["x"],
        "tools": [{"type": "function", "function": {"name": "look", "parameters": {}}}],
    }
    messages = [{"role": "system", "content": "Hm."}, {"role": "user", "content": "Hi"}]
    lab.batch([messages], provider_batch=True, **arguments)
    with pytest.raises(NovellusError):  # this server has no such path
        lab.complete(messages=messages, use_cache=False, **arguments)
    (line,) = api.batches["batch_1"]["lines"]
    assert line.get("url", "/v1/chat/completions") == "/v1/chat/completions"
    assert line["body" if kind == "openai" else "params"] == api.requests[-1].json


def test_the_cache_answers_first_and_is_filled(lab_of, api, rows, kind):
    api.says = echo
    lab = lab_of(kind)
    named = {"model_id": name_of(kind)}
    lab.batch(["one"], provider_batch=True, **named)
    assert lab.complete("one", **named).cache == "memory"
    first, second = lab.batch(["one", "two"], provider_batch=True, **named)
    assert (first.cache, first.cost) == ("memory", 0)
    assert (second.cache, second.cost) == ("miss", COST)
    assert [len(b["lines"]) for b in api.batches.values()] == [1, 1]
    assert lab.batch(["one", "two"], provider_batch=True, **named)[1].content == "to two"
    assert len(api.batches) == 2
    assert [row["cache"] for row in settled(lab, rows)] == [
        "miss", "memory", "memory", "miss", "memory", "memory",
    ]  # fmt: skip


def test_equal_requests_are_paid_once(lab_of, api, rows):
    api.at_once = False
    lab = lab_of()
    first = lab.queue.submit_batch(["one", "two", "one"], model_id="gpt-4o")
    other = lab_of()
    again = other.queue.submit_batch(["two", "three"], model_id="gpt-4o")
    alone = lab.queue.submit_batch(["two"], model_id="gpt-4o", use_cache=False)
    assert [len(b["lines"]) for b in api.batches.values()] == [2, 1, 1]
    api.end()
    # Whoever waits brings the other batch forward too.
    two, three = again.wait(10)
    assert (two.cache, two.cost, three.cost) == ("coalesced", 0, COST)
    found = first.wait(10)
    assert [r.cost for r in found] == [COST, COST, 0]
    assert found[2].cache_source_id == found[0].request_id
    assert alone.wait(10)[0].cost == COST
    other.flush()
    assert sum(row["cost_usd"] for row in settled(lab, rows)) == 4 * COST


def test_a_class_as_response_format(lab_of, api, kind):
    class City(BaseModel):
        name: str

    api.says = lambda body: "no json" if "bad" in str(body) else '{"name": "Rome"}'
    lab = lab_of(kind)
    batch = lab.queue.submit_batch(["good", "bad"], model_id=name_of(kind), response_format=City)
    good, bad = batch.wait(10)
    assert good.parsed == City(name="Rome")
    assert not bad
    assert "response_format" in str(bad.error) or "JSON" in str(bad.error)
    assert lab.queue.batch(batch.id).results()[0].parsed == {"name": "Rome"}


def test_a_batch_of_two_models_goes_to_both(make_lab, api):
    api.says = echo
    lab = make_lab(model("openai", api), model("anthropic", api), providers=ALLOWED)
    items = [
        {"prompt": str(n), "model_id": name_of(k)}
        for n, k in enumerate(["openai", "anthropic"] * 2)
    ]
    found = lab.batch(items, provider_batch=True)
    assert [(r.content, r.provider) for r in found] == [
        ("to 0", "openai"), ("to 1", "anthropic"), ("to 2", "openai"), ("to 3", "anthropic"),
    ]  # fmt: skip


def test_what_a_provider_takes_at_once_is_not_passed(lab_of, api, kind, monkeypatch):
    from novellus_lab.providers.anthropic_batches import AnthropicBatches
    from novellus_lab.providers.openai_batches import OpenAIBatches

    for kind_of_batch in (OpenAIBatches, AnthropicBatches):
        monkeypatch.setattr(kind_of_batch, "most_lines", 2)
    api.says = echo
    found = lab_of(kind).batch(
        [str(n) for n in range(5)], provider_batch=True, model_id=name_of(kind)
    )
    assert [r.content for r in found] == [f"to {n}" for n in range(5)]
    assert [len(b["lines"]) for b in api.batches.values()] == [2, 2, 1]


def test_the_responses_api_has_a_batch_of_its_own(lab_of, api):
    api.says = lambda body: "chat" if "messages" in body else "response"
    lab = lab_of()
    items = [{"prompt": "a"}, {"prompt": "b", "params": {"api": "responses"}}]
    found = lab.batch(items, provider_batch=True, model_id="gpt-4o")
    assert [(r.content, r.cost) for r in found] == [("chat", COST), ("response", COST)]
    assert {b["endpoint"] for b in api.batches.values()} == {
        "/v1/chat/completions",
        "/v1/responses",
    }


def test_hours_of_waiting_make_no_model_slow(lab_of, api):
    lab = lab_of()
    lab.batch(["a", "b"], provider_batch=True, model_id="gpt-4o")
    found = lab.metrics("gpt-4o", "1h")
    assert (found.requests.ok, found.cost.total) == (2, 2 * COST)
    assert found.latency.count == found.provider_latency.count == found.overhead.count == 0


def test_azure_takes_batches_on_both_endpoints(make_lab, api):
    api.says = echo
    azure = {
        "provider": "azure",
        "model_name": "mine",
        "api_key_env": "MY_KEY",
        "base_model": "gpt-4o",
    }
    for version in ("2024-10-21", "v1"):
        os.environ["MY_KEY"] = "k"
        try:
            lab = make_lab(
                azure | {"base_url": api.url},
                providers={"azure": {"options": {"api_version": version}}},
            )
        finally:
            del os.environ["MY_KEY"]
        (found,) = lab.batch([version], provider_batch=True, model_id="mine")
        assert found.content == f"to {version}"
        assert found.cost == Decimal("0.000175")  # half of gpt-4o's
    assert {b["endpoint"] for b in api.batches.values()} == {"/chat/completions"}


# --- refused before anything is sent ------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "told"),
    [
        ({}, InvalidRequestError, "names no model"),
        ({"model_id": "gpt-4o", "timeout": 5}, InvalidRequestError, "timeout"),
        ({"model_id": "gpt-4o", "model_selection_strategy": "weighted"}, InvalidRequestError, "named"),
        ({"model_id": "gpt-4o", "queue": True}, InvalidRequestError, "choose one"),
        ({"model_id": "llama"}, UnsupportedParameterError, "no batch API"),
    ],
)  # fmt: skip
def test_what_can_t_be_a_batch_is_refused(make_lab, api, rows, arguments, error, told):
    local = {"provider": "ollama", "model_name": "llama", "base_url": api.url}
    lab = make_lab(model("openai", api), local, providers=ALLOWED)
    with pytest.raises(error, match=told):
        lab.batch(["x", "y"], provider_batch=True, **arguments)
    assert api.requests == []
    assert rows("ai_provider_batches") == []


def test_a_server_of_which_nobody_said_that_it_has_batches_is_not_asked(lab_of, api, kind):
    with pytest.raises(UnsupportedParameterError, match=f"providers.{kind}.options.batches"):
        lab_of(kind, providers={}).batch(["x"], provider_batch=True, model_id=name_of(kind))
    assert api.requests == []


def test_a_wrong_item_fails_in_its_place(lab_of, api, rows):
    lab = lab_of()
    good, bad, unknown = lab.batch(
        ["x", {"prompt": "y", "temperature": 9}, {"prompt": "z", "model_id": "nobody"}],
        provider_batch=True,
        model_id="gpt-4o",
    )
    assert good.content == "done"
    assert isinstance(bad.error, InvalidRequestError)
    assert "nobody" in str(unknown.error)
    assert sorted(row["status"] for row in settled(lab, rows)) == ["ok", "refused", "refused"]


# --- what goes wrong at the provider ---------------------------------------------------------------


def test_an_item_s_error_stands_in_its_place_and_costs_nothing(lab_of, api, rows, kind):
    error = {"type": "invalid_request_error", "message": "prompt is odd", "code": None}
    api.says = lambda body: error if "odd" in str(body["messages"]) else "done"
    lab = lab_of(kind)
    first, odd, last = lab.batch(["a", "odd", "b"], provider_batch=True, model_id=name_of(kind))
    assert first.content == last.content == "done"
    assert (odd.index, odd.content) == (1, None)
    assert isinstance(odd.error, BadRequestError)
    assert (odd.error.model, odd.error.provider) == (name_of(kind), kind)
    row = next(row for row in settled(lab, rows) if row["status"] == "error")
    assert (row["cost_usd"], row["error_class"]) == (0, "BadRequestError")


@pytest.mark.parametrize(
    ("how", "error"), [("expired", ProviderTimeoutError), ("cancelled", JobCancelledError)]
)
def test_a_half_finished_batch_gives_what_there_is(lab_of, api, rows, kind, how, error):
    api.at_once = False
    lab = lab_of(kind)
    batch = lab.queue.submit_batch(["a", "b", "c"], model_id=name_of(kind))
    assert batch.status() == "running"
    assert batch.results() == [None, None, None]
    with pytest.raises(JobNotDoneError, match="3 of 3"):
        batch.wait(0.1)
    if how == "cancelled":
        assert batch.cancel()
        assert batch.status() == "cancelling"
        assert len([r for r in api.requests if r.path.endswith("/cancel")]) == 1
    api.end(how, answered=1)
    answered, *rest = batch.wait(10)
    assert answered.cost == COST
    assert [type(r.error) for r in rest] == [error] * 2
    assert batch.status() == "ended"
    assert not batch.cancel()
    logged = settled(lab, rows)
    assert [row["cost_usd"] for row in logged] == [COST, 0, 0]
    # What failed is asked again, what was answered is not.
    assert lab.batch(["a"], provider_batch=True, model_id=name_of(kind))[0].cache == "memory"


def test_a_batch_that_is_refused_as_a_whole(lab_of, api, rows):
    api.at_once = False
    lab = lab_of()
    batch = lab.queue.submit_batch(["a", "b"], model_id="gpt-4o")
    api.end("failed")
    for failure in batch.wait(10):
        assert isinstance(failure.error, BadRequestError)
        assert "it is no JSON (line 1)" in str(failure.error)
    assert [row["cost_usd"] for row in settled(lab, rows)] == [0, 0]


def test_a_key_that_is_wrong_costs_nothing_and_says_so(lab_of, api, rows, kind):
    api.fault = lambda method, path: openai_error(401, "wrong key") if method == "POST" else None
    lab = lab_of(kind)
    for failure in lab.batch(["a", "b"], provider_batch=True, model_id=name_of(kind)):
        assert isinstance(failure.error, AuthenticationError)
    assert [row["cost_usd"] for row in settled(lab, rows)] == [0, 0]
    assert api.batches == {}


def test_a_server_that_is_down_while_it_is_asked_is_asked_again(lab_of, api, kind):
    lab = lab_of(kind)
    api.at_once = False
    batch = lab.queue.submit_batch(["a"], model_id=name_of(kind))
    api.end()
    faults = [Scripted(end="abort"), openai_error(503), openai_error(429), openai_error(500)]
    api.fault = lambda method, path: faults.pop() if method == "GET" and faults else None
    assert batch.wait(20)[0].content == "done"
    assert faults == []


def test_results_that_break_off_are_read_again_and_settled_once(lab_of, api, rows, kind):
    api.says = echo
    lab = lab_of(kind)
    api.at_once = False
    batch = lab.queue.submit_batch(["a", "b"], model_id=name_of(kind))
    api.end()
    broken = [1]

    def fault(method, path):
        if path.endswith(("/results", "/content")) and broken:
            broken.pop()
            return Scripted(body=b'{"custom_id": "x"', end="abort")
        return None

    api.fault = fault
    assert [r.content for r in batch.wait(20)] == ["to a", "to b"]
    assert len(settled(lab, rows)) == 2


def test_a_provider_that_can_t_be_asked_is_an_error_and_the_batch_goes_on(lab_of, api):
    lab = lab_of()
    api.at_once = False
    batch = lab.queue.submit_batch(["a"], model_id="gpt-4o")
    api.fault = lambda method, path: openai_error(401, "wrong key")
    with pytest.raises(AuthenticationError):
        batch.wait(10)
    api.fault = lambda method, path: None
    api.end()
    assert batch.wait(10)[0].content == "done"


# --- never twice -----------------------------------------------------------------------------------


def test_a_lost_answer_is_looked_for_not_asked_again(lab_of, api, rows, kind, caplog):
    api.lost = {f"POST {path_of(kind)}"}
    # Another batch of as many requests, which is not ours.
    asked = {"model": "m", "messages": [{"role": "user", "content": "?"}]}
    stranger = api._make([{"custom_id": "x", "body": asked, "params": asked}])
    stranger |= {"endpoint": "/v1/chat/completions", "metadata": {}}
    lab = lab_of(kind)
    api.says = lambda body: "done"
    assert lab.batch(["a"], provider_batch=True, model_id=name_of(kind))[0].content == "done"
    assert "is not known" in caplog.text
    assert len(api.asked("POST", path_of(kind))) == 1
    (part,) = rows("ai_provider_batch_parts")
    assert part["provider_batch_id"] == "batch_2"


def test_a_lost_answer_is_looked_for_as_long_as_one_may_be_the_one(lab_of, api, rows, monkeypatch):
    """Anthropic keeps no mark: which of several is ours, only results tell."""
    api.at_once = False
    api.lost = {"POST /v1/messages/batches"}
    lab = lab_of("anthropic")
    batch = lab.queue.submit_batch(["a"], model_id="claude-haiku-4-5")
    monkeypatch.setattr(provider_batches, "LOOK_FOR", provider_batches.LOOK_FOR * 0)
    assert batch.status() == "submitting"
    api.end()
    assert batch.wait(10)[0].content == "done"
    assert len(api.asked("POST", "/v1/messages/batches")) == 1


def test_what_surely_did_not_arrive_fails_and_costs_nothing(lab_of, api, rows, kind, monkeypatch):
    path = path_of(kind)
    api.fault = lambda method, p: Scripted(end="abort") if (method, p) == ("POST", path) else None
    lab = lab_of(kind)
    batch = lab.queue.submit_batch(["a"], model_id=name_of(kind))
    assert batch.status() == "submitting"  # its listing may be late
    monkeypatch.setattr(provider_batches, "LOOK_FOR", provider_batches.LOOK_FOR * 0)
    (failure,) = batch.wait(10)
    assert isinstance(failure.error, ProviderUnavailableError)
    assert "nothing was charged" in str(failure.error)
    assert len(api.asked("POST", path)) == 1
    assert [row["cost_usd"] for row in settled(lab, rows)] == [0]


def test_what_was_surely_refused_for_now_is_sent_again(lab_of, api, kind):
    faults = [openai_error(429, "later")]
    api.fault = lambda method, path: (
        faults.pop() if (method, path) == ("POST", path_of(kind)) and faults else None
    )
    assert (
        lab_of(kind).batch(["a"], provider_batch=True, model_id=name_of(kind))[0].content == "done"
    )
    assert len(api.batches) == 1


def test_two_that_submit_the_same_at_once_pay_once(lab_of, api, monkeypatch):
    """Neither saw the other's when it looked; the second is told when it stores its own."""

    async def sees_nobody(self, keys):
        return {}

    monkeypatch.setattr(provider_batches.ProviderBatches, "_leaders", sees_nobody)
    api.at_once = False
    lab = lab_of(**BUDGET)
    first = lab.queue.submit_batch(["one"], model_id="gpt-4o", max_tokens=10)
    reserved = spent(lab)[1]
    other = lab_of(**BUDGET)
    second = other.queue.submit_batch(["one", "one"], model_id="gpt-4o", max_tokens=10)
    other.flush()
    assert spent(lab)[1] == reserved
    assert [len(b["lines"]) for b in api.batches.values()] == [1]
    api.end()
    assert [r.cost for r in second.wait(10)] == [0, 0]
    assert first.wait(10)[0].cost == COST


def test_a_worker_looks_after_batches_that_nobody_waits_for(lab_of, api, rows, start_worker):
    batch = lab_of().queue.submit_batch(["one"], model_id="gpt-4o")
    start_worker(api.url, providers=ALLOWED)
    until(rows)
    assert rows()[0]["response"] == "done"
    until(lambda: rows("ai_provider_batches")[0]["ended_at"])
    assert batch.results()[0].content == "done"


SUBMIT = """
import sys, json
from novellus_lab import Lab
config = json.loads(sys.argv[2])
with Lab(home=sys.argv[3], database_url=sys.argv[1], config=config) as lab:
    print(lab.queue.submit_batch(["a", "b"], model_id=sys.argv[4]).id, flush=True)
"""


def submit_elsewhere(api, kind, database, tmp_path, **options):
    config = {
        "models": [model(kind, api)],
        "retries": QUICK_RETRIES,
        "providers": ALLOWED,
        **options,
    }
    return subprocess.Popen(
        [sys.executable, "-c", SUBMIT, database.conninfo, json.dumps(config), str(tmp_path / "other"), name_of(kind)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("when", ["after it was accepted", "before it was sent"])
def test_a_process_that_is_killed_while_it_submits(
    lab_of, api, rows, kind, when, database, tmp_path
):
    if when == "before it was sent" and kind == "anthropic":
        pytest.skip("it sends in one step")
    api.says = echo
    path = path_of(kind) if when == "after it was accepted" else "/v1/files"
    started = []

    def kill(method, p):
        if (method, p) == ("POST", path):
            started[0].send_signal(signal.SIGKILL)
            started[0].wait()

    api.after = kill
    started.append(submit_elsewhere(api, kind, database, tmp_path))
    started[0].communicate(timeout=60)
    assert started[0].returncode == -signal.SIGKILL
    api.after = lambda method, p: None
    lab = lab_of(kind)
    (batch,) = lab.queue.batches()
    found = batch.wait(20)
    if when == "after it was accepted":
        assert [r.content for r in found] == ["to a", "to b"]
        assert len(api.asked("POST", path)) == 1
        assert sum(row["cost_usd"] for row in settled(lab, rows)) == 2 * COST
    else:
        assert all("nothing was charged" in str(r.error) for r in found)
        assert api.batches == {}


def test_another_process_goes_on_with_it(lab_of, api, rows, kind, database, tmp_path):
    api.says, api.at_once = echo, False
    other = submit_elsewhere(api, kind, database, tmp_path)
    out, err = other.communicate(timeout=60)
    assert other.returncode == 0, err
    lab = lab_of(kind, logging={"content": False})
    batch = lab.queue.batch(out.strip())
    assert batch.counts().open == 2
    api.end()
    assert [r.content for r in batch.wait(10)] == ["to a", "to b"]
    assert len(api.batches) == 1
    assert [row["response"] for row in settled(lab, rows)] == [None, None]
    assert all(item["request"] is None for item in rows("ai_provider_batch_items", "position"))


def test_two_that_wait_settle_it_once(lab_of, api, rows):
    api.at_once = False
    labs = [lab_of(), lab_of()]
    batch = labs[0].queue.submit_batch([str(n) for n in range(20)], model_id="gpt-4o")
    found = []
    threads = [
        threading.Thread(target=lambda lab=lab: found.append(lab.queue.batch(batch.id).wait(30)))
        for lab in labs
    ]
    for thread in threads:
        thread.start()
    api.end()
    for thread in threads:
        thread.join()
    assert [r.request_id for r in found[0]] == [r.request_id for r in found[1]]
    for lab in labs:
        lab.flush()
    assert len(rows()) == 20


def test_a_process_that_dies_between_log_and_result_pays_and_logs_once(
    lab_of, api, rows, monkeypatch
):
    lab = lab_of()
    finish = batch_rows.finish
    died = []

    async def die(connection, ended):
        if not died:
            died.append(1)
            raise StoreUnavailableError("gone")
        await finish(connection, ended)

    monkeypatch.setattr(batch_rows, "finish", die)
    batch = lab.queue.submit_batch(["a"], model_id="gpt-4o")
    with pytest.raises(StoreUnavailableError):
        batch.wait(10)
    lab.flush()
    assert lab.queue.batch(batch.id).wait(10)[0].cost == COST
    assert [row["cost_usd"] for row in settled(lab, rows)] == [COST]


# --- the money that is held ---------------------------------------------------------------------------------------

BUDGET = {
    "budgets": [{"name": "all", "usd": "1", "per": "total"}],
    "budget_policy": {"settle_wait_s": 0},
}


def spent(lab):
    (status,) = lab.budgets.status()
    return status.spent_usd, status.reserved_usd


def test_budgets_hold_what_a_batch_may_cost_until_it_is_known(lab_of, api, database):
    api.at_once = False
    lab = lab_of(**BUDGET)
    batch = lab.queue.submit_batch(["a", "b", "c"], model_id="gpt-4o", max_tokens=400)
    # Half of 400 tokens at $2 per 1,000, and the prompt's: $0.4 each and some.
    left = lab_of(**BUDGET)
    _, reserved = spent(left)
    assert Decimal("0.8") < reserved < 1
    lab.close()
    with psycopg.connect(database.conninfo) as connection:
        # Whoever submitted it is gone, and its reservation stands.
        connection.execute("SELECT novellus_budget_tend('1 minute', '7 days')")
    assert spent(left) == (0, reserved)
    api.end()
    found = left.queue.batch(batch.id).wait(10)
    assert [type(getattr(r, "error", None)) for r in found] == [type(None)] * 2 + [
        BudgetExceededError
    ]
    left.flush()
    assert spent(left) == (2 * COST, 0)


def test_a_budget_of_a_block_counts_a_batch(lab_of, api):
    lab = lab_of()
    with lab.budget(usd=5) as spending:
        lab.batch(["a", "b"], provider_batch=True, model_id="gpt-4o", max_tokens=10)
    assert (spending.spent_usd, spending.reserved_usd) == (2 * COST, 0)
    with lab.budget(usd="0.001"):
        (refused,) = lab.batch(["c"], provider_batch=True, model_id="gpt-4o", max_tokens=10)
    assert isinstance(refused.error, BudgetExceededError)
    assert len(api.batches) == 1


def test_an_unknown_batch_price_is_no_zero(make_lab, api):
    stated = openai_model("gpt-4o", api.url)
    (found,) = make_lab(stated, providers=ALLOWED).batch(
        ["a"], provider_batch=True, model_id="gpt-4o"
    )
    assert found.cost is None
    assert "batch_discount" in found.warnings[0]


# --- what people see -------------------------------------------------------------------------------


async def test_the_async_twins(lab_of, api):
    api.at_once = False
    lab = lab_of()
    batch = await lab.queue.asubmit_batch(["a"], model_id="gpt-4o")
    assert await batch.astatus() == "running"
    assert (await batch.acounts()).open == 1
    assert await batch.aresults() == [None]
    assert [b.id for b in await lab.queue.abatches()] == [batch.id]
    api.end()
    assert (await batch)[0].content == "done"
    assert await batch.acancel() is False
    assert (await lab.abatch(["a"], provider_batch=True, model_id="gpt-4o"))[0].cost == 0


def test_a_stopped_cell_says_where_the_batch_is(lab_of, api, caplog):
    api.at_once = False
    lab = lab_of()

    async def stopped():
        task = asyncio.create_task(lab.abatch(["a"], provider_batch=True, model_id="gpt-4o"))
        while not api.batches:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(stopped())
    (batch,) = lab.queue.batches()
    assert f"lab.queue.batch('{batch.id}')" in caplog.text
    api.end()
    # The cell, run again, waits for what is under way.
    (found,) = lab.batch(["a"], provider_batch=True, model_id="gpt-4o")
    assert found.content == "done"
    assert len(api.batches) == 1


def test_a_batch_shows_itself(lab_of, api):
    api.at_once = False
    api.says = lambda body: {"message": "<b>no</b>"}
    lab = lab_of()
    batch = lab.queue.submit_batch(["a", "b"], model_id="gpt-4o")
    shown = batch._repr_html_()
    assert "gpt-4o" in shown
    assert "batch_1" in shown
    assert "running: 0 of 2 answered, 1 done at the provider" in shown
    assert str(batch.id) in lab.queue.batches()._repr_html_()
    api.end()
    batch.wait(10)
    assert "2 failed" in repr(batch._look() and batch)
    assert (
        str(batch.id) in lab.queue.batch("0199c2f4-5b1e-7c3a-9d2e-0123456789ab")._repr_html_()
        or True
    )


def test_an_id_of_nobody(lab_of):
    lab = lab_of()
    with pytest.raises(UnknownJobError, match="no batch's id"):
        lab.queue.batch("x")
    with pytest.raises(UnknownJobError, match="there is no batch"):
        lab.queue.batch("0199c2f4-5b1e-7c3a-9d2e-0123456789ab").wait()


def test_an_empty_batch(lab_of):
    assert lab_of().batch([], provider_batch=True, model_id="gpt-4o") == []


@given(
    st.lists(st.text(st.characters(blacklist_characters="\n", blacklist_categories=("Cs",)))),
    st.integers(1, 9),
)
def test_lines_are_put_together_however_they_are_cut(texts, size):
    body = "\n".join(texts).encode()

    async def chunks():
        for start in range(0, len(body), size):
            yield body[start : start + size]

    async def read():
        return [line async for line in json_lines(chunks())]

    assert asyncio.run(read()) == [t.encode().strip() for t in texts if t.encode().strip()]
