"""What Anthropic, Google and Ollama really sent, through a real socket and the official SDKs."""

from __future__ import annotations

import json

import pytest

from novellus_lab.providers.anthropic import AnthropicProvider
from novellus_lab.providers.base import Call, ProviderConfig
from novellus_lab.providers.google import GoogleProvider
from novellus_lab.providers.ollama import OllamaProvider
from tests.loopback import WIRE, RecordedServer

USER = [{"role": "user", "content": "Hi"}]


async def read(provider, call):
    deltas = [delta async for delta in provider.stream(call)]
    return deltas, deltas[-1].reply


@pytest.mark.parametrize("split", [None, "awkward", 7])
async def test_anthropic_stream_with_prompt_cache(split):
    name = "openllmetry/anthropic__tests__cassettes__test_prompt_caching__test_anthropic_prompt_caching_stream_legacy.yaml"
    with RecordedServer(WIRE / name, only="api.anthropic.com", split=split) as server:
        provider = AnthropicProvider(ProviderConfig("anthropic", base_url=server.url))
        deltas, first = await read(provider, Call("claude-3-5-sonnet-20240620", USER))
        _, second = await read(provider, Call("claude-3-5-sonnet-20240620", USER))
        await provider.aclose()
    assert "".join(d.content for d in deltas) == first.content
    assert first.content
    # the first call writes the cache, the second reads it: neither may be lost in a stream
    assert first.usage.cache_write_tokens == second.usage.cached_input_tokens > 1000
    assert first.usage.input_tokens > first.usage.cache_write_tokens
    assert first.usage.output_tokens > 1
    assert deltas[0].usage.cache_write_tokens == first.usage.cache_write_tokens
    assert first.finish_reason == "stop"


@pytest.mark.parametrize("split", [None, "awkward"])
async def test_anthropic_thinking(split):
    name = "pydantic-ai/models__cassettes__test_anthropic__test_anthropic_model_thinking_part"
    with RecordedServer(WIRE / f"{name}.yaml", only="api.anthropic.com") as server:
        provider = AnthropicProvider(ProviderConfig("anthropic", base_url=server.url))
        whole = await provider.complete(Call("claude-3-7-sonnet-latest", USER))
        await provider.aclose()
    assert whole.reasoning
    assert whole.content
    assert whole.usage.output_tokens == whole.raw_usage["output_tokens"]
    with RecordedServer(
        WIRE / f"{name}_stream.yaml", only="api.anthropic.com", split=split
    ) as server:
        provider = AnthropicProvider(ProviderConfig("anthropic", base_url=server.url))
        deltas, reply = await read(provider, Call("claude-3-7-sonnet-latest", USER))
        await provider.aclose()
    assert "".join(d.reasoning for d in deltas) == reply.reasoning
    assert reply.reasoning


@pytest.mark.parametrize("split", [None, "awkward"])
async def test_google_stream_counts_are_totals_not_increments(split):
    name = "pydantic-ai/models__cassettes__test_google__test_google_stream_usage_is_live_mid_stream.yaml"
    with RecordedServer(WIRE / name, split=split) as server:
        provider = GoogleProvider(ProviderConfig("google", base_url=server.url))
        deltas, reply = await read(provider, Call("gemini-2.5-flash", USER))
        await provider.aclose()
    assert reply.content.split() == [str(n) for n in range(1, 31)]
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (18, 115)
    assert reply.usage.reasoning_tokens == 35
    assert deltas[0].usage.output_tokens == 66
    assert (reply.model, reply.finish_reason) == ("gemini-2.5-flash", "stop")


async def test_google_cached_content():
    name = (
        "pydantic-ai/models__google__cassettes__test_cache__test_google_model_cached_content.yaml"
    )
    with RecordedServer(WIRE / name, only=":generateContent") as server:
        provider = GoogleProvider(ProviderConfig("google", base_url=server.url))
        reply = await provider.complete(Call("gemini-2.5-flash", USER))
        recorded = server.interactions[0].json["usageMetadata"]
        await provider.aclose()
    assert reply.usage.input_tokens == recorded["promptTokenCount"]
    assert reply.usage.cached_input_tokens == recorded["cachedContentTokenCount"] > 0
    assert reply.usage.output_tokens == recorded["candidatesTokenCount"] + recorded.get(
        "thoughtsTokenCount", 0
    )


@pytest.mark.parametrize("split", [None, "awkward", 11])
async def test_ollama_stream_and_whole(split):
    name = "openllmetry/ollama__tests__cassettes__test_chat__test_ollama_{}chat_legacy.yaml"
    with RecordedServer(WIRE / name.format("streaming_"), only="/api/chat", split=split) as server:
        provider = OllamaProvider(ProviderConfig("ollama", base_url=server.url))
        deltas, reply = await read(provider, Call("llama3", USER, max_tokens=9, seed=4))
        sent = server.requests[0].json
        await provider.aclose()
    assert "".join(d.content for d in deltas) == reply.content
    assert reply.content.startswith("Why did the OpenTelemetry")
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (17, 50)
    assert sent["options"] == {"num_predict": 9, "seed": 4}
    with RecordedServer(WIRE / name.format(""), only="/api/chat") as server:
        provider = OllamaProvider(ProviderConfig("ollama", base_url=server.url))
        whole = await provider.complete(Call("llama3", USER))
        await provider.aclose()
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == (17, 66)
    assert json.dumps(dict(whole.raw_usage))
