"""Prices of the kinds of tokens, and the arithmetic of a bill. Decimal throughout, exact."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from decimal import Context, Decimal
from typing import TYPE_CHECKING

from novellus_lab.types import PriceLine

if TYPE_CHECKING:
    from collections.abc import Mapping

    from novellus_lab.types import Usage

# An own context: the caller's precision is the caller's business, and 60 digits are beyond any
# price (18 digits at most) times any count (12), so that nothing is ever rounded.
EXACT = Context(prec=60)
ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Rates:
    """US dollars per million of each kind; None: the source says nothing about it."""

    input: Decimal | None = None
    cached_input: Decimal | None = None
    cache_write: Decimal | None = None
    cache_write_1h: Decimal | None = None
    input_audio: Decimal | None = None
    cached_audio: Decimal | None = None
    output: Decimal | None = None
    reasoning: Decimal | None = None
    output_audio: Decimal | None = None
    output_image: Decimal | None = None
    web_search: Decimal | None = None
    request: Decimal | None = None

    def filled(self) -> Rates:
        """Let a kind without a price of its own cost what the wider kind costs.

        Cached and written input are input, an hour's write is a write, cached audio is audio where
        audio has a price and else cached input; whatever comes out is output.
        """
        write = _or(self.cache_write, self.input)
        return replace(
            self,
            cached_input=_or(self.cached_input, self.input),
            cache_write=write,
            cache_write_1h=_or(self.cache_write_1h, write),
            input_audio=_or(self.input_audio, self.input),
            cached_audio=_or(
                self.cached_audio,
                _or(self.input_audio, _or(self.cached_input, self.input)),
            ),
            reasoning=_or(self.reasoning, self.output),
            output_audio=_or(self.output_audio, self.output),
            output_image=_or(self.output_image, self.output),
        )

    def scaled(self, factor: Decimal) -> Rates:
        """Return these rates times a factor, fees apart: nobody gives a discount on searches."""
        return replace(
            self,
            **{
                name: EXACT.multiply(rate, factor)
                for name in _RATE_NAMES
                if name not in _FEES and (rate := getattr(self, name)) is not None
            },
        )

    def over(self, other: Rates) -> Rates:
        """Return `other` with everything that is stated here put over it."""
        return Rates(*(_or(getattr(self, n), getattr(other, n)) for n in _RATE_NAMES))


_RATE_NAMES = tuple(field.name for field in fields(Rates))
_FEES = ("web_search", "request")


def _or(first: Decimal | None, second: Decimal | None) -> Decimal | None:
    return second if first is None else first


class Tariff:
    """`Rates` ready for use, by how long the input is: from a threshold on, all tokens cost more."""

    __slots__ = ("_rates", "_steps", "_thresholds")

    def __init__(self, base: Rates, tiers: Mapping[int, Rates] | None = None) -> None:
        """Args: tiers: the rates that hold for inputs of *more* tokens than the key says."""
        ordered = sorted((tiers or {}).items())
        self._rates = (base, *(rates for _, rates in ordered))
        self._thresholds = tuple(start for start, _ in ordered)
        self._steps = tuple(_ready(rates.filled()) for rates in self._rates)

    def under(self, own: Rates) -> Tariff:
        """Return this tariff with somebody's own rates put over it."""
        steps = [own.filled().over(rates) for rates in self._rates]
        return Tariff(steps[0], dict(zip(self._thresholds, steps[1:], strict=True)))

    def scaled(self, factor: Decimal) -> Tariff:
        """Return this tariff with its token prices times a factor."""
        steps = [rates.scaled(factor) for rates in self._rates]
        return Tariff(steps[0], dict(zip(self._thresholds, steps[1:], strict=True)))

    def bill(
        self, usage: Usage, *, with_fees: bool = True
    ) -> tuple[Decimal, tuple[PriceLine, ...], Decimal, str | None]:
        """Return the total, its lines, the fees among it, and the first kind without a price.

        Args: with_fees: whether to charge for searches and requests too, or only for tokens.
        """
        step = 0
        for start in self._thresholds:
            if usage.input_tokens <= start:
                break
            step += 1
        prices = self._steps[step]
        lines: list[PriceLine] = []
        total = fees = ZERO
        missing: str | None = None
        for kind, quantity in quantities(usage):
            if kind == "web_search" and not with_fees:
                continue
            price = prices.get(kind)
            if price is None:
                missing = missing or kind
                continue
            per_million, each = price
            cost = EXACT.multiply(each, quantity)
            total = EXACT.add(total, cost)
            if kind == "web_search":
                fees = cost
            lines.append(PriceLine(kind, quantity, per_million, cost))
        if with_fees and "request" in prices:
            per_million, each = prices["request"]
            total = EXACT.add(total, each)
            fees = EXACT.add(fees, each)
            lines.append(PriceLine("request", 1, per_million, each))
        return total, tuple(lines), fees, missing


def _ready(rates: Rates) -> dict[str, tuple[Decimal, Decimal]]:
    return {
        name: (rate, EXACT.scaleb(rate, -6))
        for name in _RATE_NAMES
        if (rate := getattr(rates, name)) is not None
    }


def quantities(usage: Usage) -> list[tuple[str, int]]:
    """Split a usage into kinds that don't overlap; only those that occur.

    A usage whose parts exceed their whole (no reader of ours makes one, a provider from elsewhere
    might) never yields a negative line: the parts are believed.
    """
    cached, written = usage.cached_input_tokens, usage.cache_write_tokens
    hour = min(usage.cache_write_1h_tokens, written)
    cached_audio = min(usage.cached_audio_tokens, cached)
    fresh = max(usage.input_tokens - cached - written, 0)
    audio = min(max(usage.input_audio_tokens - cached_audio, 0), fresh)
    output = usage.output_tokens
    reasoning = min(usage.reasoning_tokens, output)
    image = min(usage.output_image_tokens, output - reasoning)
    spoken = min(usage.output_audio_tokens, output - reasoning - image)
    found = (
        ("input", fresh - audio),
        ("input_audio", audio),
        ("cached_input", cached - cached_audio),
        ("cached_audio", cached_audio),
        ("cache_write", written - hour),
        ("cache_write_1h", hour),
        ("output", output - reasoning - image - spoken),
        ("reasoning", reasoning),
        ("output_audio", spoken),
        ("output_image", image),
        ("web_search", usage.web_searches),
    )
    return [(kind, quantity) for kind, quantity in found if quantity > 0]
