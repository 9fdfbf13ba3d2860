"""The shared tier: PostgreSQL's `ai_response_cache`.

Reads that wait at the same time go as one query, writes go in the background: neither a burst of
misses nor a slow disk is felt by a call. While the database does not answer every read is a miss,
at once: a task of its own, and no call, waits for it to come back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import Counter, deque
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, LiteralString

import orjson
import psycopg

from novellus_lab.cache.entry import CacheEntry
from novellus_lab.cache.memory import SECOND_USD
from novellus_lab.errors import StoreUnavailableError
from novellus_lab.store.database import cause
from novellus_lab.store.storable import storable_text

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

logger = logging.getLogger("novellus_lab.cache")

_READ = """
SELECT cache_key, response::text FROM public.ai_response_cache
WHERE cache_key = ANY(%s) AND (expires_at IS NULL OR expires_at > now() - %s * interval '1 second')
"""

_WRITE = """
INSERT INTO public.ai_response_cache (cache_key, kind, model, provider, prompt, response, cost_usd,
                                      latency_ms, source_request_id, created_at, expires_at, tags)
VALUES (%s, %s, %s, %s, %s, %s::json, %s, %s, %s, %s, %s, %s::jsonb)
ON CONFLICT (cache_key) DO UPDATE SET
    kind = excluded.kind, model = excluded.model, provider = excluded.provider,
    prompt = excluded.prompt, response = excluded.response, cost_usd = excluded.cost_usd,
    latency_ms = excluded.latency_ms, source_request_id = excluded.source_request_id,
    created_at = excluded.created_at, expires_at = excluded.expires_at, tags = excluded.tags,
    hits = 0, last_hit_at = NULL
"""

_COUNT_HITS = """
UPDATE public.ai_response_cache AS c SET hits = c.hits + h.n, last_hit_at = now()
FROM unnest(%s::bytea[], %s::bigint[]) AS h (cache_key, n) WHERE c.cache_key = h.cache_key
"""

# By the index on expires_at, a few at a time, and none that another process is at.
_PURGE = """
DELETE FROM public.ai_response_cache WHERE cache_key IN (
    SELECT cache_key FROM public.ai_response_cache
    WHERE expires_at <= now() - %s * interval '1 second'
    ORDER BY expires_at LIMIT %s FOR UPDATE SKIP LOCKED)
"""

# Worth, as in memory: what an entry saves each time, by its uses, by its bytes; halved with each
# day that nobody used it. One process at a time, and only where there are too many.
_EVICT = """
DELETE FROM public.ai_response_cache WHERE cache_key IN (
    SELECT cache_key FROM public.ai_response_cache
    ORDER BY greatest(coalesce(cost_usd, 0)::float8 + coalesce(latency_ms, 0) / 1000 * %(second_usd)s,
                      1e-6)
             * (1 + hits) / (1500 + octet_length(response::text))
             * exp(-ln(2) * extract(epoch FROM now() - coalesce(last_hit_at, created_at)) / 86400)
    LIMIT greatest((SELECT count(*) FROM public.ai_response_cache) - %(most)s, 0))
AND pg_try_advisory_xact_lock(1313821784)
"""

_DISCARD = "DELETE FROM public.ai_response_cache WHERE cache_key = ANY(%s)"

_SIZE = """
SELECT count(*), coalesce(sum(octet_length(response::text)), 0)::bigint
FROM public.ai_response_cache
"""

_CLEAR = "DELETE FROM public.ai_response_cache"

_LIST = """
SELECT cache_key, response::text FROM public.ai_response_cache
WHERE cache_key > %s ORDER BY cache_key LIMIT %s
"""

_READ_BATCH = 500
_WRITE_BATCH = 200
_PURGE_BATCH = 500
_MAX_WAITING_WRITES = 10_000
_MAX_WAITING_HITS = 100_000
_MIN_BACKOFF_S = 0.1
_MAX_BACKOFF_S = 5.0

_UNREADABLE = (ValueError, KeyError, TypeError, ArithmeticError, AttributeError)
"""What reading another version's, or a broken, entry raises."""

_FAULTS = (psycopg.Error, OSError, TimeoutError)


@dataclass(frozen=True, slots=True)
class TierStats:
    """Counts since the start: failed reads are misses, dropped writes were never stored."""

    read_errors: int
    write_errors: int
    dropped_writes: int
    waiting_writes: int


