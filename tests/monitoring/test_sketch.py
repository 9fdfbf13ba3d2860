"""Quantiles are right to 1 %, and sketches add up as the values do."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from novellus_lab.monitoring.sketch import ACCURACY, Sketch, bin_of, merged

times = st.lists(st.floats(min_value=0.001, max_value=1e7), min_size=1, max_size=200)


def sketch(values: list[float]) -> Sketch:
    counts: dict[int, int] = {}
    for value in values:
        counts[bin_of(value)] = counts.get(bin_of(value), 0) + 1
    return Sketch(counts, math.fsum(values), min(values), max(values))


@given(times, st.floats(0, 1))
def test_a_quantile_is_within_one_percent_of_the_value_at_its_rank(values, share) -> None:
    rank = math.floor(share * (len(values) - 1))
    assert sketch(values).quantile(share) == pytest.approx(
        sorted(values)[rank], rel=ACCURACY * 1.001
    )


@given(times, times)
def test_two_together_are_what_all_their_values_are(one, other) -> None:
    together, whole = merged([sketch(one), sketch(other)]), sketch(one + other)
    assert together.counts == whole.counts
    assert together.sum_ms == pytest.approx(whole.sum_ms)
    assert (together.min_ms, together.max_ms) == (whole.min_ms, whole.max_ms)


def test_nothing_has_no_quantile() -> None:
    nothing = merged([])
    assert nothing.count == 0
    assert nothing.quantile(0.5) is None
    assert nothing.mean_ms is None


@pytest.mark.parametrize("value", [0.0, -1.0, 1e300])
def test_values_beyond_all_bins_are_counted_in_the_outermost(value) -> None:
    assert -500 < bin_of(value) < 1500
