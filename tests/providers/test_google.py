"""Gemini: what is sent, and what is made of every kind of answer that its API documents."""

from __future__ import annotations

import contextlib
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from novellus_lab.errors import (
    ContentFilteredError,
    InvalidRequestError,
    ProviderError,
    ProviderUnavailableError,
    UnsupportedParameterError,
)
from novellus_lab.providers.base import Call, ProviderConfig
from novellus_lab.providers.google import GoogleProvider
from novellus_lab.providers.google_content import Reader, request_body
from novellus_lab.types import Usage
from tests.loopback import Received, Scripted, ScriptedServer, cut, sse

USER = [{"role": "user", "content": "Hi"}]
MODEL = "gemini-2.5-flash"
PNG = "data:image/png;base64,iVBORw0KGgo="
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tell the weather",
        "parameters": {
            "type": "object",
            "properties": {"where_exactly": {"type": "object", "properties": {"at_sea": {}}}},
        },
    },
}
COUNTED = {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 15}


def answer(*parts, finish="STOP", usage=COUNTED, candidate=None, **more):
    made = {"content": {"role": "model", "parts": list(parts)}, "index": 0, **(candidate or {})}
    if finish:
        made["finishReason"] = finish
    data = {"candidates": [made], "modelVersion": MODEL, "responseId": "r1", **more}
    if usage:
        data["usageMetadata"] = usage
    return data


async def ask(script, call, *, stream=False, **config):
    """Return the reply, the deltas before it, and what was sent."""
    with ScriptedServer(script) as server:
        provider = GoogleProvider(ProviderConfig("google", base_url=server.url, **config))
        try:
            if stream:
                deltas = [delta async for delta in provider.stream(call)]
                return deltas[-1].reply, deltas[:-1], server.requests
            return await provider.complete(call), [], server.requests
        finally:
            await provider.aclose()


async def both(*pieces, model=MODEL):
    """Return the replies to these pieces as a stream, and to the only one of them as a whole."""
    call = Call(model, USER, timeout_s=20.0)
    body = "".join(sse(*pieces)).encode()
    streamed, _, _ = await ask(Scripted(pieces=cut(body, "awkward")), call, stream=True)
    if len(pieces) > 1:
        return [streamed]
    whole, _, _ = await ask(Scripted(body=pieces[0]), call)
    return [streamed, whole]


async def sent(**call):
    asked = Call(**{"model": MODEL, "messages": USER, "timeout_s": 20.0, **call})
    reply, _, requests = await ask(Scripted(body=answer({"text": "x"})), asked)
    return requests[-1].json, reply.dropped_params


# What is sent.


async def test_the_least_that_is_sent_and_where():
    asked = Call(MODEL, USER, timeout_s=20.0)
    key = {
        "api_key": SecretStr("AIzaKey"),
        "options": {"api_version": "v1beta", "headers": {"x-team": "lab"}},
    }
    said = answer({"text": "x"})
    for stream, script in ((False, Scripted(body=said)), (True, Scripted(pieces=sse(said)))):
        _, _, (request,) = await ask(script, asked, stream=stream, **key)
        assert request.json == {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}
        method = "streamGenerateContent" if stream else "generateContent"
        assert request.path == f"/v1beta/models/{MODEL}:{method}"
        assert dict(request.query) == ({"alt": "sse"} if stream else {})
        assert request.headers["x-goog-api-key"] == "AIzaKey"
        assert request.headers["x-team"] == "lab"


async def test_plain_parameters():
    body, _ = await sent(
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
            *USER,
        ],
        max_tokens=9,
        temperature=0.0,
        top_p=0.5,
        seed=4,
        stop=("END",),
    )
    assert body["systemInstruction"] == {"parts": [{"text": "Be brief.\n\nBe kind."}]}
    assert body["generationConfig"] == {
        "maxOutputTokens": 9,
        "temperature": 0.0,
        "topP": 0.5,
        "seed": 4,
        "stopSequences": ["END"],
    }


