"""Copies records into the log, once each, however often they come."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg

from novellus_lab.errors import StoreUnavailableError
from novellus_lab.store.copy_text import (
    ATTEMPT_COLUMNS,
    ATTEMPT_TAG,
    REQUEST_COLUMNS,
    REQUEST_TAG,
    record_lines,
)
from novellus_lab.store.database import cause

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from novellus_lab.records import RequestRecord

_CHUNK_ROWS = 5_000
_CHUNK_BYTES = 16_000_000
_ANALYZE_ROWS = 50_000
_FIRST_MONTH, _AHEAD = datetime(2018, 1, 1, tzinfo=UTC), timedelta(days=31)
_REQUESTS, _ATTEMPTS = ", ".join(REQUEST_COLUMNS), ", ".join(ATTEMPT_COLUMNS)
_STAGE = (
    f"CREATE TEMP TABLE staged_requests AS SELECT {_REQUESTS} FROM public.ai_requests WITH NO DATA",  # noqa: S608
    f"CREATE TEMP TABLE staged_attempts AS SELECT {_ATTEMPTS} FROM public.ai_request_attempts "  # noqa: S608
    "WITH NO DATA",
)
_EMPTY = "TRUNCATE pg_temp.staged_requests, pg_temp.staged_attempts"
_COPY_REQUESTS = f"COPY pg_temp.staged_requests ({_REQUESTS}) FROM STDIN"
_COPY_ATTEMPTS = f"COPY pg_temp.staged_attempts ({_ATTEMPTS}) FROM STDIN"
_TAKE = f"""
WITH new AS (
    INSERT INTO public.ai_requests ({_REQUESTS}) SELECT {_REQUESTS} FROM pg_temp.staged_requests
    ORDER BY id  -- two imports at once must not wait for each other crosswise
    ON CONFLICT DO NOTHING RETURNING id
), tried AS (
    INSERT INTO public.ai_request_attempts ({_ATTEMPTS})
    SELECT {_ATTEMPTS} FROM pg_temp.staged_attempts WHERE request_id IN (SELECT id FROM new)
    ON CONFLICT DO NOTHING
)
SELECT count(*) FROM new
"""  # noqa: S608 - our own columns


class CallWriter:
    """A connection of one's own; `add` records, `close` at the end. What was written stays written.

    Raises:
        StoreUnavailableError: the database does not answer, or refuses. Import again: what is there is
            not written twice.
    """

    def __init__(self, conninfo: str) -> None:
        self._lines: list[bytes] = []
        self._bytes = 0
        self._months: set[tuple[int, int]] = set()
        self._new_months: dict[tuple[int, int], datetime] = {}
        self.written = 0
        """New rows of `ai_requests`."""
        try:
            self._connection = psycopg.connect(conninfo, autocommit=True)
            for statement in _STAGE:
                self._connection.execute(statement.encode())
        except psycopg.Error as error:
            raise StoreUnavailableError(f"nothing can be imported: {cause(error)}") from None

    def add(self, record: RequestRecord) -> None:
        lines = record_lines(record)
        self._lines.append(lines)
        self._bytes += len(lines)
        month = (record.created_at.year, record.created_at.month)
        if month not in self._months:
            self._new_months[month] = record.created_at
        if len(self._lines) >= _CHUNK_ROWS or self._bytes >= _CHUNK_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what was added."""
        if not self._lines:
            return
        lines = b"".join(self._lines).split(b"\n")
        try:
            self._ensure_months()
            with self._connection.transaction(), self._connection.cursor() as cursor:
                cursor.execute(_EMPTY)
                for statement, tag in (
                    (_COPY_REQUESTS, REQUEST_TAG),
                    (_COPY_ATTEMPTS, ATTEMPT_TAG),
                ):
                    rows = [line[1:] for line in lines if line.startswith(tag)]
                    with cursor.copy(statement.encode()) as copy:
                        copy.write(b"\n".join(rows))
                row = cursor.execute(_TAKE.encode()).fetchone()
                self.written += int(row[0]) if row else 0
        except psycopg.Error as error:
            raise StoreUnavailableError(
                f"the import stopped after {self.written:,} new rows: {cause(error)}. Import again "
                f"when the database is back: no row goes in twice"
            ) from None
        self._lines, self._bytes = [], 0

    def _ensure_months(self) -> None:
        for month, moment in self._new_months.items():
            ensure_month(self._connection, moment)
            self._months.add(month)
        self._new_months = {}

    def close(self) -> None:
        """Write the rest and disconnect."""
        try:
            self.flush()
            if self.written >= _ANALYZE_ROWS:
                analyze(self._connection, ("ai_requests", "ai_request_attempts"))
        finally:
            self._connection.close()

    def __enter__(self) -> CallWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._connection.close()


def ensure_month(connection: psycopg.Connection[Any], moment: datetime) -> None:
    """Make the partition of a month, if this user may: else its rows go to the default one.

    So do those of months in which nobody called a model: wrong clocks should not make tables.
    """
    if not _FIRST_MONTH <= moment < datetime.now(UTC) + _AHEAD:
        return
    refused = (psycopg.errors.InsufficientPrivilege, psycopg.errors.LockNotAvailable)
    with contextlib.suppress(*refused):
        connection.execute("SELECT public.novellus_ensure_month(%s)", [moment])


def analyze(connection: psycopg.Connection[Any], tables: Iterable[str]) -> None:
    """Tell the planner of many new rows."""
    for table in tables:
        try:
            connection.execute(f"ANALYZE public.{table}".encode())
        except psycopg.Error:
            return
