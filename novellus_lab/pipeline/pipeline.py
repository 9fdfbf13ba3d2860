"""The way of a request, in order: cache, route, call, price, keep, log."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from novellus_lab.cache.entry import CacheEntry
from novellus_lab.cache.key import cache_key
from novellus_lab.errors import ResponseParseError
from novellus_lab.ids import uuid7
from novellus_lab.pipeline.asking import AskForAnswer
from novellus_lab.pipeline.recording import answered_record, failed_record, hit_record
from novellus_lab.pipeline.request import Request
from novellus_lab.pipeline.structured import parse_answer
from novellus_lab.pipeline.trace import Trace
from novellus_lab.routing.strategies import Explicit, RoutingContext, strategy_named
from novellus_lab.store.copy_text import LineTemplate
from novellus_lab.types import CacheOutcome, Candidate, Chunk, Completion, Route

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from random import Random

    from novellus_lab.cache.manager import ResponseCache
    from novellus_lab.pipeline.attempts import Attempts
    from novellus_lab.pipeline.candidates import Candidates
    from novellus_lab.pipeline.catalog import Catalog, Model
    from novellus_lab.pipeline.intake import Prepared
    from novellus_lab.pipeline.question import Question
    from novellus_lab.pipeline.recording import ContentPolicy
    from novellus_lab.routing.latency import LatencyTracker
    from novellus_lab.routing.strategies import Strategy
    from novellus_lab.settings import RuleSettings, Settings
    from novellus_lab.store.request_log import RequestLog
    from novellus_lab.types import Reply

    Emit = Callable[[Chunk], Awaitable[None]]

_EXPLICIT = Explicit()

MAX_LINE_BYTES = 16_384
"""Of a hit's row in the log that is kept ready for the next hit."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Who may answer a request, and under which key an answer is kept."""

    models: tuple[Model, ...]
    strategy_name: str
    strategy: Strategy
    key: bytes | None
    """None when the cache is off for this request."""
    rule: RuleSettings | None = None
    """The rule that decided, if one did."""

    @property
    def rule_name(self) -> str | None:
        return None if self.rule is None else self.rule.name


@dataclass(frozen=True, slots=True)
class Hit:
    """What an entry makes of a question, ready to be said and logged again."""

    entry: CacheEntry
    completion: Completion
    line: LineTemplate


