"""What is sent: parameters, their names, and what a model can't honour."""

from __future__ import annotations

import asyncio
import contextlib
from types import MappingProxyType

import pytest
from pydantic import SecretStr

from novellus_lab.errors import BadRequestError, InvalidRequestError, UnsupportedParameterError
from novellus_lab.providers.base import Call, ProviderConfig
from novellus_lab.providers.openai import OpenAIProvider
from tests.loopback import (
    Scripted,
    ScriptedServer,
    openai_chat_reply,
    openai_chat_stream,
    openai_error,
)

ASK = [{"role": "user", "content": "hi"}]
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}


@contextlib.asynccontextmanager
async def served(script, *, key=None, **options):
    with ScriptedServer(script) as server:
        provider = OpenAIProvider(
            ProviderConfig("openai", base_url=server.url + "/v1", api_key=key, options=options)
        )
        try:
            yield provider, server
        finally:
            await provider.aclose()


async def sent(call, **options):
    async with served(openai_chat_reply(), **options) as (provider, server):
        reply = await provider.complete(call)
        return server.requests[0].json, reply


async def test_a_plain_call_sends_no_more_than_it_was_given():
    body, _ = await sent(Call("gpt-4o", ASK))
    assert body == {"model": "gpt-4o", "messages": ASK}


async def test_every_parameter_arrives_under_its_name():
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "what is this? é 😀"}, picture]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    ]
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {}, "strict": True}}
    body, _ = await sent(
        Call(
            "gpt-4o",
            messages,
            max_tokens=7,
            temperature=0.5,
            top_p=0.9,
            stop=("END", "\n"),
            seed=3,
            tools=[MappingProxyType(WEATHER)],
            tool_choice={"type": "function", "function": {"name": "weather"}},
            response_format=schema,
            params={"user": "u1", "extra_body": {"top_k": 5}},
        )
    )
    assert body == {
        "model": "gpt-4o",
        "messages": messages,
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": ["END", "\n"],
        "seed": 3,
        "tools": [WEATHER],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "response_format": schema,
        "user": "u1",
        "top_k": 5,
    }


async def test_what_the_call_says_goes_before_the_models_params():
    body, _ = await sent(Call("gpt-4o", ASK, temperature=0.1, params={"temperature": 0.9}))
    assert body["temperature"] == 0.1


@pytest.mark.parametrize(
    ("model", "options", "name"),
    [
        ("gpt-4o", {}, "max_tokens"),
        ("gpt-5-chat-latest", {}, "max_tokens"),
        ("llama-3.3-70b", {}, "max_tokens"),
        ("gpt-oss-120b", {}, "max_tokens"),
        ("o1", {}, "max_completion_tokens"),
        ("o3-mini", {}, "max_completion_tokens"),
        ("o4-mini-2025-04-16", {}, "max_completion_tokens"),
        ("gpt-5", {}, "max_completion_tokens"),
        ("gpt-5.6-sol", {}, "max_completion_tokens"),
        ("openai/gpt-5-mini", {}, "max_completion_tokens"),
        ("my-deployment", {"reasoning_model": True}, "max_completion_tokens"),
        ("my-deployment", {"max_tokens_param": "max_completion_tokens"}, "max_completion_tokens"),
        ("o3", {"max_tokens_param": "max_tokens"}, "max_tokens"),
    ],
)
async def test_max_tokens_has_the_name_that_the_model_takes(model, options, name):
    body, _ = await sent(Call(model, ASK, max_tokens=5), **options)
    assert body == {"model": model, "messages": ASK, name: 5}


@pytest.mark.parametrize("model", ["o1", "o3-mini", "gpt-5", "gpt-5-nano", "openai/gpt-5-mini"])
async def test_sampling_of_a_reasoning_model_is_refused_before_anything_is_sent(model):
    async with served(openai_chat_reply()) as (provider, server):
        for asked in ({"temperature": 0.2}, {"top_p": 0.5}, {"params": {"temperature": 1}}):
            with pytest.raises(UnsupportedParameterError, match=r"temperature|top_p"):
                await provider.complete(Call(model, ASK, **asked))
        assert server.requests == []


