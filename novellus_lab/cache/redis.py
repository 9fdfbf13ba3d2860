"""The tier between memory and PostgreSQL: Redis or Valkey.

The twin of `postgres.py`: reads that wait at the same time go as one MGET, writes go in the
background, and while the server is away every read is a miss, at once. An entry that was discarded
meanwhile is removed before the first read after the outage.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

from novellus_lab.cache.entry import CacheEntry
from novellus_lab.cache.outage import Outage
from novellus_lab.cache.redis_server import RedisServer, RedisSession

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

logger = logging.getLogger("novellus_lab.cache")

PREFIX = b"novellus:1:r:"
"""Of every key. Change the number when the form of a value changes: versions then never meet."""

_FORMAT = b"N1"
_DIGEST_BYTES = 8

_READ_BATCH = 200
_WRITE_BATCH = 200
_REMOVE_BATCH = 1_000
_SWEEP_BATCH = 500
_MAX_WAITING_WRITES = 10_000
_MAX_WAITING_DISCARDS = 100_000
_NO_KEY = b"probe"
_REMOVE = b"UNLINK"
_LAST_MS = 1 << 53
"""Some 285,000 years: beyond any calendar, below what the server refuses."""


@dataclass(frozen=True, slots=True)
class RedisStats:
    """Counts since the start."""

    read_errors: int
    """Reads that failed, and were misses."""
    write_errors: int
    """Entries that can't be stored: refused by the server, or without a form in bytes."""
    dropped_writes: int
    """Entries that waited for the server until there was no more room."""
    waiting_writes: int
    """Entries and discards that wait now."""
    unreadable: int
    """Values that were truncated, of another version or not ours, and were misses."""
    oversized: int
    """Entries that were larger than `max_value_bytes`, and were not stored."""
    away: bool


