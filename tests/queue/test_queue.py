"""Requests in the queue, and workers that run them, through the public face."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pydantic
import pytest

from novellus_lab import AIModelManager, BatchFailure
from novellus_lab.errors import (
    BadRequestError,
    InvalidRequestError,
    JobCancelledError,
    JobNotDoneError,
    NoWorkerError,
    ProviderUnavailableError,
    UnknownJobError,
    UnknownModelError,
)
from tests.lab.conftest import openai_model
from tests.loopback import Scripted, ScriptedServer, openai_chat_reply, openai_error
from tests.queue.conftest import until


def shout(request):
    text = request.json["messages"][-1]["content"]
    return openai_error(400, "no such thing") if "bad" in text else openai_chat_reply(text.upper())


def asked(server):
    return [request.json["messages"][-1]["content"] for request in server.requests]


def test_a_worker_answers_and_the_answer_is_whole(make_lab, rows, start_worker):
    with ScriptedServer(shout) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        job = lab.queue_request({"prompt": "héllo \x00", "max_tokens": 5, "tags": {"team": "x"}})
        assert job.status() == "queued"
        start_worker(server.url, "--once").end()
        answer = job.result(timeout=30)
        assert job.status() == "done"
        assert lab.job(str(job.id)).result().content == answer.content
    assert answer.content == "HÉLLO \x00"
    assert answer.model == "gpt-4o"
    assert isinstance(answer.cost, Decimal)
    assert answer.cost > 0
    assert answer.attempts[0].price.cost_usd == answer.cost
    assert answer.route.picked == "gpt-4o"
    (row,) = rows()
    assert row["id"] == answer.request_id
    assert row["cost_usd"] == answer.cost
    assert row["tags"] == {"team": "x"}
    assert server.requests[0].json["max_tokens"] == 5
    assert "HÉLLO" in repr(answer)
    assert "done" in job._repr_html_()
    assert "done" in repr(job)


def test_the_answer_comes_back_where_content_is_not_logged(make_lab, rows, start_worker):
    silent = {"logging": {"content": False}}
    with ScriptedServer(shout) as server:
        lab = make_lab(openai_model("gpt-4o", server.url), **silent)
        job = lab.queue_request({"prompt": "hello"})
        start_worker(server.url, "--once", **silent).end()
        assert job.result(timeout=30).content == "HELLO"
    assert rows()[0]["response"] is None


@pytest.mark.parametrize(
    ("data", "error", "told"),
    [
        ({"prompt": ""}, InvalidRequestError, "empty"),
        ({"prompt": "x", "temprature": 1}, InvalidRequestError, "temperature"),
        ({"prompt": "x", "model_id": "gpt-5x"}, UnknownModelError, "gpt-5x"),
        ({"prompt": "x", "stream": True}, InvalidRequestError, "streamed"),
        ({"prompt": "x", "max_tokens": -1}, InvalidRequestError, "max_tokens"),
        ("x", InvalidRequestError, "dict"),
        ({}, InvalidRequestError, "nothing to ask"),
    ],
)
def test_what_is_wrong_is_said_before_it_is_queued(make_lab, rows, data, error, told):
    lab = make_lab(openai_model("gpt-4o", "http://127.0.0.1:9"))
    with pytest.raises(error, match=told):
        lab.queue_request(data)
    lab.flush()
    assert [row["status"] for row in rows()] == ["refused"]
    assert rows("ai_jobs") == []


@pytest.mark.parametrize(
    "how",
    [
        {"priority": "high"},
        {"priority": True},
        {"priority": 2**40},
        {"scheduled_at": "tomorrow"},
        {"scheduled_at": timedelta.max},
        {"queue": ""},
        {"queue": "q" * 60},
        {"max_attempts": 0},
    ],
)
def test_how_it_is_to_be_run_is_checked_too(make_lab, rows, how):
    lab = make_lab(openai_model("gpt-4o", "http://127.0.0.1:9"))
    with pytest.raises(InvalidRequestError, match=next(iter(how))):
        lab.queue_request({"prompt": "x"}, **how)
    assert rows("ai_jobs") == []


def test_the_highest_priority_goes_first_and_what_is_scheduled_waits(make_lab, start_worker):
    with ScriptedServer(shout) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        lab.queue_request({"prompt": "low"}, priority=-1)
        lab.queue_request({"prompt": "first"})
        lab.queue_request({"prompt": "second"})
        later = lab.queue_request({"prompt": "later"}, 99, timedelta(hours=1))
        lab.queue_request({"prompt": "high"}, priority=10)
        lab.queue_request({"prompt": "past"}, 20, datetime.now() - timedelta(hours=1))
        start_worker(server.url, "--once", "--concurrency", "1").end()
        assert asked(server) == ["past", "high", "first", "second", "low"]
        assert later.status() == "queued"
        assert "not before" in later._repr_html_()


def test_a_scheduled_job_runs_when_its_time_has_come(make_lab, start_worker):
    with ScriptedServer(shout) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        start_worker(server.url)
        until(lab.queue.workers)
        at = datetime.now(UTC) + timedelta(seconds=1.5)
        job = lab.queue_request({"prompt": "x"}, scheduled_at=at)
        assert job.result(timeout=30).attempts[0].started_at >= at


async def test_times_without_a_zone(make_lab, rows):
    lab = make_lab(openai_model("gpt-4o", "http://127.0.0.1:9"))
    manager = AIModelManager(lab)
    utc = datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=5)
    job = await manager.queue_request(
        request_data={"prompt": "..."}, priority=10, scheduled_at=utc.replace(tzinfo=None)
    )
    await lab.aqueue_request({"prompt": "…"}, scheduled_at=utc.astimezone().replace(tzinfo=None))
    assert await job.astatus() == "queued"
    assert [row["scheduled_at"] for row in rows("ai_jobs")] == [utc, utc]


async def test_a_job_can_be_awaited_by_many(make_lab, start_worker):
    with ScriptedServer(shout) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        start_worker(server.url)
        jobs = [await lab.aqueue_request({"prompt": f"n{n}"}) for n in range(20)]
        answers = await asyncio.gather(*jobs, *jobs)
    assert [a.content for a in answers] == [f"N{n}" for n in range(20)] * 2


def test_a_pydantic_class_is_answered_in_kind(make_lab, start_worker):
    class City(pydantic.BaseModel):
        name: str

    with ScriptedServer(openai_chat_reply('{"name": "Bonn"}')) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        job = lab.queue_request({"prompt": "a city", "response_format": City})
        start_worker(server.url, "--once").end()
        assert job.result().parsed == City(name="Bonn")
        assert lab.job(job.id).result().parsed == {"name": "Bonn"}


def test_an_error_that_no_retry_heals_is_raised_as_it_was(make_lab, start_worker):
    with ScriptedServer(shout) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        job = lab.queue_request({"prompt": "bad"})
        start_worker(server.url, "--once").end()
        with pytest.raises(BadRequestError, match="no such thing") as raised:
            job.result(timeout=30)
        assert raised.value.status_code == 400
        assert raised.value.model == "gpt-4o"
        assert len(server.requests) == 1
        assert job.status() == "failed"


def test_what_may_heal_is_retried_and_then_a_dead_letter(make_lab, rows, start_worker):
    ill = True

    def answer(request):
        return Scripted(503, body={"error": {"message": "overloaded"}}) if ill else shout(request)

    one_try = {"retries": {"max_attempts": 1}}
    with ScriptedServer(answer) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        job = lab.queue_request({"prompt": "hi"}, max_attempts=3)
        start_worker(server.url, **one_try)
        with pytest.raises(ProviderUnavailableError):
            job.result(timeout=60)
        assert len(server.requests) == 3
        (letter,) = lab.queue.jobs("failed")
        assert letter.id == job.id
        assert "3 of 3" in job._repr_html_()
        ill = False
        assert letter.retry().result(timeout=60).content == "HI"
        with pytest.raises(InvalidRequestError, match="only a failed job"):
            job.retry()
    until(lambda: len(rows()) == 4)
    assert len({row["id"] for row in rows()}) == 4


def test_cancel(make_lab, rows, start_worker):
    with ScriptedServer(Scripted(end="hang")) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        waiting = lab.queue_request({"prompt": "x"}, scheduled_at=timedelta(hours=1))
        assert waiting.cancel()
        assert not waiting.cancel()
        with pytest.raises(JobCancelledError):
            waiting.result()
        running = lab.queue_request({"prompt": "y"})
        worker = start_worker(server.url)
        until(lambda: server.requests)
        assert running.status() == "running"
        assert running.cancel()
        assert server.client_left.wait(30)
        assert running.status() == "cancelled"
        worker.stop()
        assert len(server.requests) == 1
    assert [row["status"] for row in rows()] == ["cancelled"]


def test_waiting_has_an_end(make_lab):
    lab = make_lab(openai_model("gpt-4o", "http://127.0.0.1:9"))
    job = lab.queue_request({"prompt": "x"})
    with pytest.raises(JobNotDoneError, match=r"no worker serves .*novellus worker"):
        job.result(timeout=0.1)
    assert job.cancel()


def test_a_job_that_is_not_there(make_lab):
    lab = make_lab(openai_model("gpt-4o", "http://127.0.0.1:9"))
    with pytest.raises(UnknownJobError, match="no job's id"):
        lab.job("x")
    job = lab.job("0199c2f4-5b1e-7c3a-9d2e-0123456789ab")
    for ask in (job.status, job.result, job.cancel, job.retry):
        with pytest.raises(UnknownJobError, match="no job 0199c2f4"):
            ask()


def test_queues_are_apart(make_lab, start_worker):
    with ScriptedServer(shout) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        other = lab.queue_request({"prompt": "other"}, queue="other")
        nightly = lab.queue_request({"prompt": "nightly"}, queue="nightly")
        start_worker(server.url, "--once", "--queue", "nightly").end()
        assert nightly.status() == "done"
        assert other.status() == "queued"


# --- batches -------------------------------------------------------------------------------------


def test_a_batch_is_spread_over_workers(make_lab, rows, start_worker):
    with ScriptedServer(shout) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        for _ in range(2):
            start_worker(server.url, "--concurrency", "2")
        until(lambda: len(lab.queue.workers()) == 2)
        prompts = [f"p{n}" for n in range(30)]
        results = lab.batch(
            [*prompts, "bad", "", {"prompt": "dict"}], queue=True, progress=True, use_cache=False
        )
        assert "gpt-4o" in results[0].model
        workers = {row["worker"] for row in rows("ai_jobs")}
    assert [r.content for r in results] == [*(p.upper() for p in prompts), None, None, "DICT"]
    assert isinstance(results[30].error, BadRequestError)
    assert isinstance(results[31].error, InvalidRequestError)
    assert all(r.index == n for n, r in enumerate(results) if isinstance(r, BatchFailure))
    assert len(server.requests) == 32
    assert len(workers) == 2


async def test_a_batch_that_nobody_would_answer_is_refused(make_lab, rows, monkeypatch):
    monkeypatch.setattr("novellus_lab.queue.batch.FIND_WORKER_S", 0.1)
    lab = make_lab(openai_model("gpt-4o", "http://127.0.0.1:9"))
    with pytest.raises(NoWorkerError, match=r"nothing was queued.*`novellus worker --queue b`"):
        await lab.abatch(["x"], queue="b")
    with pytest.raises(NoWorkerError, match="`novellus worker`"):
        lab.batch(["x"], queue=True)
    assert rows("ai_jobs") == []


async def test_a_batch_that_is_stopped_cancels_what_is_left(make_lab, rows, start_worker):
    with ScriptedServer(Scripted(end="hang")) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        start_worker(server.url)
        batch = asyncio.create_task(lab.abatch(["x", "y"], queue=True))
        await asyncio.to_thread(until, lambda: len(server.requests) == 2)
        batch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await batch
    assert {row["status"] for row in rows("ai_jobs")} == {"cancelled"}


def test_a_batch_whose_workers_are_gone_does_not_wait_for_ever(
    make_lab, rows, start_worker, monkeypatch
):
    monkeypatch.setattr("novellus_lab.queue.batch._WORKERS_GONE_S", 0.0)
    monkeypatch.setattr("novellus_lab.queue.queue._LOOK_AFTER_WORKERS_S", 0.2)
    monkeypatch.setattr("novellus_lab.queue.queue.ALIVE_S", 8.0)
    with ScriptedServer(Scripted(end="hang")) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        worker = start_worker(server.url)
        until(lab.queue.workers)
        worker.kill()
        results = lab.batch(["x", "y"], queue=True)
    assert all(isinstance(result.error, NoWorkerError) for result in results)
    assert {row["status"] for row in rows("ai_jobs")} == {"cancelled"}
