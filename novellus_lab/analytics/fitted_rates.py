"""What a token of each kind costs, read off the log itself: imported and made-up models have no list."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from novellus_lab.analytics.period_log import PeriodLog

_KINDS = ("new_tokens", "cached_tokens", "output_tokens")
_TYPICAL = (1e-6, 1e-7, 4e-6)
"""Where the log does not tell: only their proportions count."""
_TIGHT = 0.98
_CACHED_AT_MOST = 0.5
"""Of the price of new input: what providers that cache ask for input from their cache, or less."""


@dataclass(frozen=True, slots=True)
class FittedRates:
    """US dollars a token, by least squares over a model's paid requests."""

    new: Decimal
    cached: Decimal
    output: Decimal
    known: bool
    """They explain the costs (R² above 0.98); else typical proportions stand in."""
    cached_seen: bool
    """Whether input from the provider's cache was among them."""

    def price(self, new: int, cached: int, output: int) -> Decimal:
        return new * self.new + cached * self.cached + output * self.output

    @property
    def saved_by_caching(self) -> Decimal:
        """Of a token that comes from the provider's cache; half of its price where none was seen."""
        if self.cached_seen and self.cached < self.new:
            return self.new - self.cached
        return self.new * Decimal(str(_CACHED_AT_MOST))


def fitted_rates(log: PeriodLog, *, late: bool) -> dict[str | None, FittedRates]:
    """Return the rates of each model: over both periods together, or of the later one alone."""
    import numpy as np

    kinds = [f"coalesce({kind}, 0)::DOUBLE" for kind in _KINDS]
    pairs = [(i, j) for i in range(3) for j in range(i, 3)]
    squares = ", ".join(f"sum({kinds[i]} * {kinds[j]}) AS s{i}{j}" for i, j in pairs)
    costs = ", ".join(f"sum({kinds[i]} * cost_usd::DOUBLE) AS y{i}" for i in range(3))
    found = log.ask(
        f"SELECT model, {squares}, {costs}, sum((cost_usd::DOUBLE)^2) AS yy "  # noqa: S608
        "FROM spending WHERE NOT free AND cost_usd > 0 AND (late OR NOT ?) GROUP BY 1",
        late,
    )
    rates = {}
    for row in found.rows:
        gram = np.array([[row[f"s{min(i, j)}{max(i, j)}"] for j in range(3)] for i in range(3)])
        against = np.array([row[f"y{i}"] for i in range(3)])
        fitted = None
        for kept in ([0, 1, 2], [0, 2], [0], [2]):
            if any(gram[k, k] <= 0 for k in kept):
                continue
            scale = np.sqrt(np.diag(gram)[kept])
            matrix = gram[np.ix_(kept, kept)] / np.outer(scale, scale)
            if np.linalg.cond(matrix) > 1e8:
                continue
            answer = np.linalg.solve(matrix, against[kept] / scale) / scale
            if (answer < 0).any():
                continue
            explained = 1 - (row["yy"] - answer @ against[kept]) / row["yy"]
            if explained >= _TIGHT:
                fitted = np.zeros(3)
                fitted[kept] = answer
                if 1 not in kept:
                    fitted[1] = fitted[0]
                break
        seen = bool(gram[1, 1] > 0)
        values = _TYPICAL if fitted is None else fitted
        new, cached, output = (Decimal(f"{value:.9e}") for value in values)
        rates[row["model"]] = FittedRates(new, cached, output, fitted is not None, seen)
    return rates
