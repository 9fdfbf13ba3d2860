"""The tiers as one: process memory, then Redis where it is configured, then PostgreSQL."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from novellus_lab.types import CacheOutcome

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from novellus_lab.cache.entry import CacheEntry
    from novellus_lab.cache.memory import MemoryTier
    from novellus_lab.cache.policy import CachePolicy
    from novellus_lab.cache.postgres import PostgresTier
    from novellus_lab.cache.redis import RedisTier


_FOR_EVER_S = 100 * 366 * 86_400
"""Beyond a century: more than a calendar holds would be an error of the database's."""


class ResponseCache:
    """Looks a key up tier by tier, and fills the faster ones from the slower.

    Args:
        stale_s: how long after its end an entry may be served while a new one is made.
    """

    def __init__(
        self,
        memory: MemoryTier,
        postgres: PostgresTier,
        redis: RedisTier | None = None,
        *,
        stale_s: float = 0.0,
    ) -> None:
        self.memory = memory
        self.postgres = postgres
        self.redis = redis
        self._stale_s = stale_s
        self._changes = 0
        """Rises with all that is forgotten: what was being read meanwhile may be out of date."""
        self.served: Counter[CacheOutcome] = Counter()
        """How often each tier had the answer since the start."""

    def get_local(self, key: bytes, policy: CachePolicy) -> CacheEntry | None:
        """Ask the memory tier alone: never waits, any thread. The entry may be stale."""
        entry = self.memory.get(key, time.time(), policy.max_age)
        if entry is not None:
            self.served[CacheOutcome.MEMORY] += 1
            self.postgres.count_hit(key)
        return entry

    async def get(self, key: bytes, policy: CachePolicy) -> tuple[CacheEntry | None, CacheOutcome]:
        """Ask tier by tier. The entry may be stale."""
        entry = self.get_local(key, policy)
        if entry is not None:
            return entry, CacheOutcome.MEMORY
        return await self.get_shared(key, policy)

    async def get_shared(
        self, key: bytes, policy: CachePolicy
    ) -> tuple[CacheEntry | None, CacheOutcome]:
        """Ask the tiers below memory. The entry may be stale."""
        seen = self._changes
        if self.redis is not None:
            entry = await self.redis.get(key)
            if entry is not None and self._usable(entry, policy):
                return self._found(entry, CacheOutcome.REDIS, seen)
        entry = await self.postgres.get(key)
        if entry is not None and self._usable(entry, policy):
            return self._found(entry, CacheOutcome.POSTGRES, seen)
        return None, CacheOutcome.MISS

    async def get_many(
        self, keys: Sequence[bytes], policy: CachePolicy
    ) -> dict[bytes, tuple[CacheEntry, CacheOutcome]]:
        """Look many keys up at once; those that are nowhere are left out."""
        found: dict[bytes, tuple[CacheEntry, CacheOutcome]] = {}
        missing = []
        for key in dict.fromkeys(keys):
            entry = self.get_local(key, policy)
            if entry is None:
                missing.append(key)
            else:
                found[key] = (entry, CacheOutcome.MEMORY)
        seen = self._changes
        for tier, ask in (
            (CacheOutcome.REDIS, None if self.redis is None else self.redis.get_many),
            (CacheOutcome.POSTGRES, self.postgres.get_many),
        ):
            missing = [key for key in missing if key not in found]
            if missing and ask is not None:
                for key, entry in (await ask(missing)).items():
                    if self._usable(entry, policy):
                        found[key] = self._found(entry, tier, seen)
        return found

    def put(self, entry: CacheEntry, prompt: str | None) -> None:
        """Store in every tier. Must run on the loop of the lower tiers."""
        self.memory.put(entry)
        if self.redis is not None:
            self.redis.put(entry)
        self.postgres.put(entry, prompt)

    async def stored(self) -> None:
        """Return when what was put before can be found by other processes, or can't be soon."""
        if self.redis is not None and not self.redis.stats().away:
            await self.redis.flush()
        else:
            await self.postgres.flush()

    async def flush(self, timeout_s: float) -> None:
        """Return when what was put before is in every tier, the time is over, or they are away."""
        if self.redis is not None:
            await self.redis.flush(timeout_s)
        await self.postgres.flush(timeout_s)

    async def close(self) -> None:
        """Store what waits, and close the connections."""
        if self.redis is not None:
            await self.redis.close()
        await self.postgres.close()

    # --- invalidation ------------------------------------------------------------------------

    async def discard(self, keys: Iterable[bytes]) -> int:
        """Remove entries from every tier; return how many there were.

        Raises:
            StoreUnavailableError: PostgreSQL can't be asked.
        """
        gone = list(dict.fromkeys(keys))
        self.forget(gone)
        if self.redis is not None:
            for key in gone:
                self.redis.discard(key)
            await self.redis.flush()
        found = await self.postgres.discard(gone)
        self.forget(gone)  # what was read in between
        return found

    async def discard_where(self, condition: Callable[[CacheEntry], bool]) -> list[bytes]:
        """Remove the entries of which `condition` holds from every tier; return their keys."""
        self.memory.discard_where(condition)
        gone = [entry.key async for entry in self.entries() if condition(entry)]
        if self.redis is not None:
            await self.redis.discard_where(condition)
        await self.discard(gone)
        return gone

    async def clear(self) -> int:
        """Remove all entries from every tier; return how many there were in PostgreSQL."""
        self.forget(None)
        if self.redis is not None:
            await self.redis.clear()
        found = await self.postgres.clear()
        self.forget(None)
        return found

    def forget(self, keys: Iterable[bytes] | None) -> None:
        """Drop entries, or all of them (None), from memory alone: another process changed them."""
        self._changes += 1
        if keys is None:
            self.memory.clear()
        else:
            for key in keys:
                self.memory.discard(key)

    def entries(self) -> AsyncIterator[CacheEntry]:
        """All entries of the shared truth."""
        return self.postgres.entries()

    # --- inside ------------------------------------------------------------------------------

    def _usable(self, entry: CacheEntry, policy: CachePolicy) -> bool:
        now = time.time()
        if policy.max_age is not None:  # an age is meant as it is said
            return entry.fresh(now, policy.max_age)
        return entry.usable(now, self._stale_s)

    def _found(
        self, entry: CacheEntry, tier: CacheOutcome, seen: int
    ) -> tuple[CacheEntry, CacheOutcome]:
        if seen == self._changes:
            self.memory.put(entry)
            if tier is CacheOutcome.POSTGRES and self.redis is not None:
                self.redis.put(entry)
        self.served[tier] += 1
        self.postgres.count_hit(entry.key)
        return entry, tier


def expiry(created_at: float, *ttls_s: float | None) -> float | None:
    """Return the Unix time at which an answer made at `created_at` goes stale; None: never.

    Args:
        ttls_s: the first that is stated holds.
    """
    ttl_s = next((ttl for ttl in ttls_s if ttl is not None), None)
    return None if ttl_s is None or ttl_s > _FOR_EVER_S else created_at + ttl_s