async def test_or_dropped_and_recorded_where_that_is_configured():
    body, reply = await sent(
        Call("o3", ASK, temperature=0.2, top_p=0.5, seed=1, on_unsupported="drop")
    )
    assert body == {"model": "o3", "messages": ASK, "seed": 1}
    assert reply.dropped_params == ("temperature", "top_p")


async def test_later_models_take_sampling_as_long_as_they_do_not_reason():
    body, _ = await sent(Call("gpt-5.1", ASK, temperature=0.2))
    assert body["temperature"] == 0.2
    body, _ = await sent(Call("gpt-5.1", ASK, temperature=0.2, params={"reasoning_effort": "none"}))
    assert body["reasoning_effort"] == "none"
    with pytest.raises(UnsupportedParameterError):
        await sent(Call("gpt-5.1", ASK, temperature=0.2, params={"reasoning_effort": "low"}))


async def test_more_than_one_answer_is_refused():
    with pytest.raises(UnsupportedParameterError, match="can't honour n"):
        await sent(Call("gpt-4o", ASK, params={"n": 3}))


def refused(name, *, model="m", instead=""):
    message = f"Unsupported parameter: '{name}' is not supported with this model.{instead}"
    said = openai_error(400, message, code="unsupported_parameter", kind="invalid_request_error")
    said.body["error"]["param"] = name
    return said


async def test_a_server_that_refuses_a_parameter_is_asked_once_without_it():
    call = Call("my-deployment", ASK, temperature=0.3, seed=1, on_unsupported="drop")
    script = [refused("temperature"), openai_chat_reply(), openai_chat_reply()]
    async with served(script) as (provider, server):
        replies = [await provider.complete(call), await provider.complete(call)]
        bodies = [r.json for r in server.requests]
    assert [r.dropped_params for r in replies] == [("temperature",), ("temperature",)]
    assert ["temperature" in b for b in bodies] == [True, False, False]
    assert all(b["seed"] == 1 for b in bodies)


async def test_without_that_permission_its_refusal_is_the_error():
    async with served(refused("temperature")) as (provider, server):
        with pytest.raises(UnsupportedParameterError, match="Leave temperature out") as caught:
            await provider.complete(Call("my-deployment", ASK, temperature=0.3))
        assert len(server.requests) == 1
    assert isinstance(caught.value, BadRequestError)
    assert caught.value.status_code == 400


async def test_a_server_that_never_has_enough_ends():
    async with served(refused("messages")) as (provider, _):
        with pytest.raises(UnsupportedParameterError):
            await provider.complete(Call("m", ASK, on_unsupported="drop"))


async def test_a_server_that_wants_max_completion_tokens_gets_it():
    instead = " Use 'max_completion_tokens' instead."
    script = [refused("max_tokens", instead=instead), openai_chat_reply(), openai_chat_reply()]
    async with served(script) as (provider, server):
        for _ in range(2):
            reply = await provider.complete(Call("my-deployment", ASK, max_tokens=9))
            assert reply.dropped_params == ()
        bodies = [r.json for r in server.requests]
    assert [b.get("max_completion_tokens") for b in bodies] == [None, 9, 9]
    assert "max_tokens" not in bodies[2]


@pytest.mark.parametrize(
    ("options", "params", "expected"),
    [
        ({}, {}, {"include_usage": True}),
        ({"stream_usage": False}, {}, None),
        ({}, {"stream_usage": False}, None),
        ({}, {"stream_options": {"include_obfuscation": False}},
         {"include_usage": True, "include_obfuscation": False}),
    ],
)  # fmt: skip
async def test_streams_ask_for_usage_unless_told_otherwise(options, params, expected):
    async with served(openai_chat_stream(), **options) as (provider, server):
        async for _ in provider.stream(Call("gpt-4o", ASK, params=params)):
            pass
        body = server.requests[0].json
    assert body["stream"] is True
    assert body.get("stream_options") == expected


async def test_the_key_goes_into_the_header_and_no_key_sends_a_placeholder():
    async with served(openai_chat_reply(), key=SecretStr("sk-secret")) as (provider, server):
        await provider.complete(Call("m", ASK))
        assert server.requests[0].headers["authorization"] == "Bearer sk-secret"
    async with served(openai_chat_reply()) as (provider, server):
        await provider.complete(Call("m", ASK))
        assert server.requests[0].headers["authorization"] == "Bearer no-key-needed"


