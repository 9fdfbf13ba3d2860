"""What the log says before anything is asked: values to plan by, features to predict by."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datetime import datetime
    from decimal import Decimal

    from novellus_lab.pipeline.kept_connection import KeptConnection
    from novellus_lab.pipeline.question import Question

_MOST = 20_000

# Hits are not what the next comparison will pay for, or wait for.
_VALUES = """
SELECT r.cost_usd, r.latency_ms, r.status, r.output_tokens, s.value
FROM public.ai_requests AS r
LEFT JOIN LATERAL (
    SELECT value FROM public.ai_scores WHERE request_id = r.id ORDER BY scored_at DESC LIMIT 1
) AS s ON true
WHERE r.created_at >= %s AND r.kind = 'chat' AND r.status IN ('ok', 'error')
  AND r.cache IN ('off', 'miss')
ORDER BY r.created_at DESC LIMIT %s
"""


async def values_of(
    connection: KeptConnection, metric: str, since: datetime
) -> tuple[list[float], list[Decimal]]:
    """Return the latest values of a metric, and the known costs of the same calls."""

    async def read(database: Any) -> list[tuple[Any, ...]]:
        cursor = await database.execute(_VALUES, (since, _MOST))
        rows: list[tuple[Any, ...]] = await cursor.fetchall()
        return rows

    rows = await connection.run(read)
    values: list[float] = []
    for cost, latency_ms, status, output_tokens, score in rows:
        told = {
            "cost_usd": cost,
            "latency_ms": latency_ms if status == "ok" else None,
            "error_rate": float(status != "ok"),
            "output_tokens": output_tokens,
            "score": score,
        }.get(metric)
        if told is not None:
            values.append(float(told))
    return values, [row[0] for row in rows if row[0] is not None]


def features_of(question: Question) -> tuple[float, ...]:
    """Return what is known of a question before it is sent, in numbers: lengths and kinds."""
    text = question.last_user_text
    length = max(1, len(text))
    return (
        math.log1p(question.input_tokens),
        math.log1p(len(text)),
        sum(character.isdigit() for character in text) / length,
        math.log1p(text.count("\n")),
        float(len(question.messages)),
        float(bool(question.params.get("tools"))),
        math.log1p(float(question.params.get("max_tokens") or 0)),
    )
