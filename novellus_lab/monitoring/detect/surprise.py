"""How rare a value is among those seen before, and how often surprises come."""

from __future__ import annotations

import math

import numpy as np

_SMALLEST = 1e-9
_LARGEST = 1e9
_BINS_PER_E = 20
_BINS = 1 + int(math.log(_LARGEST / _SMALLEST) * _BINS_PER_E)
"""Bins 5 % wide from 1e-9 to 1e9, and one for everything below."""


class Surprise:
    """Conformal p-values and surprises, `-log10 p`, in constant memory.

    `p = (1 + how many earlier values were at least as large) / (1 + how many there were)`: among
    exchangeable values, p is at most x with a probability of at most x, whatever their distribution
    (V. Vovk et al., Algorithmic Learning in a Random World, 2005, chapter 2). Values are counted in
    bins of 5 % relative width, and those of one bin count as equal.
    """

    __slots__ = ("_counts", "seen")

    def __init__(self) -> None:
        self._counts = np.zeros(_BINS, dtype=np.int64)
        self.seen = 0

    def p_value(self, value: float) -> float:
        """The p-value of a value that is not counted (yet). 0 and less surprise nobody: 1."""
        if value <= 0:
            return 1.0
        return (1 + int(self._counts[_bin(value) :].sum())) / (1 + self.seen)

    def mid_p_value(self, value: float) -> float:
        """The same with ties (and the value itself) counted half: uniform on average, not at most.

        H. Lancaster, Significance tests in discrete distributions, 1961.
        """
        if value <= 0:
            return 1.0
        equal = int(self._counts[_bin(value)])
        return self.p_value(value) - (1 + equal) / 2 / (1 + self.seen)

    def add(self, value: float) -> None:
        """Count a value among those seen."""
        self._counts[_bin(value)] += 1
        self.seen += 1

    def of(self, value: float) -> float:
        """The surprise of a value, which is then counted."""
        surprise = -math.log10(self.p_value(value))
        self.add(value)
        return surprise


def _bin(value: float) -> int:
    if value <= _SMALLEST:
        return 0
    return min(_BINS - 1, 1 + int(math.log(min(value, _LARGEST) / _SMALLEST) * _BINS_PER_E))


class SurpriseTail:
    """How often this series surprises so much: the p-value that a false-alarm rate is held by.

    Peaks over a threshold (A. Siffer et al., Anomaly Detection in Streams with Extreme Value Theory,
    2017), with an exponential tail, which is what surprises, being logarithms, tend to have:
    `P(S > s) = P(S > u) * exp(-(s - u) / b)` above `u`, with `P(S > u)` counted and `b` the mean excess.
    It reaches where no count does: one alarm in 5,000 points needs no 5,000 points. Both begin as what
    simulated noise of many kinds shows, worth 500 points and 30 peaks. An excess counts for 1 at
    most, so that true anomalies don't teach that they are usual.
    """

    __slots__ = ("_excess", "_over", "_peaks", "_seen")
    _THRESHOLD = 1.0
    _LARGEST_EXCESS = 1.0
    _PRIOR_POINTS = 500.0
    _PRIOR_OVER = 0.015
    _PRIOR_PEAKS = 30.0
    _PRIOR_EXCESS = 1 / (1.4 * math.log(10))

    def __init__(self) -> None:
        self._seen = self._PRIOR_POINTS
        self._over = self._PRIOR_POINTS * self._PRIOR_OVER
        self._peaks = self._PRIOR_PEAKS
        self._excess = self._PRIOR_PEAKS * self._PRIOR_EXCESS

    def p_value(self, surprise: float) -> float:
        """The chance of at least this surprise, by all that was added."""
        over = self._over / self._seen
        if surprise <= self._THRESHOLD:
            return float(over ** max(0.0, surprise / self._THRESHOLD))
        mean = self._excess / self._peaks
        return over * math.exp(-(surprise - self._THRESHOLD) / mean)

    def add(self, surprise: float) -> None:
        """Learn a surprise."""
        self._seen += 1
        if surprise > self._THRESHOLD:
            self._over += 1
            self._peaks += 1
            self._excess += min(surprise - self._THRESHOLD, self._LARGEST_EXCESS)
