"""What a call cost: exact decimals, by kind of token, at the prices of its day.

On whose word, in this order:

1. the provider's own bill, where it states one (OpenRouter does): that is what was charged;
2. the YAML, where it states a price: the user knows of a contract that no table knows;
3. `genai-prices`, at the time of the request.

What nobody knows is `None`, with the reason: never zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from novellus_lab.types import Price, PriceLine, Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from novellus_lab.settings import ConfiguredPrice

_MILLION = Decimal(1_000_000)
_THOUSAND = Decimal(1000)

_FREE = {"ollama"}
"""Providers that run on the user's own machine: their tokens have no price."""

_REPLAYED = {"gpt-4-1106-preview": "openai", "mixtral-8x7b-instruct": "mistral"}
"""Recorded models are priced as by whom they were served: Mixtral at Mistral's own price."""

_SETTLE_IN_YAML = "state input_token_cost and output_token_cost (USD per 1,000) in the YAML"

# Kinds of tokens, the genai-prices key of each, and what it falls back to where there is none:
# a token without a price of its own is charged as the next more general one.
_KINDS: tuple[tuple[str, str, str | None], ...] = (
    ("input", "input_mtok", None),
    ("cached_input", "cache_read_mtok", "input"),
    ("cache_write", "cache_write_mtok", "input"),
    ("cache_write_1h", "cache_write_1h_mtok", "cache_write"),
    ("input_audio", "input_audio_mtok", "input"),
    ("cached_audio", "cache_audio_read_mtok", "cached_input"),
    ("output", "output_mtok", None),
    ("reasoning", "output_reasoning_mtok", "output"),
    ("output_audio", "output_audio_mtok", "output"),
)


@dataclass(frozen=True, slots=True)
class _Rate:
    """US dollars per million; tiers replace the base for the whole request above a threshold."""

    base: Decimal
    tiers: tuple[tuple[int, Decimal], ...] = ()

    def at(self, input_tokens: int) -> Decimal:
        rate = self.base
        for start, price in self.tiers:
            if input_tokens > start:
                rate = price
        return rate


@dataclass(frozen=True, slots=True)
class _Card:
    """The prices of a model at one time."""

    rates: Mapping[str, _Rate]
    version: str
    per_request_usd: Decimal | None = None
    per_web_search_usd: Decimal | None = None


