"""The rows of batches at providers: batches, their parts, their items. Each function is one step.

A part is prepared -> submitting -> running -> cancelling -> ended, and never goes back: only one
process ever brings it from prepared to submitting, and only after that is anything sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psycopg.rows import class_row

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime
    from uuid import UUID

    import psycopg

    Connection = psycopg.AsyncConnection[Any]


@dataclass(frozen=True, slots=True)
class BatchRow:
    """A row of `ai_provider_batches`, with the counts of its items."""

    id: UUID
    requests: int
    created_at: datetime
    ended_at: datetime | None
    open: int
    failed: int


@dataclass(frozen=True, slots=True)
class PartRow:
    """A row of `ai_provider_batch_parts`."""

    id: UUID
    batch_id: UUID
    model_id: str
    provider: str
    requests: int
    status: str
    provider_batch_id: str | None
    completed: int
    failed: int
    cancel_asked: bool
    submitted_at: datetime | None
    checked_at: datetime | None
    expires_at: datetime | None
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class ItemRow:
    """A row of `ai_provider_batch_items`, with when it was asked."""

    batch_id: UUID
    position: int
    part_id: UUID | None
    waits_for: UUID | None
    request_id: UUID
    attempt_id: UUID
    status: str
    cache_key: bytes | None
    request: Any
    dropped: list[str]
    result: Any
    error: Any
    created_at: datetime


@dataclass(frozen=True, slots=True)
class NewItem:
    """An item to be stored: open, or ended before anything was sent."""

    position: int
    request_id: UUID
    attempt_id: UUID
    status: str = "open"
    part_id: UUID | None = None
    waits_for: UUID | None = None
    cache_key: bytes | None = None
    request: str | None = None
    dropped: tuple[str, ...] = ()
    result: str | None = None
    error: str | None = None


_BATCHES = """
SELECT b.id, b.requests, b.created_at, b.ended_at,
       count(*) FILTER (WHERE i.status = 'open')::int AS open,
       count(*) FILTER (WHERE i.status = 'failed')::int AS failed
