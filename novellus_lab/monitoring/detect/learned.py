"""All that learns a series by itself: points, blocks of them, and slow windows, side by side."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from novellus_lab.monitoring.detect.drift import Drift, DriftDetector
from novellus_lab.monitoring.detect.scales import MultiScaleDetector

if TYPE_CHECKING:
    from datetime import datetime

    from novellus_lab.monitoring.detect.adaptive import Verdict

_DRIFTS_SHARE = 0.25
"""Of the false alarms."""
_COARSE = timedelta(minutes=15)
_ECHO = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the detectors make of one point. `drift` stands at the ends of blocks only."""

    verdict: Verdict | None
    drift: Drift | None


class LearnedDetector:
    """Sudden and slow changes of one series, within one false-alarm rate.

    Points are judged one by one and, where they are closer than a quarter of an hour, as means of so
    many as make one; slow windows get a quarter of the false alarms.

    Args:
        alarms_per_week: false alarms that all together may give.
        interval: time between points; it divides a day.
        min_days: see `DriftDetector`; None: no drift is looked for.
    """

    def __init__(
        self, alarms_per_week: float, *, interval: timedelta, min_days: int | None = 1
    ) -> None:
        drifts = 0.0 if min_days is None else _DRIFTS_SHARE * alarms_per_week
        coarse = _COARSE // interval
        self._points = MultiScaleDetector(
            alarms_per_week - drifts,
            interval=interval,
            widths=(1, coarse) if coarse > 1 else (1,),
            echo=max(4.0, _ECHO / interval),
        )
        self._slow = (
            None
            if min_days is None
            else DriftDetector(drifts, interval=interval, min_days=min_days)
        )

    def observe(self, time: datetime, value: float) -> Seen:
        """Judge a point by all earlier ones, then learn it."""
        return Seen(
            self._points.observe(time, value),
            self._slow.observe(time, value) if self._slow else None,
        )