@dataclass(frozen=True, slots=True)
class Size:
    """How much is stored, by all processes together."""

    entries: int
    size_bytes: int
    """Of the answers' JSON, before the database compresses it."""


class PostgresTier:
    """Runs on one event loop; every method but `count_hit` must be called there.

    Args:
        conninfo: the database.
        read_timeout_s: a read that takes longer is a miss.
        tend_every_s: how often hits are written.
        purge_every_s: how often expired entries are removed, 500 at a time, and surplus ones.
        stale_s: how long after its end an entry can still be read.
        max_entries: beyond, what is worth least goes; None: no bound.
    """

    def __init__(
        self,
        conninfo: str,
        *,
        read_timeout_s: float = 2.0,
        tend_every_s: float = 1.0,
        purge_every_s: float = 60.0,
        stale_s: float = 0.0,
        max_entries: int | None = None,
    ) -> None:
        self._conninfo = conninfo
        self._read_timeout_s = read_timeout_s
        self._tend_every_s = tend_every_s
        self._purge_every_s = purge_every_s
        self._stale_s = stale_s
        self._max_entries = max_entries
        self._reader: psycopg.AsyncConnection[Any] | None = None
        self._writer: psycopg.AsyncConnection[Any] | None = None
        self._waiting: deque[tuple[bytes, asyncio.Future[CacheEntry | None]]] = deque()
        self._reading: asyncio.Task[None] | None = None
        self._writes: deque[tuple[CacheEntry, str | None]] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._hits: deque[bytes] = deque(maxlen=_MAX_WAITING_HITS)
        self._tending: asyncio.Task[None] | None = None
        self._recovering: asyncio.Task[None] | None = None
        self._down = False
        self._closed = False
        self._read_errors = self._write_errors = self._dropped = 0

    def stats(self) -> TierStats:
        return TierStats(self._read_errors, self._write_errors, self._dropped, len(self._writes))

    async def get(self, key: bytes) -> CacheEntry | None:
        """Return the unexpired entry, or None: also when the database can't be asked."""
        if self._down or self._closed:
            return None
        future: asyncio.Future[CacheEntry | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((key, future))
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
        self._start_tending()
        return await future

    async def get_many(self, keys: Sequence[bytes]) -> dict[bytes, CacheEntry]:
        """Return those of the keys that are there."""
        found = await asyncio.gather(*(self.get(key) for key in keys))
        return {entry.key: entry for entry in found if entry is not None}

    def put(self, entry: CacheEntry, prompt: str | None) -> None:
        """Store an entry soon. `prompt` is shown to people and embedded; None keeps it unstored."""
        if self._closed:
            return
        self._writes.append((entry, prompt))
        self._drop_surplus()
        self._wake_writer()
        self._start_tending()

    def count_hit(self, key: bytes) -> None:
        """Note that an entry was served, from whichever tier. Any thread; written with a delay."""
        self._hits.append(key)

    async def flush(self, timeout_s: float = 5.0) -> None:
        """Return when what was put before is stored, the time is over, or the database is away."""
        with contextlib.suppress(*_FAULTS):
            async with asyncio.timeout(timeout_s):
                while (self._writes or self._writing is not None) and not self._down:
                    self._wake_writer()
                    await asyncio.sleep(0.005)
                if not self._down:
                    await self._write_hits()

    async def close(self) -> None:
        """Store what waits, if the database answers, and close the connections. Idempotent."""
        if self._closed:
            return
        await self.flush(timeout_s=2.0)
        self._closed = True
        for task in (self._reading, self._writing, self._tending, self._recovering):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        while self._waiting:
            _answer(*self._waiting.popleft(), {})
        await _end(self._reader)
        await _end(self._writer)

    # --- reading -----------------------------------------------------------------------------

    async def _read(self) -> None:
        try:
            while self._waiting:
                batch = [
                    self._waiting.popleft() for _ in range(min(len(self._waiting), _READ_BATCH))
                ]
                found: dict[bytes, CacheEntry] = {}
                try:
                    if not self._down:
                        async with asyncio.timeout(self._read_timeout_s):
                            found = await self._query(list({key for key, _ in batch}))
                except _FAULTS as error:
                    self._read_errors += len(batch)
                    reader, self._reader = self._reader, None
                    await _end(reader)
                    self._went_down(error)
                finally:
                    for key, future in batch:
                        _answer(key, future, found)
        finally:
            self._reading = None

    async def _query(self, keys: list[bytes]) -> dict[bytes, CacheEntry]:
        if self._reader is None or self._reader.closed:
            self._reader = await self._connect()
        cursor = await self._reader.execute(_READ, [keys, self._stale_s], prepare=True, binary=True)
        found = {}
        for key, response in await cursor.fetchall():
            try:
                found[key] = CacheEntry.from_json(key, response)
            except _UNREADABLE as error:
                logger.warning("a cache entry can't be read and counts as a miss: %r", error)
        return found

    # --- writing -----------------------------------------------------------------------------

    def _wake_writer(self) -> None:
        if self._writing is None and self._writes and not self._down:
            self._writing = asyncio.create_task(self._write())

    def _drop_surplus(self) -> None:
        while len(self._writes) > _MAX_WAITING_WRITES:
            self._writes.popleft()
            self._dropped += 1

    async def _write(self) -> None:
        try:
            while self._writes and not self._down:
                batch = [
                    self._writes.popleft() for _ in range(min(len(self._writes), _WRITE_BATCH))
                ]
                try:
                    await self._store(batch)
                except _FAULTS as error:
                    self._writes.extendleft(reversed(batch))
                    self._drop_surplus()
                    self._went_down(error)
        finally:
            self._writing = None

    async def _store(self, batch: list[tuple[CacheEntry, str | None]]) -> None:
        """Store what can be stored. Raises if the connection is lost: then none may have been."""
        rows: dict[bytes, tuple[Any, ...]] = {}
        for entry, prompt in batch:
            try:
                rows[entry.key] = _row(entry, prompt)
            except (TypeError, ValueError) as error:  # half a character, say: no UTF-8 has it
                self._not_stored(error)
        # One order for all writers, so that two of them can't wait for each other's rows.
        ordered = [rows[key] for key in sorted(rows)]
        writer = await self._connected_writer()
        try:
            async with writer.cursor() as cursor:
                await cursor.executemany(_WRITE, ordered)
        except psycopg.Error:
            if writer.closed:
                raise
            for row in ordered:
                try:
                    await writer.execute(_WRITE, row)
                except psycopg.Error as error:
                    if writer.closed:
                        raise
                    self._not_stored(error)

    def _not_stored(self, error: Exception) -> None:
        self._write_errors += 1
        logger.warning("a cache entry could not be stored: %s", cause(error))

    async def _connected_writer(self) -> psycopg.AsyncConnection[Any]:
        if self._writer is None or self._writer.closed:
            self._writer = await self._connect()
        return self._writer

    # --- in the background -------------------------------------------------------------------

    def _start_tending(self) -> None:
        if self._tending is None:
            self._tending = asyncio.create_task(self._tend())

    async def _tend(self) -> None:
        # Not all processes at once.
        purge_at = time.monotonic() + self._purge_every_s * random.random()
        while True:
            await asyncio.sleep(self._tend_every_s)
            if self._down:
                continue
            try:
                await self._write_hits()
                if time.monotonic() >= purge_at:
                    purge_at = time.monotonic() + self._purge_every_s
                    if await self._purge() == _PURGE_BATCH:
                        purge_at = 0.0  # there may be more: go on at the next turn
                    await self.evict()
            except _FAULTS as error:
                if self._writer is None or self._writer.closed:
                    self._went_down(error)
                else:  # may not delete, say
                    logger.debug("the shared cache can't be tended: %s", error)

    async def _write_hits(self) -> None:
        """Add what was counted; when that fails it is lost: these are statistics."""
        hits = Counter(self._hits.popleft() for _ in range(len(self._hits)))
        if hits:
            keys = sorted(hits)
            writer = await self._connected_writer()
            await writer.execute(_COUNT_HITS, [keys, [hits[key] for key in keys]])

    async def _purge(self) -> int:
        writer = await self._connected_writer()
        return (await writer.execute(_PURGE, [self._stale_s, _PURGE_BATCH])).rowcount

    async def evict(self) -> int:
        """Remove what is worth least where there are more than `max_entries`; return how many."""
        if self._max_entries is None:
            return 0
        writer = await self._connected_writer()
        most = {"most": self._max_entries, "second_usd": SECOND_USD}
        return (await writer.execute(_EVICT, most)).rowcount

    async def size(self) -> Size | None:
        """Return how much is stored; None while the database can't be asked."""
        with contextlib.suppress(*_FAULTS):
            await self.flush()
            writer = await self._connected_writer()
            row = await (await writer.execute(_SIZE)).fetchone()
            return None if row is None else Size(*row)
        return None

    # --- invalidation ------------------------------------------------------------------------

    async def discard(self, keys: Sequence[bytes]) -> int:
        """Remove entries; return how many there were. Those that wait to be stored are dropped, too.

        Raises:
            StoreUnavailableError: the database can't be asked; nothing may have been removed there.
        """
        gone = set(keys)
        self._writes = deque(w for w in self._writes if w[0].key not in gone)
        return await self._remove(_DISCARD, list(gone))

    async def clear(self) -> int:
        """Remove all entries; see `discard`."""
        self._writes.clear()
        return await self._remove(_CLEAR)

    async def _remove(self, statement: LiteralString, *parameters: Any) -> int:
        if self._writing is not None:  # one of them may be on its way
            await asyncio.wait([self._writing])
        try:
            writer = await self._connected_writer()
            return (await writer.execute(statement, parameters)).rowcount
        except _FAULTS as error:
            raise StoreUnavailableError(
                f"the shared cache can't be reached, and may still hold what was to be removed: "
                f"{cause(error)}"
            ) from None

    async def entries(self) -> AsyncIterator[CacheEntry]:
        """Yield all entries that are stored, in the order of their keys; what can't be read is left out.

        Raises:
            StoreUnavailableError
        """
        await self.flush()
        after = b""
        while True:
            try:
                writer = await self._connected_writer()
                rows = await (await writer.execute(_LIST, [after, _READ_BATCH])).fetchall()
            except _FAULTS as error:
                raise StoreUnavailableError(
                    f"the shared cache can't be read: {cause(error)}"
                ) from None
            for key, response in rows:
                with contextlib.suppress(*_UNREADABLE):
                    yield CacheEntry.from_json(bytes(key), response)
            if len(rows) < _READ_BATCH:
                return
            after = bytes(rows[-1][0])

    # --- outage ------------------------------------------------------------------------------

    def _went_down(self, error: BaseException) -> None:
        if self._down or self._closed:
            return
        self._down = True
        logger.warning(
            "the shared cache can't be reached, calls go on without it: %s",
            cause(error),
        )
        self._recovering = asyncio.create_task(self._recover())

    async def _recover(self) -> None:
        """Try until the database answers a read again."""
        backoff_s = _MIN_BACKOFF_S
        while True:
            await asyncio.sleep(backoff_s * random.uniform(0.5, 1.0))
            backoff_s = min(backoff_s * 2, _MAX_BACKOFF_S)
            try:
                async with asyncio.timeout(_MAX_BACKOFF_S):
                    await self._query([])
                break
            except _FAULTS:
                reader, self._reader = self._reader, None
                await _end(reader)
        self._down = False
        logger.warning("the shared cache is back")
        self._wake_writer()

    async def _connect(self) -> psycopg.AsyncConnection[Any]:
        return await psycopg.AsyncConnection.connect(
            self._conninfo, autocommit=True, connect_timeout=5
        )


def _answer(
    key: bytes, future: asyncio.Future[CacheEntry | None], found: dict[bytes, CacheEntry]
) -> None:
    if not future.done():
        future.set_result(found.get(key))


async def _end(connection: psycopg.AsyncConnection[Any] | None) -> None:
    if connection is not None:
        with contextlib.suppress(psycopg.Error, OSError):
            await connection.close()


def _row(entry: CacheEntry, prompt: str | None) -> tuple[Any, ...]:
    return (
        entry.key,
        entry.kind,
        entry.model,
        entry.provider,
        None if prompt is None else storable_text(prompt),
        entry.to_json().decode(),
        entry.cost_usd,
        entry.original_latency_ms,
        entry.source_request_id,
        datetime.fromtimestamp(entry.created_at, UTC),
        None if entry.expires_at is None else datetime.fromtimestamp(entry.expires_at, UTC),
        storable_text(orjson.dumps(dict(entry.tags), default=str).decode()),
    )
