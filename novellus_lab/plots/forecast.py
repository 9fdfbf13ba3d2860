"""What a period has cost so far, and what it will have cost at its end."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from novellus_lab.display import money
from novellus_lab.plots.series import wall
from novellus_lab.plots.theme import COLOURS, band, figure, graph_objects, nothing

if TYPE_CHECKING:
    from datetime import datetime

    import plotly.graph_objects as plotly
    import polars as pl

    from novellus_lab.analytics.forecast import Forecast


def forecast_figure(
    forecast: Forecast, daily: pl.DataFrame, now: datetime, tz: str
) -> plotly.Figure:
    """Draw the sum of spend day by day, and from now on the way to the forecast with its interval.

    Args:
        daily: `lab.analytics.costs` since the period's start, `every="1d"`.
    """
    go = graph_objects()
    title = f"Spend of this {forecast.period}"
    if forecast.expected_usd is None:
        return nothing(title, "There is no full day of history yet: nothing to forecast by.")
    said = f"{money(forecast.spent_usd)} so far, {money(forecast.expected_usd)} at its end"
    if forecast.low_usd is not None and forecast.high_usd is not None:
        said += f" (95%: {money(forecast.low_usd)} to {money(forecast.high_usd)})"
    if forecast.unpriced:
        said += f"; {forecast.unpriced:,} requests have no price and are not in it"
    drawn = figure(title, f"time ({tz})", "US dollars, summed up", subtitle=said)
    times, sums = [forecast.start], [Decimal(0)]
    for day, usd in daily.sort("time").select("time", "cost_usd").iter_rows():
        times.append(min(now, day + timedelta(days=1)))
        sums.append(sums[-1] + (usd or Decimal(0)))
    if times[-1] < now:
        times.append(now)
        sums.append(sums[-1])
    ahead = wall([now, forecast.end])
    if forecast.low_usd is not None and forecast.high_usd is not None:
        spent = float(forecast.spent_usd)
        low, high = float(forecast.low_usd), float(forecast.high_usd)
        drawn.add_trace(band(ahead, [spent, low], [spent, high], COLOURS[1]))  # type: ignore[arg-type]
    for name, x, y, style in (
        ("so far", wall(times), sums, {"color": COLOURS[0], "width": 2.5}),
        ("forecast", ahead, [forecast.spent_usd, forecast.expected_usd],
         {"color": COLOURS[1], "width": 2, "dash": "dash"}),
    ):  # fmt: skip
        drawn.add_trace(
            go.Scatter(
                x=x,
                y=[float(usd) for usd in y],
                mode="lines",
                line=style,
                name=name,
                customdata=[money(usd) for usd in y],
                hovertemplate="%{customdata}",
            )
        )
    drawn.update_yaxes(tickprefix="$", rangemode="tozero", tickformat=",~g")
    return drawn
