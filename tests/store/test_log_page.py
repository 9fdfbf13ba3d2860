"""docs/log.md: each query runs, each column is explained, each promise of rights holds."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from novellus_lab.store.copy_text import ATTEMPT_COLUMNS, REQUEST_COLUMNS
from novellus_lab.store.request_log import RequestLog
from tests.store.sample_records import attempt, logged_ids, record

PAGE = (Path(__file__).parents[2] / "docs" / "log.md").read_text(encoding="utf-8")
STATEMENTS = [
    statement.strip()
    for block in re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
    for statement in block.split(";\n")
    if statement.strip()
]


@pytest.fixture
def logged(database, tmp_path):
    """A database with a request, and with the partitions that the page names."""
    with psycopg.connect(database.conninfo, autocommit=True) as connection:
        for table, year, month in set(re.findall(r"(ai_request\w*)_(\d{4})_(\d\d)\b", PAGE)):
            start, end = f"{year}-{month}-01", f"{year}-{int(month) + 1:02}-01"
            connection.execute(
                f"CREATE TABLE {table}_{year}_{month} PARTITION OF {table} "
                f"FOR VALUES FROM ('{start}') TO ('{end}')"
            )
    log = RequestLog(database.conninfo, tmp_path / "spool")
    now = datetime.now(UTC)
    log.append(
        record(
            created_at=now,
            session_id="support-42",
            tags={"team": "search"},
            messages=[{"role": "user", "content": "Hi"}],
            response="Hello",
            model="gpt-4o",
            attempts=(attempt(started_at=now),),
        )
    )
    log.close()
    return database


@pytest.mark.parametrize("statement", STATEMENTS, ids=lambda s: " ".join(s.split())[:50])
def test_each_query_of_the_page_runs(logged, statement):
    with psycopg.connect(logged.conninfo) as connection:
        connection.execute(statement.encode())


def test_the_session_query_shows_the_conversation(logged):
    [query] = [s for s in STATEMENTS if "support-42" in s]
    with psycopg.connect(logged.conninfo) as connection:
        [(_, model, asked, answer)] = connection.execute(query.encode()).fetchall()
    assert (model, asked, answer) == ("gpt-4o", "Hi", "Hello")


@pytest.mark.parametrize(
    ("heading", "columns"),
    [("`ai_requests`", REQUEST_COLUMNS), ("`ai_request_attempts`", ATTEMPT_COLUMNS)],
)
def test_each_column_is_explained(heading, columns):
    section = PAGE.split(f"## {heading}", 1)[1].split("\n## ")[0]
    explained = set(re.findall(r"`(\w+)`", section))
    if heading == "`ai_request_attempts`":  # "the same columns as above"
        explained |= {c for c in columns if c in REQUEST_COLUMNS and ("token" in c or "usage" in c)}
        explained.add("web_searches")
    assert set(columns) - explained == set()


def test_the_rights_that_the_page_names_are_enough_to_log(database, tmp_path):
    [to_segments, to_tables] = re.search(
        r"needs `([A-Z, ]+)` on `ai_log_segments` and `([A-Z]+)` on the two tables", PAGE
    ).groups()
    with psycopg.connect(database.conninfo, autocommit=True) as admin:
        admin.execute("DROP ROLE IF EXISTS logs_only")
        admin.execute("CREATE ROLE logs_only LOGIN")
        admin.execute(f"GRANT {to_segments} ON ai_log_segments TO logs_only")
        admin.execute(f"GRANT {to_tables} ON ai_requests, ai_request_attempts TO logs_only")
    log = RequestLog(make_conninfo(database.conninfo, user="logs_only"), tmp_path / "spool")
    one = record(attempts=(attempt(),))
    log.append(one)
    log.flush(60)
    log.close()
    assert logged_ids(database) == [one.id]
    with psycopg.connect(database.conninfo, autocommit=True) as admin:
        admin.execute("DROP OWNED BY logs_only")
        admin.execute("DROP ROLE logs_only")
