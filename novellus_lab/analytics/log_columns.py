"""What the columnar copy of the log holds of its two tables, and how each column gets there.

The copy has what questions about many rows need. Texts, JSON and rare columns stay in PostgreSQL,
which is asked for them where a query names them.
"""

from __future__ import annotations

from dataclasses import dataclass

USD_DIGITS = 15
"""Digits after the point of an amount in a frame; more where the log's amounts have more."""
_KEPT_DIGITS, _KEPT_WHOLE = 12, 6
"""Of an amount's column in the copy, after and before the point: so many fit in 64 bits, and add up
three times as fast as in 128. Prices of tokens have no more."""
KEPT_USD = f"DECIMAL({_KEPT_WHOLE + _KEPT_DIGITS}, {_KEPT_DIGITS})"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the copy, or two: see `money`."""

    name: str
    cast: str | None = None
    """As what PostgreSQL hands it out, where Arrow has no type for what it is there."""
    kept: str = ""
    """What DuckDB makes of that; default: the same."""

    @property
    def read(self) -> str:
        return self.name if self.cast is None else f"{self.name}::{self.cast} AS {self.name}"


@dataclass(frozen=True, slots=True)
class LogTable:
    """One of the log's tables, partitioned by `time`."""

    name: str
    time: str
    columns: tuple[Column, ...]
    stamp: str
    """Indexed xid8 column: the transaction that wrote the row. Where a database does not have it yet,
    `xmin` tells."""

    @property
    def read(self) -> str:
        """The columns, as PostgreSQL selects them."""
        return ", ".join(column.read for column in self.columns)

    @property
    def kept(self) -> str:
        """The columns, as DuckDB selects them from what PostgreSQL sent."""
        return ", ".join(column.kept or column.name for column in self.columns)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)


def exact_amount(name: str) -> str:
    """Return SQL that makes of an amount's text a decimal that adds up fast, and a text for the rest.

    DuckDB's decimals have so many digits and round, PostgreSQL's have as many as it takes: an amount that
    would be rounded is NULL, and stands as text in the column `…_wide`.
    """
    point = f"strpos({name}, '.')"
    fits = (
        f"(({point} = 0 AND strlen({name}) <= {_KEPT_WHOLE}) OR ({point} BETWEEN 1 AND "
        f"{_KEPT_WHOLE + 1} AND strlen({name}) - {point} <= {_KEPT_DIGITS}))"
    )
    amount = f"CASE WHEN {fits} THEN TRY_CAST({name} AS {KEPT_USD}) END"
    return f"{amount} AS {name}, CASE WHEN ({amount}) IS NULL THEN {name} END AS {name}_wide"


def _money(name: str) -> Column:
    return Column(name, "text", exact_amount(name))


def _uuid(name: str) -> Column:
    return Column(name, "text", f"{name}::UUID AS {name}")


def _plain(names: str) -> tuple[Column, ...]:
    return tuple(map(Column, names.split()))


REQUESTS = LogTable(
    "ai_requests",
    "created_at",
    (
        _uuid("id"),
        *_plain("created_at kind stream status error_class requested_model model provider"),
        *_plain("strategy rule cache cache_key prompt_hash"),
        *_plain("input_tokens output_tokens cached_input_tokens cache_write_tokens"),
        *_plain("reasoning_tokens usage_estimated"),
        _money("cost_usd"),
        _money("uncached_cost_usd"),
        *_plain("latency_ms ttft_ms queue_ms provider_ms overhead_ms original_latency_ms"),
        Column("tags", "text"),
        *_plain("session_id experiment arm priority attempts"),
    ),
    stamp="written_in",
)
ATTEMPTS = LogTable(
    "ai_request_attempts",
    "started_at",
    (
        _uuid("id"),
        _uuid("request_id"),
        *_plain("number role model_id provider started_at status error_class status_code"),
        *_plain("latency_ms ttft_ms input_tokens output_tokens cached_input_tokens"),
        _money("cost_usd"),
        *_plain("unpriced_reason"),
    ),
    stamp="written_in",
)
