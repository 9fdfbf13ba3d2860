"""Azure OpenAI: recorded traffic, both endpoints, and where its settings come from."""

from __future__ import annotations

import contextlib
import json

import pytest
from pydantic import SecretStr

from novellus_lab.errors import ConfigurationError, ContentFilteredError, RateLimitError
from novellus_lab.providers.azure import AzureOpenAIProvider
from novellus_lab.providers.base import Call, ProviderConfig
from novellus_lab.types import Usage
from tests.loopback import (
    WIRE,
    RecordedServer,
    Scripted,
    ScriptedServer,
    openai_chat_reply,
    openai_chat_stream,
    openai_embedding_reply,
    openai_error,
)

ASK = [{"role": "user", "content": "Tell me a joke about opentelemetry"}]
CALL = Call("my-deployment", ASK, timeout_s=20.0)
KEY = SecretStr("azure-key-0123456789")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    for name in ("ENDPOINT", "API_KEY", "API_VERSION", "AD_TOKEN"):
        monkeypatch.delenv(f"AZURE_OPENAI_{name}", raising=False)
    monkeypatch.delenv("OPENAI_API_VERSION", raising=False)


@contextlib.asynccontextmanager
async def served(script, path="", key=KEY, **options):
    server = script if hasattr(script, "interactions") else ScriptedServer(script)
    with server:
        provider = AzureOpenAIProvider(
            ProviderConfig("azure", base_url=server.url + path, api_key=key, options=options)
        )
        try:
            yield provider, server
        finally:
            await provider.aclose()


def recording(part):
    (found,) = [c for c in WIRE.glob("*/*.yaml") if part in c.name]
    return found


async def test_recorded_chats_through_the_classic_endpoint():
    server = RecordedServer(recording("test_azure__test_chat.yaml"), split="awkward")
    async with served(server, api_version="2024-02-01") as (provider, _):
        replies = [
            await provider.complete(Call("openllmetry-testing", ASK)) for _ in server.interactions
        ]
    for reply, request, recorded in zip(replies, server.requests, server.interactions, strict=True):
        was = recorded.json
        assert reply.content == was["choices"][0]["message"]["content"]
        assert reply.model == was["model"]
        assert reply.finish_reason == "stop"
        assert request.path == recorded.uri.split(".com")[1].split("?")[0]
        assert request.query == {"api-version": "2024-02-01"}
        assert request.json == recorded.request
        assert request.headers["api-key"] == KEY.get_secret_value()
        assert "authorization" not in request.headers
    assert [r.usage for r in replies] == [
        Usage(15, 24), Usage(16, 22), Usage(16, 30), Usage(16, 35), Usage(16, 35),
    ]  # fmt: skip


async def test_an_answer_that_the_filter_withheld_was_paid_for():
    """The recorded choice has no message at all."""
    server = RecordedServer(recording("content_filtering"))
    async with served(server, api_version="2024-02-01") as (provider, _):
        withheld = await provider.complete(CALL)
        told = [await provider.complete(CALL) for _ in range(3)]
    assert (withheld.content, withheld.finish_reason) == ("", "content_filter")
    assert withheld.usage == Usage(15, 19)
    assert [r.finish_reason for r in told] == ["stop"] * 3
    assert [r.usage.output_tokens for r in told] == [24, 19, 21]


async def test_a_recorded_response_through_the_v1_endpoint():
    server = RecordedServer(recording("azure_responses_reasoning"))
    async with served(server, api="responses") as (provider, _):
        reply = await provider.complete(Call("gpt-5.5", ASK))
    (request,) = server.requests
    assert (request.path, request.query) == ("/openai/v1/responses", {})
    assert request.json["model"] == "gpt-5.5"
    assert request.headers["authorization"] == f"Bearer {KEY.get_secret_value()}"
    assert (reply.content, reply.model) == ("Paris", "gpt-5.5")
    assert reply.usage == Usage(18, 16, reasoning_tokens=9)


