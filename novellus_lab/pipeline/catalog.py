"""The configured models, ready to be called: who is available, who is not and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypedDict

import orjson

from novellus_lab.cache.key import scope_digest
from novellus_lab.errors import NoModelAvailableError, UnknownModelError, did_you_mean
from novellus_lab.providers.base import Provider, ProviderConfig
from novellus_lab.providers.registry import load_provider_class
from novellus_lab.types import EMPTY

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from novellus_lab.settings import ConfiguredPrice, ModelSettings, Settings

REPLAY = "replay"


class PricedAs(TypedDict):
    """What a model's prices go by: arguments of `PriceBook.price` and `estimate`."""

    provider: str
    model: str
    configured: Sequence[ConfiguredPrice]
    base_model: str | None
    base_url: str | None


@dataclass(frozen=True, slots=True)
class Model:
    """A configured model."""

    id: str
    provider: str
    settings: ModelSettings
    config: ProviderConfig
    priced_as: PricedAs
    digest: bytes
    """Who answers, with which defaults: part of the cache key."""
    unavailable: str | None
    """Why it can't be called, or None."""
    on_unsupported: Literal["error", "drop"] = "error"

    @property
    def name(self) -> str:
        """What the provider calls it."""
        return self.settings.model_name

    @property
    def weight(self) -> float:
        """Its share in the weighted lottery; 0 keeps it out of automatic pools."""
        return 1.0 if self.settings.weight is None else self.settings.weight

    @property
    def is_embedding(self) -> bool:
        return "embedding" in self.settings.capabilities


class Catalog:
    """All models of a lab. Providers are made on first use and shared by models that agree."""

    def __init__(self, settings: Settings) -> None:
        self._models = {m.id: m for m in (_model(s, settings) for s in settings.models)}
        self._providers: dict[tuple[object, ...], Provider] = {}
        self.chat_pool = self._pool()
        self._scopes: dict[tuple[str, ...], bytes] = {}

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models.values())

    @property
    def replays(self) -> bool:
        """Whether automatic routing falls back to recorded answers."""
        return bool(self.chat_pool) and all(m.provider == REPLAY for m in self.chat_pool)

    @property
    def stands_in(self) -> bool:
        """Whether that is so because no live model can be called, though some are configured."""
        chat = (m for m in self._models.values() if not m.is_embedding)
        return self.replays and any(m.provider != REPLAY for m in chat)

    def get(self, model_id: str) -> Model:
        """Return a model, available or not.

        Raises:
            UnknownModelError: with near matches.
        """
        model = self._models.get(model_id)
        if model is None:
            # Recorded answers are only given to who asks for them in full.
            matches = [
                m
                for m in self._models.values()
                if model_id == f"{m.provider}/{m.name}"
                or (model_id == m.name and m.provider != REPLAY)
            ]
            if len(matches) > 1:
                raise UnknownModelError(
                    f"{model_id!r} is offered by several providers: say "
                    + " or ".join(repr(m.id) for m in matches)
                )
            if matches:
                return matches[0]
            raise UnknownModelError(
                f"no model {model_id!r} is configured. {did_you_mean(model_id, list(self._models))} "
                f"`novellus models` lists them all; add yours to config/ai_models.yaml."
            )
        return model

    def available(self, model_id: str) -> Model:
        """Return a model that can be called.

        Raises:
            UnknownModelError: no such model.
            NoModelAvailableError: it is configured but can't be called; the message says why.
        """
        model = self.get(model_id)
        if model.unavailable is not None:
            raise NoModelAvailableError(f"{model.id} can't be used: {model.unavailable}")
        return model

    def embedding_model(self, model_id: str | None) -> Model:
        """Return the named embedding model, or the first that is available."""
        if model_id is not None:
            model = self.available(model_id)
            if not model.is_embedding:
                names = [m.id for m in self._models.values() if m.is_embedding]
                raise UnknownModelError(
                    f"{model.id} makes no embeddings; those that do: {', '.join(names) or 'none'}"
                )
            return model
        embedding = [m for m in self._models.values() if m.is_embedding]
        for model in embedding:
            if model.unavailable is None:
                return model
        raise NoModelAvailableError(
            "no embedding model can be used: "
            + ("; ".join(f"{m.id}: {m.unavailable}" for m in embedding) or "none is configured")
        )

    def provider(self, model: Model) -> Provider:
        """Return the client for a model. Must run on the loop that will make the calls."""
        config = model.config
        secret = None if config.api_key is None else config.api_key.get_secret_value()
        key = (config.provider, config.base_url, secret, _stable(config.options))
        provider = self._providers.get(key)
        if provider is None:
            provider = self._providers[key] = load_provider_class(model.provider)(config)
        return provider

    def scope(self, models: tuple[Model, ...]) -> bytes:
        """Return the cache scope of a pool (see `cache.key`)."""
        names = tuple(m.id for m in models)
        scope = self._scopes.get(names)
        if scope is None:
            scope = self._scopes[names] = scope_digest([m.digest for m in models])
        return scope

    def secrets(self) -> tuple[str, ...]:
        """Every key that is in use, so that the log can be kept free of them."""
        keys = {
            m.config.api_key.get_secret_value()
            for m in self._models.values()
            if m.config.api_key is not None
        }
        return tuple(sorted(k for k in keys if len(k) >= 8))

    async def aclose(self) -> None:
        providers = list(self._providers.values())
        self._providers.clear()
        for provider in providers:
            await provider.aclose()

    def _pool(self) -> tuple[Model, ...]:
        chat = [m for m in self._models.values() if m.unavailable is None and not m.is_embedding]
        routable = [m for m in chat if m.weight > 0]
        live = [m for m in routable if m.provider != REPLAY]
        if any(m.provider != REPLAY for m in chat):
            return tuple(live)  # a live model that only waits to be named is no reason to replay
        return tuple(routable)

    def why_empty(self) -> str:
        """Explain an empty automatic pool."""
        reasons = [
            f"{m.id}: {m.unavailable or 'weight is 0'}"
            for m in self._models.values()
            if not m.is_embedding
        ]
        return "no model is available for automatic routing: " + (
            "; ".join(reasons) or "none is configured"
        )


