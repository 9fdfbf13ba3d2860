"""What did not end well, by kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from novellus_lab.plots.series import per, period, series, wall
from novellus_lab.plots.theme import COLOURS, figure, graph_objects, label, nothing

if TYPE_CHECKING:
    import plotly.graph_objects as plotly
    import polars as pl

_SHOWN = 15
_TITLE = "What did not end well"


def errors_figure(frame: pl.DataFrame, requests: int) -> plotly.Figure:
    """Draw each kind of failure as a share of all requests, with its 95% interval."""
    go = graph_objects()
    if not requests:
        return nothing(_TITLE, "No requests in this time.")
    if not frame.height:
        return nothing(_TITLE, f"All {requests:,} requests ended well.")
    shown = frame.sort("failed", "status", descending=[True, False]).head(_SHOWN)
    failed = int(frame["failed"].sum())
    drawn = figure(
        _TITLE,
        "share of all requests",
        "",
        subtitle=f"{failed:,} of {requests:,} requests ({failed / requests:.2%}); "
        "lines are 95% intervals",
        height=160 + 30 * shown.height,
    )
    rows = shown.to_dicts()
    drawn.add_trace(
        go.Scatter(
            x=[row["failure_rate"] for row in rows],
            y=[_kind(row) for row in rows],
            mode="markers",
            marker={"color": COLOURS[1], "size": 9},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [row["failure_rate_high"] - row["failure_rate"] for row in rows],
                "arrayminus": [row["failure_rate"] - row["failure_rate_low"] for row in rows],
                "color": COLOURS[1],
                "thickness": 2,
                "width": 4,
            },
            customdata=[f"{row['failed']:,}" for row in rows],
            hovertemplate="%{customdata} requests, %{x:.2%}<extra></extra>",
            showlegend=False,
        )
    )
    drawn.update_layout(hovermode="closest")
    drawn.update_xaxes(tickformat=".2~%", rangemode="tozero", showgrid=True)
    drawn.update_yaxes(range=[len(rows) - 0.5, -0.5], type="category", showgrid=False)
    return drawn


def errors_over_time_figure(frame: pl.DataFrame, every: str, tz: str) -> plotly.Figure:
    """Draw how many requests failed in each bucket of time, by kind."""
    import polars as pl

    go = graph_objects()
    if not frame.height:
        return nothing(_TITLE, "All requests ended well, or there were none.")
    failed = int(frame["failed"].sum())
    drawn = figure(
        _TITLE, f"time ({tz})", f"requests {per(every)}", subtitle=f"{failed:,} requests in all"
    )
    kinds = pl.Series("kind_", [_kind(row) for row in frame.to_dicts()], dtype=pl.String)
    for one in series(frame.with_columns(kinds), ["kind_"], "failed"):
        rows = one.rows.group_by("time").agg(pl.col("failed").sum()).sort("time")
        drawn.add_trace(
            go.Bar(
                x=wall(rows["time"].to_list()),
                y=rows["failed"].to_list(),
                name=one.name,
                marker={"color": one.colour, "line": {"width": 0}},
                hovertemplate="%{y:,}",
                **period(every),
            )
        )
    drawn.update_layout(barmode="stack", bargap=0.12)
    drawn.update_yaxes(tickformat=",d", rangemode="tozero")
    return drawn


def _kind(row: dict[str, Any]) -> str:
    """An error by its class; what was cancelled or refused by that word, too."""
    name = label(row["error_class"], row["status"])
    return name if row["status"] == "error" else f"{row['status']}: {name}"
