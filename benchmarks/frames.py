"""How long the standard frames take over a long log, beside PostgreSQL's own SQL and pandas.

    python -m benchmarks.frames [--rows 1000000] [--home DIRECTORY]

The rows are made inside an embedded server by generate_series: 90 days, eight models, one of them without
a price, three in ten answered by the cache. Each question is asked

- in plain SQL of PostgreSQL, the same numbers, best of three (once beyond 2 million rows);
- in pandas, over rows that psycopg fetched (up to 2 million rows: more do not fit in memory);
- of `lab.analytics`, in a process that has asked nothing yet, from the question to the frame, DuckDB's and
  Polars' imports included: "no copy" is the very first question, which makes the columnar copy of the
  log; "cold" is with the copy of an earlier process; "warm" is the median of five more.

Memory is the peak of the whole process. Ten million rows take 8 GB of disk until the end. With --home
the rows are kept there, and a second run finds them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from rich.console import Console
from rich.table import Table

from novellus_lab import Lab
from tests.embedded_homes import remove_state

if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK = 1_000_000
PANDAS_ROWS = 2_000_000
CONFIG: dict[str, Any] = {"models": []}

HIT = "cache IN ('memory', 'redis', 'postgres', 'semantic')"
QUESTIONS: dict[str, tuple[str, dict[str, Any], str, str]] = {
    # what: method, arguments, PostgreSQL, columns for pandas
    "costs by model": (
        "costs", {"by": "model"},
        "SELECT model, count(*), count(*) FILTER (WHERE cost_usd IS NULL), sum(cost_usd), "
        f"sum(uncached_cost_usd), sum(uncached_cost_usd) FILTER (WHERE {HIT}) "
        "FROM ai_requests GROUP BY 1",
        "model, cache, cost_usd, uncached_cost_usd",
    ),
    "costs by team and day, Berlin": (
        "costs", {"by": "tag:team", "every": "1d", "tz": "Europe/Berlin"},
        "SELECT date_trunc('day', created_at, 'Europe/Berlin'), tags ->> 'team', count(*), "
        "count(*) FILTER (WHERE cost_usd IS NULL), sum(cost_usd), sum(uncached_cost_usd), "
        f"sum(uncached_cost_usd) FILTER (WHERE {HIT}) FROM ai_requests GROUP BY 1, 2",
        "created_at, tags, cache, cost_usd, uncached_cost_usd",
    ),
    "latency by model": (
        "latency", {"by": "model"},
        f"SELECT model, {HIT}, count(*), avg(latency_ms), max(latency_ms), "
        "percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY latency_ms) "
        "FROM ai_requests WHERE status = 'ok' GROUP BY 1, 2",
        "model, cache, status, latency_ms",
    ),
    "cache by day": (
        "cache", {"every": "1d"},
        f"SELECT date_trunc('day', created_at), cache, count(*), sum(uncached_cost_usd), "
        f"sum(original_latency_ms - latency_ms) FILTER (WHERE {HIT}) FROM ai_requests GROUP BY 1, 2",
        "created_at, cache, uncached_cost_usd, original_latency_ms, latency_ms",
    ),
    "usage by model and hour": (
        "usage", {"by": "model", "every": "1h"},
        "SELECT date_trunc('hour', created_at), model, count(*), sum(attempts), sum(input_tokens), "
        "sum(output_tokens), sum(cached_input_tokens), sum(reasoning_tokens) "
        f"FROM ai_requests WHERE NOT {HIT} GROUP BY 1, 2",
        "created_at, model, cache, attempts, input_tokens, output_tokens, cached_input_tokens, "
        "reasoning_tokens",
    ),
    "errors by class": (
        "errors", {"by": ["model", "error_class"]},
        "SELECT model, error_class, count(*), count(*) FILTER (WHERE status <> 'ok') "
        "FROM ai_requests GROUP BY 1, 2",
        "model, error_class, status",
    ),
    "sessions": (
        "sessions", {},
        "SELECT session_id, count(*), min(created_at), max(created_at), sum(cost_usd), "
        "count(DISTINCT model), sum(input_tokens), sum(output_tokens) FROM ai_requests GROUP BY 1",
        "session_id, created_at, cost_usd, model, input_tokens, output_tokens",
    ),
}  # fmt: skip

_PARTITIONS = """
DO $$ DECLARE start timestamp; BEGIN
    FOR ago IN 1..4 LOOP
        start := date_trunc('month', now() AT TIME ZONE 'UTC') - make_interval(months => ago);
        EXECUTE format('CREATE TABLE ai_requests_%s PARTITION OF ai_requests FOR VALUES FROM (%L) TO (%L)',
            to_char(start, 'YYYY_MM'), start AT TIME ZONE 'UTC',
            (start + interval '1 month') AT TIME ZONE 'UTC');
    END LOOP;
