"""What came of asking one item in one arm."""

from __future__ import annotations

from dataclasses import dataclass, fields
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime
    from uuid import UUID

    import polars as pl

    from novellus_lab.types import Completion


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One item, one arm. What is not known is None, never 0."""

    item_id: str
    group: str | None
    arm: str
    turn: int
    """Which of the item's arms it was to be asked: 0 first."""
    started_at: datetime
    status: str
    """`ok`, `error`, or `unfinished`: the money ended before it was asked."""
    error_class: str | None = None
    error_message: str | None = None
    model: str | None = None
    provider: str | None = None
    cache: str | None = None
    hit: bool | None = None
    cost_usd: Decimal | None = None
    """Of all provider calls made for it, failed ones included."""
    latency_ms: float | None = None
    """From call to answer, as the caller felt it; of a recorded answer, what was drawn for it."""
    ttft_ms: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    propensity: float | None = None
    score: float | None = None
    score_reason: str | None = None
    scoring_cost_usd: Decimal | None = None
    """What scoring cost: no part of `cost_usd`."""
    request_id: UUID | None = None
    content: str | None = None

    @property
    def ok(self) -> bool:
        return self.status == "ok"


COLUMNS = tuple(field.name for field in fields(Observation))


def felt_latency_ms(answer: Completion) -> float:
    """Return how long an answer took; of a recorded one, as if what was drawn had been waited for.

    A replay waits for a part of what it drew only. To compare what would have been felt, the waiting
    is exchanged for the draw.
    """
    latency_ms = answer.latency_ms
    for attempt in answer.attempts:
        drawn: Any = attempt.raw_usage.get("simulated_latency_ms")
        if attempt.provider == "replay" and isinstance(drawn, (int, float)):
            latency_ms += float(drawn) - attempt.latency_ms
    return latency_ms


def felt_latency_of_row(row: Mapping[str, Any], *, hit: bool = False) -> float | None:
    """Return the same of a row of `ai_requests`; a cache hit has its own latency, whoever answered."""
    latency_ms: float | None = row["latency_ms"]
    drawn: Any = (row["raw_usage"] or {}).get("simulated_latency_ms")
    recorded = row["provider"] == "replay" and isinstance(drawn, (int, float))
    if latency_ms is None or hit or not recorded:
        return latency_ms
    return latency_ms + float(drawn) - (row["provider_ms"] or 0.0)


def frame_of(seen: Iterable[Observation]) -> pl.DataFrame:
    """Return one row an observation."""
    import polars as pl

    rows = [
        {
            **{column: getattr(one, column) for column in COLUMNS},
            "request_id": None if one.request_id is None else str(one.request_id),
        }
        for one in seen
    ]
    money = {"cost_usd": pl.Decimal(38, 15), "scoring_cost_usd": pl.Decimal(38, 15)}
    return pl.DataFrame(rows, schema_overrides=money, infer_schema_length=None)


def total_usd(amounts: list[Decimal | None]) -> tuple[Decimal, int]:
    """Return the sum of what is known, and of how many nobody knows it."""
    known = [amount for amount in amounts if amount is not None]
    return sum(known, Decimal(0)), len(amounts) - len(known)
