"""The adaptive detector on single points and on blocks of them at once."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import TYPE_CHECKING

from novellus_lab.errors import InvalidRequestError
from novellus_lab.monitoring.detect.adaptive import AdaptiveDetector, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime, timedelta

WIDTHS = (1, 15)


@dataclass(slots=True)
class _Scale:
    width: int
    detector: AdaptiveDetector
    block: list[float] = field(default_factory=list)
    missing: int = 0


class MultiScaleDetector:
    """A shift that hides in the noise of a minute stands out of the mean of fifteen.

    Each width has a detector of its own on the means of that many points in a row, and an equal part
    of the false alarms. What is large is found at once, what is small with its block's end. A block
    of which less than half is there is missing itself.

    Args:
        alarms_per_week: false alarms that all widths together may give a week.
        interval: time between points.
        echo: points (of the finest width) for which an equal alarm is the same anomaly.
    """

    def __init__(
        self,
        alarms_per_week: float,
        *,
        interval: timedelta,
        widths: Sequence[int] = WIDTHS,
        echo: float = 60,
    ) -> None:
        if not widths or min(widths) < 1:
            raise InvalidRequestError(f"widths are numbers of points from 1 on, not {widths!r}")
        self._scales = tuple(
            _Scale(
                width,
                AdaptiveDetector.alarms_per_week(
                    alarms_per_week / len(widths),
                    interval=interval * width,
                    echo=max(2.0, echo / width),
                ),
            )
            for width in widths
        )

    def observe(self, time: datetime, value: float) -> Verdict | None:
        """An alarm, or else the highest score, of the widths that end with this point; None if none does.

        `Verdict.points` says how many points it stands for; its time is the last one's.
        """
        verdicts = []
        for scale in self._scales:
            if math.isfinite(value):
                scale.block.append(value)
            else:
                scale.missing += 1
            if len(scale.block) + scale.missing < scale.width:
                continue
            enough = 2 * len(scale.block) >= scale.width
            mean = fmean(scale.block) if enough else math.nan
            scale.block.clear()
            scale.missing = 0
            verdicts.append(replace(scale.detector.observe(time, mean), points=scale.width))
        return max(verdicts, key=lambda verdict: (verdict.alarm, verdict.score), default=None)
