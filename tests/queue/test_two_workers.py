"""Two workers in two processes: one queue, one limit, one budget."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import psycopg
import yaml

from novellus_lab.types import BatchFailure
from tests.cache.conftest import own_valkey
from tests.lab.conftest import QUICK_RETRIES, openai_model
from tests.loopback import ScriptedServer, openai_chat_reply
from tests.queue.conftest import WorkerProcess, until

__all__ = ["own_valkey"]

BUDGET = Decimal("0.30")


def test_two_workers_share_a_queue_a_limit_and_a_budget(
    make_lab, rows, database, own_valkey, tmp_path, monkeypatch
):
    under_way = most = 0

    async def slow(request):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.05)
        under_way -= 1
        return openai_chat_reply("Good.")

    with ScriptedServer(slow) as llm:
        model = openai_model("gpt-4o", llm.url, concurrent=2)
        settings = {
            "models": [model],
            "retries": QUICK_RETRIES,
            "limits": {"on_limit": "wait", "max_wait_s": 60},
            "budgets": [{"name": "all", "usd": str(BUDGET), "per": "total"}],
        }
        config = tmp_path / "models.yaml"
        config.write_text(yaml.safe_dump(settings))
        monkeypatch.setenv("REDIS_URL", own_valkey.url)
        lab = make_lab(model, budgets=settings["budgets"], limits=settings["limits"])
        workers = [
            WorkerProcess(config, tmp_path / f"home{n}", database.conninfo, "--concurrency", "4")
            for n in range(2)
        ]
        try:
            until(lambda: len(lab.queue.workers()) == 2)
            answers = lab.batch(
                [f"question {n}" for n in range(30)],
                queue=True,
                max_tokens=5,
                use_cache=False,
                progress=False,
            )
        finally:
            said = [worker.stop() for worker in workers]
    assert said is not None
    assert most == 2, "of eight calls that two workers would have made at once"
    refused = [a for a in answers if isinstance(a, BatchFailure)]
    answered = [a for a in answers if not isinstance(a, BatchFailure)]
    assert answered
    assert refused
    assert {type(a.error).__name__ for a in refused} == {"BudgetExceededError"}
    spent = sum(a.cost for a in answered)
    assert spent <= BUDGET
    # Nothing was refused that would have fitted: there is no room for another call.
    assert BUDGET - spent < max(a.cost for a in answered) * 2
    with psycopg.connect(database.conninfo) as connection:
        served = connection.execute("SELECT count(DISTINCT worker) FROM ai_jobs").fetchone()
    assert served == (2,)