class Pipeline:
    """One per lab. `plan` and `cached_locally` may run on any thread, `answer` on the lab's loop."""

    def __init__(
        self,
        *,
        settings: Settings,
        catalog: Catalog,
        candidates: Candidates,
        strategies: dict[str, Strategy],
        attempts: Attempts,
        cache: ResponseCache,
        log: RequestLog,
        content: ContentPolicy,
        latencies: LatencyTracker,
        random: Random,
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._candidates = candidates
        self._strategies = strategies
        self._attempts = attempts
        self._cache = cache
        self._log = log
        self._content = content
        self._latencies = latencies
        self._random = random
        self._caching = settings.cache.enabled

    def plan(self, question: Question) -> Plan:
        """Decide who may answer: equal questions always have the same plan.

        Raises:
            UnknownModelError, UnknownStrategyError, NoModelAvailableError
        """
        rule: RuleSettings | None = None
        if question.strategy is not None:
            strategy_named(question.strategy, self._strategies)
        if question.model_id is not None:
            models: tuple[Model, ...] = (self._candidates.named(question.model_id),)
            name: str = _EXPLICIT.name
            strategy: Strategy = _EXPLICIT
        else:
            rule, models = self._candidates.pool(question)
            fallback = rule.strategy if rule else self._settings.load_balancing.default_strategy
            name = fallback if question.strategy is None else question.strategy
            strategy = strategy_named(name, self._strategies)
        key = None
        policy = question.cache_policy
        if self._may_cache(question, models) and not policy.no_store:
            key = cache_key(
                self._catalog.scope(models),
                question.messages_json,
                question.params_json,
                namespace=policy.namespace,
                sample=policy.sample,
                experiment=question.experiment,
                arm=question.arm,
            )
        return Plan(models, name, strategy, key, rule)

    def _may_cache(self, question: Question, models: tuple[Model, ...]) -> bool:
        if not (self._caching and question.use_cache):
            return False
        limit = self._settings.cache.max_temperature
        if limit is None:
            return True
        asked = question.params.get("temperature")
        if asked is not None:
            return bool(asked <= limit)
        # Where nobody says it is the provider's own, and that is 1 nearly everywhere.
        stated = (model.settings.temperature for model in models)
        return max(1.0 if t is None else t for t in stated) <= limit

    def cached_locally(self, prepared: Prepared, started: float) -> Completion | None:
        """Answer from this process's memory, if it is there: nothing waits, nothing is awaited."""
        question, plan = prepared.question, prepared.plan
        if plan.key is None or not question.cache_policy.reads:
            return None
        entry = self._cache.get_local(plan.key, question.cache_policy)
        if entry is None:
            return None
        hit = prepared.hit
        if hit is not None and hit.entry is entry:
            return self._hit_again(hit, started)
        request = Request.of(question, started)
        completion = _hit(request, entry, CacheOutcome.MEMORY)
        if completion is not None:
            line = self._log_hit(request, plan, entry, completion)
            if completion.parsed is None and len(line) <= MAX_LINE_BYTES:
                prepared.hit = Hit(entry, completion, LineTemplate(line))
        return completion

    def _hit_again(self, hit: Hit, started: float) -> Completion:
        """The same question, answered by the same entry: only id and times differ."""
        request_id, created_at = uuid7(), datetime.now(UTC)
        latency_ms = (time.perf_counter() - started) * 1000
        self._log.append_lines(hit.line.fill(request_id, created_at, latency_ms))
        return hit.completion.again(request_id, latency_ms)

    def refuse(self, request: Request, error: BaseException) -> None:
        """Log a request that was refused before it was begun."""
        trace = Trace(
            strategy=request.question.strategy
            if isinstance(request.question.strategy, str)
            else None
        )
        self._log.append(failed_record(request, None, trace, error, self._content))

    async def answer(self, request: Request, plan: Plan, emit: Emit | None = None) -> Completion:
        """Answer a request, logging it whatever its end.

        Args:
            emit: for streams, takes each chunk as it arrives.

        Raises:
            ProviderError, DeadlineExceededError, NoModelAvailableError, ResponseParseError
        """
        trace = Trace(rule=plan.rule_name)
        try:
            if plan.key is not None:
                trace.cache = CacheOutcome.MISS
                hit = await self._from_cache(request, plan.key)
                if hit is not None:
                    entry, completion = hit
                    trace.cache = completion.cache
                    if emit is not None:
                        await replay_chunks(completion, emit)
                    self._log_hit(request, plan, entry, completion)
                    return completion
            trace.strategy = plan.strategy_name
            order = self._route(request, plan, trace)
            ask = AskForAnswer(request.question.messages, request.question.params, emit)
            reply = await self._attempts.run(request, order, trace, ask)
            completion = self._complete(request, plan, reply, trace)
        except BaseException as error:
            self._log.append(failed_record(request, plan.key, trace, error, self._content))
            raise
        self._log.append(answered_record(request, plan.key, trace, completion, self._content))
        return completion

    async def _from_cache(
        self, request: Request, key: bytes
    ) -> tuple[CacheEntry, Completion] | None:
        if not request.question.cache_policy.reads:
            return None
        entry = self._cache.get_local(key, request.question.cache_policy)
        outcome = CacheOutcome.MEMORY
        if entry is None:
            left_s = None if request.deadline is None else request.deadline - time.perf_counter()
            # Past the deadline it is a miss, and the next step says so.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    entry, outcome = await self._cache.get_shared(
                        key, request.question.cache_policy
                    )
        completion = None if entry is None else _hit(request, entry, outcome)
        return None if entry is None or completion is None else (entry, completion)

    def _log_hit(
        self, request: Request, plan: Plan, entry: CacheEntry, completion: Completion
    ) -> bytes:
        assert plan.key is not None  # noqa: S101
        record = hit_record(request, plan.key, entry, completion, self._content, plan.rule_name)
        return self._log.append(record)

    def _route(self, request: Request, plan: Plan, trace: Trace) -> list[Model]:
        started = time.perf_counter()
        dropped: list[Candidate] = []
        try:
            kept = self._candidates.that_fit(request.question, plan.models, plan.rule, dropped)
        finally:
            trace.dropped = tuple(dropped)
        options = [self._candidates.option(model, request.question) for model in kept]
        context = RoutingContext(self._random, self._latencies, request.question.stream)
        ranking = plan.strategy.rank(options, context)
        picked = ranking.picked
        trace.route = Route(
            strategy=plan.strategy_name,
            candidates=ranking.order + trace.dropped,
            picked=picked.model_id,
            propensity=picked.probability,
            rule=plan.rule_name,
        )
        by_id = {model.id: model for model in kept}
        order = [by_id[candidate.model_id] for candidate in ranking.order]
        trace.route_ms = (time.perf_counter() - started) * 1000
        return order

    def _complete(self, request: Request, plan: Plan, reply: Reply, trace: Trace) -> Completion:
        model = trace.answered_by
        assert model is not None  # noqa: S101  set together with the reply
        parsed = _parse_or_fail(request, reply)
        answer = trace.attempts[-1]
        completion = Completion(
            content=reply.content,
            model=model.id,
            provider=model.provider,
            cost=trace.cost_usd,
            latency_ms=request.elapsed_ms,
            usage=reply.usage,
            cache=trace.cache,
            request_id=request.id,
            finish_reason=reply.finish_reason,
            tool_calls=reply.tool_calls,
            parsed=parsed,
            reasoning=reply.reasoning,
            route=trace.route,
            attempts=tuple(trace.attempts),
            ttft_ms=trace.heard.ttft_ms,
            dropped_params=reply.dropped_params,
            response_model=reply.model,
            warnings=(
                ()
                if trace.cost_usd is not None
                else tuple(
                    f"cost unknown: {a.price.reason}" for a in trace.attempts if a.price.reason
                )
            ),
        )
        if plan.key is not None and request.question.cache_policy.writes and _worth_keeping(reply):
            now = time.time()
            self._cache.put(
                CacheEntry(
                    key=plan.key,
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
                    created_at=now,
                    expires_at=self._cache.expiry(now, request.question.cache_policy),
                    dropped_params=reply.dropped_params,
                ),
                self._content.text(_last_user_text(request)),
            )
        return completion


