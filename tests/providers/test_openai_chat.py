"""The accents of compatible servers, whole and streamed, and streams that end badly."""

from __future__ import annotations

import asyncio
import contextlib
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from novellus_lab.errors import (
    ProviderTimeoutError,
    ProviderUnavailableError,
    RateLimitError,
)
from novellus_lab.providers.base import Call, ProviderConfig
from novellus_lab.providers.openai import OpenAIProvider
from novellus_lab.providers.openai_chat import StreamReader
from novellus_lab.providers.usage import openai_chat_usage
from novellus_lab.types import ToolCall, Usage
from tests.loopback import (
    Scripted,
    ScriptedServer,
    openai_chat_reply,
    openai_chat_stream,
    openai_usage,
    sse,
)


async def collect(stream, into):
    """Read a stream; what came before it failed stays in `into`."""
    async for delta in stream:
        into.append(delta)


CALL = Call("m", [{"role": "user", "content": "hi"}], timeout_s=20.0)


@contextlib.asynccontextmanager
async def served(script):
    with ScriptedServer(script) as server:
        provider = OpenAIProvider(ProviderConfig("openai", base_url=server.url + "/v1"))
        try:
            yield provider, server
        finally:
            await provider.aclose()


async def whole(script):
    async with served(script) as (provider, _):
        return await provider.complete(CALL)


async def streamed(script):
    async with served(script) as (provider, _):
        return [delta async for delta in provider.stream(CALL)]


def answer(**body):
    return Scripted(body=body)


def message(**fields):
    return answer(choices=[{"message": fields, "finish_reason": "stop"}])


# Whole answers.


async def test_the_least_that_a_server_can_say():
    reply = await whole(message(content="hi"))
    assert (reply.content, reply.model, reply.response_id) == ("hi", "m", None)
    assert (reply.usage, reply.raw_usage) == (Usage(), {})
    assert (reply.finish_reason, reply.service_tier) == ("stop", None)


@pytest.mark.parametrize(
    ("fields", "content", "reasoning"),
    [
        ({"content": None}, "", None),
        ({}, "", None),
        ({"content": "a", "reasoning_content": "why"}, "a", "why"),
        ({"content": "a", "reasoning": "why"}, "a", "why"),
        (
            {
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "why"}]},
                    {"type": "text", "text": "a"},
                ]
            },
            "a",
            "why",
        ),
    ],
)
async def test_content_in_every_form(fields, content, reasoning):
    reply = await whole(message(**fields))
    assert (reply.content, reply.reasoning) == (content, reasoning)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("stop", "stop"), ("length", "length"), ("tool_calls", "tool_calls"),
        ("function_call", "tool_calls"), ("content_filter", "content_filter"),
        ("model_length", "length"), ("eos", "stop"), ("insufficient_system_resource", "error"),
        (None, "unknown"), ("something new", "unknown"),
    ],
)  # fmt: skip
async def test_finish_reasons(said, meant):
    reply = await whole(openai_chat_reply(finish_reason=said))
    assert reply.finish_reason == meant


async def test_an_answer_that_ends_in_an_error_counts_for_what_it_has():
    with pytest.raises(ProviderUnavailableError, match="gave up"):
        await whole(openai_chat_reply("", finish_reason="error"))
    for said in ("error", "insufficient_system_resource"):
        reply = await whole(openai_chat_reply("half an", finish_reason=said))
        assert (reply.content, reply.finish_reason) == ("half an", "error")
        deltas = await streamed(openai_chat_stream(["half an"], finish_reason=said))
        assert (deltas[-1].reply.content, deltas[-1].reply.finish_reason) == ("half an", "error")


async def test_a_refusal_is_content_that_was_not_asked_for():
    reply = await whole(openai_chat_reply(None, message={"refusal": "I can't help with that."}))
    assert reply.content == "I can't help with that."
    assert reply.finish_reason == "content_filter"
    assert reply.usage == Usage(10, 5)


async def test_tool_calls_without_ids_with_objects_and_the_old_form():
    reply = await whole(
        message(
            content=None,
            tool_calls=[
                {"function": {"name": "a", "arguments": {"x": 1}}},
                {"id": "", "function": {"name": "b", "arguments": None}},
            ],
        )
    )
    assert reply.tool_calls == (ToolCall("call_0", "a", '{"x":1}'), ToolCall("call_1", "b", ""))
    assert reply.finish_reason == "tool_calls"
    old = await whole(message(content=None, function_call={"name": "a", "arguments": "{}"}))
    assert old.tool_calls == (ToolCall("call_0", "a", "{}"),)


