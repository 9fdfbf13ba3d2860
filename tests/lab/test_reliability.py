"""Retries, failover, deadlines and cancellation, and the rows that they leave."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time

import pytest

from novellus_lab.errors import (
    AuthenticationError,
    BadRequestError,
    DeadlineExceededError,
    ProviderUnavailableError,
    RateLimitError,
)
from tests.lab.conftest import openai_model
from tests.loopback import Scripted, ScriptedServer, openai_chat_reply, openai_error

GOOD = openai_chat_reply("Good.")


def test_a_passing_fault_is_retried_on_the_same_model(make_lab, rows):
    with ScriptedServer([openai_error(503), openai_error(429), GOOD]) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        r = lab.complete("Hi")
        lab.flush()
    assert r.content == "Good."
    assert [a.role for a in r.attempts] == ["primary", "retry", "retry"]
    attempts = rows("ai_request_attempts")
    assert [a["status"] for a in attempts] == ["error", "error", "ok"]
    assert [a["status_code"] for a in attempts] == [503, 429, None]
    assert [a["cost_usd"] == 0 for a in attempts] == [True, True, False]
    [row] = rows()
    assert (row["attempts"], row["status"], row["cost_usd"]) == (3, "ok", r.cost)
    assert row["queue_ms"] > 0


def test_retry_after_is_honoured(make_lab):
    waited = []

    def answer(request):
        waited.append(time.perf_counter())
        if len(waited) == 1:
            return openai_error(429, headers={"retry-after": "0.3"})
        return GOOD

    with ScriptedServer(answer) as server:
        lab = make_lab(
            openai_model("gpt-4o", server.url),
            retries={"max_attempts": 2, "base_delay_s": 0.001, "max_delay_s": 5},
        )
        lab.complete("Hi")
    assert waited[1] - waited[0] >= 0.3


def test_the_next_candidate_stands_in_and_the_first_pick_keeps_its_propensity(make_lab, rows):
    with ScriptedServer(openai_error(500)) as bad, ScriptedServer(GOOD) as good:
        lab = make_lab(
            openai_model("first", bad.url, priority=900), openai_model("second", good.url)
        )
        r = lab.complete("Hi", model_selection_strategy="priority")
        again = lab.complete("Hi", model_selection_strategy="priority")
        lab.flush()
    assert r.model == "second"
    assert [a.role for a in r.attempts] == ["primary", "retry", "retry", "failover"]
    assert (r.route.picked, r.route.propensity) == ("first", 1.0)
    assert again.cache.hit
    row = rows()[0]
    assert (row["picked_model"], row["model"], row["propensity"]) == ("first", "second", 1.0)
    assert [c["model_id"] for c in row["candidates"]] == ["first", "second"]


def test_a_long_retry_after_sends_the_call_elsewhere_at_once(make_lab):
    slow = openai_error(429, headers={"retry-after": "3600"})
    with ScriptedServer(slow) as bad, ScriptedServer(GOOD) as good:
        lab = make_lab(
            openai_model("first", bad.url, priority=900), openai_model("second", good.url)
        )
        assert lab.complete("Hi", model_selection_strategy="priority").model == "second"
        assert len(bad.requests) == 1


@pytest.mark.parametrize(
    ("reply", "error", "calls", "cost_usd"),
    [
        (openai_error(400), BadRequestError, 1, 0),
        (openai_error(401), AuthenticationError, 1, 0),
        (openai_error(429, headers={"retry-after": "0"}), RateLimitError, 3, 0),
        (
            Scripted(500, body="<html>oops</html>", content_type="text/html"),
            ProviderUnavailableError,
            3,
            0,
        ),
        # It answered, so it charges; how much is not to be seen: unknown, not zero.
        (
            Scripted(200, body="{not json", content_type="application/json"),
            ProviderUnavailableError,
            3,
            None,
        ),
        (Scripted(end="abort"), ProviderUnavailableError, 3, None),
    ],
)
def test_each_error_has_its_class_its_number_of_tries_and_its_cost(
    make_lab, rows, reply, error, calls, cost_usd
):
    with ScriptedServer(reply) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        with pytest.raises(error) as caught:
            lab.complete("Hi")
        assert caught.value.model == "gpt-4o"
        assert len(server.requests) == calls
        lab.flush()
    [row] = rows()
    assert (row["status"], row["error_class"], row["attempts"]) == ("error", error.__name__, calls)
    assert (row["model"], row["cost_usd"], row["uncached_cost_usd"]) == (
        "gpt-4o",
        cost_usd,
        cost_usd,
    )


def test_a_bad_request_is_not_tried_elsewhere(make_lab):
    with ScriptedServer(openai_error(400)) as bad, ScriptedServer(GOOD) as good:
        lab = make_lab(
            openai_model("first", bad.url, priority=900), openai_model("second", good.url)
        )
        with pytest.raises(BadRequestError):
            lab.complete("Hi", model_selection_strategy="priority")
        assert not good.requests


def test_the_deadline_covers_everything(make_lab, rows):
    with ScriptedServer(Scripted(end="hang")) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        started = time.perf_counter()
        with pytest.raises((DeadlineExceededError, TimeoutError)):
            lab.complete("Hi", timeout=0.3)
        assert time.perf_counter() - started < 5
        lab.flush()
    [row] = rows()
    assert row["status"] == "error"
    assert row["cost_usd"] is None  # the provider may have charged, and nobody said how much
    [attempt] = rows("ai_request_attempts")
    assert "may charge" in attempt["unpriced_reason"]


def test_when_nobody_answers_the_error_tells_what_was_tried(make_lab):
    with ScriptedServer(openai_error(500)) as one, ScriptedServer(openai_error(401)) as two:
        lab = make_lab(
            openai_model("first", one.url, priority=900), openai_model("second", two.url)
        )
        with pytest.raises(AuthenticationError) as caught:
            lab.complete("Hi", model_selection_strategy="priority")
        [note] = caught.value.__notes__
        assert note.count("first") == 3
        assert "second" in note


def test_an_interrupted_cell_is_logged_as_cancelled_and_the_lab_goes_on(make_lab, rows):
    replies = iter([Scripted(end="hang"), GOOD])
    arrived = threading.Event()

    def answer(request):
        arrived.set()
        return next(replies)

    with ScriptedServer(answer) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))

        def interrupt():
            arrived.wait(20)
            time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            lab.complete("Slow")
        assert server.client_left.wait(10)
        assert lab.complete("Quick").content == "Good."
        lab.flush()
    assert [r["status"] for r in rows()] == ["cancelled", "ok"]
    assert rows("ai_request_attempts")[0]["status"] == "cancelled"


async def test_a_cancelled_task_is_logged_as_cancelled(make_lab, rows):
    with ScriptedServer(Scripted(end="hang")) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        task = asyncio.create_task(lab.acomplete("Slow"))
        while not server.requests:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(lab.flush)
    assert [r["status"] for r in rows()] == ["cancelled"]


async def test_sync_and_async_calls_work_inside_a_running_loop(make_lab):
    with ScriptedServer(GOOD) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        assert lab.complete("sync in a cell").content == "Good."
        answers = await asyncio.gather(*(lab.acomplete(f"async {n}") for n in range(20)))
        assert {a.content for a in answers} == {"Good."}


def test_one_lab_serves_many_threads_and_many_event_loops(make_lab, rows):
    with ScriptedServer(GOOD) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        got = []

        def work(n):
            got.append(lab.complete(f"thread {n}").content)
            got.append(asyncio.run(lab.acomplete(f"loop {n}")).content)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        lab.flush()
    assert got == ["Good."] * 20
    assert len(rows()) == 20


def test_a_forked_child_works_and_both_are_logged(make_lab, rows):
    with ScriptedServer(GOOD) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        lab.complete("before")
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                lab.complete("in the child")
                lab.flush()
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
        lab.complete("after")
        lab.flush()
    prompts = sorted(r["messages"][0]["content"] for r in rows())
    assert prompts == ["after", "before", "in the child"]


def test_a_custom_provider_that_breaks_is_an_error_of_ours(make_lab, monkeypatch):
    from novellus_lab.providers.openai import OpenAIProvider

    async def broken(self, call):
        raise KeyError("sk-secret")

    monkeypatch.setattr(OpenAIProvider, "complete", broken)
    lab = make_lab(openai_model("gpt-4o", "http://127.0.0.1:9"))
    with pytest.raises(Exception, match="adapter 'openai' failed with KeyError") as caught:
        lab.complete("x")
    assert "sk-secret" not in str(caught.value)
