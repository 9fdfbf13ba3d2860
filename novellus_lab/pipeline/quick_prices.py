"""What calls will cost, for twenty candidates at once: exact prices, worked out once a minute.

Nearly every price is so much a token, up to a long prompt: then a call of this size costs two
multiplications. Where that is not so (tiers, fees, very long prompts) the price book is asked.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime
    from decimal import Decimal

    from novellus_lab.pricing import PriceBook
    from novellus_lab.settings import ConfiguredPrice

    Ask = Callable[[int, int, int], Decimal | None]

_VALID_S = 60.0
"""Prices are dated; nobody's change of price is more punctual."""
_MOST_INPUT, _MOST_OUTPUT = 100_000, 32_000
"""Tokens within which a price is taken to be a straight line, after it was tried there."""
_PROBES = ((1_000, 300, 0), (_MOST_INPUT, _MOST_OUTPUT, 0), (60_000, 100, 30_000))


@dataclass(frozen=True, slots=True)
class _Line:
    """US dollars a token; None where the price is no line, or is unknown for cached input."""

    until: float
    """`time.monotonic()`"""
    rates: tuple[Decimal, Decimal, Decimal] | None
    """Input, output, and what is added for a cached token of the input (mostly below 0)."""
    configured: Sequence[ConfiguredPrice]
    """Held, so that its `id` stays its own."""


class QuickPrices:
    """`PriceBook.estimate`, remembered."""

    def __init__(self, book: PriceBook) -> None:
        self._book = book
        self._lines: dict[tuple[object, ...], _Line] = {}

    def estimate(
        self,
        *,
        provider: str,
        model: str,
        input_tokens: int,
        output_tokens: int,
        cached_input_tokens: int = 0,
        at: datetime,
        configured: Sequence[ConfiguredPrice] = (),
        base_model: str | None = None,
        base_url: str | None = None,
        service_tier: str | None = None,
    ) -> Decimal | None:
        """Return what a call of this size would cost in US dollars, or None if that is unknown."""

        def ask(inputs: int, outputs: int, cached: int) -> Decimal | None:
            return self._book.estimate(
                provider=provider,
                model=model,
                input_tokens=inputs,
                output_tokens=outputs,
                cached_input_tokens=cached,
                at=at,
                configured=configured,
                base_model=base_model,
                base_url=base_url,
                service_tier=service_tier,
            )

        if input_tokens <= _MOST_INPUT and output_tokens <= _MOST_OUTPUT:
            key = (provider, model, base_model, base_url, service_tier, id(configured))
            line, now = self._lines.get(key), time.monotonic()
            if line is None or line.until < now:
                if len(self._lines) > 5_000:
                    self._lines.clear()
                line = self._lines[key] = _Line(now + _VALID_S, _rates(ask), configured)
            if line.rates is not None:
                a, b, c = line.rates
                cost = a * input_tokens + b * output_tokens
                return cost + c * cached_input_tokens if cached_input_tokens else cost
        return ask(input_tokens, output_tokens, cached_input_tokens)


def _rates(ask: Ask) -> tuple[Decimal, Decimal, Decimal] | None:
    """Return the rates of a price that is a line, as far as can be seen."""
    small, inputs, outputs = ask(0, 0, 0), ask(1_000, 0, 0), ask(0, 1_000, 0)
    cached = ask(1_000, 0, 1_000)
    if small != 0 or inputs is None or outputs is None or cached is None:
        return None
    rates = inputs / 1_000, outputs / 1_000, (cached - inputs) / 1_000
    for i, o, c in _PROBES:
        if ask(i, o, c) != rates[0] * i + rates[1] * o + rates[2] * c:
            return None
    return rates
