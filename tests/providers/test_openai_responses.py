"""The Responses API: conversions both ways, and its event stream."""

from __future__ import annotations

import contextlib

import pytest

from novellus_lab.errors import (
    InvalidRequestError,
    ProviderUnavailableError,
    RateLimitError,
    UnsupportedParameterError,
)
from novellus_lab.providers.base import Call, ProviderConfig
from novellus_lab.providers.openai import OpenAIProvider
from novellus_lab.types import ToolCall, Usage
from tests.loopback import Scripted, ScriptedServer, sse

ASK = [{"role": "user", "content": "hi"}]
USAGE = {
    "input_tokens": 40,
    "input_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 4},
    "output_tokens": 20,
    "output_tokens_details": {"reasoning_tokens": 8},
    "total_tokens": 60,
}


def response(*output, **fields):
    return {
        "id": "resp_1",
        "object": "response",
        "model": "gpt-5-2025-08-07",
        "status": "completed",
        "error": None,
        "output": list(output),
        "service_tier": "default",
        "usage": USAGE,
    } | fields


def said(*texts):
    return {
        "type": "message",
        "role": "assistant",
        "content": [{"type": "output_text", "text": t, "annotations": []} for t in texts],
    }


@contextlib.asynccontextmanager
async def served(script):
    with ScriptedServer(script) as server:
        provider = OpenAIProvider(
            ProviderConfig("openai", base_url=server.url + "/v1", options={"api": "responses"})
        )
        try:
            yield provider, server
        finally:
            await provider.aclose()


async def sent(call):
    async with served(Scripted(body=response(said("ok")))) as (provider, server):
        reply = await provider.complete(call)
        assert server.requests[0].path == "/v1/responses"
        return server.requests[0].json, reply


async def answered(body):
    async with served(Scripted(body=body)) as (provider, _):
        return await provider.complete(Call("gpt-5", ASK))


async def streamed(*events, **scripted):
    async with served(Scripted(pieces=sse(*events, event_names=True), **scripted)) as (provider, _):
        return [d async for d in provider.stream(Call("gpt-5", ASK, timeout_s=20))]


async def test_a_conversation_with_tools_and_pictures():
    body, reply = await sent(
        Call(
            "gpt-5",
            [
                {"role": "system", "content": "Be brief."},
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "what is this?"},
                        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA", "detail": "low"}},
                        {"type": "image_url", "image_url": "https://example.org/a.png"},
                        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:…"}},
                    ],
                },
                {
                    "role": "assistant",
                    "content": "Let me look.",
                    "tool_calls": [
                        {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
                    ],
                },
                {"role": "tool", "tool_call_id": "c1", "content": "a cat"},
                {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]},
                {"role": "user", "content": "sure?"},
            ],
            max_tokens=50,
            tools=[
                {"type": "function", "function": {"name": "look", "description": "d", "parameters": {"type": "object"}}},
                {"type": "web_search"},
            ],
            tool_choice={"type": "function", "function": {"name": "look"}},
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "a", "schema": {"type": "object"}, "strict": True},
            },
            params={"reasoning_effort": "low", "verbosity": "low", "api": "responses"},
        )
    )  # fmt: skip
    assert body == {
        "model": "gpt-5",
        "store": False,
        "input": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "what is this?"},
                    {"type": "input_image", "image_url": "data:image/png;base64,AA", "detail": "low"},
                    {"type": "input_image", "image_url": "https://example.org/a.png", "detail": "auto"},
                    {"type": "input_file", "filename": "a.pdf", "file_data": "data:…"},
                ],
            },
            {"role": "assistant", "content": "Let me look."},
            {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "a cat"},
            {"role": "assistant", "content": [{"type": "output_text", "text": "A cat."}]},
            {"role": "user", "content": "sure?"},
        ],
        "max_output_tokens": 50,
        "tools": [
            {"type": "function", "name": "look", "description": "d", "parameters": {"type": "object"}, "strict": False},
            {"type": "web_search"},
        ],
        "tool_choice": {"type": "function", "name": "look"},
        "text": {
            "verbosity": "low",
            "format": {"type": "json_schema", "name": "a", "schema": {"type": "object"}, "strict": True},
        },
        "reasoning": {"effort": "low"},
    }  # fmt: skip
    assert reply.content == "ok"


async def test_storing_and_a_plain_json_format_on_request():
    body, _ = await sent(
        Call("gpt-4o", ASK, temperature=0.3, response_format={"type": "json_object"}, params={"store": True})
    )  # fmt: skip
    assert body["store"] is True
    assert body["text"] == {"format": {"type": "json_object"}}
    assert body["temperature"] == 0.3


@pytest.mark.parametrize("asked", [{"stop": ("a",)}, {"seed": 1}, {"params": {"n": 2}}])
async def test_what_this_api_lacks_is_refused_or_dropped(asked):
    with pytest.raises(UnsupportedParameterError):
        await sent(Call("gpt-4o", ASK, **asked))
    body, reply = await sent(Call("gpt-4o", ASK, on_unsupported="drop", **asked))
    assert body.keys() == {"model", "input", "store"}
    assert reply.dropped_params == (next(iter(asked.get("params", asked))),)


