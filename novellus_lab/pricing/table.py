"""genai-prices as a source of `Tariff`s: which of its entries is meant, and what it says at a time.

Its own `calc_price` resolves a model's prices anew on each call (51 µs); here a model is resolved
once and its tariff is kept for as long as the same prices hold (6 µs a call). The library, its data
and what it imports (httpx, pydantic) are loaded with the first question.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from threading import Lock
from typing import TYPE_CHECKING, Any

from novellus_lab.pricing.rates import ZERO, Rates, Tariff

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping
    from decimal import Decimal

    from genai_prices.data_snapshot import DataSnapshot
    from genai_prices.types import ModelInfo, ModelPrice, Provider

_MODELS_KEPT = 4096
"""Far more than any installation has; a bound for names that come from outside."""
_TARIFFS_KEPT = 64
"""For each model: a tier or two, a day, or the minutes of an hour."""

_PRICE_KEYS = {
    "input": "input_mtok",
    "cached_input": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
    "cache_write_1h": "cache_write_1h_mtok",
    "input_audio": "input_audio_mtok",
    "cached_audio": "cache_audio_read_mtok",
    "output": "output_mtok",
    "reasoning": "output_reasoning_mtok",
    "output_audio": "output_audio_mtok",
    "output_image": "output_image_mtok",
    "web_search": "web_searches_kcount",
    "request": "requests_kcount",
}

_HOSTS = (
    (re.compile(r"https?://api\.together\.ai(?:[:/]|$)"), "together"),
    (re.compile(r"https?://api\.studio\.nebius\.(?:ai|com)(?:[:/]|$)"), "huggingface_nebius"),
)
"""Addresses that the table does not know, of providers that it does."""

_STANDARD_TIERS = frozenset({"", "auto", "default", "standard", "on_demand", "standard_only"})
_DATED = re.compile(r"-20\d\d-[01]\d-[0-3]\d$")


class Entry:
    """A model in the table, with the provider whose price list it stands on."""

    __slots__ = ("_grain", "_model", "_provider", "_tariffs", "name", "version")

    def __init__(self, provider: Provider, model: ModelInfo, version: str) -> None:
        self._provider, self._model = provider, model
        self.name = f"{provider.id}/{model.id}"
        self.version = version
        self._grain = _grain(model)
        self._tariffs: dict[Hashable, Tariff | None] = {}

    def tariff(self, at: datetime, tier: str | None) -> Tariff | None:
        """Return the tariff at a moment, or None where it has none for this service tier."""
        tier = (tier or "").lower()
        key = (tier, self._grain and _moment(at, self._grain))
        try:
            return self._tariffs[key]
        except KeyError:
            pass
        found = self._resolve(_utc(at), tier)
        if len(self._tariffs) >= _TARIFFS_KEPT:
            self._tariffs.clear()
        self._tariffs[key] = found
        return found

    def _resolve(self, at: datetime, tier: str) -> Tariff | None:
        context = _context(self._provider.id, tier)
        if context and not self._has_variant(context, at):
            return None  # priced otherwise, at a price that nobody wrote down
        return _tariff(self._model.id, self._model.get_prices(at, context))

    def _has_variant(self, context: Mapping[str, str], at: datetime) -> bool:
        if not any(self._model is model for model in self._provider.models):
            return False  # the entry of another provider (Azure borrows OpenAI's): not its tiers
        return any(
            all(context.get(key) == value for key, value in variant.when.items())
            and (variant.constraint is None or variant.constraint.active(at))
            for variant in self._model.price_variants or ()
        )


class PriceTable:
    """Finds entries. Safe to share among threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._snapshot: DataSnapshot | None = None
        self._version = ""
        self._found: dict[Hashable, Entry | str] = {}
        self._current: Any = None

    def find(
        self,
        provider: str,
        model: str,
        response_model: str | None = None,
        base_model: str | None = None,
        base_url: str | None = None,
    ) -> Entry | str:
        """Return the entry by which a model is priced, or a sentence that says why there is none."""
        snapshot = self._loaded()
        key = (provider, model, response_model, base_model, base_url)
        found = self._found.get(key)
        if found is None:
            found = self._search(snapshot, provider, model, response_model, base_model, base_url)
            if len(self._found) >= _MODELS_KEPT:
                self._found.clear()
            self._found[key] = found
        return found

    def maker(self, model: str) -> str | None:
        """Return the provider whose models have names like this; None if there is none."""
        found = _maker(self._loaded(), model)
        return None if found is None else found.id

    def _loaded(self) -> DataSnapshot:
        if self._current is None:
            from genai_prices.data_snapshot import get_snapshot

            self._current = get_snapshot
        snapshot: DataSnapshot = self._current()
        if snapshot is not self._snapshot:  # the first time, or the user has updated the prices
            with self._lock:
                if snapshot is not self._snapshot:
                    self._found = {}
                    self._version = _version(snapshot)
                    self._snapshot = snapshot
        return snapshot

    def _search(
        self,
        snapshot: DataSnapshot,
        provider: str,
        model: str,
        response_model: str | None,
        base_model: str | None,
        base_url: str | None,
    ) -> Entry | str:
        home = _home(snapshot, provider, base_url)
        if base_model is not None:
            if found := _by_base_model(snapshot, home, base_model):
                return Entry(*found, self._version)
            return f"{self._version} has no price for base_model {base_model!r} of {model!r}"
        if provider == "replay":
            home = _maker(snapshot, model)
        elif home is None:
            home = _behind_gateway(snapshot, provider, model, response_model)
        if home is None:
            if base_url is not None:
                return (
                    f"{base_url_host(base_url)} is none of the servers whose prices are known, so "
                    f"{model!r} has no price there"
                )
            return f"{self._version} has no price list of provider {provider!r}"
        names = [response_model, model]
        if provider == "azure":
            names = [response_model]  # the deployment's name is anybody's choice
        for name in names:
            if name and (entry := home.find_model(_bare(name), all_providers=snapshot.providers)):
                return Entry(home, entry, self._version)
        if provider == "azure" and not response_model:
            return f"what model the Azure deployment {model!r} is was not said: set its base_model"
        return f"{self._version} has no price for {home.id} model {response_model or model!r}"


