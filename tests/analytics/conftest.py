"""Rows of the log, put there without calls."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from novellus_lab.analytics.grouping import Question
from novellus_lab.analytics.log_columns import REQUESTS
from novellus_lab.analytics.log_mirror import LogMirror
from novellus_lab.ids import uuid7

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NOON = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
_REQUEST = {
    "created_at": NOON, "kind": "chat", "stream": False, "status": "ok", "model": "m",
    "provider": "p", "cache": "miss", "cost_usd": 0, "uncached_cost_usd": 0, "latency_ms": 1.0,
    "attempts": 1, "tags": {},
}  # fmt: skip
_ATTEMPT = {
    "number": 1, "role": "primary", "model_id": "m", "provider": "p", "started_at": NOON,
    "status": "ok", "latency_ms": 1.0, "cost_usd": 0,
}  # fmt: skip


def put(connection: Any, table: str, rows: list[dict[str, Any]]) -> None:
    defaults = _REQUEST if table == "ai_requests" else _ATTEMPT
    for row in rows:
        values = {"id": uuid7(), **defaults, **row}
        values = {k: Jsonb(v) if isinstance(v, dict) else v for k, v in values.items()}
        names, places = ", ".join(values), ", ".join(["%s"] * len(values))
        connection.execute(
            f"INSERT INTO {table} ({names}) VALUES ({places})", list(values.values())
        )


@pytest.fixture
def connection(database: Any) -> Iterator[Any]:
    with psycopg.connect(database.conninfo, autocommit=True) as connection:
        yield connection


@pytest.fixture
def log(connection: Any) -> Callable[..., None]:
    """Put rows into `ai_requests`."""

    def write(*rows: dict[str, Any], table: str = "ai_requests") -> None:
        with connection.transaction():
            put(connection, table, list(rows))

    return write


@pytest.fixture
def mirror(database: Any, tmp_path: Any) -> Iterator[LogMirror]:
    mirror = LogMirror(database.conninfo, tmp_path / "columns")
    yield mirror
    mirror.close()


def asked(by: Any = None, every: str | None = None, tz: str = "UTC", since: Any = None, **filters):
    return Question(REQUESTS, since, by, every, tz, filters)
