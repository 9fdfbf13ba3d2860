"""Homes of embedded servers, and processes that use them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from novellus_lab.store import keeper
from novellus_lab.store.programs import ROOT_STATE

_USER = """
import sys
import psycopg
from novellus_lab.store.database import open_database, resolve_home

database = open_database(resolve_home(sys.argv[1]), None)
print("ready", flush=True)
for line in sys.stdin:
    with psycopg.connect(database.conninfo, autocommit=True) as connection:
        print(connection.execute(line.strip().encode()).fetchone()[0], flush=True)
database.close()
"""


class UserProcess:
    """Another process with the home's database open, from `answers` on."""

    def __init__(self, home: Path, program: str = _USER) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ready(self) -> UserProcess:
        assert self.line() == "ready"
        return self

    def ask(self, query: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{query}\n")
        self.process.stdin.flush()
        return self.line()

    def leave(self) -> None:
        self.process.communicate(timeout=60)

    def kill(self) -> None:
        self.process.kill()
        self.leave()


def state_of(home: Path) -> Path:
    """Return where the server's files are: in the home, or where a note in it says."""
    note = home / "pg.location"
    return Path(note.read_text().strip()) if note.exists() else home


def running(home: Path) -> bool:
    return (state_of(home) / "pg" / "postmaster.pid").exists()


def wait_until_stopped(home: Path) -> None:
    """Return when the keeper has done its work; it holds a lock until then.

    Never waits for ever: a test that failed may have left its own lease behind, in this process.
    """
    until = time.monotonic() + 60
    with (state_of(home) / "pg.keeper").open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                assert time.monotonic() < until, f"the server of {home} is still in use"
                time.sleep(0.02)
            else:
                return


def postmaster(home: Path) -> int:
    return int((state_of(home) / "pg" / "postmaster.pid").read_text().split("\n", 1)[0])


def kill_postmaster(home: Path) -> None:
    """As the kernel's out-of-memory killer would."""
    pid = postmaster(home)
    os.kill(pid, signal.SIGKILL)
    _wait_for_end(pid)


def keeper_of(home: Path) -> int:
    """Return the keeper's process id, by the files that it was given."""
    lease = str(state_of(home) / "pg.lease")
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            with contextlib.suppress(OSError):
                words = (place / "cmdline").read_bytes().decode().split("\0")
                if keeper.__file__ in words and lease in words:
                    return int(place.name)
    raise LookupError(f"{home} has no keeper")


def kill_keeper(home: Path) -> None:
    pid = keeper_of(home)
    os.kill(pid, signal.SIGKILL)
    _wait_for_end(pid)


def _wait_for_end(pid: int) -> None:
    """Block until another's child is gone; `waitpid` is for our own."""
    with contextlib.suppress(ProcessLookupError):
        fd = os.pidfd_open(pid)
        try:
            import select

            select.select([fd], [], [], 60)
        finally:
            os.close(fd)


def remove_state(home: Path) -> None:
    """Wait for the server's end and remove what lies outside of the home."""
    state = state_of(home)
    if (state / "pg.keeper").exists():
        wait_until_stopped(home)
    if state.is_relative_to(ROOT_STATE) and state != ROOT_STATE:
        shutil.rmtree(state, ignore_errors=True)
