"""The log as a frame."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from novellus_lab.errors import (
    InvalidRequestError,
    MissingDependencyError,
    StoreUnavailableError,
)

if TYPE_CHECKING:
    import polars as pl

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

# Arrow has no name for jsonb and uuid; as text they arrive as strings.
_COLUMNS = """
id::text AS id, created_at, kind, stream, status, model, provider, cache, cost_usd::text AS cost_usd,
uncached_cost_usd::text AS uncached_cost_usd, latency_ms, ttft_ms, provider_ms, queue_ms, overhead_ms,
original_latency_ms, input_tokens, output_tokens, cached_input_tokens, cache_write_tokens,
reasoning_tokens, usage_estimated, strategy, rule, propensity, picked_model, requested_model,
response_model, attempts, error_class, error_message, finish_reason, price_version,
cache_source_id::text AS cache_source_id, session_id, experiment, arm, priority, tags::text AS tags,
candidates::text AS candidates, messages::text AS messages, response
"""


def read_requests(
    conninfo: str,
    since: str | datetime | timedelta | None,
    *,
    until: datetime | None = None,
    limit: int | None = None,
) -> pl.DataFrame:
    """Read `ai_requests`, newest first. Costs are exact decimals, times are UTC.

    Raises:
        InvalidRequestError: `since` is no duration or time.
        StoreUnavailableError: the database does not answer.
        MissingDependencyError: Polars or the Arrow driver is not installed.
    """
    try:
        import polars as pl
        from adbc_driver_postgresql import dbapi
    except ImportError as error:
        raise MissingDependencyError(
            f"reading the log as a frame needs {error.name}: pip install 'novellus_lab[analytics]'"
        ) from None
    start = starting(since)
    query = f"SELECT {_COLUMNS} FROM public.ai_requests WHERE created_at >= $1 AND created_at < $2"  # noqa: S608
    query += " ORDER BY created_at DESC, id DESC"
    if limit is not None:
        query += f" LIMIT {int(limit)}"
    end = until or datetime(9999, 1, 1, tzinfo=UTC)
    try:
        with dbapi.connect(_uri(conninfo)) as connection, connection.cursor() as cursor:
            cursor.execute(query, (start, end))
            table = cursor.fetch_arrow_table()
    except dbapi.Error as error:
        reason = str(error).strip().splitlines()[0]
        raise StoreUnavailableError(f"the log can't be read: {reason}") from None
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)  # noqa: S101
    return frame.with_columns(
        pl.col("cost_usd", "uncached_cost_usd").cast(pl.Decimal(38, 12)),
        pl.col("created_at").dt.convert_time_zone("UTC"),
    )


def starting(since: str | datetime | timedelta | None) -> datetime:
    """Return the UTC time that `"7d"`, a timedelta, a time or None (the beginning) mean."""
    if since is None:
        return datetime(1, 1, 1, tzinfo=UTC)
    if isinstance(since, datetime):
        return since if since.tzinfo is not None else since.astimezone()
    if isinstance(since, timedelta):
        return datetime.now(UTC) - since
    match = _DURATION.fullmatch(since.strip()) if isinstance(since, str) else None
    if match is None:
        raise InvalidRequestError(
            f"since must be a duration such as '1h', '7d' or '2w', a datetime, a timedelta or None, "
            f"not {since!r}"
        )
    return datetime.now(UTC) - timedelta(**{_UNITS[match[2]]: float(match[1])})


def _uri(conninfo: str) -> str:
    """ADBC hands its `uri` to libpq, which reads key=value strings as well as URLs."""
    return conninfo
