"""Which providers exist: those of this package, and those that others register.

A package adds one with an entry point in the group `novellus_lab.providers`:

```toml
[project.entry-points."novellus_lab.providers"]
acme = "acme_llm.provider:AcmeProvider"
```
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from novellus_lab.errors import ConfigurationError, did_you_mean
from novellus_lab.providers.base import Provider

GROUP = "novellus_lab.providers"

# Static as well, so that a source tree that was never installed works; never overridden.
_BUILT_IN = {
    "openai": "novellus_lab.providers.openai:OpenAIProvider",
    "azure": "novellus_lab.providers.azure:AzureOpenAIProvider",
    "anthropic": "novellus_lab.providers.anthropic:AnthropicProvider",
    "ollama": "novellus_lab.providers.ollama:OllamaProvider",
    "google": "novellus_lab.providers.google:GoogleProvider",
    "replay": "novellus_lab.providers.replay:ReplayProvider",
}


def known_providers() -> list[str]:
    """Return the names of all providers, built in and registered, without loading any."""
    return sorted({*_BUILT_IN, *(point.name for point in entry_points(group=GROUP))})


@cache
def load_provider_class(name: str) -> type[Provider]:
    """Return a provider's class.

    Raises:
        ConfigurationError: no such provider (with near matches), or a registered one that can't
            be loaded (naming its distribution).
    """
    if name in _BUILT_IN:
        module, _, attribute = _BUILT_IN[name].partition(":")
        cls: type[Provider] = getattr(import_module(module), attribute)
        return cls
    for point in entry_points(group=GROUP):
        if point.name == name:
            return _load(point)
    raise ConfigurationError(
        f"there is no provider {name!r}. {did_you_mean(name, known_providers())} An OpenAI-compatible "
        f"server needs none of its own: use `provider: openai` with its `base_url`."
    )


def _load(point: EntryPoint) -> type[Provider]:
    owner = point.dist.name if point.dist is not None else "an unknown distribution"
    try:
        loaded = point.load()
    except Exception as error:
        raise ConfigurationError(
            f"provider {point.name!r} of {owner} can't be loaded from {point.value}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not (isinstance(loaded, type) and issubclass(loaded, Provider)):
        raise ConfigurationError(
            f"provider {point.name!r} of {owner}: {point.value} is no subclass of "
            f"novellus_lab.providers.base.Provider"
        )
    return loaded