class PriceBook:
    """Prices calls. Prices of a model are looked up once a minute and kept."""

    def __init__(self) -> None:
        self._cards: dict[tuple[Any, ...], _Card | str] = {}

    def price(
        self,
        usage: Usage,
        *,
        provider: str,
        model: str,
        at: datetime,
        response_model: str | None = None,
        configured: Sequence[ConfiguredPrice] = (),
        base_model: str | None = None,
        base_url: str | None = None,
        service_tier: str | None = None,
        billed_cost_usd: Decimal | None = None,
    ) -> Price:
        """Price what a call used.

        Args:
            usage: tokens by kind; input includes cached and written, output includes reasoning.
            provider: as in the YAML.
            model: the provider's name of it, or an Azure deployment.
            at: time of the request: prices have dates.
            response_model: the model's name as the answer states it.
            configured: prices of the YAML.
            base_model: what a deployment or an alias really is.
            base_url: the address, if it is not the provider's own: prices go by who is there.
            service_tier: as the answer states it (`flex`, `priority`, `batch`).
            billed_cost_usd: what the provider says it charged.

        Returns:
            A `Price` whose lines sum to its cost to the last digit; `cost_usd` is None where a
            part of it is unknown, and `reason` says which and what to do.
        """
        if billed_cost_usd is not None:
            line = PriceLine("billed", 1, None, billed_cost_usd)
            return Price(billed_cost_usd, (line,), version="provider")
        card = self._card(
            provider, model, response_model, at, configured, base_model, base_url, service_tier
        )
        if isinstance(card, str):
            return Price(None, reason=card)
        return _apply(card, usage, model)

    def estimate(
        self,
        *,
        provider: str,
        model: str,
        input_tokens: int,
        output_tokens: int,
        at: datetime,
        cached_input_tokens: int = 0,
        configured: Sequence[ConfiguredPrice] = (),
        base_model: str | None = None,
        base_url: str | None = None,
    ) -> Decimal | None:
        """Return what a call of this size would cost, in US dollars, or None if nobody knows."""
        usage = Usage(input_tokens, output_tokens, cached_input_tokens)
        return self.price(
            usage,
            provider=provider,
            model=model,
            at=at,
            configured=configured,
            base_model=base_model,
            base_url=base_url,
        ).cost_usd

    def _card(
        self,
        provider: str,
        model: str,
        response_model: str | None,
        at: datetime,
        configured: Sequence[ConfiguredPrice],
        base_model: str | None,
        base_url: str | None,
        service_tier: str | None,
    ) -> _Card | str:
        for price in configured:
            if (price.effective_from is None or price.effective_from <= at) and (
                price.effective_until is None or at < price.effective_until
            ):
                return _configured_card(price)
        if provider in _FREE:
            return _LOCAL
        # Some prices change at a minute of the day; none changes within one.
        minute = int(at.timestamp()) // 60
        key = (provider, model, response_model, base_model, base_url, service_tier, minute)
        card = self._cards.get(key)
        if card is None:
            if len(self._cards) > 4096:
                self._cards.clear()
            card = self._cards[key] = _looked_up(
                provider, model, response_model, at, base_model, base_url, service_tier
            )
        return card


_LOCAL = _Card({kind: _Rate(Decimal(0)) for kind, _, _ in _KINDS}, "local")


def _apply(card: _Card, usage: Usage, model: str) -> Price:
    lines: list[PriceLine] = []
    total = Decimal(0)
    for kind, quantity in _quantities(usage):
        rate = card.rates.get(kind)
        if rate is None:
            return Price(
                None,
                version=card.version,
                reason=f"no price is known for {kind} tokens of {model}: {_SETTLE_IN_YAML}",
            )
        per_million = rate.at(usage.input_tokens)
        cost = per_million * quantity / _MILLION
        lines.append(PriceLine(kind, quantity, per_million, cost))
        total += cost
    fees: Decimal | None = None
    charged = [("request", 1, card.per_request_usd)] if card.per_request_usd else []
    if usage.web_searches:
        if card.per_web_search_usd is None and card.version != "local":
            return Price(
                None,
                version=card.version,
                reason=f"{model} made {usage.web_searches} web searches, and no fee for them is "
                f"known; the tokens alone come to ${total}",
            )
        charged.append(("web_search", usage.web_searches, card.per_web_search_usd or Decimal(0)))
    for kind, quantity, each in charged:
        cost = each * quantity
        lines.append(PriceLine(kind, quantity, None, cost))
        fees = cost if fees is None else fees + cost
        total += cost
    return Price(total, tuple(lines), fees, card.version)


def _quantities(u: Usage) -> Iterable[tuple[str, int]]:
    """Split a usage into kinds that do not overlap. Parts that exceed their whole count in full."""
    cached_text = max(0, u.cached_input_tokens - u.cached_audio_tokens)
    fresh_audio = max(0, u.input_audio_tokens - u.cached_audio_tokens)
    plain = u.input_tokens - u.cached_input_tokens - u.cache_write_tokens - fresh_audio
    short_write = u.cache_write_tokens - u.cache_write_1h_tokens
    written = u.output_tokens - u.reasoning_tokens - u.output_audio_tokens
    if plain > 0:
        yield "input", plain
    if cached_text > 0:
        yield "cached_input", cached_text
    if short_write > 0:
        yield "cache_write", short_write
    if u.cache_write_1h_tokens > 0:
        yield "cache_write_1h", u.cache_write_1h_tokens
    if fresh_audio > 0:
        yield "input_audio", fresh_audio
    if u.cached_audio_tokens > 0:
        yield "cached_audio", u.cached_audio_tokens
    if written > 0:
        yield "output", written
    if u.reasoning_tokens > 0:
        yield "reasoning", u.reasoning_tokens
    if u.output_audio_tokens > 0:
        yield "output_audio", u.output_audio_tokens


