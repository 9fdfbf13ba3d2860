"""What must hold for any data: units, offsets, the arms' names and the order don't matter."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from novellus_lab.experiments.stats.bootstrap import Resampling, bootstrap_t_difference
from novellus_lab.experiments.stats.confidence import Confidence
from novellus_lab.experiments.stats.means import difference, relative_difference
from novellus_lab.experiments.stats.proportions import rate_difference
from novellus_lab.experiments.stats.quantiles import quantile_difference
from novellus_lab.experiments.stats.ratios import (
    RatioSample,
    ratio_difference,
    relative_ratio_difference,
)

numbers = st.floats(0.01, 1000).map(lambda x: round(x, 3))
arms = st.tuples(
    st.lists(numbers, min_size=3, max_size=30), st.lists(numbers, min_size=3, max_size=30)
)
confidences = st.sampled_from([Confidence(), Confidence(0.8), Confidence(0.95, peeking=100)])
RELAXED = settings(max_examples=60, deadline=None)


def span(estimate):
    return (estimate.low, estimate.high)


def close(numbers):
    return pytest.approx(numbers, rel=1e-6, abs=1e-7)


@RELAXED
@given(arms, st.sampled_from([0.001, 1000.0]), st.sampled_from([0.0, 50.0]), confidences)
def test_units_and_offsets(both, scale, shift, confidence):
    a, b = (np.array(arm) for arm in both)
    one = difference(a, b, confidence=confidence)
    two = difference(scale * (a + shift), scale * (b + shift), confidence=confidence)
    assert span(two) == pytest.approx(
        (scale * one.low, scale * one.high), rel=1e-6, abs=scale * 1e-7
    )
    percent = relative_difference(a, b, confidence=confidence)
    assert span(relative_difference(scale * a, scale * b, confidence=confidence)) == close(
        span(percent)
    )
    q = quantile_difference(a, b, 0.5, confidence=confidence)
    assert span(quantile_difference(scale * a, scale * b, 0.5, confidence=confidence)) == close(
        (scale * q.low, scale * q.high)
    )


@RELAXED
@given(arms, st.booleans(), confidences)
def test_swapped_arms(both, paired, confidence):
    a, b = (np.array(arm) for arm in both)
    if paired:
        a, b = a[: min(len(a), len(b))], b[: min(len(a), len(b))]
    more = {"paired": paired, "confidence": confidence}
    one, two = difference(a, b, **more), difference(b, a, **more)
    assert span(two) == close((-one.high, -one.low))
    assert one.p_value is two.p_value is None or one.p_value == close(two.p_value)
    x, y = a > np.median(a), b > np.median(a)
    one, two = rate_difference(x, y, **more), rate_difference(y, x, **more)
    assert span(two) == close((-one.high, -one.low))
    control, treatment = RatioSample(a, x), RatioSample(b, y)
    one = ratio_difference(control, treatment, **more)
    two = ratio_difference(treatment, control, **more)
    assert span(two) == close((-one.high, -one.low))
    one = relative_ratio_difference(control, treatment, **more)
    two = relative_ratio_difference(treatment, control, **more)
    if one.bounded and two.bounded and one.low > -0.999:
        assert 1 + two.high == pytest.approx(1 / (1 + one.low), rel=1e-5)


@RELAXED
@given(st.lists(st.tuples(numbers, numbers, st.integers(0, 5)), min_size=4, max_size=30))
def test_order_and_the_names_of_sessions(rows):
    a, b, session = (np.array(column) for column in zip(*rows, strict=True))
    one = difference(a, b, paired=True, clusters=session)
    names = [f"session {code}" for code in session]
    two = difference(a[::-1], b[::-1], paired=True, clusters=names[::-1])
    assert span(two) == close(span(one))
    # Pairs are sessions of two: the same, whichever way it is said.
    same = difference(a, b, clusters=(session, session))
    if one.bounded and same.bounded:
        assert span(same) == pytest.approx(span(one), rel=1e-5, abs=1e-6)


@RELAXED
@given(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=30))
def test_twice_the_same_session_is_not_twice_the_evidence(rows):
    a, b = (np.array(column) for column in zip(*rows, strict=True))
    once = difference(a, b, paired=True)
    twice = difference(
        np.repeat(a, 2), np.repeat(b, 2), paired=True, clusters=np.repeat(np.arange(len(a)), 2)
    )
    assert span(twice) == close(span(once))


def test_the_same_seed_is_the_same_interval():
    random = np.random.default_rng(0)
    a, b = random.lognormal(0, 1, 50), random.lognormal(0, 1, 50)
    spans = {
        span(bootstrap_t_difference(a, b, resampling=Resampling(500, seed))) for seed in (1, 1, 2)
    }
    assert len(spans) == 2
