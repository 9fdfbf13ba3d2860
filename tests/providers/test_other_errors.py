"""How Anthropic, Google and Ollama say no, hang, break off or talk nonsense; one hierarchy for all."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import traceback
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from pydantic import SecretStr

from novellus_lab.errors import (
    AuthenticationError,
    BadRequestError,
    ContentFilteredError,
    ContextWindowExceededError,
    ProviderError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    RateLimitError,
    UnsupportedParameterError,
)
from novellus_lab.providers.anthropic import AnthropicProvider
from novellus_lab.providers.base import Call, ProviderConfig
from novellus_lab.providers.google import GoogleProvider
from novellus_lab.providers.ollama import OllamaProvider
from tests.loopback import Scripted, ScriptedServer, sse

KEY = "the-whole-key-Zx81-0042"
USER = [{"role": "user", "content": "hi"}]
CALL = Call("the-model", USER, timeout_s=20.0)
PROVIDERS = {"anthropic": AnthropicProvider, "google": GoogleProvider, "ollama": OllamaProvider}
ALL = sorted(PROVIDERS)


@contextlib.asynccontextmanager
async def provider_at(name, url, **more):
    provider = PROVIDERS[name](ProviderConfig(name, base_url=url, api_key=SecretStr(KEY), **more))
    try:
        yield provider
    finally:
        await provider.aclose()


async def read(provider, call=CALL):
    return [delta async for delta in provider.stream(call)]


def said_by(name, status, message, kind="", **more):
    """An error as this provider sends it."""
    headers = more.pop("headers", {})
    if name == "anthropic":
        body = {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}
    elif name == "google":
        error = {"code": status, "message": message, "status": kind, **more}
        body = {"error": error}
    else:
        body = {"error": message}
    return Scripted(status, body=body, headers=headers)


async def failure(name, script):
    """What `complete` and `stream` raise; they must agree, ask once each, and keep the key."""
    seen = []
    with ScriptedServer(script) as server:
        async with provider_at(name, server.url) as provider:
            for call in (provider.complete(CALL), read(provider)):
                with pytest.raises(ProviderError) as caught:
                    await call
                seen.append(caught.value)
            shown = repr(provider) + repr(provider.config)
    whole, streamed = seen
    assert type(whole) is type(streamed)
    assert (str(whole), whole.retryable, whole.status_code) == (
        str(streamed), streamed.retryable, streamed.status_code,
    )  # fmt: skip
    assert len(server.requests) == 2  # the SDK's own retries are off
    assert whole.provider == name
    for error in seen:
        shown += "".join(traceback.format_exception(error)) + repr(error)
    assert KEY not in shown
    return whole


GOOGLE_KEY = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}]
DAY = [{"@type": "type.googleapis.com/google.rpc.QuotaFailure",
        "violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]},
       {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "31.5s"}]  # fmt: skip
CASES = [
    # provider, status, message, its own kind, our class, retryable, more
    ("anthropic", 401, f"invalid x-api-key {KEY}", "authentication_error", AuthenticationError, False, {}),
    ("anthropic", 403, "no access", "permission_error", AuthenticationError, False, {}),
    ("anthropic", 429, "slow", "rate_limit_error", RateLimitError, True, {}),
    ("anthropic", 402, "pay", "billing_error", RateLimitError, False, {}),
    ("anthropic", 400, "Your credit balance is too low to access the Anthropic API.",
     "invalid_request_error", RateLimitError, False, {}),
    ("anthropic", 400, "prompt is too long: 210000 tokens > 200000 maximum",
     "invalid_request_error", ContextWindowExceededError, False, {}),
    ("anthropic", 400, "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000",
     "invalid_request_error", ContextWindowExceededError, False, {}),
    ("anthropic", 400, "Output blocked by content filtering policy",
     "invalid_request_error", ContentFilteredError, False, {}),
    ("anthropic", 400, "messages: roles must alternate", "invalid_request_error", BadRequestError, False, {}),
    ("anthropic", 404, "model: claude-9", "not_found_error", BadRequestError, False, {}),
    ("anthropic", 413, "Request exceeds the maximum size", "request_too_large", BadRequestError, False, {}),
    ("anthropic", 500, "Internal server error", "api_error", ProviderUnavailableError, True, {}),
    ("anthropic", 504, "took too long", "timeout_error", ProviderTimeoutError, True, {}),
    ("anthropic", 529, "Overloaded", "overloaded_error", ProviderUnavailableError, True, {}),
    ("google", 400, f"API key not valid: {KEY}", "INVALID_ARGUMENT", AuthenticationError, False,
     {"details": GOOGLE_KEY}),
    ("google", 400, "User location is not supported for the API use.", "FAILED_PRECONDITION",
     AuthenticationError, False, {}),
    ("google", 401, "no", "UNAUTHENTICATED", AuthenticationError, False, {}),
    ("google", 403, "no", "PERMISSION_DENIED", AuthenticationError, False, {}),
    ("google", 429, "Resource has been exhausted", "RESOURCE_EXHAUSTED", RateLimitError, True, {}),
    ("google", 429, "You exceeded your quota", "RESOURCE_EXHAUSTED", RateLimitError, False, {"details": DAY}),
    ("google", 400, "The input token count (2000000) exceeds the maximum number of tokens allowed (1048576).",
     "INVALID_ARGUMENT", ContextWindowExceededError, False, {}),
    ("google", 400, "Invalid value at 'contents'", "INVALID_ARGUMENT", BadRequestError, False, {}),
    ("google", 404, "models/x is not found", "NOT_FOUND", BadRequestError, False, {}),
    ("google", 500, "An internal error", "INTERNAL", ProviderUnavailableError, True, {}),
    ("google", 503, "The model is overloaded.", "UNAVAILABLE", ProviderUnavailableError, True, {}),
    ("google", 504, "too slow", "DEADLINE_EXCEEDED", ProviderTimeoutError, True, {}),
    ("ollama", 401, f"unauthorized: {KEY}", "", AuthenticationError, False, {}),
    ("ollama", 403, "this model requires a subscription", "", AuthenticationError, False, {}),
    ("ollama", 429, "too many concurrent requests", "", RateLimitError, True, {}),
    ("ollama", 400, "the input length exceeds the context length", "", ContextWindowExceededError, False, {}),
    ("ollama", 500, "input exceeds maximum context length", "", ContextWindowExceededError, False, {}),
    ("ollama", 400, "invalid options: num_ctx", "", BadRequestError, False, {}),
    ("ollama", 404, "model 'the-model' not found", "", BadRequestError, False, {}),
    ("ollama", 500, "llama runner process has terminated", "", ProviderUnavailableError, True, {}),
    ("ollama", 503, "server busy, please try again", "", ProviderUnavailableError, True, {}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0]}-{c[1]}-{c[4].__name__}")
async def test_errors_by_class(case):
    name, status, message, kind, ours, retryable, more = case
    error = await failure(name, said_by(name, status, message, kind, **more))
    assert type(error) is ours
    assert error.retryable is retryable
    assert error.status_code == status
    assert f"{name} model 'the-model'" in str(error)
    if KEY in message:
        assert "[key]" in str(error)


async def test_a_model_that_ollama_has_not_pulled_is_told_how_to_pull_it():
    error = await failure("ollama", said_by("ollama", 404, 'model "the-model" not found'))
    assert "`ollama pull the-model`" in str(error)
    error = await failure(
        "ollama", Scripted(404, body="404 page not found", content_type="text/plain")
    )
    assert "check the model's name and base_url" in str(error)


async def test_tools_for_a_model_that_can_use_none_go_to_another_model():
    said = "registry.ollama.ai/library/gemma:latest does not support tools"
    error = await failure("ollama", said_by("ollama", 400, said))
    assert isinstance(error, UnsupportedParameterError)  # what makes the router try the next


async def test_anthropics_own_id_of_the_call_is_kept_for_its_support():
    error = await failure(
        "anthropic", said_by("anthropic", 500, "x", "api_error", headers={"request-id": "req_7"})
    )
    assert error.provider_request_id == "req_7"


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("status", [429, 503])
async def test_how_long_to_wait(name, status):
    kind = "rate_limit_error" if name == "anthropic" else "RESOURCE_EXHAUSTED"
    error = await failure(name, said_by(name, status, "slow", kind, headers={"retry-after": "7.5"}))
    assert error.retry_after_s == 7.5
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    error = await failure(name, said_by(name, status, "slow", kind, headers={"retry-after": later}))
    assert 30 < error.retry_after_s <= 90
    error = await failure(name, said_by(name, status, "slow", kind))
    assert error.retry_after_s is None


async def test_how_long_google_says_to_wait():
    error = await failure(
        "google", said_by("google", 429, "slow", "RESOURCE_EXHAUSTED", details=DAY)
    )
    assert error.retry_after_s == 31.5


GARBAGE = [
    (502, "<html><head><title>502 Bad Gateway</title></head></html>", "text/html"),
    (500, "", "text/plain"),
    (400, "null", "application/json"),
    (400, "[]", "application/json"),
    (400, '"words"', "application/json"),
    (400, '{"error": "just words"}', "application/json"),
    (400, '{"error": {"message": {"a": 1}, "details": [3, {"violations": [1]}]}}', "application/json"),
    (500, b"\xff\xfe\x00", "application/octet-stream"),
]  # fmt: skip


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(("status", "body", "kind"), GARBAGE)
async def test_refusals_that_can_not_be_read(name, status, body, kind):
    error = await failure(name, Scripted(status, body=body, content_type=kind))
    assert type(error) is (BadRequestError if status == 400 else ProviderUnavailableError)
    if name != "google" or kind != "application/octet-stream":  # its SDK fails before it tells
        assert error.status_code == status
    if status == 502:
        assert "502 Bad Gateway" in str(error)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    "body", ["<html><title>Sign in</title></html>", "[]", "null", "42", "", '{"a": ', "{}"]
)
async def test_a_200_that_is_no_answer_is_a_provider_out_of_order(name, body):
    with ScriptedServer(Scripted(body=body)) as server:
        async with provider_at(name, server.url) as provider:
            for call in (provider.complete(CALL), read(provider)):
                with pytest.raises(ProviderUnavailableError) as caught:
                    await call
                assert caught.value.retryable


IN_STREAMS = [
    ("anthropic", {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
     ProviderUnavailableError),
    ("anthropic", {"type": "error", "error": {"type": "rate_limit_error", "message": "slow"}},
     RateLimitError),
    ("anthropic", {"type": "error", "error": {"type": "invalid_request_error", "message": "bad"}},
     BadRequestError),
    ("anthropic", {"type": "error", "error": {"type": "authentication_error", "message": KEY}},
     AuthenticationError),
    ("anthropic", {"type": "error", "error": {"type": "timeout_error", "message": "slow"}},
     ProviderTimeoutError),
    ("anthropic", {"type": "error"}, ProviderUnavailableError),
    ("google", {"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}},
     ProviderUnavailableError),
    ("google", {"error": {"code": 429, "message": "slow", "status": "RESOURCE_EXHAUSTED"}},
     RateLimitError),
    ("google", [{"error": {"code": 400, "message": f"bad {KEY}", "status": "INVALID_ARGUMENT"}}],
     BadRequestError),
    ("ollama", {"error": "an error was encountered while running the model: CUDA error"},
     ProviderUnavailableError),
    ("ollama", {"error": "prompt exceeds the context length"}, ContextWindowExceededError),
    ("ollama", {"error": f"key {KEY}"}, ProviderUnavailableError),
]  # fmt: skip
FIRST = {
    "anthropic": [
        {"type": "message_start", "message": {"id": "m", "model": "the-model", "content": [],
                                              "usage": {"input_tokens": 9, "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hel"}},
    ],
    "google": [{"candidates": [{"content": {"parts": [{"text": "Hel"}]}}],
                "usageMetadata": {"promptTokenCount": 9}}],
    "ollama": [{"model": "the-model", "message": {"content": "Hel"}, "done": False}],
}  # fmt: skip


def pieces(name, *events):
    if name == "ollama":
        return [json.dumps(event) + "\n" for event in events]
    return sse(*events)


def kind_of(name):
    return "application/x-ndjson" if name == "ollama" else "text/event-stream"


@pytest.mark.parametrize("case", IN_STREAMS, ids=lambda c: f"{c[0]}-{c[2].__name__}")
async def test_an_error_in_a_200_stream(case):
    name, event, ours = case
    script = Scripted(pieces=pieces(name, *FIRST[name], event), content_type=kind_of(name))
    deltas = []
    with ScriptedServer(script) as server:
        async with provider_at(name, server.url) as provider:
            with pytest.raises(ProviderError) as caught:
                async for delta in provider.stream(CALL):
                    deltas.append(delta)  # one by one: those before the failure count
    assert type(caught.value) is ours
    assert "".join(d.content for d in deltas) == "Hel"
    assert KEY not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("case", IN_STREAMS, ids=lambda c: f"{c[0]}-{c[2].__name__}")
async def test_an_error_in_a_200_body(case):
    name, event, ours = case
    if event == {"type": "error"}:
        ours = ProviderUnavailableError
    with ScriptedServer(Scripted(body=event)) as server:
        async with provider_at(name, server.url) as provider:
            for call in (provider.complete(CALL), read(provider)):
                with pytest.raises(ProviderError) as caught:
                    await call
                assert type(caught.value) is ours


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("end", ["close", "abort"])
async def test_a_stream_that_stops_half_way(name, end):
    script = Scripted(pieces=pieces(name, *FIRST[name]), end=end, content_type=kind_of(name))
    deltas = []
    with ScriptedServer(script) as server:
        async with provider_at(name, server.url) as provider:
            with pytest.raises(ProviderUnavailableError) as caught:
                async for delta in provider.stream(CALL):
                    deltas.append(delta)  # one by one: those before the failure count
    assert caught.value.retryable
    assert "".join(d.content for d in deltas) == "Hel"
    if name != "ollama":
        assert any(d.usage and d.usage.input_tokens == 9 for d in deltas)  # it can be priced


@pytest.mark.parametrize("name", ALL)
async def test_a_stream_without_anything(name):
    with ScriptedServer(Scripted(pieces=[], content_type=kind_of(name))) as server:
        async with provider_at(name, server.url) as provider:
            with pytest.raises(ProviderUnavailableError, match="before the answer was complete"):
                await read(provider)


@pytest.mark.parametrize("name", ALL)
async def test_a_connection_that_is_cut(name):
    error = await failure(name, Scripted(end="abort"))
    assert type(error) is ProviderUnavailableError
    error = await failure(name, Scripted(body='{"a": ', end="abort"))
    assert type(error) is ProviderUnavailableError


@pytest.mark.parametrize("name", ALL)
async def test_a_server_that_is_not_there(name):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        async with provider_at(name, url) as provider:
            for call in (provider.complete(CALL), read(provider)):
                with pytest.raises(ProviderUnavailableError, match="can't be reached") as caught:
                    await call
                assert caught.value.retryable


@pytest.mark.parametrize("name", ALL)
async def test_a_server_that_is_slow(name):
    hurried = Call("the-model", USER, timeout_s=0.3)
    begun = pieces(name, *FIRST[name])
    for script in (
        Scripted(end="hang"),
        Scripted(body='{"a": ', end="hang"),
        Scripted(pieces=begun, end="hang", content_type=kind_of(name)),
    ):
        with ScriptedServer(script) as server:
            async with provider_at(name, server.url) as provider:
                with pytest.raises(ProviderTimeoutError, match="did not answer in time"):
                    await read(provider, hurried)
                assert await server.wait_client_left()
                if script.pieces is None:
                    with pytest.raises(ProviderTimeoutError, match="did not answer in time"):
                        await provider.complete(hurried)


@pytest.mark.parametrize("name", ALL)
async def test_embeddings_fail_as_calls_do(name):
    if name == "anthropic":
        with pytest.raises(UnsupportedParameterError, match="has no embeddings"):
            async with provider_at(name, "http://127.0.0.1:9") as provider:
                await provider.embed("m", ["a"])
        return
    for script, ours in (
        (said_by(name, 429, "slow", "RESOURCE_EXHAUSTED"), RateLimitError),
        (Scripted(body={"error": {"code": 503, "message": "x"}}), ProviderUnavailableError),
        (Scripted(end="abort"), ProviderUnavailableError),
    ):
        with ScriptedServer(script) as server:
            async with provider_at(name, server.url) as provider:
                with pytest.raises(ours):
                    await provider.embed("m", ["a"], timeout_s=20.0)
    with ScriptedServer(Scripted(end="hang")) as server:
        async with provider_at(name, server.url) as provider:
            with pytest.raises(ProviderTimeoutError):
                await provider.embed("m", ["a"], timeout_s=0.3)


# Connections.

LAST = {
    "anthropic": [
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}},
        {"type": "message_stop"},
    ],
    "google": [{"candidates": [{"content": {"parts": []}, "finishReason": "STOP"}]}],
    "ollama": [{"model": "the-model", "message": {"content": ""}, "done": True}],
}  # fmt: skip
WHOLE = {
    "anthropic": {"id": "m", "model": "the-model", "content": [], "usage": {}},
    "google": {"candidates": [{"content": {"parts": [{"text": "x"}]}, "finishReason": "STOP"}]},
    "ollama": {"model": "the-model", "message": {"content": "x"}, "done": True},
}


@pytest.mark.parametrize("name", ALL)
async def test_leaving_a_stream_closes_its_connection(name):
    script = Scripted(pieces=pieces(name, *FIRST[name]), end="hang", content_type=kind_of(name))
    with ScriptedServer(script) as server:
        async with provider_at(name, server.url) as provider:
            stream = provider.stream(CALL)
            async for delta in stream:
                if delta.content:
                    break
            assert not server.client_left.is_set()
            await stream.aclose()
            assert await server.wait_client_left()


@pytest.mark.parametrize("name", ALL)
async def test_a_task_that_is_cancelled_closes_its_connection(name):
    with ScriptedServer(Scripted(end="hang")) as server:
        async with provider_at(name, server.url) as provider:
            for call in (provider.complete(CALL), read(provider)):
                server.client_left.clear()
                already = len(server.requests)
                task = asyncio.ensure_future(call)
                while len(server.requests) == already:
                    await asyncio.sleep(0.01)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert await server.wait_client_left()


@pytest.mark.parametrize("name", ALL)
async def test_connections_are_used_again_after_answers_streams_and_refusals(name):
    refusal = said_by(name, 400, "bad")
    stream = Scripted(pieces=pieces(name, *FIRST[name], *LAST[name]), content_type=kind_of(name))
    whole = Scripted(body=WHOLE[name])
    with ScriptedServer([whole, stream, refusal, stream, whole]) as server:
        async with provider_at(name, server.url) as provider:
            await provider.complete(CALL)
            assert (await read(provider))[-1].reply.content == "Hel"
            with pytest.raises(BadRequestError):
                await provider.complete(CALL)
            await read(provider)
            await provider.complete(CALL)
        assert server.connections == 1


@pytest.mark.parametrize("name", ALL)
async def test_many_calls_share_a_client_up_to_its_limit(name):
    script = Scripted(body=WHOLE[name], delay_s=0.05)
    with ScriptedServer(script) as server:
        async with provider_at(name, server.url, max_connections=3) as provider:
            await asyncio.gather(*(provider.complete(CALL) for _ in range(12)))
        assert len(server.requests) == 12
        assert server.connections == 3


@pytest.mark.parametrize("name", ALL)
async def test_a_provider_that_was_closed_opens_again(name):
    with ScriptedServer(Scripted(body=WHOLE[name])) as server:
        async with provider_at(name, server.url) as provider:
            await provider.aclose()
            await provider.complete(CALL)
            await provider.aclose()
            await provider.complete(CALL)
        assert server.connections == 2


@pytest.mark.parametrize("name", ALL)
async def test_no_proxy_stands_before_this_machine(name, monkeypatch):
    for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(variable, raising=False)
    with ScriptedServer(Scripted(body=WHOLE[name])) as server:
        async with provider_at(name, server.url) as provider:
            await provider.complete(CALL)
        if name == "ollama":  # whose OLLAMA_HOST may be an address alone
            async with provider_at(name, server.url.removeprefix("http://")) as provider:
                await provider.complete(CALL)
    assert len(server.requests) == (2 if name == "ollama" else 1)
