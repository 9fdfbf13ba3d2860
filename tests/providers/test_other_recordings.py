"""What Anthropic, Google and Ollama really sent, through a real socket and the official SDKs."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from novellus_lab.pricing import PriceBook
from novellus_lab.providers.anthropic import AnthropicProvider
from novellus_lab.providers.base import Call, ProviderConfig
from novellus_lab.providers.google import GoogleProvider
from novellus_lab.providers.ollama import OllamaProvider
from novellus_lab.types import Usage
from tests.loopback import WIRE, RecordedServer

PROVIDERS = {"anthropic": AnthropicProvider, "google": GoogleProvider, "ollama": OllamaProvider}
CHAT = {"anthropic": "api.anthropic.com", "google": "enerateContent", "ollama": "/api/chat"}
SPLITS = [None, "awkward", 1, 7, 4096]
USER = [{"role": "user", "content": "Hi"}]
BOOK = PriceBook()
AT = datetime(2026, 11, 1, tzinfo=UTC)


def cassette(part):
    (found,) = [c for c in WIRE.glob("*/*.yaml") if part in c.name]
    return found


async def replay(provider, part, number, model, *, streamed, split=None):
    """Return the deltas and the reply of a recording's answer."""
    with RecordedServer(cassette(part), only=CHAT[provider], split=split) as server:
        server._next = number
        adapter = PROVIDERS[provider](ProviderConfig(provider, base_url=server.url))
        call = Call(model, USER, timeout_s=60.0)
        try:
            if not streamed:
                return [], await adapter.complete(call)
            deltas = [delta async for delta in adapter.stream(call)]
            return deltas[:-1], deltas[-1].reply
        finally:
            await adapter.aclose()


WHOLE = [
    # provider, recording, number, model, start and end of content, start of reasoning, usage, id, price
    ("anthropic", "anthropic_model_thinking_part.yaml", 0, "claude-sonnet-4-5",
     "Here's how to cross the street safely:", "make safe choices.", "This is a straightforward question",
     Usage(43, 321), "msg_01TGA8SWcHTTn5674cmicbnJ", "0.004944"),
    ("anthropic", "anthropic_model_thinking_part.yaml", 1, "claude-sonnet-4-5",
     "# How to Cross a River", "", "This is an interesting analogy question",
     Usage(354, 525), "msg_016Vg1RgKdfLjsCLybGjd8Xo", "0.008937"),
    ("google", "google_model_cached_content", 0, "gemini-2.5-flash", "Paris.", "Paris.", None,
     Usage(3520, 44, cached_input_tokens=3512, reasoning_tokens=42), "_VQYaqvRGbW6qtsPg4TDoAg",
     "0.00021776"),
    ("google", "google_model_cached_content", 1, "gemini-2.5-flash", "Paris.", "Paris.", None,
     Usage(3520, 53, cached_input_tokens=3512, reasoning_tokens=51), "_1QYavqiB-6wqtsPxaKcuQw",
     "0.00024026"),
    ("ollama", "ollama_chat_legacy", 0, "llama3", "A joke about OpenTelemetry!", "", None,
     Usage(17, 66), None, "0"),
]  # fmt: skip

STREAMS = [
    ("anthropic", "anthropic_model_thinking_part_stream", 0, "claude-sonnet-4-0",
     "Here are the basic steps for safely crossing", "", "This is a straightforward question",
     Usage(43, 282), "msg_01ALwQ87pTS7hH1PjSdC9wJD", "0.004359"),
    # The first call writes the cache, the second reads it: neither may be lost in a stream.
    ("anthropic", "prompt_caching_stream", 0, "claude-3-5-sonnet-20240620",
     "Here are concise summaries of the three articles:", "", None,
     Usage(1169, 201, cache_write_tokens=1165), "msg_017FfRkh9PCC8YbjnhDMrPuK", "0.00739575"),
    ("anthropic", "prompt_caching_stream", 1, "claude-3-5-sonnet-20240620",
     "Here are concise summaries of the three articles:", "", None,
     Usage(1169, 221, cached_input_tokens=1165), "msg_01XQRA3bs4SB4yTBMwD3dbUi", "0.0036765"),
    ("google", "google_stream_usage_is_live", 0, "gemini-2.5-flash", "1\n2\n3", "29\n30", None,
     Usage(18, 115, reasoning_tokens=35), "ru1garvBEoOiqtsP2fznmQw", "0.0002929"),
    ("ollama", "ollama_streaming_chat_legacy", 0, "llama3",
     "Why did the OpenTelemetry agent go to therapy?", "", None, Usage(17, 50), None, "0"),
]  # fmt: skip


