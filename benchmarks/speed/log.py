"""What the log takes: records a second into PostgreSQL, and memory while PostgreSQL is away."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import fields
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import psycopg
from psycopg.types.json import Jsonb, set_json_dumps

from benchmarks.speed.contenders import MESSAGES
from benchmarks.speed.figures import ROOT, Effort, Row, Section, interleaved, median_ratio
from benchmarks.speed.processes import another_database, count_rows, database
from novellus_lab.ids import uuid7
from novellus_lab.records import RequestRecord
from novellus_lab.store.copy_text import REQUEST_COLUMNS
from novellus_lab.store.migrate import migrate
from novellus_lab.store.request_log import RequestLog
from novellus_lab.types import CacheOutcome, Candidate, Usage

SHARE_OF_COPY = 0.8
AWAY_MB = 64
"""What the log's process may grow by while PostgreSQL is away."""

_JSON = ("candidates", "raw_usage", "tags", "params", "messages", "tool_calls")


def sample_record() -> RequestRecord:
    """A row as a call of a notebook leaves it, about 1.5 kB."""
    return RequestRecord(
        id=uuid7(),
        created_at=datetime.now(UTC),
        requested_model="gpt-4o",
        picked_model="gpt-4o",
        model="gpt-4o",
        provider="openai",
        response_model="gpt-4o-2024-08-06",
        strategy="weighted",
        candidates=(Candidate("gpt-4o", 0.5, 1.0), Candidate("gpt-4o-mini", 0.5, 1.0)),
        propensity=0.5,
        cache=CacheOutcome.MISS,
        cache_key=b"k" * 32,
        usage=Usage(input_tokens=211, output_tokens=87, cached_input_tokens=128),
        raw_usage={"prompt_tokens": 211, "completion_tokens": 87, "total_tokens": 298},
        price_version="genai-prices 0.2.3",
        cost_usd=Decimal("0.0012375"),
        uncached_cost_usd=Decimal("0.0012375"),
        latency_ms=812.4181,
        queue_ms=0.0,
        route_ms=0.0213,
        provider_ms=811.9,
        overhead_ms=0.5181,
        tags={"team": "search", "run": 7},
        session_id="session-17",
        prompt_hash=b"p" * 16,
        params={"max_tokens": 200, "temperature": 0.7},
        finish_reason="stop",
        messages=orjson.dumps(MESSAGES),
        response="A cache keeps answers at hand.\nIt does harm when they are stale. " * 4,
    )


def measure(effort: Effort, peer_python: str | None) -> tuple[Section, Section]:
    """Measure throughput beside a bare COPY of the same rows, and the memory of an outage."""
    return _throughput(effort), _memory(effort)


def _throughput(effort: Effort) -> Section:
    set_json_dumps(orjson.dumps)
    rows = effort.log_rows
    with database() as db:
        bare_conninfo = another_database(db, "bare")
        migrate(bare_conninfo)
        with psycopg.connect(bare_conninfo, autocommit=True) as bare_connection:

            def full_path() -> float:
                _empty(db.conninfo)
                records = [sample_record() for _ in range(rows)]
                with tempfile.TemporaryDirectory() as spool:
                    log = RequestLog(db.conninfo, Path(spool))
                    log.start()
                    started = time.perf_counter()
                    for record in records:
                        log.append(record)
                    log.flush(120)
                    seconds = time.perf_counter() - started
                    log.close()
                if count_rows(db.conninfo) != rows:
                    raise AssertionError("the log lost or doubled rows")
                return rows / seconds

            def drain() -> float:
                _empty(db.conninfo)
                with tempfile.TemporaryDirectory() as spool:
                    _fill_spool(Path(spool), rows)
                    started = time.perf_counter()
                    log = RequestLog(db.conninfo, Path(spool))
                    log.start()
                    while count_rows(db.conninfo) < rows:
                        time.sleep(0.005)
                    seconds = time.perf_counter() - started
                    log.close()
                return rows / seconds

            def bare() -> float:
                bare_connection.execute("TRUNCATE ai_requests")
                records = [sample_record() for _ in range(rows)]
                started = time.perf_counter()
                for start in range(0, rows, 5_000):
                    with (
                        bare_connection.transaction(),
                        bare_connection.cursor() as cursor,
                        cursor.copy(_COPY) as copy,
                    ):
                        for record in records[start : start + 5_000]:
                            copy.write_row(_values(record))
                return rows / (time.perf_counter() - started)

            found = interleaved(
                {
                    "RequestLog, from append to committed": full_path,
                    "RequestLog, bringing a full spool home": drain,
                    "floor: COPY with psycopg's write_row": bare,
                },
                effort.log_rounds,
            )
    *_mine, floor = found.values()
    table = []
    for name, rates in found.items():
        ours = name.startswith("RequestLog")
        share = median_ratio(rates, floor)
        table.append(
            Row(
                name,
                "rows/s",
                rates,
                ours=ours,
                beside=f"{share:.2f}x the floor" if ours else "",
                target=f"≥ {SHARE_OF_COPY}x the floor" if ours else "",
                met=share >= SHARE_OF_COPY if ours else None,
            )
        )
    return Section("The log: rows into the same indexed table", tuple(table))


