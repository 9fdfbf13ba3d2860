"""From the spool into PostgreSQL: exactly once, in the background, whatever ends when.

`append` writes a record to the spool and returns: it never waits for the database. One thread reads
the spool in chunks and COPYs them, and commits together with the rows how far it has come
(`ai_log_segments`): after any crash the next one goes on from exactly there. Memory is bounded by
one chunk and its split (about three times `chunk_bytes`, 12 MB), however many records wait.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import re
import threading
import time
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from novellus_lab.errors import StoreUnavailableError
from novellus_lab.store.copy_text import record_lines
from novellus_lab.store.spool import Segment, create_segment, orphans

if TYPE_CHECKING:
    from pathlib import Path

    from novellus_lab.records import RequestRecord

logger = logging.getLogger("novellus_lab.log")

_ROTATE_BYTES = 64 << 20
_ORPHANS_EVERY_S = 30.0
_PARTITIONS_EVERY_S = 3600.0
_MAX_BACKOFF_S = 5.0
_MAX_HELD_BYTES = 64 << 20
"""What memory may hold while the spool itself can't be written."""

_REQUESTS = re.compile(rb"^R(.*\n)", re.MULTILINE)
_ATTEMPTS = re.compile(rb"^A(.*\n)", re.MULTILINE)

_PROGRESS = """
INSERT INTO ai_log_segments (segment, committed_offset) VALUES (%s, %s)
ON CONFLICT (segment) DO UPDATE SET committed_offset = excluded.committed_offset, updated_at = now()
"""


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
        linger_s: how long the writer waits for company before it sends a few records.
        chunk_bytes: most that is sent in one transaction.
    """

    def __init__(
        self,
        conninfo: str,
        spool_dir: Path,
        *,
        linger_s: float = 0.03,
        chunk_bytes: int = 4 << 20,
    ) -> None:
        self._conninfo = conninfo
        self._spool_dir = spool_dir
        self._linger_s = linger_s
        self._chunk_bytes = chunk_bytes
        self._reset()
        _logs.add(self)

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._segment: Segment | None = None
        self._full: list[Segment] = []
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._news = threading.Event()
        self._progress = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._closed = False
        self._connection: psycopg.Connection[Any] | None = None
        self._offsets: dict[Any, int] = {}
        self._appended = self._rejected = self._lost = 0
        self._last_error: str | None = None
        self._down = False
        self._orphans_at = 0.0
        self._partitions_at = 0.0

    def start(self) -> None:
        """Start the writer, which first brings orphaned segments home."""
        with self._lock:
            self._start_thread()

    def append(self, record: RequestRecord) -> None:
        """Log a record: when this returns, it survives the end of this process.

        Never waits for the database and never raises.
        """
        try:
            data = record_lines(record)
        except Exception:
            # A defect of ours must not break a call that was paid for.
            logger.exception("a record could not be formatted and is lost")
            self._lost += 1
            return
        if self._pid != os.getpid():
            self._forget_parent()
        with self._lock:
            self._appended += 1
            self._write(data)
            if self._thread is None:
                self._start_thread()
        if not self._news.is_set():
            self._news.set()

    def flush(self, timeout_s: float = 10.0) -> None:
        """Return when all that was appended before is in PostgreSQL.

        Raises:
            StoreUnavailableError: it is not, after `timeout_s` seconds. Nothing is lost.
        """
        with self._lock:
            segment = self._segment
            goals = [(s.id, s.size) for s in [*self._full, *([segment] if segment else [])]]
            if self._held:
                self._start_thread()
            held = bool(self._held)
            idle = self._thread is None
        if idle and not goals and not held:
            return
        self._news.set()
        until = time.monotonic() + timeout_s
        with self._progress:
            while not self._reached(goals) or self._held:
                left = until - time.monotonic()
                if left <= 0:
                    raise StoreUnavailableError(
                        f"{self._pending():,} bytes of log records still wait in {self._spool_dir} "
                        f"after {timeout_s:g} s ({self._last_error or 'the database is slow'}); they "
                        f"go in when PostgreSQL is back, nothing is lost"
                    )
                self._progress.wait(min(left, 0.1))

    def close(self, timeout_s: float = 10.0) -> None:
        """Flush and stop. What can't be written now stays in the spool for the next process."""
        if self._closed or self._pid != os.getpid():
            return
        try:
            if self._thread is not None:
                self.flush(timeout_s)
        except StoreUnavailableError as error:
            logger.warning("%s", error)
        self._closing = True
        self._news.set()
        if self._thread is not None:
            self._thread.join(timeout=5.0)
        self._closed = True
        with self._lock:
            for segment in (*self._full, self._segment):
                if segment is not None:
                    self._let_go(segment)
            self._full, self._segment = [], None
        if self._connection is not None:
            with contextlib.suppress(psycopg.Error):
                self._connection.close()

    def stats(self) -> LogStats:
        return LogStats(
            self._appended, self._pending(), self._rejected, self._lost, self._last_error
        )

    # --- the caller's side -------------------------------------------------------------------

    def _write(self, data: bytes) -> None:
        try:
            if self._held:
                self._write_held()
            if self._segment is None:
                self._segment = create_segment(self._spool_dir)
            self._segment.append(data)
            if self._segment.size >= _ROTATE_BYTES:
                self._full.append(self._segment)
                self._segment = None
        except OSError as error:
            self._hold(data, error)

    def _hold(self, data: bytes, error: OSError) -> None:
        """The disk is full, or the spool is gone: keep records in memory while they fit."""
        if not self._held:
            logger.warning(
                "the log's spool in %s can't be written (%s): records wait in memory, where the end "
                "of this process would lose them",
                self._spool_dir,
                error.strerror,
            )
        if self._segment is not None:
            # Its last record may be torn. What is whole in it is written; a new one comes after.
            self._full.append(self._segment)
            self._segment = None
        if self._held_bytes + len(data) > _MAX_HELD_BYTES:
            self._lost += 1
            return
        self._held.append(data)
        self._held_bytes += len(data)

    def _write_held(self) -> None:
        segment = self._segment or create_segment(self._spool_dir)
        self._segment = segment
        while self._held:
            segment.append(self._held[0])
            self._held_bytes -= len(self._held.pop(0))
        logger.warning("the log's spool can be written again")

    def _forget_parent(self) -> None:
        """In a forked child: leave the parent's segment, thread and connection to the parent."""
        for segment in (*self._full, self._segment):
            if segment is not None:
                segment.close()  # closing a copy leaves the parent's lock as it is
        self._reset()

    def _start_thread(self) -> None:
        if self._thread is None and not self._closing:
            self._thread = threading.Thread(target=self._main, name="novellus-log", daemon=True)
            self._thread.start()

    def _pending(self) -> int:
        with self._lock:
            segments = [*self._full, *([self._segment] if self._segment else [])]
            return self._held_bytes + sum(
                s.size - self._offsets.get(s.id, s.start) for s in segments
            )

    def _reached(self, goals: list[tuple[Any, int]]) -> bool:
        with self._lock:
            open_ids = {s.id for s in (*self._full, self._segment) if s is not None}
        return all(
            segment not in open_ids or self._offsets.get(segment, 0) >= size
            for segment, size in goals
        )

    def _let_go(self, segment: Segment) -> None:
        """Remove a segment that is wholly in PostgreSQL; leave another for whoever comes next."""
        if self._offsets.get(segment.id, segment.start) >= segment.size:
            segment.remove()
            self._forget(segment)
        else:
            segment.close()

    # --- the writer's side -------------------------------------------------------------------

    def _main(self) -> None:
        backoff_s = 0.1
        while not self._closing:
            try:
                busy = self._round()
                backoff_s = 0.1
            except (psycopg.Error, OSError) as error:
                self._went_down(error)
                self._news.clear()
                self._news.wait(backoff_s * random.uniform(0.5, 1.0))
                backoff_s = min(backoff_s * 2, _MAX_BACKOFF_S)
                # Records keep coming; do not let each of them wake us up.
                time.sleep(0.05)
                continue
            except Exception:
                logger.exception("the log's writer stumbled and goes on")
                time.sleep(1.0)
                continue
            if not busy:
                self._news.clear()
                if self._news.wait(_ORPHANS_EVERY_S) and not self._closing:
                    time.sleep(self._linger_s)

    def _round(self) -> bool:
        """Send what there is; return whether there may be more."""
        now = time.monotonic()
        if now >= self._orphans_at:
            self._orphans_at = now + _ORPHANS_EVERY_S
            self._bring_orphans_home()
        if self._held:
            with self._lock, contextlib.suppress(OSError):
                self._write_held()
        with self._lock:
            segments = [*self._full, *([self._segment] if self._segment else [])]
        busy = False
        for segment in segments:
            size = segment.size
            busy = self._send(segment, size) or busy
            with self._lock:
                if segment in self._full and self._offsets.get(segment.id, 0) >= segment.size:
                    self._full.remove(segment)
                    segment.remove()
                    self._forget(segment)
        with self._progress:
            self._progress.notify_all()
        return busy

    def _send(self, segment: Segment, size: int) -> bool:
        """Bring a segment home up to `size`, chunk by chunk; return whether anything was sent."""
        offset = self._offset(segment)
        sent = False
        while offset < size and not self._closing:
            chunk = segment.read(offset, self._chunk_bytes)
            if not chunk:
                if segment is not self._segment:
                    # Torn by the end of its owner, whose call never returned.
                    self._offsets[segment.id] = size
                break
            self._store(segment, chunk, offset)
            offset += len(chunk)
            self._offsets[segment.id] = offset
            sent = True
            with self._progress:
                self._progress.notify_all()
        return sent

    def _store(self, segment: Segment, chunk: bytes, offset: int) -> None:
        """COPY a chunk, or, if PostgreSQL refuses a row in it, all of it but that row."""
        try:
            self._copy(segment, chunk, offset + len(chunk))
        except (psycopg.DataError, psycopg.IntegrityError, psycopg.errors.SyntaxError) as error:
            lines = chunk.splitlines(keepends=True)
            if len(lines) == 1:
                self._reject(segment, chunk, error)
                self._copy(segment, b"", offset + len(chunk))
                return
            half = len(lines) // 2
            first = b"".join(lines[:half])
            self._store(segment, first, offset)
            self._store(segment, b"".join(lines[half:]), offset + len(first))

    def _copy(self, segment: Segment, chunk: bytes, reached: int) -> None:
        connection = self._connected()
        try:
            with connection.transaction(), connection.cursor() as cursor:
                for table, columns, rows in (
                    ("ai_request_attempts", segment.columns.attempts, _ATTEMPTS.findall(chunk)),
                    ("ai_requests", segment.columns.requests, _REQUESTS.findall(chunk)),
                ):
                    if rows:
                        with cursor.copy(_copy_statement(table, columns)) as copy:
                            copy.write(b"".join(rows))
                cursor.execute(_PROGRESS, [segment.id, reached])
        except psycopg.OperationalError:
            self._drop_connection()
            raise
        self._came_back()

    def _offset(self, segment: Segment) -> int:
        known = self._offsets.get(segment.id)
        if known is None:
            row = (
                self._connected()
                .execute(
                    "SELECT committed_offset FROM ai_log_segments WHERE segment = %s", [segment.id]
                )
                .fetchone()
            )
            known = self._offsets[segment.id] = int(row[0]) if row else segment.start
        return known

    def _bring_orphans_home(self) -> None:
        for segment in orphans(self._spool_dir):
            try:
                self._send(segment, segment.size)
                if self._offsets.get(segment.id, 0) >= segment.size:
                    segment.remove()
                    self._forget(segment)
            finally:
                segment.close()

    def _forget(self, segment: Segment) -> None:
        """The file is gone, so its progress is of no more use; were it kept, no harm is done."""
        self._offsets.pop(segment.id, None)
        with contextlib.suppress(psycopg.Error):
            if self._connection is not None:
                self._connection.execute(
                    "DELETE FROM ai_log_segments WHERE segment = %s", [segment.id]
                )

    def _reject(self, segment: Segment, line: bytes, error: psycopg.Error) -> None:
        self._rejected += 1
        path = segment.path.with_suffix(".rejected")
        reason = str(error).splitlines()[0]
        with contextlib.suppress(OSError), path.open("ab") as file:
            file.write(b"# " + reason.encode() + b"\n" + line)
        logger.error("PostgreSQL refused a log record (%s); it is kept in %s", reason, path)

    def _connected(self) -> psycopg.Connection[Any]:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(self._conninfo, autocommit=True, connect_timeout=5)
            self._partitions_at = 0.0
        if time.monotonic() >= self._partitions_at:
            self._partitions_at = time.monotonic() + _PARTITIONS_EVERY_S
            self._connection.execute("SELECT novellus_ensure_partitions()")
        return self._connection

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error, OSError):
                connection.close()

    def _went_down(self, error: BaseException) -> None:
        self._drop_connection()
        lines = str(error).strip().splitlines()
        self._last_error = lines[-1] if lines else type(error).__name__
        if not self._down:
            self._down = True
            logger.warning(
                "PostgreSQL can't be reached (%s): log records wait in %s, calls go on",
                self._last_error,
                self._spool_dir,
            )

    def _came_back(self) -> None:
        if self._down:
            self._down = False
            self._last_error = None
            logger.warning("PostgreSQL is back: the waiting log records go in")


def _copy_statement(table: str, columns: tuple[str, ...]) -> sql.Composed:
    return sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, columns))
    )


_logs: weakref.WeakSet[RequestLog] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for log in list(_logs):
        log._forget_parent()


os.register_at_fork(after_in_child=_after_fork_in_child)
