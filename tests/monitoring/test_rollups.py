"""Rollups say what the log says, whenever and in whatever order its rows come."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from statistics import fmean
from typing import Any

import psycopg
import pytest

from novellus_lab.monitoring import metrics as metrics_module
from novellus_lab.monitoring.metrics import read_metrics, read_totals
from novellus_lab.monitoring.period import Period, period
from novellus_lab.monitoring.rollups import catch_up, connected, rebuild
from novellus_lab.store.request_log import RequestLog
from novellus_lab.types import CacheOutcome, Price, Status, Usage
from tests.store.sample_records import attempt, record

NOON = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


@pytest.fixture
def log(database, tmp_path):
    log = RequestLog(database.conninfo, tmp_path / "spool", linger_s=0)
    yield log
    log.close()


def answer(at: datetime, model: str = "gpt-4o", ms: float = 100.0, **fields: Any) -> Any:
    """A request that a model answered with one call."""
    given = {
        "created_at": at,
        "model": model,
        "provider": "openai",
        "cache": CacheOutcome.MISS,
        "latency_ms": ms + 2,
        "provider_ms": ms,
        "overhead_ms": 2.0,
        "usage": Usage(input_tokens=10, output_tokens=20),
        "cost_usd": Decimal("0.01"),
        "uncached_cost_usd": Decimal("0.01"),
        "attempts": (attempt(started_at=at, model_id=model, latency_ms=ms),),
        **fields,
    }
    return record(**given)


def hit(at: datetime, model: str = "gpt-4o", **fields: Any) -> Any:
    return answer(
        at,
        model,
        **{
            "cache": CacheOutcome.MEMORY,
            "latency_ms": 0.05,
            "overhead_ms": 0.05,
            "provider_ms": None,
            "cost_usd": Decimal(0),
            "attempts": (),
            **fields,
        },
    )


def failure(at: datetime, model: str = "gpt-4o", error: str = "RateLimitError") -> Any:
    failed = attempt(started_at=at, model_id=model, status=Status.ERROR, error_class=error)
    return answer(at, model, status=Status.ERROR, error_class=error, usage=None, attempts=(failed,))


def write(log: RequestLog, *records: Any) -> None:
    for one in records:
        log.append(one)
    log.flush()


def between(start: datetime, end: datetime) -> Period:
    return Period(start, end, "", open=False)


DAYS = between(NOON - timedelta(days=400), NOON + timedelta(days=30))


async def roll_and_read(database: Any, when: Period = DAYS, model: str | None = "gpt-4o") -> Any:
    async with connected(database.conninfo) as connection:
        await catch_up(connection)
        return await read_metrics(connection, when, model)


def random_requests(count: int, days: float, seed: int = 1) -> list[Any]:
    draw = random.Random(seed)
    made = []
    for _ in range(count):
        at = NOON - timedelta(days=days) * draw.random()
        model = draw.choice(["gpt-4o", "claude", "llama"])
        kind = draw.random()
        if kind < 0.6:
            made.append(answer(at, model, ms=draw.lognormvariate(6, 1)))
        elif kind < 0.9:
            made.append(hit(at, model, latency_ms=draw.uniform(0.01, 1)))
        else:
            made.append(failure(at, model))
    return made


@pytest.mark.parametrize("exact_up_to", [5_000, 0])
async def test_any_period_says_what_the_log_says(database, log, monkeypatch, exact_up_to) -> None:
    monkeypatch.setattr(metrics_module, "EXACT_UP_TO", exact_up_to)
    made = random_requests(600, days=3)
    write(log, *made)
    draw = random.Random(2)
    for _ in range(6):
        start = NOON - timedelta(days=3) * draw.random()
        end = start + timedelta(days=3) * draw.random()
        for model in ("gpt-4o", None):
            m = await roll_and_read(database, between(start, end), model)
            of = [
                r
                for r in made
                if start <= r.created_at < end and (model is None or r.model == model)
            ]
            answers = [r for r in of if r.status == Status.OK and r.cache == CacheOutcome.MISS]
            hits = [r for r in of if r.cache == CacheOutcome.MEMORY]
            failures = [r for r in of if r.status == Status.ERROR]
            assert m.requests.total == len(of)
            assert m.calls.answered == len(answers)
            assert m.errors_by_class == ({"RateLimitError": len(failures)} if failures else {})
            assert m.cache.hits == len(hits)
            assert m.latency.count == len(answers)
            assert m.cost.total == sum((r.cost_usd for r in of), Decimal(0))
            assert m.cost.saved_by_cache == Decimal("0.01") * len(hits)
            assert m.tokens.output == 20 * len(answers)
            assert m.tokens.saved == 30 * len(hits)
            if answers:
                latencies = sorted(r.latency_ms for r in answers)
                assert m.latency.avg == pytest.approx(fmean(latencies))
                assert m.latency.max == pytest.approx(latencies[-1])
                assert m.exact is (exact_up_to > 0)
                middle = latencies[(len(latencies) - 1) // 2 : len(latencies) // 2 + 1]
                if m.exact:
                    assert m.latency.p50 == pytest.approx(fmean(middle))
                else:
                    assert middle[0] * 0.989 <= m.latency.p50 <= middle[-1] * 1.011
            if hits:
                assert m.cache_latency.max < 1.001


async def test_rows_that_come_late_are_counted_where_they_belong(database, log) -> None:
    write(log, answer(NOON), answer(NOON + timedelta(minutes=1)))
    assert (await roll_and_read(database)).calls.answered == 2
    # What waited in a spool for a day, and one that joins a minute that was counted already.
    write(log, answer(NOON - timedelta(days=1)), answer(NOON + timedelta(seconds=30)))
    whole = await roll_and_read(database)
    assert whole.calls.answered == 4
    minute = await roll_and_read(database, between(NOON, NOON + timedelta(minutes=1)))
    assert minute.calls.answered == 2
    earlier = await roll_and_read(
        database, between(NOON - timedelta(days=2), NOON - timedelta(hours=1))
    )
    assert earlier.calls.answered == 1


async def test_counting_again_changes_nothing(database, log) -> None:
    write(log, *random_requests(50, days=1))
    everything = "SELECT * FROM model_performance_metrics ORDER BY grain, bucket, model"
    async with connected(database.conninfo) as connection:

        async def rolled() -> list[Any]:
            return await (await connection.execute(everything)).fetchall()

        await catch_up(connection)
        before = await rolled()
        assert {row[0] for row in before} == {"minute", "hour", "day"}
        assert await catch_up(connection) == 0
        await connection.execute("UPDATE ai_rollup_progress SET rolled_before = '0'")
        assert await catch_up(connection) > 0
        assert await rolled() == before
        await rebuild(connection)
        assert await rolled() == before


async def test_a_transaction_that_ends_after_later_ones_is_not_passed_over(database, log) -> None:
    insert = (
        "INSERT INTO ai_requests (id, created_at, kind, stream, status, model, cache, attempts, latency_ms)"
        " VALUES (gen_random_uuid(), %s, 'chat', false, 'ok', 'gpt-4o', 'miss', 1, 5)"
    )
    with psycopg.connect(database.conninfo) as slow:
        slow.execute(insert, [NOON])  # took its number, and does not commit yet
        write(log, answer(NOON), answer(NOON))
        assert (await roll_and_read(database)).calls.answered == 2
        slow.commit()
    assert (await roll_and_read(database)).calls.answered == 3


async def test_processes_that_roll_at_once_count_everything_once(database, log) -> None:
    write(log, *random_requests(200, days=2))
    program = (
        "import asyncio, sys\n"
        "from novellus_lab.monitoring.rollups import catch_up, connected\n"
        "async def main():\n"
        "    async with connected(sys.argv[1]) as connection:\n"
        "        await catch_up(connection)\n"
        "asyncio.run(main())"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", program, database.conninfo]) for _ in range(3)
    ]
    while any(p.poll() is None for p in running):
        write(log, answer(NOON))
        await asyncio.sleep(0.05)
    assert [p.returncode for p in running] == [0, 0, 0]
    m = await roll_and_read(database, DAYS, None)
    with psycopg.connect(database.conninfo) as connection:
        row = connection.execute("SELECT count(*) FROM ai_requests").fetchone()
    assert row is not None
    assert m.requests.total == row[0]


async def test_a_rebuild_mends_what_somebody_changed_in_the_log(database, log) -> None:
    write(log, answer(NOON), answer(NOON), answer(NOON + timedelta(days=1)))
    assert (await roll_and_read(database)).calls.answered == 3
    with psycopg.connect(database.conninfo) as connection:
        connection.execute("DELETE FROM ai_requests WHERE created_at > %s", [NOON])
    async with connected(database.conninfo) as connection:
        await rebuild(connection)
    assert (await roll_and_read(database)).calls.answered == 2


async def test_what_was_rolled_up_outlives_the_rows_of_the_log(database, log) -> None:
    old = NOON - timedelta(days=200)
    write(log, answer(old), answer(old), answer(NOON))
    assert (await roll_and_read(database)).exact
    with psycopg.connect(database.conninfo) as connection:
        connection.execute("DELETE FROM ai_requests WHERE created_at = %s", [old])
    async with connected(database.conninfo) as connection:
        await rebuild(connection)
    m = await roll_and_read(database)
    assert m.calls.answered == 3
    assert not m.exact
    assert m.latency.p50 == pytest.approx(102, rel=0.01)


async def test_a_model_answers_for_its_own_failures_and_costs(database, log) -> None:
    """The cheap one fails twice, the dear one stands in: each is charged with what it did."""
    price = Price(Decimal("0.03"), version="config")
    usage = Usage(input_tokens=7, output_tokens=3)
    failed = {"model_id": "cheap", "status": Status.ERROR, "error_class": "ProviderTimeoutError",
              "started_at": NOON, "price": price}  # fmt: skip
    calls = (
        attempt(number=1, **failed),
        attempt(number=2, role="retry", **failed),
        attempt(number=3, role="failover", model_id="dear", started_at=NOON, latency_ms=40.0,
                usage=usage, price=price),
    )  # fmt: skip
    write(log, answer(NOON, "dear", ms=900.0, attempts=calls, cost_usd=Decimal("0.09")))
    cheap = await roll_and_read(database, DAYS, "cheap")
    assert (cheap.requests.total, cheap.calls.asked, cheap.calls.failed_over) == (0, 1, 1)
    assert cheap.success_rate == 0
    assert cheap.calls.retried_share == 1
    assert cheap.errors_by_class == {"ProviderTimeoutError": 1}
    assert cheap.cost.total == Decimal("0.06")
    dear = await roll_and_read(database, DAYS, "dear")
    assert (dear.requests.total, dear.calls.asked, dear.calls.taken_over) == (1, 1, 1)
    assert dear.success_rate == 100
    assert dear.cost.total == Decimal("0.03")
    assert dear.tokens.input == 7
    assert dear.latency.avg == 902
    assert dear.provider_latency.avg == dear.provider_latency.p50 == 40
    both = await roll_and_read(database, DAYS, None)
    assert both.requests.total == 1
    assert both.cost.total == Decimal("0.09")
    assert both.success_rate == 50


async def test_a_cascade_that_went_on_did_not_fail(database, log) -> None:
    calls = (
        attempt(number=1, model_id="weak", started_at=NOON),
        attempt(number=2, role="failover", model_id="strong", started_at=NOON),
    )
    write(log, answer(NOON, "strong", attempts=calls, cost_usd=Decimal("0.02")))
    weak = await roll_and_read(database, DAYS, "weak")
    assert (weak.calls.asked, weak.calls.failed, weak.success_rate) == (1, 0, 100)
    strong = await roll_and_read(database, DAYS, "strong")
    assert (strong.calls.taken_over, strong.success_rate) == (0, 100)


async def test_what_is_not_the_models_doing_does_not_count_for_it(database, log) -> None:
    write(
        log,
        answer(NOON),
        hit(NOON),
        hit(NOON, cache=CacheOutcome.SEMANTIC),
        hit(NOON, cache=CacheOutcome.COALESCED, latency_ms=700.0),
        answer(NOON, status=Status.CANCELLED, attempts=()),
        record(created_at=NOON, status=Status.REFUSED, requested_model="gpt-4o",
               error_class="BudgetExceededError", cost_usd=Decimal(0)),
    )  # fmt: skip
    m = await roll_and_read(database)
    assert m.requests.to_dict() == {"total": 6, "ok": 4, "error": 0, "cancelled": 1, "refused": 1}
    assert (m.calls.asked, m.success_rate) == (1, 100)
    assert m.latency.count == 1
    assert m.cache_latency.count == 2
    assert m.cache_latency.max == pytest.approx(0.05)
    # Two that missed (one was then cancelled), two hits; who waited for another's call is neither.
    assert (m.cache.lookups, m.cache.hits, m.cache.coalesced) == (4, 2, 1)
    assert m.cache.by_tier == {"memory": 0.25, "redis": 0, "postgres": 0, "semantic": 0.25}
    assert m.errors_by_class == {}


async def test_an_unknown_cost_is_told_and_not_counted_as_nothing(database, log) -> None:
    unknown = {"cost_usd": None, "uncached_cost_usd": None}
    write(
        log,
        answer(NOON, "priced"),
        answer(NOON, "priced", **unknown),
        answer(NOON, "not", **unknown),
    )
    some = await roll_and_read(database, DAYS, "priced")
    assert some.cost.total == Decimal("0.01")
    assert some.cost.unpriced_share == 0.5
    assert some.cost.per_request is None
    assert (await roll_and_read(database, DAYS, "not")).cost.total is None


async def test_no_data_is_counts_of_zero_and_no_rates(database) -> None:
    m = await roll_and_read(database, period("24h"), None)
    assert m.requests.total == m.calls.asked == m.tokens.total == m.latency.count == 0
    assert m.success_rate is m.latency.avg is m.latency.p99 is m.cache.hit_rate is None
    assert m.tokens.per_second is m.cost.per_request is m.cost.unpriced_share is None
    assert m.cost.total == 0
    assert set(m.cache.by_tier.values()) == {None}
    assert "no requests" in repr(m)
    assert "–" in m._repr_html_()


async def test_tokens_a_second_are_of_the_answering_calls(database, log) -> None:
    write(log, answer(NOON, ms=500.0), answer(NOON, ms=1_500.0), hit(NOON))
    assert (await roll_and_read(database)).tokens.per_second == pytest.approx(20.0)


async def test_totals_come_by_model(database, log) -> None:
    write(log, answer(NOON, "a"), answer(NOON, "b"), answer(NOON, "b"))
    async with connected(database.conninfo) as connection:
        await catch_up(connection)
        found = await read_totals(connection, DAYS)
    assert {model: t.asked for model, t in found.items()} == {"a": 1, "b": 2}
