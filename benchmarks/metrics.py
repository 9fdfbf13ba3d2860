"""How fast metrics are answered from rollups, beside plain SQL over the log.

    python -m benchmarks.metrics [--rows 1000000] [--rounds 5]

It fills an embedded server of its own with a month of requests (five models; a third are cache hits,
1 % fail, log-normal latencies), rolls them up, and asks for the metrics of a model and of all together
over an hour, a day, a week and the month. "ours" is all that `lab.metrics` does after the log's flush:
connect, bring the rollups up to the log, read. "plain SQL" reads counts, sums and four quantiles of two
latencies from `ai_requests` over an open connection. Then it adds fresh and late rows and rolls these
up, and measures what the column `written_in` costs the log's writer. 10,000,000 rows take about 7 GB
of disk and a quarter of an hour.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from rich.console import Console

from novellus_lab.ids import uuid7
from novellus_lab.monitoring.metrics import read_metrics
from novellus_lab.monitoring.period import period
from novellus_lab.monitoring.rollups import catch_up, connected
from novellus_lab.records import RequestRecord
from novellus_lab.store.copy_text import REQUEST_COLUMNS, record_lines
from novellus_lab.store.database import open_database, resolve_home
from novellus_lab.types import CacheOutcome, Usage
from tests.embedded_homes import remove_state

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from novellus_lab.store.database import Database

_FILL = """
INSERT INTO ai_requests
    (id, created_at, kind, stream, status, error_class, model, provider, cache, input_tokens, output_tokens,
     cost_usd, uncached_cost_usd, latency_ms, ttft_ms, provider_ms, overhead_ms, attempts, tags, prompt_hash)
SELECT uuidv7(-ago), now() - ago, 'chat', false, CASE WHEN failed THEN 'error' ELSE 'ok' END,
    CASE WHEN failed THEN 'ProviderTimeoutError' END, 'model-' || i %% 5, 'provider',
    CASE WHEN hit THEN 'memory' ELSE 'miss' END, 500, 250, CASE WHEN hit THEN 0 ELSE 0.00375 END, 0.00375,
    CASE WHEN hit THEN 0.1 ELSE ms + 2 END, ms / 4, ms, 2, (NOT hit)::int, '{}', '\\x00'::bytea
FROM (
    SELECT i, interval '30 days' * (1 - i / %(rows)s::float8) AS ago, random() < 0.01 AS failed,
        random() < 0.33 AS hit, exp(6.5 + 0.8 * random_normal()) AS ms
    FROM generate_series(%(first)s::bigint, %(last)s::bigint) i
) requests
"""
_PLAIN = """
SELECT count(*), count(*) FILTER (WHERE status = 'ok'), count(*) FILTER (WHERE cache = 'memory'),
    sum(cost_usd), sum(uncached_cost_usd - cost_usd), sum(input_tokens), sum(output_tokens),
    count(*) FILTER (WHERE cost_usd IS NULL), avg(latency_ms) FILTER (WHERE status = 'ok' AND cache = 'miss'),
    percentile_cont(ARRAY[0.5, 0.9, 0.95, 0.99]) WITHIN GROUP (ORDER BY latency_ms)
        FILTER (WHERE status = 'ok' AND cache = 'miss'),
    percentile_cont(ARRAY[0.5, 0.9, 0.95, 0.99]) WITHIN GROUP (ORDER BY provider_ms)
        FILTER (WHERE status = 'ok' AND cache = 'miss')