async def test_parameters_of_its_own_in_either_spelling():
    body, _ = await sent(
        temperature=0.5,
        params={
            "presence_penalty": 0.25,
            "frequencyPenalty": 0.5,
            "thinking_config": {"thinking_budget": 0, "include_thoughts": True},
            "temperature": 1.5,
            "safety_settings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "OFF"}],
            "service_tier": "flex",
            "cached_content": "cachedContents/1",
            "labels": {"my_team": "lab"},
            "generation_config": {"top_k": 3},
            "extra_body": {"store": False},
        },
    )
    assert body["generationConfig"] == {
        "presencePenalty": 0.25,
        "frequencyPenalty": 0.5,
        "thinkingConfig": {"thinkingBudget": 0, "includeThoughts": True},
        "topK": 3,
        "temperature": 0.5,
    }
    assert body["safetySettings"] == [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "OFF"}]
    assert (body["serviceTier"], body["cachedContent"]) == ("flex", "cachedContents/1")
    assert (body["labels"], body["store"]) == ({"my_team": "lab"}, False)


async def test_a_conversation_with_tools_and_several_results():
    calls = [
        {"id": "call_1~sig~c2ln+/==", "type": "function",
         "function": {"name": "weather", "arguments": '{"city": "Ulm"}'}},
        {"id": "call_2", "type": "function", "function": {"name": "now", "arguments": ""}},
    ]  # fmt: skip
    body, _ = await sent(
        tools=[WEATHER],
        params={"tools": [{"google_search": {}}]},
        messages=[
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": "Let me look.", "tool_calls": calls},
            {"role": "tool", "tool_call_id": "call_1~sig~c2ln+/==", "content": '{"sun": true}'},
            {"role": "tool", "tool_call_id": "call_2",
             "content": [{"type": "text", "text": "noon"}, {"type": "image_url", "image_url": PNG}]},
            {"role": "user", "content": "And?"},
            {"role": "assistant", "content": ""},
            {"role": "user", "content": "So?"},
        ],
    )  # fmt: skip
    assert body["contents"] == [
        {"role": "user", "parts": [{"text": "Weather?"}]},
        {
            "role": "model",
            "parts": [
                {"text": "Let me look."},
                {
                    "functionCall": {"name": "weather", "args": {"city": "Ulm"}},
                    "thoughtSignature": "c2ln+/==",
                },
                {"functionCall": {"name": "now", "args": {}}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"name": "weather", "response": {"sun": True}}},
                {
                    "functionResponse": {
                        "name": "now",
                        "response": {"result": "noon"},
                        "parts": [
                            {"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}}
                        ],
                    }
                },
                {"text": "And?"},
                {"text": "So?"},
            ],
        },
    ]
    function = WEATHER["function"]
    declared = {
        "name": "weather",
        "description": "Tell the weather",
        "parametersJsonSchema": function["parameters"],  # names of the caller's own stay
    }
    assert body["tools"] == [{"functionDeclarations": [declared]}, {"googleSearch": {}}]


@pytest.mark.parametrize(
    ("model", "signature"),
    [
        ("gemini-3.8-flash", "skip_thought_signature_validator"),
        ("gemini-4-argon", "skip_thought_signature_validator"),
        ("gemini-flash-latest", "skip_thought_signature_validator"),
        ("gemini-2.5-pro", None),
        ("gemini-pro", None),
        ("gemma-3-27b-it", None),
    ],
)
def test_calls_that_another_model_made_are_marked_for_models_that_want_signatures(model, signature):
    function = {"name": "f", "arguments": "{}"}
    history = [
        *USER,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "a", "function": function}, {"id": "b", "function": function}],
        },
    ]
    body, _ = request_body(Call(model, history), provider="google")
    first, second = body["contents"][1]["parts"]
    assert first.get("thoughtSignature") == signature
    assert "thoughtSignature" not in second


@pytest.mark.parametrize(
    ("content", "response"),
    [
        ("plain words", {"result": "plain words"}),
        ('{"a": 1}', {"a": 1}),
        ("[1, 2]", {"result": [1, 2]}),
        ("12", {"result": 12}),
        ("", {"result": ""}),
        ([{"type": "text", "text": '{"a": '}, {"type": "text", "text": "1}"}], {"a": 1}),
    ],
)
def test_tool_results_of_every_form(content, response):
    history = [
        *USER,
        {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "a", "content": content},
    ]  # fmt: skip
    body, _ = request_body(Call(MODEL, history), provider="google")
    assert body["contents"][2]["parts"][0]["functionResponse"]["response"] == response


