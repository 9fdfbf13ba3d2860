"""Always-valid intervals, looked at after every unit: how often do they ever leave the truth?

Where a statistic can be had for all sizes at once, the boundary is `Confidence`'s own, asked for each
size. Welch and Student stand beside as what peeking does to intervals that are for one look.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from novellus_lab.experiments.stats.confidence import (
    SKEWNESS,
    WARM_UP,
    Confidence,
    mixture_precision,
)
from novellus_lab.experiments.stats.means import difference, mean, relative_difference
from novellus_lab.experiments.stats.proportions import beta_binomial, rate, rate_difference
from novellus_lab.experiments.stats.quantiles import order_bounds, quantile, quantile_difference
from novellus_lab.experiments.stats.ratios import RatioSample, relative_ratio_difference
from novellus_lab.experiments.stats.sequential import (
    bounded_difference,
    bounded_mean,
    log_capital,
    randomised_difference,
)

PEEKING = Confidence(0.95, peeking=500)
Z = {
    "normal": lambda r, shape: r.normal(0, 1, shape),
    "lognormal against lognormal": lambda r, shape: (
        r.lognormal(0, 1, shape) - r.lognormal(0, 1, shape)
    ),
    "lognormal": lambda r, shape: r.lognormal(0, 1, shape) - math.exp(0.5),
    "nine zeros in ten": lambda r, shape: (
        r.lognormal(0, 1, shape) * (r.random(shape) < 0.1) - 0.1 * math.exp(0.5)
    ),
    "3% ones": lambda r, shape: (r.random(shape) < 0.03) - 0.03,
    "exponential": lambda r, shape: r.exponential(1, shape) - 1,
}


def at_most(hits: int, runs: int, share: float) -> bool:
    return bool(stats.binom.sf(hits - 1, runs, share) > 1e-3)


def statistics(values):
    """Mean over standard error, and skewness of the mean, after each value; a row a run."""
    n = np.arange(1, values.shape[1] + 1)
    squares = values * values
    first, second, third = (
        np.cumsum(powers, axis=1) / n for powers in (values, squares, squares * values)
    )
    variance = np.maximum(second - first**2, 1e-30)
    skewness = (third - 3 * first * second + 2 * first**3) / variance**1.5 / np.sqrt(n)
    statistic = first / np.sqrt(variance / np.maximum(n - 1, 1))
    return np.where(variance > 1e-20, statistic, 0.0), skewness


def ever_outside(values, confidence: Confidence) -> int:
    """How many runs' intervals ever leave 0, vectorised over what `Confidence.reach` says."""
    t, g = statistics(values)
    hall = t + g * t**2 / 3 + g**2 * t**3 / 27 + g / 6
    boundary = np.array(
        [confidence.critical(max(n - 1, 1), n) for n in range(1, values.shape[1] + 1)]
    )
    speaks = (np.arange(1, values.shape[1] + 1) >= WARM_UP) & (np.abs(g) <= SKEWNESS)
    reached = np.minimum(np.abs(t), np.abs(hall))
    return int(((reached > boundary) & speaks).any(axis=1).sum())


@pytest.mark.parametrize("name", Z)
def test_means_under_continuous_peeking(name):
    values = Z[name](np.random.default_rng(3), (800, 1_500))
    assert at_most(ever_outside(values, PEEKING), 800, 0.05)


@pytest.mark.long
@pytest.mark.parametrize("peeking", [200, 2_000])
@pytest.mark.parametrize("name", Z)
def test_means_under_continuous_peeking_for_long(name, peeking):
    values = Z[name](np.random.default_rng(4), (1_500, 4_000))
    assert at_most(ever_outside(values, Confidence(0.95, peeking)), 1_500, 0.05)


def test_the_simulation_is_of_what_the_estimator_shows():
    """The vectorised path above against `mean` on prefixes, and the interval against the p-value."""
    random = np.random.default_rng(0)
    for name in Z:
        values = Z[name](random, (1, 400)) + 0.05
        t, g = statistics(values)
        hall = t + g * t**2 / 3 + g**2 * t**3 / 27 + g / 6
        for n in (40, 60, 150, 400):
            shown = difference(np.zeros(n), values[0, :n], paired=True, confidence=PEEKING)
            speaks = n >= WARM_UP and abs(g[0, n - 1]) <= SKEWNESS
            assert shown.bounded == speaks
            assert shown.excludes(0) == (
                speaks and min(abs(t[0, n - 1]), abs(hall[0, n - 1])) > PEEKING.critical(n - 1, n)
            )
            assert shown.excludes(0) == (shown.p_value is not None and shown.p_value < 0.05)


