"""Which requests would have been hits, by walking through the log by hand."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from novellus_lab.analytics.cache_replay import replay_cache
from novellus_lab.analytics.intervals import traffic_bounds
from novellus_lab.errors import InvalidRequestError
from tests.analytics.conftest import NOON, asked

_runs = iter(range(1_000_000))


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 100)), min_size=1, max_size=12),
    st.integers(0, 40),
)
def test_a_log_of_misses_is_replayed_as_a_cache_would_have_served_it(mirror, log, asks, ttl):
    run = next(_runs)
    asks = sorted({(at, key) for key, at in asks})
    log(
        *(
            {
                "created_at": NOON + timedelta(minutes=at), "experiment": f"run-{run}",
                "cache_key": b"%d/%d" % (run, key), "cost_usd": Decimal("0.1"),
            }
            for at, key in asks
        )
    )  # fmt: skip
    hits, kept = 0, {}
    for at, key in asks:
        if key in kept and at - kept[key] < ttl:
            hits += 1
        else:
            kept[key] = at
    [row] = replay_cache(mirror, asked(experiment=f"run-{run}"), timedelta(minutes=ttl)).to_dicts()
    assert (row["hits"], row["would_hits"], row["not_known"]) == (0, hits, 0)
    assert row["would_usd"] == (len(asks) - hits) * Decimal("0.1")
    assert row["difference_usd"] == -hits * Decimal("0.1")


def test_a_shorter_life_makes_misses_of_hits_at_the_price_of_their_answer(mirror, log):
    hit = {"cache": "redis", "cache_key": b"k", "uncached_cost_usd": Decimal("0.3")}
    log(
        {"cache_key": b"k", "cost_usd": Decimal("0.3")},
        {**hit, "created_at": NOON + timedelta(minutes=5)},
        {**hit, "created_at": NOON + timedelta(minutes=50)},
        {**hit, "created_at": NOON + timedelta(minutes=55)},
        {**hit, "cache_key": b"older"}, {**hit, "cache_key": b"older"},
        {"cache": "semantic", "cache_key": b"k"},
    )  # fmt: skip
    [row] = replay_cache(mirror, asked(), "30m").to_dicts()
    assert (row["hits"], row["would_hits"], row["not_known"]) == (6, 5, 2)
    assert (row["cost_usd"], row["would_usd"]) == (Decimal("0.3"), Decimal("0.6"))
    with pytest.raises(InvalidRequestError, match="cache_ttl"):
        replay_cache(mirror, asked(), "for ever")


def test_the_interval_of_what_another_life_saves_takes_equal_questions_together(mirror, log):
    each = {"cost_usd": Decimal("0.5"), "cache_key": b"often"}
    log(
        *({**each, "created_at": NOON + timedelta(minutes=m)} for m in range(5)),
        {**each, "cache_key": b"twice"}, {**each, "cache_key": b"twice", "model": "n"},
        {**each, "cache_key": None},
    )  # fmt: skip
    [row] = replay_cache(mirror, asked(), "1h").to_dicts()
    assert row["difference_usd"] == Decimal("-2.5")
    low, high = traffic_bounds(-2.5, 2.0**2 + 0.5**2, -(2.0**3) - 0.5**3)
    assert (row["difference_low_usd"], row["difference_high_usd"]) == (low, high)
    m, n = replay_cache(mirror, asked("model", every="1h"), "1h").to_dicts()
    assert (m["difference_low_usd"], n["difference_low_usd"]) == (
        traffic_bounds(-2.0, 4.0, -8.0)[0], traffic_bounds(-0.5, 0.25, -0.125)[0],
    )  # fmt: skip
    [nothing] = replay_cache(mirror, asked(since=NOON + timedelta(days=1)), "1h").to_dicts()
    assert (nothing["difference_usd"], nothing["difference_low_usd"]) == (None, None)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("often", "skewed"), [(15, 0.5), (80, 1), (300, 1.5)])
def test_other_traffic_of_the_kind_is_within_the_interval(often, skewed, sign):
    random = np.random.default_rng(7)
    held, runs, truth = 0, 2_000, sign * often * np.exp(skewed**2 / 2)
    for _ in range(runs):
        parts = sign * random.lognormal(0, skewed, random.poisson(often))
        low, high = traffic_bounds(parts.sum(), (parts**2).sum(), (parts**3).sum())
        held += low <= truth <= high
    assert 0.92 <= held / runs <= 0.98
