"""Claude: what is sent, and what is made of every kind of answer that its API documents."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from novellus_lab.errors import (
    InvalidRequestError,
    ProviderError,
    ProviderUnavailableError,
    UnsupportedParameterError,
)
from novellus_lab.providers.anthropic import AnthropicProvider
from novellus_lab.providers.anthropic_messages import StreamReader, read_reply
from novellus_lab.providers.base import Call, ProviderConfig, signed_call_id
from novellus_lab.types import ToolCall, Usage
from tests.loopback import Scripted, ScriptedServer, cut, sse

USER = [{"role": "user", "content": "Hi"}]
MODEL = "claude-sonnet-4-5"
PNG = "data:image/png;base64,iVBORw0KGgo="
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tell the weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def message(*content, **more):
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-5-20250929",
        "content": list(content) or [{"type": "text", "text": "Hello"}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 3, "output_tokens": 4, "service_tier": "standard"},
        **more,
    }


async def ask(script, call, *, stream=False, **config):
    """Return the reply, the deltas before it, and what was sent."""
    with ScriptedServer(script) as server:
        provider = AnthropicProvider(ProviderConfig("anthropic", base_url=server.url, **config))
        try:
            if stream:
                deltas = [delta async for delta in provider.stream(call)]
                return deltas[-1].reply, deltas[:-1], server.requests
            return await provider.complete(call), [], server.requests
        finally:
            await provider.aclose()


async def sent(**call):
    asked = Call(**{"model": MODEL, "messages": USER, "timeout_s": 20.0, **call})
    reply, _, requests = await ask(Scripted(body=message()), asked)
    return requests[-1].json, reply.dropped_params


# What is sent.


async def test_the_least_that_is_sent():
    body, dropped = await sent()
    assert body == {
        "model": MODEL,
        "max_tokens": 4096,
        "messages": [{"role": "user", "content": "Hi"}],
    }
    assert dropped == ()


async def test_system_and_developer_prompts_stand_apart():
    body, _ = await sent(
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
            *USER,
        ]
    )
    assert body["system"] == "Be brief.\n\nBe kind."
    assert body["messages"] == USER
    marked = {"type": "text", "text": "Long.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    body, _ = await sent(messages=[{"role": "system", "content": [marked]}, *USER])
    assert body["system"] == [marked]


async def test_a_conversation_with_tools_and_several_results():
    signed = signed_call_id("call_1", "c2ln+/==")
    body, _ = await sent(
        tools=[WEATHER],
        messages=[
            {"role": "user", "content": "Weather?"},
            {
                "role": "assistant",
                "content": "Let me look.",
                "tool_calls": [
                    {"id": signed, "type": "function",
                     "function": {"name": "weather", "arguments": '{"city": "Ulm"}'}},
                    {"id": "fc.2:x", "type": "function",
                     "function": {"name": "weather", "arguments": ""}},
                ],
            },
            {"role": "tool", "tool_call_id": signed, "content": '{"sun": true}'},
            {"role": "tool", "tool_call_id": "fc.2:x",
             "content": [{"type": "text", "text": "rain"}, {"type": "image_url", "image_url": {"url": PNG}}]},
            {"role": "user", "content": "And?"},
            {"role": "assistant", "content": ""},
            {"role": "user", "content": [{"type": "text", "text": ""}, {"type": "text", "text": "So?"}]},
        ],
    )  # fmt: skip
    image = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
    assert body["messages"] == [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "Let me look."},
                {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Ulm"}},
                {"type": "tool_use", "id": "fc_2_x", "name": "weather", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "call_1", "content": '{"sun": true}'},
                {
                    "type": "tool_result",
                    "tool_use_id": "fc_2_x",
                    "content": [
                        {"type": "text", "text": "rain"},
                        {"type": "image", "source": image},
                    ],
                },
                {"type": "text", "text": "And?"},
                {"type": "text", "text": "So?"},
            ],
        },
    ]
    function = WEATHER["function"]
    assert body["tools"] == [
        {
            "name": "weather",
            "description": "Tell the weather",
            "input_schema": function["parameters"],
        }
    ]


async def test_thoughts_are_handed_back_as_they_came():
    blocks = [
        {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "eHl6"},
        {"type": "text", "text": "Let me look."},
    ]
    calls = [{"id": "toolu_1", "function": {"name": "weather", "arguments": "{}"}}]
    body, _ = await sent(
        messages=[
            *USER,
            {"role": "assistant", "content": blocks, "tool_calls": calls},
            {"role": "tool", "tool_call_id": "toolu_1", "content": "sun"},
        ]
    )
    assert body["messages"][1]["content"] == [
        *blocks,
        {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}},
    ]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", {"type": "auto"}),
        ("none", {"type": "none"}),
        ("required", {"type": "any"}),
        (
            {"type": "function", "function": {"name": "weather"}},
            {"type": "tool", "name": "weather"},
        ),
    ],
)
async def test_tool_choice_in_every_form(choice, expected):
    body, _ = await sent(tools=[WEATHER], tool_choice=choice)
    assert body["tool_choice"] == expected


async def test_a_choice_among_no_tools():
    for choice in ("auto", "none"):
        assert "tool_choice" not in (await sent(tool_choice=choice))[0]
    with pytest.raises(InvalidRequestError, match="without tools"):
        await sent(tool_choice="required")


async def test_images_and_files():
    parts = [
        {"type": "image_url", "image_url": {"url": "https://x.org/a.png"}},
        {"type": "image_url", "image_url": PNG, "cache_control": {"type": "ephemeral"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERi0=", "filename": "a.pdf"}},
    ]  # fmt: skip
    body, _ = await sent(messages=[{"role": "user", "content": parts}])
    assert body["messages"][0]["content"] == [
        {"type": "image", "source": {"type": "url", "url": "https://x.org/a.png"}},
        {
            "type": "image",
            "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="},
            "cache_control": {"type": "ephemeral"},
        },
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="},
            "title": "a.pdf",
        },
    ]
    audio = {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}
    with pytest.raises(UnsupportedParameterError, match="no 'input_audio'"):
        await sent(messages=[{"role": "user", "content": [audio]}])


async def test_a_json_schema_is_closed_and_stands_beside_other_output_settings():
    schema = {"type": "object", "properties": {"a": {"type": "object", "properties": {}}}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    body, _ = await sent(response_format=form, params={"output_config": {"effort": "low"}})
    closed = {"type": "object", "properties": {}, "additionalProperties": False}
    assert body["output_config"] == {
        "effort": "low",
        "format": {
            "type": "json_schema",
            "schema": {
                "type": "object",
                "properties": {"a": closed},
                "additionalProperties": False,
            },
        },
    }


async def test_plain_parameters_and_those_of_its_own():
    search = {"type": "web_search_20250305", "name": "web_search"}
    body, dropped = await sent(
        max_tokens=9,
        temperature=0.5,
        stop=("END", "."),
        tools=[WEATHER],
        params={"top_k": 4, "metadata": {"user_id": "u"}, "tools": [search], "max_tokens": 77},
    )
    assert (body["max_tokens"], body["temperature"], body["top_k"]) == (9, 0.5, 4)
    assert body["stop_sequences"] == ["END", "."]
    assert body["metadata"] == {"user_id": "u"}
    assert [tool["name"] for tool in body["tools"]] == ["weather", "web_search"]
    assert dropped == ()
    assert (await sent(params={"max_tokens": 77}))[0]["max_tokens"] == 77


async def test_a_budget_for_thoughts_comes_on_top_of_the_default_limit():
    thinking = {"type": "enabled", "budget_tokens": 8000}
    body, _ = await sent(params={"thinking": thinking})
    assert (body["thinking"], body["max_tokens"]) == (thinking, 12_096)


THINKING = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
NEVER = [
    # what is asked, what can't be honoured
    ({"seed": 4}, "seed"),
    ({"temperature": 1.5}, "temperature"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"temperature": 0.5, "top_p": 0.9}, "top_p"),
    ({"temperature": 0.5, "top_p": 0.9, "model": "claude-opus-4-1-20250805"}, "top_p"),
    ({"temperature": 0.5, "params": THINKING}, "temperature"),
    ({"top_p": 0.5, "params": THINKING}, "top_p"),
    ({"params": {"top_k": 3, **THINKING}}, "top_k"),
    ({"params": {"thinking": {"type": "adaptive"}}, "temperature": 0.0}, "temperature"),
    ({"temperature": 0.0, "model": "claude-opus-4-7"}, "temperature"),
    ({"temperature": 0.7, "model": "claude-sonnet-5-5"}, "temperature"),
    ({"top_p": 0.9, "model": "claude-haiku-5-5"}, "top_p"),
    ({"params": {"top_k": 3}, "model": "claude-fable-5"}, "top_k"),
    ({"tools": [WEATHER], "tool_choice": "required", "params": THINKING}, "tool_choice"),
]


@pytest.mark.parametrize(("asked", "name"), NEVER)
async def test_what_claude_never_honours_is_refused_or_a_recorded_drop(asked, name):
    with pytest.raises(UnsupportedParameterError, match=rf"can't honour .*{name}"):
        await sent(**asked)
    body, dropped = await sent(**asked, on_unsupported="drop")
    assert dropped == (name,)
    assert name not in body
    assert "output_config" not in body


async def test_what_claude_does_honour_is_sent():
    for model in ("claude-3-opus", "claude-3-7-sonnet-latest", "claude-opus-4-20250514"):
        body, _ = await sent(model=model, temperature=0.5, top_p=0.9)
        assert (body["temperature"], body["top_p"]) == (0.5, 0.9)
    body, _ = await sent(model="claude-opus-4-6", temperature=0.2)
    assert body["temperature"] == 0.2
    body, _ = await sent(temperature=1.0, params=THINKING)
    assert body["temperature"] == 1.0
    # The default, said aloud, asks for nothing that the model refuses.
    body, dropped = await sent(model="claude-sonnet-5", temperature=1.0, top_p=1.0)
    assert not {"temperature", "top_p"} & body.keys()
    assert dropped == ()


def refusal(text):
    error = {"type": "invalid_request_error", "message": text}
    return Scripted(400, body={"type": "error", "error": error})


@pytest.mark.parametrize(
    ("text", "name", "params"),
    [
        ("`temperature` is deprecated for this model.", "temperature", {}),
        ("`temperature` and `top_p` cannot both be specified for this model. Please use only one.",
         "top_p", {}),
        ("`temperature` may only be set to 1 when thinking is enabled or in adaptive mode.",
         "temperature", {}),
        ("verbosity: Extra inputs are not permitted", "verbosity", {"verbosity": "low"}),
    ],
)  # fmt: skip
async def test_what_the_server_refuses_by_name_is_dropped_and_remembered(text, name, params):
    call = {"temperature": 0.5, "top_p": 0.9, "params": params, "timeout_s": 20.0}
    model = "claude-next"  # nothing is known of it beforehand
    with pytest.raises(UnsupportedParameterError, match=f"Leave {name} out") as caught:
        await ask(refusal(text), Call(model, USER, **call))
    assert isinstance(caught.value, ProviderError)
    dropping = Call(model, USER, **call, on_unsupported="drop")
    with ScriptedServer([refusal(text), *[Scripted(body=message())] * 2]) as server:
        provider = AnthropicProvider(ProviderConfig("anthropic", base_url=server.url))
        for _ in range(2):
            assert (await provider.complete(dropping)).dropped_params == (name,)
        await provider.aclose()
    assert [name in request.json for request in server.requests] == [True, False, False]


async def test_a_lone_system_prompt_is_left_to_providers_that_answer_one():
    with pytest.raises(UnsupportedParameterError, match="at least one user message"):
        await sent(messages=[{"role": "system", "content": "x"}])


async def test_headers_and_key():
    from pydantic import SecretStr

    _, _, (request,) = await ask(
        Scripted(body=message()),
        Call(MODEL, USER),
        api_key=SecretStr("sk-ant-1"),
        options={"headers": {"anthropic-beta": "x"}},
    )
    assert request.path == "/v1/messages"
    # Older versions of the SDK send it as x-api-key.
    said = [request.headers.get("authorization"), request.headers.get("x-api-key")]
    assert said in (["Bearer sk-ant-1", None], [None, "sk-ant-1"])
    assert request.headers["anthropic-beta"] == "x"


# What comes back.

SEARCH = [
    {"type": "thinking", "thinking": "Look it up.", "signature": "c2ln"},
    {"type": "redacted_thinking", "data": "eHl6"},
    {"type": "text", "text": "I'll search. "},
    {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "q"}},
    {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1",
     "content": [{"type": "web_search_result", "url": "https://x.org", "title": "X"}]},
    {"type": "text", "text": "It is so.", "citations": [
        {"type": "web_search_result_location", "url": "https://x.org", "cited_text": "so"}]},
    {"type": "a_kind_to_come", "text": "not shown"},
]  # fmt: skip


def events(content, *, stop="end_turn", usage=None):
    """A stream of these blocks, in pieces of a few characters, as the API sends them."""
    start = message(stop_reason=None, usage={"input_tokens": 3, "output_tokens": 1})
    start["content"] = []
    made = [{"type": "message_start", "message": start}, {"type": "ping"}]
    grows = {
        "text": ("text", "text_delta", "text"),
        "thinking": ("thinking", "thinking_delta", "thinking"),
        "tool_use": ("input", "input_json_delta", "partial_json"),
        "server_tool_use": ("input", "input_json_delta", "partial_json"),
    }
    for index, block in enumerate(content):
        begun, said, kind, name = dict(block), "", "", ""
        if block["type"] in grows:
            field, kind, name = grows[block["type"]]
            said = block[field] if isinstance(block[field], str) else json.dumps(block[field])
            begun[field] = "" if isinstance(block[field], str) else {}
        signature = begun.pop("signature", None)
        citations = begun.pop("citations", ())
        made.append({"type": "content_block_start", "index": index, "content_block": begun})
        deltas = [{"type": kind, name: said[i : i + 5]} for i in range(0, len(said), 5)]
        deltas += [{"type": "citations_delta", "citation": c} for c in citations]
        deltas += [{"type": "signature_delta", "signature": signature}] if signature else []
        deltas += [{"type": "a_delta_to_come", "data": 1}]
        made += [{"type": "content_block_delta", "index": index, "delta": d} for d in deltas]
        made += [{"type": "content_block_stop", "index": index}, {"type": "an_event_to_come"}]
    delta = {"stop_reason": stop, "stop_sequence": None}
    made.append({"type": "message_delta", "delta": delta, "usage": usage or {"output_tokens": 40}})
    return [*made, {"type": "message_stop"}]


@pytest.mark.parametrize("stream", [False, True])
async def test_searches_thoughts_and_citations(stream):
    usage = {
        "input_tokens": 100,
        "cache_read_input_tokens": 20,
        "cache_creation_input_tokens": 50,
        "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 30},
        "output_tokens": 40,
        "output_tokens_details": {"thinking_tokens": 15},
        "server_tool_use": {"web_search_requests": 2},
    }
    script = Scripted(body=message(*SEARCH, usage=usage))
    if stream:
        script = Scripted(pieces=sse(*events(SEARCH, usage=usage), event_names=True))
    reply, deltas, _ = await ask(script, Call(MODEL, USER, timeout_s=20.0), stream=stream)
    assert reply.content == "I'll search. It is so."
    assert reply.reasoning == "Look it up."
    assert reply.tool_calls == ()
    assert reply.finish_reason == "stop"
    assert reply.usage == Usage(
        170, 40, 20, 50, cache_write_1h_tokens=30, reasoning_tokens=15, web_searches=2
    )
    assert dict(reply.raw_usage) == usage
    if stream:
        assert "".join(d.content for d in deltas) == reply.content
        assert "".join(d.reasoning for d in deltas) == reply.reasoning


@pytest.mark.parametrize("stream", [False, True])
async def test_tool_calls(stream):
    blocks = [
        {"type": "text", "text": "Let me look."},
        {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Köln 🌦"}},
        {"type": "tool_use", "id": "toolu_2", "name": "now", "input": {}},
    ]
    script = Scripted(body=message(*blocks, stop_reason="tool_use"))
    if stream:
        body = "".join(sse(*events(blocks, stop="tool_use"), event_names=True)).encode()
        script = Scripted(pieces=cut(body, 11))
    reply, _, _ = await ask(script, Call(MODEL, USER, timeout_s=20.0), stream=stream)
    assert [(c.id, c.name, json.loads(c.arguments)) for c in reply.tool_calls] == [
        ("toolu_1", "weather", {"city": "Köln 🌦"}),
        ("toolu_2", "now", {}),
    ]
    assert reply.finish_reason == "tool_calls"


async def test_arguments_that_the_limit_cut_short_are_shown_as_far_as_they_came():
    block = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Ulm"}}
    made = events([block], stop="max_tokens")
    cut_short = [
        e
        for e in made
        if not (
            e["type"] == "content_block_delta" and "Ulm" in e["delta"].get("partial_json", "Ulm")
        )
    ]
    cut_short = [e for e in cut_short if e.get("delta", {}).get("partial_json") != ' "Ulm']
    reply, _, _ = await ask(
        Scripted(pieces=sse(*cut_short)), Call(MODEL, USER, timeout_s=20.0), stream=True
    )
    assert reply.finish_reason == "length"
    (call,) = reply.tool_calls
    assert call == ToolCall("toolu_1", "weather", call.arguments)
    with pytest.raises(ValueError):
        json.loads(call.arguments)


@pytest.mark.parametrize(
    ("said", "finish"),
    [
        ("end_turn", "stop"), ("stop_sequence", "stop"), ("pause_turn", "stop"),
        ("max_tokens", "length"), ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"), ("refusal", "content_filter"), ("a_reason_to_come", "unknown"),
    ],
)  # fmt: skip
async def test_finish_reasons(said, finish):
    reply, _, _ = await ask(Scripted(body=message(stop_reason=said)), Call(MODEL, USER))
    assert reply.finish_reason == finish
    script = Scripted(pieces=sse(*events([{"type": "text", "text": "x"}], stop=said)))
    reply, _, _ = await ask(script, Call(MODEL, USER, timeout_s=20.0), stream=True)
    assert reply.finish_reason == finish


async def test_a_refusal_without_a_word_is_an_answer():
    reply, _, _ = await ask(
        Scripted(body=message(stop_reason="refusal") | {"content": []}), Call(MODEL, USER)
    )
    assert (reply.content, reply.finish_reason) == ("", "content_filter")


@pytest.mark.parametrize(
    ("usage", "tier"),
    [
        ({"service_tier": "priority"}, "priority"),
        ({"service_tier": "standard", "speed": "standard"}, "standard"),
        ({"service_tier": "standard", "speed": "fast"}, "fast"),
        ({"service_tier": "standard", "inference_geo": "us"}, "inference_geo us"),
        ({"service_tier": "standard", "inference_geo": "global"}, "standard"),
    ],
)
async def test_what_makes_tokens_dearer_is_told(usage, tier):
    reply, _, _ = await ask(Scripted(body=message(usage=usage)), Call(MODEL, USER))
    assert reply.service_tier == tier


async def test_what_an_advisor_did_is_told_apart():
    iterations = [
        {"type": "message", "input_tokens": 3, "output_tokens": 4},
        {"type": "advisor_message", "model": "claude-opus-4-8", "input_tokens": 9, "output_tokens": 8},
    ]  # fmt: skip
    usage = {"input_tokens": 3, "output_tokens": 4, "iterations": iterations}
    for script, stream in (
        (Scripted(body=message(usage=usage)), False),
        (Scripted(pieces=sse(*events([{"type": "text", "text": "x"}], usage=usage))), True),
    ):
        reply, _, _ = await ask(script, Call(MODEL, USER, timeout_s=20.0), stream=stream)
        assert reply.usage == Usage(3, 4)
        assert reply.other_models == (("claude-opus-4-8", Usage(9, 8)),)


async def test_a_stream_without_its_goodbye_is_whole_once_the_reason_to_stop_has_come():
    made = events([{"type": "text", "text": "Hello"}])[:-1]
    for end in ("close", "abort"):
        reply, _, _ = await ask(
            Scripted(pieces=sse(*made), end=end), Call(MODEL, USER, timeout_s=20.0), stream=True
        )
        assert (reply.content, reply.finish_reason) == ("Hello", "stop")


async def test_a_server_that_answers_a_stream_whole():
    reply, deltas, _ = await ask(
        Scripted(body=message()), Call(MODEL, USER, timeout_s=20.0), stream=True
    )
    assert (reply.content, [d.content for d in deltas]) == ("Hello", ["Hello"])


@pytest.mark.parametrize(
    "made",
    [
        [{"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "x"}}],
        [{"type": "message_start", "message": None}],
        ["not JSON"],
        ["[]"],
    ],
)
async def test_events_that_make_no_sense_are_a_provider_out_of_order(made):
    with pytest.raises(ProviderUnavailableError, match="can't be read"):
        await ask(Scripted(pieces=sse(*made)), Call(MODEL, USER, timeout_s=20.0), stream=True)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                "type content text thinking index delta content_block message usage model error "
                "stop_reason id name input partial_json input_tokens iterations".split()
            ),
            inner
            | st.sampled_from(
                "text thinking tool_use message_start message_delta message_stop error "
                "content_block_start content_block_delta text_delta input_json_delta".split()
            ),
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(data=st.lists(_JSON, max_size=4))
def test_any_json_is_an_answer_an_error_of_ours_or_misshapen(data):
    expected = (ProviderError, KeyError, TypeError, IndexError, AttributeError, ValueError)
    reader = StreamReader({}, provider="anthropic", model="m")
    with contextlib.suppress(expected):
        for event in data:
            list(reader.feed(json.dumps(event).encode()))
        reader.reply()
    with contextlib.suppress(expected):
        read_reply(data[0] if data else {}, dropped=())


async def test_a_connection_that_is_cut_after_it_was_made_may_have_sent_the_request():
    with ScriptedServer(Scripted(end="abort")) as server:
        provider = AnthropicProvider(ProviderConfig("anthropic", base_url=server.url))
        with pytest.raises(ProviderUnavailableError) as caught:
            await provider.complete(Call("claude-haiku-4-5", [{"role": "user", "content": "x"}]))
        await provider.aclose()
        assert len(server.requests) == 1
    assert not caught.value.never_sent
