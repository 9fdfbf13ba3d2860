"""Calibration: does the stated bound hold, and does it say so where it can't?"""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from novellus_lab.cache.semantic.calibration import (
    Calibration,
    JudgedHits,
    calibrate,
    hits_needed,
    interval,
    judged,
    upper_bound,
)
from novellus_lab.errors import InvalidRequestError

RUNS = 400
MOST_BROKEN = 31
"""20 are allowed on average; more than 31 would come by chance in one of 200 such tests."""


def draw(random_: random.Random, pairs: int, steep: float) -> tuple[list[float], list[bool]]:
    """Scores uniform in 0..1; the chance of being the same question rises with the score."""
    scores = [random_.random() for _ in range(pairs)]
    labels = [random_.random() < chance_same(score, steep) for score in scores]
    return scores, labels


def chance_same(score: float, steep: float) -> float:
    return 1 / (1 + math.exp(-steep * (score - 0.5)))


def true_error_rate(threshold: float, steep: float) -> float:
    """P(wrong | score >= threshold), by the integral of the logistic."""
    if threshold >= 1:
        return 1 - chance_same(1, steep)

    def same_below(score: float) -> float:
        return math.log1p(math.exp(steep * (score - 0.5))) / steep

    return 1 - (same_below(1) - same_below(threshold)) / (1 - threshold)


@pytest.mark.parametrize(("max_error_rate", "steep", "pairs"), [(0.05, 12, 600), (0.1, 8, 1_000)])
def test_in_at_least_95_of_100_calibrations_the_true_error_rate_is_as_low_as_promised(
    max_error_rate: float, steep: float, pairs: int
) -> None:
    random_ = random.Random(1)
    broken = calibrated = 0
    for _ in range(RUNS):
        scores, labels = draw(random_, pairs, steep)
        try:
            found = calibrate(scores, labels, max_error_rate, curve_points=0)
        except InvalidRequestError:
            continue  # nothing is served: nothing is wrong
        calibrated += 1
        broken += true_error_rate(found.threshold, steep) > max_error_rate
    assert calibrated > RUNS / 2  # and it is of use
    assert broken <= MOST_BROKEN


def test_the_bound_holds_where_no_threshold_is_good_enough() -> None:
    random_ = random.Random(2)
    served = 0
    for _ in range(RUNS):
        scores = [random_.random() for _ in range(300)]
        labels = [random_.random() < 0.93 for _ in scores]  # 7% wrong at any score
        try:
            calibrate(scores, labels, 0.05, curve_points=0)
        except InvalidRequestError:
            continue
        served += 1
    assert served <= MOST_BROKEN


def test_looking_at_many_thresholds_costs_little_of_what_could_be_served() -> None:
    random_ = random.Random(3)
    recalls = []
    for _ in range(20):
        scores, labels = draw(random_, 4_000, 20)
        recalls.append(calibrate(scores, labels, 0.05, curve_points=0).recall)
    assert sum(recalls) / len(recalls) > 0.8


def test_bad_luck_at_the_very_top_is_no_end() -> None:
    scores = [1 - i / 4_000 for i in range(4_000)]
    labels = [i != 3 for i in range(4_000)]
    found = calibrate(scores, labels, 0.02)
    assert found.errors == 1
    assert found.hits == 4_000
    assert found.bound < 0.02


def test_too_few_pairs_are_refused_with_how_many_it_takes() -> None:
    with pytest.raises(InvalidRequestError, match=r"at least 299 .* 100 of the 100"):
        calibrate([0.9] * 100, [True] * 100, 0.01)


def test_pairs_that_a_guard_stands_against_can_be_no_hits() -> None:
    with pytest.raises(InvalidRequestError, match="10 of the 500"):
        calibrate([0.0] * 490 + [0.9] * 10, [True] * 500, 0.01)


def test_errors_at_the_top_are_refused_with_their_number() -> None:
    with pytest.raises(InvalidRequestError, match="299 pairs that score highest 5 are wrong"):
        calibrate([1 - i / 1000 for i in range(400)], [i % 60 != 0 for i in range(400)], 0.01)


def test_299_right_hits_and_no_wrong_one_are_enough_for_one_percent() -> None:
    assert hits_needed(0.01) == 299
    found = calibrate([0.5] * 299, [True] * 299, 0.01)
    assert (found.hits, found.errors, found.threshold, found.recall) == (299, 0, 0.5, 1.0)
    assert found.bound <= 0.01


