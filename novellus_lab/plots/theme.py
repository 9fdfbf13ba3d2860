"""One look for all figures: readable on light and dark pages, safe for colour-blind eyes."""

from __future__ import annotations

import math
import textwrap
from html import escape
from typing import TYPE_CHECKING, Any

from novellus_lab.errors import MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import plotly.graph_objects as go

# Okabe and Ito's colours (2008), without black, darkened where they would vanish on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B8860B", "#56B4E9", "#7F7F7F")
INK = "#757a82"
"""Mid grey: text and lines that can be read on white (4.3:1) and on black (4.9:1)."""
OTHERS = COLOURS[6]
_NAME = 60
_TICKS = 8
_FINE = tuple(1 + n / 20 for n in range(180))
_LINE_OF_TEXT = 84
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
    told = textwrap.wrap(subtitle, _LINE_OF_TEXT)
    for line in told:
        text += f"<br><span style='font-size:12px;color:{INK}'>{line}</span>"
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
        title={
            "text": text,
            "x": 0,
            "xref": "container",
            "xanchor": "left",
            "pad": {"l": 14},
            "font": {"size": 16},
        },
        font={"family": _FONT, "color": INK},
        colorway=COLOURS,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        xaxis={
            **axis,
            "title": {**axis["title"], "text": x},
            "showgrid": False,
            "ticklabelstandoff": 5,
        },
        yaxis={**axis, "title": {**axis["title"], "text": y}},
        legend={
            "orientation": "h",
            "yref": "container",
            "y": 0,
            "yanchor": "bottom",
            "x": 0,
            "font": {"size": 12},
            "traceorder": "normal",
        },
        margin={"l": 56, "r": 24, "t": 82 + 18 * max(0, len(told) - 1), "b": 48},
        height=height,
        # For pages that set title and sentence themselves, and wrap them.
        meta={"title": title, "subtitle": subtitle},
        hovermode="x unified",
        hoverlabel={"font": {"family": _FONT}},
    )
    return drawn


def nothing(title: str, sentence: str) -> go.Figure:
    """Return the figure of what there is no data for: a sentence in place of empty axes."""
    drawn = figure(title, "", "", height=220)
    drawn.update_xaxes(visible=False)
    drawn.update_yaxes(visible=False)
    drawn.add_annotation(
        text="<br>".join(textwrap.wrap(sentence, 60)),
        x=0.5,
        y=0.5,
        xref="paper",
        yref="paper",
        showarrow=False,
        font={"size": 14},
    )
    return drawn


def log_ticks(values: Iterable[float | None]) -> list[float]:
    """Return places of ticks for a log axis: few enough to be read, three at least where they fit."""
    known = [value for value in values if value is not None and value > 0]
    if not known:
        return []
    low, high = min(known), max(known)
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7), _FINE):
        ticks = [round(step * 10.0**decade, 12) for decade in decades for step in steps]
        shown = [tick for tick in ticks if low * 0.9 <= tick <= high * 1.1]
        if len(shown) >= 3:
            break
    return shown[:: math.ceil(len(shown) / _TICKS)] if shown else []


def label(name: object, missing: str = "none") -> str:
    """Return a name that somebody else chose as text of a figure: no markup, no template, no TeX."""
    if name is None or name == "":
        return missing
    text = " ".join(str(name).split())
    text = text if len(text) <= _NAME else f"{text[: _NAME - 1]}…"
    return escape(text).replace("$", "&#36;").replace("{", "&#123;")


def band(x: Sequence[float], low: Sequence[float], high: Sequence[float], colour: str) -> Any:
    """Return the area between two lines over the same points, such as an interval."""
    return graph_objects().Scatter(
        x=[*x, *reversed(x)],
        y=[*high, *reversed(low)],
        mode="lines",
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
