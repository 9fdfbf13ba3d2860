"""An anomaly in its series: what was, what is usual, where it left it."""

from __future__ import annotations

import math
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING

from novellus_lab.plots.theme import COLOURS, band, faded, figure, graph_objects

if TYPE_CHECKING:
    from collections.abc import Iterator

    import plotly.graph_objects as plotly

    from novellus_lab.monitoring.anomaly import Anomaly
    from novellus_lab.monitoring.series_history import SeriesHistory

_UNITS = {
    "latency_ms": ("ms", ",.0f"),
    "error_rate": ("share of requests", ".1%"),
    "requests": ("requests", ",.0f"),
    "cost_usd": ("US dollars", "$,.4~f"),
    "output_tokens": ("tokens", ",.0f"),
    "cache_hit_rate": ("share of lookups", ".1%"),
}


def anomaly_figure(history: SeriesHistory, anomaly: Anomaly) -> plotly.Figure:
    """Draw a series with its usual range; the time of the anomaly is shaded, its worst point marked."""
    go = graph_objects()
    metric = history.metric
    unit, digits = _UNITS[metric.name]
    minutes = anomaly.bucket.total_seconds() / 60
    drawn = figure(
        f"{metric.label[0].upper()}{metric.label[1:]} · {escape(history.model or 'all models')}",
        "time (UTC)",
        f"{unit}, by {minutes:g} min",
        subtitle=(
            f"{anomaly.kind.value.replace('_', ' ')}, {anomaly.severity.value}: "
            f"{metric.shown(anomaly.observed)} where {metric.shown(anomaly.expected)} is usual; "
            "in the band lies what is usual at that time"
        ),
    )
    for part in _known(history):
        times = history.times[part]
        drawn.add_trace(band(times, history.low[part], history.high[part], COLOURS[6]))  # type: ignore[arg-type]
    drawn.add_trace(
        go.Scatter(
            x=list(history.times),
            y=[_or_none(value) for value in history.expected],
            line={"color": COLOURS[6], "dash": "dot", "width": 1.5},
            mode="lines",
            name="usual",
            hovertemplate=f"usual %{{y:{digits}}}<extra></extra>",
        )
    )
    drawn.add_trace(
        go.Scatter(
            x=list(history.times),
            y=[_or_none(value) for value in history.values],
            line={"color": COLOURS[0], "width": 1.6},
            mode="lines",
            name=metric.label,
            hovertemplate=f"%{{y:{digits}}}<extra></extra>",
        )
    )
    end = anomaly.end or (history.times[-1] + anomaly.bucket if history.times else anomaly.start)
    drawn.add_vrect(
        x0=anomaly.start,
        x1=end,
        fillcolor=faded(COLOURS[1], 0.16),
        line={"width": 0},
        layer="below",
    )
    odd = [
        (time, value)
        for time, value in zip(history.times, history.values, strict=True)
        if anomaly.start <= time < end and not math.isnan(value)
    ]
    if odd:
        up = anomaly.observed >= anomaly.expected
        time, value = (max if up else min)(odd, key=lambda point: point[1])
        drawn.add_trace(
            go.Scatter(
                x=[time],
                y=[value],
                mode="markers",
                marker={"color": COLOURS[1], "size": 10},
                name="worst",
                hoverinfo="skip",
            )
        )
    drawn.update_yaxes(tickformat=digits, rangemode="tozero")
    return drawn


def _known(history: SeriesHistory) -> Iterator[slice]:
    """Stretches in which the usual range is known: a band has no holes."""
    known = [not math.isnan(low) for low in history.low]
    edges = [-1, *(n for n, one in enumerate(known) if not one), len(known)]
    for before, after in pairwise(edges):
        if after - before > 2:
            yield slice(before + 1, after)


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
