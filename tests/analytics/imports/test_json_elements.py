"""Documents of any shape and size, an element at a time."""

from __future__ import annotations

import io
import json
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from novellus_lab.analytics.imports import json_elements as module
from novellus_lab.analytics.imports.json_elements import BrokenJsonError, json_elements

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


def elements(text: str) -> list:
    return [element for _, element, _ in json_elements(io.StringIO(text))]


@given(st.lists(values, max_size=6), st.sampled_from([None, 1]), st.integers(1, 9))
@settings(max_examples=150, deadline=None)
def test_a_list_comes_element_by_element_however_it_is_cut(items, indent, chunk):
    before, module._CHUNK = module._CHUNK, chunk
    try:
        assert elements(json.dumps(items, indent=indent)) == items
        wrapped = {"object": "page", "data": items, "has_more": False}
        assert elements(json.dumps(wrapped, indent=indent)) == items
    finally:
        module._CHUNK = before


def test_objects_that_stand_one_after_the_other_are_elements():
    assert elements('{"a": 1}\n{"a": 2}  {"a": 3}') == [{"a": 1}, {"a": 2}, {"a": 3}]


def test_what_stands_before_the_list_stands_beside_its_elements():
    [(line, element, beside)] = json_elements(io.StringIO('{"trace": 7,\n "data": [\n {"a": 1}]}'))
    assert (line, element, beside) == (3, {"a": 1}, {"trace": 7})


def test_amounts_keep_their_digits():
    assert elements('[{"spend": 0.00022500000000000002}]') == [
        {"spend": Decimal("0.00022500000000000002")}
    ]


@pytest.mark.parametrize(
    ("text", "line", "before"),
    [
        ('[{"a": 1},\n{"a": 2},\n{"a"', 3, 2),
        ('[{"a": 1}\n{"a": 2}]', 2, 1),
        ('{"data": [1, NaN]}', 1, 1),
        ("no json", 1, 0),
        ("[" * 100_000, 1, 0),
        ('{"a": 1', 1, 0),
    ],
)
def test_a_broken_document_says_where_it_breaks_and_gives_what_came_before(text, line, before):
    read = []
    with pytest.raises(BrokenJsonError) as error:
        for one in json_elements(io.StringIO(text)):
            read.append(one)
    assert (error.value.line, len(read)) == (line, before)


def test_a_long_document_is_never_whole_in_memory():
    class Endless(io.StringIO):
        held = 0

        def read(self, size=-1):
            assert size <= 1 << 20
            self.held += 1
            if self.held > 300:
                return "]" if self.held == 301 else ""
            return ("[" if self.held == 1 else ",") + json.dumps({"text": "x" * 60_000})

    assert sum(1 for _ in json_elements(Endless())) == 300
