"""What drove a change in cost, from one period to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from novellus_lab.plots.theme import COLOURS, OTHERS, figure, graph_objects, nothing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from decimal import Decimal

    import plotly.graph_objects as plotly


def change_figure(
    before: Decimal, after: Decimal, parts: Mapping[str, Decimal], texts: Mapping[str, str]
) -> plotly.Figure:
    """Draw the way from one period's cost to the next one's, a step for each factor.

    Args:
        texts: of `before`, `after` and each part, as they are shown.
    """
    go = graph_objects()
    title = "From one period to the next"
    if not before and not after:
        return nothing(title, "Neither period cost anything that is known.")
    names = ["before", *parts, "after"]
    drawn = figure(title, "", "US dollars")
    drawn.add_trace(
        go.Waterfall(
            x=names,
            y=[float(before), *(float(part) for part in parts.values()), float(after)],
            measure=["absolute", *["relative"] * len(parts), "total"],
            text=[texts[name] for name in names],
            textposition="outside",
            cliponaxis=False,
            totals={"marker": {"color": OTHERS}},
            increasing={"marker": {"color": COLOURS[1]}},
            decreasing={"marker": {"color": COLOURS[0]}},
            connector={"line": {"color": OTHERS, "width": 1, "dash": "dot"}},
            hovertemplate="%{x}: %{text}<extra></extra>",
        )
    )
    drawn.update_layout(hovermode="closest", showlegend=False, waterfallgap=0.35)
    steps = [before]
    for part in parts.values():
        steps.append(steps[-1] + part)
    top = float(max(*steps, after))
    drawn.update_xaxes(tickangle=0, tickfont={"size": 11})
    drawn.update_yaxes(tickprefix="$", range=[min(0.0, float(min(steps)) * 1.1), top * 1.14])
    return drawn
