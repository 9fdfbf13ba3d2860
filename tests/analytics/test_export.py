"""The log as Parquet by day, and back."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import duckdb
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from novellus_lab.analytics.export import export_log
from novellus_lab.analytics.imports.importing import import_files
from novellus_lab.errors import InvalidRequestError, StoreUnavailableError
from novellus_lab.ids import uuid7
from novellus_lab.pipeline.recording import ContentPolicy
from novellus_lab.pricing import PriceBook
from novellus_lab.store.request_log import RequestLog
from novellus_lab.types import Price
from tests.store.sample_records import attempt, full_attempt, full_record, record

DAY = datetime(2026, 11, 3, tzinfo=UTC)


@pytest.fixture
def put(database, tmp_path):
    """Log records as a lab does."""

    def log(*records: Any) -> None:
        writer = RequestLog(database.conninfo, tmp_path / "spool")
        for one in records:
            writer.append(one)
        writer.close()

    return log


def rows(database: Any) -> dict[str, list[tuple[Any, ...]]]:
    """All that PostgreSQL has of the log, as text: nothing is rounded on the way."""
    found = {}
    with psycopg.connect(database.conninfo) as connection:
        for table in ("ai_requests", "ai_request_attempts"):
            names = [
                name
                for (name,) in connection.execute(
                    "SELECT column_name FROM information_schema.columns WHERE table_name = %s "
                    "AND column_name <> 'written_in' ORDER BY ordinal_position",
                    [table],
                ).fetchall()
            ]
            shown = [
                f"trim_scale({n})::text" if n.endswith("_usd") else f"{n}::text" for n in names
            ]
            query = f"SELECT {', '.join(shown)} FROM {table} ORDER BY id"
            found[table] = connection.execute(query.encode()).fetchall()
    return found


def restore(database: Any, *paths: Any) -> Any:
    return import_files(
        paths, conninfo=database.conninfo, prices=PriceBook(), known={}, content=ContentPolicy()
    )


def empty(database: Any) -> None:
    with psycopg.connect(database.conninfo) as connection:
        connection.execute("TRUNCATE ai_requests, ai_request_attempts")


def some(n: int = 30) -> list[Any]:
    return [
        record(
            created_at=DAY + timedelta(hours=2 * i, microseconds=i),
            model="gpt-4o",
            cost_usd=Decimal(f"0.{i:020}7"),
            tags={"team": "ä \"quoted\" \\ 'one'", "n": i},
            messages=[{"role": "user", "content": f"tab\there\nline {i} \\N"}],
            response="x" * i,
            attempts=(attempt(started_at=DAY + timedelta(hours=2 * i)),),
        )
        for i in range(n)
    ]


def test_an_export_comes_back_to_the_last_digit(database, put, tmp_path):
    tiny = Price(Decimal("1.1300000000000001E-5"), fees_usd=Decimal("1E-30"), version="config")
    put(
        *some(),
        full_record(),
        record(
            created_at=DAY,
            cost_usd=Decimal("123456789012345678901234567890.123456789"),
            fees_usd=Decimal("-0.5"),
            uncached_cost_usd=Decimal(10) ** -40,
            attempts=(replace(full_attempt(), price=tiny, id=uuid7()),),
        ),
        record(created_at=DAY, messages=[], tags={}),
    )
    before = rows(database)
    report = export_log(database.conninfo, tmp_path / "out", since=None)
    assert (report.requests, report.attempts) == tuple(map(len, before.values()))
    empty(database)
    back = restore(database, tmp_path / "out")
    assert (back.calls, back.new) == (33, 33)
    assert rows(database) == before
    assert restore(database, tmp_path / "out").new == 0
    assert rows(database) == before


def test_days_lie_where_hive_puts_them_and_others_read_them(database, put, tmp_path):
    put(*some())
    out = tmp_path / "out"
    report = export_log(
        database.conninfo, out, since=DAY + timedelta(days=1), until=DAY + timedelta(days=1)
    )
    assert (report.days, report.requests) == (1, 12)
    assert [str(p.relative_to(out)) for p in sorted(out.rglob("*.parquet"))] == [
        "attempts/day=2026-11-04/data.parquet",
        "requests/day=2026-11-04/data.parquet",
    ]
    found = duckdb.sql(
        f"SELECT day, count(*), sum(cost_usd), min(created_at) "
        f"FROM read_parquet('{out}/requests/*/*.parquet', hive_partitioning = true) GROUP BY day"
    ).fetchall()
    total = sum(Decimal(f"0.{i:020}7") for i in range(12, 24))
    assert found == [
        (DAY.date() + timedelta(days=1), 12, total, DAY + timedelta(days=1, microseconds=12))
    ]


def test_exporting_a_day_again_replaces_it_and_an_empty_one_goes(database, put, tmp_path):
    put(*some())
    out = tmp_path / "out"
    export_log(database.conninfo, out, since=None)
    file = out / "requests/day=2026-11-03/data.parquet"
    assert pq.read_metadata(file).num_rows == 12
    put(record(created_at=DAY))  # late
    with psycopg.connect(database.conninfo) as connection:
        for table, time in (("ai_requests", "created_at"), ("ai_request_attempts", "started_at")):
            connection.execute(f"DELETE FROM {table} WHERE {time} >= '2026-11-05'".encode())
    report = export_log(database.conninfo, out, since=DAY)
    assert report.removed == 2
    assert pq.read_metadata(file).num_rows == 13
    assert not (out / "requests/day=2026-11-05").exists()
    assert [p for p in out.rglob("*") if p.is_file() and p.name != "data.parquet"] == []


def test_content_can_stay_at_home(database, put, tmp_path):
    put(*some(3))
    export_log(database.conninfo, tmp_path / "out", since=None, content=False)
    names = pq.read_schema(tmp_path / "out/requests/day=2026-11-03/data.parquet").names
    assert not {"messages", "response", "tool_calls"} & set(names)
    empty(database)
    dry = import_files(
        [tmp_path / "out"], conninfo=None, prices=PriceBook(), known={}, content=ContentPolicy()
    )
    assert (dry.calls, dry.new) == (3, None)
    assert rows(database)["ai_requests"] == []
    assert restore(database, tmp_path / "out").new == 3


def test_an_export_of_a_newer_version_and_a_broken_file_are_refused(database, put, tmp_path):
    put(*some(1))
    export_log(database.conninfo, tmp_path / "out", since=None)
    file = tmp_path / "out/requests/day=2026-11-03/data.parquet"
    table = pq.read_table(file, partitioning=None)
    pq.write_table(table.append_column("mood", pa.array(["fine"])), file)
    with pytest.raises(InvalidRequestError, match="mood.*newer version"):
        restore(database, tmp_path / "out")
    file.write_bytes(b"PAR1 and then nothing")
    with pytest.raises(InvalidRequestError, match="can't be read"):
        restore(database, tmp_path / "out")


def test_a_day_that_fails_leaves_what_was_there(database, put, tmp_path, monkeypatch):
    put(*some(3))
    out = tmp_path / "out"
    export_log(database.conninfo, out, since=None)
    before = (out / "requests/day=2026-11-03/data.parquet").read_bytes()
    monkeypatch.setattr(pq.ParquetWriter, "write_table", _full)
    with pytest.raises(InvalidRequestError, match="No space left"):
        export_log(database.conninfo, out, since=None)
    assert (out / "requests/day=2026-11-03/data.parquet").read_bytes() == before
    assert list(out.rglob("*.tmp")) == []


def _full(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device", "data.parquet")


def test_a_database_that_is_not_there(tmp_path):
    with pytest.raises(StoreUnavailableError, match="the log can't be read"):
        export_log("host=127.0.0.1 port=9 dbname=none", tmp_path, since="1d")
