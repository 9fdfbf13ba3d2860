"""From the spool into PostgreSQL: exactly once, in the background, whatever ends when.

`append` writes a record to the spool and returns: it never waits for the database. One thread reads
the spool in chunks and COPYs them. How far it has come is committed together with the rows
(`ai_log_segments`), and a chunk goes in only if it starts exactly there: after any crash, or a
commit whose answer was lost, the next one goes on from the right place.

Memory is bounded, however many records wait: one chunk and its copies (about four times
`chunk_bytes`, 16 MB, or of a single record that is bigger), and 64 MB while the disk takes nothing.
On disk the spool grows until the database is back.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import threading
import time
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from novellus_lab.errors import StoreError, StoreUnavailableError
from novellus_lab.store.copy_text import ATTEMPT_TAG, REQUEST_TAG, record_lines
from novellus_lab.store.database import cause
from novellus_lab.store.listeners import Listeners
from novellus_lab.store.spool import Segment, create_segment, hold_segment, orphans

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from uuid import UUID

    from novellus_lab.records import RequestRecord

logger = logging.getLogger("novellus_lab.log")

_ROTATE_BYTES = 64 << 20
_MAX_FULL = 16
"""So many full segments are kept open; then the last one grows."""
_ORPHANS_EVERY_S = 30.0
_PARTITIONS_EVERY_S = 3600.0
_DISK_RETRY_S = 1.0
_MIN_BACKOFF_S = 0.1
_COMPANY_BYTES = 256 << 10
"""From so many on, records need no more company."""
_MAX_BACKOFF_S = 5.0
_MAX_HELD_BYTES = 64 << 20
"""What memory may hold while the spool itself can't be written."""

# First in its transaction. It waits for another transaction of the same segment, such as one whose
# client lost the connection while it committed, and then finds that the place is taken.
_CLAIM = """
INSERT INTO public.ai_log_segments AS s (segment, committed_offset) VALUES (%(id)s, %(to)s)
ON CONFLICT (segment) DO UPDATE SET committed_offset = excluded.committed_offset, updated_at = now()
    WHERE s.committed_offset = %(from)s
"""
_REACHED = "SELECT committed_offset FROM public.ai_log_segments WHERE segment = %s"
_FORGET = "DELETE FROM public.ai_log_segments WHERE segment = %s"

_REFUSALS = (
    psycopg.DataError,
    psycopg.IntegrityError,
    psycopg.errors.SyntaxError,
    psycopg.errors.ProgramLimitExceeded,
    psycopg.errors.StatementTooComplex,
)
"""What is wrong with a row, not with the database."""


class _OvertakenError(Exception):
    """The chunk was committed already."""


@dataclass(frozen=True, slots=True)
class LogStats:
    """What became of the records of this process."""

    appended: int
    pending_bytes: int
    """Written to the spool, not yet in PostgreSQL."""
    rejected: int
    """Rows that PostgreSQL refused; they are in `*.rejected` files beside the spool."""
    lost: int
    """Records that neither disk nor memory could take."""
    last_error: str | None


