"""What quality costs in the log, and how long it takes: of answers that were scored."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from novellus_lab.display import duration
from novellus_lab.plots.theme import COLOURS, figure, graph_objects, label, nothing

if TYPE_CHECKING:
    from collections.abc import Sequence

    import plotly.graph_objects as plotly
    import polars as pl

_AREA = 900.0
_SHOWN = 24


def log_frontier_figure(frame: pl.DataFrame, by: Sequence[str]) -> plotly.Figure:
    """Draw groups by cost and score, their median latency as area; the dashed line joins the unbeaten."""
    import polars as pl

    go = graph_objects()
    title = "What quality costs"
    known = frame.filter(pl.col("cost_usd").is_not_null()).sort("requests", descending=True)
    if not known.height:
        return nothing(
            title,
            "No scored answers with a price in this time: lab.compare(…, scorer=…) and "
            "lab.experiments.score make scores.",
        )
    scorers = frame["scorer"].unique().to_list()
    said = f"scored by {label(scorers[0])}" if len(scorers) == 1 else "each scorer on its own"
    drawn = figure(
        title,
        "US dollars for 1,000 answers",
        "mean score",
        subtitle=f"{int(known['requests'].sum()):,} answers, {said}; the larger the circle the slower "
        "its median answer; lines are 95% intervals",
        height=440,
    )
    slowest = max((ms for ms in known["p50_ms"] if ms), default=1.0)
    rows = known.head(_SHOWN).to_dicts()
    for number, row in enumerate(rows):
        colour = COLOURS[number % len(COLOURS)]
        names = [row[name] for name in by] + ([row["scorer"]] if len(scorers) > 1 else [])
        took = row["p50_ms"]
        drawn.add_trace(
            go.Scatter(
                x=[row["cost_usd"] * 1000],
                y=[row["score"]],
                error_x=_bars(row["cost_usd"], row["cost_low_usd"], row["cost_high_usd"], 1000, colour),
                error_y=_bars(row["score"], row["score_low"], row["score_high"], 1, colour),
                mode="markers",
                marker={
                    "color": colour,
                    "size": max(8.0, math.sqrt(_AREA * (took or 0) / slowest)),
                    "line": {"width": 0},
                },
                name=" · ".join(map(label, names)) or "all",
                customdata=[
                    (
                        f"{row['requests']:,}",
                        "not known" if took is None else duration(took),
                        "not known" if row["p95_ms"] is None else duration(row["p95_ms"]),
                    )
                ],
                hovertemplate="%{y:.1%} for $%{x:.3f} per 1,000<br>median %{customdata[1]}, 95 % "
                "%{customdata[2]}<br>%{customdata[0]} answers",
            )
        )  # fmt: skip
    if len(scorers) == 1 and len(best := _unbeaten(rows)) > 1:
        drawn.add_trace(
            go.Scatter(
                x=[row["cost_usd"] * 1000 for row in best],
                y=[row["score"] for row in best],
                mode="lines",
                line={"color": COLOURS[6], "dash": "dash", "width": 1.5},
                name="not beaten in both",
                hoverinfo="skip",
            )
        )
    drawn.update_layout(hovermode="closest", legend={"itemsizing": "constant"})
    drawn.update_xaxes(tickprefix="$", rangemode="tozero", showgrid=True)
    drawn.update_yaxes(tickformat=".0%")
    return drawn


def _unbeaten(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kept: list[dict[str, Any]] = []
    for row in sorted(rows, key=lambda row: (row["cost_usd"], -row["score"])):
        if not kept or row["score"] > kept[-1]["score"]:
            kept.append(row)
    return kept


def _bars(
    value: float, low: float | None, high: float | None, scale: float, colour: str
) -> dict[str, Any]:
    if low is None or high is None:
        return {"visible": False}
    return {
        "type": "data",
        "symmetric": False,
        "array": [(high - value) * scale],
        "arrayminus": [(value - low) * scale],
        "color": colour,
        "thickness": 1.5,
        "width": 4,
    }
