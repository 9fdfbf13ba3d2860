"""Usage objects as providers really send them, and as they might at their worst."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from novellus_lab.providers.usage import (
    anthropic_other_models,
    anthropic_usage,
    google_usage,
    ollama_usage,
    openai_chat_usage,
    openai_embedding_usage,
    openai_responses_usage,
)
from novellus_lab.types import Usage

READERS = (
    openai_chat_usage,
    openai_embedding_usage,
    openai_responses_usage,
    anthropic_usage,
    google_usage,
    ollama_usage,
)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("raw", [None, {}, [], "usage", 7])
def test_no_usage_is_no_tokens(read: Any, raw: object) -> None:
    assert read(raw) == Usage()


def test_openai_chat_by_kind() -> None:
    raw = {
        "prompt_tokens": 2_006,
        "completion_tokens": 300,
        "total_tokens": 2_306,
        "prompt_tokens_details": {"cached_tokens": 1_920, "audio_tokens": 6},
        "completion_tokens_details": {"reasoning_tokens": 128, "audio_tokens": 2},
    }
    assert openai_chat_usage(raw) == Usage(
        2_006,
        300,
        cached_input_tokens=1_920,
        reasoning_tokens=128,
        input_audio_tokens=6,
        output_audio_tokens=2,
    )


def test_embeddings_may_be_counted_in_the_total_alone() -> None:
    assert openai_embedding_usage({"prompt_tokens": 8, "total_tokens": 8}) == Usage(8)
    assert openai_embedding_usage({"total_tokens": 8}) == Usage(8)


def test_details_may_be_null_or_missing() -> None:
    raw = {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": None}
    assert openai_chat_usage(raw) == Usage(5, 2)
    assert openai_chat_usage({"prompt_tokens": 5, "completion_tokens": None}) == Usage(5)


@pytest.mark.parametrize(
    "cached",
    [
        {"prompt_tokens_details": {"cached_tokens": 64}},
        {"prompt_token_details": {"cached_tokens": 64}},
        {"num_cached_tokens": 64},
        {"prompt_cache_hit_tokens": 64, "prompt_cache_miss_tokens": 36},
        {"cached_tokens": 64},
        {"cache_read_input_tokens": 64},
        {"prompt_cache_hit_tokens": 64, "prompt_tokens_details": {"cached_tokens": 64}},
    ],
)
def test_every_spelling_of_cached_input(cached: dict[str, Any]) -> None:
    raw = {"prompt_tokens": 100, "completion_tokens": 1, **cached}
    assert openai_chat_usage(raw) == Usage(100, 1, cached_input_tokens=64)


def test_cache_writes_in_openais_shape() -> None:
    raw = {"prompt_tokens": 4_020, "prompt_tokens_details": {"cache_write_tokens": 4_012}}
    assert openai_chat_usage(raw).cache_write_tokens == 4_012
    raw = {"input_tokens": 4_020, "input_tokens_details": {"cache_write_tokens": 4_012}}
    assert openai_responses_usage(raw).cache_write_tokens == 4_012


def test_reasoning_outside_the_completion_count_is_added() -> None:
    xai = {
        "prompt_tokens": 32,
        "completion_tokens": 9,
        "total_tokens": 201,
        "completion_tokens_details": {"reasoning_tokens": 160},
    }
    assert openai_chat_usage(xai) == Usage(32, 169, reasoning_tokens=160)
    google = {"prompt_tokens": 35, "completion_tokens": 12, "total_tokens": 109}
    assert openai_chat_usage(google) == Usage(35, 74, reasoning_tokens=62)


def test_reasoning_inside_the_completion_count_is_not_added_twice() -> None:
    raw = {
        "prompt_tokens": 563,
        "completion_tokens": 116,
        "total_tokens": 679,
        "completion_tokens_details": {"reasoning_tokens": 60},
    }
    assert openai_chat_usage(raw) == Usage(563, 116, reasoning_tokens=60)
    strange = raw | {"total_tokens": 700}  # a gap that is not the reasoning: left alone
    assert openai_chat_usage(strange) == Usage(563, 116, reasoning_tokens=60)


def test_searches_are_counted() -> None:
    openrouter = {"prompt_tokens": 9, "server_tool_use_details": {"web_search_requests": 2}}
    assert openai_chat_usage(openrouter).web_searches == 2
    assert openai_chat_usage({"prompt_tokens": 9, "num_search_queries": 3}).web_searches == 3
    claude = {"input_tokens": 9, "server_tool_use": {"web_search_requests": 4}}
    assert anthropic_usage(claude).web_searches == 4
    assert openai_responses_usage({"input_tokens": 9}, 5).web_searches == 5


def test_anthropics_input_excludes_what_the_cache_had_and_got() -> None:
    raw = {
        "input_tokens": 10,
        "output_tokens": 7,
        "cache_read_input_tokens": 1_000,
        "cache_creation_input_tokens": 300,
        "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 200},
        "output_tokens_details": {"thinking_tokens": 3},
    }
    assert anthropic_usage(raw) == Usage(
        1_310,
        7,
        cached_input_tokens=1_000,
        cache_write_tokens=300,
        cache_write_1h_tokens=200,
        reasoning_tokens=3,
    )


@pytest.mark.parametrize(
    ("total", "parts", "written", "hour"),
    [
        (500, {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 50}, 500, 50),
        (500, {}, 500, 0),
        (500, None, 500, 0),
        (None, {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 50}, 150, 50),
        (0, {"ephemeral_1h_input_tokens": 50}, 50, 50),
    ],
)
def test_cache_writes_are_the_total_even_where_the_parts_are_less(
    total: int | None, parts: object, written: int, hour: int
) -> None:
    usage = anthropic_usage(
        {"input_tokens": 1, "cache_creation_input_tokens": total, "cache_creation": parts}
    )
    assert (usage.cache_write_tokens, usage.cache_write_1h_tokens) == (written, hour)
    assert usage.input_tokens == 1 + written


def test_compaction_is_counted_and_the_advisor_kept_apart() -> None:
    raw = {
        "input_tokens": 180,
        "output_tokens": 8,
        "iterations": [
            {
                "type": "compaction",
                "input_tokens": 100,
                "cache_creation_input_tokens": 55_096,
                "output_tokens": 82,
            },
            {"type": "message", "input_tokens": 180, "output_tokens": 8},
            {
                "type": "advisor_message",
                "model": "claude-opus-4-8",
                "input_tokens": 2_518,
                "output_tokens": 22,
            },
        ],
    }
    assert anthropic_usage(raw) == Usage(55_376, 90, cache_write_tokens=55_096)
    assert anthropic_other_models(raw) == (("claude-opus-4-8", Usage(2_518, 22)),)
    assert anthropic_other_models(None) == ()


def test_gemini_with_its_implicit_cache_thoughts_and_tools() -> None:
    raw = {
        "promptTokenCount": 373,
        "cachedContentTokenCount": 204,
        "toolUsePromptTokenCount": 119,
        "candidatesTokenCount": 89,
        "thoughtsTokenCount": 167,
        "totalTokenCount": 748,
        "promptTokensDetails": [
            {"modality": "TEXT", "tokenCount": 115},
            {"modality": "AUDIO", "tokenCount": 258},
        ],
        "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 141}],
        "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 60}],
    }
    expected = Usage(
        492,
        256,
        cached_input_tokens=204,
        reasoning_tokens=167,
        input_audio_tokens=258,
        cached_audio_tokens=141,
        output_image_tokens=60,
    )
    assert google_usage(raw) == expected
    snake = {
        "prompt_token_count": 373,
        "cached_content_token_count": 204,
        "tool_use_prompt_token_count": 119,
        "candidates_token_count": 89,
        "thoughts_token_count": 167,
        "prompt_tokens_details": [{"modality": "MediaModality.AUDIO", "token_count": 258}],
        "cache_tokens_details": [{"modality": "AUDIO", "token_count": 141}],
        "candidates_tokens_details": [{"modality": "IMAGE", "token_count": 60}],
    }
    assert google_usage(snake) == expected


def test_ollama() -> None:
    assert ollama_usage({"prompt_eval_count": 26, "eval_count": 298}) == Usage(26, 298)
    assert ollama_usage({"eval_count": 3}) == Usage(0, 3)


@pytest.mark.parametrize(
    ("value", "count"),
    [
        (12, 12),
        (12.0, 12),
        ("12", 12),
        ("12.0", 12),
        (Decimal(12), 12),
        (-5, 0),
        ("-5", 0),
        ("many", 0),
        ("", 0),
        (None, 0),
        (True, 0),
        (float("nan"), 0),
        (float("inf"), 0),
        (Decimal("sNaN"), 0),
        (10**30, 0),
        ([], 0),
        ({}, 0),
    ],
)
def test_counts_of_any_form(value: object, count: int) -> None:
    assert openai_chat_usage({"prompt_tokens": value}).input_tokens == count
    assert anthropic_usage({"input_tokens": value}).input_tokens == count
    assert google_usage({"promptTokenCount": value}).input_tokens == count


KEYS = [
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "prompt_tokens_details",
    "cached_tokens",
    "audio_tokens",
    "completion_tokens_details",
    "reasoning_tokens",
    "input_tokens",
    "output_tokens",
    "input_tokens_details",
    "output_tokens_details",
    "cache_creation",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "ephemeral_1h_input_tokens",
    "ephemeral_5m_input_tokens",
    "iterations",
    "type",
    "model",
    "server_tool_use",
    "web_search_requests",
    "promptTokenCount",
    "cachedContentTokenCount",
    "candidatesTokenCount",
    "thoughtsTokenCount",
    "promptTokensDetails",
    "modality",
    "tokenCount",
    "eval_count",
    "thinking_tokens",
]
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-5, 10**6)
    | st.floats()
    | st.sampled_from(["", "7", "compaction", "AUDIO", "nan"])
)
OBJECTS = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=8)
    ),
    max_leaves=25,
)


@given(OBJECTS, st.sampled_from(READERS))
def test_whatever_comes_the_parts_fit_their_wholes(raw: object, read: Any) -> None:
    usage = read(raw)
    assert usage.cached_input_tokens + usage.cache_write_tokens <= usage.input_tokens
    assert usage.cache_write_1h_tokens <= usage.cache_write_tokens
    assert usage.reasoning_tokens <= usage.output_tokens
    assert usage.cached_audio_tokens <= min(usage.cached_input_tokens, usage.input_audio_tokens)
    assert usage.input_audio_tokens <= usage.input_tokens
    assert usage.output_audio_tokens <= usage.output_tokens
    assert usage.output_image_tokens <= usage.output_tokens
    counts = [usage.input_tokens, usage.output_tokens, usage.web_searches]
    assert min(counts) >= 0
    assert all(type(count) is int for count in counts)
    anthropic_other_models(raw)