async def test_no_choices_but_a_bill_is_an_empty_answer():
    reply = await whole(answer(id="x", choices=[], usage=openai_usage(9, 0)))
    assert (reply.content, reply.finish_reason) == ("", "unknown")
    assert reply.usage == Usage(9, 0)


@pytest.mark.parametrize(
    "body", ["{}", "[]", "null", "<html><title>Sign in</title></html>", '{"choices": [', "", "42"]
)
async def test_a_200_that_is_no_answer_is_a_provider_out_of_order(body):
    with pytest.raises(ProviderUnavailableError, match="can't be read") as caught:
        await whole(Scripted(body=body, content_type="text/html"))
    assert caught.value.retryable


async def test_an_error_in_a_200_body():
    for said in (
        answer(error={"code": 429, "message": "slow down"}),
        answer(choices=[{"error": {"code": 429, "message": "slow down"}, "message": {}}]),
    ):
        with pytest.raises(RateLimitError, match="slow down") as caught:
            await whole(said)
        assert caught.value.status_code == 429


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (
            {
                "prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150,
                "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 30, "audio_tokens": 5},
                "completion_tokens_details": {"reasoning_tokens": 20, "audio_tokens": 7},
            },
            Usage(100, 50, 60, 30, reasoning_tokens=20, input_audio_tokens=5, output_audio_tokens=7),
        ),
        # DeepSeek
        (
            {"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 105,
             "prompt_cache_hit_tokens": 64, "prompt_cache_miss_tokens": 36},
            Usage(100, 5, cached_input_tokens=64),
        ),
        # Moonshot, Mistral
        ({"prompt_tokens": 9, "completion_tokens": 5, "cached_tokens": 4}, Usage(9, 5, 4)),
        ({"prompt_tokens": 9, "completion_tokens": 5, "num_cached_tokens": 4}, Usage(9, 5, 4)),
        # xAI: reasoning is beside the completion, and in the total
        (
            {"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 135,
             "completion_tokens_details": {"reasoning_tokens": 94}},
            Usage(32, 103, reasoning_tokens=94),
        ),
        # Google's compatible endpoint: thinking shows in the total alone
        (
            {"prompt_tokens": 8, "completion_tokens": 9, "total_tokens": 45},
            Usage(8, 37, reasoning_tokens=28),
        ),
        (
            {"prompt_tokens": 8, "completion_tokens": 9, "total_tokens": 17,
             "server_tool_use_details": {"web_search_requests": 2}},
            Usage(8, 9, web_searches=2),
        ),
        ({"prompt_tokens": 8, "completion_tokens": None, "prompt_tokens_details": None}, Usage(8)),
        ({"prompt_tokens": "many"}, Usage()),
    ],
)  # fmt: skip
def test_usage_of_every_accent(usage, expected):
    assert openai_chat_usage(usage) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"cost": 0.0076509169000000005', Decimal("0.0076509169000000005")),
        ('"cost": 1.13e-05', Decimal("0.0000113")),
        ('"cost": 0', Decimal(0)),
        ('"cost": null', None),
        ('"cost": "free"', None),
        ('"cost": {"total_cost": 0.006}', Decimal("0.006")),
        (
            '"cost": 0.05, "is_byok": true, "cost_details": {"upstream_inference_cost": 0.95}',
            Decimal("1.00"),
        ),
        (
            '"cost": 0.05, "is_byok": false, "cost_details": {"upstream_inference_cost": 0.95}',
            Decimal("0.05"),
        ),
    ],
)
async def test_a_billed_cost_never_passes_through_a_float(text, expected):
    usage = '"usage": {"prompt_tokens": 1, "completion_tokens": 1, %s}' % text  # noqa: UP031
    reply = await whole(Scripted(body='{"choices": [{"message": {"content": "a"}}], %s}' % usage))  # noqa: UP031
    assert reply.billed_cost_usd == expected
    chunk = '{"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}], %s}' % usage  # noqa: UP031
    deltas = await streamed(Scripted(pieces=sse(chunk, done=True)))
    assert deltas[-1].reply.billed_cost_usd == expected


# Streams.


async def test_usage_in_a_last_chunk_of_its_own_or_beside_a_choice():
    usage = openai_usage(30, 4, cached=20, reasoning=2)
    for beside in (False, True):
        deltas = await streamed(openai_chat_stream(usage=usage, usage_with_choices=beside))
        reply = deltas[-1].reply
        assert reply.content == "Hello there."
        assert reply.usage == Usage(30, 4, cached_input_tokens=20, reasoning_tokens=2)
        assert reply.raw_usage == usage
        assert reply.service_tier == "default"


