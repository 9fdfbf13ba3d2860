"""How fast records reach PostgreSQL, beside a bare COPY of the same rows; and in how much memory."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import psycopg
from psycopg.conninfo import make_conninfo

from benchmarks.speed.contenders import MESSAGES, MODEL
from benchmarks.speed.figures import ROOT, Effort, Row, Section, interleaved, median_ratio
from benchmarks.speed.processes import count_rows, database
from novellus_lab.ids import uuid7
from novellus_lab.records import RequestRecord
from novellus_lab.store.copy_text import ATTEMPT_COLUMNS, REQUEST_COLUMNS, record_lines
from novellus_lab.store.request_log import RequestLog
from novellus_lab.store.spool import create_segment
from novellus_lab.types import Attempt, CacheOutcome, Candidate, Price, PriceLine, Status, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

AT_LEAST = 0.8
BOUND_MB = 30.0
"""A chunk and its split (three times 4 MB), and what the allocator keeps beside."""
_BATCH = 5_000
"""Rows that the bare COPY sends in one transaction: about as many bytes as the log's chunk."""


def measure(effort: Effort, peer_python: str | None) -> tuple[Section, ...]:
    """Measure the log's speed with hits (one row) and with calls (two rows), then its memory."""
    del peer_python
    with database() as db:
        sections = [
            _speed(effort, db.conninfo, "hits: a row in ai_requests each", attempts=0),
            _speed(effort, db.conninfo, "calls: a row of ai_request_attempts each too", attempts=1),
        ]
        sections.append(_memory(effort, db.conninfo))
    return tuple(sections)


def _speed(effort: Effort, conninfo: str, what: str, *, attempts: int) -> Section:
    records = [_record(attempts) for _ in range(effort.log_rows)]
    rows = effort.log_rows

    def renewed() -> list[RequestRecord]:
        """Ids are keys: every turn needs its own."""
        return [
            replace(r, id=uuid7(), attempts=tuple(replace(a, id=uuid7()) for a in r.attempts))
            for r in records
        ]

    def through_the_log() -> float:
        fresh = renewed()
        with _spool() as spool:
            log = RequestLog(conninfo, spool)
            log.start()
            started = time.perf_counter()
            for record in fresh:
                log.append(record)
            log.flush(timeout_s=120.0)
            seconds = time.perf_counter() - started
            log.close()
        return rows / seconds

    def out_of_a_spool() -> float:
        fresh = renewed()
        with _spool() as spool:
            segment = create_segment(spool)
            for record in fresh:
                segment.append(record_lines(record))
            segment.close()
            log = RequestLog(conninfo, spool)
            started = time.perf_counter()
            log.start()
            while segment.path.exists():
                time.sleep(0.001)
            seconds = time.perf_counter() - started
            log.close()
        return rows / seconds

    def bare_of_values() -> float:
        tables = [_values(record_lines(record)) for record in renewed()]
        with psycopg.connect(conninfo) as connection:
            started = time.perf_counter()
            for at in range(0, rows, _BATCH):
                batch = tables[at : at + _BATCH]
                for table, columns, index in _TABLES:
                    with connection.cursor().copy(_copy(table, columns)) as copy:
                        for lines in batch:
                            for values in lines[index]:
                                copy.write_row(values)
                connection.commit()
            return rows / (time.perf_counter() - started)

    def bare_of_text() -> float:
        text = [record_lines(record) for record in renewed()]
        with psycopg.connect(conninfo) as connection:
            split = [
                (re.findall(rb"^R(.*\n)", t, re.M), re.findall(rb"^A(.*\n)", t, re.M)) for t in text
            ]
            started = time.perf_counter()
            for at in range(0, rows, _BATCH):
                batch = split[at : at + _BATCH]
                for table, columns, index in _TABLES:
                    with connection.cursor().copy(_copy(table, columns)) as copy:
                        copy.write(b"".join(line for pair in batch for line in pair[index]))
                connection.commit()
            return rows / (time.perf_counter() - started)

    def emptied(turn: Callable[[], float]) -> Callable[[], float]:
        def run() -> float:
            figure = turn()
            with psycopg.connect(conninfo, autocommit=True) as connection:
                found = connection.execute(
                    "SELECT count(*), (SELECT count(*) FROM ai_request_attempts) FROM ai_requests"
                ).fetchone()
                if found != (rows, rows * attempts):
                    wrong.append(f"{found} rows for {rows} records")
                connection.execute("TRUNCATE ai_requests, ai_request_attempts")
                connection.execute("CHECKPOINT")
            return figure

        return run

    wrong: list[str] = []
    found = interleaved(
        {
            "append + flush": emptied(through_the_log),
            "the writer alone, from a spool": emptied(out_of_a_spool),
            "floor: bare COPY, psycopg write_row": emptied(bare_of_values),
            "floor: bare COPY of ready text": emptied(bare_of_text),
        },
        effort.log_rounds,
    )
    whole, drain, values, text = found.values()
    names = list(found)
    against_values, against_text = median_ratio(whole, values), median_ratio(drain, text)
    return Section(
        f"The log; {what}",
        (
            Row(names[0], "records/s", whole, ours=True),
            Row(names[1], "records/s", drain, ours=True),
            Row(
                names[2],
                "records/s",
                values,
                beside=f"append + flush {against_values:.2f}x",
                target=f"≥ {AT_LEAST}x",
                met=against_values >= AT_LEAST,
            ),
            Row(
                names[3],
                "records/s",
                text,
                beside=f"the writer {against_text:.2f}x",
                target=f"≥ {AT_LEAST}x",
                met=against_text >= AT_LEAST,
            ),
        ),
        wrong=tuple(dict.fromkeys(wrong)),
    )