@pytest.mark.parametrize(
    ("path", "options", "expected", "query"),
    [
        ("", {}, "/openai/v1/chat/completions", {}),
        ("/", {"api_version": "v1"}, "/openai/v1/chat/completions", {}),
        ("", {"api_version": "preview"}, "/openai/v1/chat/completions", {"api-version": "preview"}),
        ("/openai/v1", {}, "/openai/v1/chat/completions", {}),
        ("/openai/v1/", {"api_version": "2024-10-21"}, "/openai/v1/chat/completions", {}),
        ("/openai", {"api_version": "2024-10-21"},
         "/openai/deployments/my-deployment/chat/completions", {"api-version": "2024-10-21"}),
        ("/gateway", {"api_version": "2024-10-21"},
         "/gateway/openai/deployments/my-deployment/chat/completions", {"api-version": "2024-10-21"}),
        ("/openai/deployments/pasted/chat/completions?api-version=2024-06-01", {},
         "/openai/deployments/my-deployment/chat/completions", {"api-version": "2024-06-01"}),
        ("", {"api_version": "2024-10-21", "deployments": {"my-deployment": "dep 1"}},
         "/openai/deployments/dep 1/chat/completions", {"api-version": "2024-10-21"}),
    ],
)  # fmt: skip
async def test_where_requests_go(path, options, expected, query):
    async with served(openai_chat_reply(), path, **options) as (provider, server):
        await provider.complete(CALL)
    assert (server.requests[0].path, server.requests[0].query) == (expected, query)


async def test_embeddings_responses_and_streams_on_the_classic_endpoint():
    script = [
        openai_embedding_reply([[0.5]]),
        openai_chat_stream(),
        Scripted(body={"output": [], "model": "gpt-4o"}),
    ]
    async with served(script, api_version="2025-03-01-preview") as (provider, server):
        assert (await provider.embed("emb", ["a"])).vectors == ((0.5,),)
        deltas = [d async for d in provider.stream(CALL)]
        await provider.complete(Call("dep", ASK, params={"api": "responses"}))
    assert deltas[-1].reply.content == "Hello there."
    assert [r.path for r in server.requests] == [
        "/openai/deployments/emb/embeddings",
        "/openai/deployments/my-deployment/chat/completions",
        "/openai/responses",
    ]
    assert server.requests[0].json["encoding_format"] == "base64"
    assert server.requests[2].json["model"] == "dep"


async def test_a_stream_whose_first_chunk_is_the_filters():
    first = {"id": "", "model": "", "choices": [], "prompt_filter_results": [{"prompt_index": 0}]}
    pieces = [f"data: {json.dumps(first)}\n\n", *openai_chat_stream(model="gpt-4o").pieces]
    async with served(Scripted(pieces=pieces)) as (provider, _):
        deltas = [d async for d in provider.stream(CALL)]
    assert (deltas[0].model, deltas[-1].reply.model) == ("gpt-4o", "gpt-4o")


async def test_its_errors():
    blocked = {
        "error": {
            "code": "content_filter",
            "message": "The response was filtered …",
            "innererror": {"code": "ResponsibleAIPolicyViolation"},
        }
    }
    script = [
        Scripted(400, body=blocked),
        openai_error(429, "Please retry after 6 seconds.", headers={"retry-after": "6"}),
    ]
    async with served(script) as (provider, _):
        with pytest.raises(ContentFilteredError, match="azure model 'my-deployment'"):
            await provider.complete(CALL)
        with pytest.raises(RateLimitError) as caught:
            await provider.complete(CALL)
    assert (caught.value.retry_after_s, caught.value.provider) == (6.0, "azure")


async def test_settings_come_from_the_environment(monkeypatch):
    with ScriptedServer(openai_chat_reply()) as server:
        monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", server.url)
        monkeypatch.setenv("OPENAI_API_VERSION", "2024-06-01")
        monkeypatch.setenv("AZURE_OPENAI_API_VERSION", "2024-10-21")
        monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
        provider = AzureOpenAIProvider(ProviderConfig("azure", api_key=KEY))
        await provider.complete(CALL)
        await provider.aclose()
        (request,) = server.requests
    assert request.query == {"api-version": "2024-10-21"}
    assert "openai-organization" not in request.headers


def test_availability(monkeypatch):
    because = AzureOpenAIProvider.unavailable_because
    url = "https://x.openai.azure.com"
    assert because(ProviderConfig("azure", base_url=url)) == "AZURE_OPENAI_API_KEY is not set"
    assert because(ProviderConfig("azure", api_key=KEY)) == "AZURE_OPENAI_ENDPOINT is not set"
    assert because(ProviderConfig("azure", api_key=KEY, base_url=url)) is None
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", url)
    assert because(ProviderConfig("azure", api_key=KEY)) is None


async def test_a_call_without_settings_says_which():
    with pytest.raises(ConfigurationError, match="AZURE_OPENAI_ENDPOINT is not set"):
        await AzureOpenAIProvider(ProviderConfig("azure", api_key=KEY)).complete(CALL)
