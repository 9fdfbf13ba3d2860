"""The way of a request, in order: cache, route, call, price, keep, log."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from novellus_lab.cache.key import cache_key
from novellus_lab.cache.manager import expiry
from novellus_lab.errors import NovellusError
from novellus_lab.ids import uuid7
from novellus_lab.pipeline.asking import AskForAnswer
from novellus_lab.pipeline.embedding import PURPOSE_TAG
from novellus_lab.pipeline.kept import answer_again, entry_of, replay_chunks, worth_keeping
from novellus_lab.pipeline.recording import answered_record, failed_record, hit_record
from novellus_lab.pipeline.request import Request
from novellus_lab.pipeline.structured import parse_answer
from novellus_lab.pipeline.trace import Trace
from novellus_lab.routing.strategies import CostOptimized, Explicit, RoutingContext, strategy_named
from novellus_lab.store.copy_text import LineTemplate
from novellus_lab.types import CacheOutcome, Candidate, Completion, Route

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from random import Random

    from novellus_lab.cache.entry import CacheEntry
    from novellus_lab.cache.flight import SingleFlight
    from novellus_lab.cache.manager import ResponseCache
    from novellus_lab.pipeline.attempts import Attempts
    from novellus_lab.pipeline.candidates import Candidates
    from novellus_lab.pipeline.catalog import Catalog, Model
    from novellus_lab.pipeline.intake import Prepared
    from novellus_lab.pipeline.question import Question
    from novellus_lab.pipeline.recording import ContentPolicy
    from novellus_lab.pipeline.semantic import SemanticCache, SimilarEntry
    from novellus_lab.routing.latency import LatencyTracker
    from novellus_lab.routing.strategies import Strategy
    from novellus_lab.settings import RuleSettings, Settings
    from novellus_lab.store.request_log import RequestLog
    from novellus_lab.types import Chunk, Reply

    Emit = Callable[[Chunk], Awaitable[None]]

logger = logging.getLogger("novellus_lab")

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
        flight: SingleFlight[CacheEntry] | None,
        semantic: SemanticCache,
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
        self._flight = flight
        self._semantic = semantic
        self._caching = settings.cache.enabled
        self._renewing: set[bytes] = set()
        self._background: set[asyncio.Task[None]] = set()

    def plan(self, question: Question) -> Plan:
        """Decide who may answer: equal questions always have the same plan.

        Raises:
            UnknownModelError, UnknownStrategyError, NoModelAvailableError
            MissingDependencyError: it wants the semantic cache, which is not installed.
        """
        rule: RuleSettings | None = None
        if question.use_semantic_cache:
            self._semantic.check()
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
        if entry is None or not entry.fresh(time.time()):
            return None  # a stale one starts work on the loop
        hit = prepared.hit
        if hit is not None and hit.entry is entry:
            return self._hit_again(hit, started)
        request = Request.of(question, started)
        completion = answer_again(request, entry, CacheOutcome.MEMORY)
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
            hit = None
            if plan.key is not None:
                trace.cache = CacheOutcome.MISS
                hit = await self._from_cache(request, plan, plan.key)
            if hit is None and plan.key is not None and self._shares(request):
                completion, hit = await self._together(request, plan, plan.key, trace, emit)
            elif hit is None:
                completion, _ = await self._ask(request, plan, trace, emit)
            if hit is not None:
                entry, completion = hit
                trace.cache = completion.cache
                if emit is not None:
                    await replay_chunks(completion, emit)
        except BaseException as error:
            self._log.append(failed_record(request, plan.key, trace, error, self._content))
            raise
        if hit is not None:
            self._log_hit(request, plan, entry, completion)
        else:
            self._log.append(answered_record(request, plan.key, trace, completion, self._content))
        return completion

    # --- cache -------------------------------------------------------------------------------

    async def _from_cache(
        self, request: Request, plan: Plan, key: bytes
    ) -> tuple[CacheEntry, Completion] | None:
        policy = request.question.cache_policy
        if not policy.reads:
            return None
        entry = self._cache.get_local(key, policy)
        outcome = CacheOutcome.MEMORY
        similar: SimilarEntry | None = None
        if entry is None:
            left_s = None if request.deadline is None else request.deadline - time.perf_counter()
            # Past the deadline it is a miss, and the next step says so.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    entry, outcome = await self._cache.get_shared(key, policy)
                    if entry is None:
                        similar = await self._semantic.find(request.question, plan)
        if similar is not None:
            again = answer_again(
                request, similar.entry, CacheOutcome.SEMANTIC, similar.similarity, similar.prompt
            )
            return None if again is None else (similar.entry, again)
        if entry is None:
            return None
        completion = answer_again(request, entry, outcome)
        if completion is None:
            return None
        if not entry.fresh(time.time()):
            self._renew(request.question, plan, key)
        return entry, completion

    def _renew(self, question: Question, plan: Plan, key: bytes) -> None:
        """Make a new answer in the background: a request of its own in the log, marked by a tag."""
        if key in self._renewing:
            return
        self._renewing.add(key)
        policy = replace(question.cache_policy, write_only=True, max_age=None)
        tags = {**question.tags, PURPOSE_TAG: "renew a stale answer"}
        again = replace(question, cache_policy=policy, stream=False, tags=tags)

        async def renew() -> None:
            try:
                await self.answer(Request.of(again, time.perf_counter()), plan)
            except NovellusError as error:
                logger.info("a stale answer could not be made anew: %s", error)
            finally:
                self._renewing.discard(key)

        task = asyncio.create_task(renew())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _shares(self, request: Request) -> bool:
        """Whether an equal request that is under way may answer, and be answered by this one."""
        policy = request.question.cache_policy
        return self._flight is not None and policy.reads and policy.writes

    async def _together(
        self, request: Request, plan: Plan, key: bytes, trace: Trace, emit: Emit | None
    ) -> tuple[Completion, tuple[CacheEntry, Completion] | None]:
        """Ask, or wait for an equal request that does: then its answer is a hit."""
        assert self._flight is not None  # noqa: S101
        own: Completion | None = None

        async def ask() -> CacheEntry:
            nonlocal own
            trace.cache = CacheOutcome.MISS  # whoever waited, and leads now after all
            own, entry = await self._ask(request, plan, trace, emit)
            return entry

        async def look_up() -> CacheEntry | None:
            policy = request.question.cache_policy
            entry = self._cache.get_local(key, policy)
            if entry is None:
                entry, _ = await self._cache.get_shared(key, policy)
            return entry if entry is not None and entry.fresh(time.time()) else None

        trace.cache = CacheOutcome.COALESCED
        landed = await self._flight.run(key, ask, look_up=look_up, deadline=request.deadline)
        if landed.led and own is not None:
            return own, None
        completion = answer_again(request, landed.value, CacheOutcome.COALESCED)
        if completion is None:  # does not fit this caller's class: it asks for itself
            trace.cache = CacheOutcome.MISS
            return (await self._ask(request, plan, trace, emit))[0], None
        self._cache.served[CacheOutcome.COALESCED] += 1
        return completion, (landed.value, completion)

    def _log_hit(
        self, request: Request, plan: Plan, entry: CacheEntry, completion: Completion
    ) -> bytes:
        assert plan.key is not None  # noqa: S101
        record = hit_record(request, plan.key, entry, completion, self._content, plan.rule_name)
        return self._log.append(record)

    # --- route, call, price, keep --------------------------------------------------------------

    async def _ask(
        self, request: Request, plan: Plan, trace: Trace, emit: Emit | None
    ) -> tuple[Completion, CacheEntry]:
        """Have a provider answer; return the answer and what is kept of it."""
        trace.strategy = plan.strategy_name
        order = self._route(request, plan, trace)
        ask = AskForAnswer(request.question.messages, request.question.params, emit)
        reply = await self._attempts.run(request, order, trace, ask)
        return self._complete(request, plan, reply, trace)

    def _route(self, request: Request, plan: Plan, trace: Trace) -> list[Model]:
        started = time.perf_counter()
        dropped: list[Candidate] = []
        try:
            kept = self._candidates.that_fit(request.question, plan.models, plan.rule, dropped)
        finally:
            trace.dropped = tuple(dropped)
        options = [self._candidates.option(model, request.question) for model in kept]
        context = RoutingContext(self._random, self._latencies, request.question.stream)
        strategy, cheaper = plan.strategy, None
        if len(kept) > 1:
            cheaper = self._candidates.prefer_cheaper(request.question, kept)
            if cheaper is not None:
                strategy = self._strategies[CostOptimized.name]
                trace.strategy = strategy.name
        ranking = strategy.rank(options, context)
        picked = ranking.picked
        trace.route = Route(
            strategy=trace.strategy or plan.strategy_name,
            candidates=ranking.order + trace.dropped,
            picked=picked.model_id,
            propensity=picked.probability,
            rule=plan.rule_name,
            reason=cheaper,
        )
        by_id = {model.id: model for model in kept}
        order = [by_id[candidate.model_id] for candidate in ranking.order]
        trace.route_ms = (time.perf_counter() - started) * 1000
        return order

    def _complete(
        self, request: Request, plan: Plan, reply: Reply, trace: Trace
    ) -> tuple[Completion, CacheEntry]:
        model = trace.answered_by
        assert model is not None  # noqa: S101  set together with the reply
        parsed = _parse_or_fail(request, reply)
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
        policy = request.question.cache_policy
        ttls_s = (
            policy.ttl,
            None if plan.rule is None else plan.rule.cache_ttl_seconds,
            model.settings.cache_ttl_seconds,
            self._settings.cache.ttl_seconds,
        )
        entry = entry_of(
            plan.key or b"", request, model, reply, trace, expiry(time.time(), *ttls_s)
        )
        keep = worth_keeping(reply, tool_calls=self._settings.cache.tool_calls)
        if plan.key is not None and policy.writes and keep:
            self._cache.put(entry, self._content.text(request.question.last_user_text))
            self._semantic.learn(request.question, plan, entry)
        return completion, entry


def _parse_or_fail(request: Request, reply: Reply) -> object:
    if reply.tool_calls and not reply.content:
        return None
    return parse_answer(
        reply.content,
        request.question.params.get("response_format"),
        request.question.response_model,
    )
