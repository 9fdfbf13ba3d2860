"""Telling other processes which entries are no longer true, so that their memories drop them.

Over Redis (PUBLISH) where it is configured, else over PostgreSQL (NOTIFY). Neither keeps messages
for who was away: when listening begins anew, anything may have been missed, and `lost` says so.

Redis could itself report each changed key (CLIENT TRACKING), but then every first write of an entry
would go to every process; what is published here is the rare case alone.

Remove an entry from the shared tiers first (and wait: `flush`), then publish: a process that hears
of it and asks again must not find it there. A read that was under way meanwhile may still bring the
old entry; `heard` tells::

    before = invalidations.heard
    entry = await shared.get(key)
    if entry is not None and invalidations.heard == before:
        memory.put(entry)
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    import psycopg

    from novellus_lab.cache.redis_server import RedisConnection

logger = logging.getLogger("novellus_lab.cache")

_MIN_BACKOFF_S = 0.05
_MAX_BACKOFF_S = 5.0
_MAX_WAITING = 1_000
_KEY_BYTES_A_MESSAGE = 3_000
"""PostgreSQL takes up to 8,000 bytes in a NOTIFY, and a key is written in hex."""
_MAX_NAME = 1_000
_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Invalidation:
    """What is no longer true: the keys, or what the token names, or everything."""

    keys: tuple[bytes, ...] = ()
    token: str | None = None
    """A name that publisher and listener agree on, such as `model:gpt-4o` or `tag:faq`."""
    everything: bool = False

    def __post_init__(self) -> None:
        names = [*self.keys, *([] if self.token is None else [self.token.encode()])]
        if any(len(name) > _MAX_NAME for name in names):
            raise ValueError(f"a key or a token has at most {_MAX_NAME} bytes")


EVERYTHING = Invalidation(everything=True)


class Invalidations(ABC):
    """Publishes and listens. Runs on one event loop; every method must be called there.

    None raises the server's errors. What can't be sent waits until the server is back.

    Args:
        what: names the server in the log.
        on_invalidated: called with what another process published, never with this one's own.
        on_lost: called when messages may have been missed: drop all that is kept.
        ping_every_s: how often a silent connection is asked whether it is alive.
    """

    def __init__(
        self,
        what: str,
        on_invalidated: Callable[[Invalidation], None],
        on_lost: Callable[[], None],
        *,
        ping_every_s: float,
    ) -> None:
        self.heard = 0
        """Rises with everything that is heard or lost, and with everything published here."""
        self._what = what
        self._on_invalidated = on_invalidated
        self._on_lost = on_lost
        self._ping_every_s = ping_every_s
        self._me = os.urandom(8).hex()
        self._outbox: deque[Invalidation] = deque()
        self._listening_task: asyncio.Task[None] | None = None
        self._sending: asyncio.Task[None] | None = None
        self._listening = False
        self._first_try = asyncio.Event()
        self._warned = False
        self._closed = False

    @property
    def listening(self) -> bool:
        """Whether messages arrive now."""
        return self._listening

    async def start(self, timeout_s: float = 2.0) -> bool:
        """Begin to listen; return whether messages arrive already.

        When they do, nothing published from now on is missed. When they don't, it is tried on, and
        `on_lost` is called as soon as they do.
        """
        if self._listening_task is None and not self._closed:
            self._listening_task = asyncio.create_task(self._listen_for_ever())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._first_try.wait()
        self._first_try.set()  # too late to be the first
        return self._listening

    def publish(self, what: Invalidation) -> None:
        """Tell all other processes, soon."""
        if self._closed:
            return
        self.heard += 1
        self._outbox.append(what)
        if len(self._outbox) > _MAX_WAITING:  # rather too much than too little
            self._outbox.clear()
            self._outbox.append(EVERYTHING)
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())

    async def flush(self, timeout_s: float = 2.0) -> bool:
        """Return when all is sent (True) or the time is over (False)."""
        if self._sending is not None:
            await asyncio.wait([self._sending], timeout=timeout_s)
        return self._sending is None

    async def close(self) -> None:
        """Send what waits, if the server answers, and close the connections. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if not await self.flush():
            logger.warning(
                "%s: %d messages could not be sent: other processes may serve what was discarded "
                "until it expires",
                self._what,
                len(self._outbox),
            )
        for task in (self._listening_task, self._sending):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    # --- the server's part ---------------------------------------------------------------------

    @abstractmethod
    async def _listen(self, on_listening: Callable[[], None]) -> None:
        """Connect, listen, say so, and hand every message to `_hear`; raises when it is lost."""

    @abstractmethod
    async def _publish(self, outbox: deque[Invalidation]) -> None:
        """Send all; a message leaves the outbox once it is sent."""

    @abstractmethod
    def _describe(self, error: BaseException) -> str:
        """Return what an error says, without any password."""

    # --- listening -----------------------------------------------------------------------------

    async def _listen_for_ever(self) -> None:
        backoff_s = _MIN_BACKOFF_S
        while True:
            try:
                await self._listen(self._begin)
            except Exception as error:  # whatever it is: to give up would be for ever
                if self._listening:
                    backoff_s = _MIN_BACKOFF_S
                self._warn(error)
            finally:
                self._listening = False
                self._first_try.set()
            await asyncio.sleep(backoff_s * random.uniform(0.5, 1.0))
            backoff_s = min(backoff_s * 2, _MAX_BACKOFF_S)

    def _begin(self) -> None:
        self._listening = True
        late = self._first_try.is_set()
        self._first_try.set()
        if late:
            self._lose()
        if self._warned:
            self._warned = False
            logger.warning("%s is back", self._what)

    def _warn(self, error: BaseException) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "%s is away, entries that other processes discard may be served until it is back: "
                "%s",
                self._what,
                self._describe(error),
            )

    def _lose(self) -> None:
        self.heard += 1
        try:
            self._on_lost()
        except Exception:
            logger.exception("a cache could not be cleared")

    def _hear(self, payload: bytes) -> None:
        try:
            sender, what = _read(payload)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("a message to drop entries can't be read, so all are: %r", error)
            self._lose()
            return
        if sender == self._me:
            return
        self.heard += 1
        try:
            self._on_invalidated(what)
        except Exception:
            logger.exception("entries could not be dropped, so all are")
            self._lose()

    # --- sending -------------------------------------------------------------------------------

    async def _send(self) -> None:
        backoff_s = _MIN_BACKOFF_S
        try:
            while self._outbox:
                try:
                    async with asyncio.timeout(_TIMEOUT_S):
                        await self._publish(self._outbox)
                except Exception as error:
                    self._warn(error)
                    await asyncio.sleep(backoff_s * random.uniform(0.5, 1.0))
                    backoff_s = min(backoff_s * 2, _MAX_BACKOFF_S)
        finally:
            self._sending = None

    async def _send_each(
        self, outbox: deque[Invalidation], send: Callable[[bytes], Awaitable[Any]]
    ) -> None:
        while outbox:
            what = outbox[0]
            for payload in _payloads(self._me, what):
                await send(payload)
            if outbox and outbox[0] is what:  # it may have been replaced by EVERYTHING
                outbox.popleft()


