"""The first tier: this process's memory, bounded in entries and bytes; what is worth least goes.

Eviction is GreedyDual-Size-Frequency (Cherkasova 1998), the policy of web caches: an entry's worth
is what it saves each time, times how often it was used, for each byte it occupies, plus the worth
of the last one that had to go when it was last used. So a dear answer outlives a cheap one, a small
one a big one, and one that nobody asks for any more goes in the end, however dear it was.
"""

from __future__ import annotations

import heapq
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from novellus_lab.cache.entry import CacheEntry

SECOND_USD = 0.001
"""What a second of waiting counts, in US dollars, beside the answer's own cost."""
_LEAST_USD = 1e-6
"""So that use and age still tell apart what saves nothing."""


class _Slot:
    """An entry and what its worth is made of."""

    __slots__ = ("clock", "density", "entry", "size", "uses")

    def __init__(self, entry: CacheEntry, size: int, clock: float) -> None:
        self.entry = entry
        self.size = size
        self.density = saving_usd(entry) / size
        self.uses = 1
        self.clock = clock

    @property
    def worth(self) -> float:
        return self.clock + self.uses * self.density


class MemoryTier:
    """A thread-safe map of entries.

    Args:
        max_entries, max_bytes: beyond either, entries go.
        stale_s: how long after its end an entry is kept, to be served while a new one is made.
    """

    def __init__(self, *, max_entries: int, max_bytes: int, stale_s: float = 0.0) -> None:
        self._slots: dict[bytes, _Slot] = {}
        self._heap: list[tuple[float, bytes]] = []
        """By worth as it was when it was put here: a slot's own may be higher meanwhile."""
        self._clock = 0.0
        self._lock = Lock()
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._stale_s = stale_s
        self._bytes = 0
        self._evicted = 0

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def size_bytes(self) -> int:
        return self._bytes

    @property
    def evicted(self) -> int:
        """How many entries had to go for others since the start."""
        return self._evicted

    def get(self, key: bytes, now: float, max_age_s: float | None = None) -> CacheEntry | None:
        """Return the entry if it may be served at Unix time `now`; an expired one is dropped.

        One that may be served for a while although it is stale is returned, too.
        """
        with self._lock:
            slot = self._slots.get(key)
            if slot is None:
                return None
            entry = slot.entry
            if not entry.usable(now, self._stale_s):
                self._remove(key)
                return None
            if max_age_s is not None and not entry.fresh(now, max_age_s):
                return None
            slot.uses += 1
            slot.clock = self._clock
            return entry

    def put(self, entry: CacheEntry) -> None:
        """Store an entry, evicting what is worth least; one too big alone is not kept."""
        size = entry.size_bytes
        if size > self._max_bytes or self._max_entries < 1:
            return
        with self._lock:
            if entry.key in self._slots:
                self._remove(entry.key)
            slot = self._slots[entry.key] = _Slot(entry, size, self._clock)
            heapq.heappush(self._heap, (slot.worth, entry.key))
            self._bytes += size
            while len(self._slots) > self._max_entries or self._bytes > self._max_bytes:
                self._evict(spare=entry.key)
            if len(self._heap) > 2 * len(self._slots) + 64:
                self._heap = [(slot.worth, key) for key, slot in self._slots.items()]
                heapq.heapify(self._heap)

    def discard(self, key: bytes) -> None:
        with self._lock:
            if key in self._slots:
                self._remove(key)

    def discard_where(self, condition: Callable[[CacheEntry], bool]) -> int:
        """Drop all entries of which `condition` holds; return how many."""
        with self._lock:
            found = [key for key, slot in self._slots.items() if condition(slot.entry)]
            for key in found:
                self._remove(key)
        return len(found)

    def clear(self) -> None:
        with self._lock:
            self._slots.clear()
            self._heap.clear()
            self._bytes = 0

    def _evict(self, *, spare: bytes) -> None:
        """Drop the entry that is worth least. The newest is spared: it had no chance to be used."""
        spared: tuple[float, bytes] | None = None
        while True:
            worth, key = heapq.heappop(self._heap)
            slot = self._slots.get(key)
            if slot is None:
                continue
            if key == spare:
                spared = (worth, key)
                continue
            now_worth = slot.worth
            if now_worth > worth:
                heapq.heappush(self._heap, (now_worth, key))
                continue
            self._remove(key)
            self._clock = max(self._clock, worth)
            self._evicted += 1
            break
        if spared is not None:
            heapq.heappush(self._heap, spared)

    def _remove(self, key: bytes) -> None:
        self._bytes -= self._slots.pop(key).size


def saving_usd(entry: CacheEntry) -> float:
    """What serving an entry saves: the answer's cost, and the time that nobody waits for it."""
    waiting_s = (entry.original_latency_ms or 0.0) / 1000
    return max(float(entry.cost_usd or 0) + waiting_s * SECOND_USD, _LEAST_USD)