_NOTHING = Decimal(0)


def _hit(request: Request, entry: CacheEntry, outcome: CacheOutcome) -> Completion | None:
    """Return a kept answer; None where it does not fit the caller's own class (any more)."""
    parsed = None
    if "response_format" in request.question.params:
        try:
            parsed = parse_answer(
                entry.content,
                request.question.params["response_format"],
                request.question.response_model,
            )
        except ResponseParseError:
            return None  # the class has the same schema as then, and checks more than it says
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
        cache_source_id=entry.source_request_id,
        cost_saved=entry.cost_usd,
        dropped_params=entry.dropped_params,
        response_model=entry.response_model,
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


def _worth_keeping(reply: Reply) -> bool:
    """Truncated, filtered and tool-calling answers are never served to another request."""
    return reply.finish_reason == "stop" and not reply.tool_calls


def _parse_or_fail(request: Request, reply: Reply) -> object:
    if reply.tool_calls and not reply.content:
        return None
    return parse_answer(
        reply.content,
        request.question.params.get("response_format"),
        request.question.response_model,
    )


def _last_user_text(request: Request) -> str:
    for message in reversed(request.question.messages):
        if message["role"] == "user":
            content = message.get("content")
            if isinstance(content, str):
                return content
            return "\n".join(part["text"] for part in content or () if part.get("type") == "text")
    return ""
