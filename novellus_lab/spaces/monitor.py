"""`lab.monitor`: how the models do."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from novellus_lab.errors import InvalidRequestError, MissingDependencyError
from novellus_lab.spaces.anomalies import Anomalies

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider
    from prometheus_client import CollectorRegistry

    from novellus_lab.monitoring.anomaly import Anomaly
    from novellus_lab.monitoring.health import HealthScore, HealthScores
    from novellus_lab.monitoring.metrics import ModelMetrics
    from novellus_lab.monitoring.period import Period, TimeRange
    from novellus_lab.pipeline.runtime import Runtime
    from novellus_lab.spaces.overview import Overview
    from novellus_lab.spaces.telemetry import LabTelemetry
    from novellus_lab.spaces.watch import Watch


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
        return (
            "lab.monitor: metrics, health, explain_health, anomalies, acknowledge, watch, overview, "
            "prometheus, instrument"
        )

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

    # --- anomalies ---------------------------------------------------------------------------

    def anomalies(
        self,
        since: str | datetime | timedelta | None = "7d",
        *,
        until: str | datetime | timedelta | None = None,
        model: str | None = None,
        kind: str | None = None,
        severity: str | None = None,
        acknowledged: bool | None = None,
        metrics: str | Sequence[str] | None = None,
        bucket: str | float | timedelta | None = None,
        false_alarms: float = 1.0,
        detect: bool = True,
    ) -> Anomalies:
        """Look for anomalies in the log, store what is found, and return it, newest first.

        Args:
            since, until: a duration back from now (`"1h"`, `"7d"`), or a time.
            model: look at this one alone; None: at each, and at all together.
            kind: return these only: `latency`, `error_rate`, `traffic`, `traffic_drop`, `spend`,
                `output_length_drop`, `cache_hit_rate_drop`, `drift`, `unusual`.
            severity: return these and worse: `low`, `medium`, `high`.
            acknowledged: True or False: return those that were, or were not, acknowledged.
            metrics: look at these only: `latency_ms`, `error_rate`, `requests`, `cost_usd`,
                `output_tokens`, `cache_hit_rate`.
            bucket: time in one point of a series: `"1m"`, `"15m"`; default by range and traffic.
            false_alarms: how many the detectors that learn may give in a week for one metric of one
                model. 0: the rules alone.
            detect: False: return what was stored before.

        What was found before is the same anomaly, with its acknowledgement.

        Raises:
            InvalidRequestError: an argument is wrong.
            MissingDependencyError: NumPy is not installed.
            StoreUnavailableError: the database does not answer.
        """
        try:
            from novellus_lab.monitoring.detection import connected
            from novellus_lab.monitoring.detection import detect as look
        except ImportError as error:
            raise MissingDependencyError(
                f"anomalies need {error.name}: pip install 'novellus_lab[analytics]'"
            ) from None
        from novellus_lab.analytics.requests import moment
        from novellus_lab.monitoring.anomaly import AnomalyKind, Severity, one_of
        from novellus_lab.monitoring.anomaly_table import load
        from novellus_lab.monitoring.log_buckets import bucket_width
        from novellus_lab.monitoring.scan import Watching
        from novellus_lab.monitoring.series_history import history_of
        from novellus_lab.monitoring.watched import watched

        end = moment("until", until) or datetime.now(UTC)
        start = moment("since", since) or end - timedelta(days=30)
        if start >= end:
            raise InvalidRequestError(f"since ({start}) must be before until ({end})")
        width = None if bucket is None else bucket_width(bucket)
        wanted_kind = None if kind is None else one_of(AnomalyKind, "kind", kind)
        wanted_severity = None if severity is None else one_of(Severity, "severity", severity)
        asked = Watching(timedelta(minutes=1), false_alarms, watched(metrics), model)
        conninfo = self._ready().conninfo
        watchings = look(conninfo, asked, width, start, end) if detect else []
        with connected(conninfo) as connection:
            found = load(
                connection,
                since=start,
                until=end,
                model=model,
                kind=wanted_kind,
                severity=wanted_severity,
                acknowledged=acknowledged,
            )
        about = f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC"
        widths = sorted({watching.width for watching in watchings})
        minutes = " and ".join(f"{width / timedelta(minutes=1):g}" for width in widths)
        about += f", in buckets of {minutes} min" if detect else ", as stored"
        return Anomalies(found, about, lambda anomaly: history_of(conninfo, anomaly))

    async def aanomalies(
        self, since: str | datetime | timedelta | None = "7d", **arguments: Any
    ) -> Anomalies:
        """Look for anomalies: the async twin of `anomalies`, same arguments."""
        return await asyncio.to_thread(self.anomalies, since, **arguments)

    def acknowledge(
        self, anomaly: str | UUID | Anomaly, note: str | None = None, *, by: str | None = None
    ) -> Anomaly:
        """Say that somebody has seen an anomaly, and what it was; return it.

        Args:
            anomaly: itself, or its id.
            by: who; default the user of this machine.

        Raises:
            InvalidRequestError: there is none with that id.
            StoreUnavailableError: the database does not answer.
        """
        from novellus_lab.monitoring.anomaly_table import acknowledge
        from novellus_lab.monitoring.detection import connected

        given = str(getattr(anomaly, "id", anomaly))
        try:
            id = UUID(given)
        except ValueError:
            raise InvalidRequestError(f"{given!r:.80} is no anomaly's id") from None
        with connected(self._ready().conninfo) as connection:
            return acknowledge(connection, id, by or _user(), note)

    async def aacknowledge(
        self, anomaly: str | UUID | Anomaly, note: str | None = None, *, by: str | None = None
    ) -> Anomaly:
        """Say that somebody has seen an anomaly: the async twin of `acknowledge`."""
        return await asyncio.to_thread(self.acknowledge, anomaly, note, by=by)

    def watch(
        self,
        callback: Callable[[Anomaly], object] | None = None,
        *,
        every: float | timedelta = 60.0,
        webhook: str | Sequence[str] | None = None,
        since: str | timedelta = "1h",
        model: str | None = None,
        kinds: str | Sequence[str] | None = None,
        severity: str | None = None,
        metrics: str | Sequence[str] | None = None,
        bucket: str | float | timedelta | None = None,
        false_alarms: float = 1.0,
        settle: float | timedelta = 30.0,
        name: str = "watch",
    ) -> Watch:
        """Look for anomalies in new rows of the log, in the background, until stopped or the lab closes.

        Each is told once: by a log line, to `callback`, and to the webhooks. Watchers of one `name`
        share that, whatever process or machine they are in.

        Args:
            callback: called with each `Anomaly`, on a thread of the watcher.
            every: seconds (or a timedelta) between two looks.
            webhook: URLs that each anomaly is POSTed to as JSON; tried again where that may help. A
                slow one holds up nothing. Its URL is never logged.
            since: how far back the first look reaches.
            model, metrics, bucket, false_alarms: as of `anomalies`.
            kinds, severity: tell of these kinds only; of this severity and worse.
            settle: seconds that a bucket is left alone after its end, for answers that take long.

        Raises:
            InvalidRequestError: an argument is wrong.
            MissingDependencyError: NumPy is not installed.
        """
        from novellus_lab.spaces.watch import Watch, watcher_of

        runtime = self._ready()
        watcher = watcher_of(
            runtime.conninfo,
            callback=callback,
            every=every,
            webhook=webhook,
            since=since,
            model=model,
            kinds=kinds,
            severity=severity,
            metrics=metrics,
            bucket=bucket,
            false_alarms=false_alarms,
            settle=settle,
            name=name,
        )
        return Watch(watcher, runtime.thread)

    def overview(self, time_range: str | timedelta = "24h", *, detect: bool = True) -> Overview:
        """Return health, metrics and anomalies of all models at a glance; `.save("overview.html")`.

        Args:
            time_range: a duration back from now.
            detect: look for anomalies in it; False: show those that were found before.

        Raises:
            InvalidRequestError: `time_range` is no duration.
            MissingDependencyError: NumPy is not installed.
            StoreUnavailableError: the database does not answer.
        """
        from novellus_lab.spaces.overview import Overview

        anomalies = self.anomalies(time_range, detect=detect)
        health = self.health()
        each = (self.metrics(model, time_range) for model in health)
        asked = tuple(one for one in each if one.requests.total)
        label = time_range if isinstance(time_range, str) else str(time_range)
        return Overview(health, (self.metrics(None, time_range), *asked), anomalies, label)

    async def aoverview(
        self, time_range: str | timedelta = "24h", *, detect: bool = True
    ) -> Overview:
        """Return all at a glance: the async twin of `overview`."""
        return await asyncio.to_thread(self.overview, time_range, detect=detect)

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
    from novellus_lab.monitoring.current import current_metrics

    return await current_metrics(runtime.conninfo, runtime.catalog, model_id, period)


async def _health(runtime: Runtime) -> HealthScores:
    from novellus_lab.monitoring.current import current_health
    from novellus_lab.monitoring.health import in_order

    return in_order(await current_health(runtime.conninfo, runtime.catalog, runtime.settings))


async def _explain_health(runtime: Runtime, model_id: str) -> HealthScore:
    from novellus_lab.monitoring.current import current_health_of

    return await current_health_of(runtime.conninfo, runtime.catalog, runtime.settings, model_id)


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"