async def test_sampling_of_a_reasoning_model_is_refused():
    for params in ({}, {"reasoning": {"effort": "high"}}):
        model = "gpt-5" if not params else "gpt-5.1"
        with pytest.raises(UnsupportedParameterError, match="temperature"):
            await sent(Call(model, ASK, temperature=0.1, params=params))


async def test_content_without_a_form_here_is_named():
    audio = [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]
    with pytest.raises(InvalidRequestError, match="input_audio"):
        await sent(Call("gpt-4o", audio))


async def test_an_answer_with_reasoning_tools_and_a_search():
    reply = await answered(
        response(
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "I think"}]},
            {"type": "web_search_call", "action": {"type": "search"}},
            {"type": "web_search_call", "action": {"type": "open_page"}},
            said("Two ", "parts."),
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a":1}'},
        )
    )
    assert reply.content == "Two parts."
    assert reply.reasoning == "I think"
    assert reply.tool_calls == (ToolCall("c1", "f", '{"a":1}'),)
    assert reply.finish_reason == "tool_calls"
    assert reply.usage == Usage(40, 20, 30, 4, reasoning_tokens=8, web_searches=1)
    assert reply.raw_usage == USAGE
    assert (reply.model, reply.response_id) == ("gpt-5-2025-08-07", "resp_1")


async def test_searches_as_the_response_states_them():
    stated = {"web_search": {"num_requests": 3}}
    assert (await answered(response(said("a"), tool_usage=stated))).usage.web_searches == 3


@pytest.mark.parametrize(
    ("fields", "finish"),
    [
        ({"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}, "length"),
        ({"status": "incomplete", "incomplete_details": {"reason": "content_filter"}}, "content_filter"),
        ({"status": "completed"}, "stop"),
    ],
)  # fmt: skip
async def test_how_it_ended(fields, finish):
    assert (await answered(response(said("a"), **fields))).finish_reason == finish


async def test_a_refusal():
    refusal = {"type": "message", "content": [{"type": "refusal", "refusal": "No."}]}
    reply = await answered(response(refusal))
    assert (reply.content, reply.finish_reason) == ("No.", "content_filter")


async def test_failures_in_a_200():
    slow = {"code": "rate_limit_exceeded", "message": "slow down"}
    with pytest.raises(RateLimitError, match="slow down"):
        await answered(response(status="failed", error=slow))
    with pytest.raises(ProviderUnavailableError, match="queued"):
        await answered(response(status="queued"))
    with pytest.raises(ProviderUnavailableError, match="can't be read"):
        await answered({"hello": "world"})


CREATED = {"type": "response.created", "response": response(status="in_progress", usage=None)}


async def test_a_stream_of_text_and_reasoning():
    deltas = await streamed(
        CREATED,
        {"type": "response.in_progress", "response": {}},
        {"type": "response.reasoning_summary_text.delta", "delta": "hm"},
        {"type": "response.output_text.delta", "delta": "Hel"},
        {"type": "response.output_text.delta", "delta": "lo"},
        {"type": "response.some_new_event", "anything": 1},
        {"type": "response.completed", "response": response(said("Hello"))},
    )
    assert "".join(d.content for d in deltas) == "Hello"
    assert "".join(d.reasoning for d in deltas) == "hm"
    assert (deltas[0].model, deltas[0].response_id) == ("gpt-5-2025-08-07", "resp_1")
    reply = deltas[-1].reply
    assert (reply.content, reply.reasoning) == ("Hello", "hm")
    assert reply.usage == Usage(40, 20, 30, 4, reasoning_tokens=8)


async def test_a_last_event_without_the_output_loses_nothing():
    deltas = await streamed(
        {"type": "response.output_text.delta", "delta": "Hello"},
        {"type": "response.completed", "response": response()},
    )
    assert deltas[-1].reply.content == "Hello"


async def test_a_stream_that_was_cut_short_by_the_limit():
    details = {"reason": "max_output_tokens"}
    deltas = await streamed(
        {"type": "response.incomplete", "response": response(said("He"), status="incomplete", incomplete_details=details)}
    )  # fmt: skip
    assert (deltas[-1].reply.content, deltas[-1].reply.finish_reason) == ("He", "length")


@pytest.mark.parametrize(
    "event",
    [
        {"type": "error", "code": "rate_limit_exceeded", "message": "slow down", "param": None},
        {"type": "error", "error": {"type": "tokens", "code": "rate_limit_exceeded", "message": "slow down"}},
        {
            "type": "response.failed",
            "response": response(status="failed", error={"code": "rate_limit_exceeded", "message": "slow down"}),
        },
    ],
)  # fmt: skip
async def test_errors_in_a_stream(event):
    with pytest.raises(RateLimitError, match="slow down"):
        await streamed(CREATED, event)


async def test_a_stream_without_its_last_event_is_an_error():
    piece = {"type": "response.output_text.delta", "delta": "Hel"}
    for end in ("close", "abort"):
        with pytest.raises(ProviderUnavailableError):
            await streamed(CREATED, piece, end=end)
