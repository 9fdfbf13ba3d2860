"""`lab.monitor`: how the models do."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from novellus_lab.errors import InvalidRequestError, UnknownModelError

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider
    from prometheus_client import CollectorRegistry

    from novellus_lab.monitoring.health import HealthScore, HealthScores
    from novellus_lab.monitoring.metrics import ModelMetrics
    from novellus_lab.monitoring.period import Period, TimeRange
    from novellus_lab.monitoring.rollups import Connection
    from novellus_lab.pipeline.runtime import Runtime
    from novellus_lab.spaces.telemetry import LabTelemetry


class LabMonitor:
    """Metrics and health of models, from the log.

    Args:
        ready: returns the runtime, when all calls made so far are in PostgreSQL. It waits: on a
            caller's event loop, put it on a thread.
        telemetry: returns what tells others.
    """

    def __init__(self, ready: Callable[[], Runtime], telemetry: Callable[[], LabTelemetry]) -> None:
        self._ready = ready
        self._telemetry = telemetry

    def __repr__(self) -> str:
        return "lab.monitor: metrics, health, explain_health"

    def metrics(self, model_id: str | None = None, time_range: TimeRange = "1h") -> ModelMetrics:
        """Return what a model did: requests, times, tokens, cost, cache, errors.

        Args:
            model_id: None: all models together.
            time_range: `"1h"`, `"6h"`, `"24h"`, `"7d"`, `"30d"` or any duration back from now, a
                timedelta, a time (local, if it has no zone), or `(start, end)`; None: all.

        Raises:
            InvalidRequestError: `time_range` can't be understood.
            UnknownModelError: no such model is configured, nor is one in the log.
            StoreUnavailableError: the database does not answer, or does not take what waits.
        """
        from novellus_lab.monitoring.period import period

        asked = period(time_range)
        _check_model(model_id)
        runtime = self._ready()
        return runtime.thread.run(_metrics, runtime, model_id, asked)

    async def ametrics(
        self, model_id: str | None = None, time_range: TimeRange = "1h"
    ) -> ModelMetrics:
        """Return what a model did: the async twin of `metrics`, same arguments."""
        from novellus_lab.monitoring.period import period

        asked = period(time_range)
        _check_model(model_id)
        runtime = await asyncio.to_thread(self._ready)
        return await runtime.thread.arun(_metrics, runtime, model_id, asked)

    def health(self) -> HealthScores:
        """Return the health of each model, 0 to 100, the worst first: `lab.health()["gpt-4o"]`.

        Of the models that are routed to, and all that were asked within a day. None is unknown: there
        is too little data. `details` holds each with its reasons.

        Raises:
            StoreUnavailableError: the database does not answer, or does not take what waits.
        """
        runtime = self._ready()
        return runtime.thread.run(_health, runtime)

    async def ahealth(self) -> HealthScores:
        """Return the health of each model: the async twin of `health`."""
        runtime = await asyncio.to_thread(self._ready)
        return await runtime.thread.arun(_health, runtime)

    def explain_health(self, model_id: str) -> HealthScore:
        """Return a model's health with what was taken off, and why.

        Raises:
            UnknownModelError: no such model is configured, nor is one in the log.
            StoreUnavailableError: the database does not answer, or does not take what waits.
        """
        _check_model(model_id, needed=True)
        runtime = self._ready()
        return runtime.thread.run(_explain_health, runtime, model_id)

    async def aexplain_health(self, model_id: str) -> HealthScore:
        """Return a model's health with its reasons: the async twin of `explain_health`."""
        _check_model(model_id, needed=True)
        runtime = await asyncio.to_thread(self._ready)
        return await runtime.thread.arun(_explain_health, runtime, model_id)

    # --- telling others ----------------------------------------------------------------------

    def prometheus(self) -> CollectorRegistry:
        """Return a Prometheus registry of what this lab does in this process, from now on.

        `prometheus_client.start_http_server(9464, registry=lab.monitor.prometheus())` serves it. It
        is the same one each time. `novellus metrics serve` has all processes together.

        Raises:
            MissingDependencyError: prometheus-client is not installed.
        """
        return self._telemetry().registry()

    def instrument(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        content: bool = False,
    ) -> None:
        """Give a span and the metrics of each request to OpenTelemetry, from now on.

        Args:
            tracer_provider, meter_provider: default: the global ones.
            content: put the conversation on the spans, as far as it is logged: with
                `logging.content: false` it is not, and what `redact` changed stays changed.

        Called again, it takes the place of what was set up before. `uninstrument` ends it.

        Raises:
            MissingDependencyError: OpenTelemetry is not installed.
        """
        self._telemetry().instrument(tracer_provider, meter_provider, content=content)

    def uninstrument(self) -> None:
        """Give nothing to OpenTelemetry any more. Idempotent."""
        self._telemetry().uninstrument()


def _check_model(model_id: object, *, needed: bool = False) -> None:
    if not isinstance(model_id, str) and (needed or model_id is not None):
        allowed = "a text" if needed else "a text or None"
        raise InvalidRequestError(f"model_id must be {allowed}, not {model_id!r:.80}")


async def _metrics(runtime: Runtime, model_id: str | None, period: Period) -> ModelMetrics:
    from novellus_lab.monitoring.metrics import read_metrics
    from novellus_lab.monitoring.rollups import catch_up, connected

    async with connected(runtime.conninfo) as connection:
        await catch_up(connection)
        model = None if model_id is None else await _known(runtime, connection, model_id)
        return await read_metrics(connection, period, model)


async def _known(runtime: Runtime, connection: Connection, model_id: str) -> str:
    """Return a model's name in the log: as it is configured, else as it stands there."""
    from novellus_lab.monitoring.metrics import was_seen

    try:
        return runtime.catalog.get(model_id).id
    except UnknownModelError:
        if await was_seen(connection, model_id):
            return model_id
        raise


async def _health(runtime: Runtime) -> HealthScores:
    from novellus_lab.monitoring.health import in_order
    from novellus_lab.monitoring.rollups import catch_up, connected

    async with connected(runtime.conninfo) as connection:
        await catch_up(connection)
        return in_order(
            await _scores(runtime, connection, [m.id for m in runtime.catalog.chat_pool])
        )


async def _explain_health(runtime: Runtime, model_id: str) -> HealthScore:
    from novellus_lab.monitoring.rollups import catch_up, connected

    async with connected(runtime.conninfo) as connection:
        await catch_up(connection)
        model = await _known(runtime, connection, model_id)
        scores = await _scores(runtime, connection, [model])
        return next(score for score in scores if score.model_id == model)


async def _scores(runtime: Runtime, connection: Connection, models: list[str]) -> list[HealthScore]:
    from novellus_lab.monitoring.health import HealthRules, score_health
    from novellus_lab.monitoring.health_facts import read_facts

    rules = HealthRules(**runtime.settings.monitoring.health.model_dump())
    caching = runtime.settings.cache.enabled
    facts = await read_facts(connection, rules, models, caching=caching)
    return [score_health(f, rules) for f in facts]