FROM public.ai_provider_batches AS b LEFT JOIN public.ai_provider_batch_items AS i ON i.batch_id = b.id
"""
_PARTS = (
    "SELECT id, batch_id, model_id, provider, requests, status, provider_batch_id, completed, failed,"
    " cancel_asked, submitted_at, checked_at, expires_at, ended_at FROM public.ai_provider_batch_parts "
)
_ITEMS = (
    "SELECT i.batch_id, position, part_id, waits_for, request_id, attempt_id, status, cache_key,"
    " request, dropped, result, error, b.created_at FROM public.ai_provider_batch_items AS i"
    " JOIN public.ai_provider_batches AS b ON b.id = i.batch_id "
)


async def insert(
    connection: Connection,
    id: UUID,
    created_at: datetime,
    parts: Sequence[tuple[UUID, str, str, int]],
    items: Sequence[NewItem],
) -> None:
    """Store a batch, once if repeated. `parts`: id, model, provider, number of requests."""
    made = await connection.execute(
        "INSERT INTO public.ai_provider_batches (id, requests, created_at) VALUES (%s, %s, %s)"
        " ON CONFLICT DO NOTHING",
        [id, len(items), created_at],
    )
    if made.rowcount == 0:
        return
    async with connection.cursor() as cursor:
        await cursor.executemany(
            "INSERT INTO public.ai_provider_batch_parts (id, batch_id, model_id, provider, requests)"
            " VALUES (%s, %s, %s, %s, %s)",
            [(part, id, model, provider, count) for part, model, provider, count in parts],
        )
        await cursor.executemany(
            "INSERT INTO public.ai_provider_batch_items (batch_id, position, part_id, waits_for,"
            " request_id, attempt_id, status, cache_key, request, dropped, result, error, finished_at)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s::json, %s, %s::json, %s::json,"
            " CASE WHEN %s THEN now() END)",
            [
                (
                    id,
                    item.position,
                    item.part_id,
                    item.waits_for,
                    item.request_id,
                    item.attempt_id,
                    item.status,
                    item.cache_key,
                    item.request,
                    list(item.dropped),
                    item.result,
                    item.error,
                    item.status != "open",
                )
                for item in items
            ],
        )


async def batches(connection: Connection, id: UUID | None = None, limit: int = 1) -> list[BatchRow]:
    """Return a batch, or the latest ones, newest first."""
    async with connection.cursor(row_factory=class_row(BatchRow)) as cursor:
        await cursor.execute(
            _BATCHES
            + "WHERE %s::uuid IS NULL OR b.id = %s GROUP BY b.id ORDER BY b.id DESC LIMIT %s",
            [id, id, limit],
        )
        return await cursor.fetchall()


async def open_batches(connection: Connection) -> list[UUID]:
    """Return the batches that have not ended, oldest first."""
    found = await connection.execute(
        "SELECT id FROM public.ai_provider_batches WHERE ended_at IS NULL ORDER BY id"
    )
    return [row[0] for row in await found.fetchall()]


async def parts(connection: Connection, batch_id: UUID) -> list[PartRow]:
    """Return the parts of a batch, and those of others that its items wait for."""
    async with connection.cursor(row_factory=class_row(PartRow)) as cursor:
        await cursor.execute(
            _PARTS + "WHERE batch_id = %s OR id IN (SELECT leader.part_id FROM"
            " public.ai_provider_batch_items AS i JOIN public.ai_provider_batch_items AS leader"
            " ON leader.request_id = i.waits_for WHERE i.batch_id = %s AND i.status = 'open')"
            " ORDER BY id",
            [batch_id, batch_id],
        )
        return await cursor.fetchall()


async def part(connection: Connection, id: UUID) -> PartRow | None:
    """Return a part as it stands."""
    async with connection.cursor(row_factory=class_row(PartRow)) as cursor:
        await cursor.execute(_PARTS + "WHERE id = %s", [id])
        return await cursor.fetchone()


async def begin(connection: Connection, part_id: UUID) -> bool:
    """Note that a part is about to be sent; False: somebody else did, or gave it up."""
    moved = await connection.execute(
        "UPDATE public.ai_provider_batch_parts SET status = 'submitting', submitted_at = now()"
        " WHERE id = %s AND status = 'prepared'",
        [part_id],
    )
    return moved.rowcount == 1


async def heard(
    connection: Connection,
    part_id: UUID,
    *,
    provider_batch_id: str,
    status: str,
    completed: int,
    failed: int,
    expires_at: datetime | None,
) -> None:
    """Note what the provider said of a part. That it has ended is noted by `end`, later."""
    await connection.execute(
        "UPDATE public.ai_provider_batch_parts SET provider_batch_id = %s, status = %s,"
        " completed = %s, failed = %s, expires_at = coalesce(%s, expires_at), checked_at = now()"
        " WHERE id = %s AND status <> 'ended'",
        [provider_batch_id, status, completed, failed, expires_at, part_id],
    )


async def end(connection: Connection, part_id: UUID) -> None:
    """Note that all of a part is known."""
    await connection.execute(
        "UPDATE public.ai_provider_batch_parts SET status = 'ended', ended_at = now(),"
        " checked_at = now() WHERE id = %s",
        [part_id],
    )


async def known_provider_ids(connection: Connection, provider: str) -> set[str]:
    """Return the provider's ids of all batches that are ours."""
    found = await connection.execute(
        "SELECT provider_batch_id FROM public.ai_provider_batch_parts"
        " WHERE provider = %s AND provider_batch_id IS NOT NULL",
        [provider],
    )
    return {row[0] for row in await found.fetchall()}


async def open_items(connection: Connection, part_id: UUID) -> list[ItemRow]:
    """Return the items of a part that have not ended."""
    async with connection.cursor(row_factory=class_row(ItemRow)) as cursor:
        await cursor.execute(
            _ITEMS + "WHERE part_id = %s AND status = 'open' ORDER BY position", [part_id]
        )
        return await cursor.fetchall()