END $$
"""
_ROWS = """
INSERT INTO ai_requests (id, created_at, kind, stream, status, error_class, model, provider, strategy,
    cache, input_tokens, output_tokens, cached_input_tokens, cache_write_tokens, cache_write_1h_tokens,
    reasoning_tokens, input_audio_tokens, cached_audio_tokens, output_audio_tokens,
    output_image_tokens, web_searches, usage_estimated, price_version, cost_usd, fees_usd,
    uncached_cost_usd, latency_ms, queue_ms, route_ms, provider_ms, overhead_ms,
    original_latency_ms, tags, session_id, params, dropped_params, attempts)
SELECT gen_random_uuid(), now() - (n::float8 * interval '90 days' / %(rows)s), 'chat', false,
    CASE WHEN n %% 40 = 3 THEN 'error' ELSE 'ok' END,
    CASE WHEN n %% 40 = 3 THEN (ARRAY['RateLimitError', 'ProviderTimeoutError'])[1 + n / 40 %% 2] END,
    'model-' || m, 'provider-' || m %% 3, 'weighted',
    CASE WHEN hit THEN (ARRAY['memory', 'redis', 'postgres', 'semantic'])[1 + n / 10 %% 4]
        ELSE 'miss' END,
    tokens_in, tokens_out, 0, 0, 0, 0, 0, 0, 0, 0, 0, false, 'genai-prices',
    CASE WHEN m = 7 THEN NULL WHEN hit THEN 0 ELSE usd END, 0, CASE WHEN m <> 7 THEN usd END,
    CASE WHEN hit THEN 1 + random() ELSE ms END, 0, 0.1, CASE WHEN hit THEN NULL ELSE ms - 0.5 END,
    0.4, CASE WHEN hit THEN ms END,
    jsonb_build_object('team', 'team-' || n %% 12, 'env', 'prod'), 's-' || n / 8, '{}', '{}', 1
FROM (SELECT n, 1 + (n::bigint * 7919 %% 8)::int AS m, n %% 10 < 3 AS hit, tokens_in, tokens_out,
        tokens_in * 0.0000025 + tokens_out * 0.00001 AS usd, 300 + 2000 * random() ^ 3 AS ms
    FROM (SELECT n, (50 + 3000 * random())::bigint AS tokens_in,
            (10 + 500 * random())::bigint AS tokens_out
        FROM generate_series(%(from)s::int, %(to)s::int) AS n) AS drawn) AS made
"""


def fill(conninfo: str, rows: int, console: Console) -> None:
    """Make the rows, unless they are there."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        found = connection.execute("SELECT count(*) FROM ai_requests").fetchone()
        if found is not None and found[0] >= rows:
            return
        connection.execute(_PARTITIONS)
        connection.execute("SET synchronous_commit = off")
        for start in range(1, rows + 1, CHUNK):
            last = min(start + CHUNK - 1, rows)
            connection.execute(_ROWS, {"rows": rows, "from": start, "to": last})
            console.print(f"[dim]{last:,} rows made[/dim]")
        connection.execute("VACUUM ANALYZE ai_requests")


