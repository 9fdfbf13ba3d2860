"""Slow change: the last hours against the same hours of the days before.

What creeps up over hours teaches every detector that follows its series: each point is near the one
before. So this one compares windows that are far apart. `w(t)` is the median of the block means of two
hours (a block: fifteen minutes), so that a short incident doesn't move it, and

    d(t) = (w(t) - e(t)) / sqrt(1 + 1/n)     e(t) the median of w at the same time of the last n <= 7 days

If a week ago the same time looked more like now, that difference counts instead: weekends are no
drift. `d` in units of its own usual size (root mean square over a week) is judged as Student's t with as
many degrees of freedom as windows without overlap were seen, at the false-alarm rate over
`LOOKS` looks a window.

A block of a drift is not learnt. What lasts a day is the new normal: the past is forgotten.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import median

import numpy as np

from novellus_lab.errors import InvalidRequestError

LOOKS = 8.0
"""How many independent looks the sliding of a window is worth; found by benchmarks/false_alarms."""
_BLOCK = timedelta(minutes=15)
_WINDOW = timedelta(hours=2)
_DAY = timedelta(days=1)
_EPOCH = datetime(2024, 1, 1, tzinfo=UTC)
_DAYS = 7
_FEWEST = 6
"""Windows without overlap that must have been seen before anything is said: twelve hours of them."""
_HALF = 0.5


@dataclass(frozen=True, slots=True)
class Drift:
    """A drift that was just found, goes on, or just ended.

    `start` is since when the windows have been off to this side; `end` the first moment when they
    were no longer, None while it goes on.
    """

    start: datetime
    end: datetime | None
    observed: float
    expected: float
    p_value: float


class DriftDetector:
    """Give it one point after the other, oldest first; memory and time a point are constant.

    Args:
        alarms_per_week: how many false alarms an unremarkable series may give.
        interval: time between points. Blocks hold at least one, windows at least four blocks.
        min_days: days that must have been seen. 8 for what differs from weekday to weekday.
    """

    def __init__(self, alarms_per_week: float, *, interval: timedelta, min_days: int = 1) -> None:
        if not alarms_per_week > 0:
            raise InvalidRequestError(f"alarms_per_week must be above 0, not {alarms_per_week}")
        if not timedelta() < interval <= timedelta(hours=6) or _DAY % interval:
            raise InvalidRequestError(
                f"interval must divide a day and be at most 6 h, not {interval}"
            )
        self._points = max(1, _BLOCK // interval)
        while _DAY % (interval * self._points):
            self._points -= 1
        self._interval = interval
        self._block = interval * self._points
        self._width = max(4, _WINDOW // self._block)
        self._a_day = _DAY // self._block
        self._days_back = np.arange(1, _DAYS)[:, None] * self._a_day
        self._level = alarms_per_week * self._width / (7 * self._a_day) / LOOKS
        self._min_days = min_days
        self._blocks: deque[float] = deque(maxlen=self._width)
        self._all = [math.nan] * (self._a_day * (_DAYS + 1))
        self._learnt = list(self._all)
        self._squares = np.full(self._a_day * _DAYS, np.nan)
        self._sum_of_squares, self._known = 0.0, 0
        self._sum, self._finite = 0.0, 0
        self._number: int | None = None
        self._first = 0
        self._off_since: int | None = None
        self._side = 0.0
        self._drift: Drift | None = None
        self._entered = 0.0

    def observe(self, time: datetime, value: float) -> Drift | None:
        """Take a point; with the last one of a block, return the drift of that block, if there is one.

        A value that is not finite is missing. A time without a zone is taken as UTC.
        """
        moment = time if time.tzinfo else time.replace(tzinfo=UTC)
        number = (moment - _EPOCH) // self._block
        if self._number is None:
            self._number = self._first = number
        ended = None
        while self._number < number:  # a gap in the series ends blocks, too
            ended = self._end_block() or ended
            self._number += 1
        if math.isfinite(value):
            self._sum += value
            self._finite += 1
        if (moment - _EPOCH) % self._block + self._interval >= self._block:
            ended = self._end_block()
            self._number += 1
        return ended

    def _end_block(self) -> Drift | None:
        number = self._number or 0
        there = 2 * self._finite >= self._points
        self._blocks.append(self._sum / self._finite if there and self._finite else math.nan)
        self._sum, self._finite = 0.0, 0
        held = [block for block in self._blocks if not math.isnan(block)]
        window = median(held) if 2 * len(held) > self._width else math.nan
        drift = self._judge(number, window)
        slot = number % len(self._all)
        self._all[slot] = window
        self._learnt[slot] = math.nan if drift and not drift.end else window
        return drift

    def _judge(self, number: int, window: float) -> Drift | None:
        if math.isnan(window):
            return None
        days = [(number - day * self._a_day) % len(self._all) for day in range(1, _DAYS + 1)]
        known = [self._learnt[day] for day in days if not math.isnan(self._learnt[day])]
        if not known:
            return None
        expected = median(known)
        difference = (window - expected) / math.sqrt(1 + 1 / len(known))
        # The week's day counts even where it was taken for a drift itself: a first weekend is.
        week = self._all[days[-1]]
        if abs(window - week) / math.sqrt(2) < abs(difference):
            expected, difference = week, (window - week) / math.sqrt(2)
        windows = self._known / self._width
        ready = windows >= _FEWEST and number - self._first >= self._min_days * self._a_day
        z = self._z(number, difference, windows) if ready else 0.0
        drift = self._follow(number, z, window, expected)
        learnt = drift is None or drift.end is not None
        self._learn(number, difference**2 if learnt else math.nan)
        return drift

    def _learn(self, number: int, square: float) -> None:
        slot = number % len(self._squares)
        for value, sign in ((float(self._squares[slot]), -1), (square, 1)):
            if not math.isnan(value):
                self._sum_of_squares = max(0.0, self._sum_of_squares + sign * value)
                self._known += sign
        self._squares[slot] = square

    def _z(self, number: int, difference: float, windows: float) -> float:
        """Student's t as the normal deviate of the same p-value (D. Wallace 1959)."""
        usual = self._sum_of_squares / self._known
        if difference**2 > usual:  # busy hours are noisier: what is usual near this one counts, too
            of_hour = np.arange(-self._width, self._width + 1) + number
            near = self._squares[(of_hour - self._days_back) % len(self._squares)]
            near = near[~np.isnan(near)]
            usual = max(usual, float(near.mean()) if len(near) else 0.0)
        scale = math.sqrt(usual) + 1e-9 * abs(difference) + 1e-12
        t = abs(difference) / scale
        z = (8 * windows + 1) / (8 * windows + 3) * math.sqrt(windows * math.log1p(t * t / windows))
        return math.copysign(z, difference)

    def _follow(self, number: int, z: float, window: float, expected: float) -> Drift | None:
        side = math.copysign(1.0, z)
        if abs(z) < 1 or side != self._side:
            self._off_since, self._side = (number, side) if abs(z) >= 1 else (None, 0.0)
        p_value = math.erfc(abs(z) / math.sqrt(2))
        end = _EPOCH + (number + 1) * self._block
        if self._drift is None:
            if p_value > self._level or self._off_since is None:
                return None
            self._entered = z
            self._drift = Drift(
                _EPOCH + self._off_since * self._block, None, window, expected, p_value
            )
            return self._drift
        drift = self._drift
        if z * self._entered < _HALF * self._entered**2:
            self._drift = None
            return Drift(
                drift.start, end - self._block, drift.observed, drift.expected, drift.p_value
            )
        if abs(window - expected) > abs(drift.observed - drift.expected):
            self._drift = drift = Drift(
                drift.start, None, window, expected, min(p_value, drift.p_value)
            )
        if end - drift.start >= _DAY:
            self._learnt = [math.nan] * len(self._all)
            self._drift = self._off_since = None
            return Drift(drift.start, end, drift.observed, drift.expected, drift.p_value)
        return drift
