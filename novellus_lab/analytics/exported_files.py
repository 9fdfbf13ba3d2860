"""The log as Parquet files by day: `requests/day=2026-11-24/data.parquet`, and attempts beside it.

`day=…` is what Hive, DuckDB, Polars and Spark read as a column. Days are UTC. Amounts are decimals of 38
digits, 26 behind the point; one that does not fit stands as text in `…_wide`. Ids and JSON are text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from novellus_lab.store.copy_text import ATTEMPT_COLUMNS, REQUEST_COLUMNS

if TYPE_CHECKING:
    from pathlib import Path

FILE = "data.parquet"
USD_DIGITS = 26
_DAY = re.compile(r"day=\d{4}-\d\d-\d\d")


@dataclass(frozen=True, slots=True)
class ExportedTable:
    """One of the log's tables, and how its columns stand in a file."""

    name: str
    directory: str
    time: str
    columns: tuple[str, ...]
    money: tuple[str, ...]
    texts: tuple[str, ...]
    """uuid and jsonb."""
    content: tuple[str, ...] = ()
    """What people wrote, and models."""


REQUESTS = ExportedTable(
    name="ai_requests",
    directory="requests",
    time="created_at",
    columns=REQUEST_COLUMNS,
    money=("cost_usd", "fees_usd", "uncached_cost_usd"),
    texts=(
        *("id", "cache_source_id", "candidates", "raw_usage", "tags", "params"),
        *("messages", "tool_calls"),
    ),
    content=("messages", "response", "tool_calls"),
)
ATTEMPTS = ExportedTable(
    name="ai_request_attempts",
    directory="attempts",
    time="started_at",
    columns=ATTEMPT_COLUMNS,
    money=("cost_usd", "fees_usd"),
    texts=("id", "request_id", "raw_usage", "price_lines"),
)
TABLES = (REQUESTS, ATTEMPTS)


def day_of(file: Path) -> date | None:
    """Return the day of a file, by its directory; None if it is no day's."""
    name = file.parent.name
    try:
        return date.fromisoformat(name.removeprefix("day=")) if _DAY.fullmatch(name) else None
    except ValueError:
        return None


def day_files(place: Path, table: ExportedTable) -> list[Path]:
    """Return the files of a table in an export, oldest day first."""
    return sorted(
        path for path in (place / table.directory).glob(f"day=*/{FILE}") if day_of(path) is not None
    )
