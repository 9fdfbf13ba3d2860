"""Why a provider's count of a day differs from ours: the simplest explanation that fits.

What the log holds of a day and a model is told apart by what became of the calls (`Logged`). Each
explanation says what the provider would then have counted; those that give its numbers, all that it states,
within the tolerance, explain them. Only where none does is the likely one told, by signs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from itertools import combinations
from typing import TYPE_CHECKING

from novellus_lab.analytics.invoice import COUNTS
from novellus_lab.analytics.log_columns import USD_DIGITS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

TOKENS = COUNTS[1:]
ZERO = Decimal(0)
CENT = Decimal("0.01")
PARTS = ("answered", "batch", "failed", "evaluation")
"""What calls of the log were: good ones, those of batches, those that failed or were broken off, and
shadows and judges."""

AGREES = "agrees"
CACHED = "cached tokens counted otherwise"
REASONING = "reasoning tokens counted otherwise"
FAILED_LEFT_OUT = "failed calls not billed"
FAILED_BILLED = "failed or abandoned calls billed"
EVALUATION = "shadow and judge calls not on the invoice"
UNPRICED = "calls without a price"
PRICE = "price differs"
BATCH = "batch discount"
ESTIMATED = "usage that we estimated"
MISSING = "calls missing from the log"
EXTRA = "calls not on the invoice"
UNCLEAR = "other calls or other prices"
NEIGHBOUR = "counted on the day beside"
NO_MODEL = "no model's usage"

HINTS = {
    CACHED: "input_tokens of the log includes cached and written ones: bring the invoice to that form",
    REASONING: "output_tokens of the log includes reasoning: bring the invoice to that form",
    FAILED_LEFT_OUT: "the log counts what they used; the provider waived it",
    FAILED_BILLED: "calls that timed out or were broken off go on at the provider: lab.analytics.waste",
    EVALUATION: "they ran on another key or project, or the invoice is of a part",
    UNPRICED: "state their price in the YAML, then lab.analytics.reprice",
    PRICE: "same tokens, other rates: compare the YAML's prices with the provider's, and its discounts",
    BATCH: "providers take half of the price for batches, and may list them apart",
    ESTIMATED: "the provider never reported these calls' usage, so we counted",
    MISSING: "other programs with the same key, or a log that was off, or lost",
    EXTRA: "another key or project, or an export that was cut",
    UNCLEAR: "dollars alone can't tell: take the export that has tokens",
    NEIGHBOUR: "a provider counts when a call ends, the log when it begins",
    NO_MODEL: "fees, searches and the like, which the log does not hold as a model's",
}


@dataclass(slots=True)
class Tally:
    """Sums over calls."""

    requests: int = 0
    unpriced: int = 0
    """Of them, without a price though something was used."""
    unmeasured: int = 0
    """Of them, without any usage: nobody said what they used."""
    estimated: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TOKENS, 0))
    unpriced_counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TOKENS, 0))
    cost_usd: Decimal = ZERO

    def add(self, other: Tally) -> None:
        self.requests += other.requests
        self.unpriced += other.unpriced
        self.unmeasured += other.unmeasured
        self.estimated += other.estimated
        self.cost_usd += other.cost_usd
        for name in TOKENS:
            self.counts[name] += other.counts[name]
            self.unpriced_counts[name] += other.unpriced_counts[name]

    @property
    def tokens(self) -> int:
        return self.counts["input_tokens"] + self.counts["output_tokens"]


@dataclass(slots=True)
class Logged:
    """What the log holds of a day and a model, by what the calls were."""

    parts: dict[str, Tally] = field(default_factory=dict)

    def part(self, name: str) -> Tally:
        return self.parts.get(name) or Tally()

    @property
    def all(self) -> Tally:
        whole = Tally()
        for part in self.parts.values():
            whole.add(part)
        return whole


@dataclass(slots=True)
class Billed:
    """What the provider says of a day and a model. None: it does not say."""

    counts: dict[str, int | None] = field(default_factory=lambda: dict.fromkeys(COUNTS))
    cost_usd: Decimal | None = None

    @property
    def tokens(self) -> int | None:
        stated = [self.counts[n] for n in ("input_tokens", "output_tokens")]
        return None if None in stated else sum(n for n in stated if n is not None)


@dataclass(frozen=True, slots=True)
class Cause:
    """Why, how many dollars of that are other tokens and how many other prices, and by what we know."""

    name: str
    detail: str
    tokens_usd: Decimal | None
    price_usd: Decimal | None
    is_exact: bool
    """Whether it gives the provider's numbers, not only their direction."""


