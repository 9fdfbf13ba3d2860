"""Comparisons that draw themselves."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from novellus_lab.errors import InvalidRequestError
from novellus_lab.experiments.comparison import Comparison
from novellus_lab.experiments.live import LiveComparison

if TYPE_CHECKING:
    import plotly.graph_objects as go


class LabComparison(Comparison):
    """A comparison that draws itself."""

    def figure(self) -> go.Figure:
        """Draw what each arm differs by from the control, with intervals."""
        from novellus_lab.plots.comparison import effects_figure

        return effects_figure(self)

    def frontier(self) -> go.Figure:
        """Draw the arms by what they cost and how good they are."""
        from novellus_lab.plots.comparison import frontier_figure

        return frontier_figure(self)


class LabLiveComparison(LiveComparison, LabComparison):
    """What live traffic says, drawing itself."""


def margin_of(given: float | str | None) -> tuple[float | None, bool]:
    """`0.02` in the metric's unit, or `"5%"` of the control's value."""
    relative = isinstance(given, str) and given.strip().endswith("%")
    try:
        size = None if given is None else float(str(given).strip().rstrip("%"))
    except ValueError:
        size = math.nan
    if size is None:
        return None, False
    if isinstance(given, bool) or not math.isfinite(size) or size <= 0:
        raise InvalidRequestError(
            f"margin must be above 0: 0.02 in the metric's unit, or '5%' of the control, not {given!r:.80}"
        )
    return (size / 100, True) if relative else (size, False)
