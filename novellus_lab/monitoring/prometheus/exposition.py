"""From totals to the families that prometheus-client writes out."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from novellus_lab.errors import MissingDependencyError
from novellus_lab.monitoring.prometheus.metrics import HEALTH, HIT_RATE, METRICS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from prometheus_client import CollectorRegistry

    from novellus_lab.monitoring.prometheus.metrics import Metric
    from novellus_lab.monitoring.prometheus.totals import Distribution, Labels, Totals

logger = logging.getLogger("novellus_lab.monitoring")


@dataclass(frozen=True, slots=True)
class Exposition:
    """A collector over totals: give it to a registry."""

    totals: Totals
    readings: Callable[[], Mapping[Metric, float]]
    """What is no sum: backlog and the like, read at each scrape."""
    health: Callable[[], Mapping[str, float | None]] = field(default=dict)

    def describe(self) -> list[Any]:
        """Nothing is collected when this is registered."""
        return []

    def collect(self) -> Iterator[Any]:
        """Yield all families; those without a sample, too, so that a name is never a surprise."""
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        counters, distributions = self.totals.snapshot()
        values: dict[Metric, Mapping[Labels, float]] = {
            metric: {labels: float(value) for labels, value in series.items()}
            for metric, series in counters.items()
        }
        for metric, value in self._read("backlog", self.readings).items():
            values[metric] = {(): value}
        hit_rate = self.totals.hit_rate()
        if hit_rate is not None:
            values[HIT_RATE] = {(): hit_rate}
        scores = self._read("health", self.health)
        values[HEALTH] = {(model,): score for model, score in scores.items() if score is not None}
        for metric in METRICS:
            if metric.kind == "histogram":
                family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
                for labels, one in sorted(distributions.get(metric, {}).items()):
                    family.add_metric(labels, _cumulative(metric, one), one.total_s)
                yield family
                continue
            kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            simple = kind(metric.name, metric.help, labels=metric.labels)
            for labels, value in sorted(values.get(metric, {}).items()):
                simple.add_metric(labels, value)
            yield simple

    def _read(self, what: str, read: Callable[[], Mapping[Any, Any]]) -> Mapping[Any, Any]:
        """A scrape tells what it can: one reading that fails takes no other with it."""
        try:
            return read()
        except Exception as error:
            logger.warning("%s could not be read for Prometheus: %s", what, type(error).__name__)
            return {}


def _cumulative(metric: Metric, one: Distribution) -> list[tuple[str, float]]:
    bounds = (*(repr(float(bound)) for bound in metric.buckets), "+Inf")
    return list(zip(bounds, accumulate(one.counts), strict=True))


def registry_of(exposition: Exposition) -> CollectorRegistry:
    """Return a registry that holds these metrics and nothing else.

    Raises:
        MissingDependencyError: prometheus-client is not installed.
    """
    try:
        from prometheus_client import CollectorRegistry
    except ImportError:
        raise MissingDependencyError(
            "metrics for Prometheus need prometheus-client: pip install 'novellus_lab[metrics]'"
        ) from None
    registry = CollectorRegistry()
    registry.register(exposition)
    return registry
