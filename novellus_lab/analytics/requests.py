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
from novellus_lab.store.copy_text import REQUEST_COLUMNS

if TYPE_CHECKING:
    import polars as pl

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

_FIRST = (
    *("id", "created_at", "kind", "stream", "status", "model", "provider", "cache"),
    *("cost_usd", "uncached_cost_usd", "latency_ms", "ttft_ms"),
    *("input_tokens", "output_tokens", "cached_input_tokens", "reasoning_tokens"),
    *("strategy", "rule", "propensity", "picked_model", "requested_model", "attempts"),
    *("error_class", "error_message", "tags", "session_id", "experiment", "arm"),
    *("messages", "response"),
)
"""What people look at most; all other columns follow in the table's order."""

_MONEY = ("cost_usd", "fees_usd", "uncached_cost_usd")
_USD_DIGITS = 15
# Arrow has no name for uuid and jsonb, and one that loses digits for numeric: all three come as text.
_AS_TEXT = {*_MONEY, "id", "cache_source_id"} | {
    *("candidates", "raw_usage", "tags", "params", "messages", "tool_calls")
}
_AS_HEX = {"cache_key", "prompt_hash"}


def _selected(column: str) -> str:
    if column in _AS_HEX:
        return f"encode({column}, 'hex') AS {column}"
    return f"{column}::text AS {column}" if column in _AS_TEXT else column


_COLUMNS = ", ".join(map(_selected, dict.fromkeys([*_FIRST, *REQUEST_COLUMNS])))


def read_requests(
    conninfo: str,
    since: str | datetime | timedelta | None,
    *,
    until: str | datetime | timedelta | None = None,
    limit: int | None = None,
) -> pl.DataFrame:
    """Read `ai_requests`, newest first: all of its columns, and none more if there is no row.

    Costs are exact decimals, times are UTC, ids and JSON (tags, messages, …) are text.

    Raises:
        InvalidRequestError: `since` or `until` is no duration or time, `limit` no number.
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
    if limit is not None and (
        isinstance(limit, bool) or not isinstance(limit, int) or not 0 <= limit < 2**63
    ):
        raise InvalidRequestError(f"limit must be a whole number of rows, not {limit!r:.80}")
    start, end = moment("since", since), moment("until", until)
    query = f"SELECT {_COLUMNS} FROM public.ai_requests WHERE created_at >= $1 AND created_at < $2"  # noqa: S608
    query += " ORDER BY created_at DESC, id DESC"
    if limit is not None:
        query += f" LIMIT {limit}"
    try:
        with dbapi.connect(_uri(conninfo)) as connection, connection.cursor() as cursor:
            cursor.execute(query, (start or _BEGINNING, end or _END))
            table = cursor.fetch_arrow_table()
    except dbapi.Error as error:
        reason = str(error).strip().splitlines()[0]
        raise StoreUnavailableError(f"the log can't be read: {reason}") from None
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)  # noqa: S101
    return frame.with_columns(
        pl.col(_MONEY).cast(pl.Decimal(38, _USD_DIGITS)),
        pl.col("created_at").dt.convert_time_zone("UTC"),
    )


_BEGINNING = datetime(1, 1, 1, tzinfo=UTC)
_END = datetime(9999, 1, 1, tzinfo=UTC)


def duration(name: str, given: str | timedelta) -> timedelta:
    """Return the length of `"1h"`, `"7d"` or a timedelta.

    Raises:
        InvalidRequestError: it is none; `name` is the argument's.
    """
    if isinstance(given, timedelta):
        return given
    match = _DURATION.fullmatch(given.strip()) if isinstance(given, str) else None
    if match is None:
        raise InvalidRequestError(
            f"{name} must be a duration such as '1h' or '7d', not {given!r:.80}"
        )
    try:
        return timedelta(**{_UNITS[match[2]]: float(match[1])})
    except OverflowError:
        raise InvalidRequestError(f"{name} is too long: {given!r:.80}") from None


def moment(name: str, given: str | datetime | timedelta | None) -> datetime | None:
    """Return the time that `"7d"` ago, a timedelta ago, or a time (here, if it has no zone) is.

    Raises:
        InvalidRequestError: it is none of these; `name` is the argument's.
    """
    if given is None:
        return None
    try:
        if isinstance(given, datetime):
            return given if given.tzinfo is not None else given.astimezone()
        if isinstance(given, timedelta):
            return datetime.now(UTC) - given
        match = _DURATION.fullmatch(given.strip()) if isinstance(given, str) else None
        if match is not None:
            return datetime.now(UTC) - timedelta(**{_UNITS[match[2]]: float(match[1])})
    except (OverflowError, ValueError, OSError):
        raise InvalidRequestError(f"{name} is too far from today: {given!r:.80}") from None
    raise InvalidRequestError(
        f"{name} must be a duration such as '1h', '7d' or '2w', a datetime, a timedelta or None, not "
        f"{given!r:.80}"
    )


def _uri(conninfo: str) -> str:
    """ADBC hands its `uri` to libpq, which reads key=value strings as well as URLs."""
    return conninfo