def looks_that_alarm(draw, estimate, runs, looks, seed=0):
    random = np.random.default_rng(seed)
    alarms = 0
    for _ in range(runs):
        data = draw(random)
        alarms += any(estimate(*(column[:n] for column in data)).excludes(0) for n in looks)
    return alarms


def test_thirty_looks_at_equal_arms():
    """A/A with lognormal costs: what Welch does, and what the always-valid interval does."""
    looks = np.linspace(50, 1_500, 30).astype(int)

    def arms(random):
        return random.lognormal(0, 1, 1_500), random.lognormal(0, 1, 1_500)

    runs = 120
    welch = looks_that_alarm(arms, difference, runs, looks)
    ours = looks_that_alarm(
        arms, lambda a, b: difference(a, b, confidence=Confidence(peeking=1_000)), runs, looks
    )
    assert welch > 0.2 * runs
    assert at_most(ours, runs, 0.05)


def test_percentages_rates_and_ratios_with_many_looks():
    looks = [30, 60, 100, 150, 250, 400, 600]

    def arms(random):
        return (
            random.lognormal(0, 1, 600),
            random.lognormal(0, 1, 600),
            (random.random(600) < 0.04).astype(float),
            (random.random(600) < 0.04).astype(float),
            (random.random(600) < 0.7).astype(float),
            (random.random(600) < 0.7).astype(float),
        )

    estimates = {
        "percent": lambda a, b, *_: relative_difference(a, b, confidence=PEEKING),
        "rates": lambda a, b, x, y, *_: rate_difference(x, y, confidence=PEEKING),
        "paired rates": lambda a, b, x, y, *_: rate_difference(
            x, y, paired=True, confidence=PEEKING
        ),
        "ratios": lambda a, b, x, y, v, w: relative_ratio_difference(
            RatioSample(a, v), RatioSample(b, w), confidence=PEEKING
        ),
        "p95": lambda a, b, *_: quantile_difference(a, b, 0.95, confidence=PEEKING),
    }
    for name, estimate in estimates.items():
        assert at_most(looks_that_alarm(arms, estimate, 70, looks), 70, 0.05), name


@pytest.mark.parametrize("rate_of_ones", [0.01, 0.1, 0.5])
def test_betting_holds_from_the_first_value_on(rate_of_ones):
    """`bounded_mean` leaves the truth exactly when a gambler on it has 2 / alpha."""
    values = (np.random.default_rng(1).random((2_000, 1_000)) < rate_of_ones).astype(float)
    up, down = log_capital(values, rate_of_ones, 0.05)
    ever = (np.maximum(up, down) >= math.log(2 / 0.05)).any(axis=1)
    assert at_most(int(ever.sum()), 2_000, 0.05)
    for run in range(40):
        for n in (1, 10, 300, 1_000):
            shown = bounded_mean(values[run, :n])
            left = max(up[run, n - 1], down[run, n - 1]) >= math.log(2 / 0.05)
            assert shown.excludes(rate_of_ones) == left


@pytest.mark.parametrize("compare", ["paired", "randomised"])
def test_betting_on_differences_holds_and_finds(compare):
    random = np.random.default_rng(2)

    def alarms(second, runs=120, n=600):
        found = 0
        for _ in range(runs):
            arm = (random.random(n) < 0.3).astype(float)
            x, y = (random.random(n) < 0.3) * 1.0, (random.random(n) < second) * 1.0
            for end in (50, 200, 400, n):
                if compare == "paired":
                    shown = bounded_difference(x[:end], y[:end])
                else:
                    mixed = np.where(arm == 1, y, x)
                    shown = randomised_difference(mixed[:end], arm[:end], share=0.3)
                if shown.excludes(0):
                    assert shown.p_value is not None
                    assert shown.p_value <= 0.05 * (1 + 1e-6)
                    found += 1
                    break
        return found

    assert at_most(alarms(0.3), 120, 0.05)
    assert alarms(0.55) > 100


@pytest.mark.parametrize("p", [0.005, 0.05, 0.5])
def test_a_rate_under_continuous_peeking(p):
    ones = np.cumsum(np.random.default_rng(5).random((1_000, 800)) < p, axis=1)
    n = np.arange(1, 801)
    log_e = stats.betabinom.logpmf(ones, n, 1, 1) - stats.binom.logpmf(ones, n, p)
    assert at_most(int((log_e > -math.log(0.05)).any(axis=1).sum()), 1_000, 0.05)
    for run, end in ((0, 1), (1, 50), (2, 800)):
        shown = beta_binomial(int(ones[run, end - 1]), end, 0.05)
        assert (not shown.low <= p <= shown.high) == (log_e[run, end - 1] > -math.log(0.05))


