"""One look for all figures: readable on light and dark pages, safe for colour-blind eyes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from novellus_lab.errors import MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import plotly.graph_objects as go

# Okabe and Ito's colours (2008), without black, darkened where they would vanish on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B8860B", "#56B4E9", "#7F7F7F")
_INK = "#8a8f98"
"""Mid grey: text and lines that can be read on white and on black."""
_LINE = "rgba(128,128,128,0.22)"
_FONT = 'system-ui, -apple-system, "Segoe UI", sans-serif'


def graph_objects() -> Any:
    """Return `plotly.graph_objects`.

    Raises:
        MissingDependencyError: Plotly is not installed.
    """
    try:
        import plotly.graph_objects as go
    except ImportError:
        raise MissingDependencyError(
            "figures need plotly: pip install 'novellus_lab[analytics]'"
        ) from None
    return go


def figure(title: str, x: str, y: str, *, subtitle: str = "", height: int = 380) -> go.Figure:
    """Return an empty figure: a title, axes with units, nothing else that draws the eye."""
    go = graph_objects()
    text = f"<b>{title}</b>"
    if subtitle:
        text += f"<br><span style='font-size:12px;color:{_INK}'>{subtitle}</span>"
    axis: dict[str, Any] = {
        "gridcolor": _LINE,
        "linecolor": _LINE,
        "zerolinecolor": _LINE,
        "tickfont": {"size": 12},
        "title": {"font": {"size": 12}, "standoff": 10},
        "automargin": True,
    }
    drawn = go.Figure()
    drawn.update_layout(
        title={"text": text, "x": 0, "xref": "paper", "xanchor": "left", "font": {"size": 16}},
        font={"family": _FONT, "color": _INK},
        colorway=COLOURS,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        xaxis={**axis, "title": {**axis["title"], "text": x}, "showgrid": False},
        yaxis={**axis, "title": {**axis["title"], "text": y}},
        legend={"orientation": "h", "y": -0.22, "x": 0, "font": {"size": 12}},
        margin={"l": 56, "r": 24, "t": 72, "b": 48},
        height=height,
        hovermode="x unified",
        hoverlabel={"font": {"family": _FONT}},
    )
    return drawn


def band(x: Sequence[float], low: Sequence[float], high: Sequence[float], colour: str) -> Any:
    """Return the area between two lines over the same points, such as an interval."""
    return graph_objects().Scatter(
        x=[*x, *reversed(x)],
        y=[*high, *reversed(low)],
        fill="toself",
        fillcolor=faded(colour, 0.15),
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
    )


def faded(colour: str, opacity: float) -> str:
    """Return a colour of `COLOURS` with an opacity."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"