FROM ai_requests WHERE created_at >= %s AND (%s::text IS NULL OR model = %s)
"""
_CHUNK = 1_000_000


@dataclass(frozen=True, slots=True)
class Answer:
    """Medians in milliseconds, and how far the quantiles are apart."""

    time_range: str
    model: str | None
    requests: int
    ours_ms: float
    plain_ms: float
    worst_error: float


async def timed(work: Callable[[], Awaitable[Any]], rounds: int) -> tuple[float, Any]:
    """Return the median of several rounds, in milliseconds, and the last result."""
    taken, found = [], None
    for _ in range(rounds):
        started = time.perf_counter()
        found = await work()
        taken.append((time.perf_counter() - started) * 1_000)
    return statistics.median(taken), found


def fill(database: Database, rows: int) -> float:
    """Log a month of requests; return the seconds that it took."""
    started = time.perf_counter()
    with psycopg.connect(database.conninfo, autocommit=True) as connection:
        # Nobody needs these rows after a power cut; what is measured reads.
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("ALTER SYSTEM SET max_wal_size = '8GB'")
        connection.execute("SELECT pg_reload_conf()")
        for first in range(1, rows + 1, _CHUNK):
            last = min(first + _CHUNK - 1, rows)
            connection.execute(_FILL.encode(), {"rows": rows, "first": first, "last": last})
        connection.execute("VACUUM ANALYZE ai_requests")
    return time.perf_counter() - started


async def roll_up(database: Database) -> tuple[float, int]:
    """Return the seconds that it takes to bring the rollups up to the log, and the minutes."""
    started = time.perf_counter()
    async with connected(database.conninfo) as connection:
        minutes = await catch_up(connection)
    return time.perf_counter() - started, minutes


async def answers(database: Database, rounds: int, console: Console) -> list[Answer]:
    found = []
    header = ("", "model", "requests", "ours, ms", "plain SQL, ms", "quantiles differ by")
    console.print("{:<5}{:<9}{:>12}{:>10}{:>15}{:>21}".format(*header))
    async with connected(database.conninfo) as plain:
        for time_range in ("1h", "24h", "7d", "30d"):
            for model in ("model-1", None):

                async def ours(model: str | None = model, time_range: str = time_range) -> Any:
                    async with connected(database.conninfo) as connection:
                        await catch_up(connection)
                        return await read_metrics(connection, period(time_range), model)

                ours_ms, m = await timed(ours, rounds)
                values = [m.start, model, model]

                async def by_hand(values: list[Any] = values) -> Any:
                    return await (await plain.execute(_PLAIN, values)).fetchone()

                plain_ms, row = await timed(by_hand, 1 if m.requests.total > _CHUNK else rounds)
                got = [m.latency.p50, m.latency.p90, m.latency.p95, m.latency.p99]
                errors = [
                    abs(a / b - 1) for a, b in zip(got, row[9] or [], strict=row[9] is not None)
                ]
                assert abs(m.requests.total - row[0]) <= row[0] * 1e-3 + 5, (m, row)
                a = Answer(
                    time_range, model, m.requests.total, ours_ms, plain_ms, max(errors, default=0.0)
                )
                console.print(
                    f"{a.time_range:<5}{a.model or 'all':<9}{a.requests:>12,}{a.ours_ms:>10,.1f}"
                    f"{a.plain_ms:>15,.1f}{100 * a.worst_error:>19.2f} %"
                )
                found.append(a)
    return found


async def increments(database: Database, rounds: int) -> list[tuple[str, float]]:
    """Return what it takes to roll up 1,000 rows of this minute, and 1,000 that are spread out."""
    found = []
    for name, spread in (
        ("1,000 fresh rows of the last minute", "1 minute"),
        ("1,000 late rows of an hour, ten days ago", "1 hour"),
    ):
        taken = []
        for _ in range(rounds):
            with psycopg.connect(database.conninfo, autocommit=True) as connection:
                ago = "0" if spread == "1 minute" else "10 days"
                connection.execute(
                    "INSERT INTO ai_requests (id, created_at, kind, stream, status, model, provider, cache, "
                    "attempts, latency_ms, provider_ms, cost_usd) SELECT uuidv7(), "
                    "now() - %s::interval - %s::interval * random(), 'chat', false, 'ok', "
                    "'model-' || i %% 5, 'provider', 'miss', 1, 800, 799, 0.001 "
                    "FROM generate_series(1, 1000) i",
                    [ago, spread],
                )
            taken.append((await roll_up(database))[0] * 1_000)
        found.append((name, statistics.median(taken)))
    return found


def written_in(database: Database, rounds: int) -> tuple[float, float]:
    """Return microseconds a row that COPY takes without and with the column and its index, at best."""
    from datetime import UTC, datetime

    columns = ", ".join(REQUEST_COLUMNS)
    record = RequestRecord(
        id=uuid7(),
        created_at=datetime.now(UTC),
        model="gpt-4o",
        provider="openai",
        cache=CacheOutcome.MISS,
        usage=Usage(input_tokens=500, output_tokens=250),
        latency_ms=800.0,
        provider_ms=798.0,
        messages=[{"role": "user", "content": "How fast is it? " * 30}],
        response="As fast as it can be. " * 40,
    )
    line = record_lines(record)[1:]
    after = line[line.index(b"\t") :]
    data = b"".join(uuid7().hex.encode() + after for _ in range(20_000))
    taken: dict[str, list[float]] = {"without": [], "with": []}
    with psycopg.connect(database.conninfo, autocommit=True) as connection:
        for name in taken:
            connection.execute(f"DROP TABLE IF EXISTS bench_{name}".encode())
            connection.execute(
                f"CREATE TABLE bench_{name} (LIKE ai_requests INCLUDING ALL)".encode()
            )
        connection.execute("ALTER TABLE bench_without DROP COLUMN written_in")
        for _ in range(rounds):
            for name, times in taken.items():
                connection.execute(f"TRUNCATE bench_{name}".encode())
                started = time.perf_counter()
                with (
                    connection.cursor() as cursor,
                    cursor.copy(f"COPY bench_{name} ({columns}) FROM STDIN".encode()) as copy,
                ):
                    copy.write(data)
                times.append((time.perf_counter() - started) / 20_000 * 1e6)
    return min(taken["without"]), min(taken["with"])


def sizes(database: Database) -> dict[str, int]:
    with psycopg.connect(database.conninfo) as connection:
        found = connection.execute(
            "SELECT (SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree('ai_requests')), "
            "pg_total_relation_size('model_performance_metrics')"
        ).fetchone()
    assert found is not None
    return {"ai_requests": int(found[0]), "model_performance_metrics": int(found[1])}


async def measure(database: Database, rows: int, rounds: int, console: Console) -> list[Answer]:
    console.print(f"{rows:,} requests of 30 days were logged in {fill(database, rows):,.0f} s")
    seconds, minutes = await roll_up(database)
    console.print(f"{minutes:,} minutes were rolled up in {seconds:,.0f} s")
    for name, size in sizes(database).items():
        console.print(f"{name}: {size / 1e6:,.0f} MB")
    found = await answers(database, rounds, console)
    for name, ms in await increments(database, rounds):
        console.print(f"{name} are rolled up in {ms:,.0f} ms")
    without, with_it = written_in(database, rounds)
    console.print(f"COPY of a row of 2 kB: {without:.1f} µs; with written_in {with_it:.1f} µs")
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rows", type=int, default=1_000_000)
    options.add_argument("--rounds", type=int, default=5)
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="novellus-metrics-") as directory:
        database = open_database(resolve_home(Path(directory)), None)
        try:
            asyncio.run(
                measure(
                    database, given.rows, given.rounds, Console(highlight=False, soft_wrap=True)
                )
            )
        finally:
            database.close()
            remove_state(database.home)


if __name__ == "__main__":
    main()