@pytest.mark.parametrize("q", [0.5, 0.95])
def test_a_quantile_under_continuous_peeking(q):
    random = np.random.default_rng(6)
    runs, size = 400, 600
    below = np.cumsum(random.random((runs, size)) < q, axis=1)
    outside = np.zeros(runs, dtype=bool)
    for n in range(1, size + 1, 3):
        low, high = order_bounds(np.arange(1.0, n + 1), q, PEEKING)
        # The quantile lies between the order statistics `below` and `below` + 1.
        outside |= (below[:, n - 1] < low) | (below[:, n - 1] >= high)
    assert at_most(int(outside.sum()), runs, 0.05)


def test_it_is_narrowest_where_it_was_tuned_and_agrees_with_itself():
    """At `peeking` units no other tuning is narrower; everywhere it is wider than one look."""
    for peeking in (100, 1_000, 30_000):
        own = Confidence(peeking=peeking).critical(math.inf, peeking)
        others = [
            Confidence(peeking=other).critical(math.inf, peeking)
            for other in (peeking // 2, peeking * 9 // 10, peeking * 11 // 10, peeking * 2)
        ]
        assert own < min(others)
        assert own > Confidence().critical(math.inf, peeking)


def test_a_stronger_level_is_a_wider_interval():
    random = np.random.default_rng(0)
    a, b = random.lognormal(0, 1, 300), random.lognormal(0, 1, 300)
    for estimate in (
        lambda c: difference(a, b, confidence=c),
        lambda c: relative_difference(a, b, confidence=c),
        lambda c: quantile_difference(a, b, 0.5, confidence=c),
        lambda c: rate(a > 1, confidence=c),
    ):
        for peeking in (None, 300):
            weak, strong = (estimate(Confidence(level, peeking)) for level in (0.8, 0.99))
            assert strong.low < weak.low < weak.high < strong.high


def test_agreement_with_ville():
    """An independent implementation (BSD), where it is installed."""
    ville = pytest.importorskip("ville")
    random = np.random.default_rng(8)
    values = random.normal(0.3, 1, 900)
    theirs = ville.AsymptoticCS(alpha=0.05, t_opt=500).fit(values)
    assert 1 / mixture_precision(0.05, 500) == pytest.approx(theirs.rho_, rel=1e-4)
    ours = mean(values, confidence=PEEKING)
    # Theirs has the normal's quantile and no correction for skewness, which is 0 here.
    assert (ours.low, ours.high) == pytest.approx(theirs.interval(), abs=2e-3)
    for n in (60, 500, 5_000):
        z = Confidence(peeking=500).critical(math.inf, n)
        radius = ville.normal_mixture(n, 0.05, theirs.rho_) / math.sqrt(n)
        assert z == pytest.approx(float(radius), rel=1e-5)
    right = (random.random(500) < 0.7).astype(float)
    wrong = (random.random(500) < 0.6).astype(float)
    for ours, theirs in (
        (bounded_mean(right), ville.BettingCS(intersect=False).fit(right)),
        (
            bounded_difference(right, wrong),
            ville.BettingCS(bounds=(-1, 1), intersect=False).fit(wrong - right),
        ),
        (
            rate(right, confidence=PEEKING),
            ville.BernoulliCS(intersect=False).fit(right),
        ),
    ):
        assert (ours.low, ours.high) == pytest.approx(theirs.interval(), abs=3e-4)


def test_the_interval_of_an_empty_set_says_so():
    """First all zeros, then all ones: no single mean fits."""
    found = bounded_mean([0.0] * 50 + [1.0] * 1_000)
    assert found.low <= found.high
    assert "no single mean" in found.notes[0]


def test_early_looks_say_why_they_say_nothing():
    early = mean([1.0, 2.0, 3.0], confidence=PEEKING)
    assert early.high == math.inf
    assert "starts at 50" in early.notes[0]
    skewed = mean([0.0] * 99 + [1.0], confidence=PEEKING)
    assert skewed.high == math.inf
    assert "too skewed" in skewed.notes[0]
    assert quantile([1.0, 2.0, 3.0], 0.95, confidence=PEEKING).high == math.inf