class RedisInvalidations(Invalidations):
    """Over the channel `novellus:1:i:<database>`.

    Raises:
        MissingDependencyError, ConfigurationError: from the constructor alone.
    """

    def __init__(
        self,
        url: str,
        on_invalidated: Callable[[Invalidation], None],
        on_lost: Callable[[], None],
        *,
        ping_every_s: float = 5.0,
    ) -> None:
        from novellus_lab.cache.redis_server import RedisServer

        self._server = RedisServer(url)
        self._channel = b"novellus:1:i:%d" % self._server.database
        super().__init__(
            f"the invalidation channel in Redis at {self._server.where}",
            on_invalidated,
            on_lost,
            ping_every_s=ping_every_s,
        )

    async def _listen(self, on_listening: Callable[[], None]) -> None:
        connection = await self._server.connect()
        try:
            await connection.send(b"SUBSCRIBE", self._channel)
            if await connection.hear(_TIMEOUT_S) is None:
                raise TimeoutError("no answer in time")
            on_listening()
            while True:
                await self._hear_next(connection)
        finally:
            await connection.close()

    async def _hear_next(self, connection: RedisConnection) -> None:
        said = await connection.hear(self._ping_every_s)
        if said is None:
            await connection.send(b"PING")
            said = await connection.hear(self._ping_every_s)
            if said is None:
                raise TimeoutError("no answer in time")
        if said[0] == b"message":
            self._hear(said[2])

    async def _publish(self, outbox: deque[Invalidation]) -> None:
        connection = await self._server.connect()
        try:
            await self._send_each(
                outbox, lambda payload: connection.ask(b"PUBLISH", self._channel, payload)
            )
        finally:
            await connection.close()

    def _describe(self, error: BaseException) -> str:
        return self._server.describe(error)


