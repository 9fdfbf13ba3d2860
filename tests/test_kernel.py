"""A lab in a real Jupyter kernel: sync and async cells, the "stop" button, and what a cell shows."""

from __future__ import annotations

from queue import Empty
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from jupyter_client.manager import KernelManager
from psycopg.rows import dict_row

from tests.loopback import Scripted, ScriptedServer, openai_chat_reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from novellus_lab.store.database import Database


class Kernel:
    """Runs cells, one after another."""

    def __init__(self, directory: Path) -> None:
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(cwd=str(directory))
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def run(self, cell: str, *, stop_when: Callable[[], object] | None = None) -> list[Any]:
        """Return a cell's outputs; with `stop_when`, the stop button is pressed when it returns."""
        asked = self.client.execute(cell)
        if stop_when is not None:
            stop_when()
            self.manager.interrupt_kernel()
        outputs = []
        while True:
            try:
                message = self.client.get_iopub_msg(timeout=60)
            except Empty:  # pragma: no cover
                raise AssertionError(f"the cell did not end; so far: {outputs}") from None
            if message["parent_header"].get("msg_id") != asked:
                continue
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                return outputs
            if message["msg_type"] in ("stream", "execute_result", "display_data", "error"):
                outputs.append(message["content"])

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=False)


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    kernel = Kernel(tmp_path)
    yield kernel
    kernel.close()


def rows(database: Database) -> list[dict[str, Any]]:
    with psycopg.connect(database.conninfo, row_factory=dict_row) as connection:
        return connection.execute("SELECT * FROM ai_requests ORDER BY id").fetchall()


def test_cells_ask_in_both_ways_and_a_stopped_one_is_logged_as_cancelled(
    kernel: Kernel, database: Database, tmp_path: Path
) -> None:
    answers = {"Slow": Scripted(end="hang")}
    with ScriptedServer(
        lambda request: answers.get(
            request.json["messages"][0]["content"], openai_chat_reply("**Good.**")
        )
    ) as server:
        setup = f"""
from novellus_lab import Lab
lab = Lab(
    home={str(tmp_path / "home")!r},
    database_url={database.conninfo!r},
    config={{"models": [{{"provider": "openai", "model_name": "gpt-4o", "base_url": "{server.url}/v1"}}]}},
)
"""
        assert kernel.run(setup) == []
        (shown,) = kernel.run("lab.complete('Hello')")
        assert "<strong>Good.</strong>" in shown["data"]["text/html"]
        assert shown["data"]["text/plain"].startswith("Completion('**Good.**', gpt-4o")
        (shown,) = kernel.run("(await lab.acomplete('Hello again')).content")
        assert shown["data"]["text/plain"] == "'**Good.**'"

        def asked() -> None:
            while len(server.requests) < 3:
                server.client_left.wait(0.01)

        *_, error = kernel.run("lab.complete('Slow')", stop_when=asked)
        assert error["ename"] == "KeyboardInterrupt"
        assert server.client_left.wait(20)

        (shown,) = kernel.run("lab.complete('And on').content")
        assert shown["data"]["text/plain"] == "'**Good.**'"
        assert kernel.run("lab.close()") == []
    assert [row["status"] for row in rows(database)] == ["ok", "ok", "cancelled", "ok"]