def explain(
    logged: Logged, billed: Billed, rates: Mapping[str, Decimal] | None, tolerance: Decimal
) -> Cause:
    """Tell why the two differ.

    Args:
        rates: what a token of each kind costs by the price list; None if that is not known.
        tolerance: share of a number within which two are the same.
    """
    ours, usd = logged.all, billed.cost_usd
    if not stated_any(billed) and billed.counts["requests"] is None:
        name, detail, exact = _explain_dollars(logged, ours, usd or ZERO, rates, tolerance)
        return Cause(name, detail, None, None, exact)
    difference = None if usd is None else usd - ours.cost_usd
    found = _explain_tokens(logged, billed, tolerance)
    if found is None:
        name, detail = _likely(logged, billed, ours, tolerance)
        more = None if difference is None else _cost_of_drift(ours, billed, rates, difference)
        return Cause(name, detail, more, _less(difference, more), is_exact=False)
    said, left = found
    name = " and ".join(dict.fromkeys(said)) or AGREES
    if usd is None or near(usd, ours.cost_usd - left, tolerance):
        return Cause(
            name, "", None if usd is None else -left, _less(difference, -left), is_exact=True
        )
    why, detail, exact = _explain_price(logged, ours, usd, rates, tolerance)
    if said and why not in said:
        why = f"{name} and {why}"
    return Cause(why, detail, -left, _less(difference, -left), exact)


def _less(difference: Decimal | None, part: Decimal | None) -> Decimal | None:
    return None if difference is None or part is None else difference - part


def near(stated: Decimal, ours: Decimal, tolerance: Decimal) -> bool:
    """Whether two amounts are the same, but for the rounding of the one that is stated, to cents at most."""
    exponent = stated.as_tuple().exponent
    rounding = min(Decimal(1).scaleb(int(exponent)), CENT) / 2
    return abs(stated - ours) <= max(tolerance * max(abs(stated), abs(ours)), rounding)


def alike(a: int, b: int, tolerance: Decimal) -> bool:
    return abs(a - b) <= tolerance * max(a, b)


Counts = dict[str, int]


def _cached_apart(l: Logged, c: Counts) -> Counts:  # noqa: E741
    return {**c, "input_tokens": c["input_tokens"] - c["cached_input_tokens"]}


def _cached_and_written_apart(l: Logged, c: Counts) -> Counts:  # noqa: E741
    apart = c["cached_input_tokens"] + c["cache_write_tokens"]
    return {**c, "input_tokens": c["input_tokens"] - apart}


def _reasoning_apart(l: Logged, c: Counts) -> Counts:  # noqa: E741
    return {**c, "output_tokens": c["output_tokens"] - c["reasoning_tokens"]}


def _reasoning_on_top(l: Logged, c: Counts) -> Counts:  # noqa: E741
    return {**c, "output_tokens": c["output_tokens"] + c["reasoning_tokens"]}


def _without(part: str) -> Callable[[Logged, Counts], Counts]:
    def left(logged: Logged, counts: Counts) -> Counts:
        gone = logged.part(part)
        return {
            name: n - (gone.requests if name == "requests" else gone.counts[name])
            for name, n in counts.items()
        }

    return left


