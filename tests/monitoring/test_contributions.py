"""Contributions sum to the change, and point at what caused it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from novellus_lab.errors import InvalidRequestError
from novellus_lab.monitoring.contributions import contributions

rows = st.lists(
    st.fixed_dictionaries(
        {
            "model": st.sampled_from(["a", "b", "c", None]),
            "tag": st.sampled_from(["x", "y"]),
            "errors": st.integers(0, 50),
            "requests": st.integers(0, 100),
        }
    ),
    min_size=1,
    max_size=12,
)


def total(side: list[dict[str, object]], column: str) -> float:
    return math.fsum(float(row[column]) for row in side)  # type: ignore[arg-type]


@given(rows, rows)
def test_a_sum_is_split_without_rest(before, after) -> None:
    parts = contributions(before, after, ["model", "tag"], measure="errors")
    change = total(after, "errors") - total(before, "errors")
    for dimension in ("model", "tag"):
        of = [part for part in parts if part.dimension == dimension]
        assert math.fsum(part.change for part in of) == pytest.approx(change, abs=1e-9)
        assert all(part.mix_effect == 0 for part in of)


@given(rows, rows)
def test_a_ratio_is_split_into_rate_and_mix_without_rest(before, after) -> None:
    if not total(before, "requests") or not total(after, "requests"):
        with pytest.raises(InvalidRequestError, match="no requests"):
            contributions(before, after, ["model"], measure="errors", per="requests")
        return
    parts = contributions(before, after, ["model", "tag"], measure="errors", per="requests")
    change = total(after, "errors") / total(after, "requests") - total(before, "errors") / total(
        before, "requests"
    )
    for dimension in ("model", "tag"):
        of = [part for part in parts if part.dimension == dimension]
        assert math.fsum(part.change for part in of) == pytest.approx(change, abs=1e-9)
        assert all(part.change == part.rate_effect + part.mix_effect for part in of)
        if change and math.fsum(part.change for part in of):
            assert math.fsum(part.share or 0 for part in of) == pytest.approx(1)


def test_the_broken_model_carries_the_error_rate() -> None:
    before = [
        {"model": "a", "errors": 1, "requests": 100},
        {"model": "b", "errors": 1, "requests": 100},
    ]
    after = [
        {"model": "a", "errors": 1, "requests": 100},
        {"model": "b", "errors": 21, "requests": 100},
    ]
    first, second = contributions(before, after, ["model"], measure="errors", per="requests")
    assert (first.value, first.change, first.share) == ("b", pytest.approx(0.1), pytest.approx(1))
    assert first.mix_effect == 0
    assert second.change == 0


def test_a_shift_to_the_slow_model_is_mix_and_no_rate() -> None:
    before = [{"model": "fast", "ms": 90_000, "n": 90}, {"model": "slow", "ms": 50_000, "n": 10}]
    after = [{"model": "fast", "ms": 50_000, "n": 50}, {"model": "slow", "ms": 250_000, "n": 50}]
    parts = contributions(before, after, ["model"], measure="ms", per="n")
    assert sum(part.rate_effect for part in parts) == 0
    assert sum(part.mix_effect for part in parts) == pytest.approx(6000 - 1400 - 3000)


def test_a_new_model_is_mix() -> None:
    before = [{"model": "a", "ms": 100, "n": 1}]
    after = [{"model": "a", "ms": 100, "n": 1}, {"model": "new", "ms": 300, "n": 1}]
    new = next(
        part
        for part in contributions(before, after, ["model"], measure="ms", per="n")
        if part.value == "new"
    )
    assert (new.before, new.after, new.rate_effect) == (None, 300, 0)
    assert new.mix_effect > 0


def test_a_missing_column_is_named() -> None:
    with pytest.raises(InvalidRequestError, match="route"):
        contributions([{"model": "a", "n": 1}], [{"model": "a", "n": 1}], ["route"], measure="n")
