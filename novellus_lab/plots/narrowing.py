"""A comparison under way: how the interval of what decides narrows as items are asked."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from novellus_lab.plots.comparison import percent_of_control
from novellus_lab.plots.theme import COLOURS, band, figure, graph_objects, label

if TYPE_CHECKING:
    from collections.abc import Sequence

    import plotly.graph_objects as plotly

    from novellus_lab.experiments.comparison import Comparison

_TALLEST = 4.0
"""Early intervals are wide: the axis ends at so many times the widths of the last ones."""


@dataclass(frozen=True, slots=True)
class Look:
    """What decides, of one arm, after so many items: in percent of the control, or in points."""

    items: int
    arm: str
    value: float
    low: float
    high: float


def looks_at(comparison: Comparison) -> list[Look]:
    """Return how the deciding metric stands: one for each arm that has an interval."""
    found = []
    for effect in comparison.effects:
        percent = percent_of_control(effect) if effect.decides else None
        if percent is not None:
            found.append(Look(comparison.n, effect.arm, *percent))
    return found


def narrowing_figure(
    looks: Sequence[Look], *, title: str = "Nothing asked yet", subtitle: str = "", items: int = 1
) -> plotly.Figure:
    """Draw the interval of each arm's difference over the number of items.

    Args:
        title: of what decides.
        items: how many will be asked; the axis reaches so far.
    """
    go = graph_objects()
    drawn = figure(
        label(title),
        "items asked in every arm",
        "difference from the control",
        subtitle=escape(subtitle),
        height=360,
    )
    for number, arm in enumerate(dict.fromkeys(look.arm for look in looks)):
        own, colour = [look for look in looks if look.arm == arm], COLOURS[number % len(COLOURS)]
        x = [float(look.items) for look in own]
        drawn.add_trace(band(x, [o.low for o in own], [o.high for o in own], colour))
        drawn.add_trace(
            go.Scatter(
                x=x,
                y=[look.value for look in own],
                customdata=[(look.low, look.high) for look in own],
                mode="lines+markers",
                line={"color": colour, "width": 2},
                marker={"size": 5},
                name=label(arm),
                showlegend=True,
                hovertemplate="%{y:+.1f} [%{customdata[0]:+.1f}, %{customdata[1]:+.1f}]",
            )
        )
    drawn.add_hline(y=0, line={"color": "#8a8f98", "width": 1, "dash": "dot"})
    drawn.update_xaxes(range=[0, max(1, items) * 1.02], tickformat=",d")
    drawn.update_yaxes(tickformat="~g", zeroline=False)
    if looks:
        last = {look.arm: look for look in looks}.values()
        width = max(look.high - look.low for look in last) * _TALLEST / 2
        low = min(0.0, *(o.value - width for o in last), *(o.low for o in last))
        high = max(0.0, *(o.value + width for o in last), *(o.high for o in last))
        drawn.update_yaxes(range=[low - 0.05 * (high - low), high + 0.05 * (high - low)])
    return drawn
