"""Metrics are those of the paper: by hand, by their own figures, and by what must hold."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from novellus_lab.errors import InvalidRequestError
from novellus_lab.routing.learned.metrics import measure, measure_routellm, share_curve

GSM8K = Path(__file__).parents[3] / "datasets" / "gsm8k_replay.jsonl.gz"


@pytest.fixture(scope="module")
def gsm8k():
    with gzip.open(GSM8K) as lines:
        rows = [json.loads(line) for line in lines]
    weak, strong = (
        np.array([float(row["answers"][model]["correct"]) for row in rows])
        for model in ("mixtral-8x7b-instruct", "gpt-4-1106-preview")
    )
    return [row["prompt"] for row in rows], weak, strong


def test_by_hand():
    # Gains 1, 1, 0, -1: quality goes .5, .75, 1, 1, .75, so PGR 0, 1, 2, 2, 1 at each quarter.
    got = measure([4, 3, 2, 1], [0, 0, 1, 1], [1, 1, 1, 0])
    assert got.apgr == pytest.approx((0 / 2 + 1 + 2 + 2 + 1 / 2) / 4)
    assert got.cpt50 == pytest.approx(0.125)
    assert got.cpt80 == pytest.approx(0.2)


def test_weights_count_like_copies():
    weak, strong, scores = [0, 0, 1, 1, 0], [1, 1, 1, 0, 0], [5, 4, 3, 2, 1]
    copied = [np.repeat(values, [2, 1, 3, 1, 2]) for values in (scores, weak, strong)]
    weighted = measure(scores, weak, strong, [2, 1, 3, 1, 2])
    assert weighted.apgr == pytest.approx(measure(*copied).apgr)
    assert weighted.cpt80 == pytest.approx(measure(*copied).cpt80)


def test_a_router_that_knows_nothing_is_a_coin():
    got = measure(np.zeros(40), [0, 1] * 20, [1] * 40)
    assert (got.apgr, got.cpt50, got.cpt80) == pytest.approx((0.5, 0.5, 0.8))


def test_ten_distinct_scores_are_ten_bins():
    weak, strong = [0, 0, 0, 1, 0, 1, 0, 1, 1, 0], [1, 1, 0, 1, 1, 1, 1, 1, 1, 0]
    scores = [10, 9, 8, 7, 6, 5, 4, 3, 2, 1]
    assert measure_routellm(scores, weak, strong).apgr == measure(scores, weak, strong).apgr


def test_length_on_gsm8k(gsm8k):
    prompts, weak, strong = gsm8k
    assert (weak.mean(), strong.mean()) == pytest.approx((0.6373, 0.8577), abs=5e-5)
    got = measure([len(prompt) for prompt in prompts], weak, strong)
    assert (got.apgr, got.cpt50, got.cpt80) == pytest.approx((0.598, 0.365, 0.669), abs=2e-3)


def test_the_papers_random_router_on_gsm8k(gsm8k):
    """Table 3: APGR .497, CPT .5000 and .8008; one draw, whose error is .02."""
    _, weak, strong = gsm8k
    random = np.random.default_rng(0)
    for way in (measure, measure_routellm):
        apgr = [way(random.random(len(weak)), weak, strong).apgr for _ in range(50)]
        assert np.mean(apgr) == pytest.approx(0.497, abs=0.01)
        assert np.std(apgr) == pytest.approx(0.02, abs=0.006)


def test_the_oracle_on_gsm8k(gsm8k):
    _, weak, strong = gsm8k
    got = measure(strong - weak, weak, strong)
    assert (got.apgr, got.cpt50, got.cpt80) == pytest.approx((1.121, 0.110, 0.177), abs=2e-3)


ROWS = st.lists(
    st.tuples(st.integers(0, 6), st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=30
)


@given(ROWS, st.randoms(use_true_random=False))
def test_order_of_rows_and_scale_of_scores_do_not_matter(rows, random):
    shuffled = random.sample(rows, len(rows))
    one = share_curve(*zip(*rows, strict=True))
    scores, weak, strong = zip(*shuffled, strict=True)
    two = share_curve([math.exp(score) for score in scores], weak, strong)
    assert one.shares == pytest.approx(two.shares)
    assert one.qualities == pytest.approx(two.qualities)
    assert one.shares[-1] == pytest.approx(1)
    assert one.qualities[-1] == pytest.approx(one.strong_quality)


@given(ROWS)
def test_the_other_way_round_is_the_mirror_image(rows):
    scores, weak, strong = map(np.array, zip(*rows, strict=True))
    gap = (strong - weak).mean()
    if abs(gap) > 0.01:
        both = measure(scores, weak, strong).apgr + measure(-scores, weak, strong).apgr
        assert both == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"weak": [0.0, math.nan, 1.0]}, r"weak\[1\] is nan"),
        ({"strong": [1.0, 1.0]}, "strong: expected 3 numbers"),
        ({"scores": []}, "expected some numbers"),
        ({"weights": [1, -1, 1]}, "weights must not be negative"),
    ],
)
def test_bad_input_is_named(change, says):
    given_ = {"scores": [1.0, 2, 3], "weak": [0, 0, 1], "strong": [1, 1, 1], **change}
    with pytest.raises(InvalidRequestError, match=says):
        measure(**given_)
