"""From an imported call to its record in the log: id, price, content."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import orjson

from novellus_lab.records import RequestRecord
from novellus_lab.store.storable import storable_json
from novellus_lab.types import Attempt, CacheOutcome, Price, Status, Usage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from novellus_lab.analytics.imports.calls import ImportedCall
    from novellus_lab.pipeline.catalog import PricedAs
    from novellus_lab.pipeline.recording import ContentPolicy
    from novellus_lab.pricing import PriceBook

_NO_PRICE_ASKED = "its source states no cost: import with --price to look one up"
_NO_USAGE = "its source states neither cost nor usage"


class CallRecords:
    """Makes records of calls.

    Args:
        source: the format's name: part of ids, and the tag `imported_from`.
        prices: the book.
        look_up: whether calls without a cost are priced by it, at the prices of their day.
        known: how configured models are priced, by id; their ids are ours, too.
        content: what of a conversation may be logged here.
    """

    def __init__(
        self,
        source: str,
        prices: PriceBook,
        *,
        look_up: bool,
        known: Mapping[str, PricedAs],
        content: ContentPolicy,
    ) -> None:
        self._source = source
        self._prices = prices
        self._look_up = look_up
        self._known = known
        self._content = content
        self._named: dict[tuple[str, str], str] = {}
        self._makers: dict[str, str] = {}

    def record(self, call: ImportedCall) -> RequestRecord:
        """Return the record, with the one attempt that it stands for; none for a hit of a cache."""
        provider = self._provider(call)
        model = self._model(call, provider)
        price = self._price(call, provider, model, look_up=self._look_up)
        request_id = call.id or stable_id(call.created_at, self._source, call.key)
        raw_usage = _with_floats(call.raw_usage)
        hit = call.cache.hit
        sent = not hit and call.status is not Status.REFUSED
        content = self._content
        uncached = call.uncached_cost_usd
        if uncached is None:
            uncached = price.cost_usd
            if hit:
                asked = replace(call, cost_usd=None, cache=CacheOutcome.MISS)
                uncached = self._price(asked, provider, model, look_up=self._look_up).cost_usd
        record = RequestRecord(
            id=request_id,
            created_at=call.created_at,
            kind=call.kind,
            stream=call.stream,
            status=call.status,
            error_class=call.error_class,
            error_message=content.error_text(call.error_message),
            requested_model=content.label(call.requested_model),
            model=content.label(model or call.requested_model),
            provider=content.label(provider),
            response_model=call.response_model,
            cache=call.cache,
            usage=call.usage,
            raw_usage=raw_usage,
            price_version=price.version or None,
            cost_usd=price.cost_usd,
            fees_usd=price.fees_usd,
            uncached_cost_usd=uncached,
            latency_ms=call.latency_ms,
            ttft_ms=call.ttft_ms,
            overhead_ms=call.overhead_ms,
            tags=content.labels(_with_floats({**call.tags, "imported_from": self._source})),
            session_id=content.label(call.session_id),
            params=content.labels(_with_floats(call.params)),
            finish_reason=call.finish_reason,
            messages=self._conversation(call.messages),
            response=content.text(call.response),
            tool_calls=self._conversation(call.tool_calls),
        )
        for name, value in call.others.items():
            if isinstance(value, list):
                value = _with_floats(value)
            setattr(record, name, content.label(value) if isinstance(value, str) else value)
        if sent:
            record.attempts = (self._attempt(call, record, price),)
        return record

    def look_up(self, call: ImportedCall) -> Price:
        """Return what the call would cost by the book, whatever its source says."""
        provider = self._provider(call)
        model = self._model(call, provider)
        return self._price(replace(call, cost_usd=None), provider, model, look_up=True)

    def _attempt(self, call: ImportedCall, record: RequestRecord, price: Price) -> Attempt:
        latency = record.provider_ms if record.provider_ms is not None else call.latency_ms
        return Attempt(
            id=stable_id(call.created_at, "attempt", str(record.id)),
            number=1,
            role="primary",
            model_id=record.model or "unknown",
            provider=record.provider or "unknown",
            started_at=call.created_at,
            status=call.status,
            latency_ms=float("nan") if latency is None else latency,
            price=price,
            usage=call.usage or Usage(),
            raw_usage=record.raw_usage,
            response_model=call.response_model,
            ttft_ms=call.ttft_ms,
            error_class=call.error_class,
            error_message=record.error_message,
            status_code=call.status_code,
            response_id=call.response_id,
        )

    def _price(
        self, call: ImportedCall, provider: str | None, model: str | None, *, look_up: bool
    ) -> Price:
        if call.cost_usd is not None:
            fees = call.others.get("fees_usd")
            return Price(call.cost_usd, fees_usd=fees, version=call.price_version)
        if call.usage is None or model is None:
            return Price(None, reason=_NO_USAGE)
        if not look_up:
            return Price(None, reason=call.unpriced_reason or _NO_PRICE_ASKED)
        bare = call.model or model
        priced_as: Any = self._known.get(model) or {
            "provider": provider or "unknown",
            "model": bare,
            "base_model": call.base_model,
        }
        return self._prices.price(
            call.usage,
            **priced_as,
            response_model=call.response_model,
            at=call.created_at,
            service_tier=call.service_tier,
        )

    def _provider(self, call: ImportedCall) -> str | None:
        """Return the provider; where the source does not say, whoever makes models of that name."""
        if call.provider is not None or call.model is None:
            return call.provider
        found = self._makers.get(call.model)
        if found is None:
            configured = self._known.get(call.model)
            found = configured["provider"] if configured else self._prices.maker(call.model) or ""
            self._makers[call.model] = found
        return found or None

    def _model(self, call: ImportedCall, provider: str | None) -> str | None:
        """Return our id of a model, where one is configured that is this one."""
        if call.model is None:
            return None
        key = (provider or "", call.model)
        if key not in self._named:
            full = f"{provider}/{call.model}"
            self._named[key] = full if full in self._known else call.model
        return self._named[key]

    def _conversation(self, value: Any) -> Any:
        if value is None or not self._content.log_content:
            return None
        try:
            coded = orjson.dumps(value, default=_number)
        except (TypeError, ValueError):
            coded = orjson.dumps(storable_json(value))
        return self._content.messages(coded)


def _number(value: Any) -> Any:
    """Return the float that JSON's reader kept as a decimal."""
    return float(value) if isinstance(value, Decimal) else str(value)


def _with_floats(value: Any) -> Any:
    """Return JSON in which no number is a decimal: only amounts of money are kept as such."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, dict):
        return {key: _with_floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_floats(item) for item in value]
    return value


def stable_id(created_at: Any, source: str, key: str) -> UUID:
    """Return a UUIDv7 of a time and a name: the same for the same, so that nothing comes in twice."""
    digest = hashlib.blake2b(
        f"{source}\0{key}".encode("utf-8", "surrogatepass"), digest_size=16
    ).digest()
    ms = int(created_at.timestamp() * 1000) & 0xFFFF_FFFF_FFFF
    rest = int.from_bytes(digest, "big") & ((1 << 80) - 1)
    rest = rest & ~(0xF << 76) | 0x7 << 76
    rest = rest & ~(0x3 << 62) | 0x2 << 62
    return UUID(int=ms << 80 | rest)
