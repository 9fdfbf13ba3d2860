"""Where it goes: budgets, the forecast, and anomalies."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from novellus_lab.analytics.frames import costs
from novellus_lab.display import money
from novellus_lab.plots.forecast import forecast_figure
from novellus_lab.reports.document import Column, Section, Table

if TYPE_CHECKING:
    from novellus_lab.analytics.forecast import Forecast
    from novellus_lab.reports.cost_sources import Sources


def outlook_section(sources: Sources) -> Section:
    """Show how budgets stand now, and what the month will have cost."""
    forecast = sources.beside.forecast
    text = [] if forecast is None else [_forecast(forecast), *forecast.notes]
    figures = []
    if forecast is not None and forecast.expected_usd is not None:
        daily = costs(sources.mirror, sources.since(forecast.start, "1d"))
        now = datetime.now(forecast.start.tzinfo)
        figures.append(forecast_figure(forecast, daily, now, sources.tz))
    return Section(
        "outlook",
        "Budget and forecast",
        tuple(text),
        (
            Table(
                "budgets",
                "Budgets, as they stand now",
                (
                    Column("budget"), Column("limit", "usd"), Column("a"), Column("spent", "usd"),
                    Column("left", "usd"), Column("at the end", "usd"), Column("runs out", "time"),
                    Column("state"),
                ),
                tuple(
                    (
                        one.name + (f" · {one.subject}" if one.subject else ""), one.limit_usd, one.per,
                        one.spent_usd, one.left_usd, one.forecast_usd,
                        one.runs_out_at if one.runs_out_at is not None else "not in this period",
                        one.state,
                    )
                    for one in sources.beside.budgets
                ),
                empty="No budget is configured.",
            ),
        ),
        tuple(figures),
    )  # fmt: skip


def anomalies_section(sources: Sources) -> Section:
    """Show what was unusual in this period."""
    from novellus_lab.monitoring.watched import METRICS
    from novellus_lab.monitoring.wording import carrier, name

    return Section(
        "anomalies",
        "Anomalies",
        (),
        (
            Table(
                "anomalies",
                "What was unusual",
                (
                    Column("severity"), Column("what"), Column("model"), Column("from", "time"),
                    Column("worst"), Column("usual"), Column("carried by"),
                ),
                tuple(
                    (
                        one.severity.value, name(one), one.model or "all models", one.start,
                        METRICS[one.metric].shown(one.observed), METRICS[one.metric].shown(one.expected),
                        carrier(one),
                    )
                    for one in sources.beside.anomalies[:30]
                ),
                note="Times are UTC." + (
                    f" 30 of {len(sources.beside.anomalies)}." if len(sources.beside.anomalies) > 30 else ""
                ),
                empty="No anomaly is known in this period.",
            ),
        ),
    )  # fmt: skip


def _forecast(forecast: Forecast) -> str:
    told = f"This {forecast.period} has cost {money(forecast.spent_usd)} so far"
    if forecast.expected_usd is None:
        return f"{told}; there is nothing to forecast it by."
    sure = ""
    if forecast.low_usd is not None and forecast.high_usd is not None:
        sure = f" (95%: {money(forecast.low_usd)} to {money(forecast.high_usd)})"
    return f"{told}, and will have cost {money(forecast.expected_usd)}{sure} at its end."
