"""Ollama: what is sent, and what is made of its answers, its streams and its embeddings."""

from __future__ import annotations

import json
import socket

import pytest
from pydantic import SecretStr

from novellus_lab.errors import (
    InvalidRequestError,
    ProviderUnavailableError,
    UnsupportedParameterError,
)
from novellus_lab.providers.base import Call, ProviderConfig
from novellus_lab.providers.ollama import OllamaProvider
from novellus_lab.types import Usage
from tests.loopback import Scripted, ScriptedServer, cut

USER = [{"role": "user", "content": "Hi"}]
MODEL = "llama3.1"
PNG = "data:image/png;base64,iVBORw0KGgo="
DEEP = {
    "type": "object",
    "properties": {
        "where": {"type": "object", "properties": {"city": {"type": "string", "minLength": 2}}},
        "when": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
    },
    "additionalProperties": False,
}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": DEEP}}
COUNTS = {"prompt_eval_count": 10, "eval_count": 5, "total_duration": 7}


def piece(content="", *, done=False, **message):
    made = {
        "model": MODEL,
        "created_at": "2026-11-01T00:00:00Z",
        "message": {"role": "assistant", "content": content, **message},
        "done": done,
    }
    return made | ({"done_reason": "stop", **COUNTS} if done else {})


def lines(*pieces):
    return Scripted(
        pieces=[json.dumps(p) + "\n" for p in pieces], content_type="application/x-ndjson"
    )


async def ask(script, call, *, stream=False, **config):
    """Return the reply, the deltas before it, and what was sent."""
    with ScriptedServer(script) as server:
        provider = OllamaProvider(ProviderConfig("ollama", base_url=server.url, **config))
        try:
            if stream:
                deltas = [delta async for delta in provider.stream(call)]
                return deltas[-1].reply, deltas[:-1], server.requests
            return await provider.complete(call), [], server.requests
        finally:
            await provider.aclose()


async def sent(**call):
    asked = Call(**{"model": MODEL, "messages": USER, "timeout_s": 20.0, **call})
    reply, _, requests = await ask(Scripted(body=piece("x", done=True)), asked)
    return requests[-1].json, reply.dropped_params


# What is sent.


async def test_the_least_that_is_sent_whole_and_streamed():
    body, dropped = await sent()
    assert body == {"model": MODEL, "messages": USER, "stream": False}
    assert dropped == ()
    call = Call(MODEL, USER, timeout_s=20.0)
    _, _, (request,) = await ask(lines(piece("x", done=True)), call, stream=True)
    assert request.json == {"model": MODEL, "messages": USER, "stream": True}
    assert request.path == "/api/chat"


async def test_plain_parameters_and_those_of_its_own():
    body, dropped = await sent(
        max_tokens=9,
        temperature=0.0,
        top_p=0.5,
        seed=4,
        stop=("END",),
        params={
            "num_ctx": 8192,
            "top_k": 3,
            "think": "low",
            "keep_alive": "5m",
            "options": {"a_new_option": 1},
            "extra_body": {"a_new_field": 2},
            "n": 1,
        },
    )
    assert body["options"] == {
        "num_predict": 9,
        "temperature": 0.0,
        "top_p": 0.5,
        "seed": 4,
        "stop": ["END"],
        "num_ctx": 8192,
        "top_k": 3,
        "a_new_option": 1,
    }
    assert (body["think"], body["keep_alive"], body["a_new_field"]) == ("low", "5m", 2)
    assert dropped == ()


async def test_a_conversation_with_tools_and_several_results():
    calls = [
        {"id": "call_1~sig~c2ln", "type": "function",
         "function": {"name": "weather", "arguments": '{"city": "Ulm"}'}},
        {"id": "call_2", "type": "function", "function": {"name": "now", "arguments": ""}},
    ]  # fmt: skip
    body, _ = await sent(
        tools=[WEATHER],
        tool_choice="auto",
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "tool_call_id": "call_1~sig~c2ln", "content": '{"sun": true}'},
            {"role": "tool", "tool_call_id": "call_2", "content": [{"type": "text", "text": "noon"}]},
        ],
    )  # fmt: skip
    assert body["tools"] == [WEATHER]  # to the last nested word of its schema
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"id": "call_1", "function": {"name": "weather", "arguments": {"city": "Ulm"}}},
                {"id": "call_2", "function": {"name": "now", "arguments": {}}},
            ],
        },
        {
            "role": "tool",
            "content": '{"sun": true}',
            "tool_call_id": "call_1",
            "tool_name": "weather",
        },
        {"role": "tool", "content": "noon", "tool_call_id": "call_2", "tool_name": "now"},
    ]
    bad = [{"id": "a", "function": {"name": "f", "arguments": "{"}}]
    with pytest.raises(InvalidRequestError, match="'a' are no JSON"):
        await sent(messages=[*USER, {"role": "assistant", "tool_calls": bad}])


