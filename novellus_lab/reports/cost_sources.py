"""What a cost report is made of: two periods of the log, and what is known beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from novellus_lab.analytics.cost_drivers import cost_drivers
from novellus_lab.analytics.fitted_rates import fitted_rates
from novellus_lab.analytics.grouping import Question
from novellus_lab.analytics.log_columns import REQUESTS
from novellus_lab.analytics.period_log import PeriodLog
from novellus_lab.analytics.prompt_patterns import prompts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from novellus_lab.analytics.cost_change import CostChange
    from novellus_lab.analytics.fitted_rates import FittedRates
    from novellus_lab.analytics.forecast import Forecast
    from novellus_lab.analytics.log_columns import LogTable
    from novellus_lab.analytics.log_mirror import LogMirror
    from novellus_lab.analytics.prompt_patterns import Prompts
    from novellus_lab.limits.budget_status import BudgetStatus
    from novellus_lab.monitoring.anomaly import Anomaly
    from novellus_lab.reports.period import ReportPeriod


@dataclass(frozen=True, slots=True)
class Beside:
    """What stands beside the log."""

    ttl_s: float | None
    """How long the cache keeps an answer; None: for ever."""
    budgets: Sequence[BudgetStatus]
    forecast: Forecast | None
    anomalies: Sequence[Anomaly]


@dataclass(frozen=True, slots=True)
class Sources:
    mirror: LogMirror
    log: PeriodLog
    period: ReportPeriod
    tz: str
    filters: Mapping[str, Any]
    rates: Mapping[str | None, FittedRates]
    """Of the later period."""
    change: CostChange
    change_sql: str
    prompts: Prompts
    beside: Beside

    @property
    def ttl_s(self) -> float:
        if self.beside.ttl_s is not None:
            return self.beside.ttl_s
        return (self.period.end - self.period.start).total_seconds()

    def asked(
        self, by: str | None = None, every: str | None = None, table: LogTable = REQUESTS
    ) -> Question:
        """Return a question to the frames, of this report's period and filters."""
        filters = {**self.filters, "until": self.period.end}
        return Question(table, self.period.start, by, every, self.tz, filters)

    def since(self, start: datetime, every: str) -> Question:
        """Return a question from a time on until now, with this report's filters."""
        return Question(REQUESTS, start, None, every, self.tz, self.filters)


def sources(
    mirror: LogMirror, period: ReportPeriod, tz: str, filters: Mapping[str, Any], beside: Beside
) -> Sources:
    """Read the two periods, and find what drove the change between them."""
    log = PeriodLog(mirror, period.before, period.start, period.end, filters)
    change, sql = cost_drivers(log, fitted_rates(log, late=False))
    rates = fitted_rates(log, late=True)
    dearest = prompts(mirror, log, rates)
    return Sources(mirror, log, period, tz, filters, rates, change, sql, dearest, beside)
