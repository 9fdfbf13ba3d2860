"""Whose word counts: the bill, the configuration, the price table, in this order.

The bill goes first. It is not a price but what the money was: it knows the host that OpenRouter
chose, the tier that was granted, the discount and the fees, and the log has to agree with the
invoice in the end. A price in the YAML for a model that also sends bills still serves to estimate
before the call, and prices the calls that got no bill (abandoned streams).

Next the YAML: somebody wrote it for this model on purpose. The table comes last, for everybody.
Whatever none of them knows has no price: `cost_usd` is None and `reason` says what to do.
"""

from __future__ import annotations

from datetime import UTC
from decimal import Decimal
from typing import TYPE_CHECKING

from novellus_lab.pricing.rates import EXACT, ZERO, Rates, Tariff
from novellus_lab.pricing.table import Entry, PriceTable
from novellus_lab.types import Price, PriceLine, Usage

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from novellus_lab.settings import ConfiguredPrice

_ADVICE = (
    "set input_token_cost and output_token_cost of this model in the YAML (USD per 1,000 tokens; 0 "
    "for a server of your own), or base_model to price it as a known one"
)
BATCH = "batch"
"""The service tier of what went through a provider's batch API."""
_HALF = Decimal("0.5")
_HALF_IN_BATCH = ("openai", "anthropic", "azure")
"""Providers that document half of the standard token prices for their batch API, whatever the
model: https://developers.openai.com/api/docs/guides/batch,
https://platform.claude.com/docs/en/build-with-claude/batch-processing (cache reads and writes too),
https://learn.microsoft.com/azure/ai-foundry/openai/how-to/batch."""
_LOCAL = Price(cost_usd=ZERO, fees_usd=ZERO, version="local")


class PriceBook:
    """Prices calls. One per process is enough; threads may share it. Never goes to the network."""

    def __init__(self) -> None:
        self._table = PriceTable()
        self._configured: dict[ConfiguredPrice, tuple[Rates, Tariff]] = {}

    def preload(self) -> None:
        """Load the price table now (about 0.3 s), not with the first call that needs it."""
        self._table.find("openai", "gpt-4o")

    def maker(self, model: str) -> str | None:
        """Return the provider whose models have names like this: `openai` for `gpt-4o`."""
        return self._table.maker(model)

    def price(
        self,
        usage: Usage,
        *,
        provider: str,
        model: str,
        response_model: str | None = None,
        at: datetime,
        configured: Sequence[ConfiguredPrice] = (),
        base_model: str | None = None,
        base_url: str | None = None,
        service_tier: str | None = None,
        billed_cost_usd: Decimal | None = None,
        fees_usd: Decimal | None = None,
    ) -> Price:
        """Price what a call used. The lines of a known price add up to it exactly.

        Args:
            response_model: the model that the provider says has answered; more exact than the one
                that was asked for, and all there is to go by for an Azure deployment.
            at: when the request was made; prices are those of that moment.
            configured: the YAML's prices of this model, in US dollars per 1,000 tokens; the first
                whose dates hold counts.
            base_model: what the model really is: prices go by it.
            base_url: where the request went, if not to the provider's own address.
            service_tier: as the provider reports it (`flex`, `priority`, `batch`, …).
            billed_cost_usd: what the provider says it charged for this call, everything included.
            fees_usd: charges beside tokens, where the caller knows them. They take the place of
                the price list's fees, and are taken to be included in `billed_cost_usd`.
        """
        if billed_cost_usd is not None and billed_cost_usd.is_finite() and billed_cost_usd >= 0:
            return _billed(billed_cost_usd, fees_usd)
        place = (provider, model, response_model, base_model, base_url)
        with_fees = fees_usd is None
        stated = _in_force(configured, at) if configured else None
        discount = None if stated is None else stated.batch_discount
        if stated is not None and not stated.states_a_price:
            stated = None
        if stated is not None:
            own, tariff, version = *self._own(stated), "config"
            if service_tier == BATCH:
                share = _batch_share(discount, provider, base_url)
                if share is None:
                    return _no_batch_price("config", f"{provider} model {model!r}")
                own, tariff, version = own.scaled(share), tariff.scaled(share), "config, batch"
            if tariff.bill(usage, with_fees=with_fees)[3] is not None:  # it says only a part
                entry = self._table.find(*place)
                below = (
                    _listed(entry, at, service_tier, discount, provider, base_url)
                    if isinstance(entry, Entry)
                    else None
                )
                if below is not None and isinstance(entry, Entry):
                    tariff, version = below.under(own), f"config, {entry.version}"
        elif provider == "ollama" and not _in_ollamas_cloud(model, base_url):
            return _LOCAL
        elif provider == "ollama" and base_model is None:
            why = (
                f"{model!r} is answered by Ollama's cloud, whose prices by the token are not known"
            )
            return Price(cost_usd=None, reason=f"{why}; {_ADVICE}")
        else:
            entry = self._table.find(*place)
            if isinstance(entry, str):
                return Price(cost_usd=None, reason=f"{entry}; {_ADVICE}")
            version = entry.version
            found = _listed(entry, at, service_tier, discount, provider, base_url)
            if found is None and service_tier == BATCH:
                return _no_batch_price(version, entry.name)
            if found is None:
                why = f"{version} has no {service_tier!r} price for {entry.name} at that time"
                return Price(cost_usd=None, version=version, reason=f"{why}; {_ADVICE}")
            tariff = found
            if service_tier == BATCH:
                version += ", batch"
        total, lines, fees, missing = tariff.bill(usage, with_fees=with_fees)
        if missing is not None:
            what = f"{missing} of {provider} model {model!r} has no known price"
            known = f"the rest comes to {total:f} USD"
            advice = "" if missing == "web_search" else f"; {_ADVICE}"
            return Price(cost_usd=None, version=version, reason=f"{what} ({known}){advice}")
        if fees_usd is not None:
            fees = fees_usd
            total = EXACT.add(total, fees)
            if fees:
                lines = (*lines, PriceLine("fees", 1, None, fees))
        return Price(cost_usd=total, lines=lines, fees_usd=fees, version=version)

    def together(self, prices: Sequence[Price]) -> Price:
        """Add up the prices of what several models did in one call. Unknown if one of them is."""
        unknown = next((price for price in prices if price.cost_usd is None), None)
        if unknown is not None:
            return Price(cost_usd=None, version=unknown.version, reason=unknown.reason)
        total = fees = ZERO
        for price in prices:
            total = EXACT.add(total, price.cost_usd or ZERO)
            fees = EXACT.add(fees, price.fees_usd or ZERO)
        return Price(
            cost_usd=total,
            lines=tuple(line for price in prices for line in price.lines),
            fees_usd=fees,
            version=", ".join(dict.fromkeys(price.version for price in prices)),
        )

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
        if provider == "azure" and base_model is None:
            # Before the call only the deployment's name is known: often enough the model's.
            base_model = model
        return self.price(
            Usage(
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                cached_input_tokens=cached_input_tokens,
            ),
            provider=provider,
            model=model,
            at=at,
            configured=configured,
            base_model=base_model,
            base_url=base_url,
            service_tier=service_tier,
        ).cost_usd

    def _own(self, stated: ConfiguredPrice) -> tuple[Rates, Tariff]:
        found = self._configured.get(stated)
        if found is None:
            rates = Rates(
                input=_per_million(stated.input_token_cost),
                cached_input=_per_million(stated.cached_input_token_cost),
                cache_write=_per_million(stated.cache_write_token_cost),
                output=_per_million(stated.output_token_cost),
                reasoning=_per_million(stated.reasoning_token_cost),
            )
            found = self._configured[stated] = (rates, Tariff(rates))
        return found


