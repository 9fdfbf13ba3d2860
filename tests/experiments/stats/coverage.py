"""How often intervals hold the truth, counted, and the binomial check of that count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from collections.abc import Callable

    from novellus_lab.experiments.stats.estimate import Estimate


@dataclass(frozen=True)
class Coverage:
    hits: int
    runs: int
    bounded: int

    def is_at_least(self, level: float) -> bool:
        """Whether so few hits come by less than 1 in 1,000 chances if each has this one."""
        return bool(stats.binom.cdf(self.hits, self.runs, level) > 1e-3)

    def is_at_most(self, level: float) -> bool:
        return bool(stats.binom.sf(self.hits - 1, self.runs, level) > 1e-3)


def coverage(
    draw: Callable[[np.random.Generator], Estimate], truth: float, runs: int, seed: int = 1
) -> Coverage:
    random = np.random.default_rng(seed)
    estimates = [draw(random) for _ in range(runs)]
    return Coverage(
        sum(not estimate.excludes(truth) for estimate in estimates),
        runs,
        sum(estimate.bounded for estimate in estimates),
    )
