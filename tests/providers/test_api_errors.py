"""Every way of saying no, as one small hierarchy; and no key in any of it."""

from __future__ import annotations

import contextlib
import socket
import traceback
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
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
)
from novellus_lab.providers import openai_chat, openai_responses
from novellus_lab.providers.api_errors import retry_after_s
from novellus_lab.providers.base import Call, ProviderConfig
from novellus_lab.providers.openai import OpenAIProvider
from novellus_lab.types import Reply
from tests.loopback import Scripted, ScriptedServer, openai_error

CALL = Call("gpt-4o", [{"role": "user", "content": "hi"}], timeout_s=20.0)
KEY = "sk-proj-Zx81_the-whole-key-0042"


@contextlib.asynccontextmanager
async def provider_at(url, key=KEY):
    provider = OpenAIProvider(
        ProviderConfig("openai", base_url=url, api_key=SecretStr(key) if key else None)
    )
    try:
        yield provider
    finally:
        await provider.aclose()


async def failure(script):
    """What `complete` and `stream` raise; they must agree."""
    seen = []
    with ScriptedServer(script) as server:
        async with provider_at(server.url + "/v1") as provider:
            with pytest.raises(ProviderError) as caught:
                await provider.complete(CALL)
            seen.append(caught.value)
            with pytest.raises(ProviderError) as caught:
                async for _ in provider.stream(CALL):
                    pass
            seen.append(caught.value)
    whole, streamed = seen
    assert type(whole) is type(streamed)
    assert (str(whole), whole.retryable, whole.status_code) == (
        str(streamed), streamed.retryable, streamed.status_code,
    )  # fmt: skip
    assert whole.provider == "openai"
    assert whole.model is None
    assert KEY not in "".join(traceback.format_exception(whole))
    return whole


def plain(status, **body):
    return Scripted(status, body=body)


@pytest.mark.parametrize(
    ("said", "kind", "retryable"),
    [
        (openai_error(401, "Incorrect API key", code="invalid_api_key"), AuthenticationError, False),
        (openai_error(403, "Country not supported"), AuthenticationError, False),
        (openai_error(429, "Rate limit reached", code="rate_limit_exceeded"), RateLimitError, True),
        (openai_error(429, "You exceeded your current quota", code="insufficient_quota"),
         RateLimitError, False),
        (openai_error(429, "Request too large for gpt-4o on tokens per min (TPM)"),
         RateLimitError, False),
        (plain(402, error={"code": 402, "message": "Insufficient credits"}), RateLimitError, False),
        (openai_error(400, "too long", code="context_length_exceeded"),
         ContextWindowExceededError, False),
        (openai_error(400, "This model's maximum context length is 8192 tokens. However, …"),
         ContextWindowExceededError, False),
        # vLLM (older: no `error` around it), llama.cpp, Mistral
        (plain(400, object="error", message="This model's maximum context length is 4096 tokens",
               type="BadRequestError", code=400), ContextWindowExceededError, False),
        (plain(400, error={"code": 400, "type": "exceed_context_size_error",
                           "message": "the request exceeds the available context size"}),
         ContextWindowExceededError, False),
        (plain(400, object="error", type="invalid_request_message", code="3051",
               message="Prompt contains 40000 tokens, too large for model with 32768 maximum context length"),
         ContextWindowExceededError, False),
        (plain(400, error={"code": "content_filter", "message": "The response was filtered",
                           "innererror": {"code": "ResponsibleAIPolicyViolation"}}),
         ContentFilteredError, False),
        (plain(400, error={"code": None, "message": "filtered",
                           "innererror": {"code": "ResponsibleAIPolicyViolation"}}),
         ContentFilteredError, False),
        (plain(403, error={"code": 403, "message": "flagged",
                           "metadata": {"reasons": ["violence"], "flagged_input": "…"}}),
         ContentFilteredError, False),
        (openai_error(400, "Your prompt was flagged … usage policy", code="invalid_prompt"),
         ContentFilteredError, False),
        (openai_error(400, "messages must be an array"), BadRequestError, False),
        (plain(422, detail=[{"loc": ["body", "model"], "msg": "field required"}]),
         BadRequestError, False),
        (openai_error(404, "The model `gpt-9` does not exist", code="model_not_found"),
         BadRequestError, False),
        (openai_error(413, "too big"), BadRequestError, False),
        (openai_error(408, "timed out"), ProviderTimeoutError, True),
        (openai_error(409, "conflict"), ProviderUnavailableError, True),
        (openai_error(500, "The server had an error"), ProviderUnavailableError, True),
        (openai_error(503, "overloaded"), ProviderUnavailableError, True),
        (openai_error(529, "overloaded"), ProviderUnavailableError, True),
        (Scripted(502, body="<html><head><title>502 Bad Gateway</title></head></html>",
                  content_type="text/html"), ProviderUnavailableError, True),
        (Scripted(500), ProviderUnavailableError, True),
        (Scripted(400, body='{"error": "just words"}'), BadRequestError, False),
        (Scripted(400, body='[{"error": {"code": 400, "message": "from Google"}}]'),
         BadRequestError, False),
        (Scripted(400, body="null"), BadRequestError, False),
        # in a 200 body
        (plain(200, error={"code": 502, "message": "upstream"}), ProviderUnavailableError, True),
        (plain(200, error={"code": "server_error", "message": "hm"}), ProviderUnavailableError, True),
        (plain(200, error={"type": "invalid_request_error", "message": "hm"}), BadRequestError, False),
        (plain(200, error="words"), ProviderUnavailableError, True),
        # the network
        (Scripted(end="abort"), ProviderUnavailableError, True),
        (Scripted(body='{"choices": [', end="abort"), ProviderUnavailableError, True),
    ],
)  # fmt: skip
async def test_errors_by_class(said, kind, retryable):
    error = await failure(said)
    assert type(error) is kind
    assert error.retryable is retryable


