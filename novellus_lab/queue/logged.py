"""Finds the answer of a request in the log."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from psycopg.rows import dict_row

from novellus_lab.errors import ResponseParseError
from novellus_lab.pipeline.structured import parse_answer
from novellus_lab.types import CacheOutcome, Completion, ToolCall, Usage

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    import psycopg

    from novellus_lab.pipeline.recording import ContentPolicy

_USAGE = tuple(name for name in Usage.__slots__ if name != "estimated")


async def logged_answer(
    connection: psycopg.AsyncConnection[Any], request_id: UUID, content: ContentPolicy
) -> Completion | None:
    """Return the answer that a request got, as far as the log knows it.

    None where there is none, and where the log does not hold it as it was: content is not logged,
    or is redacted.
    """
    if not content.log_content or content.redact is not None:
        return None
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            "SELECT * FROM ai_requests WHERE id = %s AND status = 'ok'", [request_id]
        )
        row = await cursor.fetchone()
    if row is None or row["response"] is None:
        return None
    return answer_of_row(row, "its worker died after it was answered: read from the log")


def answer_of_row(row: Mapping[str, Any], warning: str) -> Completion | None:
    """Return the answer that a row of `ai_requests` holds; None where it no longer can be read."""
    wanted = (row["params"] or {}).get("response_format")
    calls = tuple(ToolCall(c["id"], c["name"], c["arguments"]) for c in row["tool_calls"] or ())
    parsed = None
    if wanted is not None and row["response"]:
        try:
            parsed = parse_answer(row["response"], wanted, None)
        except ResponseParseError:
            return None
    cache = CacheOutcome(row["cache"])
    return Completion(
        content=row["response"],
        model=row["model"],
        provider=row["provider"],
        cost=row["cost_usd"],
        latency_ms=row["latency_ms"],
        usage=Usage(
            **{name: row[name] or 0 for name in _USAGE},
            estimated=bool(row["usage_estimated"]),
        ),
        cache=cache,
        request_id=row["id"],
        finish_reason=row["finish_reason"] or "unknown",
        tool_calls=calls,
        parsed=parsed,
        ttft_ms=row["ttft_ms"],
        original_latency_ms=row["original_latency_ms"],
        cache_similarity=row["cache_similarity"],
        cache_source_id=row["cache_source_id"],
        cost_saved=(row["uncached_cost_usd"] or Decimal(0)) if cache.hit else None,
        dropped_params=tuple(row["dropped_params"] or ()),
        response_model=row["response_model"],
        warnings=(warning,),
    )
