"""Recent latency by model, as this process saw it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from threading import Lock

HALF_LIFE_S = 300.0
"""After five minutes an observation counts half: a provider's slow hour should not be held against
it for the day."""


@dataclass(slots=True)
class _Average:
    weight: float = 0.0
    total: float = 0.0
    at: float = 0.0

    def add(self, value: float, now: float) -> None:
        self._decay(now)
        self.weight += 1.0
        self.total += value

    def mean(self) -> float | None:
        return self.total / self.weight if self.weight > 1e-6 else None

    def _decay(self, now: float) -> None:
        if self.weight:
            factor = math.exp2(-(now - self.at) / HALF_LIFE_S)
            self.weight *= factor
            self.total *= factor
        self.at = now


class LatencyTracker:
    """Exponentially decayed mean latency of answered calls: total, and to the first token."""

    def __init__(self) -> None:
        self._total: dict[str, _Average] = {}
        self._first: dict[str, _Average] = {}
        self._lock = Lock()

    def observe(self, model_id: str, latency_ms: float, ttft_ms: float | None = None) -> None:
        """Record one provider call that was answered."""
        now = time.monotonic()
        with self._lock:
            self._total.setdefault(model_id, _Average()).add(latency_ms, now)
            if ttft_ms is not None:
                self._first.setdefault(model_id, _Average()).add(ttft_ms, now)

    def latency_ms(self, model_id: str) -> float | None:
        """Mean time to the whole answer; None for a model that was not seen yet."""
        average = self._total.get(model_id)
        return None if average is None else average.mean()

    def ttft_ms(self, model_id: str) -> float | None:
        """Mean time to the first token of a stream; None if none was seen."""
        average = self._first.get(model_id)
        return None if average is None else average.mean()
