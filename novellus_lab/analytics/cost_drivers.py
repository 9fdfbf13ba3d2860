"""The two periods of a `PeriodLog` as what `cost_change` compares."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from novellus_lab.analytics.cost_change import CostChange, Spending, cost_change

if TYPE_CHECKING:
    from collections.abc import Mapping

    from novellus_lab.analytics.fitted_rates import FittedRates
    from novellus_lab.analytics.period_log import PeriodLog

SPENDING = """
SELECT model, late, count(cost_usd) AS requests,
    count(*) FILTER (WHERE NOT free OR cost_usd > 0) AS paid,
    coalesce(sum(new_tokens) FILTER (WHERE NOT free OR cost_usd > 0), 0)::BIGINT AS new_tokens,
    coalesce(sum(cached_tokens) FILTER (WHERE NOT free OR cost_usd > 0), 0)::BIGINT AS cached_tokens,
    coalesce(sum(output_tokens) FILTER (WHERE NOT free OR cost_usd > 0), 0)::BIGINT AS output_tokens,
    coalesce(sum(cost_usd), 0) AS cost_usd
FROM spending WHERE cost_usd IS NOT NULL GROUP BY ALL ORDER BY ALL
"""


def cost_drivers(log: PeriodLog, rates: Mapping[str | None, FittedRates]) -> tuple[CostChange, str]:
    """Return what drove the change from one period to the next, and the SQL of what went in."""
    found = log.ask(SPENDING)
    sides: dict[bool, dict[str | None, Spending]] = {False: {}, True: {}}
    for row in found.rows:
        of = rates.get(row["model"])
        tokens = (
            Decimal(0)
            if of is None
            else of.price(row["new_tokens"], row["cached_tokens"], row["output_tokens"])
        )
        sides[row["late"]][row["model"]] = Spending(
            row["requests"], row["paid"], tokens, row["cost_usd"]
        )
    return cost_change(sides[False], sides[True]), found.sql
