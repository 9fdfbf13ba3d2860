"""Verdicts: what is said of which interval, how often it is wrong, and when a run stops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from novellus_lab.errors import InvalidRequestError
from novellus_lab.experiments.stats.confidence import Confidence
from novellus_lab.experiments.stats.estimate import Estimate
from novellus_lab.experiments.stats.means import difference, relative_difference
from novellus_lab.experiments.stats.multiple import (
    benjamini_hochberg,
    holm,
    selected_level,
    simultaneous_level,
)
from novellus_lab.experiments.stats.verdict import Metric, judge, should_stop

COST = Metric("cost", lower_is_better=True, unit="USD", margin=0.1)
RIGHT = Metric("right answers", lower_is_better=False, unit="points", margin=0.02)
PERCENT = Metric("cost", lower_is_better=True, unit="%")


def interval(low, high, value=None, *, always_valid=False, notes=()):
    middle = (low + high) / 2 if math.isfinite(low + high) else 0.0
    return Estimate(
        middle if value is None else value,
        low,
        high,
        0.95,
        "",
        100,
        100,
        always_valid=always_valid,
        notes=notes,
    )


@pytest.mark.parametrize(
    ("low", "high", "outcome", "acceptable"),
    [
        (-0.5, -0.2, "better", True),
        (-0.5, -0.05, "better", True),
        (-0.08, -0.02, "equivalent", True),
        (-0.05, 0.05, "equivalent", True),
        (0.01, 0.09, "equivalent", True),
        (-0.5, 0.05, "not worse", True),
        (0.05, 0.2, "worse", False),
        (0.2, 0.5, "worse", False),
        (-0.5, 0.5, "can't tell", False),
        (-0.05, 0.5, "can't tell", False),
        (-math.inf, math.inf, "can't tell", False),
        (-math.inf, -0.2, "better", True),
    ],
)
def test_what_is_said_of_an_interval(low, high, outcome, acceptable):
    found = judge(interval(low, high), COST)
    assert (found.outcome, found.acceptable) == (outcome, acceptable)
    # Of a metric of which more is better, mirrored.
    mirrored = Metric("quality", lower_is_better=False, margin=0.1)
    assert judge(interval(-high, -low), mirrored).outcome == outcome


def test_without_a_margin_nothing_is_equivalent():
    plain = Metric("cost", lower_is_better=True)
    outcomes = [judge(interval(*ends), plain).outcome for ends in ((-2, -1), (-1, 1), (1, 2))]
    assert outcomes == ["better", "can't tell", "worse"]


@pytest.mark.parametrize(
    ("estimate", "metric", "sentence"),
    [
        (
            interval(-0.31, -0.12, -0.214),
            PERCENT,
            "cheap is better than dear in cost: -21.4% (95%: -31% to -12%).",
        ),
        (
            interval(0.0000123, 0.00002, 0.0000162, always_valid=True),
            Metric("cost", lower_is_better=True, unit="USD"),
            "cheap is worse than dear in cost: +0.0000162 USD (95% at every look: +0.0000123 USD to "
            "+0.00002 USD).",
        ),
        (
            interval(-0.013, 0.011, -0.001),
            RIGHT,
            "cheap and dear are equivalent in right answers, within 2 points: -0.1 points (95%: -1.3 "
            "points to +1.1 points).",
        ),
        (
            interval(0.001, 0.019, 0.01),
            RIGHT,
            "cheap and dear are equivalent in right answers, within 2 points; they differ, by less "
            "than matters: +1 points (95%: +0.1 points to +1.9 points).",
        ),
        (
            interval(-0.01, 0.2, 0.1),
            RIGHT,
            "cheap is not worse than dear in right answers by 2 points or more: +10 points (95%: -1 "
            "points to +20 points).",
        ),
        (
            interval(-math.inf, math.inf, 1234.5, notes=("a single observation",)),
            Metric("latency", lower_is_better=True, unit="ms"),
            "Can't tell whether cheap or dear is better in latency: +1,230 ms (no interval; a single "
            "observation).",
        ),
        (
            interval(12.0, math.inf, 50.0),
            Metric("p99", lower_is_better=True, unit="ms"),
            "cheap is worse than dear in p99: +50 ms (95%: at least +12 ms).",
        ),
    ],
)
def test_the_sentence(estimate, metric, sentence):
    assert judge(estimate, metric, control="dear", treatment="cheap").sentence == sentence


def test_false_verdicts_are_as_seldom_as_the_level_says():
    """A/A on lognormal costs: "better" and "worse" together at most 5%; as often each way."""
    random = np.random.default_rng(0)
    said = [
        judge(relative_difference(*random.lognormal(0, 1, (2, 100))), PERCENT).outcome
        for _ in range(2_000)
    ]
    better, worse = said.count("better"), said.count("worse")
    assert stats.binom.sf(better + worse - 1, 2_000, 0.05) > 1e-3
    assert stats.binom.sf(max(better, worse) - 1, 2_000, 0.025) > 1e-3


def test_false_equivalence_and_false_non_inferiority():
    """Worse by exactly the margin: either claim is wrong, and made at most in 2.5% of runs."""
    random = np.random.default_rng(1)
    metric = Metric("latency", lower_is_better=True, margin=0.5)
    wrong = 0
    for _ in range(2_000):
        a, b = random.normal(0, 1, (2, 60))
        wrong += judge(difference(a, b + 0.5), metric).acceptable
    assert stats.binom.sf(wrong - 1, 2_000, 0.025) > 1e-3
    assert wrong > 20


def test_stopping_by_the_interval_that_is_shown_keeps_its_level():
    """A/A, a look every 20 pairs, stopped at the first verdict: wrong in at most 5% of runs."""
    random = np.random.default_rng(2)
    metric = Metric("cost", lower_is_better=True)
    confidence = Confidence(peeking=400)
    stopped = 0
    for _ in range(200):
        a, b = random.lognormal(0, 1, (2, 600))
        for n in range(60, 601, 20):
            shown = judge(difference(a[:n], b[:n], paired=True, confidence=confidence), metric)
            if should_stop([shown]):
                stopped += 1
                break
    assert stats.binom.sf(stopped - 1, 200, 0.05) > 1e-3


def sequential(low, high, metric=COST):
    return judge(interval(low, high, always_valid=True), metric)


def test_when_a_run_stops():
    better, worse, equal = sequential(-2, -1), sequential(1, 2), sequential(-0.05, 0.05)
    not_worse, unknown = sequential(-1, 0.05), sequential(-1, 1)
    assert should_stop([better, worse, equal])
    assert not should_stop([better, unknown])
    assert not should_stop([])
    assert should_stop([better, better], "better")
    assert should_stop([better, worse], "better"), "one metric is lost for good"
    assert not should_stop([better, not_worse], "better")
    assert should_stop([better, not_worse, equal], "not worse")
    assert not should_stop([better, unknown], "not worse")
    assert should_stop([unknown, worse], "not worse")
    assert should_stop([equal], "equivalent")
    assert should_stop([better], "equivalent"), "it can't be equivalent any more"
    assert not should_stop([not_worse], "equivalent")


def test_an_interval_for_one_look_stops_nothing():
    with pytest.raises(InvalidRequestError, match="peeking"):
        should_stop([judge(interval(-2, -1), COST)])


def test_a_margin_has_a_size():
    for margin in (0, -1, math.nan, math.inf):
        with pytest.raises(InvalidRequestError, match="margin"):
            Metric("cost", lower_is_better=True, margin=margin)


class TestMany:
    P = (0.01, 0.04, 0.03, 0.005, 0.5, 0.03)

    def test_they_are_statsmodels(self):
        assert holm(self.P) == pytest.approx(multipletests(self.P, method="holm")[1])
        assert benjamini_hochberg(self.P) == pytest.approx(
            multipletests(self.P, method="fdr_bh")[1]
        )

    def test_family_wise_error_and_false_discoveries(self):
        random = np.random.default_rng(0)
        z = random.normal(0, 1, (4_000, 8))
        z[:, :3] += 3.5
        p = 2 * stats.norm.sf(np.abs(z))
        by_holm = np.array([holm(row) for row in p[:1_500]]) <= 0.05
        assert stats.binom.sf(int(by_holm[:, 3:].any(axis=1).sum()) - 1, 1_500, 0.05) > 1e-3
        by_bh = np.array([benjamini_hochberg(row) for row in p]) <= 0.05
        false = by_bh[:, 3:].sum(axis=1) / np.maximum(by_bh.sum(axis=1), 1)
        assert false.mean() < 0.05
        assert by_bh[:, :3].mean() > by_holm[:, :3].mean() > 0.6

    def test_simultaneous_intervals_hold_together(self):
        random = np.random.default_rng(1)
        confidence = Confidence(simultaneous_level(0.95, 5))
        together = 0
        for _ in range(400):
            control = random.normal(0, 1, 50)
            together += all(
                not difference(control, random.normal(0, 1, 50), confidence=confidence).excludes(0)
                for _ in range(5)
            )
        assert stats.binom.cdf(together, 400, 0.95) > 1e-3

    def test_levels(self):
        assert simultaneous_level(0.95, 1) == pytest.approx(0.95)
        assert simultaneous_level(0.95, 10) == pytest.approx(0.995)
        assert simultaneous_level(0.95, 10, "sidak") == pytest.approx(0.95**0.1)
        assert selected_level(0.95, 2, 10) == pytest.approx(0.99)
        for wrong in (
            lambda: simultaneous_level(0.95, 0),
            lambda: simultaneous_level(1.0, 2),
            lambda: selected_level(0.95, 0, 5),
            lambda: holm([0.5, 1.5]),
            lambda: holm([]),
        ):
            with pytest.raises(InvalidRequestError):
                wrong()