def base_url_host(base_url: str) -> str:
    """Return the host and port of an address; a key in its user part or query is left out."""
    rest = base_url.partition("://")[2] or base_url
    return re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[2]


def _home(snapshot: DataSnapshot, provider: str, base_url: str | None) -> Provider | None:
    """Return whose price list holds: whoever stands at the address, else the provider itself."""
    by_id = {entry.id: entry for entry in snapshot.providers}
    if provider == "replay":
        return None
    if base_url is not None and provider != "azure":
        for pattern, name in _HOSTS:
            if pattern.match(base_url):
                return by_id.get(name)
        for entry in snapshot.providers:
            found = re.match(entry.api_pattern, base_url)
            if found and _ends_host(base_url, found.end()):
                return entry
        return None
    return by_id.get({"xai": "x-ai", "gemini": "google", "bedrock": "aws"}.get(provider, provider))


def _ends_host(url: str, end: int) -> bool:
    """Whether a match did not stop in the middle of a host name (api.openai.com.example.org)."""
    return end >= len(url) or url[end] in ":/?#" or url[end - 1] in "./"


def _maker(snapshot: DataSnapshot, model: str) -> Provider | None:
    """Return who made a model, by its name: gpt-4 is OpenAI's, mixtral Mistral's."""
    try:
        return snapshot.find_provider(_bare(model), None, None)
    except LookupError:
        return None


