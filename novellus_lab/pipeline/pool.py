"""Models among which the router may choose."""

from __future__ import annotations

from functools import cached_property
from math import inf
from typing import TYPE_CHECKING

from novellus_lab.routing.strategies import Option

if TYPE_CHECKING:
    from novellus_lab.pipeline.catalog import Model


class Pool(tuple["Model", ...]):
    """Models that may answer, and what of them depends on no request and on no moment."""

    @cached_property
    def options(self) -> list[Option]:
        """What the configuration tells strategies of them."""
        return [
            Option(
                model.id,
                weight=model.weight,
                priority=model.settings.priority,
                provider=model.provider,
                capabilities=model.settings.capabilities,
                context_window=model.settings.context_window,
                concurrent=model.settings.concurrent,
            )
            for model in self
        ]

    @cached_property
    def ids(self) -> tuple[str, ...]:
        return tuple(model.id for model in self)

    @cached_property
    def by_id(self) -> dict[str, Model]:
        return {model.id: model for model in self}

    @cached_property
    def narrowest(self) -> float:
        """The smallest context window, in tokens; inf: none is known."""
        return min((model.settings.context_window or inf for model in self), default=inf)
