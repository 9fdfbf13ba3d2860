"""Intervals of a single look hold the truth as often as they say, on data as LLM calls make them.

`shortfall` is what the central limit still owes at this size: 0 unless it says otherwise.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
from scipy import stats

from novellus_lab.experiments.stats.bootstrap import Resampling, bootstrap_t_difference
from novellus_lab.experiments.stats.means import cuped_difference, difference, relative_difference
from novellus_lab.experiments.stats.proportions import rate, rate_difference
from novellus_lab.experiments.stats.quantiles import quantile, quantile_difference
from novellus_lab.experiments.stats.ratios import (
    RatioSample,
    ratio,
    ratio_difference,
    relative_ratio_difference,
)
from tests.experiments.stats.coverage import coverage

if TYPE_CHECKING:
    from collections.abc import Callable

    from novellus_lab.experiments.stats.estimate import Estimate

LOGNORMAL_MEAN = math.exp(0.5)
Z95 = math.exp(stats.norm.ppf(0.95))
FEW = Resampling(600)


class Case(NamedTuple):
    name: str
    draw: Callable[[np.random.Generator], Estimate]
    truth: float
    shortfall: float = 0.0
    bootstrapped: bool = False


def cost(random, n):
    return random.lognormal(0, 1, n)


def cost_of_pairs(random, n, factor):
    """Costs of the same prompts in two arms."""
    base = cost(random, n)
    return base, factor * base * np.exp(random.normal(-0.125, 0.5, n))


def mostly_zero(random, n):
    return cost(random, n) * (random.random(n) < 0.1)


def sessions(random, count, first=0):
    """Values whose sessions differ, and the sessions, of 1 to 11 values each."""
    codes = np.repeat(np.arange(count), random.integers(1, 12, count))
    values = random.normal(0, 1, count)[codes] + random.normal(0, 1, len(codes))
    return values, codes + first


def of_sessions(random, count):
    (a, of_a), (b, of_b) = sessions(random, count), sessions(random, count, 1000)
    return difference(a, b, clusters=(of_a, of_b))


def of_shared_sessions(random, count):
    """Each session has calls in both arms."""
    values, codes = sessions(random, count)
    arm = random.random(len(values)) < 0.4
    return difference(values[~arm], values[arm], clusters=(codes[~arm], codes[arm]))


def paired_rates(random, n):
    right = random.random(n) < 0.7
    return rate_difference(
        right, np.where(random.random(n) < 0.8, right, random.random(n) < 0.8), paired=True
    )


def clustered_rates(random, count):
    codes = np.repeat(np.arange(count), random.integers(1, 10, count))
    rates = random.beta(2, 8, (2, count))
    one, two = (random.random(len(codes)) < of_session[codes] for of_session in rates)
    return rate_difference(one, two, clusters=(codes, codes + 1000))


def cost_of_good_answer(random, n):
    good = random.random(n) < 0.4
    return ratio(RatioSample(cost(random, n) * (1 + good), good))


def costs_of_good_answers(random, n, compare, paired=False):
    good = random.random(n) < 0.5
    first = cost(random, n)
    if paired:
        other = np.where(random.random(n) < 0.6, good, random.random(n) < 0.7)
        second = first * 1.5 * np.exp(random.normal(0, 0.3, n))
    else:
        other = random.random(n) < 0.6
        second = cost(random, n) * 1.5 * math.exp(0.045)
    return compare(RatioSample(first, good), RatioSample(second, other), paired=paired)


CHEAP = LOGNORMAL_MEAN / 0.5
DEAR = LOGNORMAL_MEAN * 1.5 * math.exp(0.045) / 0.6
DEAR_PAIRED = LOGNORMAL_MEAN * 1.5 * math.exp(0.045) / (0.6 * 0.5 + 0.4 * 0.7)


def slow_pairs(random, n, q):
    shared = random.normal(0, 0.8, n)
    one, two = (np.exp(shared + random.normal(0, 0.6, n)) for _ in range(2))
    return quantile_difference(one, 1.5 * two, q, paired=True, resampling=FEW)


def slow_sessions(random, count, q):
    def arm(first):
        codes = np.repeat(np.arange(count), random.integers(1, 9, count))
        noise = random.normal(0, 0.6, len(codes))
        return np.exp(random.normal(0, 0.8, count)[codes] + noise), codes + first

    (one, of_one), (two, of_two) = arm(0), arm(1000)
    return quantile_difference(one, 1.5 * two, q, clusters=(of_one, of_two), resampling=FEW)


def foretold(random, n):
    """Latency of which prompts' lengths, the covariate, foretell two thirds."""
    arms = []
    for effect in (0.0, 0.5):
        length = random.lognormal(0, 0.5, n)
        arms.append((effect + 2 * length + random.exponential(0.7, n), length))
    (a, before_a), (b, before_b) = arms
    return cuped_difference(a, b, before_a, before_b).estimate


