"""A figure that changes in place, below a title that wraps where the page is narrow."""

from __future__ import annotations

from html import unescape
from typing import TYPE_CHECKING, Any

import ipywidgets

from novellus_lab.display import caption_html

if TYPE_CHECKING:
    import plotly.graph_objects as plotly

_TOP = 14
_CONFIG = {"displayModeBar": False, "responsive": True}


class LiveFigure:
    """Shows one figure of this package after another. Traces of the same kinds move; else it is drawn anew.

    `box` is what stands on the page, `widget` the Plotly widget that is in it now.
    """

    def __init__(self, first: plotly.Figure) -> None:
        self._caption = ipywidgets.HTML()
        self.box = ipywidgets.VBox(layout={"min_width": "0", "width": "100%"})
        self.widget: Any = None
        self.show(first)

    def show(self, figure: plotly.Figure) -> None:
        """Show another figure."""
        import plotly.graph_objects as go

        told = figure.layout.meta
        # Labels in a figure are escaped for Plotly, and here again for the page.
        self._caption.value = caption_html(unescape(told["title"]), unescape(told["subtitle"]))
        plain = go.Figure(figure)
        margin, height = plain.layout.margin.t, plain.layout.height
        plain.update_layout(title=None, height=height - margin + _TOP)
        plain.update_layout(margin_t=_TOP)
        drawn = self.widget
        if drawn is None:
            drawn = self.widget = go.FigureWidget(plain)
            drawn._config = {**drawn._config, **_CONFIG}
            self.box.children = (self._caption, drawn)
            return
        if _kinds(drawn) == _kinds(plain):
            with drawn.batch_update():
                for old, new in zip(drawn.data, plain.data, strict=True):
                    old.update(new.to_plotly_json(), overwrite=True)
                drawn.layout = plain.layout
        else:
            # The page merges layouts: what is no longer there must be taken away by name.
            drawn.data = ()
            for part in set(drawn.layout.to_plotly_json()) - set(plain.layout.to_plotly_json()):
                drawn.layout[part] = None
            drawn.layout = plain.layout
            drawn.add_traces(plain.data)
        # By itself: then the page measures anew how much room there is.
        drawn.layout.autosize = True


def _kinds(figure: Any) -> list[tuple[Any, ...]]:
    """What must be the same for a figure to become another by moving its traces."""
    notes = len(figure.layout.annotations), len(figure.layout.shapes)
    traces = [trace.to_plotly_json() for trace in figure.data]
    return [
        notes,
        *(tuple(t.get(part) for part in ("type", "name", "mode", "yaxis")) for t in traces),
    ]
