"""What a call cost: a `Usage` in, a `Price` with its lines, its source and its reasons out.

`book` decides whose word counts, `table` reads genai-prices, `rates` does the arithmetic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from novellus_lab.pricing.book import PriceBook

if TYPE_CHECKING:
    from novellus_lab.settings import ConfiguredPrice

__all__ = ["ConfiguredPrice", "PriceBook"]


def __getattr__(name: str) -> Any:
    # `ConfiguredPrice` is a part of the configuration, whose module brings pydantic along: who
    # only prices does not pay for it.
    if name == "ConfiguredPrice":
        from novellus_lab.settings import ConfiguredPrice

        return ConfiguredPrice
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
