"""What flows between the steps of a request: immutable, plain, without behaviour of its own.

Units are in the names. Money is `Decimal` US dollars; `None` means *unknown*, never zero.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime
    from decimal import Decimal
    from uuid import UUID

    from novellus_lab.errors import NovellusError

JSON = Any
"""Anything that JSON can hold."""

Message = dict[str, Any]
"""One message of a conversation in OpenAI's form: role, content, tool_calls, tool_call_id, name."""

EMPTY: Mapping[str, Any] = MappingProxyType({})

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "error", "unknown"]


class CacheOutcome(StrEnum):
    """Where an answer came from. Compares equal to its plain string."""

    OFF = "off"
    MISS = "miss"
    MEMORY = "memory"
    REDIS = "redis"
    POSTGRES = "postgres"
    SEMANTIC = "semantic"
    COALESCED = "coalesced"

    @property
    def hit(self) -> bool:
        """Whether no provider call was made for this request."""
        return self not in (CacheOutcome.OFF, CacheOutcome.MISS)


class Status(StrEnum):
    """How a request or an attempt ended."""

    OK = "ok"
    ERROR = "error"
    CANCELLED = "cancelled"
    REFUSED = "refused"
    """We did not send it: a bad argument, an unknown model, nothing to route to."""


@dataclass(frozen=True, slots=True, repr=False)
class Usage:
    """Tokens by kind, in one convention for all providers.

    `input_tokens` includes cached input and cache writes; `output_tokens` includes reasoning.
    (OpenAI and Gemini count this way; Anthropic's own `input_tokens` excludes cached and written
    ones, its adapter adds them.)
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    """Part of `input_tokens` that was read from the provider's prompt cache."""
    cache_write_tokens: int = 0
    """Part of `input_tokens` that was written to the provider's prompt cache (all lifetimes)."""
    cache_write_1h_tokens: int = 0
    """Part of `cache_write_tokens` with a lifetime of one hour (dearer at Anthropic)."""
    reasoning_tokens: int = 0
    """Part of `output_tokens` that was spent on hidden reasoning."""
    input_audio_tokens: int = 0
    """Part of `input_tokens` that is audio."""
    cached_audio_tokens: int = 0
    """Part of `cached_input_tokens` that is audio."""
    output_audio_tokens: int = 0
    """Part of `output_tokens` that is audio."""
    output_image_tokens: int = 0
    """Part of `output_tokens` that is images (dearer than text at Google)."""
    web_searches: int = 0
    """Provider-side web searches, charged apart from tokens."""
    estimated: bool = False
    """True where the provider never reported usage and we counted ourselves (abandoned streams)."""

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def __repr__(self) -> str:
        """Input and output, and of the other kinds those that are there."""
        told = ", ".join(
            f"{f.name}={value}"
            for f in fields(self)
            if (value := getattr(self, f.name)) or f.name in ("input_tokens", "output_tokens")
        )
        return f"Usage({told})"


@dataclass(frozen=True, slots=True)
class PriceLine:
    """One line of a bill: so many units of a kind, at so much, come to this."""

    kind: str
    """input, cached_input, cache_write, cache_write_1h, output, input_audio, …, web_search."""
    quantity: int
    usd_per_million: Decimal | None
    """None where the price is not linear (per request, or tiered within the line)."""
    cost_usd: Decimal


@dataclass(frozen=True, slots=True)
class Price:
    """What a call cost, and on whose word."""

    cost_usd: Decimal | None
    """Tokens and fees together; None when the price is unknown (`reason` says why)."""
    lines: tuple[PriceLine, ...] = ()
    fees_usd: Decimal | None = None
    """The part of `cost_usd` that is not for tokens (web search, per-request fees)."""
    version: str = ""
    """Source of the price: `genai-prices 0.2.3`, `config`, `provider` (billed), `local` (free)."""
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function that the model wants called. `arguments` is the model's JSON text, unparsed."""

    id: str
    name: str
    arguments: str

    def as_message_part(self) -> dict[str, Any]:
        """OpenAI's form, as it stands in an assistant message's `tool_calls`."""
        return {
            "id": self.id,
            "type": "function",
            "function": {"name": self.name, "arguments": self.arguments},
        }


@dataclass(frozen=True, slots=True)
class Reply:
    """What a provider answered, in our terms."""

    content: str
    usage: Usage
    model: str
    """The model's name as the provider states it (`gpt-4o-2024-08-06`)."""
    finish_reason: FinishReason = "stop"
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str | None = None
    """Reasoning text or summary, where the provider shows it."""
    raw_usage: Mapping[str, Any] = field(default_factory=lambda: EMPTY)
    """The provider's own usage object, verbatim: history can be priced again from it."""
    response_id: str | None = None
    service_tier: str | None = None
    other_models: tuple[tuple[str, Usage], ...] = ()
    """What further models did inside the call, each billed at its own prices and not in `usage`
    (Anthropic's advisor): (model, usage)."""
    billed_cost_usd: Decimal | None = None
    """What the provider itself says it charged (OpenRouter does)."""
    dropped_params: tuple[str, ...] = ()
    """Parameters that were asked for, can't be honoured here, and were left out by configuration."""
    simulated_latency_ms: float | None = None
    """Replay only: the latency that was drawn, whether or not it was waited for."""


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of a stream, as a provider adapter yields it.

    Text arrives in `content`. `usage` is a running count where the provider gives one before the
    end, so that a stream that is abandoned can be priced. The last delta carries `reply`, whole.
    """

    content: str = ""
    reasoning: str = ""
    usage: Usage | None = None
    raw_usage: Mapping[str, Any] | None = None
    model: str | None = None
    response_id: str | None = None
    reply: Reply | None = None


@dataclass(frozen=True, slots=True)
class EmbeddingReply:
    """Vectors in the order of the texts."""

    vectors: tuple[tuple[float, ...], ...]
    usage: Usage
    model: str
    raw_usage: Mapping[str, Any] = field(default_factory=lambda: EMPTY)
    response_id: str | None = None
    dropped_params: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that could have answered, and how the strategy saw it."""

    model_id: str
    probability: float = 0.0
    """Probability with which the strategy would pick it (0 when dropped)."""
    score: float | None = None
    """The strategy's own figure: a weight, an expected cost in USD, a latency in ms."""
    dropped: str | None = None
    """Why it was not considered, if it was not."""


