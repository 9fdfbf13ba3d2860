"""What came of asking one item in one arm."""

from __future__ import annotations

from dataclasses import dataclass, fields
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

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


def total_usd(amounts: list[Decimal | None]) -> tuple[Decimal, int]:
    """Return the sum of what is known, and of how many nobody knows it."""
    known = [amount for amount in amounts if amount is not None]
    return sum(known, Decimal(0)), len(amounts) - len(known)
