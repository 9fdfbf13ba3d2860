"""How long a cost report takes over a long log.

    python -m benchmarks.report [--rows 1000000] [--home DIRECTORY]

The rows are made inside an embedded server by generate_series: 60 days, eight models, one of them without
a price, three in ten answered by the cache, 200,000 different prompts behind 40 system prompts, of which
each row has the messages. The report is of the last 30 days against the 30 before: all rows count.

Each time is from the question to the page of HTML on disk, in a process that has asked nothing yet, imports
included. "no copy" makes the columnar copy of the log, "cold" is with the copy of an earlier process,
"warm" is a second report in the same process. Memory is the peak of the whole process.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg
from rich.console import Console
from rich.table import Table

from novellus_lab import Lab
from tests.embedded_homes import remove_state

CHUNK = 250_000
CONFIG: dict[str, Any] = {"models": []}

_ROWS = """
INSERT INTO ai_requests (id, created_at, kind, stream, status, error_class, model, provider, strategy,
    cache, cache_key, prompt_hash, messages, input_tokens, output_tokens, cached_input_tokens,
    cache_write_tokens, reasoning_tokens, usage_estimated, cost_usd, fees_usd, uncached_cost_usd,
    latency_ms, tags, session_id, attempts)
SELECT gen_random_uuid(), now() - (n::float8 * interval '60 days' / %(rows)s), 'chat', false,
    CASE WHEN n %% 40 = 3 THEN 'error' ELSE 'ok' END,
    CASE WHEN n %% 40 = 3 THEN 'RateLimitError' END, 'model-' || m, 'provider-' || m %% 3, 'weighted',
    CASE WHEN hit THEN 'memory' ELSE 'miss' END,
    decode(md5('key' || prompt || m), 'hex'), decode(md5('prompt' || prompt), 'hex'),
    jsonb_build_array(
        jsonb_build_object('role', 'system', 'content',
            'You are desk ' || prompt %% 40 || '. ' || repeat('Be kind and exact. ', 30)),
        jsonb_build_object('role', 'user', 'content', 'Where is order ' || prompt || '?')),
    tokens_in, tokens_out, 0, 0, 0, false,
    CASE WHEN m = 7 THEN NULL WHEN hit THEN 0 ELSE usd END, 0, CASE WHEN m <> 7 THEN usd END,
    CASE WHEN hit THEN 1 + random() ELSE ms END,
    jsonb_build_object('team', 'team-' || n %% 12, 'env', 'prod'), 's-' || n / 8, 1
FROM (SELECT n, 1 + (n::bigint * 7919 %% 8)::int AS m, n %% 10 < 3 AS hit, tokens_in, tokens_out,
        (200000 * random() ^ 2)::int AS prompt,
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
        connection.execute("SET synchronous_commit = off")
        for start in range(1, rows + 1, CHUNK):
            last = min(start + CHUNK - 1, rows)
            connection.execute(_ROWS, {"rows": rows, "from": start, "to": last})
            console.print(f"[dim]{last:,} rows made[/dim]")
        connection.execute("VACUUM ANALYZE ai_requests")


def make(home: str) -> dict[str, Any]:
    """Make two reports in this process."""
    times = []
    with Lab(home=home, config=CONFIG) as lab, tempfile.TemporaryDirectory() as directory:
        for _ in range(2):
            began = time.perf_counter()
            report = lab.cost_report("30d")
            asked = time.perf_counter()
            report.save(Path(directory) / "report.html")
            times.append((asked - began, time.perf_counter() - asked))
    status = Path("/proc/self/status").read_text().splitlines()
    [peak] = [int(line.split()[1]) for line in status if line.startswith("VmHWM")]
    said = report.document.lead[0]
    return {"times": times, "peak_mib": peak / 1024, "said": said}


def in_new_process(home: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.report", "--child", "--home", home]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(home: str, rows: int, console: Console) -> Table:
    """Fill the log and make reports."""
    with Lab(home=home, config=CONFIG) as lab:
        fill(lab._database.conninfo, rows, console)
        shutil.rmtree(Path(home) / "analytics", ignore_errors=True)
        first, second = in_new_process(home), in_new_process(home)
    table = Table(title=f"A cost report over {rows:,} requests: seconds")
    for name in ("", "asking", "writing", "together", "peak MiB"):
        table.add_column(name, justify="left" if not name else "right")
    for name, found, place in (("no copy", first, 0), ("cold", second, 0), ("warm", second, 1)):
        asking, writing = found["times"][place]
        table.add_row(
            name, f"{asking:.2f}", f"{writing:.2f}", f"{asking + writing:.2f}",
            f"{found['peak_mib']:,.0f}",
        )  # fmt: skip
    table.caption = second["said"]
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--home")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(make(asked.home)))
        return
    console = Console()
    home = asked.home or tempfile.mkdtemp(prefix="novellus-report-")
    try:
        console.print(measure(home, asked.rows, console))
    finally:
        if asked.home is None:
            remove_state(Path(home))
            shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
