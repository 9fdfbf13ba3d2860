"""Experiments in the database: what was planned, what was observed, how good answers were."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import orjson

from novellus_lab.errors import InvalidRequestError
from novellus_lab.experiments.observation import Observation
from novellus_lab.experiments.trial import Outcome
from novellus_lab.store.storable import storable_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import psycopg

    from novellus_lab.experiments.design import Design
    from novellus_lab.pipeline.kept_connection import KeptConnection

    Connection = psycopg.AsyncConnection[Any]

_BEGIN = """
INSERT INTO public.ai_experiments (id, name, label, kind, status, design)
VALUES (%s, %s, %s, %s, 'running', %s) ON CONFLICT (id) DO NOTHING
"""
_END = """
UPDATE public.ai_experiments SET status = %s, verdict = %s, ended_at = coalesce(ended_at, now())
WHERE id = %s
"""
_OBSERVE = """
INSERT INTO public.ai_experiment_observations
    (experiment_id, number, arm, request_id, observation)
VALUES (%s, %s, %s, %s, %s)
ON CONFLICT (experiment_id, number, arm) DO UPDATE
SET request_id = excluded.request_id, observation = excluded.observation
"""
_SCORE = """
INSERT INTO public.ai_scores (request_id, scorer, value, reason, cost_usd)
VALUES (%s, %s, %s, %s, %s)
ON CONFLICT (request_id, scorer) DO UPDATE
SET value = excluded.value, reason = excluded.reason, cost_usd = excluded.cost_usd, scored_at = now()
"""
_LIST = """
SELECT id, name, label, kind, status, design, verdict, started_at, ended_at
FROM public.ai_experiments ORDER BY started_at DESC, id DESC LIMIT %s
"""
_FIND = """
SELECT id, name, label, kind, status, design, verdict, started_at, ended_at
FROM public.ai_experiments WHERE id::text = %(key)s OR label = %(key)s OR name = %(key)s
ORDER BY started_at DESC, id DESC LIMIT 1
"""
_OBSERVED = """
SELECT number, observation FROM public.ai_experiment_observations
WHERE experiment_id = %s ORDER BY number
"""
# What failed is no answer with a cost of its own, but it may have cost something: the log knows.
_COST_OF_FAILED = """
SELECT tags ->> 'item' AS item, arm, cost_usd, id FROM public.ai_requests
WHERE experiment = %s AND status <> 'ok' AND created_at >= %s
"""


@dataclass(frozen=True, slots=True)
class StoredExperiment:
    """A row of `ai_experiments`."""

    id: UUID
    name: str
    label: str
    """What its requests have as `ai_requests.experiment`."""
    kind: str
    status: str
    design: Mapping[str, Any]
    verdict: str | None
    started_at: datetime
    ended_at: datetime | None


class ExperimentStore:
    """One per lab, on its loop. Every method raises StoreUnavailableError where the database is away."""

    def __init__(self, connection: KeptConnection) -> None:
        self._connection = connection

    async def begin(
        self, id: UUID, name: str, label: str, kind: str, design: Mapping[str, Any]
    ) -> None:
        """Note an experiment before its first call."""
        row = (id, name, label, kind, _json(design))

        async def insert(connection: Connection) -> None:
            await connection.execute(_BEGIN, row)

        await self._connection.run(insert)

    async def end(self, id: UUID, status: str, verdict: str | None) -> None:
        """Note how an experiment ended."""

        async def update(connection: Connection) -> None:
            await connection.execute(_END, (status, verdict, id))

        await self._connection.run(update)

    async def observe(
        self, id: UUID, observed: Sequence[tuple[int, Observation]], scorer: str | None
    ) -> None:
        """Keep observations (number of the item, what was seen), and the scores of their answers."""
        rows = [(id, n, o.arm, o.request_id, _json(_kept(o))) for n, o in observed]
        scores = [
            (o.request_id, scorer, o.score, o.score_reason, o.scoring_cost_usd)
            for _, o in observed
            if scorer is not None and o.request_id is not None and o.score is not None
        ]

        async def insert(connection: Connection) -> None:
            async with connection.cursor() as cursor:
                await cursor.executemany(_OBSERVE, rows)
                if scores:
                    await cursor.executemany(_SCORE, scores)

        if rows:
            await self._connection.run(insert)

    async def score(self, request_id: UUID, scorer: str, value: float, reason: str | None) -> None:
        """Keep what somebody thought of an answer."""

        async def insert(connection: Connection) -> None:
            text = None if reason is None else storable_text(reason)
            await connection.execute(_SCORE, (request_id, scorer, value, text, Decimal(0)))

        await self._connection.run(insert)

    async def costs_of_failed(
        self, label: str, since: datetime
    ) -> dict[tuple[str, str], tuple[Decimal | None, UUID]]:
        """Return what failed calls cost, by item and arm, as far as the log has them."""

        async def read(connection: Connection) -> list[tuple[Any, ...]]:
            cursor = await connection.execute(_COST_OF_FAILED, (label, since))
            return await cursor.fetchall()

        rows = await self._connection.run(read)
        return {(item, arm): (cost, id) for item, arm, cost, id in rows}

    async def stored(self, limit: int) -> list[StoredExperiment]:
        """Return experiments, newest first."""

        async def read(connection: Connection) -> list[tuple[Any, ...]]:
            return await (await connection.execute(_LIST, (limit,))).fetchall()

        return [StoredExperiment(*row) for row in await self._connection.run(read)]

    async def find(self, key: str) -> StoredExperiment:
        """Return an experiment by id, label or name (the newest of that name).

        Raises:
            InvalidRequestError: there is none.
        """

        async def read(connection: Connection) -> tuple[Any, ...] | None:
            return await (await connection.execute(_FIND, {"key": key})).fetchone()

        row = await self._connection.run(read)
        if row is None:
            raise InvalidRequestError(
                f"there is no experiment {key!r:.80}: lab.experiments.list() shows those that there are"
            )
        return StoredExperiment(*row)

    async def outcomes(self, design: Design) -> list[Outcome]:
        """Return what was observed of each item that is kept in every arm, in their order."""

        async def read(connection: Connection) -> list[tuple[Any, ...]]:
            return await (await connection.execute(_OBSERVED, (design.id,))).fetchall()

        by_number: dict[int, dict[str, Observation]] = {}
        for number, told in await self._connection.run(read):
            seen = _observation(told)
            by_number.setdefault(number, {})[seen.arm] = seen
        return [
            Outcome(number, tuple(seen[name] for name in design.names))
            for number, seen in sorted(by_number.items())
            if len(seen) == len(design.names)
        ]


def _kept(observation: Observation) -> dict[str, Any]:
    """All but what was said: texts are in the log alone, where content logging rules over them."""
    kept = {f.name: getattr(observation, f.name) for f in fields(observation)}
    del kept["content"]
    for name in ("error_message", "score_reason"):
        if kept[name] is not None:
            kept[name] = storable_text(kept[name])
    return kept


_MONEY = ("cost_usd", "scoring_cost_usd")


def _observation(told: Mapping[str, Any]) -> Observation:
    values = dict(told)
    for name in _MONEY:
        if values[name] is not None:
            values[name] = Decimal(values[name])
    values["started_at"] = datetime.fromisoformat(values["started_at"])
    if values["request_id"] is not None:
        values["request_id"] = UUID(values["request_id"])
    return Observation(**values)


def _json(value: Iterable[Any] | Mapping[str, Any]) -> str:
    return orjson.dumps(value, default=str).decode()
