"""How a budget stands: what is left, how fast it goes, where it will end."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from datetime import datetime

    from novellus_lab.limits.budget import OnExceed, Per
    from novellus_lab.limits.ledger import PeriodRow

_CENT_OF_A_CENT = Decimal("0.0001")
_TOO_EARLY = 0.01
"""Of a period; before, a line through one point says nothing of its end."""


@dataclass(frozen=True, slots=True)
class BudgetStatus:
    """One budget (and subject, where it counts several) in its current period."""

    name: str
    subject: str
    """Whom it counts, where every value has it for itself; else empty."""
    per: Per
    on_exceed: OnExceed
    limit_usd: Decimal
    spent_usd: Decimal
    reserved_usd: Decimal
    """What calls under way may cost at most."""
    left_usd: Decimal
    """Neither spent nor reserved; below 0 where more was spent (soft budgets)."""
    spent_share: float | None
    """Of the limit; None where that is 0."""
    elapsed_share: float | None
    """Of the period; None where it has no end."""
    usd_per_day: Decimal | None
    """Spent so far, by the time that has passed."""
    forecast_usd: Decimal | None
    """Spend at the period's end if it goes on like this; None: too early, or it has no end."""
    runs_out_at: datetime | None
    """When the limit is reached if it goes on like this; None: not within the period."""
    period_start: datetime | None
    period_end: datetime | None
    state: Literal["ok", "ahead", "warning", "exceeded"]
    """`ahead`: on course to pass the limit before the period ends; `warning`: past `warn_at`."""

    @property
    def pace(self) -> float | None:
        """Spend beside an even one: 1 is on course to end the period exactly at the limit."""
        if not self.elapsed_share or self.spent_share is None:
            return None
        return self.spent_share / self.elapsed_share


def status_of(row: PeriodRow) -> BudgetStatus:
    """Judge a period by the database's clock."""
    budget = row.budget
    spent, limit = row.spent_usd, budget.usd
    elapsed: float | None = None
    per_day = forecast = None
    runs_out: datetime | None = None
    if row.start is not None and row.end is not None:
        passed_s = (row.now - row.start).total_seconds()
        elapsed = passed_s / (row.end - row.start).total_seconds()
        if passed_s > 0:
            per_day = (spent * 86_400 / Decimal(str(passed_s))).quantize(_CENT_OF_A_CENT)
        if elapsed >= _TOO_EARLY:
            forecast = (spent / Decimal(str(elapsed))).quantize(_CENT_OF_A_CENT)
            if forecast > limit and spent > 0:
                runs_out = max(row.now, row.start + (row.now - row.start) * float(limit / spent))
    share = float(spent / limit) if limit else None
    state: Literal["ok", "ahead", "warning", "exceeded"] = "ok"
    if spent >= limit:
        state = "exceeded"
    elif share is not None and share >= budget.warn_at:
        state = "warning"
    elif forecast is not None and forecast > limit:
        state = "ahead"
    return BudgetStatus(
        name=budget.name,
        subject=row.subject or "",
        per=budget.per,
        on_exceed=budget.on_exceed,
        limit_usd=limit,
        spent_usd=spent,
        reserved_usd=row.reserved_usd,
        left_usd=limit - spent - row.reserved_usd,
        spent_share=share,
        elapsed_share=elapsed,
        usd_per_day=per_day,
        forecast_usd=forecast,
        runs_out_at=runs_out,
        period_start=row.start,
        period_end=row.end,
        state=state,
    )