async def test_no_tool_is_called_that_is_not_offered():
    body, dropped = await sent(tools=[WEATHER], tool_choice="none")
    assert "tools" not in body
    assert dropped == ()


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ({"tools": [WEATHER], "tool_choice": "required"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "weather"}}},
         "tool_choice"),
        ({"params": {"logit_bias": {"1": 2}}}, "logit_bias"),
        ({"params": {"n": 2}}, "n"),
    ],
)  # fmt: skip
async def test_what_ollama_would_ignore_is_refused_or_a_recorded_drop(asked, name):
    with pytest.raises(UnsupportedParameterError, match=rf"can't honour {name}"):
        await sent(**asked)
    body, dropped = await sent(**asked, on_unsupported="drop")
    assert dropped == (name,)
    assert name not in body
    call = Call(MODEL, USER, on_unsupported="drop", timeout_s=20.0, **asked)
    reply, _, _ = await ask(lines(piece("x", done=True)), call, stream=True)
    assert reply.dropped_params == (name,)


async def test_images():
    parts = [
        {"type": "text", "text": "See"},
        {"type": "image_url", "image_url": {"url": PNG}},
        {"type": "image_url", "image_url": PNG},
        {"type": "text", "text": "this"},
    ]
    body, _ = await sent(messages=[{"role": "user", "content": parts}])
    assert body["messages"] == [
        {"role": "user", "content": "See\nthis", "images": ["iVBORw0KGgo=", "iVBORw0KGgo="]}
    ]
    for part, why in (
        ({"type": "image_url", "image_url": "https://x.org/a.png"}, "loads no images from the web"),
        ({"type": "input_audio", "input_audio": {}}, "no input_audio"),
    ):
        with pytest.raises(UnsupportedParameterError, match=why):
            await sent(messages=[{"role": "user", "content": [part]}])


async def test_response_formats():
    assert (await sent(response_format={"type": "json_object"}))[0]["format"] == "json"
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": DEEP}}
    assert (await sent(response_format=form))[0]["format"] == DEEP


async def test_a_key_is_sent_where_it_was_named_for_the_server_and_nowhere_else(monkeypatch):
    monkeypatch.setenv("OLLAMA_API_KEY", "of-the-cloud")
    whole = Scripted(body=piece("x", done=True))
    _, _, (request,) = await ask(whole, Call(MODEL, USER))
    assert "authorization" not in request.headers
    _, _, (request,) = await ask(
        whole,
        Call(MODEL, USER),
        api_key=SecretStr("mine"),
        options={"headers": {"X-Team": "lab"}},
    )
    assert request.headers["authorization"] == "Bearer mine"
    assert request.headers["x-team"] == "lab"


def test_whether_an_ollama_is_there():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        for url in (f"http://127.0.0.1:{port}", f"127.0.0.1:{port}"):
            config = ProviderConfig("ollama", base_url=url)
            assert OllamaProvider.unavailable_because(config) is None
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        why = OllamaProvider.unavailable_because(ProviderConfig("ollama", base_url=url))
    assert why == f"no Ollama answers at {url}: start it with `ollama serve`, or set OLLAMA_HOST"


# What comes back.

CALLED = [
    {"function": {"name": "weather", "arguments": {"city": "Köln 🌦"}}},
    {"id": "call_of_its_own", "function": {"name": "now", "arguments": '{"at": 1}'}},
    {"function": {"name": "now"}},
]


@pytest.mark.parametrize("stream", [False, True])
async def test_thoughts_and_tool_calls(stream):
    if stream:
        pieces = [
            piece(thinking="H"), piece(thinking="m."), piece("Let me "), piece("look."),
            piece(tool_calls=CALLED[:1]), piece(tool_calls=CALLED[1:]), piece(done=True),
        ]  # fmt: skip
        body = "".join(json.dumps(p, ensure_ascii=False) + "\n" for p in pieces).encode()
        script = Scripted(pieces=cut(body, "awkward"), content_type="application/x-ndjson")
    else:
        script = Scripted(body=piece("Let me look.", done=True, thinking="Hm.", tool_calls=CALLED))
    reply, deltas, _ = await ask(script, Call(MODEL, USER, timeout_s=20.0), stream=stream)
    assert (reply.content, reply.reasoning) == ("Let me look.", "Hm.")
    assert reply.finish_reason == "tool_calls"
    assert [(c.name, json.loads(c.arguments)) for c in reply.tool_calls] == [
        ("weather", {"city": "Köln 🌦"}),
        ("now", {"at": 1}),
        ("now", {}),
    ]
    ids = [call.id for call in reply.tool_calls]
    assert ids[1] == "call_of_its_own"
    assert len(set(ids)) == 3
    assert all(len(call_id) <= 40 for call_id in ids)  # OpenAI's limit, should it answer next
    assert reply.usage == Usage(10, 5)
    assert dict(reply.raw_usage) == COUNTS
    if stream:
        assert "".join(d.content for d in deltas) == reply.content
        assert "".join(d.reasoning for d in deltas) == reply.reasoning
        assert [d.reply for d in deltas] == [None] * len(deltas)


