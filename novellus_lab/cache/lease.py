"""Who of many processes makes an answer: leases on keys, in Redis or in PostgreSQL.

A lease ends by itself when its holder does not renew it, so that a process that was killed, or
stands still, holds nobody up for longer than `ttl_s`. It saves money, it guards no data: where it
can't be had because the server is away, the call goes ahead without.

PostgreSQL keeps them in two small unlogged tables: who holds what, and until when a holder counts
as alive, so that a heartbeat is one row, however many calls are in the air. Advisory locks would
need no table, but each takes a slot in a lock table that all sessions of the server share: some
thousand calls would exhaust it and fail everybody's transactions ("out of shared memory"). Nor do
they end when a holder stands still, or pass through a pooler.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from novellus_lab.cache.outage import Outage

if TYPE_CHECKING:
    from collections.abc import Collection

    import psycopg


logger = logging.getLogger("novellus_lab.cache")

TTL_S = 2.0
"""For how long a holder may be silent."""

_BATCH = 1_000


class Lease(ABC):
    """Leases of one process. Runs on one event loop; every method must be called there.

    What is asked at the same time goes to the server together, on one connection.

    Args:
        what: names it in the log.
        ttl_s: seconds after which a lease that was not renewed is free. Renewed at a third of it.
        timeout_s: a server that takes longer to answer counts as away.
    """

    def __init__(self, what: str, *, ttl_s: float, timeout_s: float) -> None:
        self.ttl_s = ttl_s
        self.holder = os.urandom(16)
        self._timeout_s = timeout_s
        self._held: set[bytes] = set()
        self._asked: dict[bytes, list[asyncio.Future[bool]]] = {}
        self._released: set[bytes] = set()
        self._renewal_due = False
        self._working: asyncio.Task[None] | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._closed = False
        self._outage = Outage(what, self._come_back, describe=self._describe, on_back=self._wake)

    @property
    def held(self) -> int:
        """How many leases this process holds."""
        return len(self._held)

    async def acquire(self, key: bytes) -> bool:
        """Return whether the caller may go ahead: it has the lease, or the server is away.

        A lease that this process holds already is had again.
        """
        if self._outage.away or self._closed:
            return True
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._asked.setdefault(key, []).append(future)
        self._wake()
        return await future

    def release(self, key: bytes) -> None:
        """Give a lease back soon; harmless where there is none."""
        if key in self._held:
            self._held.discard(key)
            self._released.add(key)
            self._wake()

    async def close(self) -> None:
        """Give all leases back, if the server answers, and close the connection. Idempotent."""
        if self._closed:
            return
        for key in list(self._held):
            self.release(key)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._timeout_s):
                while self._working is not None:
                    await asyncio.wait([self._working])
        self._closed = True
        await self._outage.close()
        for task in (self._working, self._renewing):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        self._answer(self._asked, None)
        await self._disconnect()

    # --- the server's part ---------------------------------------------------------------------

    @abstractmethod
    async def _take(self, keys: Collection[bytes]) -> set[bytes]:
        """Take those that are free or ours already, and return them."""

    @abstractmethod
    async def _renew(self, keys: Collection[bytes]) -> None:
        """Say that their holder is alive."""

    @abstractmethod
    async def _free(self, keys: Collection[bytes]) -> None:
        """Give back those that are ours."""

    @abstractmethod
    async def _disconnect(self) -> None:
        """Close the connection, if there is one."""

    @abstractmethod
    def _describe(self, error: BaseException) -> str:
        """Return what an error says, without any password."""

    # --- in the background ---------------------------------------------------------------------

    def _wake(self) -> None:
        asked = self._asked or self._released or self._renewal_due
        if asked and self._working is None and not self._outage.away and not self._closed:
            self._working = asyncio.create_task(self._work())

    async def _work(self) -> None:
        try:
            while (self._asked or self._released or self._renewal_due) and not self._outage.away:
                await self._turn()
        finally:
            self._working = None

    async def _turn(self) -> None:
        released = set(list(self._released)[:_BATCH])
        self._released -= released
        asked = {key: self._asked.pop(key) for key in list(self._asked)[:_BATCH]}
        renewal_due, self._renewal_due = self._renewal_due, False
        taken: set[bytes] | None = None
        try:
            async with asyncio.timeout(self._timeout_s):
                if released:
                    await self._free(released)
                if renewal_due and self._held:
                    await self._renew(list(self._held))
                if asked:
                    taken = await self._take(asked.keys())
        except Exception as error:  # never a call's business
            await self._disconnect()
            self._outage.begin(error)
            # Whatever of it was done: a lease that nobody knows of must not live on.
            self._released |= released | asked.keys()
            asked |= self._asked
            self._asked = {}
        finally:
            self._answer(asked, taken)

    def _answer(
        self, asked: dict[bytes, list[asyncio.Future[bool]]], taken: set[bytes] | None
    ) -> None:
        """Tell who asked. None: the server is away, everybody may go ahead."""
        for key, futures in asked.items():
            waiting = [future for future in futures if not future.done()]
            if taken is not None and key in taken:
                self._held.add(key)
                self._released.discard(key)
                self._start_renewing()
                if not waiting:
                    self.release(key)  # whoever asked was cancelled
            for future in waiting:
                future.set_result(taken is None or key in taken)

    def _start_renewing(self) -> None:
        if self._renewing is None and not self._closed:
            self._renewing = asyncio.create_task(self._renew_while_held())

    async def _renew_while_held(self) -> None:
        try:
            while self._held:
                await asyncio.sleep(self.ttl_s / 3)
                self._renewal_due = bool(self._held)
                self._wake()
        finally:
            self._renewing = None

    async def _come_back(self) -> None:
        try:
            await self._renew(list(self._held))
        except BaseException:
            await self._disconnect()
            raise


class RedisLease(Lease):
    """Leases as keys that expire: `novellus:1:l:…`, each with its holder as value.

    Raises:
        MissingDependencyError, ConfigurationError: from the constructor alone.
    """

    PREFIX = b"novellus:1:l:"

    # For many keys at once, what SET … NX PX, and a renewal by comparing, do for one.
    _TAKE = b"""
    local taken = {}
    for i, key in ipairs(KEYS) do
      local holder = redis.call('GET', key)
      if not holder or holder == ARGV[1] then
        redis.call('SET', key, ARGV[1], 'PX', ARGV[2])
        taken[#taken + 1] = i
      end
    end
    return taken
    """
    _FREE = b"""
    for _, key in ipairs(KEYS) do
      if redis.call('GET', key) == ARGV[1] then redis.call('UNLINK', key) end
    end
    """

    def __init__(self, url: str, *, ttl_s: float = TTL_S, timeout_s: float = 0.5) -> None:
        from novellus_lab.cache.redis_server import RedisServer, RedisSession

        self._server = RedisServer(url)
        self._session = RedisSession(self._server)
        super().__init__(
            f"single flight over Redis at {self._server.where}", ttl_s=ttl_s, timeout_s=timeout_s
        )

    async def _take(self, keys: Collection[bytes]) -> set[bytes]:
        ordered = list(keys)
        ttl_ms = b"%d" % max(1, round(self.ttl_s * 1000))
        taken = await self._run(self._TAKE, ordered, self.holder, ttl_ms)
        return {ordered[number - 1] for number in taken}

    async def _renew(self, keys: Collection[bytes]) -> None:
        await self._take(keys)  # also what a restarted server has forgotten

    async def _free(self, keys: Collection[bytes]) -> None:
        await self._run(self._FREE, list(keys), self.holder)

    async def _run(self, script: bytes, keys: list[bytes], *args: bytes) -> Any:
        names = [self.PREFIX + key.hex().encode() for key in keys]
        return await self._session.ask(b"EVAL", script, len(names), *names, *args)

    async def _disconnect(self) -> None:
        await self._session.close()

    def _describe(self, error: BaseException) -> str:
        return self._server.describe(error)


class PostgresLease(Lease):
    """Leases as rows of `ai_call_leases`, on one connection. Times are the server's."""

    _RENEW = """
    INSERT INTO public.ai_call_lease_holders (holder, expires_at)
    VALUES (%(holder)s, now() + make_interval(secs => %(ttl_s)s))
    ON CONFLICT (holder) DO UPDATE SET expires_at = excluded.expires_at
    """
    # A lease is up for taking when its holder is known to be dead: one that this statement's
    # snapshot doesn't know has just come. A row of the living is not even touched: whoever waits
    # asks often.
    _TAKE = f"""
    WITH dead AS (
        SELECT holder FROM public.ai_call_lease_holders WHERE expires_at <= now()
    ), me AS ({_RENEW})
    INSERT INTO public.ai_call_leases AS l (cache_key, holder)
    SELECT key, %(holder)s FROM unnest(%(keys)s::bytea[]) AS asked (key)
    WHERE NOT EXISTS (SELECT FROM public.ai_call_leases
                      WHERE cache_key = key AND holder <> %(holder)s
                      AND holder NOT IN (SELECT holder FROM dead))
    ORDER BY key
    ON CONFLICT (cache_key) DO UPDATE SET holder = excluded.holder
    WHERE l.holder = excluded.holder OR l.holder IN (SELECT holder FROM dead)
    RETURNING cache_key
    """  # noqa: S608  the text of another statement
    # In one order, so that no two processes can wait for each other's rows.
    _FREE = """
    DELETE FROM public.ai_call_leases WHERE cache_key IN (
        SELECT cache_key FROM public.ai_call_leases
        WHERE cache_key = ANY(%(keys)s) AND holder = %(holder)s ORDER BY cache_key FOR UPDATE)
    """
    # What killed processes left: first what they held, then themselves.
    _CLEAN = (
        """
        DELETE FROM public.ai_call_leases WHERE cache_key IN (
            SELECT cache_key FROM public.ai_call_leases
            WHERE holder NOT IN (SELECT holder FROM public.ai_call_lease_holders
                                 WHERE expires_at > now() - interval '1 minute')
            ORDER BY cache_key FOR UPDATE SKIP LOCKED)
        """,
        """
        DELETE FROM public.ai_call_lease_holders
        WHERE expires_at < now() - interval '1 minute'
        AND holder NOT IN (SELECT holder FROM public.ai_call_leases)
        """,
    )

    def __init__(self, conninfo: str, *, ttl_s: float = TTL_S, timeout_s: float = 2.0) -> None:
        self._conninfo = conninfo
        self._connection: psycopg.AsyncConnection[Any] | None = None
        super().__init__("single flight over PostgreSQL", ttl_s=ttl_s, timeout_s=timeout_s)

    async def _take(self, keys: Collection[bytes]) -> set[bytes]:
        connection = await self._connected()
        cursor = await connection.execute(
            self._TAKE,
            {"keys": list(keys), "holder": self.holder, "ttl_s": self.ttl_s},
            prepare=True,
            binary=True,
        )
        return {row[0] for row in await cursor.fetchall()}

    async def _renew(self, keys: Collection[bytes]) -> None:
        connection = await self._connected()
        await connection.execute(
            self._RENEW, {"holder": self.holder, "ttl_s": self.ttl_s}, prepare=True
        )

    async def _free(self, keys: Collection[bytes]) -> None:
        connection = await self._connected()
        await connection.execute(
            self._FREE, {"keys": list(keys), "holder": self.holder}, prepare=True
        )

    async def _connected(self) -> psycopg.AsyncConnection[Any]:
        import psycopg

        if self._connection is None or self._connection.closed:
            connection = await psycopg.AsyncConnection.connect(
                self._conninfo, autocommit=True, connect_timeout=5
            )
            self._connection = connection
            # What a power cut may lose here nobody needs.
            await connection.execute("SET synchronous_commit = off")
            for statement in self._CLEAN:
                await connection.execute(statement)
        return self._connection

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                await connection.close()

    def _describe(self, error: BaseException) -> str:
        from novellus_lab.store.database import cause

        return cause(error)
