"""Scorers, and the numbers that answers come to."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from novellus_lab.errors import InvalidRequestError
from novellus_lab.experiments.datasets import built_in
from novellus_lab.experiments.numbers import last_number
from novellus_lab.experiments.scorers import JsonSchema, Numeric, Regex, Score, scorer_of
from novellus_lab.experiments.workload import Item
from novellus_lab.providers.replay_data import recordings
from novellus_lab.types import CacheOutcome, Completion, Usage


def answer(content: str, model: str = "m") -> Completion:
    return Completion(content, model, "p", Decimal(0), 1.0, Usage(1, 1), CacheOutcome.OFF, uuid4())


def score(scorer: Any, content: str, expected: Any = None, **about: Any) -> Score:
    item = Item("i", ({"role": "user", "content": "?"},), expected, about=about)
    scorer = scorer_of(scorer) if isinstance(scorer, str) or callable(scorer) else scorer
    return asyncio.run(scorer.score(item, answer(content)))


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("It is 540.\n#### 540", "540"),
        ("#### $1,200.50", "1200.50"),
        ("first 3, then 4.", "4"),
        (r"so \boxed{42} apples, not 7", "42"),
        ("-15 degrees", "-15"),
        ("x = .5", "0.5"),
        ("Take 3*4=12.", "12"),
        ("version v2 of it", None),
        ("none", None),
        ("#### 5 apples and 3 pears", "5"),
        ("1,234,567 people", "1234567"),
    ],
)
def test_the_number_that_an_answer_comes_to(text, number):
    assert last_number(text) == (None if number is None else Decimal(number))


@given(
    st.decimals(
        allow_nan=False, allow_infinity=False, min_value=-(10**9), max_value=10**9, places=2
    )
)
def test_a_number_is_read_as_it_was_written(number):
    assert last_number(f"It is {number:,} in the end.") == number
    assert last_number(f"Not 17.\n#### {number}") == number


@pytest.mark.parametrize(
    ("scorer", "content", "expected", "value"),
    [
        ("exact", "**Paris**.", "paris", 1),
        ("exact", "Paris, I think", "Paris", 0),
        ("contains", "It is Paris, I think", "paris", 1),
        ("numeric", "$20.00", "20", 1),
        ("numeric", "twenty", 20, 0),
        ("numeric", "#### 19", "20", 0),
        (Numeric(tolerance=0.05), "#### 19", 20, 1),
        ("regex:^yes", "yes, it is", None, 1),
        (Regex(), "order 66", r"order \d+", 1),
        ("exact", "x", None, None),
        ("numeric", "3", None, None),
        (lambda item, a: len(a.content) == 2, "ab", None, 1),
        (lambda item, a: None, "ab", None, None),
        (lambda item, a: Score(0.25, "so so"), "ab", None, 0.25),
    ],
)
def test_scores(scorer, content, expected, value):
    assert score(scorer, content, expected).value == value


def test_json_is_held_to_a_schema_also_inside_a_fence():
    schema = {"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}}
    scorer = JsonSchema(schema)
    assert score(scorer, '```json\n{"city": "Ghent"}\n```').value == 1
    assert score(scorer, '{"city": 3}').value == 0
    assert "$.city" in (score(scorer, '{"city": 3}').reason or "")
    assert score(scorer, "Ghent").value == 0


def test_similarity_is_a_cosine_of_the_given_embedding():
    async def embed(texts: list[str]) -> list[list[float]]:
        return [[1.0, 0.0] if "cat" in text else [0.6, 0.8] for text in texts]

    scorer = scorer_of("similarity", embed=embed)
    assert score(scorer, "a cat", "the cat").value == pytest.approx(1.0)
    assert score(scorer, "a dog", "the cat").value == pytest.approx(0.6)
    assert score(scorer, " ", "the cat").value == 0


def test_an_own_scorer_that_returns_nonsense_is_told_so():
    with pytest.raises(InvalidRequestError, match="from 0 to 1"):
        score(lambda item, a: 7, "x")
    with pytest.raises(InvalidRequestError, match="no regular expression"):
        scorer_of("regex:(")


def test_gsm8k_agrees_with_the_recorded_verdicts_but_for_how_numbers_are_written():
    items = {item.question: item for item in built_in("gsm8k")}
    agree = differ = unknown = 0
    for prompt, answers in recordings().items():
        item = items[prompt]
        for recorded in answers.values():
            value = asyncio.run(Numeric().score(item, answer(recorded.content))).value
            if value is None:
                unknown += 1
            elif bool(value) == recorded.correct:
                agree += 1
            else:
                differ += 1
    assert unknown == 0
    assert differ / (agree + differ) < 0.02
