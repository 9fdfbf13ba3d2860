"""A figure that changes in place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import plotly.graph_objects as plotly


class LiveFigure:
    """Shows one figure after another in one widget. Same kinds of traces are moved, not redrawn."""

    def __init__(self, first: plotly.Figure) -> None:
        import plotly.graph_objects as go

        self.widget: Any = go.FigureWidget(first)
        self.widget._config = {**self.widget._config, "displayModeBar": False, "responsive": True}
        self.widget.layout.autosize = True

    def show(self, figure: plotly.Figure) -> None:
        """Show another figure."""
        drawn = self.widget
        with drawn.batch_update():
            if _kinds(drawn) == _kinds(figure):
                for old, new in zip(drawn.data, figure.data, strict=True):
                    old.update(new.to_plotly_json(), overwrite=True)
            else:
                drawn.data = ()
                drawn.add_traces(figure.data)
            drawn.layout = figure.layout
            drawn.layout.autosize = True


def _kinds(figure: Any) -> list[tuple[Any, ...]]:
    return [
        (trace.type, trace.name, trace.yaxis, trace.mode)
        if hasattr(trace, "mode")
        else (trace.type, trace.name, getattr(trace, "yaxis", None))
        for trace in figure.data
    ]