_EXPLANATIONS: tuple[tuple[str, str | None, Callable[[Logged, Counts], Counts]], ...] = (
    # A name, the part of the log that it leaves out, what is left. What is left out goes first: the
    # others count what remains in another way.
    (FAILED_LEFT_OUT, "failed", _without("failed")),
    (EVALUATION, "evaluation", _without("evaluation")),
    (BATCH, "batch", _without("batch")),
    (CACHED, None, _cached_apart),
    (CACHED, None, _cached_and_written_apart),
    (REASONING, None, _reasoning_apart),
    (REASONING, None, _reasoning_on_top),
)


def _explain_tokens(
    logged: Logged, billed: Billed, tolerance: Decimal
) -> tuple[tuple[str, ...], Decimal] | None:
    """Return the fewest explanations that give the tokens, and what the calls cost that they leave out."""
    whole = logged.all
    stated = {name: n for name, n in billed.counts.items() if n is not None and name in TOKENS}
    if not stated:
        stated = {"requests": billed.counts["requests"] or 0}
    mine = {"requests": whole.requests, **whole.counts}
    for number in (0, 1, 2):
        for chosen in combinations(_EXPLANATIONS, number):
            if len({name for name, _, _ in chosen}) < number:
                continue  # two ways of counting the same
            counts = mine
            for _, _, change in chosen:
                after = change(logged, counts)
                if after == counts:
                    break  # nothing of that kind is there to explain anything
                counts = after
            else:
                if all(alike(counts[name], n, tolerance) for name, n in stated.items()):
                    left = (logged.part(part).cost_usd for _, part, _ in chosen if part is not None)
                    return tuple(name for name, _, _ in chosen), sum(left, ZERO)
    whole_counts = {"input_tokens", "output_tokens"}
    if stated.keys() >= whole_counts and all(
        alike(mine[name], stated[name], tolerance) for name in whole_counts
    ):
        kinds = {"cached_input_tokens", "cache_write_tokens"} & stated.keys()
        differ = any(not alike(mine[name], stated[name], tolerance) for name in kinds)
        return ((CACHED if differ else REASONING),), ZERO
    return None


def _explain_dollars(
    logged: Logged,
    ours: Tally,
    usd: Decimal,
    rates: Mapping[str, Decimal] | None,
    tolerance: Decimal,
) -> tuple[str, str, bool]:
    """Tell why dollars differ where the invoice states nothing else."""
    if near(usd, ours.cost_usd, tolerance) and not (ours.unpriced and usd > ours.cost_usd + CENT):
        return AGREES, "", True
    if not ours.requests:
        return MISSING, "the log has no call of this model on this day", False
    for name, part, _ in _EXPLANATIONS:
        less = logged.part(part).cost_usd if part else ZERO
        if less and near(usd, ours.cost_usd - less, tolerance):
            return name, "dollars alone say so", False
    name, detail, exact = _explain_price(logged, ours, usd, rates, tolerance)
    if name == PRICE:
        return UNCLEAR, "the invoice states no tokens", False
    return name, detail, exact


def _explain_price(
    logged: Logged,
    ours: Tally,
    cost_usd: Decimal,
    rates: Mapping[str, Decimal] | None,
    tolerance: Decimal,
) -> tuple[str, str, bool]:
    """Tell why equal tokens cost otherwise: a name, what shows it, and whether it gives the amount."""
    if ours.unpriced:
        count = f"{ours.unpriced:,} of {ours.requests:,} calls have no price in the log"
        if rates is not None:
            would = ours.cost_usd + cost_of(ours.unpriced_counts, rates)
            if near(cost_usd, would, tolerance):
                return UNPRICED, f"{count}; today's price list gives the invoice's amount", True
        if cost_usd > ours.cost_usd:
            return UNPRICED, count, False
    half = ours.cost_usd / 2
    if ours.cost_usd and near(cost_usd, half, tolerance) and not logged.part("batch").requests:
        return (
            BATCH,
            "the invoice has half of the log's price: calls of a batch, logged as others",
            True,
        )
    batch = logged.part("batch").cost_usd
    if batch and near(cost_usd, ours.cost_usd + batch, tolerance):
        return BATCH, "the log has batch prices, the invoice the full ones", True
    cached = ours.counts["cached_input_tokens"]
    if rates is not None and cached:
        more = cached * (rates["input_tokens"] - rates["cached_input_tokens"])
        for sign, how in (
            (1, "at the full price"),
            (-1, "cheaper than in the log, by the discount"),
        ):
            if more and near(cost_usd, ours.cost_usd + sign * more, tolerance):
                return CACHED, f"cached input is charged {how}", True
    if not ours.cost_usd:
        return PRICE, "the log has no cost for it", False
    return PRICE, f"{cost_usd / ours.cost_usd:.3g} times the log's, for the same tokens", False