async def test_the_message_says_who_what_and_the_providers_own_words():
    error = await failure(
        openai_error(
            404,
            "The model `gpt-9` does not exist",
            code="model_not_found",
            headers={"x-request-id": "req_42"},
        )
    )
    assert "openai model 'gpt-4o': The model `gpt-9` does not exist" in str(error)
    assert "HTTP 404, model_not_found" in str(error)
    assert "check the model's name and base_url" in str(error)
    assert error.provider_request_id == "req_42"


async def test_what_stands_behind_openrouters_words_is_shown():
    said = {"code": 400, "message": "Provider returned error", "metadata": {"raw": "no such tool"}}
    assert "Provider returned error: no such tool" in str(await failure(plain(400, error=said)))


async def test_an_html_page_is_shown_by_its_title():
    page = "<html><head><title>\n 502 Bad\n Gateway</title></head><body>…</body></html>"
    error = await failure(Scripted(502, body=page, content_type="text/html"))
    assert "text/html, '502 Bad Gateway'" in str(error)


@pytest.mark.parametrize(
    "echo",
    [
        f"Incorrect API key provided: {KEY}. You can find your key at …",
        "Incorrect API key provided: sk-proj-********************0042. See …",
        "Incorrect API key provided: sk-pr...0042",
        "Invalid token Zx8***0042",
        f"Authorization: Bearer {KEY}",
    ],
)
@pytest.mark.parametrize("status", [200, 401, 400, 500])
async def test_keys_are_never_repeated(echo, status):
    error = await failure(plain(status, error={"message": echo, "code": "invalid_api_key"}))
    for piece in (KEY, "sk-proj", "sk-pr...", "Zx8", "0042"):
        assert piece not in str(error)
    assert "[key]" in str(error)


async def test_a_key_without_a_known_shape_is_never_repeated():
    key = "just some words 17"
    with ScriptedServer(openai_error(401, f"bad key {key}!")) as server:
        async with provider_at(server.url, key) as provider:
            with pytest.raises(AuthenticationError, match=r"bad key \[key\]!"):
                await provider.complete(CALL)
            assert key not in repr(provider.config)


