"""Remembered prices are the price book's own, to the last digit."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st

from novellus_lab.pipeline.pool import Pool
from novellus_lab.pipeline.quick_prices import QuickPrices
from novellus_lab.pricing import PriceBook
from novellus_lab.settings import ConfiguredPrice

BOOK = PriceBook()
QUICK = QuickPrices(BOOK)
OWN = (ConfiguredPrice(Decimal("0.0013"), Decimal("0.007"), Decimal("0.0001")),)
KNOWN = [
    ("openai", "gpt-4o"),
    ("anthropic", "claude-3-opus"),
    ("google", "gemini-2.5-pro"),
    ("openai", "no-such-model"),
    ("ollama", "llama3.1"),
    ("own", "priced"),
]


def _priced(model):
    provider, name = model
    priced_as = {
        "provider": provider,
        "model": name,
        "configured": OWN if provider == "own" else (),
        "base_model": None,
        "base_url": None,
    }
    return SimpleNamespace(id=f"{provider}/{name}", priced_as=priced_as)


@settings(deadline=None)
@given(
    st.sampled_from(KNOWN),
    st.integers(0, 400_000),
    st.integers(0, 64_000),
    st.floats(0, 1),
)  # fmt: skip
def test_they_agree(model, inputs, outputs, cached_share):
    cached = int(inputs * cached_share)
    expected = BOOK.estimate(
        **_priced(model).priced_as,
        input_tokens=inputs,
        output_tokens=outputs,
        cached_input_tokens=cached,
        at=datetime.now(UTC),
    )
    assert QUICK.estimate(_priced(model), inputs, outputs, cached) == expected


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(KNOWN), min_size=1, unique=True),
    st.integers(0, 400_000),
    st.integers(0, 64_000),
)
def test_no_model_costs_more_than_the_ceiling(models, inputs, outputs):
    priced = Pool(_priced(model) for model in models)
    costs = [QUICK.estimate(model, inputs, outputs) for model in priced]
    ceiling = QUICK.ceiling(priced, inputs, outputs)
    if None in costs:
        assert ceiling is None
    elif ceiling is not None:
        assert ceiling >= max(costs)
    if len(models) == 1 and ceiling is not None:
        assert ceiling == costs[0]