def _model(settings: ModelSettings, all_settings: Settings) -> Model:
    config = provider_config(settings, all_settings)
    if not settings.enabled:
        unavailable: str | None = "enabled is false in the configuration"
    else:
        unavailable = load_provider_class(settings.provider).unavailable_because(config)
    on_unsupported = settings.on_unsupported or _provider_policy(settings, all_settings)
    return Model(
        id=settings.model_id,
        provider=settings.provider,
        settings=settings,
        config=config,
        priced_as={
            "provider": settings.provider,
            "model": settings.model_name,
            "configured": settings.configured_prices,
            "base_model": settings.base_model,
            "base_url": config.base_url,
        },
        digest=_digest(settings, config, on_unsupported),
        unavailable=unavailable,
        on_unsupported=on_unsupported,
    )


def _provider_policy(settings: ModelSettings, all_settings: Settings) -> Literal["error", "drop"]:
    provider = all_settings.providers.get(settings.provider)
    return (provider and provider.on_unsupported) or "error"


def provider_config(settings: ModelSettings, all_settings: Settings) -> ProviderConfig:
    """Merge a model's own connection settings with those of its provider."""
    provider = all_settings.providers.get(settings.provider)
    options: Mapping[str, object] = EMPTY if provider is None else provider.options
    env = settings.api_key_env or (None if provider is None else provider.api_key_env)
    base_url = settings.base_url or (None if provider is None else provider.base_url)
    cls = load_provider_class(settings.provider)
    # A key goes nowhere but to its own provider, unless the configuration names it for an address.
    elsewhere = base_url is not None and not cls.own_endpoints
    names = (env,) if env else () if elsewhere else cls.api_key_envs
    return ProviderConfig(
        provider=settings.provider,
        api_key=all_settings.api_key(names),
        api_key_env=env,
        base_url=base_url or all_settings.base_url(settings.provider),
        max_connections=256 if provider is None else provider.max_connections,
        options=options,
    )


def _digest(settings: ModelSettings, config: ProviderConfig, on_unsupported: str) -> bytes:
    return orjson.dumps(
        {
            "provider": settings.provider,
            "model": settings.model_name,
            "base_url": config.base_url,
            "base_model": settings.base_model,
            "max_tokens": settings.max_tokens,
            "temperature": settings.temperature,
            "params": dict(settings.params),
            "options": dict(config.options),
            "on_unsupported": on_unsupported,
        },
        option=orjson.OPT_SORT_KEYS,
        default=str,
    )


def _stable(options: Mapping[str, object]) -> bytes:
    return orjson.dumps(dict(options), option=orjson.OPT_SORT_KEYS, default=str)
