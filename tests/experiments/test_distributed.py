"""Comparisons and benchmarks over workers: one is killed in the middle, and nothing is lost or paid twice."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import pytest

from novellus_lab.errors import InvalidRequestError, NoWorkerError
from tests.lab.conftest import openai_model
from tests.loopback import ScriptedServer, openai_chat_reply
from tests.queue.conftest import start_worker, until

__all__ = ["start_worker"]

SUMS = [{"id": f"s{i}", "prompt": f"{i} + {i}?", "expected": 2 * i} for i in range(60)]


def test_a_worker_that_is_killed_costs_no_item_and_no_further_payment(
    make_lab, rows, start_worker, tmp_path
):
    answered: Counter[str] = Counter()
    halfway = threading.Event()

    async def adder(request: Any) -> Any:
        import asyncio

        text = str(request.json["messages"][-1]["content"])
        await asyncio.sleep(0.02)
        answered[text] += 1
        if sum(answered.values()) >= 20:
            halfway.set()
        return openai_chat_reply(f"#### {2 * int(text.split()[0])}")

    with ScriptedServer(adder) as llm:
        lab = make_lab(openai_model("gpt-4o", llm.url))
        soon = ("--concurrency", "4", "--stalled-after", "2")
        doomed = start_worker(llm.url, *soon)
        start_worker(llm.url, *soon)

        def kill() -> None:
            halfway.wait(60)
            doomed.kill()

        killer = threading.Thread(target=kill)
        killer.start()
        run = lab.benchmark("sums", SUMS, scorer="numeric").run(
            queue=True, max_concurrency=30, progress=False
        )
        killer.join()
        assert run.complete
        assert run.standings[0].quality.value == 1.0
        # What the killed worker had in the air, at most four calls, may have reached the server.
        assert sum(answered.values()) <= 60 + 4
    # What the killed worker had answered is in its spool: its next start brings it in.
    make_lab(openai_model("gpt-4o", "http://127.0.0.1:9"), home=tmp_path / "worker0").flush()
    lab.flush()
    until(lambda: len([r for r in rows() if r["status"] == "ok"]) >= 60)
    ok = Counter(row["tags"]["item"] for row in rows() if row["status"] == "ok")
    assert len(ok) == 60
    # Of those calls, what it had heard but not yet told is in the log twice: it was paid twice.
    assert sum(ok.values()) <= 60 + 4
    assert {row["experiment"] for row in rows()} == {run.design.label}


def test_a_comparison_goes_through_the_queue(make_lab, start_worker, monkeypatch):
    monkeypatch.setattr("novellus_lab.experiments.queued_ask.FIND_WORKER_S", 0.2)
    with ScriptedServer(lambda request: openai_chat_reply("#### 4")) as llm:
        lab = make_lab(openai_model("gpt-4o", llm.url))
        arms = {"cold": {"temperature": 0.0}, "warm": {"temperature": 1.0}}
        with pytest.raises(NoWorkerError):
            lab.compare(arms, SUMS[:2], queue="nobody", progress=False)
        start_worker(llm.url, "--concurrency", "8")
        until(lambda: lab.queue.workers())
        found = lab.compare(arms, SUMS[:10], scorer="numeric", queue=True, progress=False)
        assert found.n == 10
        assert found.effect().control.value == pytest.approx(0.1)
        assert {r.json["temperature"] for r in llm.requests} == {0.0, 1.0}
        with pytest.raises(InvalidRequestError, match="can't go through the queue"):
            lab.compare(
                {"a": {"temperature": 0.0}, "b": {"config": {}}},
                SUMS[:2],
                queue=True,
                progress=False,
            )
