"""What quality costs under a trained router."""

from __future__ import annotations

from typing import TYPE_CHECKING

from novellus_lab.plots.theme import COLOURS, band, figure, graph_objects

if TYPE_CHECKING:
    import plotly.graph_objects as plotly

    from novellus_lab.routing.learned import PredictedCurve


def curve_figure(curve: PredictedCurve) -> plotly.Figure:
    """Draw quality by cost (by the share of strong calls, where costs are not known).

    The dotted line is a router that tosses a coin; the band is the curve's interval.
    """
    go = graph_objects()
    priced = all(point.cost_usd is not None for point in curve.points)
    x = [
        float(point.cost_usd or 0) * 1_000 if priced else point.strong_share
        for point in curve.points
    ]
    drawn = figure(
        "What quality costs",
        "US dollars for 1,000 calls" if priced else "share of calls to the strong model",
        "mean quality of the answers",
        subtitle=f"predicted out of fold; the band is a {curve.confidence:.0%} interval",
    )
    low = [point.quality_low for point in curve.points]
    drawn.add_trace(band(x, low, [point.quality_high for point in curve.points], COLOURS[0]))
    drawn.add_trace(
        go.Scatter(
            x=[x[0], x[-1]],
            y=[curve.weak_quality, curve.strong_quality],
            line={"color": COLOURS[6], "dash": "dot", "width": 1.5},
            mode="lines",
            name="a coin",
            hoverinfo="skip",
        )
    )
    drawn.add_trace(
        go.Scatter(
            x=x,
            y=[point.quality for point in curve.points],
            customdata=[point.strong_share for point in curve.points],
            hovertemplate=(
                "quality %{y:.1%}, %{customdata:.0%} of calls to the strong model<extra></extra>"
            ),
            line={"color": COLOURS[0], "width": 2},
            mode="lines+markers",
            name="the trained router",
        )
    )
    drawn.update_layout(hovermode="closest")
    drawn.update_yaxes(tickformat=".0%")
    if priced:
        drawn.update_xaxes(tickprefix="$", rangemode="tozero")
    else:
        drawn.update_xaxes(tickformat=".0%")
    return drawn