class RedisTier:
    """Runs on one event loop; every method must be called there. None raises the server's errors.

    Args:
        url: redis://, rediss:// or unix://; no cluster, no Sentinel.
        read_timeout_s: a read that takes longer is a miss, and the server counts as away.
        write_timeout_s: as it says, for up to 200 entries.
        max_value_bytes: larger entries are not stored here.
        stale_s: how long after its end an entry is kept, and can still be read.

    Raises:
        MissingDependencyError, ConfigurationError: from the constructor alone.
    """

    def __init__(
        self,
        url: str,
        *,
        read_timeout_s: float = 0.5,
        write_timeout_s: float = 5.0,
        max_value_bytes: int = 8_000_000,
        stale_s: float = 0.0,
    ) -> None:
        self._server = RedisServer(url)
        self._read_timeout_s = read_timeout_s
        self._write_timeout_s = write_timeout_s
        self._max_value_bytes = max_value_bytes
        self._stale_s = stale_s
        self._reader = RedisSession(self._server)
        self._writer = RedisSession(self._server)
        self._asked: deque[tuple[bytes, asyncio.Future[CacheEntry | None]]] = deque()
        self._reading: asyncio.Task[None] | None = None
        # What was stored or discarded (None) while the server was being asked: its answer is out of date.
        self._changed: dict[bytes, CacheEntry | None] = {}
        self._cleared = False
        # A key waits in one of them at most: what is to be stored, what is to be removed.
        self._puts: dict[bytes, CacheEntry] = {}
        self._removals: dict[bytes, None] = {}
        self._storing: dict[bytes, CacheEntry | None] = {}
        self._writing: asyncio.Task[None] | None = None
        self._round = asyncio.Event()
        self._clear_when_back = False
        self._closed = False
        self._read_errors = self._write_errors = self._dropped = 0
        self._unreadable = self._oversized = 0
        self._outage = Outage(
            f"the Redis cache at {self._server.where}",
            self._come_back,
            describe=self._server.describe,
            on_back=self._wake_writer,
        )

    def __repr__(self) -> str:
        return f"RedisTier({self._server.where!r})"

    def stats(self) -> RedisStats:
        return RedisStats(
            self._read_errors,
            self._write_errors,
            self._dropped,
            len(self._puts) + len(self._removals) + len(self._storing),
            self._unreadable,
            self._oversized,
            self._outage.away,
        )

    async def get(self, key: bytes) -> CacheEntry | None:
        """Return the unexpired entry, or None: also when the server can't be asked."""
        if self._closed:
            return None
        if self._is_unstored(key):
            return self._unexpired(self._unstored(key))
        if self._outage.away:
            return None
        future: asyncio.Future[CacheEntry | None] = asyncio.get_running_loop().create_future()
        self._asked.append((key, future))
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
        return await future

    async def get_many(self, keys: Sequence[bytes]) -> dict[bytes, CacheEntry]:
        """Return those of the keys that are there."""
        found = await asyncio.gather(*(self.get(key) for key in dict.fromkeys(keys)))
        return {entry.key: entry for entry in found if entry is not None}

    def put(self, entry: CacheEntry) -> None:
        """Store an entry soon. What this process reads meanwhile is the new one."""
        if self._closed:
            return
        if self._reading is not None:
            self._changed[entry.key] = entry
        self._removals.pop(entry.key, None)
        self._puts.pop(entry.key, None)  # to the end of the queue
        self._puts[entry.key] = entry
        if len(self._puts) > _MAX_WAITING_WRITES:
            del self._puts[next(iter(self._puts))]
            self._dropped += 1
        self._wake_writer()

    def discard(self, key: bytes) -> None:
        """Remove an entry soon; this process does not find it from now on.

        With the server away it is removed as soon as it is back, before anything is read.
        """
        if self._closed:
            return
        if self._reading is not None:
            self._changed[key] = None
        self._puts.pop(key, None)
        self._removals[key] = None
        if len(self._removals) > _MAX_WAITING_DISCARDS:  # as a last resort all of them
            self._removals.clear()
            self._clear_when_back = True
        self._wake_writer()

    async def discard_where(self, matches: Callable[[CacheEntry], bool]) -> int:
        """Remove the entries that match, looking through all; return how many were removed.

        With the server away, all are removed when it is back: rather too many than one too few.
        """
        self._cleared = True
        for key, entry in self._changed.items():
            if entry is not None and matches(entry):
                self._changed[key] = None
        unstored = self._storing | self._puts
        for key, entry in unstored.items():
            if entry is not None and matches(entry):
                self.discard(key)
        return await self._sweep_or_remember(matches)

    async def clear(self) -> int:
        """Remove all entries, now or as soon as the server is back; return how many were removed."""
        self._cleared = True
        self._changed.clear()
        self._puts.clear()
        self._removals = dict.fromkeys(self._storing)
        self._wake_writer()
        return await self._sweep_or_remember(None)

    async def flush(self, timeout_s: float = 5.0) -> None:
        """Return when what was put before is stored, the time is over, or the server is away."""
        before = {*self._puts, *self._removals, *self._storing}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not self._outage.away and any(map(self._is_unstored, before)):
                    self._wake_writer()
                    await self._round.wait()

    async def close(self) -> None:
        """Store what waits, if the server answers, and close the connections. Idempotent."""
        if self._closed:
            return
        await self.flush(timeout_s=2.0)
        self._closed = True
        if self._removals or self._clear_when_back:
            logger.warning(
                "discarded entries are left in the Redis cache at %s: it is away",
                self._server.where,
            )
        await self._outage.close()
        for task in (self._reading, self._writing):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        while self._asked:
            _answer(self._asked.popleft()[1], None)
        await self._reader.close()
        await self._writer.close()

    # --- reading -----------------------------------------------------------------------------

    async def _read(self) -> None:
        try:
            while self._asked:
                batch = [self._asked.popleft() for _ in range(min(len(self._asked), _READ_BATCH))]
                found: Mapping[bytes, CacheEntry] = {}
                self._changed.clear()
                self._cleared = False
                try:
                    if not self._outage.away:
                        async with asyncio.timeout(self._read_timeout_s):
                            found = await self._fetch(list({key for key, _ in batch}))
                except Exception as error:  # never a call's business
                    self._read_errors += len(batch)
                    self._went_away(error)
                finally:
                    for key, future in batch:
                        _answer(future, self._unexpired(self._newest(key, found)))
        finally:
            self._reading = None

    async def _fetch(self, keys: list[bytes]) -> dict[bytes, CacheEntry]:
        values = await self._reader.ask(b"MGET", *[_name(key) for key in keys])
        found = {}
        for key, value in zip(keys, values, strict=True):
            if value is not None:
                entry = self._parsed(key, value)
                if entry is not None:
                    found[key] = entry
        return found

    def _parsed(self, key: bytes, value: bytes) -> CacheEntry | None:
        try:
            return decode(key, value)
        except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
            self._unreadable += 1
            # One that is asked for often would fill the log: the rest is counted.
            level = logging.WARNING if self._unreadable == 1 else logging.DEBUG
            logger.log(level, "a value in Redis can't be read and counts as a miss: %r", error)
            return None

    def _newest(self, key: bytes, found: Mapping[bytes, CacheEntry]) -> CacheEntry | None:
        if self._is_unstored(key):
            return self._unstored(key)
        if key in self._changed:  # what is read was on its way when this came
            return self._changed[key]
        return None if self._cleared else found.get(key)

    def _is_unstored(self, key: bytes) -> bool:
        return key in self._puts or key in self._removals or key in self._storing

    def _unstored(self, key: bytes) -> CacheEntry | None:
        """What will stand under a key; None: nothing."""
        if key in self._puts:
            return self._puts[key]
        return None if key in self._removals else self._storing[key]

    def _unexpired(self, entry: CacheEntry | None) -> CacheEntry | None:
        usable = entry is not None and entry.usable(time.time(), self._stale_s)
        return entry if usable else None

    # --- writing -----------------------------------------------------------------------------

    def _wake_writer(self) -> None:
        if self._writing is None and (self._puts or self._removals) and not self._outage.away:
            self._writing = asyncio.create_task(self._write())

    async def _write(self) -> None:
        try:
            while not self._outage.away:
                if self._removals:
                    await self._remove_some()
                elif self._puts:
                    await self._put_some()
                else:
                    break
        except Exception as error:  # never a call's business
            self._went_away(error)
        finally:
            self._writing = None
            self._end_round()

    async def _remove_some(self) -> None:
        keys = list(self._removals)[:_REMOVE_BATCH]
        for key in keys:
            del self._removals[key]
        try:
            await self._store(dict.fromkeys(keys))
        except BaseException:
            self._removals |= dict.fromkeys(key for key in keys if key not in self._puts)
            raise

    async def _put_some(self) -> None:
        batch = {key: self._puts.pop(key) for key in list(self._puts)[:_WRITE_BATCH]}
        try:
            await self._store(batch)
        except BaseException:
            self._puts = {k: e for k, e in batch.items() if k not in self._removals} | self._puts
            raise

    async def _store(self, batch: Mapping[bytes, CacheEntry | None]) -> None:
        """Store and remove. Raises if the connection is lost: then none may have been."""
        self._storing = dict(batch)
        try:
            now = time.time()
            commands = [self._command(key, entry, now) for key, entry in batch.items()]
            async with asyncio.timeout(self._write_timeout_s):
                answers = await self._writer.ask_all(commands)
        finally:
            self._storing = {}
            self._end_round()
        for command, answer in zip(commands, answers, strict=True):
            if isinstance(answer, Exception):
                if command[0] == _REMOVE:  # to be served what was discarded is worse than a miss
                    raise answer
                self._not_stored(answer)

    def _command(self, key: bytes, entry: CacheEntry | None, now: float) -> tuple[bytes, ...]:
        remove = (_REMOVE, _name(key))
        if entry is None or not entry.usable(now, self._stale_s):
            return remove
        try:
            value = encode(entry)
            if len(value) > self._max_value_bytes:
                self._oversized += 1
                return remove
            command = (b"SET", _name(key), value)
            if entry.expires_at is None:
                return command
            last_ms = min(int((entry.expires_at + self._stale_s) * 1000), _LAST_MS)
            return (*command, b"PXAT", b"%d" % max(last_ms, 1))
        except (TypeError, ValueError, OverflowError) as error:  # half a character, say
            self._not_stored(error)
            return remove

    def _not_stored(self, error: Exception) -> None:
        self._write_errors += 1
        # A server that is full or read-only says so for each: the rest is counted.
        level = logging.WARNING if self._write_errors == 1 else logging.DEBUG
        logger.log(
            level, "a cache entry could not be stored in Redis: %s", self._server.describe(error)
        )

    def _end_round(self) -> None:
        self._round.set()
        self._round = asyncio.Event()

    # --- removing what matches ---------------------------------------------------------------

    async def _sweep_or_remember(self, matches: Callable[[CacheEntry], bool] | None) -> int:
        if self._closed:
            return 0
        if not self._outage.away:
            try:
                return await self._sweep(matches)
            except Exception as error:
                self._went_away(error)
        self._clear_when_back = True
        return 0

    async def _sweep(self, matches: Callable[[CacheEntry], bool] | None) -> int:
        """Look through all entries, on a connection of its own. Raises if the server fails."""
        removed, cursor = 0, b"0"
        session = RedisSession(self._server)
        try:
            while True:
                async with asyncio.timeout(self._write_timeout_s):
                    cursor, names = await session.ask(
                        b"SCAN", cursor, b"MATCH", PREFIX + b"*", b"COUNT", _SWEEP_BATCH
                    )
                    if names and matches is not None:
                        values = await session.ask(b"MGET", *names)
                        names = [
                            name
                            for name, value in zip(names, values, strict=True)
                            if value is not None and self._matches(matches, name, value)
                        ]
                    if names:
                        removed += await session.ask(_REMOVE, *names)
                if cursor == b"0":
                    return removed
        finally:
            await session.close()

    def _matches(self, matches: Callable[[CacheEntry], bool], name: bytes, value: bytes) -> bool:
        try:
            entry = self._parsed(bytes.fromhex(name[len(PREFIX) :].decode()), value)
        except ValueError:
            return False  # not ours
        return entry is not None and matches(entry)

    # --- the server away ---------------------------------------------------------------------

    def _went_away(self, error: BaseException) -> None:
        self._outage.begin(error)
        self._end_round()

    async def _come_back(self) -> None:
        """Ask as a call would, and remove what was discarded meanwhile. Raises if that fails."""
        if self._writing is not None:  # its connection is needed; it ends with its batch
            await asyncio.wait([self._writing])
        await self._reader.open()  # to connect may take longer than a call would wait
        async with asyncio.timeout(self._read_timeout_s):
            await self._fetch([_NO_KEY])
        if self._clear_when_back:
            await self._sweep(None)
            self._clear_when_back = False
        while self._removals:
            await self._remove_some()


