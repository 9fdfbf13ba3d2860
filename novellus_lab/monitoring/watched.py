"""What is watched: six metrics, and what a change of each is called."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from novellus_lab.errors import InvalidRequestError
from novellus_lab.monitoring.anomaly import AnomalyKind
from novellus_lab.monitoring.detect.rules import ErrorRateRule, LatencyRule, Rule, TrafficRule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from novellus_lab.monitoring.log_buckets import Sums

_FACTOR = math.log(1.2)
_POINTS = 0.02
_FEWEST_FOR_A_RATE = 10
_FEWEST_FOR_A_MEAN = 3


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric of buckets: `measure / per`, both names of `Sums`.

    `rises` and `falls` name what a change is, None where it is welcome. What learns by itself gets
    logarithms if `as_log`, and speaks from `least` on: a fifth more or less, or two percentage points.
    `fewest`: a bucket with less of `per` has no value. `min_days` of history before a drift is looked
    for. `worst` orders example requests (SQL, of ours).
    """

    name: str
    label: str
    measure: str
    per: str | None
    rises: AnomalyKind | None
    falls: AnomalyKind | None
    as_log: bool
    fewest: int
    worst: str
    rule: type[Rule] | None = None
    min_days: int = 1

    @property
    def least(self) -> float:
        return _FACTOR if self.as_log else _POINTS

    def value(self, sums: Sums) -> float:
        """The metric in a bucket, in its own unit; not a number where there is too little."""
        if self.per is None:
            total = float(getattr(sums, self.measure))
            return total if total > 0 or self.fewest == 0 else math.nan
        under = getattr(sums, self.per)
        return getattr(sums, self.measure) / under if under >= self.fewest else math.nan

    def learnt(self, value: float) -> float:
        """A value as it is learnt: the logarithm of a size, a rate itself."""
        if not self.as_log or math.isnan(value):
            return value
        shift = 1.0 if self.fewest == 0 else 0.0
        return math.log(value + shift) if value + shift > 0 else math.nan

    def unlearnt(self, value: float) -> float:
        """The value that is learnt so."""
        if not self.as_log:
            return value
        return max(0.0, math.exp(min(value, 700.0)) - (1.0 if self.fewest == 0 else 0.0))

    def shown(self, value: float) -> str:
        """For people, with its unit."""
        from decimal import Decimal

        from novellus_lab.display import duration, money

        match self.name:
            case "latency_ms":
                return duration(value)
            case "cost_usd":
                return money(Decimal(repr(value)))
            case "error_rate" | "cache_hit_rate":
                return f"{value:.1%}"
            case "output_tokens":
                return f"{value:,.0f} tokens"
        return f"{value:,.0f} requests"


METRICS = {
    metric.name: metric
    for metric in (
        Metric(
            *("latency_ms", "mean latency", "latency_ms", "answered", AnomalyKind.LATENCY, None),
            as_log=True,
            fewest=_FEWEST_FOR_A_MEAN,
            worst="(status = 'ok' AND cache IN ('off', 'miss')) DESC, latency_ms DESC NULLS LAST",
            rule=LatencyRule,
        ),
        Metric(
            *("error_rate", "error rate", "errors", "ended", AnomalyKind.ERROR_RATE, None),
            as_log=False,
            fewest=_FEWEST_FOR_A_RATE,
            worst="(status = 'error') DESC, created_at DESC",
            rule=ErrorRateRule,
        ),
        Metric(
            *("requests", "requests", "requests", None),
            *(AnomalyKind.TRAFFIC, AnomalyKind.TRAFFIC_DROP),
            as_log=True,
            fewest=0,
            worst="created_at DESC",
            rule=TrafficRule,
            min_days=8,
        ),
        Metric(
            *("cost_usd", "spend", "cost_usd", None, AnomalyKind.SPEND, None),
            as_log=True,
            fewest=1,
            worst="cost_usd DESC NULLS LAST",
            min_days=8,
        ),
        Metric(
            *("output_tokens", "mean output length", "output_tokens", "outputs"),
            *(None, AnomalyKind.OUTPUT_LENGTH_DROP),
            as_log=True,
            fewest=_FEWEST_FOR_A_MEAN,
            worst="(status = 'ok' AND cache IN ('off', 'miss')) DESC, output_tokens ASC NULLS LAST",
        ),
        Metric(
            *("cache_hit_rate", "cache hit rate", "hits", "lookups"),
            *(None, AnomalyKind.CACHE_HIT_RATE_DROP),
            as_log=False,
            fewest=_FEWEST_FOR_A_RATE,
            worst="(cache = 'miss') DESC, created_at DESC",
        ),
    )
}


def watched(names: str | Sequence[str] | None) -> tuple[Metric, ...]:
    """Return metrics by their names (one, several, or None for all).

    Raises:
        InvalidRequestError: one is unknown.
    """
    if names is None:
        return tuple(METRICS.values())
    wanted = [names] if isinstance(names, str) else list(names)
    unknown = [name for name in wanted if name not in METRICS]
    if unknown or not wanted:
        raise InvalidRequestError(
            f"there is no metric {unknown[0] if unknown else ''!r:.80} to watch; there are: "
            f"{', '.join(METRICS)}"
        )
    return tuple(METRICS[name] for name in wanted)
