"""The tiers as one: memory first, then PostgreSQL."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from novellus_lab.types import CacheOutcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from novellus_lab.cache.entry import CacheEntry
    from novellus_lab.cache.memory import MemoryTier
    from novellus_lab.cache.policy import CachePolicy
    from novellus_lab.cache.postgres import PostgresTier


_FOR_EVER_S = 100 * 366 * 86_400
"""Beyond a century: more than a calendar holds would be an error of the database's."""


class ResponseCache:
    """Looks a key up tier by tier, and fills the faster ones from the slower."""

    def __init__(self, memory: MemoryTier, postgres: PostgresTier, *, ttl_s: float | None) -> None:
        self.memory = memory
        self.postgres = postgres
        self._ttl_s = ttl_s

    def get_local(self, key: bytes, policy: CachePolicy) -> CacheEntry | None:
        """Ask the memory tier alone: never waits, any thread."""
        entry = self.memory.get(key, time.time(), policy.max_age)
        if entry is not None:
            self.postgres.count_hit(key)
        return entry

    async def get_shared(
        self, key: bytes, policy: CachePolicy
    ) -> tuple[CacheEntry | None, CacheOutcome]:
        """Ask the tiers below memory."""
        entry = await self.postgres.get(key)
        if entry is None or not entry.fresh(time.time(), policy.max_age):
            return None, CacheOutcome.MISS
        self.memory.put(entry)
        self.postgres.count_hit(key)
        return entry, CacheOutcome.POSTGRES

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
        now = time.time()
        if missing:
            for key, entry in (await self.postgres.get_many(missing)).items():
                if entry.fresh(now, policy.max_age):
                    self.memory.put(entry)
                    self.postgres.count_hit(key)
                    found[key] = (entry, CacheOutcome.POSTGRES)
        return found

    def put(self, entry: CacheEntry, prompt: str | None) -> None:
        """Store in every tier. Must run on the loop of the PostgreSQL tier."""
        self.memory.put(entry)
        self.postgres.put(entry, prompt)

    def expiry(self, created_at: float, policy: CachePolicy) -> float | None:
        """Unix time at which an answer made at `created_at` goes stale; None: never."""
        ttl_s = self._ttl_s if policy.ttl is None else policy.ttl
        return None if ttl_s is None or ttl_s > _FOR_EVER_S else created_at + ttl_s
