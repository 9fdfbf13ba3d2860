"""A cached answer, and its form at rest."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

import orjson

from novellus_lab.types import EMPTY, FinishReason, ToolCall, Usage

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheEntry:
    """What is needed to give an answer again as if it were new, and to say where it came from."""

    key: bytes
    content: str
    model: str
    """Our id of the model that answered."""
    provider: str
    response_model: str | None
    finish_reason: FinishReason
    usage: Usage
    raw_usage: Mapping[str, Any] = field(default_factory=lambda: EMPTY)
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str | None = None
    cost_usd: Decimal | None = None
    """What making it cost."""
    price_version: str = ""
    original_latency_ms: float | None = None
    source_request_id: UUID | None = None
    created_at: float = 0.0
    """Unix seconds."""
    expires_at: float | None = None
    """Unix seconds; None: never."""
    dropped_params: tuple[str, ...] = ()
    vector: tuple[float, ...] | None = None
    """For embeddings: the vector; `content` is empty."""
    tags: Mapping[str, Any] = field(default_factory=lambda: EMPTY)
    """Of the request that made it: by these, too, entries can be invalidated."""

    @property
    def kind(self) -> Literal["chat", "embedding", "value"]:
        """An answer, an embedding, or a value that was put in by hand (which no model made)."""
        if self.vector is not None:
            return "embedding"
        return "chat" if self.model else "value"

    def fresh(self, now: float, max_age_s: float | None = None) -> bool:
        """Whether it may be served at Unix time `now`."""
        if self.expires_at is not None and now >= self.expires_at:
            return False
        return max_age_s is None or now - self.created_at <= max_age_s

    def usable(self, now: float, stale_s: float) -> bool:
        """Whether it is fresh at Unix time `now`, or may be served while a new answer is made."""
        return self.expires_at is None or now < self.expires_at + stale_s

    def to_json(self) -> bytes:
        """Serialise all but the key. Text is kept exactly, NUL included."""
        return orjson.dumps(
            {
                "content": self.content,
                "model": self.model,
                "provider": self.provider,
                "response_model": self.response_model,
                "finish_reason": self.finish_reason,
                "usage": asdict(self.usage),
                "raw_usage": dict(self.raw_usage),
                "tool_calls": [[c.id, c.name, c.arguments] for c in self.tool_calls],
                "reasoning": self.reasoning,
                "cost_usd": None if self.cost_usd is None else str(self.cost_usd),
                "price_version": self.price_version,
                "original_latency_ms": self.original_latency_ms,
                "source_request_id": (
                    None if self.source_request_id is None else str(self.source_request_id)
                ),
                "created_at": self.created_at,
                "expires_at": self.expires_at,
                "dropped_params": self.dropped_params,
                "vector": self.vector,
                "tags": dict(self.tags),
            },
            default=str,
        )

    @classmethod
    def from_json(cls, key: bytes, text: bytes | str) -> CacheEntry:
        """Read what `to_json` wrote. Raises ValueError or KeyError if it is something else."""
        data = orjson.loads(text)
        return cls(
            key=key,
            content=data["content"],
            model=data["model"],
            provider=data["provider"],
            response_model=data["response_model"],
            finish_reason=data["finish_reason"],
            usage=Usage(**data["usage"]),
            raw_usage=data["raw_usage"],
            tool_calls=tuple(ToolCall(*call) for call in data["tool_calls"]),
            reasoning=data["reasoning"],
            cost_usd=None if data["cost_usd"] is None else Decimal(data["cost_usd"]),
            price_version=data["price_version"],
            original_latency_ms=data["original_latency_ms"],
            source_request_id=(
                None if data["source_request_id"] is None else UUID(data["source_request_id"])
            ),
            created_at=data["created_at"],
            expires_at=data["expires_at"],
            dropped_params=tuple(data["dropped_params"]),
            vector=None if data["vector"] is None else tuple(data["vector"]),
            tags=data.get("tags", EMPTY),
        )

    @property
    def size_bytes(self) -> int:
        """Roughly what it occupies in memory: text, vector, and a fixed share for the rest."""
        text = len(self.content) + sum(len(c.arguments) for c in self.tool_calls)
        return 1_500 + text + len(self.reasoning or "") + 32 * len(self.vector or ())
