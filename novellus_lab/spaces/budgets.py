"""`lab.budgets`: how the budgets of the configuration stand."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from novellus_lab.limits.budget_status import BudgetStatus
    from novellus_lab.pipeline.runtime import Runtime


class BudgetStatuses(tuple["BudgetStatus", ...]):
    """All budgets in their current period. Shows itself as a table."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        from novellus_lab.display import money, table_html

        rows = [
            (
                status.name + (f" · {status.subject}" if status.subject else ""),
                f"{money(status.spent_usd)} of {money(status.limit_usd)}",
                "" if status.per == "total" else f"a {status.per}",
                "" if status.pace is None else f"{status.pace:.2f}x",
                "" if status.forecast_usd is None else money(status.forecast_usd),
                status.state,
            )
            for status in self
        ]
        header = ("budget", "spent", "", "pace", "forecast", "state")
        return table_html(header, rows, ("pace 1x ends the period exactly at the limit",))


class LabBudgets:
    """The budgets of a lab."""

    def __init__(self, live: Callable[[], Runtime]) -> None:
        self._live = live

    def __repr__(self) -> str:
        return "lab.budgets: status"

    def status(self) -> BudgetStatuses:
        """Return spend, pace and forecast of each budget in its current period.

        Raises:
            StoreUnavailableError: the database does not answer.
        """
        runtime = self._live()
        return BudgetStatuses(runtime.thread.run(runtime.admission.budgets.status))

    async def astatus(self) -> BudgetStatuses:
        """Return how each budget stands: the async twin of `status`."""
        runtime = self._live()
        return BudgetStatuses(await runtime.thread.arun(runtime.admission.budgets.status))
