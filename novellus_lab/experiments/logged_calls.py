"""The calls of the log that a strategy can be judged by: routed ones, with their probabilities."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from psycopg.rows import dict_row

from novellus_lab.experiments.observation import felt_latency_of_row
from novellus_lab.types import EMPTY

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from uuid import UUID

    from novellus_lab.pipeline.kept_connection import KeptConnection

_CALLS = """
SELECT r.id, r.created_at, r.stream, r.status, r.picked_model, r.propensity, r.candidates,
       r.cost_usd, r.latency_ms, r.provider_ms, r.raw_usage, r.tags, r.session_id, r.priority,
       r.params, r.messages, r.provider, s.value AS score
FROM public.ai_requests AS r
LEFT JOIN LATERAL (
    SELECT value FROM public.ai_scores
    WHERE request_id = r.id AND (%(scorer)s::text IS NULL OR scorer = %(scorer)s)
    ORDER BY scored_at DESC LIMIT 1
) AS s ON true
WHERE r.created_at >= %(since)s AND r.created_at < %(until)s
  AND r.kind = 'chat' AND r.status IN ('ok', 'error') AND r.cache IN ('off', 'miss')
  AND r.propensity > 0 AND r.requested_model IS NULL AND r.candidates IS NOT NULL
  AND (%(experiment)s::text IS NULL OR r.experiment = %(experiment)s)
ORDER BY r.created_at DESC, r.id DESC
LIMIT %(limit)s
"""


@dataclass(frozen=True, slots=True)
class LoggedCall:
    """One routed call: what was asked, who might have answered, what came of it."""

    id: UUID
    created_at: datetime
    picked: str
    propensity: float
    """Probability with which `picked` was chosen."""
    probabilities: Mapping[str, float]
    """Of all candidates, as they were logged."""
    ok: bool
    cost_usd: float | None
    """Of all provider calls of the request: failovers count for the strategy that led to them."""
    latency_ms: float | None
    """As the caller felt it; of a recorded answer, what was drawn for it."""
    score: float | None
    session_id: str | None
    arguments: Mapping[str, Any] = field(default_factory=lambda: EMPTY)
    """What was asked, as arguments of `lab.complete`; empty where content is not logged."""
    stream: bool = False


async def logged_calls(
    connection: KeptConnection,
    *,
    since: datetime,
    until: datetime,
    limit: int,
    scorer: str | None = None,
    experiment: str | None = None,
) -> list[LoggedCall]:
    """Return the routed calls of a time, the latest first.

    Cache hits were not the router's choice, and calls that named their model gave it none: neither
    is among them.

    Args:
        scorer: whose scores count; None: anybody's latest.

    Raises:
        StoreUnavailableError
    """
    given = {
        "since": since,
        "until": until,
        "limit": limit,
        "scorer": scorer,
        "experiment": experiment,
    }

    async def read(database: Any) -> list[dict[str, Any]]:
        async with database.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(_CALLS, given)
            rows: list[dict[str, Any]] = await cursor.fetchall()
            return rows

    return [_call(row) for row in await connection.run(read)]


def _call(row: Mapping[str, Any]) -> LoggedCall:
    cost = row["cost_usd"]
    return LoggedCall(
        id=row["id"],
        created_at=row["created_at"],
        picked=row["picked_model"],
        propensity=float(row["propensity"]),
        probabilities={
            str(c["model_id"]): float(c.get("probability") or 0.0)
            for c in row["candidates"]
            if not c.get("dropped")
        },
        ok=row["status"] == "ok",
        cost_usd=None if cost is None else float(cost),
        latency_ms=felt_latency_of_row(row) if row["status"] == "ok" else None,
        score=row["score"] if row["status"] == "ok" else 0.0 if row["score"] is not None else None,
        session_id=row["session_id"],
        arguments=_arguments(row),
        stream=bool(row["stream"]),
    )


def _arguments(row: Mapping[str, Any]) -> dict[str, Any]:
    if row["messages"] is None:
        return {}
    params = {key: value for key, value in (row["params"] or {}).items() if value is not None}
    priority = row["priority"]
    return {
        **params,
        "messages": row["messages"],
        "tags": row["tags"] or None,
        "session_id": row["session_id"],
        "priority": int(priority) if str(priority).lstrip("-").isdigit() else priority,
    }
