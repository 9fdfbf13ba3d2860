"""novellus_lab: call LLMs from a notebook, log every call, find out what is worth it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from novellus_lab.errors import NovellusError
    from novellus_lab.integration import (
        AIModelManager,
        CacheManager,
        MetricsCollector,
        ai_complete,
        ai_embed,
        ai_health,
        ai_metrics,
    )
    from novellus_lab.lab import Lab
    from novellus_lab.routing.balancer import ModelLoadBalancer
    from novellus_lab.types import BatchFailure, CacheOutcome, Chunk, Completion, Usage

__version__ = "0.1.0"

_HOMES = {
    "AIModelManager": "integration",
    "BatchFailure": "types",
    "CacheManager": "integration",
    "CacheOutcome": "types",
    "Chunk": "types",
    "Completion": "types",
    "Lab": "lab",
    "MetricsCollector": "integration",
    "ModelLoadBalancer": "routing.balancer",
    "NovellusError": "errors",
    "Usage": "types",
    "ai_complete": "integration",
    "ai_embed": "integration",
    "ai_health": "integration",
    "ai_metrics": "integration",
}

__all__ = [
    "AIModelManager",
    "BatchFailure",
    "CacheManager",
    "CacheOutcome",
    "Chunk",
    "Completion",
    "Lab",
    "MetricsCollector",
    "ModelLoadBalancer",
    "NovellusError",
    "Usage",
    "ai_complete",
    "ai_embed",
    "ai_health",
    "ai_metrics",
]


def __getattr__(name: str) -> Any:
    """Load names on first use: importing the package costs nothing until it is used."""
    if name in _HOMES:
        return getattr(import_module(f"novellus_lab.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'novellus_lab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
