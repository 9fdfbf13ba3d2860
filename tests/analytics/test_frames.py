"""The standard frames, held against PostgreSQL's own answers."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from novellus_lab.analytics import frames
from novellus_lab.analytics.latency import latency
from novellus_lab.errors import InvalidRequestError
from tests.analytics.conftest import NOON, asked

_runs = iter(range(1_000_000))
_amounts = st.one_of(
    st.none(),
    st.decimals(0, 10, allow_nan=False, places=9),
    st.decimals(0, 10**13, allow_nan=False, allow_infinity=False, places=15),
    st.decimals(0, 10, allow_nan=False, allow_infinity=False, places=24),
    st.just(Decimal("0.000000000000000000000001")),
    st.just(Decimal(2 * 10**12)),
)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(_amounts, min_size=1, max_size=12))
def test_sums_agree_with_postgresql_to_the_last_digit(mirror, log, connection, amounts):
    run = f"run-{next(_runs)}"
    log(*({"cost_usd": a, "uncached_cost_usd": a, "experiment": run} for a in amounts))
    [total, unpriced] = connection.execute(
        "SELECT sum(cost_usd), count(*) FILTER (WHERE cost_usd IS NULL) FROM ai_requests "
        "WHERE experiment = %s",
        [run],
    ).fetchone()
    [row] = frames.costs(mirror, asked(experiment=run)).to_dicts()
    assert row["cost_usd"] == row["uncached_cost_usd"] == total
    assert (row["requests"], row["unpriced"]) == (len(amounts), unpriced)
    assert row["unpriced_share"] == unpriced / len(amounts)


def test_what_no_frame_can_hold_is_an_error_and_not_a_wrong_sum(mirror, log):
    log({"cost_usd": Decimal("1e30"), "model": "x"}, {"cost_usd": Decimal("1e-15"), "model": "y"})
    with pytest.raises(InvalidRequestError, match="digits"):
        frames.costs(mirror, asked())
    assert frames.costs(mirror, asked(model="y"))["cost_usd"].to_list() == [Decimal("1e-15")]


def test_costs_tell_unknown_from_nothing(mirror, log):
    log(
        {"model": "a", "cost_usd": Decimal("0.1"), "uncached_cost_usd": Decimal("0.1")},
        {"model": "a", "cost_usd": None, "uncached_cost_usd": None},
        {"model": "a", "cache": "redis", "uncached_cost_usd": Decimal("0.3")},
        {"model": "b", "cost_usd": None, "uncached_cost_usd": None},
        {"model": None, "status": "refused"},
    )
    a, b, none = frames.costs(mirror, asked("model")).to_dicts()
    assert (a["cost_usd"], a["saved_usd"], a["uncached_cost_usd"]) == tuple(
        map(Decimal, ("0.1", "0.3", "0.4"))
    )
    assert (a["requests"], a["unpriced"], a["unpriced_share"]) == (3, 1, 1 / 3)
    assert (b["cost_usd"], b["unpriced_share"]) == (None, 1)
    assert (none["model"], none["cost_usd"]) == (None, 0)


def test_an_empty_log_has_frames_of_the_same_columns(mirror, log):
    for frame in (frames.costs, frames.usage, frames.cache, frames.errors, frames.sessions):
        empty = frame(mirror, asked("model", None if frame is frames.sessions else "1d"))
        log({"session_id": "s", "cost_usd": Decimal(1), "status": "error"})
        full = frame(mirror, asked("model", None if frame is frames.sessions else "1d"))
        assert full.height >= 1
        assert empty.schema == full.schema
    assert latency(mirror, asked(model="none"), "latency_ms").height == 0


def test_groups_and_filters(mirror, log):
    log(
        {"tags": {"team": "search", "n": 5, "a/b~": True}, "session_id": "s1", "arm": "x"},
        {"tags": {"team": "ads"}, "session_id": "s1", "arm": "y", "strategy": "weighted"},
        {"tags": {"team": None}, "session_id": "s2", "status": "error"},
        {"tags": {}, "stream": True, "kind": "embedding"},
    )

    def count(**filters: Any) -> int:
        return frames.costs(mirror, asked(**filters))["requests"].sum()

    by_team = frames.costs(mirror, asked(["tag:team", "session"]))
    assert by_team.columns[:2] == ["tag:team", "session"]
    assert by_team.rows()[0][:3] == ("ads", "s1", 1)
    assert count(tag={"team": "search"}) == 1
    assert count(tag={"team": ["search", "ads"]}) == 2
    assert count(tag={"team": None}) == 2
    assert count(tag={"n": 5}) == count(tag={"a/b~": True}) == 1
    assert count(tag={"team": "search", "n": 6}) == 0
    assert count(tag={"team'; --": "x"}) == 0
    assert count(session="s1") == 2
    assert count(session="s1", arm="y") == count(strategy="weighted") == 1
    assert count(arm=["x", None]) == 3
    assert count(status="error") == count(stream=True) == count(kind="embedding") == 1
    assert count(until=NOON) == 0
    assert count(since=NOON, until=NOON + timedelta(seconds=1)) == 4


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"by": "cost_usd"}, "by="), ({"by": 5}, "by="), ({"every": "2 fortnights"}, "every"),
        ({"every": "7h"}, "divide"), ({"every": "0d"}, "divide"), ({"tz": "Mars"}, "tz"),
        ({"tz": "../../etc/passwd"}, "tz"), ({"modle": "m"}, "modle"), ({"model": {}}, "model"),
        ({"model": []}, "model"), ({"since": "soon"}, "since"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_named(mirror, wrong, named):
    with pytest.raises(InvalidRequestError, match=named):
        frames.costs(mirror, asked(**wrong))


def test_quantiles_are_postgresqls_and_sources_are_never_mixed(mirror, log, connection):
    provider = [{"latency_ms": float(n * n % 977), "model": f"m{n % 2}"} for n in range(400)]
    hits = [{"latency_ms": 0.5, "cache": cache} for cache in ("memory", "semantic")]
    log(*provider, *hits, {"latency_ms": 700.0, "cache": "coalesced"})
    log({"latency_ms": 9e9, "status": "error"}, {"latency_ms": None})
    frame = latency(mirror, asked(), "latency_ms")
    assert frame["source"].to_list() == ["cache", "coalesced", "provider"]
    assert frame["requests"].to_list() == [2, 1, 400]
    expected = connection.execute(
        "SELECT percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY latency_ms) "
        "FROM ai_requests WHERE cache = 'miss' AND status = 'ok'"
    ).fetchone()[0]
    row = frame.row(2, named=True)
    assert [row["p50_ms"], row["p95_ms"], row["p99_ms"]] == pytest.approx(expected, rel=1e-12)
    assert row["p50_low_ms"] < row["p50_ms"] < row["p50_high_ms"]
    assert row["p99_high_ms"] is not None
    assert frame.row(0, named=True)["p99_high_ms"] is None
    by_model = latency(mirror, asked("model", "1d"), "latency_ms")
    assert by_model.columns[:3] == ["time", "model", "source"]
    assert by_model.filter(pl.col("source") == "provider")["requests"].to_list() == [200, 200]
    with pytest.raises(InvalidRequestError, match="of must be"):
        latency(mirror, asked(), "cost_usd")


def test_the_way_through_the_cache(mirror, log):
    outcomes = ["memory", "redis", "postgres", "semantic", "coalesced", "miss", "miss", "off"]
    hit = {"original_latency_ms": 101.0, "uncached_cost_usd": Decimal("0.2")}
    log(*({"cache": o, **(hit if o in outcomes[:3] else {})} for o in outcomes))
    log({"cache": "redis", "uncached_cost_usd": None})
    [row] = frames.cache(mirror, asked()).to_dicts()
    assert [row[o] for o in dict.fromkeys(outcomes)] == [1, 2, 1, 1, 1, 2, 1]
    assert (row["requests"], row["looked"], row["hits"]) == (9, 8, 5)
    assert row["hit_rate"] == 5 / 8
    assert row["hit_rate_low"] < 5 / 8 < row["hit_rate_high"]
    assert (row["saved_usd"], row["saved_ms"], row["unpriced_hits"]) == (Decimal("0.6"), 300, 1)


def test_failures_are_shares_of_all_requests(mirror, log):
    log(
        *[{"model": "a"}] * 6,
        {"model": "a", "status": "error", "error_class": "RateLimitError"},
        {"model": "a", "status": "error", "error_class": "RateLimitError"},
        {"model": "a", "status": "cancelled"},
        {"model": "b", "status": "refused", "error_class": "InvalidRequestError"},
    )
    a, b = frames.errors(mirror, asked("model")).to_dicts()
    assert (a["requests"], a["failed"], a["errors"], a["cancelled"]) == (9, 3, 2, 1)
    assert (a["failure_rate"], b["failure_rate"], b["refused"]) == (3 / 9, 1, 1)
    by_class = frames.errors(mirror, asked(["model", "error_class"])).to_dicts()
    assert [(r["model"], r["error_class"], r["failed"], r["requests"]) for r in by_class] == [
        ("a", "RateLimitError", 2, 9),
        ("a", None, 1, 9),
        ("b", "InvalidRequestError", 1, 1),
    ]
    [total] = frames.errors(mirror, asked(error_class="RateLimitError")).to_dicts()
    assert (total["requests"], total["failed"]) == (2, 2)


def test_sessions(mirror, log):
    later = NOON + timedelta(seconds=60)
    log(
        {"session_id": "s", "cost_usd": Decimal("0.25"), "input_tokens": 5, "output_tokens": 7},
        {"session_id": "s", "created_at": later, "latency_ms": 2_000.0, "model": "n",
         "input_tokens": 50, "output_tokens": 70, "cache": "redis"},
        {"session_id": "t", "cost_usd": None, "status": "error"},
        {"session_id": "u", "cost_usd": Decimal("0.5")},
        {"session_id": None},
    )  # fmt: skip
    frame = frames.sessions(mirror, asked(tz="Asia/Tokyo"))
    assert frame["session_id"].to_list() == ["u", "s", "t"]
    s = frame.row(1, named=True)
    assert (s["turns"], s["models"], s["hits"], s["failed"]) == (2, 2, 1, 0)
    assert (s["input_tokens"], s["output_tokens"], s["cost_usd"]) == (5, 7, Decimal("0.25"))
    assert (s["duration_s"], s["first"], s["last"]) == (62.0, NOON, later)
    assert frame["unpriced_share"].to_list() == [0, 0, 1]


@pytest.mark.parametrize("different", [3, 63, 64, 70])
def test_models_of_a_session_are_counted_each_once(mirror, log, different):
    names = [f"it's model {n}" for n in range(different)]
    log(*({"session_id": "all", "model": name} for name in names * 2))
    log(
        {"session_id": "none", "model": None},
        {"session_id": "two", "model": names[0]}, {"session_id": "two", "model": names[-1]},
        {"session_id": "two", "model": None},
    )  # fmt: skip
    frame = frames.sessions(mirror, asked())
    counted = dict(zip(frame["session_id"], frame["models"], strict=True))
    assert counted == {"all": different, "none": 0, "two": 2}
    assert frame.schema["models"] == frames.sessions(mirror, asked(session="x")).schema["models"]


def test_usage_is_what_providers_were_paid_for(mirror, log):
    log(
        {"input_tokens": 10, "output_tokens": 4, "cached_input_tokens": 2, "attempts": 3},
        {"input_tokens": 100, "output_tokens": 40, "cache": "memory", "attempts": 0},
        {"input_tokens": 7, "output_tokens": 1, "usage_estimated": True},
        {"input_tokens": None},
    )
    [row] = frames.usage(mirror, asked()).to_dicts()
    assert (row["input_tokens"], row["output_tokens"], row["cached_input_tokens"]) == (17, 5, 2)
    assert (row["saved_input_tokens"], row["saved_output_tokens"]) == (100, 40)
    assert (row["requests"], row["calls"], row["estimated"], row["unknown"]) == (4, 5, 1, 1)


def test_pandas_takes_them(mirror, log):
    pytest.importorskip("pandas")
    log({"cost_usd": Decimal("0.1")}, {"cost_usd": None, "model": None})
    frame = frames.costs(mirror, asked("model", "1h", "Europe/Berlin")).to_pandas()
    assert str(frame["time"].dt.tz) == "Europe/Berlin"
    assert frame["cost_usd"][0] == Decimal("0.1")
    assert frame["requests"].sum() == 2