async def test_usage_in_every_chunk_is_a_running_count():
    def chunk(text, tokens, finish=None):
        return {
            "choices": [{"delta": {"content": text}, "finish_reason": finish}],
            "usage": {"prompt_tokens": 3, "completion_tokens": tokens},
        }

    deltas = await streamed(
        Scripted(pieces=sse(chunk("a", 1), chunk("b", 2), chunk("", 3, "stop"), done=True))
    )
    assert [d.usage.output_tokens for d in deltas if d.usage] == [1, 2, 3]
    assert deltas[-1].reply.usage == Usage(3, 3)


async def test_groqs_usage_stands_under_its_own_name():
    last = {
        "choices": [{"delta": {}, "finish_reason": "stop"}],
        "x_groq": {"usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}},
    }
    deltas = await streamed(Scripted(pieces=sse(last, done=True)))
    assert deltas[-1].reply.usage == Usage(3, 4)


async def test_a_stream_without_usage_has_none():
    last = {"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]}
    reply = (await streamed(Scripted(pieces=sse(last, done=True))))[-1].reply
    assert (reply.usage, reply.raw_usage) == (Usage(), {})


async def test_reasoning_streams_beside_the_answer():
    deltas = await streamed(
        Scripted(
            pieces=sse(
                {"choices": [{"delta": {"reasoning_content": "hm"}}]},
                {"choices": [{"delta": {"reasoning": "m"}}]},
                {"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]},
            )
        )
    )
    assert [d.reasoning for d in deltas[:2]] == ["hm", "m"]
    assert (deltas[-1].reply.reasoning, deltas[-1].reply.content) == ("hmm", "a")


def tool_chunks(*calls):
    return [{"choices": [{"index": 0, "delta": {"tool_calls": [c]}}]} for c in calls] + [
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}
    ]


@pytest.mark.parametrize(
    "pieces",
    [
        # OpenAI: an id once, arguments in pieces, interleaved
        tool_chunks(
            {"index": 0, "id": "a", "function": {"name": "f", "arguments": ""}},
            {"index": 1, "id": "b", "function": {"name": "g", "arguments": '{"y"'}},
            {"index": 0, "function": {"arguments": '{"x"'}},
            {"index": 0, "function": {"arguments": ": 1}"}},
            {"index": 1, "function": {"arguments": ": 2}"}},
        ),
        # Google's compatible endpoint: whole calls, all with index 0
        tool_chunks(
            {"index": 0, "id": "a", "function": {"name": "f", "arguments": '{"x": 1}'}},
            {"index": 0, "id": "b", "function": {"name": "g", "arguments": '{"y": 2}'}},
        ),
        # no index at all
        tool_chunks(
            {"id": "a", "function": {"name": "f", "arguments": '{"x"'}},
            {"function": {"arguments": ": 1}"}},
            {"id": "b", "function": {"name": "g", "arguments": '{"y": 2}'}},
        ),
        # the id again with every piece
        tool_chunks(
            {"index": 0, "id": "a", "function": {"name": "f", "arguments": '{"x"'}},
            {"index": 0, "id": "a", "function": {"name": "f", "arguments": ": 1}"}},
            {"index": 1, "id": "b", "function": {"name": "g", "arguments": '{"y": 2}'}},
        ),
    ],
)
async def test_tool_calls_of_every_accent(pieces):
    reply = (await streamed(Scripted(pieces=sse(*pieces, done=True))))[-1].reply
    assert reply.tool_calls == (ToolCall("a", "f", '{"x": 1}'), ToolCall("b", "g", '{"y": 2}'))
    assert reply.finish_reason == "tool_calls"


async def test_a_streamed_refusal():
    deltas = await streamed(
        Scripted(
            pieces=sse(
                {"choices": [{"delta": {"refusal": "I can't "}}]},
                {"choices": [{"delta": {"refusal": "do that."}, "finish_reason": "stop"}]},
            )
        )
    )
    reply = deltas[-1].reply
    assert "".join(d.content for d in deltas) == "I can't do that."
    assert (reply.finish_reason, reply.tool_calls) == ("content_filter", ())


@pytest.mark.parametrize(
    "script",
    [
        openai_chat_stream(finish_reason=None, done=True),
        openai_chat_stream(done=False),
        openai_chat_stream(end="abort", done=False),
    ],
    ids=["[DONE] alone", "finish reason alone", "cut after the finish reason"],
)
async def test_a_stream_is_complete_with_a_finish_reason_or_done(script):
    assert (await streamed(script))[-1].reply.content == "Hello there."


@pytest.mark.parametrize(
    "script",
    [
        openai_chat_stream(finish_reason=None, done=False),
        openai_chat_stream(finish_reason=None, done=False, end="abort"),
        Scripted(pieces=[]),
        Scripted(pieces=sse({"choices": [{"delta": {"content": "a"}}]}, "{not json", done=True)),
        Scripted(pieces=['data: {"choices": [{"del']),
        Scripted(pieces=sse({"choices": [{"delta": {}, "finish_reason": "error"}]}, done=True)),
        Scripted(body="<html><title>Bad gateway</title></html>", content_type="text/html"),
        Scripted(pieces=sse("[1, 2]")),
    ],
    ids=["ends", "cut", "empty", "garbled", "half", "gave up", "html", "no object"],
)
async def test_anything_less_is_an_error(script):
    with pytest.raises(ProviderUnavailableError) as caught:
        await streamed(script)
    assert caught.value.retryable


async def test_what_came_before_an_error_was_seen():
    deltas = []
    async with served(openai_chat_stream(finish_reason=None, done=False)) as (provider, _):
        with pytest.raises(ProviderUnavailableError, match="before the answer was complete"):
            await collect(provider.stream(CALL), deltas)
    assert "".join(d.content for d in deltas) == "Hello there."


async def test_an_error_event_by_name_or_by_body():
    for pieces in (
        ['event: error\ndata: {"code": "rate_limit_exceeded", "message": "slow down"}\n\n'],
        sse({"error": {"type": "rate_limit_error", "message": "slow down"}}),
        sse({"choices": [{"error": {"code": 429, "message": "slow down"}, "delta": {}}]}),
    ):
        with pytest.raises(RateLimitError, match="slow down"):
            await streamed(Scripted(pieces=pieces))


async def test_an_error_as_a_plain_body_instead_of_a_stream():
    with pytest.raises(RateLimitError, match="slow down"):
        await streamed(answer(error={"code": 429, "message": "slow down"}))


async def test_a_server_that_does_not_stream_answers_whole():
    deltas = await streamed(openai_chat_reply("all at once"))
    assert [d.content for d in deltas] == ["all at once", ""]
    assert deltas[-1].reply.usage == Usage(10, 5)


async def test_comments_keep_a_stream_alive_and_mean_nothing():
    pieces = [": OPENROUTER PROCESSING\n\n", ":\n", *openai_chat_stream().pieces]
    assert (await streamed(Scripted(pieces=pieces)))[-1].reply.content == "Hello there."


async def test_closing_the_iterator_closes_the_connection():
    async with served(openai_chat_stream(end="hang")) as (provider, server):
        stream = provider.stream(CALL)
        assert (await anext(stream)).model == "gpt-4o-2024-08-06"
        await stream.aclose()
        assert await server.wait_client_left()


async def test_cancelling_closes_the_connection():
    for end in (
        openai_chat_stream(finish_reason=None, end="hang", done=False),
        Scripted(end="hang"),
    ):
        async with served(end) as (provider, server):

            async def read(provider=provider):
                async for _ in provider.stream(CALL):
                    pass

            task = asyncio.create_task(read())
            while not server.requests:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await server.wait_client_left()


async def test_a_call_that_takes_too_long_is_a_timeout():
    short = Call("m", CALL.messages, timeout_s=0.5)
    async with served(Scripted(end="hang")) as (provider, server):
        with pytest.raises(ProviderTimeoutError, match="in time") as caught:
            await provider.complete(short)
        assert caught.value.retryable
        assert await server.wait_client_left()


async def test_the_deadline_holds_for_the_whole_stream():
    """Each piece comes soon enough; all of them together do not."""
    slow = openai_chat_stream(["a"] * 100, between_s=0.05)
    async with served(slow) as (provider, server):
        got = []
        with pytest.raises(ProviderTimeoutError):
            await collect(provider.stream(Call("m", CALL.messages, timeout_s=1.0)), got)
        assert got
        assert await server.wait_client_left()


@given(text=st.text(min_size=1), sizes=st.lists(st.integers(1, 5), min_size=1, max_size=9))
def test_any_text_in_any_pieces_comes_out_whole(text, sizes):
    import orjson

    clean = text.encode("utf-8", "ignore").decode()
    reader = StreamReader({}, provider="openai", model="m")
    said, at, n = [], 0, 0
    while at < len(clean):
        piece = clean[at : at + sizes[n % len(sizes)]]
        at, n = at + len(piece), n + 1
        data = orjson.dumps({"choices": [{"delta": {"content": piece}}]})
        said += [d.content for d in reader.feed(None, data)]
    assert not reader.complete
    list(reader.feed(None, b"[DONE]"))
    assert reader.complete
    assert reader.reply().content == clean == "".join(said)