def check(recording, reply):
    provider, _, _, model, start, end, thought, usage, response_id, price = recording
    assert reply.content.startswith(start)
    assert end in reply.content
    assert (reply.reasoning or "").startswith(thought or "")
    assert (reply.reasoning is None) is (thought is None)
    assert (reply.finish_reason, reply.tool_calls, reply.usage) == ("stop", (), usage)
    assert reply.response_id == response_id
    assert reply.model.startswith(model.removesuffix("-0"))
    priced = BOOK.price(
        reply.usage,
        provider=provider,
        model=model,
        response_model=reply.model,
        service_tier=reply.service_tier,
        at=AT,
    )
    assert priced.cost_usd == Decimal(price)


@pytest.mark.parametrize("recording", WHOLE, ids=lambda r: f"{r[1]}-{r[2]}")
async def test_whole_answers(recording):
    provider, part, number, model, *_ = recording
    _, reply = await replay(provider, part, number, model, streamed=False)
    check(recording, reply)
    with RecordedServer(cassette(part), only=CHAT[provider]) as server:
        recorded = server.interactions[number].json
    if provider != "ollama":
        told = recorded["usageMetadata" if provider == "google" else "usage"]
        assert dict(reply.raw_usage) == told
        assert reply.service_tier == "standard"


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("recording", STREAMS, ids=lambda r: f"{r[1]}-{r[2]}")
async def test_streams_cut_anywhere(recording, split):
    provider, part, number, model, *_ = recording
    if split == 1 and "caching" in part:
        split = 97  # 16 kB byte by byte is slow and shows nothing more
    deltas, reply = await replay(provider, part, number, model, streamed=True, split=split)
    check(recording, reply)
    assert "".join(d.content for d in deltas) == reply.content
    assert "".join(d.reasoning for d in deltas) == (reply.reasoning or "")
    assert [d.reply for d in deltas] == [None] * len(deltas)
    assert deltas[0].model == reply.model
    assert deltas[0].response_id == reply.response_id


async def test_what_an_abandoned_claude_stream_has_written_to_the_cache_is_known_at_once():
    deltas, reply = await replay(
        "anthropic", "prompt_caching_stream", 0, "claude-3-5-sonnet-20240620", streamed=True
    )
    assert deltas[0].usage.cache_write_tokens == reply.usage.cache_write_tokens


async def test_geminis_counts_are_totals_not_increments():
    deltas, _ = await replay(
        "google", "google_stream_usage_is_live", 0, "gemini-2.5-flash", streamed=True
    )
    assert [d.usage.output_tokens for d in deltas] == [66, 114, 115]


ELSEWHERE = {
    "test_openai_wire.py": [
        "openai_chat_prompt_cache", "openai_responses_prompt_cache",
        "reasoning_model_with_temperature", "openrouter_usage", "openrouter_stream_error", "groq",
        "mistral", "test_chat_completion_streaming", "multiple_tools_streaming_with_content",
        "run_stream_sync_streams_real_model", "test_chat__test_chat_streaming",
        "responses_streaming_usage",
    ],
    "test_azure.py": ["test_azure__test_chat.", "content_filtering", "azure_responses"],
}  # fmt: skip
ANOTHER_WIRE_FORMAT = {
    "bedrock": "Amazon's Converse API, for which there is no provider; its usage is read by none",
    "cohere": "Cohere's v2 API; its compatible endpoint speaks OpenAI's",
}


def test_every_recording_is_replayed_or_it_is_said_why_not():
    parts = [recording[1] for recording in (*WHOLE, *STREAMS)]
    for file, named in ELSEWHERE.items():
        text = (Path(__file__).parent / file).read_text()
        assert [part for part in named if part not in text] == []
        parts += named
    parts += ANOTHER_WIRE_FORMAT
    left = [c.name for c in WIRE.glob("*/*.yaml") if not any(part in c.name for part in parts)]
    assert left == []
