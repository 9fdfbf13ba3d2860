"""Bad input is refused with what is wrong and where; what can't be told is said, never NaN."""

from __future__ import annotations

import math

import numpy as np
import pytest

from novellus_lab.errors import InvalidRequestError
from novellus_lab.experiments.stats.bootstrap import Resampling, bootstrap, bootstrap_t_difference
from novellus_lab.experiments.stats.confidence import Confidence
from novellus_lab.experiments.stats.estimate import Estimate
from novellus_lab.experiments.stats.means import (
    cuped_difference,
    difference,
    mean,
    relative_difference,
)
from novellus_lab.experiments.stats.proportions import rate, rate_difference
from novellus_lab.experiments.stats.quantiles import quantile, quantile_difference
from novellus_lab.experiments.stats.ratios import (
    RatioSample,
    ratio,
    ratio_difference,
    relative_ratio_difference,
)

OF_TWO = [
    difference,
    relative_difference,
    rate_difference,
    bootstrap_t_difference,
    lambda a, b, **more: quantile_difference(a, b, 0.5, **more),
    lambda a, b, **more: ratio_difference(
        RatioSample(a, np.ones(np.shape(a))), RatioSample(b, np.ones(np.shape(b))), **more
    ),
]


@pytest.mark.parametrize("compare", OF_TWO)
@pytest.mark.parametrize(
    ("control", "treatment", "more", "says"),
    [
        ([], [1, 0], {}, "empty"),
        ([1, 0], [], {"paired": True}, "empty"),
        ([1, 0, math.nan], [1, 0], {}, r"\[2\] is nan"),
        ([1, 0], [1, math.inf], {}, r"\[1\] is inf"),
        ([1, 0, 1], [1, 0], {"paired": True}, "as many of each"),
        ([[1, 0]], [1, 0], {}, "one dimension"),
    ],
)
def test_bad_samples(compare, control, treatment, more, says):
    with pytest.raises(InvalidRequestError, match=says):
        compare(control, treatment, **more)


def test_what_is_no_number():
    with pytest.raises(InvalidRequestError, match="expected numbers"):
        mean(["a", "b"])
    with pytest.raises(InvalidRequestError, match="nan"):
        mean([1.0, None])
    with pytest.raises(InvalidRequestError, match="expected 0 or 1"):
        rate([0, 1, 0.5])
    with pytest.raises(InvalidRequestError, match="below 0"):
        ratio(RatioSample([1, 2], [1, -1]))


@pytest.mark.parametrize(
    ("clusters", "paired", "says"),
    [
        (["a"], True, "a label for each of 3"),
        (["a", None, "b"], True, "missing"),
        ((["a"] * 3, ["b"] * 3), True, "one label a pair"),
        (["a"] * 3, False, "labels of control"),
        ((["a"] * 3, None), False, "a label for each"),
    ],
)
def test_bad_clusters(clusters, paired, says):
    with pytest.raises(InvalidRequestError, match=says):
        difference([1, 2, 3], [2, 3, 5], paired=paired, clusters=clusters)


def test_bad_settings():
    for level in (0, 1, 95, math.nan):
        with pytest.raises(InvalidRequestError, match="between 0 and 1"):
            Confidence(level)
    with pytest.raises(InvalidRequestError, match="peeking"):
        Confidence(peeking=0)
    for q in (0, 1, 95):
        with pytest.raises(InvalidRequestError, match="between 0 and 1"):
            quantile([1, 2], q)
    with pytest.raises(InvalidRequestError, match="at least 100"):
        Resampling(10)
    with pytest.raises(InvalidRequestError, match="one look"):
        bootstrap_t_difference([1, 2], [2, 3], confidence=Confidence(peeking=100))
    with pytest.raises(InvalidRequestError, match="empty"):
        bootstrap(lambda weights: weights[0][:, 0], [0], method="", n=0)


def says_nothing(estimate: Estimate, why: str) -> bool:
    return (
        (estimate.low, estimate.high) == (-math.inf, math.inf)
        and why in " ".join(estimate.notes)
        and not estimate.excludes(0)
    )


def test_one_value_tells_no_spread():
    assert says_nothing(mean([2.0]), "single observation")
    assert says_nothing(difference([2.0], [3.0, 4.0]), "single observation")
    assert says_nothing(relative_difference([2.0], [3.0], paired=True), "single observation")
    assert says_nothing(ratio(RatioSample([2.0], [1.0])), "")
    assert says_nothing(quantile([2.0], 0.5), "too few")


