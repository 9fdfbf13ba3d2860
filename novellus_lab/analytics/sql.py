"""`lab.sql`: DuckDB over the log, the tables beside it, and the caller's own frames."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from novellus_lab.analytics.log_columns import ATTEMPTS, REQUESTS, USD_DIGITS
from novellus_lab.analytics.selection import quoted
from novellus_lab.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import FrameType

    from duckdb import DuckDBPyConnection, DuckDBPyRelation

    from novellus_lab.analytics.log_columns import LogTable
    from novellus_lab.analytics.log_mirror import LogMirror

_LOG = {"requests": REQUESTS, "attempts": ATTEMPTS}
_BESIDE = {
    "cache": "ai_response_cache",
    "metrics": "model_performance_metrics",
    "anomalies": "ai_anomalies",
    "experiments": "ai_experiments",
    "imported_usage": "ai_imported_usage",
}
_USD = f"DECIMAL(38, {USD_DIGITS})"
_WORD = re.compile(r"\w+")
_AS_SENT = {"bool", "int2", "int4", "int8", "float4", "float8", "text", "timestamptz", "bytea"}
_FRAMES = {"polars", "pandas", "pyarrow", "duckdb", "_duckdb", "numpy"}


def log_relation(
    mirror: LogMirror, query: str, frames: Mapping[str, Any], caller: FrameType | None
) -> DuckDBPyRelation:
    """Return a query over the log as a DuckDB relation: nothing runs before its rows are asked for.

    `requests` and `attempts` are as of now, and stay so. What the columnar copy does not hold (messages,
    responses, raw usage, …) is read from PostgreSQL where the query names it; `*` leaves it out.
    DuckDB has no connection to PostgreSQL: nothing that a query does reaches the log.

    Raises:
        InvalidRequestError: the query can't be run, or a frame's name is taken.
        StoreUnavailableError: the database does not answer.
    """
    import duckdb

    if not isinstance(query, str) or not query.strip():
        raise InvalidRequestError(f"the query must be SQL, not {query!r:.80}")
    connection = mirror.connection()
    _refuse_what_is_no_query(connection, query)
    named = _tables(connection, query)
    for name, frame in frames.items():
        if name in _LOG or name in _BESIDE:
            raise InvalidRequestError(
                f"{name!r} is a table of the log: give the frame another name"
            )
        _register(connection, name, frame)
    words = {word.lower() for word in _WORD.findall(query)}
    for name, table in _LOG.items():
        if name in named and name not in frames:
            _attach_log(mirror, connection, name, table, words)
    for name, stored in _BESIDE.items():
        if name in named:
            _attach_table(mirror, connection, name, stored)
    for name in named:
        if caller is not None and not {name} & {*frames, *_LOG, *_BESIDE}:
            frame = caller.f_locals.get(name, caller.f_globals.get(name))
            if type(frame).__module__.partition(".")[0] in _FRAMES:
                _register(connection, name, frame)
    try:
        return connection.sql(query)
    except duckdb.Error as error:
        raise InvalidRequestError(f"the query can't be run: {error}") from None


def _refuse_what_is_no_query(connection: DuckDBPyConnection, query: str) -> None:
    import duckdb

    try:
        kinds = [statement.type for statement in connection.extract_statements(query)]
    except duckdb.Error as error:
        raise InvalidRequestError(f"the query can't be run: {error}") from None
    if len(kinds) != 1 or kinds[0] not in (
        duckdb.StatementType.SELECT,
        duckdb.StatementType.EXPLAIN,
    ):
        raise InvalidRequestError("lab.sql takes one query, such as SELECT: it changes nothing")


def _tables(connection: DuckDBPyConnection, query: str) -> set[str]:
    """Return the names of tables in a query: of its parse tree, or all words where it has none."""
    found = connection.execute("SELECT json_serialize_sql(?)", [query]).fetchall()[0][0]
    tree = json.loads(found)
    if tree.get("error"):
        return {word.lower() for word in _WORD.findall(query)}
    names: set[str] = set()
    stack: list[Any] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            if isinstance(name := node.get("table_name"), str) and node.get("type") == "BASE_TABLE":
                names.add(name)
            stack.extend(node.values())
        elif isinstance(node, list):
            stack.extend(node)
    return names


def _register(connection: DuckDBPyConnection, name: str, frame: Any) -> None:
    import duckdb

    try:
        connection.register(name, frame)
    except (duckdb.Error, TypeError) as error:
        raise InvalidRequestError(
            f"{name}, a {type(frame).__name__}, is no frame that DuckDB reads: {error}"
        ) from None


def _attach_log(
    mirror: LogMirror,
    connection: DuckDBPyConnection,
    name: str,
    table: LogTable,
    words: set[str],
) -> None:
    stored = mirror.columns(table.name)
    beyond = [c for c in stored if c not in table.names and c in words and _sent(c, stored[c])]
    if beyond:
        columns = [c for c in stored if c in table.names or c in beyond]
        _attach_columns(mirror, connection, name, table.name, {c: stored[c] for c in columns})
        return
    rows = mirror.rows(table)
    rows.attach(connection, f"{name}_log")
    columns_of = [
        f"coalesce({c}::{_USD}, TRY_CAST({c}_wide AS {_USD})) AS {c}" if c.endswith("_usd") else c
        for c in table.names
    ]
    connection.execute(
        f"CREATE TEMP VIEW {name} AS SELECT {', '.join(columns_of)} FROM {name}_log"  # noqa: S608
    )


def _attach_table(
    mirror: LogMirror, connection: DuckDBPyConnection, name: str, stored: str
) -> None:
    columns = mirror.columns(stored)
    if not columns:
        raise InvalidRequestError(f"this database has no {name} yet: there is no table {stored}")
    _attach_columns(mirror, connection, name, stored, columns)


def _attach_columns(
    mirror: LogMirror,
    connection: DuckDBPyConnection,
    name: str,
    stored: str,
    types: Mapping[str, str],
) -> None:
    """Make a table of PostgreSQL a view that reads it each time it is asked."""
    sent = {column: _sent(column, type) for column, type in types.items()}
    source = mirror.stream(
        f"SELECT {', '.join(sql for sql in sent.values() if sql)} FROM public.{stored}"  # noqa: S608
    )
    connection.register(f"{name}_stored", source)
    kept = ", ".join(_kept(column, types[column]) for column, sql in sent.items() if sql)
    connection.execute(f"CREATE TEMP VIEW {name} AS SELECT {kept} FROM {name}_stored")  # noqa: S608


def _sent(column: str, type: str) -> str | None:
    """Return how PostgreSQL hands a column out; None for what is of no use outside of it."""
    if type in ("vector", "xid8"):
        return None
    return quoted(column) if type in _AS_SENT else f"{quoted(column)}::text AS {quoted(column)}"


def _kept(column: str, type: str) -> str:
    """Return what DuckDB makes of it."""
    name = quoted(column)
    if type == "numeric":
        return f"TRY_CAST({name} AS {_USD}) AS {name}"
    return f"{name}::UUID AS {name}" if type == "uuid" else name
