"""What a benchmark finds: rows of figures, each with what it stands beside."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured. The defaults take about four minutes on two cores."""

    import_rounds: int = 7
    rounds: int = 9
    """Of the interleaved calls: in each, every contender has its turn."""
    sequential_calls: int = 50
    """A turn."""
    concurrent_calls: int = 400
    concurrency: int = 50
    cache_rounds: int = 5
    hits: int = 20_000
    shared_hits: int = 300
    log_rounds: int = 4
    log_rows: int = 20_000
    memory_rows: int = 100_000
    semantic_entries: int = 100_000
    semantic_hits: int = 2_000
    encoded: int = 400


TINY = Effort(2, 2, 3, 6, 3, 2, 30, 5, 2, 40, 200, 100, 10, 20)
"""Enough to see that the benchmark works; its figures mean nothing."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    name: str
    unit: str
    samples: tuple[float, ...]
    """One a round."""
    ours: bool = False
    beside: str = ""
    """What ours is, held against this row (or against the target, in a row of ours)."""
    target: str = ""
    met: bool | None = None
    """None where no target is set."""

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, as a share of the median."""
        if len(self.samples) < 2 or not self.median:
            return 0.0
        low, _, high = statistics.quantiles(self.samples, n=4, method="inclusive")
        return (high - low) / 2 / self.median


@dataclass(frozen=True, slots=True)
class Section:
    """A table of rows that were measured together."""

    title: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    """What was checked besides, and who was absent."""
    wrong: tuple[str, ...] = field(default=())
    """Promises that were broken, such as a call without its row in the log."""


def interleaved(
    contenders: Mapping[str, Callable[[], float]], rounds: int
) -> dict[str, tuple[float, ...]]:
    """Give every contender one turn a round, so that a slow moment of the machine hits them all.

    A turn returns its own figure; the first round only warms up.
    """
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, turn in contenders.items():
            figure = turn()
            if number:
                found[name].append(figure)
    return {name: tuple(figures) for name, figures in found.items()}


def median_ratio(ours: tuple[float, ...], theirs: tuple[float, ...]) -> float:
    """Median over the rounds of ours by theirs: drift between rounds cancels out."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def median_difference(ours: tuple[float, ...], theirs: tuple[float, ...]) -> float:
    return statistics.median(a - b for a, b in zip(ours, theirs, strict=True))
