"""The memory tier is bounded, forgets what is worth least, and never serves what is stale."""

from __future__ import annotations

from dataclasses import replace
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


def test_a_dear_answer_outlives_many_cheap_ones_but_not_for_ever():
    tier = MemoryTier(max_entries=3, max_bytes=10**6)
    tier.put(replace(entry(b"dear"), cost_usd=Decimal("0.5"), original_latency_ms=9_000))
    for n in range(100):
        tier.put(replace(entry(bytes([n])), cost_usd=Decimal("0.001")))
    assert tier.get(b"dear", 0) is not None
    assert tier.evicted == 98
    for n in range(20_000):  # none of them as dear, and nobody asks for the dear one any more
        key = n.to_bytes(3, "big")
        tier.put(replace(entry(key), cost_usd=Decimal("0.001")))
        tier.get(key, 0)
    assert tier.get(b"dear", 0) is None


def test_of_equal_answers_the_small_one_stays():
    tier = MemoryTier(max_entries=2, max_bytes=10**6)
    tier.put(replace(entry(b"big", "x" * 50_000), cost_usd=Decimal("0.01")))
    tier.put(replace(entry(b"small"), cost_usd=Decimal("0.01")))
    tier.put(replace(entry(b"new"), cost_usd=Decimal("0.01")))
    assert tier.get(b"big", 0) is None
    assert tier.get(b"small", 0) is not None


@given(
    st.lists(
        st.tuples(
            st.sampled_from("put get discard".split()), st.integers(0, 12), st.integers(0, 9)
        ),
        max_size=200,
    )
)
def test_the_bounds_hold_whatever_is_done(steps):
    tier = MemoryTier(max_entries=5, max_bytes=20_000)
    for what, number, size in steps:
        key = bytes([number])
        if what == "put":
            tier.put(replace(entry(key, "x" * size * 1000), cost_usd=Decimal(size)))
            assert tier.get(key, 0) is not None
        elif what == "get":
            tier.get(key, 0)
        else:
            tier.discard(key)
            assert tier.get(key, 0) is None
        found = [e for n in range(13) if (e := tier._slots.get(bytes([n])))]
        assert len(tier) == len(found) <= 5
        assert tier.size_bytes == sum(slot.size for slot in found) <= 20_000


def test_entries_are_dropped_by_what_they_are():
    tier = MemoryTier(max_entries=9, max_bytes=10**6)
    tier.put(entry(b"a", "yes"))
    tier.put(entry(b"b", "no"))
    assert tier.discard_where(lambda e: e.content == "no") == 1
    assert [tier.get(k, 0) is not None for k in (b"a", b"b")] == [True, False]


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


def test_a_stale_entry_stays_as_long_as_it_may_be_served():
    tier = MemoryTier(max_entries=9, max_bytes=10**6, stale_s=30)
    tier.put(entry(b"k", created_at=100, expires_at=200))
    assert tier.get(b"k", 229) is not None
    assert tier.get(b"k", 229, max_age_s=1_000) is None  # an age is meant as it is said
    assert tier.get(b"k", 230) is None


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
        tags={"team": "search"},
    )
    assert CacheEntry.from_json(b"k", original.to_json()) == original