def test_a_result_of_no_call_is_told_before_anything_is_sent():
    history = [*USER, {"role": "tool", "tool_call_id": "a", "content": "x"}]
    with pytest.raises(InvalidRequestError, match="'a' answers no earlier tool call"):
        request_body(Call(MODEL, history), provider="google")


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", {"mode": "AUTO"}),
        ("none", {"mode": "NONE"}),
        ("required", {"mode": "ANY"}),
        ({"type": "function", "function": {"name": "weather"}},
         {"mode": "ANY", "allowedFunctionNames": ["weather"]}),
    ],
)  # fmt: skip
async def test_tool_choice_in_every_form(choice, expected):
    body, _ = await sent(tools=[WEATHER], tool_choice=choice)
    assert body["toolConfig"] == {"functionCallingConfig": expected}


async def test_a_choice_among_no_tools():
    for choice in ("auto", "none"):
        assert "toolConfig" not in (await sent(tool_choice=choice))[0]
    with pytest.raises(InvalidRequestError, match="without tools"):
        await sent(tool_choice="required")


async def test_images_sound_and_files():
    parts = [
        {"type": "text", "text": "See:"},
        {"type": "image_url", "image_url": {"url": PNG}},
        {"type": "image_url", "image_url": "https://x.org/a.webp?size=1"},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERi0="}},
    ]
    body, _ = await sent(messages=[{"role": "user", "content": parts}])
    assert body["contents"][0]["parts"] == [
        {"text": "See:"},
        {"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}},
        {"fileData": {"fileUri": "https://x.org/a.webp?size=1", "mimeType": "image/webp"}},
        {"inlineData": {"mimeType": "audio/wav", "data": "AA=="}},
        {"inlineData": {"mimeType": "application/pdf", "data": "JVBERi0="}},
    ]
    with pytest.raises(UnsupportedParameterError, match="no 'video_url'"):
        await sent(messages=[{"role": "user", "content": [{"type": "video_url"}]}])


async def test_response_formats():
    body, _ = await sent(response_format={"type": "json_object"})
    assert body["generationConfig"] == {"responseMimeType": "application/json"}
    schema = {"type": "object", "properties": {"snake_case": {"type": "string"}}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    body, _ = await sent(response_format=form)
    assert body["generationConfig"] == {
        "responseMimeType": "application/json",
        "responseJsonSchema": schema,
    }


@pytest.mark.parametrize("name", ["n", "candidate_count", "candidateCount"])
async def test_several_answers_would_be_paid_for_and_thrown_away(name):
    with pytest.raises(UnsupportedParameterError, match="can't honour"):
        await sent(params={name: 2})
    body, dropped = await sent(params={name: 2}, on_unsupported="drop")
    assert "generationConfig" not in body
    assert len(dropped) == 1


async def test_what_the_server_refuses_by_name_is_dropped_and_told():
    said = "Invalid JSON payload received. Unknown name \"verbosity\" at 'generation_config'"
    refusal = Scripted(400, body={"error": {"code": 400, "message": said, "status": "INVALID_ARGUMENT"}})  # fmt: skip
    call = {"params": {"verbosity": "low", "topK": 3}, "timeout_s": 20.0}
    with pytest.raises(UnsupportedParameterError, match="Leave verbosity out") as caught:
        await ask(refusal, Call(MODEL, USER, **call))
    assert isinstance(caught.value, ProviderError)
    reply, _, requests = await ask(
        [refusal, Scripted(body=answer({"text": "x"}))],
        Call(MODEL, USER, **call, on_unsupported="drop"),
    )
    assert reply.dropped_params == ("verbosity",)
    assert requests[1].json["generationConfig"] == {"topK": 3}


async def test_the_request_is_the_one_that_the_sdk_itself_would_send():
    from google.genai import Client, types

    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    with ScriptedServer(Scripted(body=answer({"text": "x"}))) as server:
        client = Client(api_key="k", http_options=types.HttpOptions(base_url=server.url))
        await client.aio.models.generate_content(
            model=MODEL,
            contents=[
                {"role": "user", "parts": [{"text": "Hi"}]},
                {"role": "model", "parts": [{"function_call": {"name": "f", "args": {"a": 1}}}]},
                {"role": "user", "parts": [
                    {"function_response": {"name": "f", "response": {"b": 2}}},
                    {"inline_data": {"mime_type": "image/png", "data": "iVBORw0KGgo="}}]},
            ],
            config={
                "system_instruction": {"parts": [{"text": "Be brief."}]},
                "temperature": 0.5, "top_p": 0.9, "max_output_tokens": 9, "seed": 4,
                "stop_sequences": ["END"], "presence_penalty": 0.25,
                "thinking_config": {"thinking_budget": 0},
                "safety_settings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "OFF"}],
                "response_mime_type": "application/json", "response_json_schema": schema,
                "tools": [{"function_declarations": [
                    {"name": "f", "description": "d", "parameters_json_schema": schema}]}],
                "tool_config": {"function_calling_config": {"mode": "ANY", "allowed_function_names": ["f"]}},
                "automatic_function_calling": {"disable": True},
            },
        )  # fmt: skip
        await client.aio.aclose()
        theirs: Received = server.requests[-1]
    function = {"name": "f", "description": "d", "parameters": schema}
    ours, _ = await sent(
        messages=[
            {"role": "system", "content": "Be brief."},
            *USER,
            {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": '{"a": 1}'}}]},
            {"role": "tool", "tool_call_id": "1", "content": '{"b": 2}'},
            {"role": "user", "content": [{"type": "image_url", "image_url": PNG}]},
        ],
        temperature=0.5, top_p=0.9, max_tokens=9, seed=4, stop=("END",),
        params={
            "presence_penalty": 0.25,
            "thinking_config": {"thinking_budget": 0},
            "safety_settings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "OFF"}],
        },
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
        tools=[{"type": "function", "function": function}],
        tool_choice={"type": "function", "function": {"name": "f"}},
    )  # fmt: skip
    # The API takes either spelling, and the SDK mixes them.
    camel = re.sub(rb'_([a-z]+)(?=\w*":)', lambda found: found[1].title(), theirs.body)
    expected = json.loads(camel)
    expected["systemInstruction"].pop("role", None)
    assert ours == expected


# What comes back.


async def test_thoughts_calls_and_what_is_no_part_of_the_answer():
    for reply in await both(
        answer(
            {"text": "Hm. ", "thought": True, "thoughtSignature": "c2ln"},
            {"text": "Let me look."},
            {"executableCode": {"language": "PYTHON", "code": "1+1"}},
            {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "2"}},
            {"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}},
            {"aPartToCome": {}},
            {"functionCall": {"id": "fc1", "name": "weather", "args": {"city": "Köln 🌦"}},
             "thoughtSignature": "c2ln+/=="},
            {"functionCall": {"name": "now"}},
            usage={**COUNTED, "thoughtsTokenCount": 7, "toolUsePromptTokenCount": 3,
                   "cachedContentTokenCount": 4, "aCountToCome": 9, "serviceTier": "FLEX"},
        )
    ):  # fmt: skip
        assert (reply.content, reply.reasoning) == ("Let me look.", "Hm. ")
        first, second = reply.tool_calls
        assert (first.id, first.name) == ("fc1~sig~c2ln+/==", "weather")
        assert json.loads(first.arguments) == {"city": "Köln 🌦"}
        assert (second.name, second.arguments) == ("now", "{}")
        assert second.id.startswith("call_")
        assert reply.finish_reason == "tool_calls"
        assert reply.usage == Usage(13, 12, cached_input_tokens=4, reasoning_tokens=7)
        assert reply.raw_usage["aCountToCome"] == 9
        assert (reply.service_tier, reply.response_id) == ("flex", "r1")


async def test_calls_without_ids_get_ids_that_no_other_turn_has():
    call = answer({"functionCall": {"name": "now", "args": {}}})
    ids = {(await both(call))[1].tool_calls[0].id for _ in range(2)}
    assert len(ids) == 2
    assert all(len(call_id) <= 40 for call_id in ids)  # OpenAI's limit, should it answer next


async def test_a_stream_in_which_only_the_last_piece_has_usage_and_some_are_empty():
    pieces = [
        answer({"text": "Hel"}, finish=None, usage=None),
        {},
        {"candidates": [{"content": {"role": "model"}}]},
        {"candidates": [{"content": {"parts": [{"text": ""}]}}], "modelVersion": MODEL},
        answer({"text": "lo"}, finish=None, usage=None),
        answer(usage=None),
        {"usageMetadata": COUNTED, "modelVersion": MODEL},
    ]
    (reply,) = await both(*pieces)
    assert (reply.content, reply.finish_reason) == ("Hello", "stop")
    assert reply.usage == Usage(10, 5)


async def test_only_the_first_candidate_is_read():
    data = answer({"text": "one"})
    data["candidates"].append({"index": 1, "content": {"parts": [{"text": "two"}]}})
    for reply in await both(data):
        assert reply.content == "one"


@pytest.mark.parametrize(
    ("model", "searches"), [("gemini-2.5-flash", 1), ("gemini-3.8-flash", 2), ("gemini-4-argon", 2)]
)
async def test_searches_are_counted_as_google_charges_them(model, searches):
    grounding = {"webSearchQueries": ["a", "b", "a", ""], "groundingChunks": []}
    data = answer({"text": "x"}, candidate={"groundingMetadata": grounding}, modelVersion=model)
    for reply in await both(data, model=model):
        assert reply.usage == Usage(10, 5, web_searches=searches)
    (reply,) = await both(
        answer({"text": "x"}, finish=None, candidate={"groundingMetadata": grounding}, modelVersion=model),
        answer({"text": "y"}, candidate={"groundingMetadata": grounding}, modelVersion=model),
    )  # fmt: skip
    assert reply.usage.web_searches == searches
    for reply in await both(answer({"text": "x"}, candidate={"groundingMetadata": {}})):
        assert reply.usage.web_searches == 0


@pytest.mark.parametrize(
    ("said", "finish"),
    [
        ("STOP", "stop"), ("MAX_TOKENS", "length"), ("SAFETY", "content_filter"),
        ("RECITATION", "content_filter"), ("PROHIBITED_CONTENT", "content_filter"),
        ("SPII", "content_filter"), ("LANGUAGE", "content_filter"),
        ("MALFORMED_FUNCTION_CALL", "error"), ("OTHER", "unknown"), ("A_REASON_TO_COME", "unknown"),
    ],
)  # fmt: skip
async def test_finish_reasons(said, finish):
    for reply in await both(answer({"text": "x"}, finish=said)):
        assert reply.finish_reason == finish


async def test_an_answer_that_was_withheld_is_an_answer_without_words():
    data = {"candidates": [{"finishReason": "SAFETY", "index": 0}], "usageMetadata": {"promptTokenCount": 9}}  # fmt: skip
    for reply in await both(data):
        assert (reply.content, reply.finish_reason) == ("", "content_filter")
        assert reply.usage == Usage(9)


async def test_an_answer_without_a_reason_to_stop():
    whole, _, _ = await ask(
        Scripted(body=answer({"text": "x"}, finish=None)), Call(MODEL, USER, timeout_s=20.0)
    )
    assert (whole.content, whole.finish_reason) == ("x", "unknown")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_that_was_blocked(stream):
    data = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 9}}
    script = Scripted(pieces=sse(data)) if stream else Scripted(body=data)
    with pytest.raises(ContentFilteredError, match="refused the prompt \\(SAFETY\\)") as caught:
        await ask(script, Call(MODEL, USER, timeout_s=20.0), stream=stream)
    assert not caught.value.retryable


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "data",
    [
        answer(finish="MALFORMED_FUNCTION_CALL"),
        {"candidates": [], "usageMetadata": COUNTED},
        {"usageMetadata": COUNTED},
    ],
)
async def test_no_answer_at_all_is_a_provider_out_of_order(data, stream):
    script = Scripted(pieces=sse(data)) if stream else Scripted(body=data)
    with pytest.raises(ProviderUnavailableError):
        await ask(script, Call(MODEL, USER, timeout_s=20.0), stream=stream)