@dataclass(frozen=True, slots=True)
class Route:
    """How the model was chosen."""

    strategy: str
    candidates: tuple[Candidate, ...]
    picked: str
    propensity: float
    """Probability with which `picked` was chosen among the candidates."""
    rule: str | None = None
    reason: str | None = None
    """Why another strategy than the one that was asked for decided."""

    def _repr_html_(self) -> str:
        from novellus_lab.display import route_html

        return route_html(self)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One provider call: the first, a retry, or a failover."""

    id: UUID
    number: int
    role: Literal["primary", "retry", "failover", "hedge", "shadow", "judge"]
    model_id: str
    provider: str
    started_at: datetime
    status: Status
    latency_ms: float
    price: Price
    usage: Usage = field(default_factory=Usage)
    raw_usage: Mapping[str, Any] = field(default_factory=lambda: EMPTY)
    response_model: str | None = None
    ttft_ms: float | None = None
    error_class: str | None = None
    error_message: str | None = None
    status_code: int | None = None
    retry_after_s: float | None = None
    response_id: str | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of `lab.stream(...)`. `str(chunk)` is its text."""

    content: str
    reasoning: str = ""

    def __str__(self) -> str:
        return self.content


_PUBLIC = (
    "content",
    "model",
    "provider",
    "cost",
    "latency_ms",
    "usage",
    "cache",
    "request_id",
    "finish_reason",
    "tool_calls",
    "parsed",
    "reasoning",
    "route",
    "attempts",
    "ttft_ms",
    "original_latency_ms",
    "cache_similarity",
    "cache_source_id",
    "cache_source_prompt",
    "cost_saved",
    "dropped_params",
    "response_model",
    "is_replay",
    "warnings",
)


@dataclass(frozen=True, eq=False)
class Completion:
    """An answer, and everything that is known about how it came.

    Attributes and keys are the same: `r.content` is `r["content"]`. In a notebook it shows itself
    as the rendered answer with one quiet line below.
    """

    content: str
    model: str
    """Our id of the model that answered (not necessarily the one that was picked first)."""
    provider: str
    cost: Decimal | None
    """US dollars of all provider calls that this request made; 0 for a cache hit; None if unknown."""
    latency_ms: float
    """From the call to the answer, as the caller felt it. A cache hit has its own."""
    usage: Usage
    cache: CacheOutcome
    request_id: UUID
    finish_reason: FinishReason = "stop"
    tool_calls: tuple[ToolCall, ...] = ()
    parsed: Any = None
    """The answer as JSON, or as the Pydantic model that `response_format` named."""
    reasoning: str | None = None
    route: Route | None = None
    """None for a cache hit: the router chose nothing."""
    attempts: tuple[Attempt, ...] = ()
    ttft_ms: float | None = None
    """Time to first token, streams only."""
    original_latency_ms: float | None = None
    """For a cache hit, how long the provider took when the answer was made."""
    cache_similarity: float | None = None
    cache_source_id: UUID | None = None
    """The request that made the cached answer."""
    cache_source_prompt: str | None = None
    """Of a semantic hit, the question that the answer was made for."""
    cost_saved: Decimal | None = None
    """For a cache hit, what the answer cost when it was made."""
    dropped_params: tuple[str, ...] = ()
    response_model: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def is_replay(self) -> bool:
        """True where the answer was recorded earlier and is served by the `replay` provider."""
        return self.provider == "replay"

    def again(self, request_id: UUID, latency_ms: float) -> Completion:
        """Return the same answer, given to another request: `dataclasses.replace`, ten times as fast."""
        twin = object.__new__(Completion)
        vars(twin).update(vars(self), request_id=request_id, latency_ms=latency_ms)
        return twin

    def __getitem__(self, key: str) -> Any:
        if key in _PUBLIC:
            return getattr(self, key)
        raise KeyError(f"{key!r} is no field of a completion; fields: {', '.join(_PUBLIC)}")

    def __contains__(self, key: object) -> bool:
        return key in _PUBLIC

    def __iter__(self) -> Iterator[str]:
        return iter(_PUBLIC)

    def __len__(self) -> int:
        return len(_PUBLIC)

    def keys(self) -> tuple[str, ...]:
        return _PUBLIC

    def get(self, key: str, default: Any = None) -> Any:
        return getattr(self, key) if key in _PUBLIC else default

    def to_dict(self) -> dict[str, Any]:
        """A plain dict of the fields, as the seed's functions return it."""
        return {key: getattr(self, key) for key in _PUBLIC}

    def __str__(self) -> str:
        return self.content

    def __repr__(self) -> str:
        from novellus_lab.display import completion_repr

        return completion_repr(self)

    def _repr_html_(self) -> str:
        from novellus_lab.display import completion_html

        return completion_html(self)


@dataclass(frozen=True, slots=True)
class BatchFailure:
    """Stands in the place of an answer that a batch did not get."""

    error: NovellusError
    index: int

    @property
    def content(self) -> None:
        return None

    def __bool__(self) -> bool:
        return False

    def _repr_html_(self) -> str:
        from novellus_lab.display import failure_html

        return failure_html(self)
