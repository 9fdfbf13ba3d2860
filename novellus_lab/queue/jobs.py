"""The rows of `ai_jobs`: the truth about each queued request. Each function is one step of one.

A job is queued -> running -> done, failed or cancelled; from running it also goes back to queued.
Once it has ended, nothing changes it any more, but `requeue` of a failed one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from psycopg.rows import class_row

from novellus_lab.ids import uuid7

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    import psycopg

    Connection = psycopg.AsyncConnection[Any]

CHANNEL = "novellus_jobs"
"""Here the end of each job is told, by its id."""


class JobStatus(StrEnum):
    """Where a job stands. Compares equal to its plain string."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    """It met an error that no retry heals, or as often as `max_attempts`: the dead letters."""
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self not in (JobStatus.QUEUED, JobStatus.RUNNING)


@dataclass(frozen=True, slots=True)
class JobRow:
    """A row of `ai_jobs`."""

    id: UUID
    queue: str
    priority: int
    status: str
    request: Any
    max_attempts: int
    attempts: int
    delivery_id: int | None
    request_id: UUID | None
    worker: str | None
    created_at: datetime
    scheduled_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    result: Any
    error: Any

    @property
    def ended(self) -> bool:
        return JobStatus(self.status).ended


_COLUMNS = (
    "id, queue, priority, status, request, max_attempts, attempts, delivery_id, request_id, worker,"
    " created_at, scheduled_at, started_at, finished_at, result, error"
)
_OPEN = "status IN ('queued', 'running')"


async def insert(
    connection: Connection,
    ids: Sequence[UUID],
    requests: Sequence[str],
    *,
    queue: str,
    priority: int,
    max_attempts: int,
    at: datetime | None,
) -> list[str]:
    """Add jobs; return the ids of those that were not there yet."""
    found = await connection.execute(
        "INSERT INTO ai_jobs (id, queue, priority, max_attempts, scheduled_at, request)"
        " SELECT one.id, %s, %s, %s, %s, one.request::json"
        " FROM unnest(%s::uuid[], %s::text[]) AS one (id, request)"
        " ON CONFLICT DO NOTHING RETURNING id",
        [queue, priority, max_attempts, at, list(ids), list(requests)],
    )
    return [str(row[0]) for row in await found.fetchall()]


async def set_deliveries(
    connection: Connection, ids: Sequence[str], deliveries: Sequence[int]
) -> None:
    """Note by which delivery each job comes to a worker."""
    await connection.execute(
        "UPDATE ai_jobs SET delivery_id = one.delivery FROM"
        " unnest(%s::uuid[], %s::bigint[]) AS one (id, delivery) WHERE ai_jobs.id = one.id",
        [list(ids), list(deliveries)],
    )


async def read(connection: Connection, ids: Sequence[UUID], *, lock: bool = False) -> list[JobRow]:
    """Return those of the jobs that are there."""
    query = f"SELECT {_COLUMNS} FROM ai_jobs WHERE id = ANY(%s)" + (" FOR UPDATE" if lock else "")  # noqa: S608
    async with connection.cursor(row_factory=class_row(JobRow)) as cursor:
        await cursor.execute(query.encode(), [list(ids)])
        return await cursor.fetchall()


async def newest(connection: Connection, status: str | None, limit: int) -> list[JobRow]:
    """Return the latest jobs, newest first."""
    which = "%s::text IS NULL OR status = %s ORDER BY id DESC LIMIT %s"
    query = f"SELECT {_COLUMNS} FROM ai_jobs WHERE {which}"  # noqa: S608
    async with connection.cursor(row_factory=class_row(JobRow)) as cursor:
        await cursor.execute(query.encode(), [status, status, limit])
        return await cursor.fetchall()


async def begin(connection: Connection, id: UUID, worker: str) -> UUID:
    """Note that a run begins; return the id that its request is to have in the log."""
    request_id = uuid7()
    await connection.execute(
        "UPDATE ai_jobs SET status = 'running', attempts = attempts + 1, request_id = %s,"
        " worker = %s, started_at = now() WHERE id = %s",
        [request_id, worker, id],
    )
    return request_id


async def give_back(connection: Connection, id: UUID, request_id: UUID) -> bool:
    """Let another worker run it: this run does not count. Return whether it was still this one's."""
    found = await connection.execute(
        "UPDATE ai_jobs SET status = 'queued', attempts = attempts - 1"
        " WHERE id = %s AND status = 'running' AND request_id = %s",
        [id, request_id],
    )
    return found.rowcount == 1


async def wait_again(
    connection: Connection, id: UUID, request_id: UUID, at: datetime, error: str
) -> bool:
    """Have it run once more at a later time. Return whether it was still this one's."""
    found = await connection.execute(
        "UPDATE ai_jobs SET status = 'queued', scheduled_at = %s, error = %s::json"
        " WHERE id = %s AND status = 'running' AND request_id = %s",
        [at, error, id, request_id],
    )
    return found.rowcount == 1


async def succeed(connection: Connection, id: UUID, request_id: UUID, result: str) -> bool:
    """Keep the answer. The first one counts, also where two runs were under way."""
    return await _end(
        connection,
        id,
        "status = 'done', result = %s::json, request_id = %s, error = NULL, request = NULL",
        [result, request_id],
    )


async def fail(connection: Connection, id: UUID, error: str) -> bool:
    """Put it among the dead letters, its request with it."""
    return await _end(connection, id, "status = 'failed', error = %s::json", [error])


async def cancel(connection: Connection, ids: Sequence[UUID]) -> list[int]:
    """Cancel those that have not ended; return by which deliveries they would have come."""
    found = await connection.execute(
        "WITH cancelled AS (UPDATE ai_jobs SET status = 'cancelled', request = NULL,"
        " finished_at = now() WHERE id = ANY(%s) AND status IN ('queued', 'running')"
        " RETURNING id, delivery_id)"
        " SELECT delivery_id, pg_notify(%s, id::text) FROM cancelled",
        [list(ids), CHANNEL],
    )
    return [row[0] for row in await found.fetchall()]


async def _end(connection: Connection, id: UUID, what: str, values: list[Any]) -> bool:
    query = f"UPDATE ai_jobs SET {what}, finished_at = now() WHERE id = %s AND {_OPEN}"  # noqa: S608
    found = await connection.execute(query.encode(), [*values, id])
    if found.rowcount == 1:
        await connection.execute("SELECT pg_notify(%s, %s)", [CHANNEL, str(id)])
    return found.rowcount == 1


async def requeue(connection: Connection, id: UUID) -> JobRow | None:
    """Begin a failed job afresh; None if it is no failed one."""
    afresh = "status = 'queued', attempts = 0, finished_at = NULL, scheduled_at = NULL"
    which = "id = %s AND status = 'failed'"
    query = f"UPDATE ai_jobs SET {afresh} WHERE {which} RETURNING {_COLUMNS}"  # noqa: S608
    async with connection.cursor(row_factory=class_row(JobRow)) as cursor:
        await cursor.execute(query.encode(), [id])
        return await cursor.fetchone()


async def forget(connection: Connection, older_than_s: float) -> int:
    """Delete jobs that ended so long ago; return how many."""
    found = await connection.execute(
        "DELETE FROM ai_jobs WHERE finished_at < now() - make_interval(secs => %s)", [older_than_s]
    )
    return found.rowcount
