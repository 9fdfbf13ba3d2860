"""Keeps `model_performance_metrics` up to the log: incremental, idempotent, one process at a time.

Rows reach the log late (they waited in a spool) and out of order. Each carries the transaction that
wrote it, and all transactions below a snapshot's xmin have ended: so the rows at or above the xmin of
last time are all that can be new. Their minutes are counted anew from the log, whole, and so are the
hours and days that these are in. Counting a minute twice changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg

from novellus_lab.errors import StoreUnavailableError
from novellus_lab.monitoring import rollup_sql

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

logger = logging.getLogger("novellus_lab.monitoring")

Connection = psycopg.AsyncConnection[Any]

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)

_LOCK = 1313821784
_GAP = HOUR
"""Minutes so close to each other are counted together with those between."""
_MANY = 1_000
"""With more new minutes than this, the planner's picture of the rollups is out of date."""
_ANALYZE = b"ANALYZE public.model_performance_metrics"

_SINCE = b"""
SELECT pg_snapshot_xmin(pg_current_snapshot())::text, pg_snapshot_xmax(pg_current_snapshot())::text,
    (SELECT rolled_before::text FROM public.ai_rollup_progress)
"""
_TOUCHED = b"""
SELECT DISTINCT date_trunc('minute', created_at, 'UTC') FROM public.ai_requests
WHERE written_in >= %s::xid8 ORDER BY 1
"""
_ROLLED_BEFORE = b"""
INSERT INTO public.ai_rollup_progress (rolled_before) VALUES (%s::xid8)
ON CONFLICT (one) DO UPDATE SET rolled_before = excluded.rolled_before, rolled_at = now()
"""
_EXTENT = b"SELECT min(created_at), max(created_at) FROM public.ai_requests"
_FORGET = b"""
DELETE FROM public.model_performance_metrics
WHERE grain = %(grain)s AND bucket >= %(low)s AND bucket < %(high)s
"""

_INTO = "INSERT INTO public.model_performance_metrics (grain, {columns}) SELECT %(grain)s, {columns} FROM "
_INTO = _INTO.format(columns=", ".join(rollup_sql.COLUMNS))
_MINUTES = (_INTO + rollup_sql.rolled(("low", "high")) + " AS rolled").encode()
_FINER = (
    "(SELECT * FROM public.model_performance_metrics "
    "WHERE grain = %(finer)s AND bucket >= %(low)s AND bucket < %(high)s)"
)
_COARSER = (
    _INTO
    + rollup_sql.merged(
        _FINER,
        {"bucket": "date_trunc(%(grain)s, bucket, 'UTC')"}
        | {key: key for key in rollup_sql.KEYS if key != "bucket"},
    )
    + " AS merged"
).encode()


