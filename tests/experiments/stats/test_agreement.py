"""The same numbers as SciPy, statsmodels and published examples, where they have the estimator."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import linalg, optimize, stats
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from novellus_lab.experiments.stats.bootstrap import Resampling, bootstrap
from novellus_lab.experiments.stats.confidence import Confidence
from novellus_lab.experiments.stats.means import (
    cuped_difference,
    difference,
    mean,
    relative_difference,
)
from novellus_lab.experiments.stats.proportions import mcnemar, rate, rate_difference
from novellus_lab.experiments.stats.quantiles import quantile
from novellus_lab.experiments.stats.ratios import RatioSample, ratio

RANDOM = np.random.default_rng(5)
A, B = RANDOM.lognormal(0, 1, 40), 1.3 * RANDOM.lognormal(0, 1, 60)
LEVELS = [0.8, 0.95, 0.99]


def bounds(estimate):
    return pytest.approx((estimate.low, estimate.high))


@pytest.mark.parametrize("level", LEVELS)
def test_students_and_welchs_t_are_scipys(level):
    confidence = Confidence(level)
    welch = stats.ttest_ind(B, A, equal_var=False)
    ours = difference(A, B, confidence=confidence)
    assert tuple(welch.confidence_interval(level)) == bounds(ours)
    assert (ours.p_value, ours.df) == pytest.approx((welch.pvalue, welch.df))
    paired = stats.ttest_rel(B[:40], A)
    ours = difference(A, B[:40], paired=True, confidence=confidence)
    assert tuple(paired.confidence_interval(level)) == bounds(ours)
    assert ours.p_value == pytest.approx(paired.pvalue)
    alone = stats.ttest_1samp(A, 0)
    assert tuple(alone.confidence_interval(level)) == bounds(mean(A, confidence=confidence))


def test_equal_sessions_are_statsmodels_cluster_robust():
    codes = np.repeat(np.arange(12), 5)
    values = RANDOM.normal(0, 1, 12)[codes] + RANDOM.normal(0, 1, 60)
    fit = sm.OLS(values, np.ones(60)).fit(
        cov_type="cluster", cov_kwds={"groups": codes, "use_correction": False}
    )
    ours = mean(values, clusters=codes)
    assert ours.standard_error == pytest.approx(fit.bse[0] * np.sqrt(12 / 11))
    assert (ours.df, ours.units) == (pytest.approx(11), 12)


@pytest.mark.parametrize("shared", [False, True], ids=["sessions in one arm", "in both arms"])
def test_unequal_sessions_are_bell_and_mccaffreys_matrices(shared):
    """CR2 and its degrees of freedom, from their definition with inverse square roots."""
    codes = np.repeat(np.arange(9), [1, 7, 3, 12, 2, 4, 6, 5, 8])
    arm = RANDOM.random(len(codes)) < 0.5 if shared else codes >= 4
    values = RANDOM.normal(0, 1, 9)[codes] + RANDOM.normal(0, 1, len(codes))
    x = np.stack([~arm, arm], axis=1).astype(float)
    contrast = np.array([-1.0, 1.0])
    bread = np.linalg.inv(x.T @ x)
    hat = x @ bread @ x.T
    residual = values - x @ bread @ x.T @ values
    variance, columns = 0.0, []
    for code in range(9):
        mine = codes == code
        adjust = np.real(
            linalg.fractional_matrix_power(np.eye(mine.sum()) - hat[np.ix_(mine, mine)], -0.5)
        )
        pull = adjust @ x[mine] @ bread @ contrast
        variance += float(pull @ residual[mine]) ** 2
        columns.append((np.eye(len(codes)) - hat)[:, mine] @ pull)
    ours = difference(values[~arm], values[arm], clusters=(codes[~arm], codes[arm]))
    assert ours.standard_error == pytest.approx(np.sqrt(variance))
    # Their degrees of freedom, with the arms' own spreads in the working model, as Welch has them.
    spreads = [
        mean(values[side], clusters=codes[side]).standard_error * np.sqrt(side.sum())
        for side in (~arm, arm)
    ]
    scaled = np.array(columns) * np.where(arm, spreads[1], spreads[0])
    gram = scaled @ scaled.T
    assert ours.df == pytest.approx(np.trace(gram) ** 2 / np.sum(gram**2))


def test_degrees_of_freedom_of_one_arm_are_bell_and_mccaffreys():
    sizes = np.array([1, 7, 3, 12, 2])
    codes = np.repeat(np.arange(5), sizes)
    hat = np.full((25, 25), 1 / 25)
    columns = []
    for code in range(5):
        mine = codes == code
        adjust = linalg.fractional_matrix_power(np.eye(mine.sum()) - hat[np.ix_(mine, mine)], -0.5)
        columns.append((np.eye(25) - hat)[:, mine] @ np.real(adjust) @ np.ones(mine.sum()) / 25)
    gram = np.array(columns) @ np.array(columns).T
    expected = np.trace(gram) ** 2 / np.sum(gram**2)
    assert mean(RANDOM.normal(0, 1, 25), clusters=codes).df == pytest.approx(expected)


@pytest.mark.parametrize("level", LEVELS)
def test_fiellers_bounds_are_where_the_t_test_begins_to_reject(level):
    ours = relative_difference(A, A * B[:40], paired=True, confidence=Confidence(level))
    for end in (ours.low, ours.high):
        test = stats.ttest_1samp(A * B[:40] - (1 + end) * A, 0)
        assert test.pvalue == pytest.approx(1 - level)
    good = (RANDOM.random(40) < 0.6).astype(float)
    ours = ratio(RatioSample(A, good), confidence=Confidence(level))
    for end in (ours.low, ours.high):
        assert stats.ttest_1samp(A - end * good, 0).pvalue == pytest.approx(1 - level)


def test_the_percentage_excludes_0_exactly_where_the_difference_does():
    for seed in range(200):
        random = np.random.default_rng(seed)
        a, b = random.lognormal(1, 0.3, 12), random.lognormal(1.2, 0.5, 9)
        plain, percent = difference(a, b), relative_difference(a, b)
        assert percent.excludes(0) == plain.excludes(0) == (plain.p_value < 0.05)
        assert percent.p_value == pytest.approx(plain.p_value)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("ones", "n"), [(0, 10), (3, 40), (40, 40), (199, 1_000)])
def test_wilson_is_statsmodels(ones, n, level):
    ours = rate(np.arange(n) < ones, confidence=Confidence(level))
    assert proportion_confint(ones, n, 1 - level, "wilson") == bounds(ours)


def test_newcombes_example_and_statsmodels():
    """56 of 70 and 48 of 80 (Newcombe 1998, table II, a, method 10: 0.0524 to 0.3339)."""
    ours = rate_difference(np.arange(80) < 48, np.arange(70) < 56)
    assert (ours.low, ours.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    theirs = confint_proportions_2indep(9, 90, 3, 100, method="newcomb", compare="diff")
    assert theirs == bounds(rate_difference(np.arange(100) < 3, np.arange(90) < 9))
    # No errors in either arm: 0 of 10 and 0 of 20 (ibid., h).
    ours = rate_difference(np.zeros(20), np.zeros(10))
    assert (ours.low, ours.high) == pytest.approx((-0.1611, 0.2775), abs=5e-5)


def test_mcnemar_is_statsmodels():
    for one, other in [(0, 0), (1, 5), (12, 2), (30, 31)]:
        theirs = statsmodels_mcnemar([[10, one], [other, 7]], exact=True).pvalue
        assert mcnemar(one, other) == pytest.approx(theirs)
    pairs = np.array([(1, 0)] * 12 + [(0, 1)] * 2 + [(1, 1)] * 20 + [(0, 0)] * 16)
    ours = rate_difference(pairs[:, 0], pairs[:, 1], paired=True)
    assert ours.p_value == pytest.approx(mcnemar(12, 2))


@pytest.mark.parametrize(("q", "n"), [(0.5, 25), (0.95, 200), (0.99, 400), (0.1, 50)])
def test_quantiles_are_scipys_quantile_test(q, n):
    values = RANDOM.lognormal(0, 1, n)
    theirs = stats.quantile_test(values, p=q).confidence_interval(0.95)
    ours = quantile(values, q)
    assert (theirs.low, theirs.high) == bounds(ours)
    assert ours.value == np.quantile(values, q, method="inverted_cdf")


@pytest.mark.parametrize("method", ["bca", "percentile"])
def test_the_bootstrap_is_scipys(method):
    """Up to what resampling leaves to chance."""
    how = Resampling(20_000, seed=3)
    ours = bootstrap(
        lambda weights: (weights[0] @ B) / len(B) - (weights[1] @ A) / len(A),
        [len(B), len(A)],
        method="difference",
        n=100,
        interval=method,
        resampling=how,
    )
    theirs = stats.bootstrap(
        (B, A),
        lambda x, y, axis: x.mean(axis) - y.mean(axis),
        n_resamples=20_000,
        method=method,
        rng=np.random.default_rng(0),
    )
    assert ours.standard_error == pytest.approx(theirs.standard_error, rel=0.02)
    scale = 0.06 * theirs.standard_error
    assert tuple(theirs.confidence_interval) == pytest.approx((ours.low, ours.high), abs=scale)


def test_cuped_is_the_regression_with_arm_and_covariates():
    before_a, before_b = RANDOM.normal(0, 1, 300), RANDOM.normal(0, 1, 400)
    a = before_a + RANDOM.normal(0, 0.5, 300)
    b = 0.2 + before_b + RANDOM.normal(0, 0.5, 400)
    ours = cuped_difference(a, b, before_a, before_b)
    design = np.stack(
        [np.ones(700), np.arange(700) >= 300, np.concatenate([before_a, before_b])], axis=1
    )
    fit = sm.OLS(np.concatenate([a, b]), design.astype(float)).fit(cov_type="HC2")
    assert ours.estimate.value == pytest.approx(fit.params[1])
    assert ours.estimate.standard_error == pytest.approx(fit.bse[1], rel=0.02)
    assert ours.variance_removed == pytest.approx(0.8, abs=0.05)


def test_p_values_of_intervals_that_have_no_closed_one_agree_with_them():
    for seed in range(30):
        random = np.random.default_rng(seed)
        a, b = random.random(50) < 0.2, random.random(60) < 0.4
        ours = rate_difference(a, b)
        edge = optimize.brentq(
            lambda level, a=a, b=b: max(
                (found := rate_difference(a, b, confidence=Confidence(level))).low, -found.high
            ),
            1e-9,
            1 - 1e-12,
        )
        assert ours.p_value == pytest.approx(1 - edge, abs=1e-6)
