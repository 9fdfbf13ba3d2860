"""What a format makes of a row: a call, a sum over calls, or nothing, with the reason."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from novellus_lab.types import EMPTY, CacheOutcome, Status

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from decimal import Decimal
    from uuid import UUID

    from novellus_lab.types import Usage


class BadRowError(Exception):
    """A row can't be what its format says; the message says why, to follow file and line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedCall:
    """One call, as far as its source tells."""

    key: str
    """What the source calls it, unique there: the id in our log is made from it."""
    id: UUID | None = None
    """Its id, if the source has one of our kind."""
    created_at: datetime
    kind: Literal["chat", "embedding"] = "chat"
    stream: bool = False
    status: Status = Status.OK
    error_class: str | None = None
    error_message: str | None = None
    status_code: int | None = None
    requested_model: str | None = None
    model: str | None = None
    provider: str | None = None
    """None: the source does not say."""
    response_model: str | None = None
    base_model: str | None = None
    """What the model really is, where its name is a deployment's."""
    service_tier: str | None = None
    cache: CacheOutcome = CacheOutcome.OFF
    usage: Usage | None = None
    raw_usage: Mapping[str, Any] = field(default_factory=lambda: EMPTY)
    cost_usd: Decimal | None = None
    """As the source states it."""
    uncached_cost_usd: Decimal | None = None
    price_version: str = "imported"
    """On whose word the cost is."""
    unpriced_reason: str | None = None
    latency_ms: float | None = None
    ttft_ms: float | None = None
    overhead_ms: float | None = None
    tags: Mapping[str, Any] = field(default_factory=lambda: EMPTY)
    session_id: str | None = None
    params: Mapping[str, Any] = field(default_factory=lambda: EMPTY)
    finish_reason: str | None = None
    response_id: str | None = None
    messages: Any = None
    response: str | None = None
    tool_calls: Any = None
    others: Mapping[str, Any] = field(default_factory=lambda: EMPTY)
    """Further fields of `RequestRecord`."""


COUNTS = (
    "requests", "input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens",
    "cache_write_1h_tokens", "input_audio_tokens", "output_audio_tokens", "web_searches",
)  # fmt: skip
"""Of a bucket, besides its cost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageBucket:
    """What a provider says was used, or charged, in a stretch of time. None: it does not say."""

    source: str
    kind: Literal["usage", "cost"]
    start: datetime
    end: datetime
    provider: str
    model: str | None
    dimensions: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    counts: Mapping[str, int | None] = field(default_factory=lambda: EMPTY)
    """Of `COUNTS`."""
    cost_usd: Decimal | None = None


@dataclass(frozen=True, slots=True)
class NotACall:
    """A row that is as it should be, and no call of a model."""

    reason: str


Item = ImportedCall | UsageBucket | NotACall
