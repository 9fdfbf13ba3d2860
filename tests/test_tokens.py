"""The token estimate against real counts of `cl100k_base`, and its bounds for any text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from novellus_lab.tokens import (
    ATTACHMENT_TOKENS,
    IMAGE_TOKENS,
    estimate_message_tokens,
    estimate_tokens,
)

COUNTED = json.loads((Path(__file__).parent / "data" / "prices" / "cl100k_counts.json").read_text())


@pytest.mark.parametrize("kind", sorted(COUNTED))
def test_totals_agree_with_the_tokenizer(kind: str) -> None:
    texts = COUNTED[kind]
    expected = sum(entry["tokens"] for entry in texts)
    estimated = sum(estimate_tokens(entry["text"]) for entry in texts)
    assert estimated == pytest.approx(expected, rel=0.10)


def test_most_english_texts_are_close_one_by_one() -> None:
    texts = COUNTED["english questions"] + COUNTED["english answers"]
    close = [
        abs(estimate_tokens(entry["text"]) - entry["tokens"]) <= 0.15 * entry["tokens"]
        for entry in texts
    ]
    assert sum(close) >= 0.9 * len(close)


@given(st.text(st.characters()))
def test_any_text_has_between_one_token_and_its_bytes(text: str) -> None:
    tokens = estimate_tokens(text)
    assert tokens >= (1 if text else 0)
    assert tokens <= len(text.encode("utf-8", "surrogatepass"))


@given(st.text(st.sampled_from("aB3 \n.é漢🙂"), min_size=1), st.integers(2, 50))
def test_a_repeated_text_costs_about_as_many_times(text: str, times: int) -> None:
    once, often = estimate_tokens(text * 20), estimate_tokens(text * 20 * times)
    assert often == pytest.approx(once * times, rel=0.2, abs=times + 5)


def test_lone_surrogates_and_nul_are_counted() -> None:
    assert estimate_tokens("\ud800") >= 1
    assert estimate_tokens("\0") == 1


def test_messages_cost_more_than_their_text() -> None:
    text = "What is the capital of France?"
    one = estimate_message_tokens([{"role": "user", "content": text}])
    two = estimate_message_tokens([{"role": "user", "content": text}] * 2)
    assert one == estimate_tokens(text) + 6
    assert two - one == estimate_tokens(text) + 3


def test_an_image_counts_a_constant_however_long_its_base64() -> None:
    def ask(url: str) -> int:
        parts = [
            {"type": "text", "text": "Describe it."},
            {"type": "image_url", "image_url": {"url": url}},
        ]
        return estimate_message_tokens([{"role": "user", "content": parts}])

    bare = estimate_message_tokens([{"role": "user", "content": "Describe it."}])
    assert ask("data:image/png;base64," + "A" * 100_000) - bare == IMAGE_TOKENS
    assert ask("https://example.org/a.png") - bare == IMAGE_TOKENS


def test_attachments_count_a_constant() -> None:
    audio = {"type": "input_audio", "input_audio": {"data": "A" * 99_999, "format": "wav"}}
    assert estimate_message_tokens([{"role": "user", "content": [audio]}]) == ATTACHMENT_TOKENS + 6


def test_tools_and_tool_calls_are_counted() -> None:
    plain = estimate_message_tokens([{"role": "user", "content": "Weather?"}])
    tool = {
        "type": "function",
        "function": {"name": "weather", "description": "The weather of a city", "parameters": {}},
    }
    assert estimate_message_tokens([{"role": "user", "content": "Weather?"}], [tool]) > plain + 10
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    asked = [{"role": "assistant", "content": None, "tool_calls": [call]}]
    assert estimate_message_tokens(asked) > 10
