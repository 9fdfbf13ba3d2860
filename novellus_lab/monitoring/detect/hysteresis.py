"""When an anomaly begins and when it is over."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from novellus_lab.errors import InvalidRequestError


class Phase(Enum):
    """What a bucket does to an anomaly."""

    NORMAL = "normal"
    PENDING = "pending"
    STARTED = "started"
    ONGOING = "ongoing"
    ENDED = "ended"


@dataclass(slots=True)
class Hysteresis:
    """Enter at one level, leave at a lower one, and neither for a single odd bucket.

    An anomaly starts with the `min_duration`-th bucket in a row at or above the enter level, and ends
    with the `min_quiet`-th in a row below the leave level. What lies between the levels keeps things
    as they are: it neither starts nor ends anything, and breaks both rows.
    """

    min_duration: int = 2
    min_quiet: int = 2
    active: bool = False
    _row: int = 0

    def __post_init__(self) -> None:
        if self.min_duration < 1 or self.min_quiet < 1:
            raise InvalidRequestError("min_duration and min_quiet are numbers of buckets from 1 on")

    def step(self, *, enters: bool, leaves: bool) -> Phase:
        """Take one bucket: whether it is at the enter level, or below the leave level."""
        counts = leaves if self.active else enters
        self._row = self._row + 1 if counts else 0
        if self.active:
            if self._row < self.min_quiet:
                return Phase.ONGOING
            self.active, self._row = False, 0
            return Phase.ENDED
        if self._row == 0:
            return Phase.NORMAL
        if self._row < self.min_duration:
            return Phase.PENDING
        self.active, self._row = True, 0
        return Phase.STARTED