def _configured_card(price: ConfiguredPrice) -> _Card:
    stated = {
        "input": price.input_token_cost,
        "output": price.output_token_cost,
        "cached_input": price.cached_input_token_cost,
        "cache_write": price.cache_write_token_cost,
        "reasoning": price.reasoning_token_cost,
    }
    return _Card(
        _with_fallbacks({k: _Rate(v * _THOUSAND) for k, v in stated.items() if v is not None}),
        "config",
    )


def _with_fallbacks(rates: dict[str, _Rate]) -> dict[str, _Rate]:
    for kind, _, general in _KINDS:
        if kind not in rates and general in rates:
            rates[kind] = rates[general]
    return rates


def _looked_up(
    provider: str,
    model: str,
    response_model: str | None,
    at: datetime,
    base_model: str | None,
    base_url: str | None,
    service_tier: str | None,
) -> _Card | str:
    """Find a model's prices in genai-prices, or say why there are none."""
    from genai_prices import __version__
    from genai_prices.data_snapshot import get_snapshot

    snapshot = get_snapshot()
    provider_id: str | None = _REPLAYED.get(model, provider) if provider == "replay" else provider
    if base_model is not None and "/" in base_model:
        owner, _, rest = base_model.partition("/")
        if any(p.id == owner for p in snapshot.providers):
            provider_id, base_model, base_url = owner, rest, None
    if base_url is not None and provider != "azure":
        try:
            found = snapshot.find_provider(None, None, base_url)
        except LookupError:
            if base_model is None:
                return (
                    f"nobody knows the prices of {model} at this base_url: {_SETTLE_IN_YAML}, or "
                    f"name the model that it passes on to as base_model"
                )
        else:
            provider_id = found.id
    names = [base_model] if base_model else [response_model, model]
    for name in dict.fromkeys(n for n in names if n):
        try:
            owner_found, info = snapshot.find_provider_model(name, None, provider_id, None)
        except LookupError:
            continue
        tier = _context(service_tier)
        of_its_own = any(info is known for known in owner_found.models)
        prices = info.get_prices(at, tier if of_its_own else None)
        return _table_card(prices, f"genai-prices {__version__}")
    asked = " or ".join(repr(n) for n in dict.fromkeys(n for n in names if n))
    hint = "name the model behind the deployment as base_model" if provider == "azure" else None
    return f"genai-prices knows no {asked} of {provider_id}: {hint or _SETTLE_IN_YAML}"


def _context(service_tier: str | None) -> Any:
    """How genai-prices names what providers call a service tier."""
    if service_tier in (None, "", "default", "standard", "auto"):
        return None
    return {"service_tier": service_tier, "processing": service_tier}


def _table_card(prices: Any, version: str) -> _Card:
    rates = {}
    for kind, key, _ in _KINDS:
        value = getattr(prices, key, None)
        if isinstance(value, Decimal):
            rates[kind] = _Rate(value)
        elif value is not None:
            tiers = tuple(sorted((tier.start, tier.price) for tier in value.tiers))
            rates[kind] = _Rate(value.base, tiers)
    return _Card(
        _with_fallbacks(rates),
        version,
        per_request_usd=_each(prices, "requests_kcount"),
        per_web_search_usd=_each(prices, "web_searches_kcount"),
    )


def _each(prices: Any, key: str) -> Decimal | None:
    value = prices.__dict__.get(key)
    return value / _THOUSAND if isinstance(value, Decimal) else None
