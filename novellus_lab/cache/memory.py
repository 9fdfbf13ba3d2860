"""The first tier: this process's memory, bounded in entries and bytes, least recently used out."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from novellus_lab.cache.entry import CacheEntry


class MemoryTier:
    """A thread-safe LRU map of entries."""

    def __init__(self, *, max_entries: int, max_bytes: int) -> None:
        self._entries: OrderedDict[bytes, CacheEntry] = OrderedDict()
        self._lock = Lock()
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size_bytes(self) -> int:
        return self._bytes

    def get(self, key: bytes, now: float, max_age_s: float | None = None) -> CacheEntry | None:
        """Return the entry if it is there and fresh at Unix time `now`; an expired one is dropped."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            if not entry.fresh(now):
                self._remove(key)
                return None
            if max_age_s is not None and not entry.fresh(now, max_age_s):
                return None
            self._entries.move_to_end(key)
            return entry

    def put(self, entry: CacheEntry) -> None:
        """Store an entry, evicting the least recently used ones; one too big alone is not kept."""
        size = entry.size_bytes
        if size > self._max_bytes or self._max_entries < 1:
            return
        with self._lock:
            if entry.key in self._entries:
                self._remove(entry.key)
            self._entries[entry.key] = entry
            self._bytes += size
            while len(self._entries) > self._max_entries or self._bytes > self._max_bytes:
                self._remove(next(iter(self._entries)))

    def discard(self, key: bytes) -> None:
        with self._lock:
            if key in self._entries:
                self._remove(key)

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
            self._bytes = 0

    def _remove(self, key: bytes) -> None:
        self._bytes -= self._entries.pop(key).size_bytes
