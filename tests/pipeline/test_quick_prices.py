"""Remembered prices are the price book's own, to the last digit."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from novellus_lab.pipeline.quick_prices import QuickPrices
from novellus_lab.pricing import PriceBook
from novellus_lab.settings import ConfiguredPrice

BOOK = PriceBook()
QUICK = QuickPrices(BOOK)
OWN = (ConfiguredPrice(Decimal("0.0013"), Decimal("0.007"), Decimal("0.0001")),)
AT = datetime(2026, 11, 1, tzinfo=UTC)


@settings(deadline=None)
@given(
    st.sampled_from(
        [("openai", "gpt-4o"), ("anthropic", "claude-3-opus"), ("google", "gemini-2.5-pro"),
         ("openai", "no-such-model"), ("ollama", "llama3.1"), ("own", "priced")]
    ),
    st.integers(0, 400_000),
    st.integers(0, 64_000),
    st.floats(0, 1),
)  # fmt: skip
def test_they_agree(model, inputs, outputs, cached_share):
    asked = {
        "provider": model[0], "model": model[1], "input_tokens": inputs, "output_tokens": outputs,
        "cached_input_tokens": int(inputs * cached_share), "at": AT,
        "configured": OWN if model[0] == "own" else (),
    }  # fmt: skip
    assert QUICK.estimate(**asked) == BOOK.estimate(**asked)
