"""One private server for the processes of a machine: shared, crash-proof, gone with the last."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from novellus_lab.errors import HomeNotWritableError, StoreUnavailableError
from novellus_lab.store.database import open_database, resolve_home
from tests.embedded_homes import (
    UserProcess,
    keeper_of,
    kill_keeper,
    kill_postmaster,
    postmaster,
    running,
    state_of,
    wait_until_stopped,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from novellus_lab.store.database import Database

STARTED = "SELECT pg_postmaster_start_time()::text"
needs_proc = pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")


def ask(database: Database, query: str) -> str:
    with psycopg.connect(database.conninfo, autocommit=True) as connection:
        row = connection.execute(query.encode()).fetchone()
        assert row is not None
        return str(row[0])


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_processes_share_one_server_and_the_last_one_out_stops_it(home: Path) -> None:
    users = [UserProcess(home) for _ in range(4)]  # a cold start, all at once
    starts = {user.ready().ask(STARTED) for user in users}
    assert len(starts) == 1

    users.pop().kill()
    assert {user.ask(STARTED) for user in users} == starts
    users.pop().leave()
    assert {user.ask(STARTED) for user in users} == starts

    for user in users:
        user.leave()
    wait_until_stopped(home)
    assert not running(home)


def test_killing_the_last_user_stops_the_server(home: Path) -> None:
    UserProcess(home).ready().kill()
    wait_until_stopped(home)
    assert not running(home)


def test_what_was_written_is_there_at_the_next_start(home: Path) -> None:
    first = UserProcess(home).ready()
    first.ask("CREATE TABLE kept AS SELECT 42 AS n; SELECT 0")
    first.kill()
    # No waiting: who comes while the keeper stops the server waits for it and starts another.
    database = open_database(home, None)
    assert ask(database, "SELECT n FROM kept") == "42"
    database.close()


def test_a_lab_opened_twice_in_a_process_shares_and_closes_independently(home: Path) -> None:
    first, second = open_database(home, None), open_database(home, None)
    started = ask(first, STARTED)
    assert ask(second, STARTED) == started
    first.close()
    reader, writer = os.pipe()  # takes the number that the lease had
    first.close()
    os.write(writer, b"still open")
    assert os.read(reader, 20) == b"still open"
    os.close(reader)
    os.close(writer)
    assert ask(second, STARTED) == started
    second.close()
    wait_until_stopped(home)
    assert not running(home)


def test_a_killed_server_is_started_again_by_the_next_or_on_request(home: Path) -> None:
    database = open_database(home, None)
    assert database.revive() is False
    with psycopg.connect(database.conninfo, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS n")

    kill_postmaster(home)
    with pytest.raises(psycopg.OperationalError):
        ask(database, "SELECT 1")
    second = open_database(home, None)
    assert ask(second, "SELECT n FROM kept") == "42"

    kill_postmaster(home)
    assert database.revive() is True
    assert ask(second, "SELECT n FROM kept") == "42"

    database.close()
    assert database.revive() is False
    second.close()
    wait_until_stopped(home)
    assert not running(home)


def test_a_server_whose_processes_still_work_after_its_death_is_recovered(home: Path) -> None:
    database = open_database(home, None)
    with psycopg.connect(database.conninfo, autocommit=True) as connection:
        connection.execute("SET statement_timeout = '20s'")
        with contextlib.suppress(psycopg.OperationalError), connection.pipeline():
            # Holds shared memory for a while after the postmaster is gone.
            connection.execute(
                "SELECT count(*) FROM generate_series(1, 3000) a, generate_series(1, 3000) b"
            )
            kill_postmaster(home)
            second = open_database(home, None)
            assert ask(second, "SELECT 1") == "1"
            second.close()
            connection.close()
    database.close()


@needs_proc
def test_a_killed_keeper_is_replaced_by_the_next_user(home: Path) -> None:
    first = open_database(home, None)
    kill_keeper(home)
    with pytest.raises(LookupError):
        keeper_of(home)
    second = open_database(home, None)
    assert keeper_of(home)
    first.close()
    second.close()
    wait_until_stopped(home)
    assert not running(home)


FORKED = """
import os, sys
import psycopg
from novellus_lab.store.database import open_database, resolve_home

database = open_database(resolve_home(sys.argv[1]), None)
parent = os.getpid()
if os.fork():
    database.close()
    os._exit(0)
sys.stdin.readline()  # the parent is gone now
print(psycopg.connect(database.conninfo).execute("SELECT 1").fetchone()[0], flush=True)
sys.stdin.read()
os._exit(0)  # without a goodbye
"""


def test_a_forked_child_keeps_the_server_when_its_parent_leaves(home: Path) -> None:
    user = UserProcess(home, FORKED)
    user.process.wait(60)
    assert running(home)
    assert user.ask("go on") == "1"
    assert user.process.stdin is not None
    user.process.stdin.close()
    wait_until_stopped(home)
    assert not running(home)


def test_what_a_user_starts_keeps_no_server_alive(home: Path) -> None:
    program = """