async def test_a_server_that_answers_a_stream_whole_or_in_a_list():
    for body in (answer({"text": "Hello"}), [answer({"text": "Hel"}, finish=None), answer({"text": "lo"})]):  # fmt: skip
        reply, deltas, _ = await ask(
            Scripted(body=body), Call(MODEL, USER, timeout_s=20.0), stream=True
        )
        assert reply.content == "Hello" == "".join(d.content for d in deltas)


async def test_a_stream_that_is_cut_after_the_reason_to_stop_is_whole():
    script = Scripted(pieces=sse(answer({"text": "Hello"})), end="abort")
    reply, _, _ = await ask(script, Call(MODEL, USER, timeout_s=20.0), stream=True)
    assert (reply.content, reply.usage) == ("Hello", Usage(10, 5))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                "candidates content parts text thought functionCall name args finishReason index "
                "usageMetadata promptTokenCount promptFeedback groundingMetadata webSearchQueries "
                "error code".split()
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(data=st.lists(_JSON, min_size=1, max_size=3))
def test_any_json_is_an_answer_an_error_of_ours_or_misshapen(data):
    reader = Reader(MODEL)
    misshapen = (KeyError, TypeError, IndexError, AttributeError, ValueError)
    with contextlib.suppress(ProviderError, *misshapen):
        for piece in data:
            list(reader.feed(piece))
        reader.reply()


