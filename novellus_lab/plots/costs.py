"""What was spent: over time, and by session."""

from __future__ import annotations

from typing import TYPE_CHECKING

from novellus_lab.display import money
from novellus_lab.plots.series import per, period, series, usd, wall
from novellus_lab.plots.theme import COLOURS, OTHERS, figure, graph_objects, label, nothing

if TYPE_CHECKING:
    from collections.abc import Sequence

    import plotly.graph_objects as plotly
    import polars as pl

_SESSIONS = 15


def costs_figure(frame: pl.DataFrame, by: Sequence[str], every: str, tz: str) -> plotly.Figure:
    """Draw spend in buckets of time, stacked by group; requests without a price stand below."""
    go = graph_objects()
    title = "Spend over time"
    if not frame["requests"].sum():
        return nothing(title, "No requests in this time: nothing was spent.")
    total = usd(frame, "cost_usd")
    unpriced = int(frame["unpriced"].sum())
    said = "nothing has a known price" if total is None else f"{money(total)} in all"
    if unpriced:
        share = unpriced / frame["requests"].sum()
        said += f"; {unpriced:,} requests ({share:.1%}) have no price and are not in it"
    drawn = figure(title, f"time ({tz})", f"US dollars {per(every)}", subtitle=said)
    for one in series(frame.drop_nulls("cost_usd"), by, "cost_usd"):
        rows = one.rows.group_by("time").agg(_sum("cost_usd"), _sum("requests")).sort("time")
        drawn.add_trace(
            go.Bar(
                x=wall(rows["time"].to_list()),
                y=[None if cost is None else float(cost) for cost in rows["cost_usd"]],
                name=one.name,
                marker={"color": one.colour, "line": {"width": 0}},
                customdata=[
                    (money(cost), f"{n:,}")
                    for cost, n in zip(rows["cost_usd"], rows["requests"], strict=True)
                ],
                hovertemplate="%{customdata[0]}, %{customdata[1]} requests",
                **period(every),
            )
        )
    drawn.update_layout(barmode="stack", bargap=0.12, showlegend=bool(by))
    drawn.update_yaxes(tickprefix="$", rangemode="tozero", tickformat=",~g")
    if unpriced:
        rows = frame.group_by("time").agg(_sum("unpriced")).sort("time")
        drawn.add_trace(
            go.Bar(
                x=wall(rows["time"].to_list()),
                y=rows["unpriced"].to_list(),
                yaxis="y2",
                name="without a price",
                marker={"color": OTHERS, "pattern": {"shape": "/", "fgcolor": "#ffffff"}},
                hovertemplate="%{y:,} requests",
                **period(every),
            )
        )
        second = drawn.layout.yaxis.to_plotly_json()
        second.update(tickprefix="", tickformat=",d", nticks=3, domain=[0, 0.16])
        second["title"] = {**second["title"], "text": "no price"}
        drawn.update_layout(
            yaxis={"domain": [0.26, 1]}, yaxis2=second, xaxis={"anchor": "y2"}, showlegend=True
        )
        drawn.update_layout(height=440)
    return drawn


def sessions_figure(frame: pl.DataFrame) -> plotly.Figure:
    """Draw what the dearest sessions cost."""
    go = graph_objects()
    title = "The dearest sessions"
    priced = frame.drop_nulls("cost_usd")
    if not priced.height:
        return nothing(title, "No session in this time has a known cost.")
    shown = priced.head(_SESSIONS)
    whole, part = usd(priced, "cost_usd"), usd(shown, "cost_usd")
    share = f", {part / whole:.0%} of what all sessions cost" if whole and part else ""
    drawn = figure(
        title,
        "US dollars",
        "",
        subtitle=f"{shown.height} of {frame.height:,} sessions{share}",
        height=150 + 26 * shown.height,
    )
    drawn.add_trace(
        go.Bar(
            y=[label(name) for name in shown["session_id"]],
            x=[float(value) for value in shown["cost_usd"]],
            orientation="h",
            marker={"color": COLOURS[0], "line": {"width": 0}},
            customdata=[
                (money(row["cost_usd"]), row["turns"], row["unpriced"])
                for row in shown.select("cost_usd", "turns", "unpriced").to_dicts()
            ],
            hovertemplate="%{customdata[0]}, %{customdata[1]:,} turns, "
            "%{customdata[2]:,} without a price<extra></extra>",
        )
    )
    drawn.update_layout(hovermode="closest", bargap=0.3)
    drawn.update_xaxes(tickprefix="$", rangemode="tozero", showgrid=True)
    drawn.update_yaxes(autorange="reversed", type="category", showgrid=False)
    return drawn


def _sum(name: str) -> pl.Expr:
    """A sum that is unknown where nothing is known, not 0."""
    import polars as pl

    return pl.when(pl.col(name).count() > 0).then(pl.col(name).sum()).alias(name)
