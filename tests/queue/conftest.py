"""Labs, and workers in processes of their own, on one fresh database."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.lab.conftest import QUICK_RETRIES, make_lab, openai_model, rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["make_lab", "rows"]


def until(true: Callable[[], Any], timeout_s: float = 60.0) -> Any:
    """Wait for something that happens elsewhere."""
    end = time.monotonic() + timeout_s
    while not (found := true()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
    return found


class WorkerProcess:
    """`novellus worker`, as a person starts it."""

    def __init__(self, config: Path, home: Path, database_url: str, *options: str) -> None:
        command = [sys.executable, "-m", "novellus_lab.cli", "worker", "--config", str(config)]
        command += ["--home", str(home), "--database-url", database_url, "--retry-delay", "0.05"]
        self.process = subprocess.Popen(
            [*command, *options], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate(timeout=60)

    def stop(self) -> str:
        """End it as a service manager would; return what it had said."""
        self.process.send_signal(signal.SIGTERM)
        return self.end()

    def end(self) -> str:
        """Wait for its end; return what it had said."""
        _, said = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, said
        return said


@pytest.fixture
def start_worker(database: Any, tmp_path: Path) -> Iterator[Callable[..., WorkerProcess]]:
    """Start workers for one OpenAI-compatible server; all are ended at the end."""
    started: list[WorkerProcess] = []

    def start(url: str, *options: str, **settings: Any) -> WorkerProcess:
        name = f"worker{len(started)}"
        config = tmp_path / f"{name}.yaml"
        models = [openai_model("gpt-4o", url)]
        config.write_text(yaml.safe_dump({"models": models, "retries": QUICK_RETRIES, **settings}))
        started.append(WorkerProcess(config, tmp_path / name, database.conninfo, *options))
        return started[-1]

    yield start
    for worker in started:
        if worker.process.poll() is None:
            worker.kill()


os.environ.setdefault("OMP_NUM_THREADS", "1")
