"""Why one period cost more than another: volume, mix, cache, length and price, exactly.

A model's cost is a product of five factors, each a plain ratio of counts and amounts:

    requests of all models x its share x the share of them that was paid for
        x tokens of a paid request x price of a token

The difference of two products is split by Shapley's value: each factor gets what its change adds,
averaged over all orders in which the five can change. It has no remainder, favours no order, and
changes its sign, and nothing else, where the periods change places. See docs/cost_report.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction
from itertools import combinations
from math import factorial, prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

FACTORS = ("volume", "mix", "cache", "length", "price")
_EXACT = Context(prec=2_000)
_DIGITS = 15
"""After the point, at least: what parts are rounded to. Together they are exact."""


@dataclass(frozen=True, slots=True)
class Spending:
    """What one model did in one period. Requests without a price are not in it."""

    requests: int
    paid: int
    """Of them, those that no cache and no equal call answered."""
    tokens: Decimal
    """Of the paid ones; kinds that differ in price are weighted by it, alike in both periods."""
    cost_usd: Decimal


@dataclass(frozen=True, slots=True)
class ModelChange:
    """A model's part of the difference."""

    model: str | None
    before_usd: Decimal
    after_usd: Decimal
    parts: Mapping[str, Decimal]
    """By factor; they add up to the difference, to the last digit."""

    @property
    def difference_usd(self) -> Decimal:
        return _EXACT.subtract(self.after_usd, self.before_usd)


@dataclass(frozen=True, slots=True)
class CostChange:
    """What drove the difference between two periods."""

    models: tuple[ModelChange, ...]
    """The largest difference first."""

    @property
    def before_usd(self) -> Decimal:
        return total(model.before_usd for model in self.models)

    @property
    def after_usd(self) -> Decimal:
        return total(model.after_usd for model in self.models)

    @property
    def difference_usd(self) -> Decimal:
        return _EXACT.subtract(self.after_usd, self.before_usd)

    @property
    def parts(self) -> dict[str, Decimal]:
        """By factor, over all models; they add up to the difference, to the last digit."""
        return {f: total(model.parts[f] for model in self.models) for f in FACTORS}


def cost_change(
    before: Mapping[str | None, Spending], after: Mapping[str | None, Spending]
) -> CostChange:
    """Split the difference of two periods' costs by model and factor.

    A model that is missing in one period has no length and no price there: its difference is volume
    and mix alone.
    """
    nothing = Spending(0, 0, Decimal(0), Decimal(0))
    all_before = sum(one.requests for one in before.values())
    all_after = sum(one.requests for one in after.values())
    changes = []
    for model in dict.fromkeys([*before, *after]):
        one, other = before.get(model, nothing), after.get(model, nothing)
        factors = _factors(one, other, all_before, all_after)
        difference = _EXACT.subtract(other.cost_usd, one.cost_usd)
        cells = to_decimals(shapley(*factors), difference, _digits(difference))
        parts = dict(zip(FACTORS, cells, strict=True))
        changes.append(ModelChange(model, one.cost_usd, other.cost_usd, parts))
    changes.sort(key=lambda one: (-abs(one.difference_usd), one.model or ""))
    return CostChange(tuple(changes))


def shapley(before: Sequence[Fraction], after: Sequence[Fraction]) -> list[Fraction]:
    """Split `prod(after) - prod(before)` among the factors: exactly, whatever the order."""
    n = len(before)
    places = range(n)
    value = {
        frozenset(changed): prod(after[i] if i in changed else before[i] for i in places)
        for size in range(n + 1)
        for changed in combinations(places, size)
    }
    parts = []
    for place in places:
        part = Fraction(0)
        for changed, worth in value.items():
            if place not in changed:
                weight = Fraction(
                    factorial(len(changed)) * factorial(n - len(changed) - 1), factorial(n)
                )
                part += weight * (value[changed | {place}] - worth)
        parts.append(part)
    return parts


def to_decimals(parts: Sequence[Fraction | Decimal], whole: Decimal, digits: int) -> list[Decimal]:
    """Round parts to `digits` after the point so that they add up to `whole` to the last of them.

    Each is rounded, and what is then missing goes to those that lost most. Parts of the opposite sign
    come out as the same numbers with the opposite sign.
    """
    unit = Fraction(1, 10**digits)
    scaled = [Fraction(part) / unit for part in parts]
    nearest = [round(part) for part in scaled]
    missing = Fraction(whole) / unit - sum(nearest)
    if missing.denominator != 1:
        raise ValueError(f"{whole} has more than {digits} digits")
    step = 1 if missing > 0 else -1
    lost = sorted(range(len(nearest)), key=lambda i: (-step * (scaled[i] - nearest[i]), i))
    for turn in range(abs(int(missing))):
        nearest[lost[turn % len(lost)]] += step
    return [Decimal(number).scaleb(-digits, _EXACT) for number in nearest]


def total(amounts: Iterable[Decimal]) -> Decimal:
    """Add amounts up, to the last digit."""
    whole = Decimal(0)
    for amount in amounts:
        whole = _EXACT.add(whole, amount)
    return whole


def _factors(
    one: Spending, other: Spending, all_before: int, all_after: int
) -> tuple[list[Fraction], list[Fraction]]:
    """The five factors in both periods; one that is not defined in a period is the other period's."""
    tokens = [Fraction(one.tokens), Fraction(other.tokens)]
    if any(side.cost_usd and not weight for side, weight in zip((one, other), tokens, strict=True)):
        # Paid for, and nobody knows for how many tokens: each request counts as one.
        tokens = [Fraction(one.paid or 1), Fraction(other.paid or 1)]
    sides: list[list[Fraction | None]] = []
    for side, everyone, weight in ((one, all_before, tokens[0]), (other, all_after, tokens[1])):
        # What was paid for without a paid request (a hit that cost something) is a request, too.
        paid = side.paid or (1 if side.cost_usd else 0)
        sides.append(
            [
                Fraction(everyone),
                Fraction(side.requests, everyone) if everyone else None,
                Fraction(paid, side.requests) if side.requests else None,
                weight / paid if paid else None,
                Fraction(side.cost_usd) / weight if weight else None,
            ]
        )
    before, after = sides
    return (
        [_first(b, a) for b, a in zip(before, after, strict=True)],
        [_first(a, b) for b, a in zip(before, after, strict=True)],
    )


def _first(known: Fraction | None, instead: Fraction | None) -> Fraction:
    return known if known is not None else instead if instead is not None else Fraction(0)


def _digits(amount: Decimal) -> int:
    exponent = amount.normalize(_EXACT).as_tuple().exponent
    return max(_DIGITS, -int(exponent))
