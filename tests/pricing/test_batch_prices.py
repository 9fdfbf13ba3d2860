"""What a provider's batch API costs: the YAML's discount, the table, the documented half."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from novellus_lab.pricing import ConfiguredPrice
from novellus_lab.types import Usage
from tests.pricing.test_book import BOOK, NOW, by_kind, price

USAGE = Usage(1_000, 500, cached_input_tokens=200, cache_write_tokens=100)


def test_the_tables_batch_prices_count() -> None:
    found = price(USAGE, "openai", "gpt-5", service_tier="batch")
    assert by_kind(found)["input"] == Decimal("0.625")
    assert by_kind(found)["cached_input"] == Decimal("0.0625")
    assert by_kind(found)["output"] == 5
    assert found.version.endswith(", batch")


def test_gpt_4os_cached_input_costs_what_uncached_batch_input_costs() -> None:
    kinds = by_kind(price(USAGE, "openai", "gpt-4o", service_tier="batch"))
    assert kinds["input"] == kinds["cached_input"] == Decimal("1.25")


def test_anthropic_halves_reads_and_writes_of_its_cache() -> None:
    found = by_kind(price(USAGE, "anthropic", "claude-haiku-4-5", service_tier="batch"))
    usual = by_kind(price(USAGE, "anthropic", "claude-haiku-4-5"))
    assert found == {kind: each / 2 for kind, each in usual.items() if each is not None}
    assert len(found) == 4


@pytest.mark.parametrize(
    ("provider", "model", "more"),
    [
        ("anthropic", "claude-3-5-haiku-latest", {}),  # the table has no batch price of it
        ("azure", "mine", {"base_model": "gpt-4o"}),
        ("openai", "x", {"configured": (ConfiguredPrice(Decimal(1), Decimal(2)),)}),
        (
            "openai",
            "x",
            {
                "configured": (ConfiguredPrice(Decimal(1), Decimal(2)),),
                "base_url": "https://eu.api.openai.com/v1",
            },
        ),
    ],
)
def test_where_no_batch_price_is_listed_it_is_the_documented_half(provider, model, more) -> None:
    usage = Usage(1_000, 500, web_searches=0)
    usual = price(usage, provider, model, **more)
    found = price(usage, provider, model, service_tier="batch", **more)
    assert usual.cost_usd
    assert found.cost_usd == usual.cost_usd / 2
    assert found.version.endswith(", batch")


@pytest.mark.parametrize("stated", [(ConfiguredPrice(Decimal(1), Decimal(2)),), ()])
def test_at_somebody_elses_server_it_is_unknown(stated) -> None:
    found = price(
        USAGE, "openai", "m", configured=stated, base_url="http://host/v1", service_tier="batch"
    )
    assert found.cost_usd is None
    if stated:
        assert found.reason is not None
        assert "batch_discount" in found.reason


def test_a_stated_discount_goes_before_table_and_half_and_spares_the_fees() -> None:
    own = ConfiguredPrice(Decimal(1), Decimal(2), batch_discount=Decimal("0.25"))
    found = price(USAGE, configured=[own], base_url="http://host/v1", service_tier="batch")
    assert found.cost_usd == Decimal("0.75") + Decimal("0.75")
    assert found.version == "config, batch"
    alone = ConfiguredPrice(batch_discount=Decimal("0.2"))
    usage = Usage(1_000, 0, web_searches=2)
    found = price(usage, "anthropic", "claude-haiku-4-5", configured=[alone], service_tier="batch")
    usual = price(usage, "anthropic", "claude-haiku-4-5", configured=[alone])
    assert found.fees_usd == usual.fees_usd == Decimal("0.02")
    assert found.cost_usd == Decimal("0.0008") + Decimal("0.02")
    assert usual.version.startswith("genai-prices")
    assert usual.cost_usd == Decimal("0.001") + Decimal("0.02")


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.decimals(0, 1, places=3))
def test_a_discount_is_exact(received: int, produced: int, discount: Decimal) -> None:
    own = ConfiguredPrice(Decimal("0.003"), Decimal("0.007"), batch_discount=discount)
    usual = price(Usage(received, produced), configured=[own])
    found = price(Usage(received, produced), configured=[own], service_tier="batch")
    assert found.cost_usd == (usual.cost_usd or 0) * (1 - discount)


def test_an_estimate_can_be_one_of_a_batch() -> None:
    asked = {
        "provider": "openai",
        "model": "gpt-5",
        "input_tokens": 8,
        "output_tokens": 2,
        "at": NOW,
    }
    usual, batch = BOOK.estimate(**asked), BOOK.estimate(**asked, service_tier="batch")
    assert usual is not None
    assert batch == usual / 2