class PostgresInvalidations(Invalidations):
    """Over the channel `novellus_invalidation_1` of the database. Needs a session of its own: no
    pooler that hands connections on between transactions.
    """

    _CHANNEL = "novellus_invalidation_1"

    def __init__(
        self,
        conninfo: str,
        on_invalidated: Callable[[Invalidation], None],
        on_lost: Callable[[], None],
        *,
        ping_every_s: float = 5.0,
    ) -> None:
        self._conninfo = conninfo
        super().__init__(
            "the invalidation channel in PostgreSQL",
            on_invalidated,
            on_lost,
            ping_every_s=ping_every_s,
        )

    async def _listen(self, on_listening: Callable[[], None]) -> None:
        connection = await self._connect()
        try:
            await connection.execute(f"LISTEN {self._CHANNEL}")
            on_listening()
            while True:
                async for notice in connection.notifies(timeout=self._ping_every_s):
                    self._hear(notice.payload.encode())
                async with asyncio.timeout(_TIMEOUT_S):
                    await connection.execute("SELECT 1")
        finally:
            await _end(connection)

    async def _publish(self, outbox: deque[Invalidation]) -> None:
        connection = await self._connect()
        try:
            await self._send_each(
                outbox,
                lambda payload: connection.execute(
                    "SELECT pg_notify(%s, %s)", [self._CHANNEL, payload.decode()]
                ),
            )
        finally:
            await _end(connection)

    async def _connect(self) -> psycopg.AsyncConnection[Any]:
        import psycopg

        return await psycopg.AsyncConnection.connect(
            self._conninfo, autocommit=True, connect_timeout=5
        )

    def _describe(self, error: BaseException) -> str:
        from novellus_lab.store.database import cause

        return cause(error)


async def _end(connection: psycopg.AsyncConnection[Any]) -> None:
    with contextlib.suppress(Exception):
        await connection.close()


def _payloads(sender: str, what: Invalidation) -> Iterator[bytes]:
    if what.everything or what.token is not None:
        yield orjson.dumps({"from": sender, "all": what.everything, "token": what.token})
    keys: list[str] = []
    size = 0
    for key in what.keys:
        if keys and size + len(key) > _KEY_BYTES_A_MESSAGE:
            yield orjson.dumps({"from": sender, "keys": keys})
            keys, size = [], 0
        keys.append(key.hex())
        size += len(key) + 2  # the quotes and the comma
    if keys:
        yield orjson.dumps({"from": sender, "keys": keys})


def _read(payload: bytes) -> tuple[str, Invalidation]:
    """Read what `_payloads` wrote. Raises ValueError, KeyError or TypeError if it is else."""
    data = orjson.loads(payload)
    keys = tuple(bytes.fromhex(key) for key in data.get("keys", ()))
    token = data.get("token")
    if token is not None and not isinstance(token, str):
        raise TypeError("its token is no text")
    what = Invalidation(keys, token, data.get("all", False) is True)
    if not (what.keys or what.token is not None or what.everything):
        raise ValueError("it names nothing")
    return data["from"], what
