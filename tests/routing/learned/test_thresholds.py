"""Thresholds do what was asked for, and bounds hold as often as they say: by simulation."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from novellus_lab.errors import InvalidRequestError
from novellus_lab.routing.learned.thresholds import (
    Evidence,
    described,
    for_quality,
    for_share,
    predicted_curve,
)


def world(n: int, seed: int, *, groups: int | None = None) -> Evidence:
    """Scores are even in (0, 1); the weak model is right with 1 - score, the strong with .9.

    With groups, all of a group share one score and one luck.
    """
    random = np.random.default_rng(seed)
    which = np.arange(n) if groups is None else np.arange(n) % groups
    luck = [random.random(which.max() + 1)[which] for _ in range(3)]
    scores = luck[0]
    return Evidence.of(
        scores,
        (luck[1] < 1 - scores).astype(float),
        (luck[2] < 0.9).astype(float),
        np.ones(n),
        which,
    )


def true_quality(threshold: float) -> float:
    """Mean of 1 - s below the threshold, .9 from it on."""
    return threshold - threshold**2 / 2 + 0.9 * (1 - threshold)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.999, 1.0])
def test_a_share_is_met(share):
    got = for_share(world(2000, 0), share, 0.9)
    assert got.strong_share == pytest.approx(share, abs=1e-3)
    assert got.strong_share_low <= got.strong_share <= got.strong_share_high
    assert 0 <= got.win_probability <= 1


@pytest.mark.parametrize("groups", [None, 60])
def test_intervals_of_shares_and_qualities_cover(groups):
    runs, shares, qualities = 400, 0, 0
    for seed in range(runs):
        got = described(world(600, seed, groups=groups), 0.6, 0.9)
        shares += got.strong_share_low <= 0.4 <= got.strong_share_high
        qualities += got.quality_low <= true_quality(0.6)
    # 0.9 of 400, and four standard errors.
    assert abs(shares / runs - 0.9) < 0.06
    assert abs(qualities / runs - 0.9) < 0.06


@pytest.mark.parametrize(("part", "of"), [(0.9, "strong"), (0.95, "strong"), (0.8, "gap")])
@pytest.mark.parametrize("groups", [None, 150])
def test_promised_quality_is_kept_as_often_as_promised(part, of, groups):
    strong, weak = 0.9, 0.5
    least = part * strong if of == "strong" else weak + part * (strong - weak)
    runs, kept, shares = 200, 0, []
    for seed in range(runs):
        got = for_quality(world(800, seed, groups=groups), part, of, 0.9)
        kept += true_quality(got.win_probability) >= least - 1e-9
        shares.append(got.strong_share)
    assert kept / runs >= 0.9 - 3 * math.sqrt(0.9 * 0.1 / runs)
    # And it is no promise bought by asking the strong model always.
    assert np.mean(shares) < 0.97


def test_more_quality_takes_more_strong_calls():
    evidence = world(3000, 1)
    shares = [for_quality(evidence, p, "strong", 0.9).strong_share for p in (0.6, 0.8, 0.9, 1.0)]
    assert shares == sorted(shares)


def test_a_gap_that_is_not_there_can_not_be_promised():
    evidence = world(300, 2)
    same = Evidence.of(
        evidence.scores, evidence.weak, evidence.weak, evidence.weights, evidence.groups
    )
    worse = Evidence.of(
        evidence.scores, evidence.strong, evidence.weak, evidence.weights, evidence.groups
    )
    assert for_quality(same, 1.0, "strong", 0.9).strong_share == 0
    with pytest.raises(InvalidRequestError, match="do not show"):
        for_quality(worse, 0.5, "gap", 0.9)


def test_the_curve():
    got = predicted_curve(world(4000, 3), (Decimal("0.01"), Decimal("0.11")), 11, 0.95)
    assert [point.strong_share for point in got.points] == pytest.approx(np.linspace(0, 1, 11))
    assert [point.cost_usd for point in got.points] == [
        Decimal("0.01") + Decimal("0.01") * n for n in range(11)
    ]
    inside = [
        point.quality_low <= true_quality(1 - point.strong_share) <= point.quality_high
        for point in got.points
    ]
    assert sum(inside) >= 9
    assert got.points[0].quality == got.weak_quality == pytest.approx(0.5, abs=0.03)
    assert got.points[-1].quality == got.strong_quality == pytest.approx(0.9, abs=0.03)


def test_the_curves_intervals_cover():
    runs, covered = 60, 0
    for seed in range(runs):
        point = predicted_curve(world(300, seed, groups=75), None, 3, 0.9).points[1]
        assert point.cost_usd is None
        covered += point.quality_low <= true_quality(0.5) <= point.quality_high
    assert covered / runs > 0.9 - 3 * math.sqrt(0.9 * 0.1 / runs)


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(st.integers(1, 9), st.floats(-1, 2), st.floats(-1, 2), st.floats(0.1, 5)),
        min_size=3,
        max_size=40,
    ),
    st.floats(0, 1),
)
def test_ties_weights_and_estimates_outside_of_0_to_1(rows, share):
    scores, weak, strong, weights = map(np.array, zip(*rows, strict=True))
    evidence = Evidence.of(scores / 10, weak, strong, weights, np.arange(len(rows)))
    got = for_share(evidence, share, 0.9)
    largest = max(weights[scores == score].sum() for score in scores) / weights.sum()
    assert got.strong_share == pytest.approx(share, abs=largest + 1e-6)
    assert got.quality_low <= got.quality + 1e-12


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda e: for_share(e, 1.5, 0.9), "strong_share is 1.5"),
        (lambda e: for_quality(e, -1, "strong", 0.9), "min_quality is -1"),
        (lambda e: for_quality(e, 0.9, "weak", 0.9), "of is 'weak'"),
        (lambda e: for_share(e, 0.5, 90), "confidence is 90"),
        (lambda e: for_quality(e, 0.9, "strong", 90), "confidence is 90"),
        (lambda e: predicted_curve(e, None, 1, 0.9), "points is 1"),
        (lambda e: predicted_curve(e, None, 3, 1.0), "confidence is 1"),
    ],
)
def test_bad_wishes_are_named(ask, says):
    with pytest.raises(InvalidRequestError, match=says):
        ask(world(100, 0))
