"""Keys are taken out of text; words that only look a little like one are left."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from novellus_lab.providers.redaction import redact


@given(
    before=st.text(max_size=20),
    key=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=60),
    after=st.text(max_size=20),
)
def test_a_known_secret_never_comes_through(before, key, after):
    assert key not in redact(before + key + after, key)


@pytest.mark.parametrize(
    "key",
    [
        "sk-proj-abcDEF123", "sk-ant-api03-abc_def", "sk-ab***xyz", "sk-abc...wxyz", "gsk_abcdefgh",
        "xai-abcdefgh12", "AIzaSyA-1234567890", "abc1*****f2", "*********9f3a", "hf_abcdefghij",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIx.abc",
    ],
)  # fmt: skip
def test_whatever_looks_like_a_key_goes(key):
    assert redact(f"bad key {key}, sorry") == "bad key [key], sorry"


def test_an_authorization_header_goes():
    assert redact("Authorization: Bearer abc.def-123=") == "Authorization: Bearer [key]"


@pytest.mark.parametrize(
    "text",
    [
        "The model `gpt-4o-2024-08-06` does not exist",
        "Rate limit reached for o3-mini in organization on tokens per min (TPM): Limit 10000",
        "task-based risk: desk-top ask-me",
        "'max_tokens' is not supported; use 'max_completion_tokens' instead",
        "missing properties: 'name', additionalProperties 'foo' not allowed",
        "unexpected keyword argument",
        "the api key header; api_version and key_name and sk-learn",
    ],
)
def test_other_words_stay(text):
    assert redact(text) == text


def test_a_placeholder_is_no_secret():
    assert redact("a b c", "a") == "a b c"
