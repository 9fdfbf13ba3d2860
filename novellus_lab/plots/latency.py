"""How long answers took: distribution, where it lies over time, and quantiles with intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from novellus_lab.display import duration
from novellus_lab.plots.series import series, span, wall, width
from novellus_lab.plots.theme import COLOURS, band, figure, graph_objects, label, log_ticks, nothing

if TYPE_CHECKING:
    from collections.abc import Sequence

    import plotly.graph_objects as plotly
    import polars as pl

WHAT = {
    "latency_ms": "latency",
    "provider_ms": "time in provider calls",
    "ttft_ms": "time to the first token",
    "queue_ms": "time of waiting",
    "overhead_ms": "overhead",
}
_OF = {
    "provider": "answers of providers",
    "cache": "answers of the cache",
    "coalesced": "answers of equal calls",
}
_QUANTILES = (("p50", "median"), ("p95", "95 %"), ("p99", "99 %"))


def latency_figure(
    frame: pl.DataFrame, by: Sequence[str], every: str, tz: str, of: str, source: str, quantile: str
) -> plotly.Figure:
    """Draw quantiles over time with 95% intervals: all three, or one for each group."""
    import polars as pl

    go = graph_objects()
    title = f"{_capital(WHAT[of])} over time"
    rows = frame.filter(pl.col("source") == source)
    if not rows.height:
        return nothing(title, f"No {_OF[source]} in this time.")
    which = f"{dict(_QUANTILES)[quantile]} by {', '.join(map(label, by))}" if by else "quantiles"
    drawn = figure(
        title,
        f"time ({tz})",
        "ms, log scale",
        subtitle=f"{which} of {_OF[source]}, by {width(every)}; bands are 95% intervals, and are "
        "missing where there are too few answers for one",
    )
    lines = (
        [(one.name, one.colour, one.rows.sort("time"), quantile)
         for one in series(rows, by, "requests") if one.rows["time"].is_unique().all()]
        if by
        else [(name, COLOURS[n], rows.sort("time"), q) for n, (q, name) in enumerate(_QUANTILES)]
    )  # fmt: skip
    for name, colour, points, q in lines:
        known = points.with_row_index("place_")
        for stretch in _stretches(known, q):
            drawn.add_trace(
                band(
                    wall(stretch["time"].to_list()),  # type: ignore[arg-type]
                    stretch[f"{q}_low_ms"].to_list(),
                    stretch[f"{q}_high_ms"].to_list(),
                    colour,
                )
            )
        drawn.add_trace(
            go.Scatter(
                x=wall(points["time"].to_list()),
                y=points[f"{q}_ms"].to_list(),
                mode="lines+markers" if points.height < 60 else "lines",
                marker={"size": 5},
                line={"color": colour, "width": 2},
                name=name,
                customdata=[
                    (duration(value), f"{n:,}")
                    for value, n in zip(points[f"{q}_ms"], points["requests"], strict=True)
                ],
                hovertemplate="%{customdata[0]} of %{customdata[1]}",
            )
        )
    drawn.update_xaxes(**span(wall(rows["time"].to_list()), every))
    seen = [value for line in drawn.data for value in line.y]
    drawn.update_yaxes(type="log", tickvals=log_ticks(seen), tickformat=",~g")
    return drawn


def ecdf_figure(frame: pl.DataFrame, by: Sequence[str], of: str, source: str) -> plotly.Figure:
    """Draw the share of answers that took no longer, with bands that hold for the whole curve."""
    import polars as pl

    go = graph_objects()
    title = f"Distribution of {WHAT[of]}"
    known = frame.filter(pl.col("source") == source)
    if not known.height:
        return nothing(title, f"No {_OF[source]} in this time.")
    counts = known.group_by(by).agg(pl.col("requests").first()) if by else known.head(1)
    said = f"{int(counts['requests'].sum()):,} {_OF[source]}; bands hold the whole curve with 95%"
    drawn_of = known
    if counts.height > len(COLOURS):
        largest = counts.sort("requests", *by, descending=[True, *[False] * len(by)])
        drawn_of = known.join(largest.head(len(COLOURS) - 1), on=by, how="semi", nulls_equal=True)
        said += f"; of {counts.height:,} groups the {len(COLOURS) - 1} largest are drawn"
    drawn = figure(title, "ms, log scale", "share that took no longer", subtitle=said)
    for one in series(drawn_of, by, "requests"):
        rows = one.rows.sort("ms").filter(pl.col("ms") > 0)
        ms = rows["ms"].to_list()
        drawn.add_trace(
            band(ms, rows["share_low"].to_list(), rows["share_high"].to_list(), one.colour)
        )
        drawn.add_trace(
            go.Scatter(
                x=ms,
                y=rows["share"].to_list(),
                line={"color": one.colour, "width": 2, "shape": "hv"},
                mode="lines",
                name=one.name,
                customdata=[duration(value) for value in ms],
                hovertemplate="%{y:.1%} within %{customdata}",
            )
        )
    drawn.update_layout(hovermode="closest")
    seen = [value for line in drawn.data for value in line.x]
    drawn.update_xaxes(type="log", tickvals=log_ticks(seen), tickformat=",~g", showgrid=True)
    drawn.update_yaxes(tickformat=".0%", range=[0, 1.02])
    return drawn


def heatmap_figure(frame: pl.DataFrame, every: str, tz: str, of: str, source: str) -> plotly.Figure:
    """Draw where latencies lie, bucket by bucket: each column adds up to all of its answers."""
    go = graph_objects()
    title = f"Where {WHAT[of]} lies over time"
    if not frame.height:
        return nothing(title, f"No {_OF[source]} in this time.")
    drawn = figure(
        title,
        f"time ({tz})",
        "ms, log scale",
        subtitle=f"share of each column's {_OF[source]}, by {width(every)}; empty: none",
    )
    times = frame["time"].unique().sort().to_list()
    lows = sorted(frame["low_ms"].unique().to_list())
    place = {low: n for n, low in enumerate(lows)}
    column = {time: n for n, time in enumerate(times)}
    shares: list[list[float | None]] = [[None] * len(times) for _ in lows]
    counts: list[list[Any]] = [[None] * len(times) for _ in lows]
    for row in frame.to_dicts():
        at, to = place[row["low_ms"]], column[row["time"]]
        shares[at][to] = row["share"]
        counts[at][to] = (
            f"{duration(row['low_ms'])} to {duration(row['high_ms'])}", f"{row['requests']:,}",
        )  # fmt: skip
    middles = {row["low_ms"]: row["middle_ms"] for row in frame.to_dicts()}
    drawn.add_trace(
        go.Heatmap(
            x=wall(times),
            y=[middles[low] for low in lows],
            z=shares,
            customdata=counts,
            colorscale="Cividis",
            zmin=0,
            hoverongaps=False,
            hovertemplate="%{x}<br>%{customdata[0]}: %{z:.1%} (%{customdata[1]})<extra></extra>",
            colorbar={
                "title": {"text": "share", "font": {"size": 12}},
                "tickformat": ".0%",
                "thickness": 12,
                "outlinewidth": 0,
            },
        )
    )
    drawn.update_layout(hovermode="closest")
    seen = [*frame["low_ms"], *frame["high_ms"]]
    drawn.update_yaxes(type="log", tickvals=log_ticks(seen), tickformat=",~g")
    return drawn


def _stretches(rows: pl.DataFrame, quantile: str) -> list[pl.DataFrame]:
    """Runs of buckets whose bounds are known: a band has no holes."""
    found: list[pl.DataFrame] = []
    begin: int | None = None
    known = [
        low is not None and high is not None
        for low, high in zip(rows[f"{quantile}_low_ms"], rows[f"{quantile}_high_ms"], strict=True)
    ]
    for place, is_known in enumerate([*known, False]):
        if is_known and begin is None:
            begin = place
        elif not is_known and begin is not None:
            if place - begin > 1:
                found.append(rows[begin:place])
            begin = None
    return found


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