class RequestLog:
    """One per process and database.

    Args:
        conninfo: the database.
        spool_dir: one for each database; shared by all processes that log to it.
        revive: starts the database if it is ours to start; returns whether it had to.
        linger_s: how long the writer waits for company before it sends a few records: sending one
            costs as much as adding a hundred. Nobody who flushes waits for it.
        chunk_bytes: most that is sent in one transaction.
        listeners: are told of each record that is appended.
    """

    def __init__(
        self,
        conninfo: str,
        spool_dir: Path,
        *,
        revive: Callable[[], bool] | None = None,
        linger_s: float = 0.1,
        chunk_bytes: int = 4 << 20,
        listeners: Listeners | None = None,
    ) -> None:
        self._conninfo = conninfo
        self._spool_dir = spool_dir
        self._revive = revive
        self._linger_s = linger_s
        self._chunk_bytes = chunk_bytes
        self.listeners = Listeners() if listeners is None else listeners
        self._reset()
        _logs.add(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._segment: Segment | None = None
        self._full: list[Segment] = []
        self._news = threading.Event()
        self._urgent = threading.Event()
        self._progress = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._stopping = False
        self._released = False
        self._connection: psycopg.Connection[Any] | None = None
        self._offsets: dict[UUID, int] = {}
        self._set_aside: set[UUID] = set()
        self._appended = self._rejected = self._lost = 0
        self._last_error: str | None = None
        self._down = False
        self._failures = 0
        self._disk_down = False
        self._disk_retry_at = 0.0
        self._may_partition = True
        self._orphans_at = 0.0
        self._partitions_at = 0.0

    def start(self) -> None:
        """Start the writer, which first brings orphaned segments home."""
        with self._lock:
            self._start_thread()

    def append(self, record: RequestRecord) -> bytes:
        """Log a record and return its lines: when this returns, it survives the end of this process.

        Never waits for the database and never raises.
        """
        if self.listeners.ended:
            self.listeners.tell_end(record)
        try:
            lines = record_lines(record)
        except Exception:
            # A defect of ours must not break a call that was paid for.
            logger.exception("a record could not be formatted and is lost")
            self._lost += 1
            return b""
        self.append_lines(lines)
        return lines

    def append_lines(self, data: bytes) -> None:
        """Log a record that is formatted already (`copy_text`); else as `append`.

        Listeners are not told: who takes this short cut looks first whether there are any.
        """
        with self._lock:
            self._appended += 1
            self._write(data)
            if self._released:
                self._release()  # a straggler: the next process brings it home
            elif self._thread is None:
                with contextlib.suppress(RuntimeError):  # the interpreter is ending
                    self._start_thread()
        if not self._news.is_set():
            self._news.set()

    def flush(self, timeout_s: float = 10.0) -> None:
        """Return when all that was appended before is in PostgreSQL.

        Raises:
            StoreUnavailableError: it is not, after `timeout_s` seconds. Nothing is lost.
        """
        self._wait(timeout_s, while_down=True)

    def close(self, timeout_s: float = 10.0) -> None:
        """Flush and stop. What can't be written now stays in the spool for the next process.

        With the database down it does not wait. Idempotent.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
            thread = self._thread
            if thread is None:
                self._release()
                return
        try:
            self._wait(timeout_s, while_down=False)
        except StoreUnavailableError as error:
            logger.warning("%s", error)
        self._stopping = True
        self._urgent.set()
        self._news.set()
        thread.join(timeout=5.0)

    def stats(self) -> LogStats:
        return LogStats(
            self._appended, self._pending(), self._rejected, self._lost, self._last_error
        )

    # --- the caller's side -------------------------------------------------------------------

    def _write(self, data: bytes) -> None:
        """Append to the segment; to one in memory while the disk takes nothing."""
        try:
            if self._segment is None:
                self._segment = create_segment(self._spool_dir)
                self._disk_came_back()
            if self._segment.fd is not None:
                self._segment.append(data)
        except OSError as error:
            self._disk_went_down(error)
            if self._segment is not None:
                self._full.append(self._segment)
            self._segment = hold_segment(self._spool_dir)
        segment = self._segment
        if segment.fd is None:
            if sum(len(s.memory) for s in self._segments()) + len(data) > _MAX_HELD_BYTES:
                self._lost += 1
                return
            segment.append(data)
        most = _ROTATE_BYTES if segment.fd is not None else self._chunk_bytes
        if segment.size >= most and len(self._full) < _MAX_FULL:
            self._full.append(segment)
            self._segment = None

    def _disk_went_down(self, error: OSError) -> None:
        self._disk_retry_at = time.monotonic() + _DISK_RETRY_S
        if not self._disk_down:
            self._disk_down = True
            logger.warning(
                "the log's spool in %s can't be written (%s): records wait in memory, where the end "
                "of this process would lose them",
                self._spool_dir,
                error.strerror,
            )

    def _disk_came_back(self) -> None:
        if self._disk_down:
            self._disk_down = False
            logger.warning("the log's spool can be written again")

    def _segments(self) -> list[Segment]:
        return [*self._full, *([self._segment] if self._segment else [])]

    def _wait(self, timeout_s: float, *, while_down: bool) -> None:
        with self._lock:
            goals = [(s.id, s.size) for s in self._segments()]
        if not goals:
            return
        failures = self._failures
        self._urgent.set()
        self._news.set()
        until = time.monotonic() + timeout_s
        with self._progress:
            while not self._reached(goals):
                left = until - time.monotonic()
                if left <= 0 or (self._failures > failures and not while_down):
                    raise StoreUnavailableError(
                        f"{self._pending():,} bytes of log records still wait in {self._spool_dir} "
                        f"({self._last_error or f'not written after {timeout_s:g} s'}): they go in "
                        f"when PostgreSQL takes them, nothing is lost"
                    )
                self._progress.wait(min(left, 0.1))

    def _reached(self, goals: list[tuple[UUID, int]]) -> bool:
        with self._lock:
            waiting = {s.id for s in self._segments()}
        return all(
            segment not in waiting or self._offsets.get(segment, 0) >= size
            for segment, size in goals
        )

    def _forget_parent(self) -> None:
        """In a forked child: leave the parent's segment, thread and connection to the parent."""
        for segment in self._segments():
            segment.close()  # closing a copy leaves the parent's lock as it is
        if self._connection is not None:
            _inherited.append(self._connection)
        self._reset()

    def _start_thread(self) -> None:
        if self._thread is None and not self._closed:
            thread = threading.Thread(target=self._main, name="novellus-log", daemon=True)
            thread.start()
            self._thread = thread

    def _pending(self) -> int:
        with self._lock:
            return sum(s.size - self._offsets.get(s.id, s.start) for s in self._segments())

    # --- the writer's side: one thread, the only one to read, save, or remove a segment ------

    def _main(self) -> None:
        backoff_s = _MIN_BACKOFF_S
        while True:
            # Before looking: what comes from here on is news again.
            self._news.clear()
            self._urgent.clear()
            if self._stopping:
                break
            try:
                sent_bytes = self._round()
                self._came_back()
                backoff_s = _MIN_BACKOFF_S
            except (psycopg.Error, StoreError, OSError) as error:
                self._went_down(error)
                # Records keep coming and don't wake us up; somebody who waits for them does.
                if self._urgent.wait(backoff_s * random.uniform(0.5, 1.0)):
                    backoff_s = _MIN_BACKOFF_S
                    time.sleep(0.05)
                else:
                    backoff_s = min(backoff_s * 2, _MAX_BACKOFF_S)
                continue
            except Exception:
                logger.exception("the log's writer stumbled and goes on")
                self._urgent.wait(1.0)
                continue
            if not sent_bytes:
                self._news.wait(_ORPHANS_EVERY_S)
            if sent_bytes < _COMPANY_BYTES:
                self._urgent.wait(self._linger_s)
        with self._lock:
            self._release()
        self._drop_connection()

    def _round(self) -> int:
        """Send what there is; return how many bytes that was."""
        now = time.monotonic()
        if now >= self._orphans_at:
            self._orphans_at = now + _ORPHANS_EVERY_S
            self._bring_orphans_home()
        with self._lock:
            self._save_what_disk_lacks()
            segments = self._segments()
        sent_bytes = 0
        failure: BaseException | None = None
        for segment in segments:
            try:
                sent_bytes += self._send(segment)
                self._drop_if_done(segment)
            except (psycopg.OperationalError, psycopg.InterfaceError):
                raise
            except (psycopg.Error, OSError) as error:
                failure = error  # of this segment; the others go in
        with self._progress:
            self._progress.notify_all()
        if failure is not None:
            raise failure
        return sent_bytes

    def _save_what_disk_lacks(self) -> None:
        """Bring to disk what waits in memory, and what lost its file to somebody's `rm`."""
        if time.monotonic() < self._disk_retry_at and not self._stopping:
            return
        for segment in self._segments():
            if segment.fd is None or segment.was_removed():
                try:
                    segment.save()
                except OSError as error:
                    self._disk_went_down(error)
                    return
                self._disk_came_back()

    def _drop_if_done(self, segment: Segment) -> None:
        """Remove a segment that is wholly in PostgreSQL and that nothing is added to any more."""
        with self._lock:
            if self._offsets[segment.id] < segment.size:
                return
            if segment in self._full:
                self._full.remove(segment)
            elif segment is self._segment and segment.fd is None:
                self._segment = None
            else:
                return
        segment.remove()
        self._forget(segment)

    def _release(self) -> None:
        """Remove what is wholly in PostgreSQL; leave the rest to whoever comes next."""
        self._save_what_disk_lacks()
        for segment in self._segments():
            if self._offsets.get(segment.id, segment.start) >= segment.size:
                segment.remove()
                self._forget(segment)
            elif segment.fd is not None:
                segment.close()
            else:
                waiting = segment.memory[self._offsets.get(segment.id, segment.start) :]
                lost = len(_rows(bytes(waiting).split(b"\n"), REQUEST_TAG))
                self._lost += lost
                logger.error(
                    "%d log records are lost: neither the spool in %s nor PostgreSQL took them",
                    lost,
                    self._spool_dir,
                )
        self._full, self._segment = [], None
        self._released = True

    def _send(self, segment: Segment) -> int:
        """Bring home what a segment holds now, chunk by chunk; return how many bytes that was."""
        offset, size = self._offset(segment), segment.size
        sent_bytes = 0
        while offset < size and not self._stopping:
            chunk = segment.read(offset, self._chunk_bytes)
            if not chunk:
                # Torn by the end of its owner, whose call never returned.
                self._offsets[segment.id] = segment.size
                break
            try:
                self._store(segment, chunk, offset)
            except _OvertakenError:
                del self._offsets[segment.id]
            offset = self._offset(segment)
            sent_bytes += len(chunk)
            with self._progress:
                self._progress.notify_all()
        return sent_bytes

    def _store(self, segment: Segment, chunk: bytes, offset: int) -> None:
        """COPY a chunk, or, if PostgreSQL refuses a row in it, all of it but that row."""
        try:
            self._copy(segment, chunk, offset, offset + len(chunk))
        except _REFUSALS as error:
            lines = chunk.splitlines(keepends=True)
            if len(lines) == 1:
                self._reject(segment, chunk, error)
                self._copy(segment, b"", offset, offset + len(chunk))
                return
            half = len(lines) // 2
            first = b"".join(lines[:half])
            self._store(segment, first, offset)
            self._store(segment, b"".join(lines[half:]), offset + len(first))

    def _copy(self, segment: Segment, chunk: bytes, offset: int, reached: int) -> None:
        connection = self._connected()
        place = {"id": segment.id, "from": offset, "to": reached}
        lines = chunk.split(b"\n")
        with connection.transaction(), connection.cursor() as cursor:
            if cursor.execute(_CLAIM, place).rowcount != 1:
                raise _OvertakenError
            for table, tag, columns in (
                ("ai_request_attempts", ATTEMPT_TAG, segment.columns.attempts),
                ("ai_requests", REQUEST_TAG, segment.columns.requests),
            ):
                if rows := _rows(lines, tag):
                    with cursor.copy(_copy_statement(table, columns)) as copy:
                        copy.write(b"\n".join(rows))
        self._offsets[segment.id] = reached

    def _offset(self, segment: Segment) -> int:
        """Return how far a segment has come, as far as we know: a commit's answer may be lost."""
        known = self._offsets.get(segment.id)
        if known is None:
            row = self._connected().execute(_REACHED, [segment.id]).fetchone()
            known = self._offsets[segment.id] = int(row[0]) if row else segment.start
        return known

    def _bring_orphans_home(self) -> None:
        for segment in orphans(self._spool_dir):
            try:
                self._send(segment)
                if self._offsets[segment.id] >= segment.size:
                    segment.remove()
                    self._forget(segment)
            except (psycopg.OperationalError, psycopg.InterfaceError):
                raise
            except (psycopg.Error, OSError) as error:
                if segment.id not in self._set_aside:
                    self._set_aside.add(segment.id)
                    logger.warning(
                        "%s can't be brought into PostgreSQL (%s) and stays where it is: it may be "
                        "of another novellus_lab",
                        segment.path,
                        cause(error),
                    )
            finally:
                segment.close()

    def _forget(self, segment: Segment) -> None:
        """The file is gone, so its progress is of no more use; were it kept, no harm is done."""
        self._offsets.pop(segment.id, None)
        if self._connection is not None:
            with contextlib.suppress(psycopg.Error):
                self._connection.execute(_FORGET, [segment.id])

    def _reject(self, segment: Segment, line: bytes, error: psycopg.Error) -> None:
        self._rejected += 1
        path = segment.path.with_suffix(".rejected")
        reason = cause(error)
        with contextlib.suppress(OSError), path.open("ab") as file:
            path.chmod(0o600)
            file.write(b"# " + reason.encode() + b"\n" + line)
        logger.error("PostgreSQL refused a log record (%s); it is kept in %s", reason, path)

    # --- the database ------------------------------------------------------------------------

    def _connected(self) -> psycopg.Connection[Any]:
        if self._connection is None or self._connection.closed:
            self._connection = self._connect()
            self._partitions_at = 0.0
        if time.monotonic() >= self._partitions_at:
            self._partitions_at = time.monotonic() + _PARTITIONS_EVERY_S
            self._ensure_partitions(self._connection)
        return self._connection

    def _connect(self) -> psycopg.Connection[Any]:
        try:
            return psycopg.connect(self._conninfo, autocommit=True, connect_timeout=5)
        except psycopg.OperationalError:
            if self._revive is None or not self._revive():
                raise
            return psycopg.connect(self._conninfo, autocommit=True, connect_timeout=5)

    def _ensure_partitions(self, connection: psycopg.Connection[Any]) -> None:
        if not self._may_partition:
            return
        try:
            connection.execute("SELECT public.novellus_ensure_partitions()")
        except psycopg.errors.InsufficientPrivilege as error:
            self._may_partition = False
            logger.warning(
                "this database user may not make partitions (%s): rows of months that have none go "
                "to the default partition; have the owner run `novellus migrate` once a month",
                cause(error),
            )

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error, OSError):
                connection.close()

    def _went_down(self, error: BaseException) -> None:
        self._drop_connection()
        self._last_error = cause(error)
        self._failures += 1
        if not self._down:
            self._down = True
            logger.warning(
                "PostgreSQL does not take the log (%s): records wait in %s, calls go on",
                self._last_error,
                self._spool_dir,
            )
        with self._progress:
            self._progress.notify_all()

    def _came_back(self) -> None:
        if self._down:
            self._down = False
            self._last_error = None
            logger.warning("PostgreSQL takes the log again: the waiting records went in")


def _rows(lines: list[bytes], tag: bytes) -> list[bytes]:
    """Return the rows of one table, in COPY's text format."""
    return [line[1:] for line in lines if line.startswith(tag)]


def _copy_statement(table: str, columns: tuple[str, ...]) -> sql.Composed:
    return sql.SQL("COPY public.{} ({}) FROM STDIN").format(
        sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, columns))
    )


_logs: weakref.WeakSet[RequestLog] = weakref.WeakSet()
_inherited: list[object] = []
"""A parent's connections, which a child must neither use nor close nor warn about."""


def _after_fork_in_child() -> None:
    for log in list(_logs):
        log._forget_parent()


os.register_at_fork(after_in_child=_after_fork_in_child)
