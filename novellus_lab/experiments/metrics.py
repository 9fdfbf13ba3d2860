"""What arms are compared by: a number of each observation, and how it is summed up."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from novellus_lab.errors import InvalidRequestError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable

    from novellus_lab.experiments.observation import Observation


class Summary(StrEnum):
    """How the numbers of an arm become one."""

    MEAN = "mean"
    QUANTILE = "quantile"
    RATIO = "ratio"


@dataclass(frozen=True, slots=True)
class Metric:
    """One thing to compare by.

    `of` gives a number for an observation, or None where there is none to give: that item is then
    left out for this metric, in all arms, and counted. `per` is the denominator of a ratio.
    """

    name: str
    title: str
    unit: str
    """`USD`, `ms`, `share` (0 to 1), or empty."""
    better: str
    """`lower` or `higher`."""
    of: Callable[[Observation], float | None]
    summary: Summary = Summary.MEAN
    quantile: float | None = None
    per: Callable[[Observation], float | None] | None = None
    needs_score: bool = False


def _cost(seen: Observation) -> float | None:
    return None if seen.cost_usd is None else float(seen.cost_usd)


def _latency(seen: Observation) -> float | None:
    return seen.latency_ms if seen.ok else None


def _ttft(seen: Observation) -> float | None:
    return seen.ttft_ms if seen.ok else None


def _error(seen: Observation) -> float | None:
    return float(not seen.ok)


def _hit(seen: Observation) -> float | None:
    return None if seen.hit is None or seen.cache == "off" else float(seen.hit)


def _output(seen: Observation) -> float | None:
    return None if seen.output_tokens is None else float(seen.output_tokens)


def _score(seen: Observation) -> float | None:
    return seen.score


METRICS = {
    metric.name: metric
    for metric in (
        Metric("score", "Quality", "", "higher", _score, needs_score=True),
        Metric("cost_usd", "Cost of a call", "USD", "lower", _cost),
        Metric(
            "cost_per_good_answer_usd",
            "Cost of a good answer",
            "USD",
            "lower",
            _cost,
            Summary.RATIO,
            per=_score,
            needs_score=True,
        ),
        Metric("latency_ms", "Latency, mean", "ms", "lower", _latency),
        Metric("latency_p50_ms", "Latency, p50", "ms", "lower", _latency, Summary.QUANTILE, 0.5),
        Metric("latency_p95_ms", "Latency, p95", "ms", "lower", _latency, Summary.QUANTILE, 0.95),
        Metric("ttft_ms", "Time to first token, mean", "ms", "lower", _ttft),
        Metric("output_tokens", "Output tokens", "tokens", "lower", _output),
        Metric("error_rate", "Calls that failed", "share", "lower", _error),
        Metric("hit_rate", "Answered by the cache", "share", "higher", _hit),
    )
}


def metric_of(name: str) -> Metric:
    """Return a metric by name.

    Raises:
        InvalidRequestError: there is none of that name.
    """
    if name not in METRICS:
        raise InvalidRequestError(f"there is no metric {name!r}. {did_you_mean(name, [*METRICS])}")
    return METRICS[name]
