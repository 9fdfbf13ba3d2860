"""Recorded traffic of OpenAI, OpenRouter, Groq and Mistral, read through the real SDK."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from novellus_lab.errors import BadRequestError
from novellus_lab.providers.base import Call, ProviderConfig
from novellus_lab.providers.openai import OpenAIProvider
from novellus_lab.types import ToolCall, Usage
from tests.loopback import WIRE, RecordedServer

SPLITS = [None, "awkward", 1, 4096]


def cassette(part):
    (found,) = [c for c in WIRE.glob("*/*.yaml") if part in c.name]
    return found


class Replayed:
    """A provider pointed at a recording, and the calls that the recording's own requests were."""

    def __init__(self, part, *, split=None, **options):
        self.server = RecordedServer(cassette(part), split=split)
        self.options = options

    async def __aenter__(self):
        self.server.start()
        self.provider = OpenAIProvider(
            ProviderConfig("openai", base_url=self.server.url + "/v1", options=self.options)
        )
        return self

    async def __aexit__(self, *exc):
        await self.provider.aclose()
        self.server.close()

    def call(self, number):
        sent = self.server.interactions[number].request
        return Call(
            model=sent["model"],
            messages=sent.get("messages") or [{"role": "user", "content": "x"}],
            tools=sent.get("tools", ()) if "messages" in sent else (),
            tool_choice=sent.get("tool_choice") if "messages" in sent else None,
            timeout_s=20.0,
        )

    async def whole(self, number):
        return await self.provider.complete(self.call(number))

    async def streamed(self, number, into=None):
        deltas = [] if into is None else into
        async for delta in self.provider.stream(self.call(number)):
            deltas.append(delta)  # one by one: those before a failure count
        return deltas


WHOLE = [
    # recording, number, api, start of content, finish reason, model, usage
    (
        "openai_chat_prompt_cache", 0, "chat", "OK", "stop", "gpt-5.6-sol",
        Usage(4020, 4, cache_write_tokens=4012),
    ),
    (
        "openai_chat_prompt_cache", 1, "chat", "OK", "stop", "gpt-5.6-sol",
        Usage(4020, 4, cached_input_tokens=4012),
    ),
    (
        "openai_responses_prompt_cache", 0, "responses", "OK", "stop", "gpt-5.6-sol",
        Usage(4020, 5, cache_write_tokens=4012),
    ),
    (
        "openai_responses_prompt_cache", 1, "responses", "OK", "stop", "gpt-5.6-sol",
        Usage(4020, 5, cached_input_tokens=4012),
    ),
    (
        "reasoning_model_with_temperature", 0, "chat", "The capital of Mexico is Mexico City.",
        "stop", "o3-mini-2025-01-31", Usage(13, 238, reasoning_tokens=192),
    ),
    (
        "openrouter_usage", 0, "chat", "Brief summary\n- Venus is the second planet", "stop",
        "openai/gpt-5-mini", Usage(17, 1515, reasoning_tokens=704),
    ),
    (
        "openrouter_usage", 1, "chat", "Here’s a concise but thorough overview of Mars", "stop",
        "openai/gpt-5-mini", Usage(17, 2177, reasoning_tokens=960),
    ),
    (
        "groq", 2, "chat", "The first call failed due to missing and extra parameters", "stop",
        "openai/gpt-oss-120b", Usage(336, 96, cached_input_tokens=256, reasoning_tokens=59),
    ),
    ("mistral", 0, "chat", "cache probe one.", "stop", "mistral-large-latest", Usage(253, 5)),
    (
        "mistral", 1, "chat", "cache probe two.", "stop", "mistral-large-latest",
        Usage(268, 5, cached_input_tokens=224),
    ),
]  # fmt: skip


@pytest.mark.parametrize("recording", WHOLE, ids=lambda r: f"{r[0]}-{r[1]}")
async def test_whole_answers(recording):
    part, number, api, content, finish, model, usage = recording
    async with Replayed(part, api=api) as replayed:
        replayed.server._next = number
        reply = await replayed.whole(number)
        recorded = replayed.server.interactions[number].json
    assert reply.content.startswith(content)
    assert (reply.finish_reason, reply.model, reply.usage) == (finish, model, usage)
    assert reply.raw_usage == recorded["usage"]
    assert reply.response_id == recorded["id"]
    assert reply.service_tier == recorded.get("service_tier")
    if api == "chat":
        assert reply.content == recorded["choices"][0]["message"]["content"]


async def test_openrouters_bill_is_kept_to_the_digit():
    async with Replayed("openrouter_usage") as replayed:
        without, billed = await replayed.whole(0), await replayed.whole(1)
    assert without.billed_cost_usd is None
    assert billed.billed_cost_usd == Decimal("0.00435825")
    assert billed.reasoning.startswith("**Exploring Mars Overview**")