_TABLES = (
    ("ai_requests", REQUEST_COLUMNS, 0),
    ("ai_request_attempts", ATTEMPT_COLUMNS, 1),
)


def _copy(table: str, columns: tuple[str, ...]) -> bytes:
    return f"COPY {table} ({', '.join(columns)}) FROM STDIN".encode()


def _values(lines: bytes) -> tuple[list[list[str | None]], list[list[str | None]]]:
    """Turn COPY lines into the values that a program would hand to `write_row`."""
    tables: tuple[list[list[str | None]], list[list[str | None]]] = ([], [])
    for line in lines.decode().splitlines():
        values = [None if v == "\\N" else v.replace("\\\\", "\\") for v in line[1:].split("\t")]
        tables[line[0] == "A"].append(values)
    return tables


def _record(attempts: int) -> RequestRecord:
    now = datetime.now(UTC)
    usage = Usage(input_tokens=226, output_tokens=120)
    raw = {"prompt_tokens": 226, "completion_tokens": 120, "total_tokens": 346}
    cost = Decimal("0.001765")
    lines = (
        PriceLine("input", 226, Decimal("2.5"), Decimal("0.000565")),
        PriceLine("output", 120, Decimal(10), Decimal("0.0012")),
    )
    return RequestRecord(
        id=uuid7(),
        created_at=now,
        requested_model=MODEL,
        picked_model=MODEL,
        model=MODEL,
        provider="openai",
        response_model="gpt-4o-2024-08-06",
        strategy="explicit",
        candidates=(Candidate(MODEL, 1.0),),
        propensity=1.0,
        cache=CacheOutcome.MISS if attempts else CacheOutcome.MEMORY,
        cache_key=bytes(range(32)),
        usage=usage,
        raw_usage=raw,
        price_version="config",
        cost_usd=cost,
        uncached_cost_usd=cost,
        latency_ms=812.123456,
        queue_ms=0.0,
        route_ms=0.0213,
        provider_ms=811.5,
        overhead_ms=0.623,
        tags={"team": "search", "by": "speed"},
        prompt_hash=bytes(range(16)),
        params={"max_tokens": 200, "temperature": 0.7},
        finish_reason="stop",
        messages=orjson.dumps(MESSAGES),
        response="A cache keeps an answer, so that it need not be made again. " * 8,
        attempts=tuple(
            Attempt(
                id=uuid7(),
                number=number + 1,
                role="primary",
                model_id=MODEL,
                provider="openai",
                started_at=now,
                status=Status.OK,
                latency_ms=811.5,
                price=Price(cost, lines, version="config"),
                usage=usage,
                raw_usage=raw,
                response_model="gpt-4o-2024-08-06",
                response_id="chatcmpl-speed",
            )
            for number in range(attempts)
        ),
    )


@contextmanager
def _spool() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="novellus-spool-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


_PILE_UP = """
import json, logging, sys
from dataclasses import replace
from pathlib import Path
import psutil
from benchmarks.speed.log import _record
from novellus_lab.ids import uuid7
from novellus_lab.store.request_log import RequestLog

conninfo, spool, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
logging.disable()
size = lambda: psutil.Process().memory_info().rss
record, log = _record(0), RequestLog(conninfo, spool)
log.append(replace(record, id=uuid7()))
before = most = size()
for number in range(1, count):
    log.append(replace(record, id=uuid7()))
    if number % 1000 == 0:
        most = max(most, size())
waiting = log.stats().pending_bytes
print(json.dumps({"down": max(most, size()) - before, "waiting": waiting}), flush=True)
sys.stdin.readline()  # the database is there now
while log.stats().pending_bytes:
    most = max(most, size())
    try:
        log.flush(0.05)
    except Exception:
        pass
print(json.dumps({"most": max(most, size()) - before, "lost": log.stats().lost}), flush=True)
log.close()
"""


def _memory(effort: Effort, conninfo: str) -> Section:
    """Log to a database that is not there, then make it: what does the process grow by?"""
    absent = make_conninfo(conninfo, dbname="absent")
    with _spool() as spool:
        process = subprocess.Popen(
            [sys.executable, "-c", _PILE_UP, absent, str(spool), str(effort.memory_rows)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdin is not None
        down = json.loads(process.stdout.readline())
        with psycopg.connect(conninfo, autocommit=True, dbname="postgres") as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'novellus'"
            )
            connection.execute("CREATE DATABASE absent TEMPLATE novellus")
        process.stdin.write("\n")
        process.stdin.flush()
        up = json.loads(process.stdout.readline())
        process.communicate()
    logged = count_rows(absent)
    mb = {"down": down["down"] / 1e6, "most": up["most"] / 1e6}
    grew = [
        Row(name, "MB", (value,), ours=True, target=f"< {BOUND_MB:g} MB", met=value < BOUND_MB)
        for name, value in (
            ("grows by, while PostgreSQL is down", mb["down"]),
            ("grows by, until all of them are in", mb["most"]),
        )
    ]
    waiting = down["waiting"] / 1e6
    note = (
        f"{effort.memory_rows:,} records, {waiting:,.0f} MB, waited in the spool on disk; "
        f"{logged:,} rows in ai_requests afterwards, {up['lost']} lost"
    )
    return Section(
        "The log's memory",
        tuple(grew),
        (note,),
        () if logged == effort.memory_rows else (note,),
    )
