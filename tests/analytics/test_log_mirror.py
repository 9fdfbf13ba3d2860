"""The columnar copy is what PostgreSQL holds: late rows, many processes, changes behind its back."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import psycopg
import pytest

from novellus_lab.analytics import frames, log_mirror
from novellus_lab.analytics.log_columns import ATTEMPTS, REQUESTS
from novellus_lab.analytics.log_mirror import LogMirror
from novellus_lab.errors import HomeNotWritableError, StoreUnavailableError
from tests.analytics.conftest import NOON, asked, put


@pytest.fixture(autouse=True)
def _small_files(monkeypatch):
    """Files after a few rows, and streaming after a few more."""
    monkeypatch.setattr(log_mirror, "_KEEP_ROWS", 10)
    monkeypatch.setattr(log_mirror, "_MEMORY_ROWS", 100)


def count(mirror: LogMirror, **filters) -> int:
    return frames.costs(mirror, asked(**filters))["requests"].sum()


def files(mirror: LogMirror) -> list[str]:
    return [path.name for path in mirror._directory.glob("*.parquet")]


def test_what_is_written_later_is_there_once_however_it_came(mirror, log, database):
    total = 0
    assert count(mirror) == 0
    for rows in (1, 3, 12, 9, 1, 250, 2, 30, 0, 99, 100, 101):
        log(*[{}] * rows)
        total += rows
        assert count(mirror) == count(mirror) == total
    other = LogMirror(database.conninfo, mirror._directory)
    assert count(other) == total
    other.close()


def test_a_transaction_that_ends_late_is_not_missed(mirror, log, database):
    log({})
    with psycopg.connect(database.conninfo) as slow:
        put(slow, "ai_requests", [{"created_at": NOON - timedelta(days=40)}] * 5)
        log(*[{}] * 200)
        assert count(mirror) == 201
        log(*[{}] * 20)
        assert count(mirror) == 221
    assert count(mirror) == 226
    assert count(mirror, until=NOON) == 5
    log(*[{}] * 20)
    assert count(mirror) == 246


def test_rows_that_went_are_gone(mirror, log, connection):
    log(*[{}] * 50, *[{"created_at": NOON - timedelta(days=400)}] * 20)
    assert count(mirror) == 70
    with connection.transaction():
        connection.execute("DELETE FROM ai_requests WHERE created_at < '2026-01-01'")
        connection.execute("SELECT pg_stat_force_next_flush()")
    connection.execute("SELECT 1")
    assert count(mirror) == 50
    connection.execute("DROP TABLE ai_requests_2026_11")
    assert count(mirror) == 0
    log({})
    assert count(mirror) == 1
    connection.execute("TRUNCATE ai_requests")
    assert count(mirror) == 0


def test_only_the_months_of_the_question_are_copied(mirror, log):
    log(*[{}] * 50, *[{"created_at": NOON - timedelta(days=400)}] * 20)
    assert count(mirror, until=NOON - timedelta(days=100)) == 20
    [kept] = files(mirror)
    assert count(mirror) == 70
    assert kept in files(mirror)
    assert len(files(mirror)) == 2


def test_few_files_are_left_of_many_small_ones(mirror, log):
    for _ in range(40):
        log(*[{}] * 10)
        assert count(mirror) % 10 == 0
    manifest = mirror._load(None)
    [copy] = [c for c in manifest.copies.values() if c.files]
    assert sum(rows for _, rows in copy.files) == count(mirror) == 400
    assert len(copy.files) <= 8


def test_many_at_once_agree(mirror, log, database):
    log(*[{}] * 500)
    mirrors = [LogMirror(database.conninfo, mirror._directory) for _ in range(4)]
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(count, mirrors * 4)) == {500}
        log(*[{}] * 150)
        assert set(pool.map(count, mirrors * 4)) == {650}
    for other in mirrors:
        other.close()
    manifest = mirror._load(None)
    assert sum(rows for c in manifest.copies.values() for _, rows in c.files) == 650


def test_a_copy_that_was_damaged_is_made_again(mirror, log):
    log(*[{}] * 50)
    assert count(mirror) == 50
    for name in files(mirror):
        (mirror._directory / name).unlink()
    assert count(mirror) == 50
    (mirror._directory / "manifest.json").write_text('{"format"')
    assert count(mirror) == 50
    mirror.forget()
    assert count(mirror) == 50


def test_another_database_at_the_same_place_is_another_log(mirror, log, database, server):
    log(*[{}] * 50)
    assert count(mirror) == 50
    elsewhere = LogMirror(server.conninfo, mirror._directory)
    with psycopg.connect(server.conninfo) as main:
        there = main.execute("SELECT count(*) FROM ai_requests").fetchone()[0]
    assert count(elsewhere) == there != 50
    elsewhere.close()
    assert count(mirror) == 50


def test_it_is_private(mirror, log):
    log(*[{}] * 50)
    count(mirror)
    assert stat.S_IMODE(mirror._directory.stat().st_mode) == 0o700


def test_attempts_are_copied_too(mirror, log, connection):
    requests = [
        row[0] for row in connection.execute("SELECT gen_random_uuid() FROM generate_series(1, 30)")
    ]
    log(*({"request_id": r} for r in requests), table="ai_request_attempts")
    for expected in (30, 31, 131):
        rows = mirror.rows(ATTEMPTS)
        engine = mirror.connection()
        rows.attach(engine, "log")
        assert engine.sql("SELECT count(*), count(DISTINCT id) FROM log").fetchall() == [
            (expected, expected)
        ]
        log(
            *[{"request_id": requests[0]}] * (1 if expected == 30 else 100),
            table="ai_request_attempts",
        )


def test_a_database_that_went_away_is_named_and_comes_back(mirror, log, database, server):
    log({})
    assert count(mirror) == 1
    with psycopg.connect(server.conninfo, autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
            [database.where],
        )
    assert count(mirror) == 1
    nowhere = LogMirror("host=127.0.0.1 port=9 dbname=x", mirror._directory)
    with pytest.raises(StoreUnavailableError, match="can't be read"):
        nowhere.rows(REQUESTS)


def test_a_place_that_can_not_be_written_is_named(log, database, tmp_path):
    (tmp_path / "file").touch()
    log({})
    mirror = LogMirror(database.conninfo, tmp_path / "file" / "columns")
    with pytest.raises(HomeNotWritableError, match="columns"):
        mirror.rows(REQUESTS)


@pytest.mark.parametrize("table", [REQUESTS, ATTEMPTS])
def test_a_database_whose_rows_tell_their_transaction_later_is_copied_again(
    mirror, log, connection, table
):
    """The column of an older database's rows says when it was added, not when they were written."""
    more = {"request_id": "00000000-0000-0000-0000-000000000000"} if table is ATTEMPTS else {}

    def found():
        engine = mirror.connection()
        mirror.rows(table).attach(engine, "log")
        return engine.sql("SELECT count(*), count(DISTINCT id) FROM log").fetchall()

    connection.execute(f"ALTER TABLE {table.name} DROP COLUMN written_in")
    log(*[more] * 60, table=table.name)
    assert found() == [(60, 60)]
    log(*[more] * 60, table=table.name)
    assert found() == [(120, 120)]
    connection.execute(
        f"ALTER TABLE {table.name} ADD COLUMN written_in xid8 DEFAULT pg_current_xact_id()"
    )
    assert found() == [(120, 120)]
    log(more, table=table.name)
    assert found() == [(121, 121)]
