"""What a lab tells others of itself: a Prometheus registry, OpenTelemetry spans and metrics."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from novellus_lab.errors import MissingDependencyError, NovellusError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider
    from prometheus_client import CollectorRegistry

    from novellus_lab.monitoring.otel.instrumentation import Instrumentation, ServedModel
    from novellus_lab.monitoring.prometheus.metrics import Metric
    from novellus_lab.pipeline.runtime import Runtime
    from novellus_lab.store.listeners import Listeners


class LabTelemetry:
    """One per lab. Nothing is imported, counted or told before somebody asks for it.

    Args:
        live: returns this process's runtime.
    """

    def __init__(self, live: Callable[[], Runtime], listeners: Listeners) -> None:
        self._live = live
        self._listeners = listeners
        self._lock = threading.Lock()
        self._registry: CollectorRegistry | None = None
        self._instrumentation: Instrumentation | None = None

    def registry(self) -> CollectorRegistry:
        """Return the registry of this lab's metrics in this process, which counts from now on.

        Raises:
            MissingDependencyError: prometheus-client is not installed.
        """
        from novellus_lab.monitoring.prometheus.exposition import Exposition, registry_of
        from novellus_lab.monitoring.prometheus.health import KeptHealth
        from novellus_lab.monitoring.prometheus.live import LiveTotals

        with self._lock:
            if self._registry is None:
                live = LiveTotals()
                self._registry = registry_of(
                    Exposition(live.totals, self._readings, KeptHealth(self._health))
                )
                self._listeners.add(ended=live.ended)
            return self._registry

    def _readings(self) -> Mapping[Metric, float]:
        from novellus_lab.monitoring.prometheus.metrics import BACKLOG, LOST, REJECTED

        try:
            stats = self._live().log.stats()
        except NovellusError:  # the lab is closed: what it counted can still be read
            return {}
        return {BACKLOG: stats.pending_bytes, REJECTED: stats.rejected, LOST: stats.lost}

    def _health(self) -> Mapping[str, float | None]:
        """Of the whole log: a model is as healthy as all processes together find it."""
        from novellus_lab.monitoring.health import HealthRules
        from novellus_lab.monitoring.prometheus.health import read_health

        try:
            runtime = self._live()
        except NovellusError:  # closed
            return {}
        rules = HealthRules(**runtime.settings.monitoring.health.model_dump())
        caching = runtime.settings.cache.enabled

        async def read() -> Mapping[str, float | None]:
            return await read_health(runtime.conninfo, rules, caching=caching)

        return runtime.thread.run(read)

    def instrument(
        self,
        tracer_provider: TracerProvider | None,
        meter_provider: MeterProvider | None,
        *,
        content: bool,
    ) -> None:
        """Give spans and metrics to OpenTelemetry from now on, in place of what was set up before.

        Raises:
            MissingDependencyError: OpenTelemetry is not installed.
        """
        try:
            from novellus_lab.monitoring.otel.instrumentation import Instrumentation
        except ImportError as error:
            raise MissingDependencyError(
                f"OpenTelemetry needs {error.name}: pip install 'novellus_lab[otel]'"
            ) from None
        made = Instrumentation(
            self._served,
            tracer_provider=tracer_provider,
            meter_provider=meter_provider,
            content=content,
        )
        with self._lock:
            self._stop_instrumentation()
            self._instrumentation = made
            self._listeners.add(ended=made.ended, around=made.around)

    def uninstrument(self) -> None:
        """Tell OpenTelemetry no more. Idempotent."""
        with self._lock:
            self._stop_instrumentation()

    def _stop_instrumentation(self) -> None:
        old, self._instrumentation = self._instrumentation, None
        if old is not None:
            self._listeners.remove(ended=old.ended, around=old.around)

    def _served(self, model_id: str) -> ServedModel | None:
        from novellus_lab.monitoring.otel.instrumentation import ServedModel

        try:
            model = self._live().catalog.get(model_id)
        except NovellusError:
            return None
        return ServedModel(model.name, model.provider, model.config.base_url)
