"""What one token of each kind costs, by the price list."""

from __future__ import annotations

from typing import TYPE_CHECKING

from novellus_lab.types import Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime
    from decimal import Decimal

    from novellus_lab.pipeline.catalog import PricedAs
    from novellus_lab.pricing import PriceBook

_PROBE = 1_000
"""Few enough for the lowest tier of a price that rises with the length of a prompt."""
_PROBES = {
    "input_tokens": Usage(input_tokens=_PROBE),
    "cached_input_tokens": Usage(input_tokens=_PROBE, cached_input_tokens=_PROBE),
    "cache_write_tokens": Usage(input_tokens=_PROBE, cache_write_tokens=_PROBE),
    "output_tokens": Usage(output_tokens=_PROBE),
    "reasoning_tokens": Usage(output_tokens=_PROBE, reasoning_tokens=_PROBE),
}


def token_rates(
    prices: PriceBook, known: Mapping[str, PricedAs]
) -> Callable[[str, str, datetime], dict[str, Decimal] | None]:
    """Return how to look up a model's rates: provider, model and time in, US dollars a token out.

    None where input or output has no price. A kind without a price of its own costs as its whole does.
    """

    def rates(provider: str, model: str, at: datetime) -> dict[str, Decimal] | None:
        priced_as = known.get(model) or known.get(f"{provider}/{model}")
        found: dict[str, Decimal] = {}
        for kind, usage in _PROBES.items():
            price = (
                prices.price(usage, provider=provider, model=model, at=at)
                if priced_as is None
                else prices.price(usage, **priced_as, at=at)
            )
            if price.cost_usd is not None:
                found[kind] = (price.cost_usd - (price.fees_usd or 0)) / _PROBE
        if "input_tokens" not in found or "output_tokens" not in found:
            return None
        for kind in ("cached_input_tokens", "cache_write_tokens"):
            found.setdefault(kind, found["input_tokens"])
        found.setdefault("reasoning_tokens", found["output_tokens"])
        return found

    return rates