import subprocess, sys
from novellus_lab.store.database import open_database, resolve_home
open_database(resolve_home(sys.argv[1]), None)
print(subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL, close_fds=False).pid, flush=True)
"""
    user = UserProcess(home, program)
    pid = int(user.line())
    user.leave()
    wait_until_stopped(home)
    assert not running(home)
    os.kill(pid, 15)  # it was still there


def test_only_the_owner_gets_in_and_nobody_over_the_network(home: Path) -> None:
    parent_mode = mode(home.parent)
    database = open_database(home, None)
    state = state_of(home)
    assert [mode(path) for path in (home, state / "pg", state / "pg.socket")] == [0o700] * 3
    assert ask(database, "SHOW listen_addresses") == ""
    assert ask(database, "SHOW unix_socket_directories") == str(state / "pg.socket")
    assert mode(home.parent) == parent_mode
    if os.geteuid() == 0:
        assert (state / "pg").stat().st_uid != 0
        status = Path(f"/proc/{postmaster(home)}/status").read_text()
        groups = {int(n) for n in status.split("\nGroups:")[1].split("\n")[0].split()}
        assert 0 not in groups
    # It is a log of money: what is committed is on disk.
    for setting in ("fsync", "synchronous_commit", "full_page_writes"):
        assert ask(database, f"SHOW {setting}") == "on"
    database.close()


@pytest.mark.parametrize("name", ["Jane's lab, $HOME `x`", "deep/" + "d" * 60 + "/" + "e" * 60])
def test_unusual_and_long_paths_work(
    new_home: Callable[..., Path], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPORT", "1")
    home = new_home(name)
    database = open_database(home, None)
    monkeypatch.setenv("TMPDIR", str(home))  # another process may have another one
    second = open_database(home, None)
    assert ask(second, STARTED) == ask(database, STARTED)
    database.close()
    second.close()


@pytest.mark.parametrize("path", ["/dev/null/x", "/proc/x"])
def test_a_home_that_can_not_be_written_is_named(path: str) -> None:
    with pytest.raises(HomeNotWritableError, match=rf"{path}.*NOVELLUS_HOME"):
        resolve_home(path)


def test_a_file_for_a_home_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HomeNotWritableError, match="file"):
        resolve_home(tmp_path / "file")


def test_a_server_that_does_not_start_shows_its_log_and_leaves_nothing_running(home: Path) -> None:
    open_database(home, None).close()
    wait_until_stopped(home)
    settings = state_of(home) / "pg" / "postgresql.conf"
    sound = settings.read_text()
    settings.write_text(f"{sound}\nnonsense = 1\n")
    with pytest.raises(StoreUnavailableError, match="nonsense"):
        open_database(home, None)
    wait_until_stopped(home)
    assert not running(home)
    settings.write_text(sound)
    database = open_database(home, None)
    assert ask(database, "SELECT 1") == "1"
    database.close()


def test_a_failed_set_up_shows_why_and_can_be_tried_again(home: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # as a full disk would
    try:
        with pytest.raises(StoreUnavailableError, match="can't be set up"):
            open_database(home, None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (state_of(home) / "pg").exists()
    assert not list(state_of(home).glob(".pg-init-*"))
    open_database(home, None).close()


def test_a_pid_that_is_somebody_else_by_now_does_not_prevent_the_start(home: Path) -> None:
    open_database(home, None).close()
    wait_until_stopped(home)
    state = state_of(home)
    left_over = [str(os.getpid()), str(state / "pg"), "1", "5432", str(state / "pg.socket"), "", ""]
    (state / "pg" / "postmaster.pid").write_text("\n".join(left_over))
    database = open_database(home, None)
    assert ask(database, "SELECT 1") == "1"
    database.close()


def test_a_removed_socket_directory_is_made_anew(home: Path) -> None:
    first = open_database(home, None)
    shutil.rmtree(state_of(home) / "pg.socket")
    second = open_database(home, None)
    assert ask(first, STARTED) == ask(second, STARTED)
    first.close()
    second.close()


def test_two_machines_never_start_servers_on_one_home(home: Path) -> None:
    database = open_database(home, None)
    lease = state_of(home) / "pg.lease"
    assert lease.read_text() == socket.gethostname()
    lease.write_text("elsewhere")  # as if another machine's processes held it
    kill_postmaster(home)
    with pytest.raises(StoreUnavailableError, match="machine elsewhere"):
        open_database(home, None)
    database.close()


def test_the_server_sees_no_key(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-key")
    database = open_database(home, None)
    if Path("/proc/self/environ").exists():
        for pid in (postmaster(home), keeper_of(home)):
            assert b"sk-secret-key" not in Path(f"/proc/{pid}/environ").read_bytes()
    database.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's data lies outside of the home")
def test_a_copied_home_shares_the_server(home: Path, tmp_path: Path) -> None:
    first = open_database(home, None)
    assert state_of(home) != home
    shutil.copytree(home, tmp_path / "copy")
    second = open_database(tmp_path / "copy", None)
    assert ask(second, STARTED) == ask(first, STARTED)
    first.close()
    assert ask(second, "SELECT 1") == "1"
    second.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_root_and_the_owner_can_use_one_home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """`sudo novellus …` must leave nothing behind that shuts the owner out."""
    home = Path("/var/tmp") / f"novellus-test-{os.getpid()}"
    home.mkdir(mode=0o700)
    try:
        os.chown(home, 65534, 65534)
        database = open_database(home, None)
        assert (home / "pg").stat().st_uid == 65534
        started = ask(database, STARTED)
        program = """
import sys
sys.path[:] = [p for p in sys.path if p]
from novellus_lab.store.database import open_database, resolve_home
from novellus_lab.store.migrate import migrations
import psycopg, os
migrations()  # from here on the interpreter's own files may be out of reach
os.setgroups([]); os.setgid(65534); os.setuid(65534)
from pathlib import Path
from novellus_lab.store import programs
programs.wheel_programs = lambda: Path(sys.argv[2])
database = open_database(resolve_home(sys.argv[1]), None)
print(psycopg.connect(database.conninfo).execute("SELECT pg_postmaster_start_time()::text").fetchone()[0])
"""
        assert database.server is not None
        done = subprocess.run(
            [sys.executable, "-c", program, home, database.server.programs.directory],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.strip() == started, done.stderr
        database.close()
        wait_until_stopped(home)
    finally:
        shutil.rmtree(home)
