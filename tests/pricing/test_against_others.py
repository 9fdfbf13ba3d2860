"""Prices against real usage bodies, real bills and another table (`benchmarks/price_check.py`)."""

from __future__ import annotations

import json
from collections import Counter
from decimal import Decimal

import genai_prices
import pytest

from benchmarks.price_check import DATA, TODAY, against_litellm, billed_rows, usage_bodies
from novellus_lab.pricing import PriceBook
from novellus_lab.providers.usage import openai_chat_usage, openai_responses_usage

BOOK = PriceBook()
recorded_table = pytest.mark.skipif(
    genai_prices.__version__ != "0.2.3",
    reason="another version of the table has other prices; run benchmarks/price_check.py",
)


@recorded_table
def test_every_usage_body_agrees_or_is_explained() -> None:
    rows = list(usage_bodies(BOOK))
    priced = [row for row in rows if not row.name.endswith("tokens")]
    assert len(priced) > 2_600
    assert len(rows) - len(priced) > 1_300  # bodies whose tokens were compared kind by kind
    assert [row for row in rows if row.explanation == ""] == []
    assert sum(row.explanation is None for row in rows) >= 0.98 * len(rows)


@recorded_table
def test_every_bill_agrees_with_its_usage_or_is_explained() -> None:
    rows = list(billed_rows(BOOK))
    assert len(rows) == 25
    assert [row for row in rows if row.explanation == ""] == []
    kinds = Counter((row.explanation or "agrees").split()[0] for row in rows)
    assert kinds["agrees"] >= 17


def test_a_bill_is_the_price() -> None:
    rows = json.loads((DATA / "provider_billed_usage_rows.json").read_text(), parse_float=Decimal)
    for row in rows:
        raw, billed = row["usage"], Decimal(row["billed_usd"])
        read = openai_chat_usage if "prompt_tokens" in raw else openai_responses_usage
        price = BOOK.price(
            read(raw),
            provider="openai",
            base_url="https://openrouter.ai/api/v1",
            model=row["model"],
            at=TODAY,
            billed_cost_usd=billed,
        )
        assert price.cost_usd == billed == sum(line.cost_usd for line in price.lines)
        assert price.version == "provider"


@recorded_table
def test_the_independent_table_agrees_on_nearly_all_current_models() -> None:
    rows = list(against_litellm(BOOK))
    compared = [row for row in rows if row.ours != "unknown"]
    assert len(compared) > 100
    differing = [row.name for row in compared if row.explanation is not None]
    # cached input 2.5 or 1.25; long-context prices 12.5 and 75 or 25 and 112.5
    assert differing == ["openai gpt-4o-search-preview", "openai gpt-5.6-cyber"]
