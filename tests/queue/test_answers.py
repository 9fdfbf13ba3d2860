"""Answers and errors come back from the database as they were."""

from __future__ import annotations

import inspect
from dataclasses import fields
from datetime import UTC, datetime
from decimal import Decimal
from uuid import uuid4

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from novellus_lab import errors
from novellus_lab.errors import NovellusError
from novellus_lab.queue.answers import dump_completion, dump_error, load_completion, load_error
from novellus_lab.types import (
    Attempt,
    CacheOutcome,
    Candidate,
    Completion,
    Price,
    PriceLine,
    Route,
    Status,
    ToolCall,
    Usage,
)

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
label = st.none() | text
money = st.none() | st.decimals(0, 100, allow_nan=False, allow_infinity=False)
ms = st.none() | st.floats(0, 1e6)
counts = st.integers(0, 2**40)
usages = st.builds(Usage, counts, counts, counts, estimated=st.booleans())
moments = st.datetimes(timezones=st.just(UTC))
plain = st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | text, st.lists, max_leaves=4)
prices = st.builds(
    Price,
    money,
    st.tuples(st.builds(PriceLine, text, counts, money, st.just(Decimal("0.1")))),
    money,
    text,
    label,
)
attempts = st.builds(
    Attempt, st.uuids(), counts, st.just("retry"), text, text, moments, st.sampled_from(Status),
    st.floats(0, 1e6), prices, usages, st.dictionaries(text, plain, max_size=2), label, ms, label,
    label, st.none() | st.integers(100, 599), ms, label,
)  # fmt: skip
routes = st.builds(
    Route, text, st.tuples(st.builds(Candidate, text, st.floats(0, 1), ms, label)), text,
    st.floats(0, 1), label, label,
)  # fmt: skip
completions = st.builds(
    Completion, text, text, text, money, st.floats(0, 1e6), usages, st.sampled_from(CacheOutcome),
    st.uuids(), st.just("stop"), st.lists(st.builds(ToolCall, text, text, text)).map(tuple), plain,
    label, st.none() | routes, st.lists(attempts, max_size=2).map(tuple), ms, ms, ms,
    st.none() | st.uuids(), label, money, st.tuples(text), label, st.tuples(text),
)  # fmt: skip


@given(completions)
def test_an_answer_comes_back_to_the_last_character(completion):
    again = load_completion(orjson.loads(dump_completion(completion)))
    for field in fields(Completion):
        assert getattr(again, field.name) == getattr(completion, field.name), field.name


def test_what_a_newer_version_wrote_is_read_as_far_as_it_is_known():
    completion = Completion(
        "x", "m", "p", None, 1.0, Usage(1, 2), CacheOutcome.MISS, uuid4(), parsed={"big": 2**70}
    )
    data = orjson.loads(dump_completion(completion))
    data["from_the_future"] = data["usage"]["emoji_tokens"] = 1
    assert load_completion(data).usage == Usage(1, 2)


ALL = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, NovellusError)
]


@pytest.mark.parametrize("kind", ALL)
def test_every_error_comes_back_as_what_it_was(kind):
    needed = {
        "budget": "b", "limit": "gpt-4o: tpm", "content": "{", "retry_after_s": 2.5,
        "needed_usd": Decimal("0.10"), "resets_at": datetime(2030, 1, 1, tzinfo=UTC),
    }  # fmt: skip
    own = any("__init__" in vars(base) for base in kind.__mro__ if issubclass(base, NovellusError))
    takes = inspect.signature(kind).parameters if own else ()
    known = {name: value for name, value in needed.items() if name in takes}
    error = kind("it went wrong", **known)
    again = load_error(orjson.loads(dump_error(error)))
    assert type(again) is kind
    assert str(again) == "it went wrong"
    assert vars(again) == vars(error)


def test_an_error_of_somebody_elses_becomes_the_nearest_of_ours():
    class TheirError(errors.RateLimitError):
        pass

    again = load_error(orjson.loads(dump_error(TheirError("slow", retry_after_s=3))))
    assert type(again) is errors.RateLimitError
    assert again.retry_after_s == 3
    assert type(load_error({"class": "OSError", "message": "x"})) is NovellusError