async def test_the_environments_openai_settings_do_not_reach_other_servers(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-for-openai-only")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-secret")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-secret")
    async with served(openai_chat_reply(), headers={"x-title": "lab"}) as (provider, server):
        await provider.complete(Call("m", ASK))
        headers = server.requests[0].headers
    assert headers["x-title"] == "lab"
    assert not any("secret" in v or "only" in v for v in headers.values())


async def test_a_proxy_of_the_environment_is_not_used_for_a_server_right_here(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    _, reply = await sent(Call("m", ASK))
    assert reply.content == "Hello there."


async def test_without_aiohttp_the_sdks_default_transport_serves(monkeypatch):
    import openai

    class Missing:
        def __init__(self, **_):
            raise RuntimeError("To use the aiohttp client you must have installed …")

    monkeypatch.setattr(openai, "DefaultAioHttpClient", Missing)
    async with served([openai_chat_reply(), openai_chat_stream()]) as (provider, server):
        assert (await provider.complete(Call("m", ASK))).content == "Hello there."
        deltas = [d async for d in provider.stream(Call("m", ASK))]
        assert deltas[-1].reply.content == "Hello there."
        assert server.connections == 1


async def test_connections_are_used_again_after_answers_and_after_streams():
    script = [openai_chat_reply(), openai_chat_stream(), openai_chat_reply()]
    async with served(script) as (provider, server):
        await provider.complete(Call("m", ASK))
        async for _ in provider.stream(Call("m", ASK)):
            pass
        await provider.complete(Call("m", ASK))
        assert server.connections == 1


async def test_no_more_connections_than_were_allowed():
    with ScriptedServer(openai_chat_reply(delay_s=0.02)) as server:
        provider = OpenAIProvider(ProviderConfig("openai", base_url=server.url, max_connections=2))
        await asyncio.gather(*(provider.complete(Call("m", ASK)) for _ in range(8)))
        await provider.aclose()
        assert server.connections == 2


async def test_the_transport_is_aiohttp_where_it_is_installed():
    async with served(openai_chat_reply()) as (provider, _):
        await provider.complete(Call("m", ASK))
        session = provider._client()._client._transport.client
    assert type(session).__module__.startswith("aiohttp")


async def test_no_retries_of_the_sdk():
    async with served(openai_error(500)) as (provider, server):
        with pytest.raises(Exception, match="HTTP 500"):
            await provider.complete(Call("m", ASK))
        assert len(server.requests) == 1


@pytest.mark.parametrize("bad", ["\ud800", object()])
async def test_what_json_can_not_hold_is_said_before_anything_is_sent(bad):
    async with served(openai_chat_reply()) as (provider, server):
        with pytest.raises(InvalidRequestError, match="JSON"):
            await provider.complete(Call("m", [{"role": "user", "content": bad}]))
        assert server.requests == []


async def test_an_unknown_api_is_named():
    with pytest.raises(InvalidRequestError, match="'chat' or 'responses', not 'assistants'"):
        await sent(Call("m", ASK, params={"api": "assistants"}))


def test_availability():
    because = OpenAIProvider.unavailable_because
    key = SecretStr("k")
    assert because(ProviderConfig("openai")) == "OPENAI_API_KEY is not set"
    assert because(ProviderConfig("openai", api_key=key)) is None
    local = "http://localhost:8000/v1"
    assert because(ProviderConfig("openai", base_url=local)) is None
    named = ProviderConfig("openai", base_url=local, api_key_env="GROQ_API_KEY")
    assert because(named) == "GROQ_API_KEY is not set"
    openai_itself = ProviderConfig("openai", base_url="https://eu.api.openai.com/v1")
    assert because(openai_itself) == "OPENAI_API_KEY is not set"


def test_importing_the_provider_imports_no_sdk():
    import subprocess
    import sys

    code = (
        "import sys, novellus_lab.providers.openai, novellus_lab.providers.azure;"
        "sys.exit(bool({'openai', 'httpx', 'httpx2', 'aiohttp', 'pydantic'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


async def test_an_unserved_path_says_where_to_look():
    async with served(Scripted(404, body="<html><title>404 Not Found</title>")) as (provider, _):
        with pytest.raises(
            BadRequestError, match=r"404 Not Found.*check the model's name and base_url"
        ):
            await provider.complete(Call("m", ASK))
