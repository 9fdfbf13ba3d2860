"""One database connection on the lab's loop, opened when it is first needed, closed with the lab."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg

from novellus_lab.errors import StoreUnavailableError
from novellus_lab.store.database import cause

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from novellus_lab.pipeline.loop_thread import LoopThread

    Connection = psycopg.AsyncConnection[Any]

T = TypeVar("T")


class KeptConnection:
    """Serves one piece of work at a time, each in a transaction of its own.

    Args:
        thread: on whose loop it lives.
        prepare: called with each new connection before it is used.
    """

    def __init__(
        self,
        thread: LoopThread,
        conninfo: str,
        prepare: Callable[[Connection], Awaitable[None]] | None = None,
    ) -> None:
        self._thread = thread
        self._conninfo = conninfo
        self._prepare = prepare
        self._connection: Connection | None = None
        self._lock = asyncio.Lock()
        self._closes_with_lab = False

    async def run(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Return what `work` does with the connection, committed.

        It is done again, once, where a connection that had been idle turns out to be lost: it must
        bear to be done twice.

        Raises:
            StoreUnavailableError: the database does not answer.
        """
        async with self._lock:
            try:
                if self._connection is not None and not self._connection.closed:
                    try:
                        return await self._once(self._connection, work)
                    except psycopg.OperationalError:
                        await self._close()
                return await self._once(await self._connect(), work)
            except psycopg.OperationalError as error:
                await self._close()
                raise StoreUnavailableError(
                    f"the database does not answer ({cause(error)}): try again when it is back"
                ) from None

    async def _once(self, connection: Connection, work: Callable[[Connection], Awaitable[T]]) -> T:
        async with connection.transaction():
            return await work(connection)

    async def _connect(self) -> Connection:
        connection: Connection = await psycopg.AsyncConnection.connect(
            self._conninfo, autocommit=True, connect_timeout=5
        )
        try:
            if self._prepare is not None:
                await self._prepare(connection)
        except BaseException:
            await connection.close()
            raise
        self._connection = connection
        if not self._closes_with_lab:
            self._closes_with_lab = True
            self._thread.start(self._close_at_the_end, lambda: None)
        return connection

    async def _close_at_the_end(self) -> None:
        try:
            await asyncio.Event().wait()  # until the lab cancels what runs
        finally:
            # Work that was cancelled with this may still be leaving the connection: closing a socket
            # that the loop watches ends the process.
            async with self._lock:
                await self._close()

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                await connection.close()
