"""Checks of answers say what is not good enough, and let good answers through."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from novellus_lab.errors import ConfigurationError
from novellus_lab.routing.answer_checks import DEFAULT, Answer, make_check, why_not_good

SCHEMA = {
    "type": "object",
    "required": ["city"],
    "properties": {
        "city": {"type": "string"},
        "size": {"enum": ["small", "large"]},
        "sights": {"type": "array", "items": {"$ref": "#/$defs/sight"}},
        "mayor": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    },
    "$defs": {"sight": {"type": "object", "required": ["name"]}},
}
ASKED = {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}}


def verdict(content: str, *names, **more) -> str | None:
    return why_not_good([make_check(name) for name in names or DEFAULT], Answer(content, **more))


@pytest.mark.parametrize(
    "content",
    [
        "I'm sorry, but I can't help with that.",
        "I cannot provide medical advice.",
        "As an AI language model, I do not have opinions.",
        "Unfortunately, I am not able to answer this.",
        "Sorry, I won't do that.",
    ],
)
def test_refusals_are_known(content):
    assert "refusal" in (verdict(content, "not_refused") or "")


@pytest.mark.parametrize(
    "content",
    [
        "Paris.",
        "Sorry is what people say when they regret something.",
        "I can help with that: first, open the lid.",
        "The answer is 42.",
        "If you cannot find the file, search for it.",
    ],
)
def test_answers_are_no_refusals(content):
    assert verdict(content) is None


def test_what_says_of_itself_that_it_is_unsure_is_believed():
    assert "not sure" in (verdict("It may be 7, but I'm not sure.") or "")
    assert verdict("Make sure that the lid is closed.") is None


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"city": "Ghent"}', None),
        ('```json\n{"city": "Ghent", "mayor": null}\n```', None),
        ("Ghent", "no JSON"),
        ("[]", "it is no object"),
        ("{}", "lacks 'city'"),
        ('{"city": 7}', "it.city is no string"),
        ('{"city": "Ghent", "size": "middling"}', "it.size is none of"),
        ('{"city": "Ghent", "sights": [{"name": "x"}, {}]}', "it.sights[1] lacks 'name'"),
        ('{"city": "Ghent", "mayor": 7}', "it.mayor is no string"),
    ],
)
def test_json_must_fit_what_was_asked_for(content, told):
    found = verdict(content, params=ASKED)
    assert found is None if told is None else told in (found or "")


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=20))
def test_any_json_is_json(value):
    assert verdict(json.dumps(value), "json") is None


def test_other_ways_to_fall_short():
    assert "empty" in (verdict("  ") or "")
    assert "cut off" in (verdict("The", finish_reason="length") or "")
    assert "filter" in (verdict("The", finish_reason="content_filter") or "")
    assert "3 of 5" in (verdict("abc", {"min_length": 5}) or "")
    assert verdict("abcde", {"min_length": 5}) is None


def test_a_check_that_fails_itself_is_passed_by(caplog):
    def broken(answer):
        raise ZeroDivisionError

    assert verdict("ok", broken) is None
    assert "broken failed" in caplog.text
    assert verdict("ok", lambda answer: False) == "<lambda> says no"


@pytest.mark.parametrize("name", ["not_refusd", {"min_length": 0}, "os:absent", 7, "no_module:f"])
def test_an_unknown_check_is_named(name):
    with pytest.raises(ConfigurationError):
        make_check(name)
