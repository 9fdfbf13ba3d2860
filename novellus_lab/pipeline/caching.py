"""The caches of one process, wired: tiers, single flight, and word of what others discard."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from novellus_lab.cache.flight import SingleFlight
from novellus_lab.cache.invalidation import (
    EVERYTHING,
    Invalidation,
    PostgresInvalidations,
    RedisInvalidations,
)
from novellus_lab.cache.lease import PostgresLease, RedisLease
from novellus_lab.cache.manager import ResponseCache
from novellus_lab.cache.memory import MemoryTier
from novellus_lab.cache.postgres import PostgresTier
from novellus_lab.cache.redis import RedisTier
from novellus_lab.pipeline.semantic import SemanticCache, open_engine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from novellus_lab.cache.entry import CacheEntry
    from novellus_lab.cache.invalidation import Invalidations
    from novellus_lab.cache.lease import Lease
    from novellus_lab.pipeline.catalog import Model
    from novellus_lab.pipeline.embedding import ModelEmbedder
    from novellus_lab.settings import Settings


@dataclass(frozen=True)
class Caching:
    """Every coroutine runs on the lab's loop."""

    responses: ResponseCache
    flight: SingleFlight[CacheEntry] | None
    """None: equal requests that are under way know nothing of one another."""
    semantic: SemanticCache
    _lease: Lease | None
    _invalidations: Invalidations | None

    @classmethod
    def open(
        cls,
        settings: Settings,
        conninfo: str,
        *,
        kept_text: Callable[[str | None], str | None],
        scope_of: Callable[[tuple[Model, ...]], bytes],
        embed: Callable[[str], ModelEmbedder],
    ) -> Caching:
        """Wire the parts; nothing is connected yet.

        Args:
            kept_text: what may be stored of a prompt.
            scope_of: digest of the models that may answer.
            embed: returns what embeds by a configured embedding model.

        Raises:
            ConfigurationError, MissingDependencyError: Redis is configured, and can't be used.
        """
        cache = settings.cache
        redis_url = None if settings.redis_url is None else settings.redis_url.get_secret_value()
        stale_s = cache.stale_while_revalidate_seconds
        responses = ResponseCache(
            MemoryTier(max_entries=cache.max_entries, max_bytes=cache.max_bytes, stale_s=stale_s),
            PostgresTier(conninfo, stale_s=stale_s, max_entries=cache.max_stored_entries),
            None if redis_url is None else RedisTier(redis_url, stale_s=stale_s),
            stale_s=stale_s,
        )
        semantic = SemanticCache(
            cache.semantic_cache,
            responses,
            conninfo,
            open_engine=lambda: open_engine(cache.semantic_cache, embed),
            kept_text=kept_text,
            scope_of=scope_of,
        )
        if not cache.enabled:
            return cls(responses, None, semantic, None, None)

        def heard(what: Invalidation) -> None:
            keys = None if what.everything else what.keys
            responses.forget(keys)
            semantic.forget(keys)

        def lost() -> None:
            responses.forget(None)  # the semantic index follows the database, and loses nothing

        lease: Lease | None = None
        flight: SingleFlight[CacheEntry] | None = None
        if cache.single_flight:
            lease = PostgresLease(conninfo) if redis_url is None else RedisLease(redis_url)
            flight = SingleFlight(lease, stored=responses.stored)
        return cls(
            responses,
            flight,
            semantic,
            lease,
            PostgresInvalidations(conninfo, heard, lost)
            if redis_url is None
            else RedisInvalidations(redis_url, heard, lost),
        )

    async def start(self) -> None:
        """Begin to hear of what other processes discard, and to open what will be needed."""
        self.semantic.start()
        if self._invalidations is not None:
            await self._invalidations.start()

    async def discard(self, keys: Iterable[bytes]) -> int:
        """Remove entries everywhere, other processes' memories included; return how many there were.

        Raises:
            StoreUnavailableError: PostgreSQL can't be asked.
        """
        gone = tuple(keys)
        self.semantic.forget(gone)
        try:
            return await self.responses.discard(gone)
        finally:
            await self._tell(Invalidation(keys=gone) if gone else None)

    async def discard_where(self, condition: Callable[[CacheEntry], bool]) -> int:
        """Remove all entries of which `condition` holds; see `discard`."""
        gone = await self.responses.discard_where(condition)
        self.semantic.forget(gone)
        # Others may hold what the shared tiers never got: rather too much is dropped than too little.
        await self._tell(EVERYTHING)
        return len(gone)

    async def clear(self) -> int:
        """Remove all entries; see `discard`."""
        self.semantic.forget(None)
        try:
            return await self.responses.clear()
        finally:
            await self._tell(EVERYTHING)

    async def flush(self, timeout_s: float) -> None:
        """Return when what was put before is in every tier, the time is over, or they are away."""
        until = time.monotonic() + timeout_s
        await self.responses.flush(timeout_s)
        await self.semantic.flush(max(0.0, until - time.monotonic()))

    async def close(self) -> None:
        """Store what waits, give back leases, and close the connections."""
        if self.flight is not None:
            await self.flight.close()
        await self.semantic.close()
        await self.responses.close()
        if self._lease is not None:
            await self._lease.close()
        if self._invalidations is not None:
            await self._invalidations.close()

    async def _tell(self, what: Invalidation | None) -> None:
        if what is not None and self._invalidations is not None:
            self._invalidations.publish(what)
            await self._invalidations.flush()
