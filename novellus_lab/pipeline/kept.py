"""From an answer to a cache entry, and from an entry to another request's answer."""

from __future__ import annotations

import time
from decimal import Decimal
from typing import TYPE_CHECKING

from novellus_lab.cache.entry import CacheEntry
from novellus_lab.errors import ResponseParseError
from novellus_lab.pipeline.structured import parse_answer
from novellus_lab.types import CacheOutcome, Chunk, Completion

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from novellus_lab.pipeline.catalog import Model
    from novellus_lab.pipeline.request import Request
    from novellus_lab.pipeline.trace import Trace
    from novellus_lab.types import Reply

    Emit = Callable[[Chunk], Awaitable[None]]

_NOTHING = Decimal(0)


def worth_keeping(reply: Reply, *, tool_calls: bool) -> bool:
    """Truncated and filtered answers are never served to another request; tool calls if asked."""
    if reply.tool_calls:
        return tool_calls and reply.finish_reason in ("stop", "tool_calls")
    return reply.finish_reason == "stop"


def entry_of(
    key: bytes, request: Request, model: Model, reply: Reply, trace: Trace, expires_at: float | None
) -> CacheEntry:
    """Return what is needed to give this answer again."""
    answer = trace.answer
    assert answer is not None  # noqa: S101  set together with the reply
    return CacheEntry(
        key=key,
        content=reply.content,
        model=model.id,
        provider=model.provider,
        response_model=reply.model,
        finish_reason=reply.finish_reason,
        usage=reply.usage,
        raw_usage=reply.raw_usage,
        tool_calls=reply.tool_calls,
        reasoning=reply.reasoning,
        cost_usd=answer.price.cost_usd,
        price_version=answer.price.version,
        original_latency_ms=answer.latency_ms,
        source_request_id=request.id,
        created_at=time.time(),
        expires_at=expires_at,
        dropped_params=reply.dropped_params,
        tags=request.question.tags,
    )


def answer_again(
    request: Request,
    entry: CacheEntry,
    outcome: CacheOutcome,
    similarity: float | None = None,
    source_prompt: str | None = None,
) -> Completion | None:
    """Return a kept answer; None where it does not fit the caller's own class (any more).

    Args:
        similarity, source_prompt: of a semantic hit, how like the two questions are, and the
            question that the answer was made for.
    """
    question = request.question
    parsed = None
    if "response_format" in question.params:
        try:
            parsed = parse_answer(
                entry.content, question.params["response_format"], question.response_model
            )
        except ResponseParseError:
            return None  # the class has the same schema as then, and checks more than it says
    stale_s = 0.0 if entry.expires_at is None else time.time() - entry.expires_at
    return Completion(
        content=entry.content,
        model=entry.model,
        provider=entry.provider,
        cost=_NOTHING,
        latency_ms=request.elapsed_ms,
        usage=entry.usage,
        cache=outcome,
        request_id=request.id,
        finish_reason=entry.finish_reason,
        tool_calls=entry.tool_calls,
        parsed=parsed,
        reasoning=entry.reasoning,
        original_latency_ms=entry.original_latency_ms,
        cache_similarity=similarity,
        cache_source_id=entry.source_request_id,
        cache_source_prompt=source_prompt,
        cost_saved=entry.cost_usd,
        dropped_params=entry.dropped_params,
        response_model=entry.response_model,
        warnings=(
            (f"stale for {stale_s:.0f} s: a new answer is being made for the next call",)
            if stale_s > 0
            else ()
        ),
    )


async def replay_chunks(completion: Completion, emit: Emit) -> None:
    """Give a kept answer as a stream, in pieces that end at word boundaries."""
    if completion.reasoning:
        await emit(Chunk("", completion.reasoning))
    text = completion.content
    start = 0
    while start < len(text):
        end = text.find(" ", start + 16)
        end = len(text) if end < 0 else end
        await emit(Chunk(text[start:end]))
        start = end