async def test_a_server_that_is_not_there():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        async with provider_at(url) as provider:
            with pytest.raises(ProviderUnavailableError, match="can't be reached"):
                await provider.complete(CALL)
            with pytest.raises(ProviderUnavailableError, match="can't be reached"):
                async for _ in provider.stream(CALL):
                    pass


async def test_the_default_transport_tells_the_same_errors_apart(monkeypatch):
    import openai

    class Missing:
        def __init__(self, **_):
            raise RuntimeError("no aiohttp")

    monkeypatch.setattr(openai, "DefaultAioHttpClient", Missing)
    for script, kind, timeout in (
        (Scripted(end="abort"), ProviderUnavailableError, 20.0),
        (Scripted(end="hang"), ProviderTimeoutError, 0.15),
    ):
        with ScriptedServer(script) as server:
            async with provider_at(server.url) as provider:
                with pytest.raises(kind):
                    await provider.complete(Call("m", CALL.messages, timeout_s=timeout))


@pytest.mark.parametrize(
    ("headers", "message", "expected"),
    [
        ({"retry-after": "7"}, "", 7.0),
        ({"retry-after": "0.5"}, "", 0.5),
        ({"retry-after": "-3"}, "", 0.0),
        ({"retry-after-ms": "250", "retry-after": "9"}, "", 0.25),
        ({}, "Please try again in 6.2s. Visit …", 6.2),
        ({}, "Please try again in 20ms.", 0.02),
        ({}, "Please retry after 1m30s.", 90.0),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s",
          "x-ratelimit-remaining-tokens": "900", "x-ratelimit-reset-tokens": "1s"}, "", 360.0),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "2m59.56s"}, "", 179.56),
        # Azure's resets are bare milliseconds
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "500"}, "", 0.5),
        ({"x-ratelimit-remaining-requests": "5", "x-ratelimit-reset-requests": "500"}, "", None),
        ({"retry-after": "soon"}, "", None),
        ({}, "slow down", None),
    ],
)  # fmt: skip
async def test_how_long_to_wait(headers, message, expected):
    error = await failure(openai_error(429, message or "slow", headers=headers))
    assert error.retry_after_s == (None if expected is None else pytest.approx(expected))


def test_how_long_to_wait_by_the_clock():
    later = datetime.now(UTC) + timedelta(seconds=30)
    assert 20 < retry_after_s({"retry-after": format_datetime(later, usegmt=True)}) <= 30
    epoch_ms = str(int(later.timestamp() * 1000))
    assert 20 < retry_after_s({"x-ratelimit-reset": epoch_ms}) <= 30
    assert 20 < retry_after_s({"x-ratelimit-reset": str(int(later.timestamp()))}) <= 30
    inside = {"metadata": {"headers": {"X-RateLimit-Reset": epoch_ms}}}
    assert 20 < retry_after_s({}, "", inside) <= 30
    past = datetime.now(UTC) - timedelta(hours=1)
    assert retry_after_s({"retry-after": format_datetime(past, usegmt=True)}) == 0.0


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats(allow_nan=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "message",
                    "delta",
                    "content",
                    "tool_calls",
                    "function",
                    "finish_reason",
                    "usage",
                    "error",
                    "code",
                    "prompt_tokens",
                    "prompt_tokens_details",
                    "output",
                    "type",
                    "status",
                    "response",
                    "item",
                    "index",
                    "id",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(data=_JSON)
def test_any_json_is_an_answer_or_an_error_of_ours(data):
    import orjson

    body = orjson.dumps(data)
    for flavour in (openai_chat, openai_responses):
        with contextlib.suppress(ProviderError):
            reply = flavour.read_reply(body, {}, provider="openai", model="m")
            assert isinstance(reply, Reply)
        reader = flavour.StreamReader({}, provider="openai", model="m")
        with contextlib.suppress(ProviderError):
            list(reader.feed(None, body))