async def followers(connection: Connection, batch_id: UUID) -> list[tuple[ItemRow, str, Any, Any]]:
    """Return the open items whose leader has ended, with its status, result and error."""
    async with connection.cursor(row_factory=class_row(ItemRow)) as cursor:
        await cursor.execute(
            _ITEMS + "WHERE i.batch_id = %s AND status = 'open' AND waits_for IS NOT NULL",
            [batch_id],
        )
        waiting = await cursor.fetchall()
    found = await connection.execute(
        "SELECT request_id, status, result, error FROM public.ai_provider_batch_items"
        " WHERE request_id = ANY(%s) AND status <> 'open'",
        [[item.waits_for for item in waiting]],
    )
    leaders = {row[0]: row[1:] for row in await found.fetchall()}
    return [(item, *leaders[item.waits_for]) for item in waiting if item.waits_for in leaders]


async def nobody_else_submits(connection: Connection) -> None:
    """Until this transaction ends: what equals a request under way is then surely seen."""
    await connection.execute(
        "SELECT pg_advisory_xact_lock(hashtextextended('novellus batches', 0))"
    )


async def leaders(connection: Connection, keys: Collection[bytes]) -> dict[bytes, UUID]:
    """Return for each cache key the request that is under way at a provider, if one is."""
    found = await connection.execute(
        "SELECT DISTINCT ON (cache_key) cache_key, request_id FROM public.ai_provider_batch_items"
        " WHERE cache_key = ANY(%s) AND status = 'open' AND part_id IS NOT NULL"
        " ORDER BY cache_key, request_id",
        [list(keys)],
    )
    return {bytes(key): request_id for key, request_id in await found.fetchall()}


async def logged(connection: Connection, request_ids: Sequence[UUID]) -> set[UUID]:
    """Return those of the requests that are in the log: their process died before it said more."""
    found = await connection.execute(
        "SELECT id FROM public.ai_requests WHERE id = ANY(%s)", [list(request_ids)]
    )
    return {row[0] for row in await found.fetchall()}


async def finish(
    connection: Connection, ended: Sequence[tuple[UUID, str | None, str | None]]
) -> None:
    """Store what became of items: request id, result, error."""
    async with connection.cursor() as cursor:
        await cursor.executemany(
            "UPDATE public.ai_provider_batch_items SET result = %s::json, error = %s::json,"
            " status = CASE WHEN %s THEN 'done' ELSE 'failed' END, request = NULL,"
            " finished_at = now() WHERE request_id = %s AND status = 'open'",
            [(result, error, error is None, id) for id, result, error in ended],
        )


async def close(connection: Connection, batch_id: UUID) -> None:
    """Note that a batch has ended, if all its items have."""
    await connection.execute(
        "UPDATE public.ai_provider_batches AS b SET ended_at = now() WHERE id = %s AND ended_at IS NULL"
        " AND NOT EXISTS (SELECT FROM public.ai_provider_batch_items AS i"
        " WHERE i.batch_id = b.id AND status = 'open')",
        [batch_id],
    )


async def ended_items(
    connection: Connection, batch_id: UUID, but: Collection[int]
) -> list[tuple[int, Any, Any]]:
    """Return position, result and error of the items that have ended, but for some positions."""
    found = await connection.execute(
        "SELECT position, result, error FROM public.ai_provider_batch_items WHERE batch_id = %s"
        " AND status <> 'open' AND NOT position = ANY(%s) ORDER BY position",
        [batch_id, list(but)],
    )
    return await found.fetchall()


async def ask_to_cancel(connection: Connection, batch_id: UUID) -> int:
    """Note that a batch shall be cancelled; return how many parts had not ended."""
    asked = await connection.execute(
        "UPDATE public.ai_provider_batch_parts SET cancel_asked = true"
        " WHERE batch_id = %s AND status <> 'ended'",
        [batch_id],
    )
    return asked.rowcount


async def forget(connection: Connection, days: int) -> None:
    """Forget batches that ended so long ago. Their requests stay in the log."""
    await connection.execute(
        "DELETE FROM public.ai_provider_batches WHERE ended_at < now() - make_interval(days => %s)",
        [days],
    )
