"""Which requests would have been hits, by walking through the log by hand."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from novellus_lab.analytics.cache_replay import replay_cache
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
