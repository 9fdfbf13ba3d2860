"""`lab.plot`: a figure for each question to the log."""

from __future__ import annotations

import asyncio
import inspect
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Unpack

from novellus_lab.analytics import frames
from novellus_lab.analytics.forecast import forecast as spend_forecast
from novellus_lab.analytics.grouping import Question
from novellus_lab.analytics.latency import latency as latency_frame
from novellus_lab.analytics.latency_shape import latency_bins, latency_ecdf
from novellus_lab.analytics.log_columns import REQUESTS
from novellus_lab.analytics.quality import quality
from novellus_lab.analytics.requests import moment
from novellus_lab.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    import plotly.graph_objects as go

    from novellus_lab.analytics.log_mirror import LogMirror
    from novellus_lab.analytics.selection import Filters
    from novellus_lab.experiments.comparison import Comparison
    from novellus_lab.spaces.anomalies import Anomalies

    Since = str | datetime | timedelta | None
    By = str | Sequence[str] | None

P = ParamSpec("P")

_QUANTILES = ("p50", "p95", "p99")
_SOURCES = ("provider", "cache", "coalesced")


def _twin(
    method: Callable[Concatenate[LabPlot, P], go.Figure],
) -> Callable[Concatenate[LabPlot, P], Coroutine[Any, Any, go.Figure]]:
    """Make the async twin of a figure: the same arguments, drawn in a thread."""

    async def drawn(self: LabPlot, /, *args: P.args, **kwargs: P.kwargs) -> go.Figure:
        return await asyncio.to_thread(method, self, *args, **kwargs)

    drawn.__signature__ = inspect.signature(method)  # type: ignore[attr-defined]
    drawn.__name__ = f"a{method.__name__}"
    drawn.__doc__ = f"The async twin of `{method.__name__}`: same arguments."
    return drawn


