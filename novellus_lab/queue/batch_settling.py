"""From what a provider said of an item of a batch to an answer, a row of the log, a cache entry."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from novellus_lab.cache.entry import CacheEntry
from novellus_lab.errors import NovellusError, ProviderError, ResponseParseError
from novellus_lab.pipeline.asking import AskForAnswer
from novellus_lab.pipeline.question import build_question
from novellus_lab.pipeline.request import Request
from novellus_lab.pipeline.trace import Trace
from novellus_lab.pricing.book import BATCH
from novellus_lab.queue.answers import dump_completion, dump_error, load_completion, load_error
from novellus_lab.types import Attempt, CacheOutcome, Candidate, Price, Route, Status

if TYPE_CHECKING:
    from uuid import UUID

    from novellus_lab.pipeline.catalog import Model
    from novellus_lab.pipeline.pipeline import Plan
    from novellus_lab.pipeline.runtime import Runtime
    from novellus_lab.providers.batches import BatchResult
    from novellus_lab.queue.batch_rows import ItemRow
    from novellus_lab.types import Completion, Reply

    Ended = tuple[UUID, str | None, str | None]
    """Request id, result, error: as `batch_rows.finish` stores it."""

STRATEGY = "provider_batch"
"""Stands in the log as the strategy: these rows are known by it."""

_DEARER_TIERS = ("fast", "inference_geo us")
"""What Anthropic's prices go by beside the batch; both together have no known price."""
_NOT_CHARGED = Price(cost_usd=Decimal(0), version="not charged")


class Settling:
    """Args: submitted_at: when the provider got the part."""

    def __init__(self, runtime: Runtime, model: Model, submitted_at: datetime) -> None:
        self._runtime = runtime
        self._model = model
        self._submitted_at = submitted_at

    def settle(self, item: ItemRow, result: BatchResult, *, logged: bool) -> tuple[Ended, Price]:
        """Make of a result what is kept of it.

        Args:
            logged: it stands in the log: the process died that wrote it.
        """
        request, plan = asked(self._runtime, item)
        if result.reply is None:
            error = result.error or NovellusError("the provider said nothing of it")
            return self._fail(item, request, plan, error, logged=logged), _NOT_CHARGED
        reply = self._in_our_terms(request, item, result.reply)
        price = self._runtime.pipeline.price(self._model, reply, self._submitted_at)
        trace = self._trace(request, plan)
        trace.answered_by = self._model
        trace.dropped_params = reply.dropped_params
        trace.answer = self._attempt(item, Status.OK, price, reply)
        trace.attempts.append(trace.answer)
        try:
            completion = self._runtime.pipeline.take(request, plan, reply, trace, log=not logged)
        except ResponseParseError as error:
            return (item.request_id, None, dump_error(error)), price
        return (item.request_id, dump_completion(completion), None), price

    def _fail(
        self, item: ItemRow, request: Request, plan: Plan, error: NovellusError, *, logged: bool
    ) -> Ended:
        if isinstance(error, ProviderError):
            error.model, error.provider = self._model.id, self._model.provider
        trace = self._trace(request, plan)
        trace.attempts.append(self._attempt(item, Status.ERROR, _NOT_CHARGED, None, error))
        if not logged:
            self._runtime.pipeline.fail(request, plan, trace, error)
        return item.request_id, None, dump_error(error)

    def _in_our_terms(self, request: Request, item: ItemRow, reply: Reply) -> Reply:
        question = request.question
        tier = reply.service_tier if reply.service_tier in _DEARER_TIERS else BATCH
        reply = replace(reply, service_tier=tier, dropped_params=tuple(item.dropped))
        return AskForAnswer(question.messages, question.params).counted(reply)

    def _trace(self, request: Request, plan: Plan) -> Trace:
        candidate = Candidate(self._model.id, 1.0)
        return Trace(
            cache=CacheOutcome.OFF if plan.key is None else CacheOutcome.MISS,
            strategy=STRATEGY,
            route=Route(STRATEGY, (candidate,), self._model.id, 1.0),
        )

    def _attempt(
        self,
        item: ItemRow,
        status: Status,
        price: Price,
        reply: Reply | None,
        error: NovellusError | None = None,
    ) -> Attempt:
        provider_error = error if isinstance(error, ProviderError) else None
        told: dict[str, Any] = {}
        if reply is not None:
            told = {
                "usage": reply.usage,
                "raw_usage": reply.raw_usage,
                "response_model": reply.model,
                "response_id": reply.response_id,
            }
        return Attempt(
            id=item.attempt_id,
            number=1,
            role="primary",
            model_id=self._model.id,
            provider=self._model.provider,
            started_at=self._submitted_at,
            status=status,
            latency_ms=(datetime.now(UTC) - self._submitted_at).total_seconds() * 1000,
            price=price,
            error_class=None if error is None else type(error).__name__,
            error_message=None if error is None else str(error),
            status_code=None if provider_error is None else provider_error.status_code,
            **told,
        )


def asked(runtime: Runtime, item: ItemRow) -> tuple[Request, Plan]:
    """Return an item's request as it was asked, and who answers it.

    Raises:
        UnknownModelError, NoModelAvailableError: the configuration knows its model no more.
    """
    question = build_question(**item.request)
    age_s = (datetime.now(UTC) - item.created_at).total_seconds()
    request = Request(question, item.request_id, item.created_at, time.perf_counter() - age_s, None)
    plan = runtime.pipeline.plan(question)
    return request, replace(plan, key=None if item.cache_key is None else bytes(item.cache_key))


def settle_follower(runtime: Runtime, item: ItemRow, status: str, result: Any, error: Any) -> Ended:
    """Give an item what the equal request got that it waited for."""
    request, plan = asked(runtime, item)
    if status == "done":
        completion = runtime.pipeline.take_again(
            request, plan, _entry(plan.key or b"", load_completion(result))
        )
        if completion is not None:
            return item.request_id, dump_completion(completion), None
    failed = load_error(error) if error is not None else NovellusError("its answer does not fit")
    trace = Trace(cache=CacheOutcome.COALESCED, strategy=STRATEGY)
    runtime.pipeline.fail(request, plan, trace, failed)
    return item.request_id, None, dump_error(failed)


def _entry(key: bytes, completion: Completion) -> CacheEntry:
    answer = completion.attempts[-1] if completion.attempts else None
    return CacheEntry(
        key=key,
        content=completion.content,
        model=completion.model,
        provider=completion.provider,
        response_model=completion.response_model,
        finish_reason=completion.finish_reason,
        usage=completion.usage,
        raw_usage={} if answer is None else answer.raw_usage,
        tool_calls=completion.tool_calls,
        reasoning=completion.reasoning,
        cost_usd=completion.cost,
        price_version="" if answer is None else answer.price.version,
        original_latency_ms=completion.latency_ms,
        source_request_id=completion.request_id,
        created_at=time.time(),
        expires_at=None,
        dropped_params=completion.dropped_params,
        tags={},
    )