def _likely(logged: Logged, billed: Billed, ours: Tally, tolerance: Decimal) -> tuple[str, str]:
    """Tell what tokens that nothing gives exactly are most likely due to."""
    requests, failed = billed.counts["requests"], logged.part("failed")
    theirs = billed.tokens
    if theirs is None:
        stated = [n for n in ("input_tokens", "output_tokens") if billed.counts[n] is not None]
        theirs = sum(billed.counts[n] or 0 for n in stated)
        mine = sum(ours.counts[n] for n in stated)
    else:
        mine = ours.tokens
    if not stated_any(billed):
        theirs, mine = requests or 0, ours.requests
    if theirs > mine:
        if not ours.requests:
            return MISSING, "the log has no call of this model on this day"
        if requests is not None and requests > ours.requests:
            more = requests - ours.requests
            return MISSING, f"the provider counted {more:,} requests more than the log has calls"
        if failed.unmeasured:
            return FAILED_BILLED, f"{failed.unmeasured:,} calls ended without saying what they used"
        if ours.estimated:
            return ESTIMATED, f"{ours.estimated:,} calls' tokens were counted by us"
        if requests is not None and alike(requests, ours.requests, tolerance):
            return ESTIMATED, "as many calls, each with more tokens than the log has"
        return MISSING, f"{theirs - mine:,} tokens more than the log has"
    if ours.estimated and (requests is None or alike(requests, ours.requests, tolerance)):
        return ESTIMATED, f"{ours.estimated:,} calls' tokens were counted by us"
    if requests is not None and requests < ours.requests:
        return EXTRA, f"the provider counted {ours.requests - requests:,} requests fewer"
    return EXTRA, f"{mine - theirs:,} tokens fewer than the log has"


def stated_any(billed: Billed) -> bool:
    """Whether the provider states any tokens."""
    return any(billed.counts[name] is not None for name in TOKENS)


def cost_of(counts: Mapping[str, int], rates: Mapping[str, Decimal]) -> Decimal:
    """Price tokens by kind; cached and written ones are a part of the input, reasoning of the output."""
    cached, written = counts["cached_input_tokens"], counts["cache_write_tokens"]
    reasoning = counts["reasoning_tokens"]
    return (
        (counts["input_tokens"] - cached - written) * rates["input_tokens"]
        + cached * rates["cached_input_tokens"]
        + written * rates["cache_write_tokens"]
        + (counts["output_tokens"] - reasoning) * rates["output_tokens"]
        + reasoning * rates["reasoning_tokens"]
    )


def _cost_of_drift(
    ours: Tally, billed: Billed, rates: Mapping[str, Decimal] | None, difference: Decimal
) -> Decimal:
    """Price the tokens that the two differ by: at the price list's rates, else at the log's average."""
    theirs = {name: ours.counts[name] if n is None else n for name, n in billed.counts.items()
              if name in TOKENS}  # fmt: skip
    if rates is not None and stated_any(billed):
        return cost_of(theirs, rates) - cost_of(ours.counts, rates)
    more = theirs["input_tokens"] + theirs["output_tokens"] - ours.tokens
    if stated_any(billed) and ours.tokens and ours.cost_usd:
        return round(ours.cost_usd * more / ours.tokens, USD_DIGITS)
    return difference
