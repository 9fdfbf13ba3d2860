"""What brings a job to a worker: `procrastinate`, in a schema of its own.

Its tables hold ids only, and no result: the job itself is a row of `ai_jobs`. They don't stand in
`public`, where another application's procrastinate may have its own, and are made when the queue is
first used, from the SQL that comes with the installed version.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from novellus_lab.errors import MissingDependencyError, StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from procrastinate import App

    Connection = psycopg.AsyncConnection[Any]

SCHEMA = "novellus_queue"
TASK = "novellus_lab.complete"
_LOCK = 0x4E4F5651  # one process at a time makes or upgrades the schema
_SEARCH_PATH = f"SET search_path = {SCHEMA}, public"
_MADE_BY = "SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = %s"


def check_installed() -> None:
    """Raise MissingDependencyError where the queue's library is not there."""
    try:
        import procrastinate  # noqa: F401
    except ImportError:
        raise MissingDependencyError(
            "the queue needs procrastinate: pip install 'novellus_lab[queue]'"
        ) from None


def new_app(conninfo: str, *, connections: int = 1) -> App:
    """Return procrastinate's face. It connects when it is opened.

    Args:
        connections: most that its pool may hold.
    """
    from procrastinate import App, PsycopgConnector

    connector = PsycopgConnector(
        conninfo=conninfo,
        min_size=1,
        max_size=connections,
        configure=find_tables,
    )
    return App(connector=connector)


async def find_tables(connection: Connection) -> None:
    """Let a connection find procrastinate's tables, and ours."""
    await connection.execute(_SEARCH_PATH.encode())
    if not connection.autocommit:
        await connection.commit()


async def prepare(connection: Connection) -> None:
    """Make or upgrade the schema if need be, and let the connection find it.

    Processes that start together wait for one another.

    Raises:
        StoreError: the user may not.
    """
    installed = metadata.version("procrastinate")
    if await _made_by(connection) != installed:
        try:
            async with connection.transaction():
                await connection.execute(f"SELECT pg_advisory_xact_lock({_LOCK})".encode())
                made_by = await _made_by(connection)
                if made_by is None or _parts(made_by) < _parts(installed):
                    await _bring_up_to(installed, made_by, connection)
        except psycopg.errors.InsufficientPrivilege as error:
            user = connection.info.user
            raise StoreError(
                f"the user {user!r} may not make the queue's tables ({str(error).strip()}): have "
                f'the owner of the database run CREATE SCHEMA {SCHEMA} AUTHORIZATION "{user}"'
            ) from None
    await find_tables(connection)


async def _bring_up_to(installed: str, made_by: str | None, connection: Connection) -> None:
    from procrastinate.schema import SchemaManager

    if made_by is None:
        await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}".encode())
        await connection.execute(f"SET LOCAL search_path = {SCHEMA}".encode())
        await connection.execute(SchemaManager.get_schema().encode())
    else:
        await connection.execute(f"SET LOCAL search_path = {SCHEMA}".encode())
        for statements in _migrations(made_by, installed):
            await connection.execute(statements)
    await connection.execute(f"COMMENT ON SCHEMA {SCHEMA} IS 'procrastinate {installed}'".encode())


def _migrations(after: str, up_to: str) -> list[bytes]:
    from procrastinate.schema import SchemaManager

    return [
        file.read_bytes()
        for file in sorted(Path(SchemaManager.get_migrations_path()).glob("*.sql"))
        # 03.04.00_01_pre_what_it_does.sql
        if _parts(after) < _parts(file.name.split("_")[0]) <= _parts(up_to)
    ]


async def _made_by(connection: Connection) -> str | None:
    row = await (await connection.execute(_MADE_BY, [SCHEMA])).fetchone()
    return None if row is None or row[0] is None else str(row[0]).removeprefix("procrastinate ")


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


async def deliver(
    connection: Connection, jobs: list[str], *, queue: str, priority: int, at: datetime | None
) -> list[int]:
    """Have jobs brought to workers, in the connection's transaction; return procrastinate's ids."""
    # Straight to the manager: a task's own way logs each job, twice.
    from procrastinate import PsycopgConnector
    from procrastinate.exceptions import ConnectorException
    from procrastinate.jobs import Job
    from procrastinate.manager import JobManager

    deliveries = [
        Job(
            queue=queue,
            priority=priority,
            lock=None,
            queueing_lock=None,
            task_name=TASK,
            task_kwargs={"job": job},
            scheduled_at=at,
        )
        for job in jobs
    ]
    try:
        delivered = await JobManager(PsycopgConnector()).batch_defer_jobs_async(
            deliveries, connection=connection
        )
    except ConnectorException as error:
        if isinstance(error.__cause__, psycopg.Error):
            raise error.__cause__ from None
        raise
    return [job.id for job in delivered if job.id is not None]


async def take_back(connection: Connection, deliveries: Sequence[int]) -> None:
    """Don't bring jobs any more; where a worker runs one, have it stopped."""
    await connection.execute(
        "SELECT procrastinate_cancel_job_v1(id, true, true) FROM unnest(%s::bigint[]) AS id",
        [list(deliveries)],
    )


async def bring_again(connection: Connection, silent_s: float) -> int:
    """Bring jobs of workers that were not heard of for so long to others; return how many."""
    found = await connection.execute(
        """
        WITH stalled AS (
            SELECT job.id FROM procrastinate_jobs job
            LEFT JOIN procrastinate_workers worker ON worker.id = job.worker_id
            WHERE job.status = 'doing' AND job.task_name = %s
                AND (worker.id IS NULL OR worker.last_heartbeat < now() - make_interval(secs => %s))
            FOR UPDATE OF job SKIP LOCKED
        )
        SELECT procrastinate_retry_job_v2(id, now(), NULL, NULL, NULL) FROM stalled
        """,
        [TASK, silent_s],
    )
    await connection.execute(
        "DELETE FROM procrastinate_jobs WHERE status IN ('failed', 'aborted', 'cancelled')"
    )
    return found.rowcount
