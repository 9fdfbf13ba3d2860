"""What each threshold of the semantic cache would give."""

from __future__ import annotations

from typing import TYPE_CHECKING

from novellus_lab.plots.theme import COLOURS, band, figure, graph_objects

if TYPE_CHECKING:
    import plotly.graph_objects as plotly

    from novellus_lab.cache.semantic.calibration import Calibration


def calibration_figure(calibration: Calibration) -> plotly.Figure:
    """Draw the share of right hits over the share of questions served, with 95% intervals.

    The point is where the calibrated threshold stands.
    """
    go = graph_objects()
    points = sorted(calibration.curve, key=lambda point: point.recall)
    drawn = figure(
        "How much is served, and how much of it is right",
        "recall: share of pairs that ask the same which are hits",
        "precision: share of hits that are right",
        subtitle=(
            f"{calibration.pairs:,} labelled pairs; bands are 95% intervals of each point; "
            f"at the threshold {calibration.errors} of {calibration.hits:,} hits are wrong, "
            f"at most {calibration.bound:.2%} in truth"
        ),
    )
    recall = [point.recall for point in points]
    low = [point.precision_low for point in points]
    drawn.add_trace(band(recall, low, [point.precision_high for point in points], COLOURS[0]))
    drawn.add_trace(
        go.Scatter(
            x=recall,
            y=[point.precision for point in points],
            customdata=[(point.threshold, point.hits, point.errors) for point in points],
            hovertemplate=(
                "precision %{y:.2%} at recall %{x:.1%}<br>threshold %{customdata[0]:.4f}: "
                "%{customdata[2]} of %{customdata[1]} hits wrong<extra></extra>"
            ),
            line={"color": COLOURS[0], "width": 2},
            name="precision",
            showlegend=False,
        )
    )
    chosen = (calibration.hits - calibration.errors) / calibration.hits
    drawn.add_trace(
        go.Scatter(
            x=[calibration.recall],
            y=[chosen],
            mode="markers",
            marker={"color": COLOURS[1], "size": 11},
            hoverinfo="skip",
            showlegend=False,
        )
    )
    lowest = min(*low, 1 - 2 * calibration.max_error_rate)
    drawn.add_hline(
        y=1 - calibration.max_error_rate,
        line={"dash": "dot", "color": COLOURS[6], "width": 1},
        annotation={"text": f"{calibration.max_error_rate:.1%} wrong", "font": {"size": 11}},
        annotation_position="bottom left",
    )
    drawn.add_annotation(
        x=calibration.recall,
        y=chosen,
        text=f"threshold {calibration.threshold:.3f}",
        font={"color": COLOURS[1]},
        arrowcolor=COLOURS[1],
        ax=-70,
        ay=60,
    )
    drawn.update_layout(hovermode="closest")
    drawn.update_yaxes(tickformat=".0%", range=[max(0.0, lowest - 0.02), 1.02])
    drawn.update_xaxes(tickformat=".0%", range=[0, 1.03])
    return drawn
