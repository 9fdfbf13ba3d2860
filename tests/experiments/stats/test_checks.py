"""Checks of a run: how often they alarm where nothing is wrong, and that they do where it is."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from novellus_lab.errors import InvalidRequestError
from novellus_lab.experiments.stats.checks import arms_in_time, effect_trend, sample_ratio


def at_most(hits, runs, share):
    return stats.binom.sf(hits - 1, runs, share) > 1e-3


def at_least(hits, runs, share):
    return stats.binom.cdf(hits, runs, share) > 1e-3


class TestSampleRatio:
    def test_it_is_scipys_chi_square(self):
        found = sample_ratio({"a": 480, "b": 530, "c": 1_020}, {"a": 1, "b": 1, "c": 2})
        theirs = stats.chisquare([480, 530, 1_020], [507.5, 507.5, 1_015])
        assert found.p_value == pytest.approx(theirs.pvalue)

    def test_a_published_mismatch(self):
        """821,588 and 815,482 users at 50/50 (Kohavi, Tang & Xu 2020, chapter 3): p = 1.8e-6."""
        found = sample_ratio({"control": 821_588, "treatment": 815_482})
        assert found.alarm
        assert found.p_value == pytest.approx(1.8e-6, rel=0.02)
        assert "control 821588 (expected 818535)" in found.sentence

    @pytest.mark.parametrize("alarm", [0.05, 0.001])
    def test_alarm_rate(self, alarm):
        """At one look the rate that was asked for."""
        drawn = np.random.default_rng(0).binomial(2_000, 0.3, 4_000)
        alarms = sum(
            sample_ratio(
                {"a": int(n), "b": 2_000 - int(n)}, {"a": 0.3, "b": 0.7}, alarm=alarm
            ).alarm
            for n in drawn
        )
        assert at_most(alarms, 4_000, alarm * 1.05)
        assert at_least(alarms, 4_000, alarm * 0.9)

    def test_alarm_rate_of_continuous_looks(self):
        """100 looks at 200 runs; the single-look check beside it."""
        random = np.random.default_rng(1)
        alarms = {True: 0, False: 0}
        for _ in range(200):
            counts = np.cumsum(random.binomial(20, 0.5, 100))
            for always_valid in alarms:
                alarms[always_valid] += any(
                    sample_ratio(
                        {"a": int(n), "b": 20 * look - int(n)},
                        always_valid=always_valid,
                        alarm=0.05,
                    ).alarm
                    for look, n in enumerate(counts, 1)
                )
        assert at_most(alarms[True], 200, 0.05)
        assert alarms[False] > 0.25 * 200

    def test_it_finds_lost_units(self):
        """One in ten of an arm's units is lost."""
        found = sample_ratio({"a": 5_000, "b": 4_500}, always_valid=True)
        assert found.alarm
        assert "don't believe" in found.sentence

    def test_too_few(self):
        found = sample_ratio({"a": 3, "b": 0})
        assert (found.alarm, found.p_value) == (False, None)
        assert "Too few" in found.sentence
        assert not sample_ratio({"a": 0, "b": 0}, always_valid=True).alarm

    @pytest.mark.parametrize(
        ("counts", "shares"),
        [
            ({"a": 1}, None),
            ({"a": 1, "b": 2}, {"a": 1}),
            ({"a": 1, "b": 2}, {"a": 1, "b": 0}),
            ({"a": -1, "b": 2}, None),
            ({"a": 1.5, "b": 2}, None),
        ],
    )
    def test_bad_input(self, counts, shares):
        with pytest.raises(InvalidRequestError):
            sample_ratio(counts, shares)


class TestTrend:
    @pytest.mark.parametrize("paired", [True, False])
    @pytest.mark.parametrize("clustered", [True, False])
    def test_alarm_rate_without_a_trend(self, paired, clustered):
        random = np.random.default_rng(2)
        alarms = 0
        for _ in range(300):
            codes = np.repeat(np.arange(40), 3)
            times = np.sort(random.random(40))[codes] if clustered else random.random(120)
            a, b = (
                random.lognormal(0, 0.5, 120)
                + (random.normal(0, 0.7, 40)[codes] if clustered else 0)
                for _ in range(2)
            )
            labels = (codes if paired else (codes, codes + 100)) if clustered else None
            found = effect_trend(
                a, b, times, None if paired else times, paired=paired, clusters=labels, alarm=0.05
            )
            alarms += found.check.alarm
        assert at_most(alarms, 300, 0.07)
        assert at_least(alarms, 300, 0.03)

    @pytest.mark.parametrize("paired", [True, False])
    def test_an_effect_that_wears_off(self, paired):
        random = np.random.default_rng(6)
        times = np.linspace(0, 14, 400)
        a = random.lognormal(0, 0.3, 400)
        b = a + 0.1 * random.normal(0, 1, 400) + 1 - times / 14
        found = effect_trend(a, b, times, None if paired else times, paired=paired)
        assert found.check.alarm
        assert found.slope.value == pytest.approx(-1 / 14, rel=0.3)
        assert not found.slope.excludes(-1 / 14)
        assert found.earlier.value > 0.6 > 0.4 > found.later.value
        assert "changes over time" in found.check.sentence

    def test_it_is_statsmodels_regression_with_hc3(self):
        import statsmodels.api as sm

        random = np.random.default_rng(4)
        times = random.random(60)
        a, b = random.normal(0, 1, 60), random.normal(0, 1, 60) * (0.5 + times)
        fit = sm.OLS(b - a, sm.add_constant(times)).fit(cov_type="HC3")
        found = effect_trend(a, b, times, paired=True).slope
        assert found.value == pytest.approx(fit.params[1])
        assert found.standard_error == pytest.approx(fit.bse[1] * np.sqrt(60 / 59))

    def test_what_it_can_not_tell(self):
        found = effect_trend([1.0, 2, 3], [2.0, 3, 5], [1.0, 1, 1], paired=True)
        assert not found.check.alarm
        assert "Too little" in found.check.sentence
        exact = effect_trend([0.0] * 9, np.arange(9.0), np.arange(9.0), paired=True)
        assert not exact.slope.bounded
        with pytest.raises(InvalidRequestError, match="treatment_times"):
            effect_trend([1.0, 2], [1.0, 2], [1.0, 2])


class TestArmsInTime:
    def test_alarm_rate_of_interleaved_arms(self):
        random = np.random.default_rng(5)
        alarms = sum(
            arms_in_time(random.random(200), random.random(300), alarm=0.05).alarm
            for _ in range(500)
        )
        assert at_most(alarms, 500, 0.06)
        assert at_least(alarms, 500, 0.035)

    def test_one_arm_after_the_other(self):
        found = arms_in_time(np.arange(100.0), 40 + np.arange(100.0))
        assert found.alarm
        assert "+40" in found.sentence

    def test_what_it_can_not_tell(self):
        assert arms_in_time([1.0, 2], [3.0, 4]).p_value is None
        assert arms_in_time([1.0] * 50, [1.0] * 50).p_value is None
