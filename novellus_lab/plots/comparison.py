"""A comparison: what arms differ by, and where they stand in cost, quality and latency."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING, Any

from novellus_lab.experiments.metrics import METRICS
from novellus_lab.experiments.wording import value_text
from novellus_lab.plots.theme import COLOURS, figure, graph_objects

if TYPE_CHECKING:
    import plotly.graph_objects as plotly

    from novellus_lab.experiments.comparison import Comparison
    from novellus_lab.experiments.effects import Effect

_SHOWN = ("score", "cost_usd", "latency_ms", "latency_p95_ms", "error_rate", "hit_rate")


def effects_figure(comparison: Comparison) -> plotly.Figure:
    """Draw each arm's differences from the control, in percent of the control's value.

    Rates and scores are in percentage points. The line is no difference; what reaches over it can't
    be told from none.
    """
    go = graph_objects()
    design = comparison.design
    drawn = figure(
        f"Against {escape(design.control)}",
        "difference, in percent of the control (points for rates and quality)",
        "",
        subtitle=f"{comparison.n} items asked in every arm; lines are "
        + ("always-valid " if design.sequential else "")
        + f"{design.level:.0%} intervals, corrected for their number",
        height=190 + 26 * len(_SHOWN) * (len(design.names) - 1),
    )
    names = [name for name in dict.fromkeys([design.metric, *_SHOWN]) if name in METRICS]
    for number, arm in enumerate(design.names[1:]):
        found = [
            e
            for name in names
            for e in comparison.effects
            if e.metric.name == name and e.arm == arm
        ]
        shown = [(e, *percent) for e in found if (percent := percent_of_control(e)) is not None]
        if not shown:
            continue
        colour = COLOURS[number % len(COLOURS)]
        drawn.add_trace(
            go.Scatter(
                x=[value for _, value, _, _ in shown],
                y=[_label(e, design.metric) for e, *_ in shown],
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": [high - value for _, value, _, high in shown],
                    "arrayminus": [value - low for _, value, low, _ in shown],
                    "color": colour,
                    "thickness": 2,
                    "width": 4,
                },
                mode="markers",
                marker={"color": colour, "size": 9},
                name=escape(arm),
                customdata=[_told(e) for e, *_ in shown],
                hovertemplate="%{customdata}<extra></extra>",
            )
        )
    drawn.add_vline(x=0, line={"color": "#8a8f98", "width": 1, "dash": "dot"})
    drawn.update_layout(hovermode="closest", scattermode="group", scattergap=0.5)
    drawn.update_xaxes(ticksuffix="%", zeroline=False, showgrid=True)
    drawn.update_yaxes(autorange="reversed", showgrid=False)
    return drawn


def frontier_figure(comparison: Comparison) -> plotly.Figure:
    """Draw the arms by cost and quality (latency where nothing was scored), with intervals.

    The dashed line joins the arms that no other beats in both.
    """
    go = graph_objects()
    design = comparison.design
    scored = design.scorer is not None and any(e.metric.name == "score" for e in comparison.effects)
    y_metric = METRICS["score" if scored else "latency_ms"]
    points = _points(comparison, "cost_usd", y_metric.name)
    drawn = figure(
        "What quality costs" if scored else "What speed costs",
        "US dollars for 1,000 calls",
        "mean quality" if scored else "mean latency, ms",
        subtitle=f"{comparison.n} items asked in every arm; lines are "
        f"{design.level:.0%} intervals, corrected for their number",
    )
    for number, (name, x, y) in enumerate(points):
        colour = COLOURS[number % len(COLOURS)]
        drawn.add_trace(
            go.Scatter(
                x=[x[0] * 1000],
                y=[y[0]],
                error_x=_bars(x, 1000, colour),
                error_y=_bars(y, 1, colour),
                mode="markers",
                marker={"color": colour, "size": 11},
                name=escape(name),
                hovertemplate=f"{escape(name)}: $%{{x:.3f}} for 1,000 calls, "
                + ("quality %{y:.1%}" if scored else "%{y:.0f} ms")
                + "<extra></extra>",
            )
        )
    best = _unbeaten([(x[0], y[0]) for _, x, y in points], higher=scored)
    if len(best) > 1:
        drawn.add_trace(
            go.Scatter(
                x=[points[i][1][0] * 1000 for i in best],
                y=[points[i][2][0] for i in best],
                mode="lines",
                line={"color": COLOURS[6], "dash": "dash", "width": 1.5},
                name="not beaten in both",
                hoverinfo="skip",
            )
        )
    drawn.update_layout(hovermode="closest")
    drawn.update_xaxes(tickprefix="$", rangemode="tozero", showgrid=True)
    drawn.update_yaxes(tickformat=".0%" if scored else ",.0f")
    return drawn


def percent_of_control(effect: Effect) -> _Point | None:
    """Value and bounds in percent of the control; in points where the metric is a share itself."""
    change, relative, base = effect.difference, effect.relative, effect.control.value
    if effect.metric.unit == "share" or effect.metric.name == "score":
        estimate, scale = change, 100.0
    elif relative is not None:
        estimate, scale = relative, 100.0
    else:
        estimate, scale = change, 100 / base if base else math.nan
    if estimate.value is None or not estimate.bounded or math.isnan(scale):
        return None
    return estimate.value * scale, estimate.low * scale, estimate.high * scale


def _label(effect: Effect, primary: str) -> str:
    return effect.metric.title + (" ★" if effect.metric.name == primary else "")


def _told(effect: Effect) -> str:
    metric, change = effect.metric, effect.difference
    low, high = (value_text(b, metric, signed=True) for b in (change.low, change.high))
    return (
        f"<b>{escape(effect.arm)}</b>, {metric.title}<br>"
        f"{value_text(effect.control.value, metric)} → {value_text(effect.treatment.value, metric)}<br>"
        f"difference {value_text(change.value, metric, signed=True)} [{low}, {high}]"
    )


_Point = tuple[float, float, float]


def _points(comparison: Comparison, x: str, y: str) -> list[tuple[str, _Point, _Point]]:
    found: dict[str, dict[str, _Point]] = {}
    for effect in comparison.effects:
        if effect.metric.name not in (x, y):
            continue
        for name, estimate in (
            (comparison.design.control, effect.control),
            (effect.arm, effect.treatment),
        ):
            if estimate.value is not None:
                low, high = (
                    (estimate.low, estimate.high) if estimate.bounded else (estimate.value,) * 2
                )
                found.setdefault(name, {})[effect.metric.name] = (estimate.value, low, high)
    return [
        (n, at[x], at[y])
        for n in comparison.design.names
        if (at := found.get(n)) and x in at and y in at
    ]


def _bars(point: _Point, scale: float, colour: str) -> dict[str, Any]:
    value, low, high = point
    return {
        "type": "data",
        "symmetric": False,
        "array": [(high - value) * scale],
        "arrayminus": [(value - low) * scale],
        "color": colour,
        "thickness": 1.5,
        "width": 4,
    }


def _unbeaten(points: list[tuple[float, float]], *, higher: bool) -> list[int]:
    """Return the places of the points that none is below in x and better in y, by x."""
    order = sorted(range(len(points)), key=lambda i: points[i][0])
    kept: list[int] = []
    for place in order:
        y = points[place][1]
        if not kept or (y > points[kept[-1]][1] if higher else y < points[kept[-1]][1]):
            kept.append(place)
    return kept
