"""What is usual at a time of the day or of the week."""

from __future__ import annotations

from novellus_lab.monitoring.detect.running import RunningScale

DAY_S = 86_400
WEEK_S = 7 * DAY_S


class Season:
    """Level by slot of a period, learnt online: each visit moves its slot by the share `rate`.

    A slot that was not visited yet has no level.
    """

    __slots__ = ("_levels", "_period_s", "_rate", "_visits")

    def __init__(self, period_s: int, slots: int, rate: float) -> None:
        self._period_s = period_s
        self._rate = rate
        self._levels = [0.0] * slots
        self._visits = [0] * slots

    def level(self, at_s: float, otherwise: float) -> float:
        """The slot's level, or `otherwise`."""
        slot = self._slot(at_s)
        return self._levels[slot] if self._visits[slot] else otherwise

    def visits(self, at_s: float) -> int:
        return self._visits[self._slot(at_s)]

    def add(self, at_s: float, value: float, rate: float | None = None) -> None:
        slot = self._slot(at_s)
        self._visits[slot] += 1
        weight = max(1 / self._visits[slot], self._rate if rate is None else rate)
        self._levels[slot] += weight * (value - self._levels[slot])

    def _slot(self, at_s: float) -> int:
        return int(at_s % self._period_s / self._period_s * len(self._levels))


class SeasonalDeviation:
    """How far a value is from what is usual at its time, in units of what is usual there.

    `|x - level(slot)| / (0.3 * scale + 0.7 * scale(hour))`: busy hours are noisier than quiet ones,
    and a deviation is measured against its own hour, shrunk towards the whole. Each point moves its
    slot by `rate`: a slot wider than the points' interval also follows the level within its visit.
    """

    __slots__ = ("_hourly", "_scale", "_season", "level")

    def __init__(self, period_s: int, slots: int, rate: float) -> None:
        hours = period_s // 3600
        self._season = Season(period_s, slots, rate)
        self._hourly = Season(period_s, hours, 0.3)
        self._scale = RunningScale(3000)
        self.level = 0.0

    def of(self, at_s: float, value: float, otherwise: float, interval_s: float) -> float:
        """The deviation of a value, which is then learnt. 0 for the first four."""
        self.level = self._season.level(at_s, otherwise)
        away = value - self.level
        scale = self._scale.value
        of_hour = self._hourly.level(at_s, scale)
        tiny = 1e-9 * abs(otherwise) + 1e-12
        known = self._scale.seen > 3
        deviation = abs(away) / (0.3 * scale + 0.7 * of_hour + tiny) if known else 0.0
        per_hour = max(1.0, 3600 / interval_s)
        size = abs(away)
        if self._hourly.visits(at_s) > 3 * per_hour:
            size = min(size, 6 * of_hour + tiny)
        self._hourly.add(at_s, size, 0.3 / per_hour)
        self._scale.add(away)
        self._season.add(at_s, value)
        return deviation
