"""Hears of jobs that ended: one connection listens for all who wait."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg

from novellus_lab.errors import NovellusError, StoreUnavailableError, UnknownJobError
from novellus_lab.queue.jobs import CHANNEL, JobRow, read
from novellus_lab.store.database import cause

if TYPE_CHECKING:
    from collections.abc import Iterable

    from novellus_lab.pipeline.loop_thread import LoopThread

    Ending = asyncio.Future[JobRow]

_LOOK_EVERY_S = 2.0
"""Whatever was heard: a notice can be lost with its connection."""
_GIVE_UP_S = 30.0
_RECONNECT_S = 0.5
_AT_ONCE = 1_000
"""Jobs that are looked up with one query."""


class Endings:
    """Runs on the lab's loop, while somebody waits."""

    def __init__(self, thread: LoopThread, conninfo: str) -> None:
        self._thread = thread
        self._conninfo = conninfo
        self._waiting: dict[UUID, set[Ending]] = {}
        self._listening = False

    @contextlib.asynccontextmanager
    async def of(self, ids: Iterable[UUID]) -> Any:
        """Yield a future for each job; it becomes the job's row when that has ended.

        One that had ended before becomes so within two seconds: look first, after entering.
        """
        loop = asyncio.get_running_loop()
        futures = {id: loop.create_future() for id in ids}
        for id, future in futures.items():
            self._waiting.setdefault(id, set()).add(future)
        if futures and not self._listening:
            self._listening = True
            self._thread.start(self._listen, lambda: None)
        try:
            yield futures
        finally:
            for id, future in futures.items():
                waiting = self._waiting.get(id, set())
                waiting.discard(future)
                if not waiting:
                    self._waiting.pop(id, None)
                if not future.cancel() and not future.cancelled():
                    future.exception()  # seen, or nobody wants to see it

    def tell(self, row: JobRow) -> None:
        """Say that a job has ended."""
        for future in self._waiting.pop(row.id, ()):
            if not future.done():
                future.set_result(row)

    async def _listen(self) -> None:
        lost_at: float | None = None
        try:
            while self._waiting:
                try:
                    async with await psycopg.AsyncConnection.connect(
                        self._conninfo, autocommit=True, connect_timeout=5
                    ) as connection:
                        lost_at = None
                        await self._hear(connection)
                except psycopg.OperationalError as error:
                    lost_at = lost_at or time.monotonic()
                    if time.monotonic() - lost_at > _GIVE_UP_S:
                        self._fail(
                            StoreUnavailableError(
                                f"the database does not answer ({cause(error)}), so that the end "
                                f"of a job can't be heard of: ask again when it is back"
                            )
                        )
                    await asyncio.sleep(_RECONNECT_S)
        finally:
            self._listening = False

    async def _hear(self, connection: psycopg.AsyncConnection[Any]) -> None:
        await connection.execute(f"LISTEN {CHANNEL}".encode())
        await connection.execute("SET search_path = public")
        look_at = 0.0
        heard: set[UUID] = set()
        while self._waiting:
            if time.monotonic() >= look_at:
                heard.update(self._waiting)
                look_at = time.monotonic() + _LOOK_EVERY_S
            await self._look(connection, [id for id in heard if id in self._waiting])
            heard.clear()
            left_s = max(0.0, look_at - time.monotonic())
            async for notice in connection.notifies(timeout=left_s, stop_after=1):
                heard.add(UUID(notice.payload))

    async def _look(self, connection: psycopg.AsyncConnection[Any], ids: list[UUID]) -> None:
        for start in range(0, len(ids), _AT_ONCE):
            some = ids[start : start + _AT_ONCE]
            rows = await read(connection, some)
            for row in rows:
                if row.ended:
                    self.tell(row)
            for id in set(some).difference(row.id for row in rows):
                for future in self._waiting.pop(id, ()):
                    if not future.done():
                        future.set_exception(unknown_job(id))

    def _fail(self, error: NovellusError) -> None:
        waiting, self._waiting = self._waiting, {}
        for future in (future for futures in waiting.values() for future in futures):
            if not future.done():
                future.set_exception(error)


def unknown_job(id: UUID) -> UnknownJobError:
    """Say that there is no such job."""
    return UnknownJobError(
        f"there is no job {id} in this database: workers forget jobs some days after their end "
        f"(novellus worker --keep-days)"
    )