def test_ties_stay_together() -> None:
    scores = [0.9] * 59 + [0.5] * 100
    found = calibrate(scores, [True] * 159, 0.05)
    assert found.threshold == 0.5
    assert found.hits == 159
    labels = [True] * 59 + [i % 5 != 0 for i in range(100)]
    assert calibrate(scores, labels, 0.05).threshold == 0.9


@pytest.mark.parametrize("rate", [0, 1, -0.1, 5, True, "0.01"])
def test_a_rate_is_a_share(rate: float) -> None:
    with pytest.raises(InvalidRequestError, match="max_error_rate must be between 0 and 1"):
        calibrate([0.5], [True], rate)


def test_scores_and_labels_must_fit() -> None:
    with pytest.raises(InvalidRequestError, match="2 scores and 1 labels"):
        calibrate([0.5, 0.4], [True], 0.05)
    with pytest.raises(InvalidRequestError, match="not a number"):
        calibrate([math.nan], [True], 0.05)


def test_it_survives_json() -> None:
    found = calibrate([i / 500 for i in range(500)], [True] * 500, 0.05, embedding_model="minilm")
    assert Calibration.from_json(found.to_json()) == found
    assert found.embedding_model == "minilm"


def test_the_curve_tells_precision_and_recall_with_intervals() -> None:
    scores, labels = draw(random.Random(4), 2_000, 15)
    found = calibrate(scores, labels, 0.05)
    assert 40 < len(found.curve) <= 101
    assert [p.threshold for p in found.curve] == sorted(
        (p.threshold for p in found.curve), reverse=True
    )
    last = found.curve[-1]
    assert last.hits == 2_000
    assert last.recall == 1
    assert last.errors == labels.count(False)
    for point in found.curve:
        assert point.precision_low <= point.precision <= point.precision_high
        assert point.recall_low <= point.recall <= point.recall_high


@pytest.mark.parametrize(
    ("errors", "trials", "expected"),
    [(0, 299, 0.009969), (1, 20, 0.216106), (5, 100, 0.102253), (3, 1000, 0.007735), (10, 10, 1.0)],
)
def test_the_clopper_pearson_bound_is_the_textbook_s(
    errors: int, trials: int, expected: float
) -> None:
    assert upper_bound(errors, trials) == pytest.approx(expected, abs=1e-6)


@settings(deadline=None)
@given(st.integers(1, 30_000), st.data())
def test_the_clopper_pearson_bound_is_scipy_s(trials: int, data: st.DataObject) -> None:
    beta = pytest.importorskip("scipy.stats").beta
    errors = data.draw(st.integers(0, trials - 1))
    assert upper_bound(errors, trials) == pytest.approx(
        beta.ppf(0.95, errors + 1, trials - errors), abs=1e-9
    )
    low, high = interval(errors, trials)
    assert low <= errors / trials <= high


def test_one_may_look_after_every_judgement() -> None:
    """Of those who watch 300 judgements, 5% at most ever see a bound below the truth."""
    random_ = random.Random(5)
    for rate in (0.02, 0.2):
        fooled = 0
        for _ in range(RUNS):
            hits = JudgedHits()
            for _ in range(300):
                hits = hits.with_judgement(random_.random() >= rate)
                looks = hits.judged % 7 == 0 or hits.judged < 20
                if looks and hits.upper_bound() < rate:
                    fooled += 1
                    break
        assert fooled <= MOST_BROKEN, rate


def test_judgements_lower_the_bound_and_errors_raise_it() -> None:
    assert JudgedHits().upper_bound() == 1
    assert judged([False]).upper_bound() == 1
    bounds = [judged([True] * n).upper_bound() for n in (1, 10, 100, 1_000)]
    assert bounds == sorted(bounds, reverse=True)
    assert judged([True] * 1_000).upper_bound() < 0.01
    assert judged([True] * 990 + [False] * 10).upper_bound() > 0.01
    assert judged([True, False, True]) == JudgedHits(3, 1)


@settings(deadline=None)
@given(st.integers(0, 500), st.integers(0, 500))
def test_the_anytime_bound_is_wider_than_the_one_for_a_single_look(right: int, wrong: int) -> None:
    hits = JudgedHits(right + wrong, wrong)
    if hits.judged:
        assert upper_bound(wrong, hits.judged) <= hits.upper_bound() + 1e-9 <= 1 + 1e-9