class LabPlot:
    """Plotly figures of the log. Arguments are those of `lab.analytics`: `since`, `by`, `every`, `tz`,
    and the filters of `Filters`. Each figure has an async twin: `acosts`, `alatency`, …

    Without `every`, buckets of time suit the length of time. Where there is nothing to draw a figure
    says so. Missing Plotly is a MissingDependencyError.

    Args:
        mirror: returns the log's columns.
        anomalies: `lab.monitor.anomalies`.
    """

    def __init__(
        self, mirror: Callable[[], LogMirror], anomalies: Callable[..., Anomalies]
    ) -> None:
        self._mirror = mirror
        self._anomalies = anomalies

    def __repr__(self) -> str:
        return (
            "lab.plot: costs, savings, cache, latency, latency_ecdf, latency_heatmap, usage, errors, "
            "sessions, forecast, frontier, anomalies, comparison"
        )

    def costs(
        self,
        since: Since = "7d",
        *,
        by: By = "model",
        every: str | None = None,
        tz: str = "UTC",
        **filters: Unpack[Filters],
    ) -> go.Figure:
        """Draw spend over time, stacked by model (or what `by` says), and below it the requests
        without a price."""
        from novellus_lab.plots.costs import costs_figure

        width = _width(since, every, filters)
        frame = frames.costs(self._mirror(), _asked(since, by, width, tz, filters))
        return costs_figure(frame, _names(by), width, tz)

    def savings(
        self,
        since: Since = "7d",
        *,
        every: str | None = None,
        tz: str = "UTC",
        **filters: Unpack[Filters],
    ) -> go.Figure:
        """Draw spend over time, and what the cache's answers would have cost on top of it."""
        from novellus_lab.plots.cache import savings_figure

        width = _width(since, every, filters)
        frame = frames.costs(self._mirror(), _asked(since, None, width, tz, filters))
        return savings_figure(frame, width, tz)

    def cache(
        self, since: Since = "7d", *, tz: str = "UTC", **filters: Unpack[Filters]
    ) -> go.Figure:
        """Draw how many requests each tier of the cache left to the next, and what that saved."""
        from novellus_lab.plots.cache import funnel_figure

        return funnel_figure(frames.cache(self._mirror(), _asked(since, None, None, tz, filters)))

    def latency(
        self,
        since: Since = "7d",
        *,
        of: str = "latency_ms",
        by: By = None,
        quantile: str = "p95",
        source: str = "provider",
        every: str | None = None,
        tz: str = "UTC",
        **filters: Unpack[Filters],
    ) -> go.Figure:
        """Draw p50, p95 and p99 over time with 95% intervals.

        Args:
            of: latency_ms, provider_ms, ttft_ms, queue_ms or overhead_ms.
            by: draw one line a group instead, of `quantile`.
            source: whose answers: `provider`, `cache` or `coalesced`; they are never mixed.
        """
        from novellus_lab.plots.latency import latency_figure

        _one_of("quantile", quantile, _QUANTILES)
        _one_of("source", source, _SOURCES)
        width = _width(since, every, filters)
        frame = latency_frame(self._mirror(), _asked(since, by, width, tz, filters), of)
        return latency_figure(frame, _names(by), width, tz, of, source, quantile)

    def latency_ecdf(
        self,
        since: Since = "7d",
        *,
        of: str = "latency_ms",
        by: By = None,
        source: str = "provider",
        tz: str = "UTC",
        **filters: Unpack[Filters],
    ) -> go.Figure:
        """Draw the share of answers that took no longer than so many milliseconds, with bands."""
        from novellus_lab.plots.latency import ecdf_figure

        _one_of("source", source, _SOURCES)
        frame = latency_ecdf(self._mirror(), _asked(since, by, None, tz, filters), of)
        return ecdf_figure(frame, _names(by), of, source)

    def latency_heatmap(
        self,
        since: Since = "7d",
        *,
        of: str = "latency_ms",
        source: str = "provider",
        every: str | None = None,
        tz: str = "UTC",
        **filters: Unpack[Filters],
    ) -> go.Figure:
        """Draw where latencies lie over time: the share of each bucket's answers that took so long."""
        from novellus_lab.plots.latency import heatmap_figure

        _one_of("source", source, _SOURCES)
        width = _width(since, every, filters)
        asked = _asked(since, None, width, tz, filters)
        frame = latency_bins(self._mirror(), asked, of, source)
        return heatmap_figure(frame, width, tz, of, source)

    def usage(
        self,
        since: Since = "7d",
        *,
        by: By = "model",
        tz: str = "UTC",
        **filters: Unpack[Filters],
    ) -> go.Figure:
        """Draw where tokens go: new and cached input, through the models, to answers and reasoning."""
        from novellus_lab.plots.tokens import flow_figure

        frame = frames.usage(self._mirror(), _asked(since, by, None, tz, filters))
        return flow_figure(frame, _names(by))

    def errors(
        self,
        since: Since = "7d",
        *,
        every: str | None = None,
        tz: str = "UTC",
        **filters: Unpack[Filters],
    ) -> go.Figure:
        """Draw what did not end well by kind, as shares of all requests; with `every`, over time."""
        from novellus_lab.plots.errors import errors_figure, errors_over_time_figure

        mirror, kinds = self._mirror(), ["status", "error_class"]
        frame = frames.errors(mirror, _asked(since, kinds, every, tz, filters))
        if every is not None:
            return errors_over_time_figure(frame, every, tz)
        whole = frames.errors(mirror, _asked(since, None, None, tz, filters))
        return errors_figure(frame, int(whole["requests"].sum()))

    def sessions(
        self, since: Since = "7d", *, tz: str = "UTC", **filters: Unpack[Filters]
    ) -> go.Figure:
        """Draw what the dearest sessions cost."""
        from novellus_lab.plots.costs import sessions_figure

        asked = _asked(since, None, None, tz, filters)
        return sessions_figure(frames.sessions(self._mirror(), asked))

    def forecast(
        self, period: str = "month", *, tz: str = "UTC", **filters: Unpack[Filters]
    ) -> go.Figure:
        """Draw what this day, week, month, quarter or year has cost so far, and the way to what it
        will have cost at its end, with a 95% interval."""
        from novellus_lab.plots.forecast import forecast_figure

        mirror = self._mirror()
        found = spend_forecast(mirror, _asked(None, None, None, tz, filters), period)
        daily = frames.costs(mirror, _asked(found.start, None, "1d", tz, filters))
        now = datetime.now(found.start.tzinfo)
        return forecast_figure(found, daily, now, tz)

    def frontier(
        self,
        since: Since | Comparison = "30d",
        *,
        by: By = "model",
        tz: str = "UTC",
        **filters: Unpack[Filters],
    ) -> go.Figure:
        """Draw what quality costs and how long it takes: of a comparison, or of the log's scored answers.

        `by="strategy"` or `by=["strategy", "arm"]` draws strategies instead of models.
        """
        from novellus_lab.experiments.comparison import Comparison
        from novellus_lab.plots.comparison import frontier_figure
        from novellus_lab.plots.frontier import log_frontier_figure

        if isinstance(since, Comparison):
            return frontier_figure(since)
        frame = quality(self._mirror(), _asked(since, by, None, tz, filters))
        return log_frontier_figure(frame, _names(by))

    def comparison(self, comparison: Comparison) -> go.Figure:
        """Draw what the arms of a comparison differ by."""
        from novellus_lab.plots.comparison import effects_figure

        return effects_figure(comparison)

    def anomalies(
        self, /, since: Since = "7d", which: int | str | None = None, **arguments: Any
    ) -> go.Figure:
        """Draw an anomaly in its series: the worst, or by its place or id.

        Takes the arguments of `lab.anomalies`: `model`, `kind`, `severity`, `metrics`, …
        """
        from novellus_lab.plots.theme import nothing

        found = self._anomalies(since, **arguments)
        if not len(found):
            return nothing("Anomalies", "No anomaly was found in this time.")
        return found.figure(which)

    acosts = _twin(costs)
    asavings = _twin(savings)
    acache = _twin(cache)
    alatency = _twin(latency)
    alatency_ecdf = _twin(latency_ecdf)
    alatency_heatmap = _twin(latency_heatmap)
    ausage = _twin(usage)
    aerrors = _twin(errors)
    asessions = _twin(sessions)
    aforecast = _twin(forecast)
    afrontier = _twin(frontier)
    aanomalies = _twin(anomalies)


def _asked(since: Any, by: By, every: str | None, tz: str, filters: Any) -> Question:
    return Question(REQUESTS, since, by, every, tz, filters)


def _names(by: By) -> list[str]:
    return [by] if isinstance(by, str) else list(by or ())


def _width(since: Since, every: str | None, filters: Any) -> str:
    """Return a width of buckets that makes some dozens of them."""
    if every is not None:
        return every
    start, end = moment("since", since), moment("until", filters.get("until"))
    if start is None:
        return "1d"
    span = (end or datetime.now(UTC)) - start
    for most, width in ((3, "5m"), (12, "15m"), (72, "1h"), (24 * 100, "1d"), (24 * 700, "1w")):
        if span <= timedelta(hours=most):
            return width
    return "month"


def _one_of(name: str, given: str, allowed: Sequence[str]) -> None:
    if given not in allowed:
        raise InvalidRequestError(f"{name} must be one of {', '.join(allowed)}, not {given!r:.80}")
