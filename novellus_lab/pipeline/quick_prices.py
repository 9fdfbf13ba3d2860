"""What calls will cost, for twenty candidates at once: exact prices, worked out once a minute.

Nearly every price is so much a token, up to a long prompt: then a call of this size costs two
multiplications. Where that is not so (tiers, fees, very long prompts) the price book is asked.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from decimal import Decimal

    from novellus_lab.pipeline.catalog import Model
    from novellus_lab.pipeline.pool import Pool
    from novellus_lab.pricing import PriceBook

    Ask = Callable[[int, int, int], Decimal | None]

_VALID_S = 60.0
"""Prices are dated; nobody's change of price is more punctual."""
_MOST_INPUT, _MOST_OUTPUT = 100_000, 32_000
"""Tokens within which a price is taken to be a straight line, after it was tried there."""
_PROBES = ((1_000, 300, 0), (_MOST_INPUT, _MOST_OUTPUT, 0), (60_000, 100, 30_000))


_MOST_CEILINGS = 256


@dataclass(frozen=True, slots=True)
class _Line:
    """US dollars a token; None where the price is no line, or is unknown for cached input."""

    until: float
    """`time.monotonic()`"""
    rates: tuple[Decimal, Decimal, Decimal] | None
    """Input, output, and what is added for a cached token of the input (mostly below 0)."""


class QuickPrices:
    """`PriceBook.estimate` at the present, remembered. Models are told apart by their ids."""

    def __init__(self, book: PriceBook) -> None:
        self._book = book
        self._lines: dict[tuple[str, str | None], _Line] = {}
        self._ceilings: dict[tuple[str, ...], _Line] = {}

    def estimate(
        self,
        model: Model,
        input_tokens: int,
        output_tokens: int,
        cached_input_tokens: int = 0,
        service_tier: str | None = None,
    ) -> Decimal | None:
        """Return what a call of this size would cost in US dollars, or None if that is unknown."""
        if input_tokens <= _MOST_INPUT and output_tokens <= _MOST_OUTPUT:
            line = self._lines.get((model.id, service_tier))
            if line is None or line.until < time.monotonic():
                line = self._look_at(model, service_tier)
            if line.rates is not None:
                a, b, c = line.rates
                cost = a * input_tokens + b * output_tokens
                return cost + c * cached_input_tokens if cached_input_tokens else cost
        return self._ask(
            model, service_tier, input_tokens, output_tokens, cached_input_tokens, datetime.now(UTC)
        )

    def ceiling(self, models: Pool, input_tokens: int, output_tokens: int) -> Decimal | None:
        """Return what a call of this size to any of these models costs at most, at full price.

        None: one of the prices is unknown, or is no line.
        """
        if input_tokens > _MOST_INPUT or output_tokens > _MOST_OUTPUT:
            return None
        line, now = self._ceilings.get(models.ids), time.monotonic()
        if line is None or line.until < now:
            if len(self._ceilings) >= _MOST_CEILINGS:
                self._ceilings.clear()
            line = self._ceilings[models.ids] = _highest([self._look_at(m, None) for m in models])
        if line.rates is None:
            return None
        return line.rates[0] * input_tokens + line.rates[1] * output_tokens

    def _look_at(self, model: Model, service_tier: str | None) -> _Line:
        now, at = time.monotonic(), datetime.now(UTC)

        def ask(inputs: int, outputs: int, cached: int) -> Decimal | None:
            return self._ask(model, service_tier, inputs, outputs, cached, at)

        line = self._lines[model.id, service_tier] = _Line(now + _VALID_S, _rates(ask))
        return line

    def _ask(
        self,
        model: Model,
        service_tier: str | None,
        input_tokens: int,
        output_tokens: int,
        cached_input_tokens: int,
        at: datetime,
    ) -> Decimal | None:
        return self._book.estimate(
            **model.priced_as,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cached_input_tokens=cached_input_tokens,
            at=at,
            service_tier=service_tier,
        )


def _highest(lines: Sequence[_Line]) -> _Line:
    """Return a line that is below none of these."""
    until = min(line.until for line in lines)
    known = [line.rates for line in lines if line.rates is not None]
    if len(known) < len(lines):
        return _Line(until, None)
    inputs, outputs, cached = (max(rates) for rates in zip(*known, strict=True))
    return _Line(until, (inputs, outputs, cached))


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