# Embeddings.


def vectors_for(request):
    texts = [r["content"]["parts"][0]["text"] for r in request.json["requests"]]
    return Scripted(
        body={
            "embeddings": [{"values": [float(text), 0.5]} for text in texts],
            "usageMetadata": {"promptTokenCount": len(texts), "promptTokenDetails": []},
        }
    )


async def test_embeddings_in_batches_of_a_hundred():
    texts = [str(n) for n in range(250)]
    with ScriptedServer(vectors_for) as server:
        provider = GoogleProvider(ProviderConfig("google", base_url=server.url))
        reply = await provider.embed("gemini-embedding-001", texts, dimensions=2, timeout_s=20.0)
        await provider.aclose()
    assert reply.vectors == tuple((float(n), 0.5) for n in range(250))
    assert [len(r.json["requests"]) for r in server.requests] == [100, 100, 50]
    assert server.requests[0].path.endswith("/models/gemini-embedding-001:batchEmbedContents")
    assert server.requests[0].json["requests"][1] == {
        "model": "models/gemini-embedding-001",
        "content": {"parts": [{"text": "1"}]},
        "outputDimensionality": 2,
    }
    assert (reply.usage, reply.model) == (Usage(250), "gemini-embedding-001")
    assert reply.raw_usage == {"promptTokenCount": 250}


async def test_embeddings_whose_tokens_nobody_counted_say_so():
    body = {"embeddings": [{"values": [1.0]}]}
    with ScriptedServer(Scripted(body=body)) as server:
        provider = GoogleProvider(ProviderConfig("google", base_url=server.url))
        reply = await provider.embed("gemini-embedding-001", ["a"], timeout_s=20.0)
        assert (reply.usage, reply.raw_usage) == (Usage(), {})
        with pytest.raises(ProviderUnavailableError, match="2 texts with 1 vectors"):
            await provider.embed("gemini-embedding-001", ["a", "b"], timeout_s=20.0)
        await provider.aclose()


@pytest.mark.parametrize("body", [{}, {"embeddings": [{}]}, {"embeddings": None}, [], "words"])
async def test_embeddings_that_make_no_sense(body):
    with ScriptedServer(Scripted(body=json.dumps(body))) as server:
        provider = GoogleProvider(ProviderConfig("google", base_url=server.url))
        with pytest.raises(ProviderUnavailableError, match="can't be read"):
            await provider.embed("gemini-embedding-001", ["a"], timeout_s=20.0)
        await provider.aclose()