CASES = [
    Case(
        "Welch, normal, 10 and 30, unequal spread",
        lambda r: difference(r.normal(0, 1, 10), r.normal(0, 3, 30)),
        0,
    ),
    Case(
        "Welch, lognormal cost, 100 and 200",
        lambda r: difference(cost(r, 100), 1.3 * cost(r, 200)),
        0.3 * LOGNORMAL_MEAN,
    ),
    Case(
        "Welch, nine zeros in ten, 100",
        lambda r: difference(mostly_zero(r, 100), 1.5 * mostly_zero(r, 100)),
        0.05 * LOGNORMAL_MEAN,
        0.01,
    ),
    Case(
        "paired t, lognormal cost, 200",
        lambda r: difference(*cost_of_pairs(r, 200, 1.2), paired=True),
        0.2 * LOGNORMAL_MEAN,
        0.03,
    ),
    Case(
        "percent, lognormal cost, 100",
        lambda r: relative_difference(cost(r, 100), 1.2 * cost(r, 100)),
        0.2,
    ),
    Case(
        "percent, paired lognormal cost, 50",
        lambda r: relative_difference(*cost_of_pairs(r, 50, 1.2), paired=True),
        0.2,
        0.02,
    ),
    Case("8 and 8 unequal sessions", lambda r: of_sessions(r, 8), 0),
    Case("30 and 30 unequal sessions", lambda r: of_sessions(r, 30), 0),
    Case("12 sessions in both arms", lambda r: of_shared_sessions(r, 12), 0, 0.01),
    Case("CUPED, 40 and 40", lambda r: foretold(r, 40), 0.5),
    Case("Wilson, 2% of 60", lambda r: rate(r.random(60) < 0.02), 0.02),
    Case(
        "Newcombe, 5% and 10% of 40",
        lambda r: rate_difference(r.random(40) < 0.05, r.random(40) < 0.1),
        0.05,
    ),
    Case("Newcombe, 40 pairs", lambda r: paired_rates(r, 40), 0.2 * 0.8 + 0.8 * 0.7 - 0.7),
    Case("Newcombe, 30 and 30 sessions", lambda r: clustered_rates(r, 30), 0, 0.01),
    Case(
        "cost of a good answer, 60",
        lambda r: cost_of_good_answer(r, 60),
        LOGNORMAL_MEAN * 3.5,
        0.01,
    ),
    Case("cost of a good answer, 15", lambda r: cost_of_good_answer(r, 15), LOGNORMAL_MEAN * 3.5),
    Case(
        "cost of a good answer, 80 and 80",
        lambda r: costs_of_good_answers(r, 80, ratio_difference),
        DEAR - CHEAP,
    ),
    Case(
        "cost of a good answer, 80 pairs",
        lambda r: costs_of_good_answers(r, 80, ratio_difference, paired=True),
        DEAR_PAIRED - CHEAP,
        0.01,
    ),
    Case(
        "cost of a good answer in percent, 40 pairs",
        lambda r: costs_of_good_answers(r, 40, relative_ratio_difference, paired=True),
        DEAR_PAIRED / CHEAP - 1,
    ),
    Case("p95 of 100", lambda r: quantile(cost(r, 100), 0.95), Z95),
    Case(
        "difference of p50, 30 and 30",
        lambda r: quantile_difference(cost(r, 30), 1.5 * cost(r, 30), 0.5),
        0.5,
    ),
    Case(
        "difference of p99, 400 and 400",
        lambda r: quantile_difference(cost(r, 400), 1.5 * cost(r, 400), 0.99),
        0.5 * math.exp(stats.norm.ppf(0.99)),
    ),
    Case("difference of p50, 60 pairs", lambda r: slow_pairs(r, 60, 0.5), 0.5, bootstrapped=True),
    Case(
        "difference of p95, 150 pairs",
        lambda r: slow_pairs(r, 150, 0.95),
        0.5 * Z95,
        bootstrapped=True,
    ),
    Case(
        "difference of p95, 90 and 90 sessions",
        lambda r: slow_sessions(r, 90, 0.95),
        0.5 * Z95,
        0.01,
        bootstrapped=True,
    ),
    Case(
        "bootstrap-t, lognormal cost, 30",
        lambda r: bootstrap_t_difference(np.zeros(30), cost(r, 30), paired=True, resampling=FEW),
        LOGNORMAL_MEAN,
        0.03,
        bootstrapped=True,
    ),
    Case(
        "bootstrap-t, normal, 10",
        lambda r: bootstrap_t_difference(
            np.zeros(10), r.normal(0, 1, 10), paired=True, resampling=FEW
        ),
        0,
        0.01,
        bootstrapped=True,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_holds_the_truth_as_often_as_it_says(case: Case) -> None:
    found = coverage(case.draw, case.truth, 200 if case.bootstrapped else 500)
    assert found.is_at_least(0.95 - case.shortfall), found


@pytest.mark.long
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_does_in_many_runs(case: Case) -> None:
    found = coverage(case.draw, case.truth, 2_000 if case.bootstrapped else 10_000, seed=2)
    assert found.is_at_least(0.95 - case.shortfall), found


@pytest.mark.parametrize("level", [0.5, 0.8, 0.99])
def test_it_is_neither_too_wide_nor_too_narrow_at_any_level(level: float) -> None:
    """For normal values, for which the t-interval is exact."""
    from novellus_lab.experiments.stats.confidence import Confidence

    def draw(random: np.random.Generator) -> Estimate:
        return difference(
            random.normal(0, 1, 6),
            random.normal(0, 1, 6),
            paired=True,
            confidence=Confidence(level),
        )

    found = coverage(draw, 0, 2_000)
    assert found.is_at_least(level)
    assert found.is_at_most(level)


def test_where_student_covers_too_little_bootstrap_t_covers_more() -> None:
    """30 lognormal costs: the reason why it is there, and why `difference` has a note."""
    student = coverage(
        lambda r: difference(np.zeros(30), cost(r, 30), paired=True), LOGNORMAL_MEAN, 1_000
    )
    assert not student.is_at_least(0.95)
    better = coverage(CASES[-2].draw, LOGNORMAL_MEAN, 1_000)
    assert better.hits > student.hits + 20
    noted = [
        difference(np.zeros(30), cost(np.random.default_rng(seed), 30), paired=True).notes
        for seed in range(50)
    ]
    assert sum("very skewed" in " ".join(notes) for notes in noted) > 40