def ask(home: str, what: str, again: int) -> dict[str, Any]:
    """Ask one question in this process: first time, median of more, peak memory."""
    method, arguments, _, _ = QUESTIONS[what]
    with Lab(home=home, config=CONFIG) as lab:
        times = []
        for _ in range(1 + again):
            began = time.perf_counter()
            frame = getattr(lab.analytics, method)(None, **arguments)
            times.append(time.perf_counter() - began)
    warm = statistics.median(times[1:]) if again else None
    # Not ru_maxrss: that begins with the peak of the process that started this one.
    status = Path("/proc/self/status").read_text().splitlines()
    [peak] = [int(line.split()[1]) for line in status if line.startswith("VmHWM")]
    return {"first": times[0], "warm": warm, "peak_mib": peak / 1024, "rows": frame.height}


def in_new_process(home: str, what: str, again: int = 0) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.frames", "--child", what, "--home", home]
    done = subprocess.run([*command, "--again", str(again)], check=True, stdout=subprocess.PIPE)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def in_sql(conninfo: str, what: str, rows: int) -> float:
    times = 3 if rows <= PANDAS_ROWS else 1
    with psycopg.connect(conninfo, autocommit=True) as connection:
        return min(
            timed(lambda: connection.execute(QUESTIONS[what][2]).fetchall()) for _ in range(times)
        )


def in_pandas(conninfo: str, what: str) -> float:
    """Fetch rows with psycopg and aggregate them as a person would."""
    import pandas as pd

    columns = QUESTIONS[what][3]

    def run() -> None:
        with psycopg.connect(conninfo) as connection:
            rows = connection.execute(f"SELECT {columns} FROM ai_requests").fetchall()
        frame = pd.DataFrame(rows, columns=columns.split(", "))
        keys = [c for c in ("model", "error_class", "session_id", "cache") if c in frame]
        if "tags" in frame:
            frame["team"] = frame["tags"].map(lambda tags: tags.get("team"))
            keys = ["team"]
        if "created_at" in frame and "session_id" not in frame:
            every = "h" if "attempts" in frame else "D"
            keys.append(pd.to_datetime(frame["created_at"], utc=True).dt.floor(every))  # type: ignore[arg-type]
        if "latency_ms" in frame and "status" in frame:
            frame[frame["status"] == "ok"].groupby(keys)["latency_ms"].quantile([0.5, 0.95, 0.99])
            return
        sums = [c for c in frame if c.endswith(("_usd", "_tokens", "_ms")) or c == "attempts"]
        grouped = frame.groupby(keys, dropna=False)
        grouped.size()
        if sums:
            grouped[sums].sum()

    return timed(run)


def timed(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def measure(home: str, rows: int, console: Console) -> Table:
    """Fill the log and ask everything of everybody."""
    with Lab(home=home, config=CONFIG) as lab:
        conninfo = lab._database.conninfo
        fill(conninfo, rows, console)
        shutil.rmtree(Path(home) / "analytics", ignore_errors=True)
        first = in_new_process(home, "costs by model")
        table = Table(title=f"{rows:,} requests: seconds")
        for name in ("", "PostgreSQL", "pandas", "cold", "warm", "peak MiB", "rows"):
            table.add_column(name, justify="left" if not name else "right")
        for what in QUESTIONS:
            ours = in_new_process(home, what, again=5)
            pandas = f"{in_pandas(conninfo, what):.2f}" if rows <= PANDAS_ROWS else "–"
            table.add_row(
                what, f"{in_sql(conninfo, what, rows):.2f}", pandas, f"{ours['first']:.2f}",
                f"{ours['warm']:.3f}", f"{ours['peak_mib']:,.0f}", f"{ours['rows']:,}",
            )  # fmt: skip
    size = sum(path.stat().st_size for path in (Path(home) / "analytics").rglob("*.parquet"))
    table.caption = (
        f"no copy: the first question takes {first['first']:.1f} s and {first['peak_mib']:,.0f} MiB; "
        f"the copy is {size / 1e6:,.0f} MB"
    )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--home")
    parser.add_argument("--child", choices=list(QUESTIONS), help=argparse.SUPPRESS)
    parser.add_argument("--again", type=int, default=0, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(ask(asked.home, asked.child, asked.again)))
        return
    console = Console()
    home = asked.home or tempfile.mkdtemp(prefix="novellus-frames-")
    try:
        console.print(measure(home, asked.rows, console))
    finally:
        if asked.home is None:
            remove_state(Path(home))
            shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