def _behind_gateway(
    snapshot: DataSnapshot, provider: str, model: str, response_model: str | None
) -> Provider | None:
    """Return whose model answers at an address that nobody knows, where there can be no doubt.

    A name proves little: vLLM, llama.cpp and LM Studio answer to `gpt-4o` if told to. But they
    repeat the name that they were asked for; only the maker's own service answers to `gpt-4o` as
    `gpt-4o-2024-08-06`. Servers that speak Gemini's or Anthropic's own API under a name of their
    closed models are gateways to them.
    """
    maker = next((entry for entry in snapshot.providers if entry.id == provider), None)
    if maker is None or maker.model_match is None or not maker.model_match.is_match(model):
        return None
    if provider in ("anthropic", "google"):
        return maker
    if provider == "openai" and response_model is not None:
        named, dated = _bare(model), _bare(response_model)
        if dated.startswith(named) and _DATED.search(dated) and not _DATED.search(named):
            return maker
    return None


def _by_base_model(
    snapshot: DataSnapshot, home: Provider | None, base_model: str
) -> tuple[Provider, ModelInfo] | None:
    name = _bare(base_model)
    if home is not None and (model := home.find_model(name, all_providers=snapshot.providers)):
        return home, model
    prefix, slash, rest = base_model.partition("/")
    if slash:
        named = next((entry for entry in snapshot.providers if entry.id == prefix.lower()), None)
        if named and (model := named.find_model(rest, all_providers=snapshot.providers)):
            return named, model
    maker = _maker(snapshot, name)
    if maker and (model := maker.find_model(name, all_providers=snapshot.providers)):
        return maker, model
    return None


def _bare(name: str) -> str:
    """Strip Google's resource path: `models/gemini-2.5-pro`."""
    return name.rpartition("models/")[2] if "models/" in name else name


def _context(provider: str, tier: str) -> dict[str, str] | None:
    """Return the table's word for a service tier; None for the standard one."""
    if tier in _STANDARD_TIERS:
        return None
    if tier == "batch":
        return {"processing": "batch"}
    if provider == "anthropic" and tier == "fast":
        return {"speed": "fast"}
    if provider == "groq" and tier == "flex":
        return None  # "the same price as on-demand", console.groq.com/docs/flex-processing
    return {"service_tier": tier}


def _grain(model: ModelInfo) -> str:
    """How often a model's price can change: never (""), at midnight UTC, by the minute, anytime."""
    from genai_prices.types import TimeOfDateConstraint

    prices = model.prices if isinstance(model.prices, list) else ()
    dated = [*prices, *(model.price_variants or ())]
    limits = [entry.constraint for entry in dated if entry.constraint is not None]
    if not limits:
        return ""
    grain = "day"
    for limit in limits:
        if isinstance(limit, TimeOfDateConstraint):
            if limit.start_time.second or limit.end_time.second:
                return "any"
            grain = "minute"
    return grain


def _moment(at: datetime, grain: str) -> Hashable:
    utc = _utc(at)
    if grain == "day":
        return utc.toordinal()
    return utc.replace(second=0, microsecond=0) if grain == "minute" else utc


def _utc(at: datetime) -> datetime:
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def _tariff(model_id: str, prices: ModelPrice) -> Tariff:
    from genai_prices.types import TieredPrices

    stated: dict[str, Any] = {
        name: value
        for name, key in _PRICE_KEYS.items()
        if (value := prices.__dict__.get(key)) is not None
    }
    if not stated and model_id.endswith(":free"):
        return Tariff(Rates(input=ZERO, output=ZERO))
    thresholds = sorted(
        {
            t.start
            for value in stated.values()
            if isinstance(value, TieredPrices)
            for t in value.tiers
        }
    )

    def rates(tokens: int) -> Rates:
        found: dict[str, Decimal] = {}
        for name, value in stated.items():
            price = value
            if isinstance(value, TieredPrices):
                price = value.base
                for tier in value.tiers:
                    if tokens > tier.start:
                        price = tier.price
            found[name] = price * 1000 if name in ("web_search", "request") else price
        return Rates(**found)

    return Tariff(rates(0), {start: rates(start + 1) for start in thresholds})


def _version(snapshot: DataSnapshot) -> str:
    import genai_prices

    updated = f", updated {snapshot.timestamp:%Y-%m-%d}" if snapshot.from_auto_update else ""
    return f"genai-prices {genai_prices.__version__}{updated}"
