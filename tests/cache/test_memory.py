"""The memory tier is bounded, forgets the least recently used, and never serves what is stale."""

from __future__ import annotations

from decimal import Decimal
from uuid import uuid4

from hypothesis import given
from hypothesis import strategies as st

from novellus_lab.cache.entry import CacheEntry
from novellus_lab.cache.memory import MemoryTier
from novellus_lab.types import ToolCall, Usage


def entry(key: bytes, content: str = "x", created_at: float = 0, expires_at=None) -> CacheEntry:
    return CacheEntry(
        key=key,
        content=content,
        model="m",
        provider="p",
        response_model="m-1",
        finish_reason="stop",
        usage=Usage(3, 4),
        created_at=created_at,
        expires_at=expires_at,
    )


def test_the_least_recently_used_goes_first():
    tier = MemoryTier(max_entries=2, max_bytes=10**6)
    tier.put(entry(b"a"))
    tier.put(entry(b"b"))
    tier.get(b"a", 0)
    tier.put(entry(b"c"))
    assert [tier.get(k, 0) is not None for k in (b"a", b"b", b"c")] == [True, False, True]


def test_bytes_are_bounded_and_given_back():
    tier = MemoryTier(max_entries=1000, max_bytes=10_000)
    for n in range(50):
        tier.put(entry(bytes([n]), "x" * 1000))
        assert tier.size_bytes <= 10_000
    tier.put(entry(b"huge", "x" * 20_000))
    assert tier.get(b"huge", 0) is None
    for n in range(50):
        tier.discard(bytes([n]))
    assert (tier.size_bytes, len(tier)) == (0, 0)


def test_stale_entries_are_dropped_and_young_ones_may_be_asked_for():
    tier = MemoryTier(max_entries=9, max_bytes=10**6)
    tier.put(entry(b"k", created_at=100, expires_at=200))
    assert tier.get(b"k", 199.9) is not None
    assert tier.get(b"k", 150, max_age_s=49) is None
    assert tier.get(b"k", 150, max_age_s=50) is not None
    assert tier.get(b"k", 200) is None
    assert len(tier) == 0


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(max_size=5).filter(str.isascii))
def test_an_entry_survives_its_form_at_rest(content, name):
    original = CacheEntry(
        key=b"k",
        content=content,
        model="gpt-4o",
        provider="openai",
        response_model=None,
        finish_reason="tool_calls",
        usage=Usage(10, 20, 3, 4, 2, 5, estimated=True),
        raw_usage={"prompt_tokens": 10, "details": {"a": None}},
        tool_calls=(ToolCall("1", name, '{"a": 1}'),),
        reasoning="why",
        cost_usd=Decimal("0.000123456789012345678"),
        price_version="genai-prices 1",
        original_latency_ms=12.5,
        source_request_id=uuid4(),
        created_at=1.25,
        expires_at=None,
        dropped_params=("seed",),
        vector=(0.1, -2.0),
    )
    assert CacheEntry.from_json(b"k", original.to_json()) == original