def _listed(
    entry: Entry,
    at: datetime,
    tier: str | None,
    discount: Decimal | None,
    provider: str,
    base_url: str | None,
) -> Tariff | None:
    """Return what the table says; of a batch without a price of its own there, the documented half."""
    if tier != BATCH or discount is None:
        found = entry.tariff(at, tier)
        if found is not None or tier != BATCH:
            return found
    standard = entry.tariff(at, None)
    share = _batch_share(discount, provider, base_url)
    return None if standard is None or share is None else standard.scaled(share)


def _batch_share(discount: Decimal | None, provider: str, base_url: str | None) -> Decimal | None:
    """Return what a batch costs of the standard price (0 to 1); None: nobody says."""
    if discount is not None:
        return 1 - discount
    own = base_url is None or provider == "azure" or _own_address(base_url)
    return _HALF if own and provider in _HALF_IN_BATCH else None


def _own_address(base_url: str) -> bool:
    host = base_url.partition("://")[2].partition("/")[0].partition(":")[0]
    return host.endswith((".openai.com", ".anthropic.com"))


def _no_batch_price(version: str, what: str) -> Price:
    return Price(
        cost_usd=None,
        version=version,
        reason=f"what {what} costs in a batch is not known: set batch_discount of this model in the "
        f"YAML (0.5: half of its token prices)",
    )


def _billed(billed: Decimal, fees: Decimal | None) -> Price:
    if fees is None or not 0 < fees <= billed:
        line = PriceLine("billed", 1, None, billed)
        return Price(cost_usd=billed, lines=(line,), fees_usd=fees, version="provider")
    lines = (
        PriceLine("billed", 1, None, EXACT.subtract(billed, fees)),
        PriceLine("fees", 1, None, fees),
    )
    return Price(cost_usd=billed, lines=lines, fees_usd=fees, version="provider")


def _in_force(configured: Sequence[ConfiguredPrice], at: datetime) -> ConfiguredPrice | None:
    """Return the first price whose dates hold (from inclusive, until exclusive)."""
    moment = _utc(at)
    for stated in configured:
        if stated.effective_from is not None and moment < _utc(stated.effective_from):
            continue
        if stated.effective_until is not None and moment >= _utc(stated.effective_until):
            continue
        return stated
    return None


def _utc(at: datetime) -> datetime:
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def _per_million(per_thousand: Decimal | None) -> Decimal | None:
    return None if per_thousand is None else EXACT.multiply(per_thousand, 1000)


def _in_ollamas_cloud(model: str, base_url: str | None) -> bool:
    """Whether Ollama's own machines answer, under a subscription: that is not free."""
    host = (base_url or "").partition("://")[2].partition("/")[0].partition(":")[0]
    return host in ("ollama.com", "www.ollama.com") or model.endswith(("-cloud", ":cloud"))
