"""Workers that are killed, stopped or cut off: nothing is lost, and nothing is paid twice."""

from __future__ import annotations

import threading

import psycopg
import pytest

from novellus_lab.errors import QueueError
from tests.lab.conftest import openai_model
from tests.loopback import Scripted, ScriptedServer, openai_chat_reply
from tests.queue.conftest import until

SOON = ("--stalled-after", "2")


class Slow:
    """Answers, once it is let."""

    def __init__(self):
        self.may_answer = threading.Event()
        self.answered = 0

    async def __call__(self, request):
        import asyncio

        while not self.may_answer.is_set():
            await asyncio.sleep(0.02)
        self.answered += 1
        return openai_chat_reply("done")


def test_the_job_of_a_killed_worker_is_finished_by_another(make_lab, rows, start_worker):
    slow = Slow()
    with ScriptedServer(slow) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        job = lab.queue_request({"prompt": "x"})
        first = start_worker(server.url, *SOON)
        until(lambda: server.requests)
        start_worker(server.url, *SOON)
        first.kill()
        slow.may_answer.set()
        answer = job.result(timeout=60)
        assert answer.content == "done"
        until(lambda: rows())
        assert slow.answered == 1  # what the first had asked was broken off with it
        (row,) = rows("ai_jobs")
        assert row["attempts"] == 2
    assert [r["id"] for r in rows() if r["status"] == "ok"] == [answer.request_id]


def test_an_answer_whose_worker_died_before_it_said_so_is_not_paid_again(
    make_lab, rows, start_worker, database
):
    slow = Slow()
    with ScriptedServer(slow) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        job = lab.queue_request({"prompt": "x", "use_cache": False})
        with psycopg.connect(database.conninfo) as holder:
            first = start_worker(server.url, *SOON)
            until(lambda: server.requests)
            # From here on it can't say that it has the answer, which goes into the log all the same.
            holder.execute("SELECT 1 FROM ai_jobs FOR UPDATE")
            slow.may_answer.set()
            until(lambda: [r for r in rows() if r["status"] == "ok"])
            first.kill()
        start_worker(server.url, *SOON)
        answer = job.result(timeout=60)
        assert answer.content == "done"
        assert len(server.requests) == 1
        (row,) = rows()
        assert row["id"] == answer.request_id
        assert row["cost_usd"] == answer.cost > 0
        assert answer.usage.input_tokens == row["input_tokens"]


def test_a_job_that_kills_its_workers_is_given_up(make_lab, rows, start_worker):
    with ScriptedServer(Scripted(end="hang")) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        job = lab.queue_request({"prompt": "x"}, max_attempts=1)
        worker = start_worker(server.url, *SOON)
        until(lambda: server.requests)
        worker.kill()
        start_worker(server.url, *SOON)
        with pytest.raises(QueueError, match=r"begun 1 times.*its worker died"):
            job.result(timeout=60)
        assert len(server.requests) == 1
        assert job.status() == "failed"


def test_a_worker_that_is_stopped_ends_what_is_under_way(make_lab, rows, start_worker):
    slow = Slow()
    with ScriptedServer(slow) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        job = lab.queue_request({"prompt": "x"})
        left = None
        worker = start_worker(server.url, "--concurrency", "1")
        until(lambda: server.requests)
        left = lab.queue_request({"prompt": "y"})
        worker.process.terminate()
        slow.may_answer.set()
        worker.end()
        assert job.status() == "done"
        assert left.status() == "queued"
        assert lab.queue.workers() == ()


def test_what_takes_too_long_is_given_back(make_lab, rows, start_worker):
    slow = Slow()
    with ScriptedServer(slow) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        job = lab.queue_request({"prompt": "x"}, max_attempts=1)
        worker = start_worker(server.url, "--stop-timeout", "0")
        until(lambda: server.requests)
        worker.stop()
        assert job.status() == "queued"
        (row,) = rows("ai_jobs")
        assert row["attempts"] == 0
        slow.may_answer.set()
        start_worker(server.url, "--once").end()
        assert job.result(timeout=30).content == "done"
        assert slow.answered == 1


def test_a_worker_waits_for_a_database_that_went_away(make_lab, rows, start_worker, database):
    with ScriptedServer(openai_chat_reply("back")) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        worker = start_worker(server.url)
        until(lab.queue.workers)
        cut = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        with psycopg.connect(database.conninfo, autocommit=True) as connection:
            connection.execute(cut)
        job = lab.queue_request({"prompt": "x"})
        assert job.result(timeout=60).content == "back"
        worker.stop()
