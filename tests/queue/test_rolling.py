"""A worker keeps the rollups of the log up to date, so that nobody who asks has to wait."""

from __future__ import annotations

from tests.loopback import ScriptedServer, openai_chat_reply
from tests.queue.conftest import until


def test_a_worker_rolls_the_log_up(make_lab, rows, start_worker) -> None:
    with ScriptedServer(lambda request: openai_chat_reply("Yes.")) as server:
        lab = make_lab(
            {"provider": "openai", "model_name": "gpt-4o", "base_url": f"{server.url}/v1"}
        )
        lab.complete("one")
        lab.flush()
        assert rows("model_performance_metrics", "grain") == []
        worker = start_worker(server.url)
        found = until(lambda: rows("model_performance_metrics", "grain"))
        until(lab.queue.workers)  # before it serves, a SIGTERM ends it as it ends any process
        worker.stop()
    assert {(row["grain"], row["model"], row["answered"]) for row in found} == {
        (grain, "gpt-4o", 1) for grain in ("minute", "hour", "day")
    }