@pytest.mark.parametrize(
    ("said", "finish"),
    [("stop", "stop"), ("length", "length"), ("load", "unknown"), (None, "stop")],
)
async def test_finish_reasons(said, finish):
    whole = piece("x", done=True) | {"done_reason": said}
    reply, _, _ = await ask(Scripted(body=whole), Call(MODEL, USER))
    assert reply.finish_reason == finish


async def test_a_prompt_that_was_in_its_cache_is_not_counted_by_ollama():
    whole = piece("x", done=True)
    del whole["prompt_eval_count"]
    reply, _, _ = await ask(Scripted(body=whole), Call(MODEL, USER))
    assert reply.usage == Usage(0, 5)


@pytest.mark.parametrize(
    "script",
    [
        lines(piece("Hel"), piece("lo")),  # it stops, in order, without `done`
        lines(),
        Scripted(pieces=[json.dumps(piece("Hel")) + "\n"], end="abort"),
        Scripted(pieces=[json.dumps(piece("Hel")) + '\n{"message": {"con']),
    ],
)
async def test_a_stream_that_stops_half_way_is_an_error(script):
    deltas = []
    with ScriptedServer(script) as server:
        provider = OllamaProvider(ProviderConfig("ollama", base_url=server.url))
        with pytest.raises(ProviderUnavailableError) as caught:
            async for delta in provider.stream(Call(MODEL, USER, timeout_s=20.0)):
                deltas.append(delta)
        await provider.aclose()
    assert caught.value.retryable
    assert [d for d in deltas if d.reply is not None] == []


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "body",
    [
        "[]", "null", "42", '"words"', "<html></html>", "{}", '{"done": false}',
        '{"done": true, "message": {"tool_calls": [{}]}}',
        '{"done": true, "message": {"content": 3}}',
        '{"done": true, "message": [1]}',
    ],
)  # fmt: skip
async def test_a_200_that_is_no_answer_is_a_provider_out_of_order(body, stream):
    script = Scripted(body=body + "\n", content_type="application/x-ndjson")
    with pytest.raises(ProviderUnavailableError):
        await ask(script, Call(MODEL, USER, timeout_s=20.0), stream=stream)


async def test_nothing_is_read_after_the_end():
    script = lines(piece("Hello", done=True), piece(" again", done=True))
    reply, _, _ = await ask(script, Call(MODEL, USER, timeout_s=20.0), stream=True)
    assert reply.content == "Hello"


# Embeddings.


async def test_embeddings():
    body = {
        "model": "nomic-embed-text",
        "embeddings": [[1, 0.5], [2, 0.25]],
        "prompt_eval_count": 8,
    }
    with ScriptedServer(Scripted(body=body)) as server:
        provider = OllamaProvider(ProviderConfig("ollama", base_url=server.url))
        reply = await provider.embed("nomic-embed-text", ["a", "b"], dimensions=2, timeout_s=20.0)
        sent_ = server.requests[0]
        with pytest.raises(ProviderUnavailableError, match="1 texts with 2 vectors"):
            await provider.embed("nomic-embed-text", ["a"], timeout_s=20.0)
        await provider.aclose()
    assert sent_.path == "/api/embed"
    assert sent_.json == {"model": "nomic-embed-text", "input": ["a", "b"], "dimensions": 2}
    assert reply.vectors == ((1.0, 0.5), (2.0, 0.25))
    assert (reply.usage, reply.model) == (Usage(8), "nomic-embed-text")
    assert reply.raw_usage == {"prompt_eval_count": 8}


@pytest.mark.parametrize("body", ["{}", '{"embeddings": [["x"]]}', '{"embeddings": 3}', "words"])
async def test_embeddings_that_make_no_sense(body):
    with ScriptedServer(Scripted(body=body)) as server:
        provider = OllamaProvider(ProviderConfig("ollama", base_url=server.url))
        with pytest.raises(ProviderUnavailableError):
            await provider.embed("nomic-embed-text", ["a"], timeout_s=20.0)
        await provider.aclose()


async def test_the_models_that_were_pulled():
    body = {"models": [{"model": "llama3.1:8b"}, {"model": "qwen3:4b"}]}
    with ScriptedServer(Scripted(body=body)) as server:
        provider = OllamaProvider(ProviderConfig("ollama", base_url=server.url))
        assert await provider.installed_models() == ("llama3.1:8b", "qwen3:4b")
        await provider.aclose()
