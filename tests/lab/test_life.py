"""A lab's life: interrupted, closed while calls are in the air, forgotten, forked, entered twice."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from novellus_lab import Lab
from novellus_lab.errors import NovellusError
from tests.lab.conftest import embedding_model, openai_model
from tests.loopback import (
    Scripted,
    ScriptedServer,
    openai_chat_reply,
    openai_chat_stream,
    openai_embedding_reply,
)

GOOD = openai_chat_reply("Good.")


def first_hangs(then):
    """Answer the first request never, and the others with `then`."""
    replies = iter([Scripted(end="hang")])
    return lambda request: next(replies, then)


def wait_until(condition, what="it"):
    for _ in range(1500):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError(f"{what} did not happen")


# --- interrupted -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "kind", "cancelled"),
    [
        (lambda lab: lab.complete("Slow", model_id="chat"), "chat", 1),
        (lambda lab: list(lab.stream("Slow", model_id="chat")), "chat", 1),
        (lambda lab: lab.batch(["a", "b"], model_id="chat", progress=False), "chat", 2),
        (lambda lab: lab.embed("Slow"), "embedding", 1),
    ],
    ids=["complete", "stream", "batch", "embed"],
)
def test_an_interrupt_cancels_and_logs_whatever_was_under_way(
    make_lab, rows, call, kind, cancelled
):
    with ScriptedServer(Scripted(end="hang")) as server:
        lab = make_lab(openai_model("chat", server.url), embedding_model("embed", server.url))

        def interrupt():
            wait_until(lambda: len(server.requests) >= cancelled, "the call")
            time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            call(lab)
        assert server.client_left.wait(20)
        lab.flush()
    logged = rows()
    assert [(r["status"], r["kind"], r["attempts"]) for r in logged] == [
        ("cancelled", kind, 1)
    ] * cancelled
    assert all(r["cost_usd"] is None for r in logged)  # sent; whether it is charged nobody says
    assert all(r["picked_model"] and r["propensity"] == 1 and r["candidates"] for r in logged)


WAITING = """
import json, sys
import polars  # takes SIGINT over, so that the kernel resumes waits that it broke off
from novellus_lab import Lab

lab = Lab(home=sys.argv[1], database_url=sys.argv[2], config=json.loads(sys.argv[3]))
for wait in (
    lambda: lab.complete("Slow", model_id="chat"),
    lambda: next(lab.stream("Slow", model_id="chat")),
):
    try:
        wait()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