def test_one_session_tells_no_spread():
    clusters = (["one"] * 3, ["x", "y", "z"])
    assert says_nothing(difference([1, 2, 3], [2, 3, 5], clusters=clusters), "one cluster")
    assert says_nothing(difference([1, 2], [2, 4], paired=True, clusters=["a", "a"]), "one cluster")
    assert says_nothing(
        bootstrap_t_difference([1, 2], [2, 4], paired=True, clusters=["a", "a"]), "a single unit"
    )
    assert says_nothing(
        quantile_difference([1, 2], [2, 4], 0.5, paired=True, clusters=["a", "a"]), "too few"
    )


@pytest.mark.parametrize("compare", [difference, relative_difference, bootstrap_t_difference])
@pytest.mark.parametrize("paired", [True, False])
def test_values_that_are_all_equal(compare, paired):
    """0.1 + 0.2 is not 0.3: rounding is no spread."""
    control, treatment = [0.3, 0.1 + 0.2, 0.3], [0.4, 0.1 + 0.3, 0.4]
    assert says_nothing(compare(control, treatment, paired=paired), "nothing tells")


def test_pairs_that_all_differ_alike():
    assert says_nothing(difference([1, 2, 3], [1.1, 2.1, 3.1], paired=True), "differ alike")
    assert says_nothing(relative_difference([1, 2, 3], [1.2, 2.4, 3.6], paired=True), "")


def test_one_arm_without_spread_is_noted():
    found = difference([1, 1, 1], [2, 3, 5])
    assert found.bounded
    assert "control are equal" in " ".join(found.notes)


def test_a_cost_of_no_good_answer():
    none = ratio(RatioSample([1.0, 2.0, 3.0], [0, 0, 0]))
    assert none.value is None
    assert says_nothing(none, "all denominators are 0")
    few = ratio(RatioSample([1.0, 2.0, 3.0, 2.0, 1.0], [0, 0, 1, 0, 0]))
    assert few.value == 9
    assert says_nothing(few, "can't be told from 0")
    enough = RatioSample([1.0, 2.0, 3.0, 2.5] * 10, [1, 1, 0, 1] * 10)
    for compare in (ratio_difference, relative_ratio_difference):
        found = compare(enough, RatioSample([1.0, 2.0, 3.0, 2.0], [0, 0, 1, 0]))
        assert not found.bounded
        assert "can't be told from 0" in found.notes[0]
    assert relative_ratio_difference(enough, RatioSample([0, 0, 0.0], [1, 0, 1])).value is None


def test_a_percentage_of_nothing():
    assert relative_difference([0, 0, 0], [1, 2, 3]).value is None
    assert relative_difference([-1, -2], [1, 2]).value is None
    shaky = relative_difference([5, -4, 0.5], [1, 2, 3])
    assert says_nothing(shaky, "can't be told from 0")


def test_tails_that_few_values_do_not_reach():
    assert quantile(np.arange(100.0), 0.99).high == math.inf
    assert quantile(np.arange(368.0), 0.99).high == 367
    found = quantile_difference(np.arange(100.0), np.arange(100.0) + 1, 0.99, paired=True)
    assert says_nothing(found, "too few for p99")


def test_rates_at_the_edge_have_honest_intervals():
    none = rate(np.zeros(50))
    assert (none.low, none.value) == (0, 0)
    assert 0.05 < none.high < 0.1
    clustered = rate(np.zeros(50), clusters=np.repeat(np.arange(5), 10))
    assert clustered.high > 0.4
    same = rate_difference(np.zeros(30), np.zeros(30), paired=True)
    assert same.low < 0 < same.high
    assert same.p_value == 1


def test_cuped_of_too_few_is_not_adjusted():
    found = cuped_difference([1, 2, 4], [2, 3, 7], [1, 2, 3], [2, 2, 5])
    assert found.variance_removed == 0
    assert "too few" in found.estimate.notes[-1]
    with pytest.raises(InvalidRequestError, match="treatment_covariates"):
        cuped_difference([1, 2, 4], [2, 3, 7], [1, 2, 3], [2, 2])


def test_an_estimate_holds_no_nan():
    for low, high in ((math.nan, 1), (0, math.nan), (2, 1)):
        with pytest.raises(ArithmeticError):
            Estimate(1.0, low, high, 0.95, "", 1, 1)
