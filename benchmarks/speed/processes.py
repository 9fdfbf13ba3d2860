"""Starting what a measurement needs in processes of their own: server, clients, PostgreSQL."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psycopg

from benchmarks.speed.figures import ROOT
from novellus_lab.store.database import Database, open_database, resolve_home
from tests.embedded_homes import remove_state

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

_PROGRAM = Path(__file__).parent / "contenders.py"


class ClientProcess:
    """A contender that waits for orders (see `contenders.py`).

    Raises:
        ModuleNotFoundError: that Python does not have the client installed.
    """

    def __init__(
        self, name: str, url: str, *, python: str = sys.executable, **options: Any
    ) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed in __exit__
        self._process = subprocess.Popen(
            [python, "-P", str(_PROGRAM), name, url, json.dumps(options)],
            cwd=tempfile.gettempdir(),  # some clients leave files where they are
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self._name = name
        self._answer()

    def order(self, do: str, **arguments: Any) -> Any:
        """Have something done and return its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().strip()
        self.__exit__(None, None, None)
        kind = ModuleNotFoundError if "ModuleNotFoundError" in said else RuntimeError
        raise kind(f"{self._name} ended: {said[-2000:]}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._process.communicate()  # closes stdin: it ends by itself
        self._errors.close()


@contextlib.contextmanager
def loopback_server() -> Iterator[str]:
    """A server that speaks OpenAI's chat API; yields its URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.loopback"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.communicate()


@contextlib.contextmanager
def database() -> Iterator[Database]:
    """A migrated database on an embedded server, in a home of its own that is removed."""
    with tempfile.TemporaryDirectory(prefix="novellus-speed-", ignore_cleanup_errors=True) as home:
        opened = open_database(resolve_home(home), None)
        try:
            yield opened
        finally:
            opened.close()
            remove_state(Path(home))


def count_rows(conninfo: str, where: str = "true") -> int:
    """Count rows of ai_requests."""
    with psycopg.connect(conninfo) as connection:
        row = connection.execute(f"SELECT count(*) FROM ai_requests WHERE {where}".encode())
        return int(row.fetchone()[0])  # type: ignore[index]
