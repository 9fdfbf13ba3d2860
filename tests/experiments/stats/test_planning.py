"""Plans: agreement with statsmodels, power as promised by simulation, money."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import NormalIndPower

from novellus_lab.errors import InvalidRequestError
from novellus_lab.experiments.stats.confidence import Confidence
from novellus_lab.experiments.stats.means import difference
from novellus_lab.experiments.stats.planning import (
    Design,
    detectable_effect,
    plan_equivalence,
    plan_mean,
    plan_rates,
    power_of_mean,
)
from novellus_lab.experiments.stats.proportions import rate_difference

ARMS = Design(paired=False)


def powered(found, runs, power):
    """Within what chance makes of the promised power, and at most 5 points above it."""
    return (
        stats.binom.cdf(found, runs, power - 0.01) > 1e-3
        and stats.binom.sf(found - 1, runs, power + 0.05) > 1e-3
    )


@pytest.mark.parametrize("ratio", [1.0, 2.0])
@pytest.mark.parametrize(("level", "power"), [(0.95, 0.8), (0.99, 0.9)])
def test_statsmodels_plans_the_same(ratio, level, power):
    theirs = NormalIndPower().solve_power(0.25, alpha=1 - level, power=power, ratio=ratio)
    ours = plan_mean(0.5, 2.0, design=Design(level, power, paired=False, ratio=ratio))
    assert ours.control_calls == math.ceil(theirs)
    assert ours.treatment_calls == math.ceil(ours.control_calls * ratio)


def test_a_textbook_plan():
    """Cohen's d of 0.5 at 80% power: 63 in each arm by the normal approximation, 32 pairs."""
    assert plan_mean(0.5, 1.0, design=ARMS).control_calls == 63
    assert plan_mean(0.5, 1.0, design=Design(correlation=0.5)).calls == 2 * 32


@pytest.mark.parametrize("paired", [True, False])
def test_power_of_means_as_planned(paired):
    """Lognormal costs 25% apart."""
    sd = math.sqrt((math.exp(0.25) - 1) * math.exp(0.25))
    mean = math.exp(0.125)
    design = Design(paired=paired, correlation=0.5 if paired else 0.0)
    plan = plan_mean(0.25 * mean, sd, treatment_sd=1.25 * sd, design=design)
    random = np.random.default_rng(0)
    # Of normals with this correlation, lognormals correlate by 0.5.
    rho = math.log(1 + 0.5 * (math.exp(0.25) - 1)) / 0.25 if paired else 0.0
    found = 0
    for _ in range(800):
        n = plan.control_calls
        z = random.normal(0, 1, (2, n))
        a = np.exp(0.5 * z[0])
        b = 1.25 * np.exp(0.5 * (rho * z[0] + math.sqrt(1 - rho**2) * z[1]))
        found += difference(a, b, paired=paired).excludes(0)
    assert powered(found, 800, 0.8), found


@pytest.mark.parametrize("paired", [True, False])
def test_power_of_rates_as_planned(paired):
    design = Design(paired=paired, correlation=0.4 if paired else 0.0)
    plan = plan_rates(0.7, 0.8, design=design)
    both = 0.7 * 0.8 + design.correlation * math.sqrt(0.21 * 0.16)
    table = [both, 0.7 - both, 0.8 - both, 1 - 0.7 - 0.8 + both]
    random = np.random.default_rng(1)
    found = 0
    for _ in range(500):
        cell = random.choice(4, plan.control_calls, p=table)
        found += rate_difference(cell <= 1, (cell == 0) | (cell == 2), paired=paired).excludes(0)
    assert powered(found, 500, 0.8), found


def test_power_with_sessions_as_planned():
    design = Design(paired=False, calls_per_session=5, within_session=0.3)
    plan = plan_mean(0.5, 1.0, design=design)
    count = plan.control_calls // 5
    random = np.random.default_rng(2)
    codes = np.repeat(np.arange(count), 5)
    found = 0
    for _ in range(500):
        a, b = (
            math.sqrt(0.3) * random.normal(0, 1, count)[codes]
            + math.sqrt(0.7) * random.normal(0, 1, 5 * count)
            for _ in range(2)
        )
        found += difference(a, b + 0.5, clusters=(codes, codes + 1000)).excludes(0)
    assert powered(found, 500, 0.8), found


def test_power_with_peeking_is_at_least_as_planned_and_most_runs_stop_early():
    plan = plan_mean(0.5, 1.0, design=Design(peeking=True))
    once = plan_mean(0.5, 1.0, design=Design())
    assert plan.calls == pytest.approx(plan.design.peeking_factor * once.calls, rel=0.05)
    assert 1.7 < plan.design.peeking_factor < 2.2
    confidence = Confidence(peeking=plan.peeking)
    random = np.random.default_rng(3)
    ends = []
    for _ in range(200):
        a, b = random.normal(0, 1, (2, plan.control_calls))
        for n in range(50, plan.control_calls + 1, 10):
            if difference(a[:n], b[:n] + 0.5, paired=True, confidence=confidence).excludes(0):
                ends.append(n)
                break
    assert stats.binom.cdf(len(ends), 200, 0.8) > 1e-3
    assert np.median(ends) < 0.8 * plan.control_calls


def test_equivalence_as_planned():
    design = Design(paired=False, power=0.8)
    plan = plan_equivalence(0.5, 1.0, design=design)
    random = np.random.default_rng(4)
    shown = 0
    for _ in range(500):
        a, b = random.normal(0, 1, (2, plan.control_calls))
        found = difference(a, b)
        shown += found.low > -0.5 and found.high < 0.5
    assert powered(shown, 500, 0.8), shown
    assert plan_equivalence(0.5, 1.0, one_sided=True, design=design).calls < plan.calls


def test_what_is_detectable_is_what_is_planned():
    for design in (ARMS, Design(correlation=0.3), Design(peeking=True)):
        plan = plan_mean(0.1, 1.0, treatment_sd=1.5, design=design)
        effect = detectable_effect(plan.control_calls, 1.0, treatment_sd=1.5, design=design)
        assert effect == pytest.approx(0.1, rel=0.005)
        power = power_of_mean(effect, plan.control_calls, 1.0, treatment_sd=1.5, design=design)
        assert power == pytest.approx(0.8, abs=0.005)


def test_money():
    plan = plan_mean(
        0.5,
        1.0,
        design=ARMS,
        control_cost_usd=Decimal("0.01"),
        treatment_cost_usd=Decimal("0.0001"),
    )
    assert plan.cost_usd == 63 * Decimal("0.0101")
    assert plan_mean(0.5, 1.0, control_cost_usd=Decimal(1)).cost_usd is None


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: plan_mean(0, 1),
        lambda: plan_mean(1, 0),
        lambda: plan_mean(1, math.nan),
        lambda: plan_rates(0.5, 0.5),
        lambda: plan_rates(0.5, 1.5),
        lambda: plan_rates(0.1, 0.9, design=Design(correlation=0.9)),
        lambda: detectable_effect(1, 1),
        lambda: Design(power=1),
        lambda: Design(correlation=1),
        lambda: Design(ratio=2),
        lambda: Design(paired=False, ratio=0),
        lambda: Design(calls_per_session=0.5),
    ],
)
def test_bad_plans(wrong):
    with pytest.raises(InvalidRequestError):
        wrong()
