"""Configuration: the YAML, the environment and `.env`, checked and frozen.

`load_settings()` finds and reads it; every mistake is named with its file, line, key, value and what
is allowed, all of them at once. `docs/configuration.md` describes each key.

Plain pydantic does this: pydantic-settings would add 80 ms to a lab's start and can't name lines.
"""

from __future__ import annotations

from novellus_lab.settings.load import load_settings
from novellus_lab.settings.schema import (
    CAPABILITIES,
    BudgetSettings,
    CacheSettings,
    ConditionSettings,
    ConfiguredPrice,
    HedgingSettings,
    LoadBalancingSettings,
    LoggingSettings,
    ModelSettings,
    PriceSettings,
    ProviderSettings,
    RetrySettings,
    RuleSettings,
    SemanticCacheSettings,
    Settings,
    ShadowSettings,
)

__all__ = [
    "CAPABILITIES",
    "BudgetSettings",
    "CacheSettings",
    "ConditionSettings",
    "ConfiguredPrice",
    "HedgingSettings",
    "LoadBalancingSettings",
    "LoggingSettings",
    "ModelSettings",
    "PriceSettings",
    "ProviderSettings",
    "RetrySettings",
    "RuleSettings",
    "SemanticCacheSettings",
    "Settings",
    "ShadowSettings",
    "load_settings",
]
