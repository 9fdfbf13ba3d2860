"""The log loses nothing and writes nothing twice, whatever ends when."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import psycopg
import pytest

from novellus_lab.errors import StoreUnavailableError
from novellus_lab.store import request_log, spool
from novellus_lab.store.copy_text import ATTEMPT_COLUMNS, REQUEST_COLUMNS
from novellus_lab.store.request_log import RequestLog
from tests.store.database_proxy import DatabaseProxy
from tests.store.sample_records import attempt, full_record, logged_ids, read, record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
LONG_S = 60
"""For what is to happen at once, on a busy machine."""

# Logs until it is killed; says each id once the call has returned.
LOGGING = """
import sys
from pathlib import Path
from novellus_lab.store.request_log import RequestLog
from tests.store.sample_records import attempt, record

log = RequestLog(sys.argv[1], Path(sys.argv[2]), linger_s=0, chunk_bytes=int(sys.argv[3]))
log.start()
while True:
    one = record(attempts=(attempt(), attempt(number=2)), response="x" * 300)
    log.append(one)
    print(one.id, flush=True)
"""


@pytest.fixture
def spool_dir(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def make_log(database, spool_dir) -> Iterator[Callable[..., RequestLog]]:
    logs: list[RequestLog] = []

    def make(
        conninfo: str = database.conninfo, directory: Path = spool_dir, **options
    ) -> RequestLog:
        logs.append(RequestLog(conninfo, directory, **{"linger_s": 0, **options}))
        return logs[-1]

    yield make
    for log in logs:
        log.close(0.1)


@pytest.fixture
def proxy(database) -> Iterator[DatabaseProxy]:
    with DatabaseProxy(database) as proxy:
        yield proxy


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)


def append(log: RequestLog, count: int, **fields) -> list[UUID]:
    ids = []
    for _ in range(count):
        one = record(attempts=(attempt(),), **fields)
        log.append(one)
        ids.append(one.id)
    return ids


def segments(directory: Path) -> list[Path]:
    return sorted(directory.glob(f"*{spool.SUFFIX}"))


def bring_home(make_log, spool_dir) -> RequestLog:
    """Start a log, as the next process would, and wait until it has adopted every orphan."""
    log = make_log()
    log.start()
    until(lambda: not segments(spool_dir))
    return log


def assert_logged_once(database, ids: list[UUID], log: RequestLog) -> None:
    """All are there; that none was tried twice shows in that none was refused."""
    assert sorted(logged_ids(database)) == sorted(ids)
    assert (log.stats().rejected, log.stats().lost) == (0, 0)


# --- everyday ------------------------------------------------------------------------------------


def test_what_was_appended_is_in_the_table_after_flush(make_log, database):
    log = make_log()
    ids = append(log, 500)
    log.flush(LONG_S)
    assert logged_ids(database) == ids
    assert len(read(database, "ai_request_attempts")) == 500
    stats = log.stats()
    assert (stats.appended, stats.pending_bytes, stats.last_error) == (500, 0, None)


def test_a_record_goes_in_by_itself(make_log, database):
    ids = append(make_log(linger_s=0.03), 1)
    until(lambda: logged_ids(database) == ids)


def test_flush_does_not_wait_for_company(make_log, database):
    log = make_log(linger_s=3600)
    ids = []
    for _ in range(3):
        ids += append(log, 1)
        log.flush(LONG_S)
    assert_logged_once(database, ids, log)


def test_records_that_come_one_by_one_go_in_together(make_log, database):
    log = make_log(linger_s=1)
    for _ in range(100):
        append(log, 1)
        time.sleep(0.002)
    log.flush(LONG_S)
    with psycopg.connect(database.conninfo) as connection:
        query = "SELECT count(*), count(DISTINCT xmin::text) FROM ai_requests"
        [(rows, transactions)] = connection.execute(query).fetchall()
    assert rows == 100
    assert transactions < 20


def test_flush_of_a_log_without_news_returns(make_log):
    log = make_log()
    log.flush(0)
    log.start()
    log.flush(0)


def test_many_threads_append_at_once(make_log, database):
    log = make_log(chunk_bytes=20_000)
    ids: list[UUID] = []
    threads = [
        threading.Thread(target=lambda: ids.extend(append(log, 200, response="y" * 50)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.flush(LONG_S)
    assert len(ids) == 1_600
    assert_logged_once(database, ids, log)


def test_close_flushes_removes_the_spool_and_may_be_repeated(make_log, database, spool_dir):
    log = make_log()
    ids = append(log, 50)
    log.close()
    log.close()
    assert logged_ids(database) == ids
    assert segments(spool_dir) == []
    assert read(database, "ai_log_segments", "segment") == []


def test_a_log_that_was_never_used_makes_nothing(make_log, spool_dir):
    make_log().close()
    assert not spool_dir.exists()


def test_a_straggler_after_close_goes_in_with_the_next_log(make_log, database, spool_dir):
    log = make_log()
    ids = append(log, 1)
    log.close()
    ids += append(log, 2)
    ids += append(never_started := make_log(), 0)
    never_started.close()
    ids += append(never_started, 1)
    assert_logged_once(database, ids, bring_home(make_log, spool_dir))


def test_the_spool_is_readable_by_its_owner_alone(make_log, spool_dir, proxy):
    proxy.cut()
    append(make_log(proxy.conninfo), 1)
    [segment] = segments(spool_dir)
    assert spool_dir.stat().st_mode & 0o077 == 0
    assert segment.stat().st_mode & 0o077 == 0


# --- segments ------------------------------------------------------------------------------------


def test_segments_rotate_and_go_when_they_are_done(make_log, database, spool_dir, monkeypatch):
    monkeypatch.setattr(request_log, "_ROTATE_BYTES", 10_000)
    log = make_log(chunk_bytes=3_000)
    ids = append(log, 400)
    log.flush(LONG_S)
    until(lambda: len(segments(spool_dir)) <= 1)
    assert_logged_once(database, ids, log)


def test_however_much_waits_few_files_are_open(make_log, database, spool_dir, proxy, monkeypatch):
    monkeypatch.setattr(request_log, "_ROTATE_BYTES", 2_000)
    proxy.cut()
    log = make_log(proxy.conninfo)
    ids = append(log, 500)
    assert len(segments(spool_dir)) <= request_log._MAX_FULL + 1
    proxy.mend()
    log.flush(LONG_S)
    assert_logged_once(database, ids, log)


def test_a_record_bigger_than_a_chunk_goes_in(make_log, database):
    log = make_log(chunk_bytes=1_000)
    ids = append(log, 1, response="x" * 100_000)
    ids += append(log, 1)
    log.flush(LONG_S)
    assert_logged_once(database, ids, log)


def orphan(spool_dir: Path, data: bytes) -> Path:
    """Leave a segment, as a process that was killed would."""
    segment = spool.create_segment(spool_dir)
    segment.append(data)
    segment.close()
    return segment.path


def test_a_torn_last_line_is_passed_over(make_log, database, spool_dir):
    whole, torn = record(), record()
    data = request_log.record_lines(whole) + request_log.record_lines(torn)[:-10]
    orphan(spool_dir, data)
    assert_logged_once(database, [whole.id], bring_home(make_log, spool_dir))


def test_a_segment_of_fewer_columns_is_read(make_log, database, spool_dir, monkeypatch):
    """An older package left it: its header says what it holds."""
    gone = {"output_image_tokens", "web_searches"}
    one = full_record()
    [attempt_line, request_line] = request_log.record_lines(one).splitlines()

    def without(line: bytes, columns: tuple[str, ...]) -> bytes:
        kept = [f for f, name in zip(line.split(b"\t"), columns, strict=True) if name not in gone]
        return b"\t".join(kept) + b"\n"

    data = without(attempt_line, ATTEMPT_COLUMNS) + without(request_line, REQUEST_COLUMNS)
    for name, columns in (
        ("ATTEMPT_COLUMNS", ATTEMPT_COLUMNS),
        ("REQUEST_COLUMNS", REQUEST_COLUMNS),
    ):
        monkeypatch.setattr(spool, name, tuple(c for c in columns if c not in gone))
    orphan(spool_dir, data)
    monkeypatch.undo()
    assert_logged_once(database, [one.id], bring_home(make_log, spool_dir))
    [row] = read(database)
    assert (row["session_id"], row["output_image_tokens"]) == ("session", None)


def test_a_segment_of_unknown_columns_stays_and_holds_nothing_up(
    make_log, database, spool_dir, monkeypatch, caplog
):
    monkeypatch.setattr(spool, "REQUEST_COLUMNS", ("id", "mood"))
    newer = [orphan(spool_dir, b"Rx\ty\n") for _ in range(3)]
    monkeypatch.undo()
    ours = record()
    known = orphan(spool_dir, request_log.record_lines(ours))
    log = make_log()
    ids = append(log, 10)
    log.flush(LONG_S)
    until(lambda: not known.exists())
    assert_logged_once(database, [ours.id, *ids], log)
    assert all(path.exists() for path in newer)
    assert "may be of another novellus_lab" in caplog.text


def test_files_that_are_no_segments_stay(make_log, database, spool_dir):
    spool_dir.mkdir()
    for name, text in (("a", ""), ("b", "nonsense\n"), ("c", '{"format": 99}\n'), ("d", "[1]")):
        (spool_dir / f"{name}{spool.SUFFIX}").write_text(text)
    log = make_log()
    ids = append(log, 3)
    log.flush(LONG_S)
    log.close()
    assert_logged_once(database, ids, log)
    assert len(segments(spool_dir)) == 4


NO_UUID = b"Rnot-a-uuid\n"
# As a defect of ours could leave it: no index holds so long a name.
NO_INDEX = request_log.record_lines(record(session_id="here")).replace(
    b"here", b"".join(b"%d" % n for n in range(50_000))
)


@pytest.mark.parametrize(
    ("place", "bad"), [(0, NO_UUID), (7, NO_UUID), (19, NO_UUID), (7, NO_INDEX)]
)
def test_a_row_that_postgresql_refuses_is_kept_aside_and_blocks_no_other(
    make_log, database, spool_dir, caplog, place, bad
):
    good = [record(attempts=(attempt(),)) for _ in range(20)]
    lines = [request_log.record_lines(one) for one in good]
    lines[place] = bad + lines[place]
    orphan(spool_dir, b"".join(lines))
    log = bring_home(make_log, spool_dir)
    assert sorted(logged_ids(database)) == sorted(one.id for one in good)
    assert len(read(database, "ai_request_attempts")) == 20
    assert log.stats().rejected == 1
    [kept] = spool_dir.glob("*.rejected")
    assert kept.read_bytes().endswith(b"\n" + bad)
    assert kept.stat().st_mode & 0o077 == 0
    assert str(kept) in caplog.text


def test_a_segment_that_another_process_finished_meanwhile_is_no_orphan(spool_dir, monkeypatch):
    path = orphan(spool_dir, request_log.record_lines(record()))
    flock = spool.fcntl.flock

    def after_the_other(fd: int, how: int) -> None:
        path.unlink()
        flock(fd, how)

    monkeypatch.setattr(spool.fcntl, "flock", after_the_other)
    assert list(spool.orphans(spool_dir)) == []


# --- the end of processes ------------------------------------------------------------------------


class LoggingProcess:
    """Logs until it is killed. Its output goes to a file: what it said before is there."""

    def __init__(self, conninfo: str, spool_dir: Path, chunk_bytes: int = 4 << 20) -> None:
        self._said = spool_dir.parent / f"said-{next(_numbers)}"
        with self._said.open("w") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-c", LOGGING, conninfo, str(spool_dir), str(chunk_bytes)],
                stdout=output,
                cwd=ROOT,
            )

    def ids(self) -> list[UUID]:
        lines = self._said.read_text().splitlines(keepends=True)
        return [UUID(line.strip()) for line in lines if line.endswith("\n")]

    def kill(self) -> list[UUID]:
        self._process.kill()
        self._process.wait(LONG_S)
        return self.ids()


_numbers = itertools.count()


def assert_holds(database, ids: list[UUID], log: RequestLog) -> None:
    """Each id is there; one more a process may be: logged, but not said any more."""
    rows = read(database)
    assert set(ids) <= {row["id"] for row in rows}
    assert len(rows) == len({row["id"] for row in rows})
    tried = read(database, "ai_request_attempts")
    per_request = {row["id"]: 0 for row in rows}
    for row in tried:
        per_request[row["request_id"]] = per_request.get(row["request_id"], 0) + 1
    assert {per_request[id_] for id_ in ids} == {2}
    assert log.stats().rejected == 0


def test_after_kill_9_at_any_moment_every_returned_call_is_logged_once(
    make_log, database, spool_dir
):
    ids: list[UUID] = []
    for seed in range(4):
        processes = [LoggingProcess(database.conninfo, spool_dir, 20_000) for _ in range(2)]
        until(lambda alive=processes: all(process.ids() for process in alive))
        time.sleep(random.Random(seed).uniform(0.0, 0.4))
        for process in processes:
            ids += process.kill()
    assert len(ids) > 100
    log = bring_home(make_log, spool_dir)
    assert_holds(database, ids, log)
    assert len(read(database)) <= len(ids) + 8


def test_kill_9_in_the_middle_of_a_copy_neither_loses_nor_doubles(make_log, database, spool_dir):
    with psycopg.connect(database.conninfo) as blocking:
        blocking.execute("LOCK TABLE ai_requests IN EXCLUSIVE MODE")
        process = LoggingProcess(database.conninfo, spool_dir)
        with psycopg.connect(database.conninfo, autocommit=True) as watching:
            until(
                lambda: watching.execute(
                    "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() "
                    "AND query LIKE 'COPY%ai_requests%' AND wait_event_type = 'Lock'"
                ).fetchone()
            )
        ids = process.kill()
    assert ids
    assert_holds(database, ids, bring_home(make_log, spool_dir))


def test_kill_9_between_commit_and_its_answer_does_not_double(make_log, database, spool_dir, proxy):
    proxy.at_next_commit("hold")
    process = LoggingProcess(proxy.conninfo, spool_dir)
    assert proxy.committing.wait(LONG_S)
    until(lambda: read(database))
    ids = process.kill()
    assert_holds(database, ids, bring_home(make_log, spool_dir))


def test_processes_that_start_together_adopt_an_orphan_once(make_log, database, spool_dir):
    ones = [record(attempts=(attempt(), attempt(number=2))) for _ in range(200)]
    for start in range(0, 200, 20):
        orphan(spool_dir, b"".join(map(request_log.record_lines, ones[start : start + 20])))
    logs = [make_log(chunk_bytes=2_000) for _ in range(6)]
    for log in logs:
        log.start()
    until(lambda: not segments(spool_dir))
    for log in logs:
        assert_holds(database, [one.id for one in ones], log)


def test_nobody_adopts_the_segment_of_a_living_process(make_log, database, spool_dir, proxy):
    proxy.cut()
    ids = append(waiting := make_log(proxy.conninfo), 5)
    log = make_log()
    ids_of_ours = append(log, 1)
    log.flush(LONG_S)
    assert logged_ids(database) == ids_of_ours
    proxy.mend()
    waiting.flush(LONG_S)
    assert sorted(logged_ids(database)) == sorted(ids + ids_of_ours)


def test_a_forked_child_logs_its_own_and_leaves_the_parents_alone(make_log, database, proxy):
    log = make_log(proxy.conninfo)
    ids = append(log, 5)
    log.flush(LONG_S)
    proxy.cut()
    ids += append(log, 5)
    read_end, write_end = os.pipe()
    if (pid := os.fork()) == 0:  # pragma: no cover
        code = 1
        try:
            inside = append(log, 3)
            os.write(write_end, " ".join(map(str, inside)).encode())
            log.close(0.1)
            code = 0 if log.stats().appended == 3 else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    childs = [UUID(text) for text in os.read(read_end, 1_000).decode().split()]
    assert len(childs) == 3
    proxy.mend()
    log.flush(LONG_S)
    log.close()
    after = make_log()
    after.start()
    until(lambda: len(logged_ids(database)) == 13)
    assert_logged_once(database, ids + childs, after)


# --- the database away ---------------------------------------------------------------------------


def test_with_the_database_down_records_wait_and_go_in_once_when_it_is_back(
    make_log, database, spool_dir, proxy, caplog
):
    log = make_log(proxy.conninfo)
    ids = append(log, 5)
    log.flush(LONG_S)
    proxy.cut()
    ids += append(log, 20)
    with pytest.raises(StoreUnavailableError, match=r"bytes of log records still wait in .*spool"):
        log.flush(0.2)
    assert log.stats().pending_bytes > 0
    assert log.stats().last_error
    assert len(logged_ids(database)) == 5
    proxy.mend()
    log.flush(LONG_S)
    assert_logged_once(database, ids, log)
    assert log.stats().last_error is None
    warnings = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert sum("records wait in" in text for text in warnings) == 1
    assert sum("takes the log again" in text for text in warnings) == 1


def test_a_log_that_starts_with_the_database_down_comes_to_it_later(make_log, database, proxy):
    proxy.cut()
    log = make_log(proxy.conninfo)
    log.start()
    ids = append(log, 3)
    until(lambda: log.stats().last_error)
    proxy.mend()
    log.flush(LONG_S)
    assert_logged_once(database, ids, log)


@pytest.mark.parametrize("lost", ["lose answer", "lose commit"])
def test_a_connection_lost_at_commit_neither_loses_nor_doubles(make_log, database, proxy, lost):
    log = make_log(proxy.conninfo)
    ids = append(log, 5)
    log.flush(LONG_S)
    proxy.at_next_commit(lost)
    ids += append(log, 5)
    assert proxy.committing.wait(LONG_S)
    ids += append(log, 5)
    log.flush(LONG_S)
    assert_logged_once(database, ids, log)
    assert len(read(database, "ai_request_attempts")) == 15


def test_a_commit_that_is_still_under_way_is_waited_for(make_log, database, spool_dir):
    """As when a client lost its connection, and the server has not noticed yet."""
    one = record(attempts=(attempt(),))
    path = orphan(spool_dir, request_log.record_lines(one))
    size, segment = path.stat().st_size, UUID(path.stem)
    with psycopg.connect(database.conninfo) as other:
        other.execute(
            "INSERT INTO ai_log_segments (segment, committed_offset) VALUES (%s, %s)",
            [segment, size],
        )
        other.execute(
            "INSERT INTO ai_requests (id, created_at, kind, stream, status, cache, attempts) "
            "VALUES (%s, %s, 'chat', false, 'ok', 'off', 1)",
            [one.id, one.created_at],
        )
        log = make_log()
        log.start()
        with psycopg.connect(database.conninfo, autocommit=True) as watching:
            until(
                lambda: watching.execute(
                    "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() "
                    "AND query LIKE '%ai_log_segments%' AND wait_event_type = 'Lock'"
                ).fetchone()
            )
    until(lambda: not segments(spool_dir))
    assert_logged_once(database, [one.id], log)
    assert read(database, "ai_request_attempts") == []


def test_backends_that_are_terminated_in_the_middle_cost_nothing(make_log, database):
    log = make_log(chunk_bytes=5_000)
    ids: list[UUID] = []
    with psycopg.connect(database.conninfo, autocommit=True) as admin:
        for _ in range(20):
            ids += append(log, 50)
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
    log.flush(LONG_S)
    assert_logged_once(database, ids, log)


def test_a_log_closed_with_the_database_down_leaves_its_records_to_the_next(
    make_log, database, spool_dir, proxy, caplog
):
    log = make_log(proxy.conninfo)
    ids = append(log, 5)
    log.flush(LONG_S)
    proxy.cut()
    ids += append(log, 5)
    log.close(timeout_s=3_600)  # it does not wait for what does not come
    log.close()
    assert "still wait" in caplog.text
    assert len(segments(spool_dir)) == 1
    assert_logged_once(database, ids, bring_home(make_log, spool_dir))


def test_close_writes_what_waited_if_the_database_is_back(make_log, database, proxy):
    log = make_log(proxy.conninfo)
    proxy.cut()
    ids = append(log, 5)
    until(lambda: log.stats().last_error)
    proxy.mend()
    log.close(LONG_S)
    assert logged_ids(database) == ids


def test_a_server_that_is_ours_is_started_again(make_log, database, proxy):
    started = []

    def revive() -> bool:
        started.append(True)
        proxy.mend()
        return True

    log = make_log(proxy.conninfo, revive=revive)
    ids = append(log, 2)
    log.flush(LONG_S)
    proxy.cut()
    ids += append(log, 2)
    log.flush(LONG_S)
    assert started == [True]
    assert_logged_once(database, ids, log)


def test_a_server_that_will_not_start_is_tried_again(make_log, database, proxy):
    tries = []

    def revive() -> bool:
        tries.append(True)
        if len(tries) < 3:
            raise StoreUnavailableError("it does not start")
        proxy.mend()
        return True

    proxy.cut()
    log = make_log(proxy.conninfo, revive=revive)
    ids = append(log, 2)
    log.flush(LONG_S)
    assert len(tries) == 3
    assert_logged_once(database, ids, log)


def test_a_schema_that_vanishes_is_waited_for(make_log, database):
    log = make_log()
    ids = append(log, 2)
    log.flush(LONG_S)
    with psycopg.connect(database.conninfo, autocommit=True) as admin:
        admin.execute("ALTER TABLE ai_requests RENAME TO elsewhere")
        ids += append(log, 2)
        until(lambda: log.stats().last_error)
        admin.execute("ALTER TABLE elsewhere RENAME TO ai_requests")
    log.flush(LONG_S)
    assert_logged_once(database, ids, log)


def test_a_user_who_may_not_make_partitions_still_logs(make_log, database, caplog):
    with psycopg.connect(database.conninfo, autocommit=True) as admin:
        admin.execute("DROP ROLE IF EXISTS writes_only")
        admin.execute("CREATE ROLE writes_only")
        for table in ("ai_requests", "ai_request_attempts", "ai_log_segments"):
            admin.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO writes_only")
        admin.execute("SELECT pg_advisory_lock(1)")
        month = read_partition(admin)
        admin.execute(f"DROP TABLE {month}")
    log = make_log(f"{database.conninfo} options='-c role=writes_only'")
    ids = append(log, 3)
    log.flush(LONG_S)
    assert_logged_once(database, ids, log)
    assert "may not make partitions" in caplog.text
    with psycopg.connect(database.conninfo, autocommit=True) as admin:
        admin.execute("DROP OWNED BY writes_only")
        admin.execute("DROP ROLE writes_only")


def read_partition(connection: psycopg.Connection) -> str:
    """Return the name of the last monthly partition."""
    row = connection.execute(
        "SELECT max(c.relname) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
        "WHERE i.inhparent = 'ai_requests'::regclass AND c.relname ~ '\\d{4}_\\d{2}$'"
    ).fetchone()
    assert row is not None
    return str(row[0])


# --- the disk away -------------------------------------------------------------------------------


@pytest.fixture
def full_disk(monkeypatch) -> Iterator[threading.Event]:
    """While set, the spool's disk takes half of what is written, then nothing."""
    full = threading.Event()
    write, open_ = os.write, os.open

    def failing_write(fd: int, data: bytes) -> int:
        if not full.is_set():
            return write(fd, data)
        if len(data) > 20:
            return write(fd, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def failing_open(path, flags, *more, **named) -> int:
        if full.is_set() and flags & os.O_CREAT:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return open_(path, flags, *more, **named)

    monkeypatch.setattr(spool.os, "write", failing_write)
    monkeypatch.setattr(spool.os, "open", failing_open)
    return full


def test_with_the_disk_full_records_go_on_into_the_database(make_log, database, full_disk, caplog):
    log = make_log()
    ids = append(log, 5)
    full_disk.set()
    ids += append(log, 20)
    log.flush(LONG_S)
    assert_logged_once(database, ids, log)
    assert len(read(database, "ai_request_attempts")) == 25
    assert caplog.text.count("records wait in memory") == 1


def test_with_disk_and_database_away_records_wait_in_memory(
    make_log, database, spool_dir, proxy, full_disk, caplog
):
    log = make_log(proxy.conninfo)
    ids = append(log, 5)
    log.flush(LONG_S)
    proxy.cut()
    full_disk.set()
    ids += append(log, 20)
    until(lambda: log.stats().last_error)
    full_disk.clear()
    ids += append(log, 1)
    until(lambda: "can be written again" in caplog.text)
    log.close()
    assert_logged_once(database, ids, bring_home(make_log, spool_dir))


def test_memory_is_bounded_and_what_it_can_not_hold_is_counted(
    make_log, database, proxy, full_disk, monkeypatch
):
    monkeypatch.setattr(request_log, "_MAX_HELD_BYTES", 20_000)
    proxy.cut()
    full_disk.set()
    log = make_log(proxy.conninfo, chunk_bytes=5_000)
    append(log, 500)
    stats = log.stats()
    assert stats.appended == 500
    assert 0 < stats.lost < 500
    assert stats.pending_bytes <= 20_000
    proxy.mend()
    log.flush(LONG_S)
    assert len(logged_ids(database)) == 500 - stats.lost


def test_the_end_of_a_process_that_could_write_nowhere_says_what_is_lost(
    make_log, proxy, full_disk, caplog
):
    proxy.cut()
    full_disk.set()
    log = make_log(proxy.conninfo)
    append(log, 7)
    log.close()
    assert log.stats().lost == 7
    assert "7 log records are lost" in caplog.text


def test_a_spool_that_somebody_removed_is_made_again_with_what_was_in_it(
    make_log, database, spool_dir, proxy
):
    proxy.cut()
    log = make_log(proxy.conninfo)
    ids = append(log, 5)
    for path in segments(spool_dir):
        path.unlink()
    spool_dir.rmdir()
    ids += append(log, 5)
    until(lambda: segments(spool_dir))
    log.close()
    assert_logged_once(database, ids, bring_home(make_log, spool_dir))


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="no limit on file sizes here")
def test_a_real_limit_of_the_file_system_tears_no_record(database, spool_dir, make_log, tmp_path):
    program = LOGGING.replace("while True:", "for _ in range(200):").replace(
        "log.start()",
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))",
    )
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            program + "\nlog.flush(60)",
            database.conninfo,
            spool_dir,
            "4000000",
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=ROOT,
        timeout=LONG_S,
    )
    ids = [UUID(line) for line in done.stdout.split()]
    assert len(ids) == 200
    log = bring_home(make_log, spool_dir)
    assert_holds(database, ids, log)


def test_an_interrupt_while_writing_leaves_whole_records(make_log, database, monkeypatch):
    """Stopping a Jupyter cell raises KeyboardInterrupt wherever the main thread is."""
    log = make_log()
    ids = append(log, 2)
    write = os.write

    def interrupted(fd: int, data: bytes, *, part: slice) -> int:
        write(fd, data[part])
        raise KeyboardInterrupt

    for part in (slice(None), slice(40)):
        with monkeypatch.context() as patch:
            patch.setattr(spool.os, "write", lambda fd, data, p=part: interrupted(fd, data, part=p))
            one = record(attempts=(attempt(),))
            with pytest.raises(KeyboardInterrupt):
                log.append(one)
        if part == slice(None):
            ids.append(one.id)
        ids += append(log, 2)
    log.flush(LONG_S)
    assert_logged_once(database, ids, log)


def test_a_record_that_can_not_be_formatted_breaks_no_call(make_log, database, caplog):
    log = make_log()
    log.append(record(usage="not a Usage"))
    log.flush(LONG_S)
    assert log.stats().lost == 1
    assert "could not be formatted" in caplog.text
