"""Features are finite, of one length, and read what they say."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from novellus_lab.routing.learned.features import FEATURES, surface_features

CHOICE = "Which is NOT a metal?\nA. iron\nB. 12.5\nC. sulfur\nD. All of the above\nAnswer:"


def features(text: str) -> dict[str, float]:
    return dict(zip(FEATURES, surface_features(text), strict=True))


@given(st.text())
def test_any_text_has_finite_features(text):
    assert all(map(math.isfinite, features(text).values()))


@pytest.mark.parametrize(
    "text", ["", " ", "9" * 5_000, "1.2.3.4", "1,,2//3::4", "²³", "٣ + ٤", "?" * 50, "A. x\nB. y"]
)
def test_odd_texts(text):
    assert all(map(math.isfinite, features(text).values()))


def test_a_multiple_choice_question():
    got = features(CHOICE)
    assert got["options"] == 4
    assert got["options_numeric"] == 0.25
    assert got["of_the_above"] == 1
    assert got["log_negations"] == math.log1p(1)
    assert got["log_stem_chars"] == math.log1p(CHOICE.index("A. iron"))
    assert features("A. Nobody asked.")["options"] == 0


def test_a_sum():
    got = features("Tom has 3/4 of 1,200.50 dollars, and 3 more. How much is 20%?")
    assert got["log_numbers"] == math.log1p(4)
    assert got["log_largest_number"] == pytest.approx(math.log1p(1200.5))
    assert got["log_percents"] == math.log1p(1)
    assert got["log_fractions"] == math.log1p(1)
    assert got["log_decimals"] == math.log1p(1)
    assert got["log_sentences"] == math.log1p(2)
    assert got["ends_with_question"] == 1


def test_a_long_text_is_read_at_both_ends_and_counted_whole():
    got = features("start 17 " + "x " * 100_000 + " end 4711?")
    assert got["log_largest_number"] == pytest.approx(math.log1p(4711))
    assert got["log_chars"] == pytest.approx(math.log1p(200_019), abs=1e-3)