async def test_groq_refuses_a_tool_call_then_makes_one():
    async with Replayed("groq") as replayed:
        with pytest.raises(BadRequestError, match="did not match schema") as caught:
            await replayed.whole(0)
        reply = await replayed.whole(1)
        recorded = [i.request for i in replayed.server.interactions]
        sent = [r.json for r in replayed.server.requests]
    assert caught.value.status_code == 400
    assert not caught.value.retryable
    assert reply.tool_calls == (
        ToolCall(
            "fc_311ba17b-89f9-48d3-8fd9-7e74a1264855", "get_something_by_name", '{"name":"test"}'
        ),
    )
    assert (reply.content, reply.finish_reason) == ("", "tool_calls")
    assert reply.usage == Usage(301, 52, reasoning_tokens=22)
    assert reply.reasoning.startswith("We need to call with correct param")
    for body, was in zip(sent, recorded, strict=False):
        for name in ("model", "messages", "tools", "tool_choice"):
            assert body[name] == was[name]


def chunks(interaction):
    for line in interaction.body.decode().splitlines():
        if line.startswith("data: {"):
            yield json.loads(line[6:])


STREAMS = [
    # recording, number, content, finish reason, model, usage, tool calls
    (
        "test_chat_completion_streaming", 0, '"This is a test."', "stop", "gpt-4-0613",
        Usage(12, 5), (),
    ),
    (
        "multiple_tools_streaming_with_content", 0, "", "tool_calls", "gpt-4o-mini-2024-07-18",
        Usage(75, 51),
        (
            ToolCall("call_fHCjJqt9Pysde6vcJcvbXGBx", "get_current_weather", '{"location": "Seattle, WA"}'),
            ToolCall("call_3J9foSw3CUb48lrqIXoTky6U", "get_current_weather", '{"location": "San Francisco, CA"}'),
        ),
    ),
    (
        "run_stream_sync_streams_real_model", 0, "", "tool_calls", "gpt-4o-mini-2024-07-18",
        Usage(53, 15), (ToolCall("call_ZR5UUuTt3pf61kjwAJIYdVMj", "get_capital", '{"country":"UK"}'),),
    ),
    (
        "run_stream_sync_streams_real_model", 1, "The capital of the UK is London.", "stop",
        "gpt-4o-mini-2024-07-18", Usage(78, 9), (),
    ),
    ("test_chat__test_chat_streaming", 0, None, "stop", "gpt-3.5-turbo", Usage(10, 50), ()),
]  # fmt: skip


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("recording", STREAMS, ids=lambda r: f"{r[0]}-{r[1]}")
async def test_streams_cut_anywhere(recording, split):
    part, number, content, finish, model, usage, tools = recording
    if split == 1 and part == "test_chat__test_chat_streaming":
        split = 97  # 47 kB byte by byte is slow and shows nothing more
    async with Replayed(part, split=split) as replayed:
        replayed.server._next = number
        deltas = await replayed.streamed(number)
        recorded = replayed.server.interactions[number]
    reply = deltas[-1].reply
    if content is None:
        content = "".join(
            choice["delta"].get("content") or ""
            for chunk in chunks(recorded)
            for choice in chunk["choices"]
        )
    assert reply.content == content == "".join(d.content for d in deltas)
    assert (reply.finish_reason, reply.model, reply.usage) == (finish, model, usage)
    assert reply.tool_calls == tools
    first = next(chunks(recorded))
    assert (deltas[0].model, deltas[0].response_id) == (first["model"], first["id"])
    assert [d.reply for d in deltas[:-1]] == [None] * (len(deltas) - 1)


@pytest.mark.parametrize("split", SPLITS)
async def test_a_responses_stream_with_a_tool_call(split):
    async with Replayed("responses_streaming_usage", split=split, api="responses") as replayed:
        deltas = await replayed.streamed(0)
    reply = deltas[-1].reply
    assert reply.tool_calls == (
        ToolCall("call_CWXgs68YprAjp6t0371hiPOI", "final_result", '{"result":6666}'),
    )
    assert reply.finish_reason == "tool_calls"
    assert reply.usage == Usage(53, 469, reasoning_tokens=448)
    assert (reply.model, reply.service_tier) == ("gpt-5-2025-08-07", "flex")
    assert deltas[0].model == "gpt-5-2025-08-07"


@pytest.mark.parametrize("split", SPLITS)
async def test_an_error_in_a_200_stream_is_an_error_and_its_usage_is_not_lost(split):
    deltas = []
    async with Replayed("openrouter_stream_error", split=split) as replayed:
        with pytest.raises(BadRequestError, match="Token limit reached") as caught:
            await replayed.streamed(0, into=deltas)
    assert caught.value.status_code == 400
    assert deltas[-1].reply is None
    # It states 11 reasoning tokens among 10: no part exceeds its whole.
    assert deltas[-1].usage == Usage(43, 10, reasoning_tokens=10)
    assert deltas[-1].raw_usage["total_tokens"] == 53
