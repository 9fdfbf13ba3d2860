"""The answers of an experiment, as the log has them: what was paid for is not asked again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from psycopg.rows import dict_row

from novellus_lab.queue.logged import answer_of_row
from novellus_lab.types import Attempt, Price, Status

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from novellus_lab.experiments.trial import Ask
    from novellus_lab.pipeline.kept_connection import KeptConnection
    from novellus_lab.types import Completion

_OF_EXPERIMENT = """
SELECT * FROM public.ai_requests
WHERE experiment = %s AND status = 'ok' AND response IS NOT NULL AND tags ? 'item'
"""
_BY_ID = """
SELECT * FROM public.ai_requests WHERE id = ANY(%s) AND status = 'ok' AND response IS NOT NULL
"""
FROM_LOG = "this answer was read from the log"

Key = tuple[str, str]
"""Item and arm."""


async def answers_of(connection: KeptConnection, label: str) -> dict[Key, Completion]:
    """Return what was answered under an experiment's label, by item and arm."""
    rows = await _rows(connection, _OF_EXPERIMENT, label)
    return {
        (row["tags"]["item"], row["arm"]): answer
        for row in rows
        if (answer := _answer(row)) is not None
    }


async def answers_by_id(connection: KeptConnection, ids: list[UUID]) -> dict[UUID, Completion]:
    """Return answers by request, as far as the log has them."""
    rows = await _rows(connection, _BY_ID, ids)
    return {row["id"]: answer for row in rows if (answer := _answer(row)) is not None}


async def _rows(connection: KeptConnection, query: str, of: Any) -> list[dict[str, Any]]:
    async def read(database: Any) -> list[dict[str, Any]]:
        async with database.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(query, (of,))
            rows: list[dict[str, Any]] = await cursor.fetchall()
            return rows

    return await connection.run(read)


def _answer(row: Mapping[str, Any]) -> Completion | None:
    answer = answer_of_row(row, FROM_LOG)
    return None if answer is None else replace(answer, attempts=(_call(row),))


def answering(ask: Ask, known: Mapping[Key, Completion]) -> Ask:
    """Return an `ask` that gives what is known, and asks for the rest."""

    async def answer(call: dict[str, Any]) -> Completion:
        found = known.get((call["tags"]["item"], call["arm"]))
        return await ask(call) if found is None else found

    return answer


def _call(row: Mapping[str, Any]) -> Attempt:
    """The provider call behind an answer, as far as its latency can be told from it."""
    return Attempt(
        id=row["id"],
        number=1,
        role="primary",
        model_id=row["model"],
        provider=row["provider"],
        started_at=row["created_at"],
        status=Status.OK,
        latency_ms=row["provider_ms"] or 0.0,
        price=Price(cost_usd=row["cost_usd"], version=row["price_version"] or ""),
        raw_usage=row["raw_usage"] or {},
    )
