"""Who waits, in which order: one lane for all calls that share the same quotas."""

from __future__ import annotations

import asyncio
import heapq
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from novellus_lab.limits.quota import Quota


@dataclass(slots=True, order=True)
class Waiter:
    """A call that waits for room."""

    turn: float
    """When it arrived, less its priority in seconds: the smallest goes first."""
    number: int
    """The order of arrival, among equals."""
    tokens: float = field(compare=False)
    until: float | None = field(compare=False)
    """By when it must be let in, on the limits' clock (inf: whenever); None: now or never."""
    lease_s: float = field(compare=False)
    """How long the call may take, for who can't see whether its process lives."""
    admitted: asyncio.Future[str | None] = field(compare=False)
    """Resolves to its member in the shared limits, or to None if this process let it in."""


class Lane:
    """Calls that wait for the same quotas, in turn."""

    __slots__ = ("_heap", "pump", "quotas", "woken")

    def __init__(self, quotas: tuple[Quota, ...]) -> None:
        self.quotas = quotas
        self._heap: list[Waiter] = []
        self.pump: asyncio.Task[None] | None = None
        """Asks the shared limits for those who wait here."""
        self.woken = asyncio.Event()
        """Somebody came, or a call with one of these quotas ended: worth asking again."""

    def __len__(self) -> int:
        return sum(not waiter.admitted.done() for waiter in self._heap)

    @property
    def head(self) -> Waiter | None:
        """Whose turn it is. Who has given up is forgotten."""
        while self._heap and self._heap[0].admitted.done():
            heapq.heappop(self._heap)
        return self._heap[0] if self._heap else None

    def add(self, waiter: Waiter) -> None:
        heapq.heappush(self._heap, waiter)

    def first(self, most: int) -> list[Waiter]:
        """Return those whose turn it is, in order, without removing them."""
        self._heap = [waiter for waiter in self._heap if not waiter.admitted.done()]
        heapq.heapify(self._heap)
        return heapq.nsmallest(most, self._heap)
