"""The adaptive detector: learns a series as it comes and says how surprising each point is.

1. Five views of a point, each a number that is large when the point is odd:
   season (four: day and week, slow and fast), forecast, pattern, spread, size.
2. Each becomes a surprise, `-log10` of its conformal p-value among all earlier ones.
3. Their weighted mean (Fisher's way of combining p-values; half of the weight is the season's), or
   `single` times one view alone, or `sustained` times the running mean: whichever is largest.
4. A point that is not clearly above the echo of a recent one says nothing new and has no surprise.
5. `score = L / (L + 3)`, with `L = -log10(10^(-1.4 surprise) + common / 4)`: what unremarkable series do
   (simulated, see docs/anomalies.md), and how common such surprises are in this one. 0.5 is one in
   1,000. Scores compare across series.
6. The alarm goes by this series alone: if the tail of its own surprises (`SurpriseTail`) makes the
   point rarer than the false-alarm rate.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from statistics import fmean
from typing import TYPE_CHECKING, Literal

from novellus_lab.errors import InvalidRequestError
from novellus_lab.monitoring.detect.forecast import LinearForecast
from novellus_lab.monitoring.detect.novelty import SubsequenceNovelty
from novellus_lab.monitoring.detect.running import RunningMean
from novellus_lab.monitoring.detect.season import DAY_S, WEEK_S, SeasonalDeviation
from novellus_lab.monitoring.detect.surprise import Surprise, SurpriseTail

if TYPE_CHECKING:
    from collections.abc import Iterable

View = Literal["season", "forecast", "pattern", "spread", "size", "sustained"]

_WEIGHTS: dict[View, float] = {
    "season": 0.5,
    "forecast": 0.125,
    "pattern": 0.125,
    "spread": 0.125,
    "size": 0.125,
}
_ALONE: tuple[View, ...] = ("pattern", "spread", "size")
"""Views that may alarm alone: what they see, the season need not see at all."""
_LARGEST = 50.0
_SPREADS = (12, 48)
_MONDAY = datetime(2024, 1, 1, tzinfo=UTC)
_WEEK = timedelta(weeks=1)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the detector makes of one point.

    `expected` is what is usual at this time. `score`, 0 to 1, says how odd the point is and compares
    across series; `p_value` is the share of points of this series that would look as odd, and `alarm`
    says that it is within the false-alarm rate. `view` is what saw most of it:

    - `season`: off what is usual at this time of the day or week
    - `forecast`: off what the last points let expect
    - `pattern`: the last points went a way that none went before
    - `spread`: the series moves more, or less, than it did (a flat line, too)
    - `size`: far from all of the past
    - `sustained`: not much at any one point, but for long
    """

    time: datetime
    value: float
    expected: float
    score: float
    p_value: float
    alarm: bool
    view: View
    points: int = 1
    """How many points the value is the mean of."""