def encode(entry: CacheEntry) -> bytes:
    """Return an entry as it stands in Redis: format, digest of key and text, text.

    Raises:
        TypeError: a string of it has no UTF-8.
    """
    text = entry.to_json()
    return _FORMAT + _digest(entry.key, text) + text


def decode(key: bytes, value: bytes) -> CacheEntry:
    """Read what `encode` wrote.

    Raises:
        ValueError: it is something else, of another key, or not whole.
    """
    start = len(_FORMAT) + _DIGEST_BYTES
    if value[: len(_FORMAT)] != _FORMAT:
        raise ValueError(f"its format is {bytes(value[: len(_FORMAT)])!r}, not {_FORMAT!r}")
    text = value[start:]
    if value[len(_FORMAT) : start] != _digest(key, text):
        raise ValueError("it is not whole, or of another key")
    return CacheEntry.from_json(key, text)


def _digest(key: bytes, text: bytes) -> bytes:
    digest = blake2b(key, digest_size=_DIGEST_BYTES)
    digest.update(text)
    return digest.digest()


def _name(key: bytes) -> bytes:
    return PREFIX + key.hex().encode()


def _answer(future: asyncio.Future[CacheEntry | None], entry: CacheEntry | None) -> None:
    if not future.done():
        future.set_result(entry)
