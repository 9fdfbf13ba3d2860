"""Distributions as counts in bins that grow with the value: any two can be added, and every quantile
is right to 1 % of its value (DDSketch: Masson, Rim and Lee, VLDB 2019)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ACCURACY = 0.01
GROWTH = (1 + ACCURACY) / (1 - ACCURACY)
"""Bin i holds the values in (GROWTH ** (i - 1), GROWTH ** i]."""
LEAST_MS, MOST_MS = 1e-4, 1e11
"""Values beyond are counted in the outermost bins."""


@dataclass(frozen=True, slots=True)
class Sketch:
    """A distribution of times in milliseconds."""

    counts: Mapping[int, int] = field(default_factory=dict)
    sum_ms: float = 0.0
    min_ms: float | None = None
    max_ms: float | None = None

    @property
    def count(self) -> int:
        return sum(self.counts.values())

    @property
    def mean_ms(self) -> float | None:
        n = self.count
        return self.sum_ms / n if n else None

    def quantile(self, share: float) -> float | None:
        """Return the value below which a share (0 to 1) of all lies, in milliseconds."""
        rank = share * (self.count - 1)
        seen = 0
        for i in sorted(self.counts):
            seen += self.counts[i]
            if seen > rank:
                middle = 2 * GROWTH**i / (GROWTH + 1)
                low = middle if self.min_ms is None else self.min_ms
                high = middle if self.max_ms is None else self.max_ms
                return min(max(middle, low), high)
        return None


def bin_of(ms: float) -> int:
    """Return the bin of a value; in SQL: `rollup_sql.BIN`."""
    return math.ceil(math.log(min(max(ms, LEAST_MS), MOST_MS)) / math.log(GROWTH))


def merged(sketches: Iterable[Sketch]) -> Sketch:
    """Return the distribution of all values together."""
    counts: dict[int, int] = {}
    total, lows, highs = 0.0, [], []
    for sketch in sketches:
        for i, n in sketch.counts.items():
            counts[i] = counts.get(i, 0) + n
        total += sketch.sum_ms
        if sketch.min_ms is not None:
            lows.append(sketch.min_ms)
        if sketch.max_ms is not None:
            highs.append(sketch.max_ms)
    return Sketch(counts, total, min(lows, default=None), max(highs, default=None))