lab.close()
"""


def test_an_interrupt_gets_through_where_a_library_has_taken_it_over(database, tmp_path, rows):
    with ScriptedServer(Scripted(end="hang")) as server:
        config = {"models": [openai_model("chat", server.url)]}
        process = subprocess.Popen(
            [sys.executable, "-c", WAITING, tmp_path, database.conninfo, json.dumps(config)],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            for number in (1, 2):
                wait_until(lambda n=number: len(server.requests) == n, "the call")
                process.send_signal(signal.SIGINT)
                assert process.stdout.readline() == "interrupted\n"
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.communicate()
    assert [r["status"] for r in rows()] == ["cancelled", "cancelled"]


async def test_a_call_cancelled_before_it_began_ends_and_is_logged(make_lab, rows):
    with ScriptedServer(Scripted(end="hang")) as server:
        lab = make_lab(openai_model("chat", server.url), embedding_model("embed", server.url))
        for _ in range(20):
            for call in (lab.acomplete("x", use_cache=False), lab.aembed("x", use_cache=False)):
                task = asyncio.create_task(call)
                await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await asyncio.wait_for(task, 20)
        await asyncio.to_thread(lab.flush)
    logged = rows()
    assert len(logged) == 40
    assert {r["status"] for r in logged} == {"cancelled"}


# --- closed ----------------------------------------------------------------------------------


def test_closing_ends_the_calls_of_other_threads_and_logs_them(make_lab, rows):
    with ScriptedServer(Scripted(end="hang")) as server:
        lab = make_lab(openai_model("chat", server.url), embedding_model("embed", server.url))
        ended = []

        def work(call):
            try:
                call()
            except BaseException as error:
                ended.append(error)

        calls = [
            lambda: lab.complete("a", model_id="chat"),
            lambda: list(lab.stream("b", model_id="chat")),
            lambda: asyncio.run(lab.acomplete("c", model_id="chat")),
            lambda: lab.embed("d"),
            lambda: lab.batch(["e"], model_id="chat", progress=False),
        ]
        threads = [threading.Thread(target=work, args=(call,)) for call in calls]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(server.requests) == len(calls), "every call")
        lab.close()
        for thread in threads:
            thread.join(20)
        assert not any(thread.is_alive() for thread in threads)
    assert [type(e) for e in ended] == [NovellusError] * len(calls)
    assert all("closed" in str(e) for e in ended)
    logged = rows()
    assert [r["status"] for r in logged] == ["cancelled"] * len(calls)
    assert len(rows("ai_request_attempts")) == len(calls)


def test_calls_that_race_with_closing_end_one_way_or_the_other(make_lab, rows):
    with ScriptedServer(GOOD) as server:
        for _ in range(3):
            lab = make_lab(openai_model("chat", server.url))
            ended = []
            go = threading.Event()

            def work(n, lab=lab, ended=ended, go=go):
                go.wait()
                try:
                    for k in range(50):
                        ended.append(lab.complete(f"{n}.{k}", use_cache=False).content)
                except NovellusError as error:
                    ended.append(error)

            threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
            for thread in threads:
                thread.start()
            go.set()
            time.sleep(0.05)
            lab.close()
            for thread in threads:
                thread.join(30)
            assert not any(thread.is_alive() for thread in threads)
            assert sum(isinstance(e, NovellusError) for e in ended) == 4
    assert len({r["id"] for r in rows()}) == len(rows())


async def test_a_stream_whose_lab_is_closed_does_not_look_complete(make_lab):
    pieces = openai_chat_stream(["one ", "two "], finish_reason=None, done=False, end="hang")
    with ScriptedServer(pieces) as server:
        lab = make_lab(openai_model("chat", server.url))
        stream, astream = lab.stream("a"), lab.astream("b")
        assert str(next(stream)) == "one "
        assert str(await anext(astream)) == "one "
        await asyncio.to_thread(lab.close)
        with pytest.raises(NovellusError, match="closed"):
            list(stream)
        with pytest.raises(NovellusError, match="closed"):
            async for _ in astream:
                pass


def test_a_lab_is_a_context_manager(make_lab, rows):
    with ScriptedServer(GOOD) as server, make_lab(openai_model("chat", server.url)) as lab:
        lab.complete("x")
    assert lab.closed
    assert len(rows()) == 1


async def test_a_lab_is_an_async_context_manager(make_lab, rows):
    with ScriptedServer(GOOD) as server:
        async with make_lab(openai_model("chat", server.url)) as lab:
            await lab.acomplete("x")
    assert lab.closed
    assert len(rows()) == 1


# --- forgotten -------------------------------------------------------------------------------


def novellus_threads():
    return {t for t in threading.enumerate() if t.name.startswith("novellus")}


def test_a_lab_that_nobody_holds_is_closed_and_its_log_is_complete(database, tmp_path, rows):
    before = novellus_threads()
    with ScriptedServer(GOOD) as server:
        config = {"models": [openai_model("chat", server.url)]}
        home, url = tmp_path / "home", database.conninfo
        Lab(config=config, home=home, database_url=url).complete("x")
        gc.collect()
        wait_until(lambda: novellus_threads() <= before, "closing")
    assert len(rows()) == 1


def test_a_stream_keeps_the_lab_that_it_came_from(database, tmp_path):
    with ScriptedServer(openai_chat_stream([f"{n} " for n in range(20)])) as server:
        config = {"models": [openai_model("chat", server.url)]}
        stream = Lab(config=config, home=tmp_path / "home", database_url=database.conninfo).stream(
            "x"
        )
        gc.collect()
        assert len(list(stream)) == 20


def test_two_labs_in_one_process_do_not_meet(make_lab, rows):
    with ScriptedServer(openai_chat_reply("one")) as a, ScriptedServer(openai_chat_reply("2")) as b:
        one, two = make_lab(openai_model("m", a.url)), make_lab(openai_model("m", b.url))
        assert (one.complete("x").content, two.complete("x").content) == ("one", "2")
        one.close()
        assert two.complete("y").content == "2"
        two.flush()
    assert len(rows()) == 3


# --- forked ----------------------------------------------------------------------------------


def test_a_fork_while_calls_are_in_the_air_harms_neither(make_lab, rows):
    release = threading.Event()

    async def answer(request):
        if b"slow" in request.body:
            await asyncio.to_thread(release.wait, 30)
        return GOOD

    with ScriptedServer(answer) as server:
        lab = make_lab(openai_model("chat", server.url))
        lab.complete("warm")
        slow = []
        thread = threading.Thread(target=lambda: slow.append(lab.complete("slow").content))
        thread.start()
        wait_until(lambda: len(server.requests) == 2, "the slow call")
        stream = lab.stream("slow, streamed")
        wait_until(lambda: len(server.requests) == 3, "the slow stream")
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                del stream
                gc.collect()
                workers = [
                    threading.Thread(target=lambda n=n: lab.complete(f"child {n}"))
                    for n in range(4)
                ]
                for worker in workers:
                    worker.start()
                for worker in workers:
                    worker.join()
                gc.collect()
                lab.close()
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
        release.set()
        thread.join(30)
        assert slow == ["Good."]
        assert lab.complete("after").content == "Good."
        del stream
        lab.flush()
    prompts = [r["messages"][0]["content"] for r in rows() if r["status"] == "ok"]
    assert sorted(p for p in prompts if p.startswith("child")) == [f"child {n}" for n in range(4)]
    assert {"warm", "slow", "after"} <= set(prompts)


# --- entered twice ---------------------------------------------------------------------------


def test_a_redactor_that_asks_the_lab_neither_hangs_nor_lets_anything_through(make_lab, rows):
    labs: list[Lab] = []

    def redact(text):
        return labs[0].complete("is this private: " + text).content

    with ScriptedServer(GOOD) as server:
        labs.append(make_lab(openai_model("chat", server.url), redact=redact))
        for _ in range(2):  # the second is answered from memory, and logged on this thread
            assert labs[0].complete("secret").content == "Good."
        labs[0].flush()
    assert 2 <= len(rows()) < 20
    assert not any("secret" in str(r["messages"]) for r in rows())


async def test_a_synchronous_call_inside_the_labs_own_loop_is_refused_and_logged(
    make_lab, rows, monkeypatch
):
    from novellus_lab.providers.openai import OpenAIProvider

    said = []

    async def complete(self, call):
        for nested in (
            lambda: lab.complete("nested"),
            lambda: next(lab.stream("nested")),
            lambda: lab.embed("nested"),
            lab.flush,
            lab.close,
        ):
            try:
                nested()
            except NovellusError as error:
                said.append(str(error))
        raise RuntimeError

    lab = make_lab(
        openai_model("chat", "http://127.0.0.1:9"),
        embedding_model("embed", "http://127.0.0.1:9"),
        retries={"max_attempts": 1},
    )
    monkeypatch.setattr(OpenAIProvider, "complete", complete)
    with pytest.raises(NovellusError, match="adapter"):
        await lab.acomplete("outer")
    assert len(said) == 5
    assert all("own event loop" in text for text in said)
    assert not lab.closed
    await asyncio.to_thread(lab.flush)
    statuses = sorted(r["status"] for r in rows())
    assert statuses.count("refused") == 2
    assert "error" in statuses


def test_progress_that_can_not_be_shown_costs_no_answers(make_lab, monkeypatch, caplog):
    from contextlib import contextmanager

    @contextmanager
    def broken(total, show):
        def on_result(result):
            raise BrokenPipeError

        yield on_result

    monkeypatch.setattr("novellus_lab.display.batch_progress", broken)
    with ScriptedServer(GOOD) as server, caplog.at_level(logging.DEBUG):
        lab = make_lab(openai_model("chat", server.url))
        assert [r.content for r in lab.batch(["a", "b"])] == ["Good.", "Good."]


def test_a_defect_in_one_item_costs_no_other_its_answer(make_lab, monkeypatch, caplog):
    from novellus_lab.pipeline.pipeline import Pipeline

    plan = Pipeline.plan

    def broken(self, request):
        if b"bad" in request.messages_json:
            raise RuntimeError("a defect")
        return plan(self, request)

    monkeypatch.setattr(Pipeline, "plan", broken)
    with ScriptedServer(GOOD) as server:
        lab = make_lab(openai_model("chat", server.url))
        one, two, three = lab.batch(["a", "bad", "c"], progress=False)
    assert (one.content, three.content) == ("Good.", "Good.")
    assert not two
    assert isinstance(two.error, NovellusError)


def test_embedding_works_again_after_an_interrupt(make_lab):
    reply = openai_embedding_reply([[1.0, 2.0]])
    with ScriptedServer(first_hangs(reply)) as server:
        lab = make_lab(embedding_model("embed", server.url))
        with pytest.raises(TimeoutError):
            lab.embed("x", timeout=0.2)
        assert lab.embed("x") == [1.0, 2.0]