_COPY = f"COPY ai_requests ({', '.join(REQUEST_COLUMNS)}) FROM STDIN".encode()
_USAGE = {
    ("usage_estimated" if f.name == "estimated" else f.name): f.name for f in fields(Usage)
}  # the columns of the table, by the names of the fields


def _values(record: RequestRecord) -> list[Any]:
    values: list[Any] = []
    for name in REQUEST_COLUMNS:
        if name in _USAGE:
            values.append(getattr(record.usage, _USAGE[name]))
        elif name == "attempts":
            values.append(len(record.attempts))
        elif name == "messages":
            values.append(Jsonb(MESSAGES))
        elif name == "dropped_params":
            values.append([])
        else:
            value = getattr(record, name)
            if name == "candidates":
                value = [
                    {"model_id": c.model_id, "probability": c.probability, "score": c.score}
                    for c in value
                ]
            values.append(Jsonb(value) if name in _JSON and value is not None else value)
    return values


def _empty(conninfo: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("TRUNCATE ai_requests, ai_request_attempts, ai_log_segments")


_NOWHERE = "host=127.0.0.1 port=1 dbname=nowhere connect_timeout=1"


def _fill_spool(directory: Path, rows: int) -> None:
    """In a process of its own, whose end leaves the segments to whoever comes next."""
    program = (
        "import sys, os; from pathlib import Path\n"
        "from benchmarks.speed.log import RequestLog, sample_record, _NOWHERE\n"
        "log = RequestLog(_NOWHERE, Path(sys.argv[1]))\n"
        "for _ in range(int(sys.argv[2])): log.append(sample_record())\n"
        "os._exit(0)\n"
    )
    subprocess.run(
        [sys.executable, "-c", program, str(directory), str(rows)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )


def _memory(effort: Effort) -> Section:
    """Resident memory of a process that logs while PostgreSQL can't be reached."""
    program = (
        "import json, sys; from pathlib import Path\n"
        "from benchmarks.speed.log import RequestLog, sample_record, _NOWHERE, resident_mb\n"
        "log = RequestLog(_NOWHERE, Path(sys.argv[1])); log.start()\n"
        "for _ in range(1000): log.append(sample_record())\n"
        "before, most = resident_mb(), 0.0\n"
        "for n in range(int(sys.argv[2])):\n"
        "    log.append(sample_record())\n"
        "    if n % 1000 == 0: most = max(most, resident_mb())\n"
        "print(json.dumps([before, max(most, resident_mb())])); sys.stdout.flush()\n"
        "import os; os._exit(0)\n"
    )
    with tempfile.TemporaryDirectory() as spool:
        done = subprocess.run(
            [sys.executable, "-c", program, spool, str(effort.memory_rows)],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        )
        on_disk_mb = sum(f.stat().st_size for f in Path(spool).iterdir()) / 2**20
    before, after = json.loads(done.stdout)
    grown = after - before
    return Section(
        f"The log while PostgreSQL is away: {effort.memory_rows:,} records",
        (
            Row(
                "memory that it grows by",
                "MB",
                (grown,),
                ours=True,
                target=f"< {AWAY_MB} MB",
                met=grown < AWAY_MB,
            ),
            Row("the same records on disk", "MB", (on_disk_mb,)),
        ),
    )


def resident_mb() -> float:
    """Return this process's resident memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20
