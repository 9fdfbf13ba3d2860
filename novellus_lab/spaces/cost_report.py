"""`lab.cost_report`: what a period cost, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from novellus_lab.analytics.forecast import forecast
from novellus_lab.analytics.grouping import Question
from novellus_lab.analytics.log_columns import REQUESTS
from novellus_lab.analytics.selection import select
from novellus_lab.reports.cost_document import cost_document
from novellus_lab.reports.cost_report import CostReport
from novellus_lab.reports.cost_sources import Beside, sources
from novellus_lab.reports.period import report_period

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from novellus_lab.analytics.log_mirror import LogMirror
    from novellus_lab.limits.budget_status import BudgetStatus
    from novellus_lab.reports.period import Period
    from novellus_lab.spaces.anomalies import Anomalies


def make_cost_report(
    mirror: LogMirror,
    period: Period,
    *,
    tz: str,
    templates: str | Path | None,
    filters: Mapping[str, Any],
    ttl_s: float | None,
    budgets: Callable[[], Sequence[BudgetStatus]],
    anomalies: Callable[..., Anomalies],
    detect: bool,
) -> CostReport:
    """Ask everything that a report says, and make it.

    Args:
        budgets, anomalies: asked once the arguments were checked.
        detect: look for anomalies of spend in the period; else those that were found before.
    """
    narrowed = dict(filters)
    span = report_period(period, narrowed.pop("until", None), tz)
    select(REQUESTS, span.start, narrowed)  # wrong filters are refused before anything is asked
    model = narrowed.get("model")
    found = anomalies(
        span.start,
        until=span.end,
        model=model if isinstance(model, str) else None,
        detect=detect,
        **({"metrics": "cost_usd"} if detect else {}),
    )
    asked = Question(REQUESTS, None, None, None, tz, narrowed)
    beside = Beside(ttl_s, budgets(), forecast(mirror, asked, "month"), tuple(found))
    made_of = sources(mirror, span, tz, narrowed, beside)
    try:
        return CostReport(cost_document(made_of), made_of.change, templates)
    finally:
        made_of.log.close()
