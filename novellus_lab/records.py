"""The rows of the log: one `RequestRecord` a request, one `Attempt` a provider call.

Field names are column names of `ai_requests`; the writer keeps the two in step (tested).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from novellus_lab.types import EMPTY, Attempt, CacheOutcome, Candidate, Status, Usage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from decimal import Decimal
    from uuid import UUID


@dataclass(slots=True, kw_only=True)
class RequestRecord:
    """Everything that `ai_requests` knows about one request.

    `None` is SQL NULL. Not frozen: a hot path builds one per cache hit, and slots assignment is
    five times cheaper; nobody changes one after it was handed to the log.
    """

    id: UUID
    created_at: datetime
    """When the call was made (UTC)."""
    kind: Literal["chat", "embedding"] = "chat"
    stream: bool = False
    status: Status = Status.OK
    error_class: str | None = None
    error_message: str | None = None

    requested_model: str | None = None
    """The `model_id` that the caller asked for, if any."""
    picked_model: str | None = None
    """The strategy's pick: `propensity` is its probability. Failover may lead elsewhere."""
    model: str | None = None
    """The model that answered."""
    provider: str | None = None
    response_model: str | None = None
    strategy: str | None = None
    rule: str | None = None
    candidates: Sequence[Candidate] = ()
    propensity: float | None = None
    route_reason: str | None = None
    """Why another strategy than the one asked for decided, or why a cascade went up."""

    cache: CacheOutcome = CacheOutcome.OFF
    cache_key: bytes | None = None
    cache_similarity: float | None = None
    cache_source_id: UUID | None = None

    usage: Usage | None = None
    """Of the answer. Its fields are columns of the same names; `estimated` is usage_estimated."""
    raw_usage: Mapping[str, Any] = field(default_factory=lambda: EMPTY)
    price_version: str | None = None
    cost_usd: Decimal | None = None
    """Sum over the attempts; NULL if one of them has no known price."""
    fees_usd: Decimal | None = None
    uncached_cost_usd: Decimal | None = None
    """What it would have cost without the cache."""

    latency_ms: float | None = None
    ttft_ms: float | None = None
    queue_ms: float | None = None
    """Waiting: rate limits, retry back-off."""
    route_ms: float | None = None
    provider_ms: float | None = None
    overhead_ms: float | None = None
    """latency - provider - queue: what this package itself added."""
    original_latency_ms: float | None = None

    tags: Mapping[str, Any] = field(default_factory=lambda: EMPTY)
    session_id: str | None = None
    experiment: str | None = None
    arm: str | None = None
    priority: str | None = None

    prompt_hash: bytes | None = None
    params: Mapping[str, Any] = field(default_factory=lambda: EMPTY)
    """temperature, max_tokens, … as they were asked for."""
    dropped_params: Sequence[str] = ()
    finish_reason: str | None = None
    messages: Any = None
    """NULL when content logging is off. May also be pre-encoded JSON as `bytes`."""
    response: str | None = None
    tool_calls: Any = None

    attempts: Sequence[Attempt] = ()
    """Become rows of `ai_request_attempts`."""

    def again(self, id: UUID, created_at: datetime, latency_ms: float) -> RequestRecord:
        """Return the same cache hit, of another request."""
        twin = object.__new__(RequestRecord)
        for name in _FIELDS:  # half the time of `copy`
            setattr(twin, name, getattr(self, name))
        twin.id, twin.created_at = id, created_at
        twin.latency_ms = twin.overhead_ms = latency_ms
        return twin


_FIELDS = tuple(RequestRecord.__dataclass_fields__)
