"""Puts requests into the queue, and tells what became of them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from novellus_lab.errors import (
    InvalidRequestError,
    JobCancelledError,
    JobNotDoneError,
    NoWorkerError,
)
from novellus_lab.ids import uuid7
from novellus_lab.pipeline.kept_connection import KeptConnection
from novellus_lab.queue import delivery, jobs
from novellus_lab.queue.answers import load_completion, load_error
from novellus_lab.queue.arguments import JobRequest, check_request
from novellus_lab.queue.endings import Endings, unknown_job
from novellus_lab.queue.jobs import JobRow, JobStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime
    from uuid import UUID

    from novellus_lab.errors import NovellusError
    from novellus_lab.pipeline.runtime import Runtime
    from novellus_lab.types import Completion

    Connection = jobs.Connection

ALIVE_S = 30.0
"""A worker that was not heard of for longer is taken for dead."""
_LOOK_FOR_WORKERS_S = 0.25
_LOOK_AFTER_WORKERS_S = 5.0


@dataclass(frozen=True, slots=True)
class WorkerState:
    """A worker that is alive."""

    host: str
    pid: int
    queues: tuple[str, ...] | None
    """None: all."""
    concurrency: int
    started_at: datetime
    running: int
    """Jobs that it runs now."""


class JobQueue:
    """One per runtime; its coroutines run on the lab's loop.

    Raises:
        MissingDependencyError: `procrastinate` is not installed.
    """

    def __init__(self, runtime: Runtime) -> None:
        delivery.check_installed()
        self.runtime = runtime
        self._database = KeptConnection(runtime.thread, runtime.conninfo, delivery.prepare)
        self._endings = Endings(runtime.thread, runtime.conninfo)

    def check(
        self, data: Any, priority: Any, scheduled_at: Any, queue: Any, max_attempts: Any
    ) -> JobRequest:
        """Check what is to be queued, on any thread; see `check_request`."""
        return check_request(
            self.runtime,
            data,
            priority=priority,
            scheduled_at=scheduled_at,
            queue=queue,
            max_attempts=max_attempts,
        )

    async def put(self, asked: JobRequest) -> UUID:
        """Queue a request; return the id of its job."""
        (id,) = await self.put_all([asked])
        return id

    async def put_all(self, asked: Sequence[JobRequest]) -> list[UUID]:
        """Queue requests, all or none; return the ids of their jobs, in order.

        They are for one queue, of one priority and for one time: those of the first.
        """
        ids = [uuid7() for _ in asked]

        async def work(connection: Connection) -> None:
            one = asked[0]
            added = await jobs.insert(
                connection,
                ids,
                [request.json for request in asked],
                queue=one.queue,
                priority=one.priority,
                max_attempts=one.max_attempts,
                at=one.at,
            )
            await _deliver(connection, added, one.queue, one.priority, one.at)

        await self._database.run(work)
        return ids

    async def row(self, id: UUID) -> JobRow:
        """Return a job as it stands.

        Raises:
            UnknownJobError
        """
        found = await self._database.run(lambda connection: jobs.read(connection, [id]))
        if not found:
            raise unknown_job(id)
        return found[0]

    async def newest(self, status: str | None, limit: int) -> list[JobRow]:
        """Return the latest jobs, newest first."""
        return await self._database.run(lambda connection: jobs.newest(connection, status, limit))

    async def ended(self, id: UUID, timeout_s: float | None) -> JobRow:
        """Wait for the end of a job.

        Raises:
            UnknownJobError
            JobNotDoneError: it has not ended within the time.
        """
        async with self._endings.of([id]) as futures:
            row = await self.row(id)
            if row.ended:
                return row
            try:
                async with asyncio.timeout(timeout_s):
                    ended: JobRow = await futures[id]
                    return ended
            except TimeoutError:
                row = await self.row(id)
                if row.ended:
                    return row
                raise JobNotDoneError(
                    f"job {id} is {await self._where(row)} after {timeout_s:g} s of waiting: it "
                    f"goes on, and its result can be asked for later"
                ) from None

    async def all_ended(
        self,
        ids: Sequence[UUID],
        queue: str,
        on_end: Callable[[int, JobRow | NovellusError], None],
        *,
        give_up_s: float,
    ) -> None:
        """Wait for the end of many jobs, telling of each by its place in `ids`.

        Where no worker is alive for `give_up_s`, the jobs that are left are cancelled, and end with
        a NoWorkerError.
        """
        async with self._endings.of(ids) as futures:
            ended: asyncio.Queue[int] = asyncio.Queue()
            for place, id in enumerate(ids):
                futures[id].add_done_callback(lambda _, place=place: ended.put_nowait(place))
            left = set(range(len(ids)))
            seen_at = time.monotonic()
            while left:
                try:
                    async with asyncio.timeout(_LOOK_AFTER_WORKERS_S):
                        place = await ended.get()
                except TimeoutError:
                    if await self.workers(queue):
                        seen_at = time.monotonic()
                    elif time.monotonic() - seen_at > give_up_s:
                        gone = _no_worker(queue, f"for {give_up_s:g} s, and the job was cancelled")
                        await self.cancel_all([ids[place] for place in left])
                        for place in sorted(left):
                            on_end(place, gone)
                        return
                    continue
                seen_at = time.monotonic()
                left.discard(place)
                future = futures[ids[place]]
                error = future.exception()
                on_end(place, future.result() if error is None else error)

    async def cancel(self, id: UUID) -> bool:
        """Cancel a job that has not ended; return whether it was so."""

        async def work(connection: Connection) -> bool:
            deliveries = await jobs.cancel(connection, [id])
            if not deliveries:
                await self._known(connection, id)
                return False
            await delivery.take_back(connection, deliveries)
            return True

        return await self._database.run(work)

    async def cancel_all(self, ids: Sequence[UUID]) -> None:
        """Cancel those of the jobs that have not ended."""

        async def work(connection: Connection) -> None:
            await delivery.take_back(connection, await jobs.cancel(connection, ids))

        await self._database.run(work)

    async def retry(self, id: UUID) -> None:
        """Run a failed job afresh.

        Raises:
            InvalidRequestError: it is no failed one.
        """

        async def work(connection: Connection) -> None:
            row = await jobs.requeue(connection, id)
            if row is None:
                raise InvalidRequestError(
                    f"job {id} is {(await self._known(connection, id)).status}: only a failed job "
                    f"can be retried"
                )
            await _deliver(connection, [str(id)], row.queue, row.priority, None)

        await self._database.run(work)

    async def workers(self, queue: str | None = None) -> list[WorkerState]:
        """Return the workers that are alive; of those that serve a queue, if one is named."""

        async def work(connection: Connection) -> list[WorkerState]:
            found = await connection.execute(
                "SELECT host, pid, queues, concurrency, started_at, (SELECT count(*) FROM ai_jobs"
                " WHERE status = 'running' AND worker = host || ':' || pid) FROM ai_queue_workers"
                " WHERE seen_at > now() - make_interval(secs => %s)"
                " AND (%s::text IS NULL OR queues IS NULL OR %s = ANY(queues)) ORDER BY started_at",
                [ALIVE_S, queue, queue],
            )
            return [
                WorkerState(host, pid, None if queues is None else tuple(queues), *rest)
                for host, pid, queues, *rest in await found.fetchall()
            ]

        return await self._database.run(work)

    async def expect_worker(self, queue: str, within_s: float) -> None:
        """Wait until a worker serves a queue.

        Raises:
            NoWorkerError: none did within the time.
        """
        until = time.monotonic() + within_s
        while not await self.workers(queue):
            if time.monotonic() >= until:
                raise _no_worker(queue, f"within {within_s:g} s; nothing was queued")
            await asyncio.sleep(_LOOK_FOR_WORKERS_S)

    async def _where(self, row: JobRow) -> str:
        if row.status == JobStatus.RUNNING:
            return "running"
        with contextlib.suppress(Exception):
            if not await self.workers(row.queue):
                return f"queued, and no worker serves the queue {row.queue!r} ({_START})"
        return "queued"

    async def _known(self, connection: Connection, id: UUID) -> JobRow:
        rows = await jobs.read(connection, [id])
        if not rows:
            raise unknown_job(id)
        return rows[0]


def answer_of(row: JobRow) -> Completion:
    """Return the answer of a job that has ended.

    Raises:
        JobCancelledError: it was cancelled.
        NovellusError: what its call met.
    """
    if row.status == JobStatus.DONE:
        return load_completion(row.result)
    if row.status == JobStatus.CANCELLED:
        raise JobCancelledError(f"job {row.id} was cancelled: it has no result")
    raise load_error(row.error)


_START = "start one with `novellus worker`, with the same --home or --database-url"


def _no_worker(queue: str, when: str) -> NoWorkerError:
    named = "" if queue == "default" else f" --queue {queue}"
    start = _START.replace("`novellus worker`", f"`novellus worker{named}`")
    return NoWorkerError(f"no worker serves the queue {queue!r} {when}: {start}")


async def _deliver(
    connection: Connection, ids: list[str], queue: str, priority: int, at: datetime | None
) -> None:
    if ids:
        numbers = await delivery.deliver(connection, ids, queue=queue, priority=priority, at=at)
        await jobs.set_deliveries(connection, ids, numbers)
