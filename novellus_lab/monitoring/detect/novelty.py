"""Whether the last points went a way that points went before."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence


class SubsequenceNovelty:
    """Distance of the last `width` points to the three most similar of up to `library` earlier runs.

    Nearest neighbours of subsequences after E. Burnaev and V. Ishimtsev, Conformalized
    density- and distance-based anomaly detection in time-series data, 2016 (arXiv 1608.04585). A
    full library replaces a random run, so it fades slowly and keeps its size.
    """

    __slots__ = ("_held", "_library", "_random", "_since", "_width")
    _NEIGHBOURS = 3
    _SPEAKS_FROM = 10

    def __init__(self, width: int, library: int = 600) -> None:
        self._width = width
        self._library = np.zeros((library, width))
        self._held = 0
        self._since = 0
        self._random = random.Random(0)

    def of(self, recent: Sequence[float]) -> float:
        """Root mean square distance of `recent`'s last points, which are then kept now and then."""
        if len(recent) < self._width:
            return 0.0
        run = np.array(recent[-self._width :])
        distance = 0.0
        if self._held >= self._SPEAKS_FROM:
            away = self._library[: self._held] - run
            squares = np.einsum("ij,ij->i", away, away) / self._width
            nearest = np.partition(squares, self._NEIGHBOURS)[: self._NEIGHBOURS]
            distance = math.sqrt(float(nearest.mean()))
        self._since += 1
        if self._since >= self._width // 8:
            self._since = 0
            self._keep(run)
        return distance

    def _keep(self, run: np.ndarray) -> None:
        full = self._held == len(self._library)
        self._library[self._random.randrange(self._held) if full else self._held] = run
        self._held += not full