class AdaptiveDetector:
    """Give it one point after the other, oldest first; memory and time a point are constant.

    Args:
        false_alarm_rate: share of points of an unremarkable series that may alarm; see
            `alarms_per_week` for a rate in time.
        echo: how many points it takes until an alarm is forgotten to 1/e. An equal surprise within
            that time is the same anomaly and stays silent.

    It holds plain numbers and can be pickled: a process that starts again goes on where it was.
    """

    _SINGLE = 0.6
    _SUSTAINED = 1.5
    _SHARPNESS = 1.4
    _COMMON = 0.25
    _ABOVE_ECHO = 1.1
    _HALF = 3.0
    _WARM_UP = 30

    def __init__(self, *, false_alarm_rate: float = 0.001, echo: float = 500) -> None:
        if not 0 < false_alarm_rate < 1:
            raise InvalidRequestError(
                f"false_alarm_rate must be between 0 and 1, not {false_alarm_rate}"
            )
        if not echo > 0:
            raise InvalidRequestError(f"echo must be a positive number of points, not {echo}")
        self.false_alarm_rate = false_alarm_rate
        self._fading = math.exp(-1 / echo)
        self._echo = 0.0
        self._seen = 0
        self._last_at_s: float | None = None
        self._gaps_s = RunningMean(100)
        self._last_levels: tuple[float, float] | None = None
        self._usual = RunningMean(2000)
        self._level = RunningMean(50)
        self._recent: deque[float] = deque(maxlen=_SPREADS[-1] + 1)
        self._seasons = (
            SeasonalDeviation(DAY_S, 288, 0.2),
            SeasonalDeviation(DAY_S, 288, 0.5),
            SeasonalDeviation(WEEK_S, 336, 0.3),
            SeasonalDeviation(WEEK_S, 336, 0.6),
        )
        self._forecast = LinearForecast(8)
        self._pattern = SubsequenceNovelty(24)
        self._spreads = tuple(RunningMean(3000) for _ in _SPREADS)
        self._of_seasons = tuple(Surprise() for _ in self._seasons)
        self._of_spreads = tuple(Surprise() for _ in _SPREADS)
        self._of_forecast, self._of_pattern, self._of_size = Surprise(), Surprise(), Surprise()
        self._sustained = RunningMean(24)
        self._combined = Surprise()
        self._tail = SurpriseTail()

    @classmethod
    def alarms_per_week(
        cls, alarms: float, *, interval: timedelta, echo: float = 500
    ) -> AdaptiveDetector:
        """A detector that may give so many false alarms a week, on points `interval` apart."""
        return cls(false_alarm_rate=alarms * (interval / _WEEK), echo=echo)

    def observe(self, time: datetime, value: float) -> Verdict:
        """Judge a point by all earlier ones, then learn it.

        A value that is not finite is judged unremarkable and not learnt: missing data are no
        anomaly of the metric. A time without a zone is taken as UTC.
        """
        at_s = ((time if time.tzinfo else time.replace(tzinfo=UTC)) - _MONDAY).total_seconds()
        if not math.isfinite(value):
            return Verdict(time, value, self._usual.mean, 0.0, 1.0, False, "season")
        views, expected = self._views(at_s, value)
        together = sum(_WEIGHTS[view] * surprise for view, surprise in views.items())
        self._sustained.add(together)
        loudest = max(views, key=lambda view: _WEIGHTS[view] * views[view])
        single = max(_ALONE, key=views.__getitem__)
        surprise, view = max(
            (together, loudest),
            (self._SINGLE * views[single], single),
            (self._SUSTAINED * self._sustained.mean, "sustained"),
        )
        score, p_value = self._judge(surprise)
        alarm = p_value <= self.false_alarm_rate
        return Verdict(time, value, expected, score, p_value, alarm, view)

    def run(self, points: Iterable[tuple[datetime, float]]) -> list[Verdict]:
        """Observe all points of an iterable, in its order."""
        return [self.observe(time, value) for time, value in points]

    def _views(self, at_s: float, value: float) -> tuple[dict[View, float], float]:
        """Each view's surprise, and what was expected; everything but the echo learns the value."""
        if self._last_at_s is not None and at_s > self._last_at_s:
            self._gaps_s.add(at_s - self._last_at_s)
        self._last_at_s = at_s
        interval_s = self._gaps_s.mean or 3600.0
        centre = self._usual.mean if self._seen > 1 else value
        unit = self._usual.deviation + 1e-9 * abs(centre) + 1e-12 if self._seen > 1 else 1.0

        def scaled(raw: float) -> float:
            return max(-_LARGEST, min(_LARGEST, (raw - centre) / unit))

        deviations: list[float] = []
        levels: list[float] = []
        for season in self._seasons:
            weekly = season in self._seasons[2:]
            otherwise = levels[0] if weekly else centre
            deviations.append(season.of(at_s, value, otherwise, interval_s))
            levels.append(season.level)
        day, week = levels[0], levels[2]
        day_before, week_before = self._last_levels or (day, week)
        self._last_levels = day, week
        last = self._recent[-1] if self._recent else value
        before = self._recent[-2] if len(self._recent) > 1 else last
        level = self._level.mean if self._seen else value
        error = self._forecast.error(
            [0.3, *map(scaled, (last, before, level, day, day_before, week, week_before))],
            scaled(value),
        )
        self._recent.append(value)
        recent = list(self._recent)
        views: dict[View, float] = {
            "season": fmean(
                surprise.of(deviation)
                for surprise, deviation in zip(self._of_seasons, deviations, strict=True)
            ),
            "forecast": self._of_forecast.of(error),
            "pattern": self._of_pattern.of(self._pattern.of(recent) / unit),
            "spread": self._spread(recent, unit),
            "size": self._of_size.of(abs(scaled(value))),
        }
        kept = value
        if self._seen >= self._WARM_UP:
            kept = max(centre - 8 * unit, min(centre + 8 * unit, value))
        self._usual.add(kept)
        self._level.add(value)
        self._seen += 1
        return views, fmean(levels)

    def _spread(self, recent: list[float], unit: float) -> float:
        """How unusually restless, or calm, the last points are: log mean absolute step."""
        steps = [abs(b - a) for a, b in pairwise(recent)]
        surprises = []
        for width, usual, surprise in zip(_SPREADS, self._spreads, self._of_spreads, strict=True):
            if len(steps) < width:
                surprises.append(0.0)
                continue
            restless = math.log(fmean(steps[-width:]) / unit + 1e-3)
            surprises.append(surprise.of(abs(restless - usual.mean) / (usual.deviation + 0.1)))
            usual.add(restless)
        return fmean(surprises)

    def _judge(self, surprise: float) -> tuple[float, float]:
        """Steps 4 to 6: what the echo leaves of a surprise, as score and p-value."""
        echo = self._echo
        self._echo = max(echo * self._fading, surprise)
        new = surprise if surprise > self._ABOVE_ECHO * echo else 0.0
        common = self._COMMON * self._combined.mid_p_value(new)
        strength = -math.log10(min(1.0, 10 ** (-self._SHARPNESS * new) + common))
        p_value = self._tail.p_value(new)
        if self._seen <= self._WARM_UP:
            strength, p_value = 0.0, 1.0
        self._combined.add(new)
        self._tail.add(new)
        return strength / (strength + self._HALF), p_value
