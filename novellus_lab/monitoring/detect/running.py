"""Running figures of a stream, in constant memory."""

from __future__ import annotations

import math


class RunningMean:
    """Mean and deviation of the last `memory` points or so; a plain average until there are so many.

    Weights fall off by `1 - 1/memory` a point.
    """

    __slots__ = ("_memory", "_variance", "mean", "seen")

    def __init__(self, memory: float) -> None:
        self._memory = memory
        self._variance = 0.0
        self.mean = 0.0
        self.seen = 0

    def add(self, value: float) -> None:
        self.seen += 1
        weight = max(1 / self.seen, 1 / self._memory)
        away = value - self.mean
        self.mean += weight * away
        self._variance = (1 - weight) * (self._variance + weight * away * away)

    @property
    def deviation(self) -> float:
        return math.sqrt(self._variance)


class RunningScale:
    """Mean absolute residual of the last `memory` points or so, not carried off by outliers.

    From the 30th point on a residual counts for six times the scale at most.
    """

    __slots__ = ("_mean",)
    _CLIP = 6.0
    _TRUSTED_FROM = 30

    def __init__(self, memory: float) -> None:
        self._mean = RunningMean(memory)

    def add(self, residual: float) -> None:
        size = abs(residual)
        if self._mean.seen > self._TRUSTED_FROM:
            size = min(size, self._CLIP * self._mean.mean)
        self._mean.add(size)

    @property
    def seen(self) -> int:
        return self._mean.seen

    @property
    def value(self) -> float:
        return self._mean.mean