@asynccontextmanager
async def connected(conninfo: str) -> AsyncIterator[Connection]:
    """Open a connection of one's own.

    Raises:
        StoreUnavailableError: of whatever goes wrong with the database while it is held.
    """
    try:
        async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection:
            yield connection
    except (psycopg.Error, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise StoreUnavailableError(f"the metrics can't be read: {reason}") from None


async def catch_up(connection: Connection) -> int:
    """Bring the rollups up to all that is in the log now; return how many minutes that took.

    Where another process is at it, wait for it.
    """
    async with _alone(connection):
        now, _, since = await _progress(connection)
        async with connection.transaction():
            if since != "0":  # what is new is little, whatever old statistics make of it
                await connection.execute("SET LOCAL enable_seqscan = off")
            cursor = await connection.execute(_TOUCHED, [since])
            touched = [row[0] for row in await cursor.fetchall()]
        if touched:
            models = await all_models(connection)
            for low, high in _ranges(touched):
                await _roll(connection, models, low, high)
            if len(touched) > _MANY:
                await connection.execute(_ANALYZE)
        if now != since:
            await connection.execute(_ROLLED_BEFORE, [now])
    return len(touched)


async def rebuild(
    connection: Connection, told: Callable[[datetime, datetime], None] | None = None
) -> int:
    """Count everything that is in the log anew; return how many days that were.

    Rollups of times before the log's first row stay: what they were made of is gone.

    Args:
        told: is called with each day and the last.
    """
    async with _alone(connection):
        now, _, _ = await _progress(connection)
        first, last = await _one(connection, _EXTENT)
        if first is None:
            return 0
        models = await all_models(connection)
        low = floor(first, MINUTE)
        days = 0
        while low <= last:
            high = min(floor(low, DAY) + DAY, _beyond(last))
            if told is not None:
                told(low, last)
            await _roll(connection, models, low, high)
            low, days = high, days + 1
        await _roll(connection, models, low, datetime.max.replace(tzinfo=UTC))
        await connection.execute(_ANALYZE)
        await connection.execute(_ROLLED_BEFORE, [now])
    return days


async def keep_up(conninfo: str, *, every_s: float = 60.0) -> None:
    """Keep the rollups up to the log until cancelled, so that nobody who asks has to wait for it."""
    failing = False
    while True:
        try:
            async with connected(conninfo) as connection:
                await catch_up(connection)
            failing = False
        except StoreUnavailableError as error:
            if not failing:
                logger.warning("rollups are behind: %s", error)
            failing = True
        await asyncio.sleep(every_s)


def floor(time: datetime, step: timedelta) -> datetime:
    """Return the start of the minute, hour or day (UTC) that a time is in."""
    since = time.astimezone(UTC) - _EPOCH
    return _EPOCH + (since // step) * step


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@asynccontextmanager
async def _alone(connection: Connection) -> AsyncIterator[None]:
    await connection.execute("SELECT pg_advisory_lock(%s)", [_LOCK])
    try:
        yield
    finally:
        if not connection.broken and not connection.closed:
            await connection.execute("SELECT pg_advisory_unlock(%s)", [_LOCK])


async def _progress(connection: Connection) -> tuple[str, str, str]:
    """Return this snapshot's xmin and xmax, and the xmin of last time; "0" if there was none."""
    xmin, xmax, since = await _one(connection, _SINCE)
    if since is None or int(since) > int(xmax):  # a copy in a server that counts from elsewhere
        since = "0"
    return xmin, xmax, since


async def all_models(connection: Connection) -> list[str]:
    """Return the models of the log."""
    cursor = await connection.execute(rollup_sql.MODELS.encode())
    return [row[0] for row in await cursor.fetchall()]


async def _one(connection: Connection, query: bytes) -> Any:
    row = await (await connection.execute(query)).fetchone()
    assert row is not None  # noqa: S101
    return row


def _ranges(minutes: Sequence[datetime]) -> list[tuple[datetime, datetime]]:
    """Return stretches that hold all of these minutes, each within one day."""
    ranges: list[tuple[datetime, datetime]] = []
    for minute in minutes:
        if ranges:
            low, high = ranges[-1]
            if minute - high <= _GAP and floor(minute, DAY) == floor(low, DAY):
                ranges[-1] = (low, minute + MINUTE)
                continue
        ranges.append((minute, minute + MINUTE))
    return ranges


def _beyond(time: datetime) -> datetime:
    return floor(time, MINUTE) + MINUTE


async def _roll(connection: Connection, models: list[str], low: datetime, high: datetime) -> None:
    """Count a stretch of whole minutes anew, and the hours and days that it is in."""
    async with connection.transaction():
        # What was compiled for the log's many partitions costs more than it saves.
        await connection.execute("SET LOCAL jit = off")
        place = {"models": models, "grain": "minute", "low": low, "high": high}
        await connection.execute(_FORGET, place)
        await connection.execute(_MINUTES, place)
        for grain, finer, step in (("hour", "minute", HOUR), ("day", "hour", DAY)):
            place = {"grain": grain, "finer": finer, "low": floor(low, step)}
            place["high"] = high if high.year == 9999 else floor(high - MINUTE, step) + step
            await connection.execute(_FORGET, place)
            await connection.execute(_COARSER, place)
