"""Intervals hold what they promise: counted over many samples."""

from __future__ import annotations

import numpy as np
import pytest

from novellus_lab.analytics.intervals import quantile_ranks, share_bounds


@pytest.mark.parametrize(("n", "q"), [(20, 0.5), (150, 0.95), (400, 0.99), (1000, 0.5)])
def test_order_statistics_hold_the_quantile_in_95_of_100_samples(n, q):
    low, high = quantile_ranks(n, q)
    samples = np.sort(np.random.default_rng(1).random((20_000, n)), axis=1)
    below = samples[:, low - 1] <= q if low else np.ones(20_000, bool)
    above = q < samples[:, high - 1] if high else np.ones(20_000, bool)
    assert 0.945 <= np.mean(below & above) <= 0.985
    assert max(np.mean(~below), np.mean(~above)) <= 0.028


def test_ranks_agree_with_the_binomial_distribution():
    stats = pytest.importorskip("scipy.stats")
    for n in (1, 2, 5, 37, 368, 369, 5_000, 10_000_000):
        for q in (0.5, 0.95, 0.99):
            low, high = quantile_ranks(n, q)
            cdf = stats.binom(n, q).cdf
            assert low is None or cdf(low - 1) <= 0.025 * (1 + 1e-9)
            assert cdf(low or 0) > 0.025 * (1 - 1e-9)
            assert high is None or cdf(high - 1) >= 0.975 * (1 - 1e-9)
            assert cdf((high or n + 1) - 2) < 0.975 * (1 + 1e-9)


def test_shares_of_nothing_are_unknown_and_of_few_wide():
    assert share_bounds(0, 0) == (None, None)
    low, high = share_bounds(0, 10)
    assert low == 0
    assert 0.25 < high < 0.31
    assert share_bounds(10, 10)[1] == 1
