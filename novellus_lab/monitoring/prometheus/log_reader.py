"""Totals of the whole log, of all processes, kept up as it grows: each row is counted once.

Rows may be late (a spool that waited for days), so neither `id` nor `created_at` tells what is new.
Each carries the transaction that wrote it, and new is what the last look's snapshot did not see.
"""

from __future__ import annotations

import threading
from decimal import Decimal
from typing import Any

import psycopg
from psycopg import IsolationLevel

from novellus_lab.errors import StoreUnavailableError
from novellus_lab.monitoring.prometheus.metrics import DURATION, OVERHEAD, TTFT
from novellus_lab.monitoring.prometheus.totals import CallGroup, Measured, RequestGroup, Totals
from novellus_lab.store.database import cause

_SNAPSHOT = b"""
SELECT s::text, pg_snapshot_xmin(s)::text FROM pg_current_snapshot() AS s
"""
_NEW = (
    "FROM public.ai_requests AS r "
    "WHERE r.written_in >= %(xmin)s::xid8"
    " AND NOT pg_visible_in_snapshot(r.written_in, %(snapshot)s::pg_snapshot)"
)
_REQUESTS = """
SELECT r.model, r.status, r.cache, CASE WHEN r.status <> 'ok' THEN r.error_class END,
       CASE WHEN r.attempts > 0 THEN width_bucket(-r.latency_ms, %(latency)s::float8[]) END,
       width_bucket(-r.ttft_ms, %(latency)s::float8[]),
       width_bucket(-r.overhead_ms, %(overhead)s::float8[]),
       CASE WHEN r.created_at > now() - interval '1 hour'
            THEN floor(extract(epoch FROM r.created_at) / 60)::bigint END,
       count(*), sum(greatest(r.latency_ms, 0)) / 1000, sum(greatest(r.ttft_ms, 0)) / 1000,
       sum(greatest(r.overhead_ms, 0)) / 1000,
       sum(r.uncached_cost_usd - r.cost_usd) FILTER (WHERE r.cache NOT IN ('off', 'miss'))
"""
_CALLS = """
SELECT a.model_id, a.role, a.status, count(*), count(*) FILTER (WHERE a.cost_usd IS NULL),
       coalesce(sum(a.cost_usd), 0),
       sum(coalesce(a.input_tokens, 0) - coalesce(a.cached_input_tokens, 0)
           - coalesce(a.cache_write_tokens, 0)),
       sum(coalesce(a.cached_input_tokens, 0)), sum(coalesce(a.cache_write_tokens, 0)),
       sum(coalesce(a.output_tokens, 0) - coalesce(a.reasoning_tokens, 0)),
       sum(coalesce(a.reasoning_tokens, 0))
"""
_REQUEST_GROUPS = " GROUP BY 1, 2, 3, 4, 5, 6, 7, 8 ORDER BY 9 DESC"
_CALL_GROUPS = " GROUP BY 1, 2, 3 ORDER BY 4 DESC"
# The commonest first: where there are too many models to tell apart, the rest are the rare ones.
_ALL_REQUESTS = (_REQUESTS + "FROM public.ai_requests AS r" + _REQUEST_GROUPS).encode()
_ALL_CALLS = (_CALLS + "FROM public.ai_request_attempts AS a" + _CALL_GROUPS).encode()
_NEW_REQUESTS = (_REQUESTS + _NEW + _REQUEST_GROUPS).encode()
_NEW_CALLS = (
    _CALLS
    + f"FROM (SELECT r.id {_NEW}) AS q JOIN public.ai_request_attempts AS a ON a.request_id = q.id"
    + _CALL_GROUPS
).encode()

KINDS = ("input", "cached_input", "cache_write", "output", "reasoning")


class LogTotals:
    """Totals of a database's log. `look` brings them up to date.

    Args:
        conninfo: the database; rights to read are enough.
    """

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._lock = threading.Lock()
        self.totals = Totals()
        self.reachable = False
        self._seen: dict[str, str] | None = None
        """The last look's snapshot, and the first transaction that had not ended by then."""

    def look(self) -> None:
        """Count what is new. The first look counts everything.

        Raises:
            StoreUnavailableError: the log can't be read; the totals stay as they were.
        """
        with self._lock:
            try:
                with psycopg.connect(self._conninfo, connect_timeout=5) as connection:
                    connection.isolation_level = IsolationLevel.REPEATABLE_READ
                    connection.read_only = True
                    self._look(connection)
            except psycopg.Error as error:
                self.reachable = False
                raise StoreUnavailableError(f"the log can't be read: {cause(error)}") from None
            self.reachable = True

    def _look(self, connection: psycopg.Connection[Any]) -> None:
        row = connection.execute(_SNAPSHOT).fetchone()
        assert row is not None  # noqa: S101
        queries = (_NEW_REQUESTS, _NEW_CALLS)
        if self._seen is None:
            queries = (_ALL_REQUESTS, _ALL_CALLS)
            # The planner expects a group for nearly every row and would sort the whole log.
            connection.execute("SET LOCAL enable_sort = off")
            connection.execute("SET LOCAL jit = off")
        place = {**_PLACE, **(self._seen or {})}
        requests, calls = (connection.execute(query, place).fetchall() for query in queries)
        # From here on nothing fails: a look counts wholly or not at all.
        for found in requests:
            self.totals.add_requests(_request_group(found))
        for found in calls:
            self.totals.add_calls(_call_group(found))
        self._seen = {"snapshot": row[0], "xmin": row[1]}


def _edges(buckets: tuple[float, ...]) -> list[float]:
    """Negative and rising: so a value that is a bound lies in the bucket that it bounds."""
    return [-1000.0 * bound for bound in reversed(buckets)]


_PLACE = {"latency": _edges(DURATION.buckets), "overhead": _edges(OVERHEAD.buckets)}


def _measured(buckets: int, above: int | None, total_s: float | None) -> Measured | None:
    return None if above is None else Measured(buckets - above, total_s or 0.0)


def _request_group(row: tuple[Any, ...]) -> RequestGroup:
    model, status, outcome, error, duration, ttft, overhead, minute, count = row[:9]
    return RequestGroup(
        count=count,
        model=model,
        status=status,
        outcome=outcome,
        error=error,
        duration=_measured(len(DURATION.buckets), duration, row[9]),
        ttft=_measured(len(TTFT.buckets), ttft, row[10]),
        overhead=_measured(len(OVERHEAD.buckets), overhead, row[11]),
        saved_usd=row[12],
        minute=minute,
    )


def _call_group(row: tuple[Any, ...]) -> CallGroup:
    model, role, status, count, unpriced, cost_usd = row[:6]
    return CallGroup(
        count=count,
        model=model,
        role=role,
        status=status,
        unpriced=unpriced,
        cost_usd=Decimal(cost_usd),
        tokens={kind: max(0, int(n)) for kind, n in zip(KINDS, row[6:], strict=True)},
    )
