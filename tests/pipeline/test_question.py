"""Bad input gets a clear error before anything is sent; good input is normalised."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from novellus_lab.errors import InvalidRequestError
from novellus_lab.pipeline.question import build_question

USER = {"role": "user", "content": "Hi"}


class City(BaseModel):
    name: str


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "prompt or messages"),
        ({"prompt": ""}, "empty"),
        ({"prompt": " \n"}, "empty"),
        ({"prompt": 3}, "must be a string, not int"),
        ({"prompt": "x", "messages": [USER]}, "not both"),
        ({"messages": []}, "empty"),
        ({"messages": "Hi"}, "list"),
        ({"messages": ["Hi"]}, r"messages\[0\] must be a dict"),
        ({"messages": [USER, {"role": "usr", "content": "x"}]}, r"messages\[1\].role .*'usr'"),
        ({"messages": [{"role": "user", "content": None}]}, r"messages\[0\].content is missing"),
        ({"messages": [{"role": "user", "content": 5}]}, "string or a list of parts"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, r"content\[0\]"),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "image_url", "image_url": {"url": "/etc/passwd"}}],
                    }
                ]
            },
            "image_url",
        ),
        ({"messages": [{"role": "tool", "content": "4"}]}, "tool_call_id"),
        ({"messages": [{"role": "system", "content": ""}]}, "all messages are empty"),
        ({"prompt": "x", "max_tokens": 0}, "max_tokens .* at least 1, not 0"),
        ({"prompt": "x", "max_tokens": -5}, "-5"),
        ({"prompt": "x", "max_tokens": True}, "max_tokens"),
        ({"prompt": "x", "max_tokens": 1.5}, "max_tokens"),
        ({"prompt": "x", "temperature": 2.1}, "temperature must be between 0 and 2"),
        ({"prompt": "x", "temperature": math.nan}, "temperature"),
        ({"prompt": "x", "temperature": "hot"}, "number"),
        ({"prompt": "x", "top_p": -0.1}, "top_p"),
        ({"prompt": "x", "stop": []}, "stop"),
        ({"prompt": "x", "stop": [""]}, "stop"),
        ({"prompt": "x", "seed": 2**70}, "64 bits"),
        ({"prompt": "x", "timeout": 0}, "timeout"),
        ({"prompt": "x", "timeout": math.inf}, "timeout"),
        ({"prompt": "x", "tools": [print]}, r"tools\[0\] must be a dict"),
        ({"prompt": "x", "tools": {}}, "list"),
        (
            {
                "prompt": "x",
                "tools": [
                    {"type": "function", "function": {"name": "f", "parameters": {"d": {1, 2}}}}
                ],
            },
            r"parameters\.parameters|tools|holds a set",
        ),
        ({"prompt": "x", "tools": [], "functions": []}, "not both"),
        ({"prompt": "x", "tool_choice": "look"}, "tool_choice"),
        ({"prompt": "x", "response_format": "yaml"}, "response_format"),
        ({"prompt": "x", "response_format": int}, "Pydantic"),
        ({"prompt": "x", "params": {"temperature": 1}}, "params must not repeat temperature"),
        ({"prompt": "x", "params": {"f": object()}}, "holds a object"),
        ({"prompt": "x", "cache": {"tll": 5}}, "'ttl'"),
        ({"prompt": "x", "cache": {"ttl": -1}}, "cache.ttl"),
        ({"prompt": "x", "use_cache": "no"}, "use_cache"),
        ({"prompt": "x", "tags": ["a"]}, "tags must be a dict"),
        ({"prompt": "x", "tags": {"a": math.inf}}, "inf"),
        ({"prompt": "x", "arm": "a"}, "without experiment"),
        ({"prompt": "x", "session_id": 4}, "session_id"),
        ({"prompt": "x", "model_id": ""}, "model_id"),
    ],
)
def test_a_wrong_argument_is_named(arguments, says):
    with pytest.raises(InvalidRequestError, match=says):
        build_question(**arguments)


def test_a_lone_surrogate_is_found_and_explained():
    with pytest.raises(InvalidRequestError, match=r"U\+D83D at position 3"):
        build_question("ab \ud83d")
    with pytest.raises(InvalidRequestError, match=r"messages\[1\]\.content"):
        build_question(messages=[USER, {"role": "user", "content": "\udc00"}])


def test_nul_passes_and_comes_back():
    assert build_question("a\x00b").messages == [{"role": "user", "content": "a\x00b"}]


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "prompt",
                "messages",
                "model_id",
                "max_tokens",
                "temperature",
                "top_p",
                "stop",
                "seed",
                "tools",
                "functions",
                "tool_choice",
                "response_format",
                "params",
                "use_cache",
                "cache",
                "timeout",
                "tags",
                "session_id",
                "experiment",
                "arm",
            ]
        ),
        ANYTHING,
        max_size=4,
    )
)
def test_anything_at_all_is_either_understood_or_refused_in_words(arguments):
    try:
        request = build_question(**arguments)
    except InvalidRequestError as error:
        assert len(str(error)) > 10
    else:
        assert request.messages


def test_the_callers_objects_are_not_handed_on():
    message = {"role": "user", "content": "before"}
    request = build_question(messages=[message])
    message["content"] = "after"
    assert request.messages[0]["content"] == "before"


def test_functions_are_tools_in_their_older_spelling():
    function = {"name": "look", "parameters": {"type": "object"}}
    old = build_question("x", functions=[function])
    new = build_question("x", tools=[{"type": "function", "function": function}])
    assert old.params_json == new.params_json


def test_a_pydantic_model_becomes_a_json_schema():
    request = build_question("x", response_format=City)
    schema = request.params["response_format"]["json_schema"]
    assert schema["name"] == "City"
    assert schema["schema"]["properties"]["name"]["type"] == "string"
    assert request.response_model is City


def test_what_does_not_change_the_answer_is_not_in_the_parameters():
    plain = build_question("x")
    dressed = build_question("x", tags={"a": 1}, session_id="s", timeout=5, priority="high")
    assert plain.params_json == dressed.params_json
