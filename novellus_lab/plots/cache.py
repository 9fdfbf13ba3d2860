"""What the cache does: how far requests came, and what that saved."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from novellus_lab.display import duration, money
from novellus_lab.plots.series import per, period, usd, wall
from novellus_lab.plots.theme import COLOURS, OTHERS, figure, graph_objects, nothing

if TYPE_CHECKING:
    import plotly.graph_objects as plotly
    import polars as pl

_TIERS = {
    "memory": "in memory",
    "redis": "in Redis",
    "postgres": "in PostgreSQL",
    "semantic": "by meaning",
    "coalesced": "by an equal call under way",
}


def funnel_figure(frame: pl.DataFrame) -> plotly.Figure:
    """Draw how many requests each tier left to the next, down to those that a provider was paid for."""
    go = graph_objects()
    title = "How far requests came"
    sums = {name: int(frame[name].sum() or 0) for name in ("requests", "off", "looked", *_TIERS)}
    if not sums["requests"]:
        return nothing(title, "No requests in this time.")
    if not sums["looked"]:
        return nothing(title, f"None of {sums['requests']:,} requests looked into the cache.")
    hits = int(frame["hits"].sum())
    saved = usd(frame, "saved_usd")
    told = f"{hits / sums['looked']:.1%} of those that looked were answered by the cache"
    if saved is not None:
        told += f", which saved {money(saved)}"
    if ms := frame["saved_ms"].sum():
        told += f" and {duration(float(ms))} of waiting"
    if unpriced := int(frame["unpriced_hits"].sum()):
        told += f"; {unpriced:,} hits have no price and are not in it"
    steps = [("requests", sums["requests"], "")]
    if sums["off"]:
        steps.append(("looked into the cache", sums["looked"], f"{sums['off']:,} did not look"))
    left = sums["looked"]
    for name, where in _TIERS.items():
        if sums[name]:
            left -= sums[name]
            steps.append((f"not answered {where}", left, f"{sums[name]:,} answered {where}"))
    steps[-1] = ("went to a provider", left, steps[-1][2])
    drawn = figure(title, "requests", "", subtitle=told, height=170 + 44 * len(steps))
    whole = sums["requests"]
    drawn.add_trace(
        go.Bar(
            y=[name for name, _, _ in steps],
            x=[n for _, n, _ in steps],
            orientation="h",
            marker={
                "color": [OTHERS, *[COLOURS[0]] * (len(steps) - 2), COLOURS[1]][: len(steps)],
                "line": {"width": 0},
            },
            text=[f"{n:,} ({n / whole:.0%})" for _, n, _ in steps],
            textposition="auto",
            customdata=[told for _, _, told in steps],
            hovertemplate="%{x:,}<br>%{customdata}<extra></extra>",
        )
    )
    drawn.update_layout(hovermode="closest", bargap=0.25, showlegend=False)
    drawn.update_xaxes(rangemode="tozero", tickformat=",~s", showgrid=True)
    drawn.update_yaxes(autorange="reversed", showgrid=False)
    return drawn


def savings_figure(frame: pl.DataFrame, every: str, tz: str) -> plotly.Figure:
    """Draw what was paid, and on top what the cache's answers would have cost."""
    go = graph_objects()
    title = "What the cache saved"
    if not frame["requests"].sum():
        return nothing(title, "No requests in this time.")
    saved = usd(frame, "saved_usd")
    if saved is None:
        return nothing(title, "No answer of the cache in this time has a known price.")
    whole = saved + (usd(frame, "cost_usd") or Decimal(0))
    told = f"{money(saved)} of {money(whole)}" + (f" ({saved / whole:.1%})" if whole else "")
    if unpriced := int(frame["unpriced"].sum()):
        told += f"; {unpriced:,} requests have no price and are not in it"
    drawn = figure(title, f"time ({tz})", f"US dollars {per(every)}", subtitle=told)
    rows = frame.sort("time")
    for name, column, colour in (
        ("spent", "cost_usd", COLOURS[0]), ("saved by the cache", "saved_usd", COLOURS[2]),
    ):  # fmt: skip
        drawn.add_trace(
            go.Bar(
                x=wall(rows["time"].to_list()),
                y=[None if amount is None else float(amount) for amount in rows[column]],
                name=name,
                marker={"color": colour, "line": {"width": 0}},
                customdata=[money(amount) for amount in rows[column]],
                hovertemplate="%{customdata}",
                **period(every),
            )
        )
    drawn.update_layout(barmode="stack", bargap=0.12)
    drawn.update_yaxes(tickprefix="$", rangemode="tozero", tickformat=",~g")
    return drawn
