"""The shared tier: PostgreSQL's `ai_response_cache`.

Reads that wait at the same time go as one query, writes go in the background: neither a burst of
misses nor a slow disk is felt by a call. A fault of the database makes every read a miss.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import psycopg

from novellus_lab.cache.entry import CacheEntry

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

logger = logging.getLogger("novellus_lab.cache")

_READ = """
SELECT cache_key, response::text FROM ai_response_cache
WHERE cache_key = ANY(%s) AND (expires_at IS NULL OR expires_at > now())
"""

_WRITE = """
INSERT INTO ai_response_cache (cache_key, kind, model, provider, prompt, response, cost_usd,
                               latency_ms, source_request_id, created_at, expires_at)
VALUES (%s, %s, %s, %s, %s, %s::json, %s, %s, %s, %s, %s)
ON CONFLICT (cache_key) DO UPDATE SET
    kind = excluded.kind, model = excluded.model, provider = excluded.provider,
    prompt = excluded.prompt, response = excluded.response, cost_usd = excluded.cost_usd,
    latency_ms = excluded.latency_ms, source_request_id = excluded.source_request_id,
    created_at = excluded.created_at, expires_at = excluded.expires_at
"""

_COUNT_HITS = """
UPDATE ai_response_cache AS c SET hits = c.hits + h.n, last_hit_at = now()
FROM unnest(%s::bytea[], %s::bigint[]) AS h (cache_key, n) WHERE c.cache_key = h.cache_key
"""

_READ_BATCH = 500
_WRITE_BATCH = 200
_MAX_WAITING_WRITES = 10_000
_RETRY_AFTER_S = 1.0
_HITS_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class TierStats:
    """Counts since the start: failed reads are misses, dropped writes were never stored."""

    read_errors: int
    write_errors: int
    dropped_writes: int
    waiting_writes: int


class PostgresTier:
    """Runs on one event loop; every method but `count_hit` must be called there."""

    def __init__(self, conninfo: str, *, read_timeout_s: float = 2.0) -> None:
        self._conninfo = conninfo
        self._read_timeout_s = read_timeout_s
        self._reader: psycopg.AsyncConnection[Any] | None = None
        self._writer: psycopg.AsyncConnection[Any] | None = None
        self._waiting: deque[tuple[bytes, asyncio.Future[CacheEntry | None]]] = deque()
        self._reading: asyncio.Task[None] | None = None
        self._writes: deque[tuple[CacheEntry, str | None]] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._hits: dict[bytes, int] = {}
        self._down_until = 0.0
        self._warned = False
        self._read_errors = self._write_errors = self._dropped = 0

    def stats(self) -> TierStats:
        return TierStats(self._read_errors, self._write_errors, self._dropped, len(self._writes))

    async def get(self, key: bytes) -> CacheEntry | None:
        """Return the unexpired entry, or None: also when the database can't be asked."""
        if time.monotonic() < self._down_until:
            return None
        future: asyncio.Future[CacheEntry | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((key, future))
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
        return await future

    async def get_many(self, keys: Sequence[bytes]) -> dict[bytes, CacheEntry]:
        """Return those of the keys that are there."""
        found = await asyncio.gather(*(self.get(key) for key in keys))
        return {entry.key: entry for entry in found if entry is not None}

    def put(self, entry: CacheEntry, prompt: str | None) -> None:
        """Store an entry soon. `prompt` is shown to people and embedded; None keeps it unstored."""
        if len(self._writes) >= _MAX_WAITING_WRITES:
            self._writes.popleft()
            self._dropped += 1
        self._writes.append((entry, prompt))
        self._wake_writer()

    def count_hit(self, key: bytes) -> None:
        """Note that an entry was served, from whichever tier. Any thread; written with a delay."""
        self._hits[key] = self._hits.get(key, 0) + 1

    async def flush(self, timeout_s: float = 5.0) -> None:
        """Return when what was put before is stored, or the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._writes or self._writing is not None:
                    self._wake_writer()
                    await asyncio.sleep(0.005)
        with contextlib.suppress(psycopg.Error, OSError, TimeoutError):
            await self._write_hits()

    async def close(self) -> None:
        await self.flush(timeout_s=2.0)
        for task in (self._reading, self._writing):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        for connection in (self._reader, self._writer):
            if connection is not None:
                with contextlib.suppress(psycopg.Error):
                    await connection.close()

    async def _read(self) -> None:
        try:
            while self._waiting:
                batch = [
                    self._waiting.popleft() for _ in range(min(len(self._waiting), _READ_BATCH))
                ]
                found: dict[bytes, CacheEntry] = {}
                try:
                    async with asyncio.timeout(self._read_timeout_s):
                        found = await self._query(list({key for key, _ in batch}))
                except (psycopg.Error, OSError, TimeoutError) as error:
                    self._read_errors += len(batch)
                    await self._drop_reader()
                    self._went_down(error)
                finally:
                    for key, future in batch:
                        if not future.done():
                            future.set_result(found.get(key))
        finally:
            self._reading = None

    async def _query(self, keys: list[bytes]) -> dict[bytes, CacheEntry]:
        if self._reader is None or self._reader.closed:
            self._reader = await self._connect()
        cursor = await self._reader.execute(_READ, [keys], prepare=True, binary=True)
        found = {}
        for key, response in await cursor.fetchall():
            try:
                found[key] = CacheEntry.from_json(key, response)
            except (ValueError, KeyError, TypeError) as error:
                logger.warning("a cache entry can't be read and counts as a miss: %r", error)
        self._came_back()
        return found

    def _wake_writer(self) -> None:
        if self._writing is None and self._writes:
            self._writing = asyncio.create_task(self._write())

    async def _write(self) -> None:
        try:
            while self._writes:
                batch = [
                    self._writes.popleft() for _ in range(min(len(self._writes), _WRITE_BATCH))
                ]
                try:
                    await self._with_writer(lambda c, b=batch: _insert(c, b))  # type: ignore[misc]
                except (psycopg.OperationalError, OSError, TimeoutError) as error:
                    self._writes.extendleft(reversed(batch))
                    self._went_down(error)
                    await asyncio.sleep(_RETRY_AFTER_S)
                except psycopg.Error as error:
                    self._write_errors += len(batch)
                    logger.warning("%d cache entries could not be stored: %s", len(batch), error)
                if len(self._hits) > 1000:
                    with contextlib.suppress(psycopg.Error, OSError):
                        await self._write_hits()
        finally:
            self._writing = None

    async def _write_hits(self) -> None:
        if not self._hits:
            return
        hits, self._hits = self._hits, {}
        # One order for all writers, so that two of them can't wait for each other's rows.
        keys = sorted(hits)
        await self._with_writer(
            lambda c: c.execute(_COUNT_HITS, [keys, [hits[key] for key in keys]])
        )

    async def _with_writer(
        self, work: Callable[[psycopg.AsyncConnection[Any]], Awaitable[Any]]
    ) -> None:
        if self._writer is None or self._writer.closed:
            self._writer = await self._connect()
        await work(self._writer)

    async def _connect(self) -> psycopg.AsyncConnection[Any]:
        return await psycopg.AsyncConnection.connect(
            self._conninfo, autocommit=True, connect_timeout=5
        )

    async def _drop_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            with contextlib.suppress(psycopg.Error, OSError):
                await reader.close()

    def _went_down(self, error: BaseException) -> None:
        self._down_until = time.monotonic() + _RETRY_AFTER_S
        if not self._warned:
            self._warned = True
            logger.warning(
                "the shared cache can't be reached, calls go on without it: %s",
                str(error).strip() or type(error).__name__,
            )

    def _came_back(self) -> None:
        if self._warned:
            self._warned = False
            logger.warning("the shared cache is back")


async def _insert(
    connection: psycopg.AsyncConnection[Any], batch: list[tuple[CacheEntry, str | None]]
) -> None:
    async with connection.cursor() as cursor:
        await cursor.executemany(_WRITE, [_row(entry, prompt) for entry, prompt in batch])


def _row(entry: CacheEntry, prompt: str | None) -> tuple[Any, ...]:
    return (
        entry.key,
        "chat" if entry.vector is None else "embedding",
        entry.model,
        entry.provider,
        None if prompt is None else prompt.replace("\x00", "\ufffd"),
        entry.to_json().decode(),
        entry.cost_usd,
        entry.original_latency_ms,
        entry.source_request_id,
        datetime.fromtimestamp(entry.created_at, UTC),
        None if entry.expires_at is None else datetime.fromtimestamp(entry.expires_at, UTC),
    )
