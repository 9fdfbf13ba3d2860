"""The way of a request, in order: cache, route, call, price, keep, log."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from random import Random
from typing import TYPE_CHECKING, Any

from novellus_lab.cache.manager import expiry
from novellus_lab.errors import (
    ContextWindowExceededError,
    InvalidRequestError,
    NoModelAvailableError,
    NovellusError,
)
from novellus_lab.ids import uuid7
from novellus_lab.pipeline.asking import AskForAnswer
from novellus_lab.pipeline.explanation import ExplainedCandidate, Explanation, RuleVerdict
from novellus_lab.pipeline.hedging import Hedge, HedgeAllowance, Hedging, hedging_of
from novellus_lab.pipeline.kept import answer_again, entry_of, replay_chunks, worth_keeping
from novellus_lab.pipeline.observing import ObservedAsk
from novellus_lab.pipeline.pool import Pool
from novellus_lab.pipeline.question import PURPOSE_TAG
from novellus_lab.pipeline.recording import (
    answered_record,
    failed_record,
    hit_record,
    without_latency,
)
from novellus_lab.pipeline.request import Request
from novellus_lab.pipeline.shadowing import SHADOW
from novellus_lab.pipeline.structured import parse_answer
from novellus_lab.pipeline.trace import Trace
from novellus_lab.routing.answer_checks import Answer
from novellus_lab.routing.balancer import ModelLoadBalancer
from novellus_lab.routing.cascade import Cascade
from novellus_lab.routing.learned_choice import Learned
from novellus_lab.routing.strategies import (
    CostOptimized,
    Explicit,
    Ranking,
    RoutingContext,
    Weighted,
    drawn,
    explored,
)
from novellus_lab.store.copy_text import LineTemplate
from novellus_lab.types import CacheOutcome, Candidate, Chunk, Completion, Route

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from novellus_lab.cache.entry import CacheEntry
    from novellus_lab.cache.flight import SingleFlight
    from novellus_lab.cache.manager import ResponseCache
    from novellus_lab.pipeline.attempts import Attempts
    from novellus_lab.pipeline.candidates import Candidates
    from novellus_lab.pipeline.catalog import Catalog, Model
    from novellus_lab.pipeline.failover import Failover, FailoverChains
    from novellus_lab.pipeline.intake import Prepared
    from novellus_lab.pipeline.observing import Observed
    from novellus_lab.pipeline.question import Question
    from novellus_lab.pipeline.recording import ContentPolicy
    from novellus_lab.pipeline.semantic import SemanticCache, SimilarEntry
    from novellus_lab.pipeline.shadowing import Shadows
    from novellus_lab.pipeline.trained_routers import TrainedRouters
    from novellus_lab.records import RequestRecord
    from novellus_lab.routing.registry import Registry
    from novellus_lab.routing.strategies import Estimates, Option, Strategy
    from novellus_lab.settings import HedgingSettings, RuleSettings, Settings
    from novellus_lab.store.request_log import RequestLog
    from novellus_lab.types import Price, Reply

    Emit = Callable[[Chunk], Awaitable[None]]

logger = logging.getLogger("novellus_lab")

_FAILOVER = "failover"
"""Stands for the strategy where no candidate takes the prompt, and the configuration says who does."""
_EXPLICIT = Explicit()
_CHEAPEST = CostOptimized()
_LOTTERY = Weighted()
_LEAVE_S = 5.0

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
    epsilon: float = 0.0
    """Share of calls that go to any candidate, whatever the strategy says."""
    failover: Failover | None = None
    """Who stands in for the models, where that is configured."""
    hedging: Hedging | None = None
    """When a second call is made beside a slow one; None: never."""

    @property
    def rule_name(self) -> str | None:
        return None if self.rule is None else self.rule.name


@dataclass(frozen=True, slots=True)
class Hit:
    """What an entry makes of a question, ready to be said and logged again."""

    entry: CacheEntry
    completion: Completion
    line: LineTemplate
    record: RequestRecord
    """What listeners are told."""


class Pipeline:
    """One per lab. `plan` and `cached_locally` may run on any thread, `answer` on the lab's loop."""

    def __init__(
        self,
        *,
        settings: Settings,
        catalog: Catalog,
        candidates: Candidates,
        chains: FailoverChains,
        strategies: Registry,
        attempts: Attempts,
        cache: ResponseCache,
        log: RequestLog,
        content: ContentPolicy,
        observed: Observed,
        routers: TrainedRouters,
        conninfo: str,
        random: Random,
        flight: SingleFlight[CacheEntry] | None,
        semantic: SemanticCache,
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._candidates = candidates
        self._chains = chains
        self._strategies = strategies
        self._attempts = attempts
        self._cache = cache
        self._log = log
        self._content = content
        self._observed = observed
        self._routers = routers
        self._conninfo = conninfo
        self._knows_history = False
        self._random = random
        self._flight = flight
        self._semantic = semantic
        self._caching = settings.cache.enabled
        self._hedging = _hedging(settings.hedging)
        self._hedging_of_rules = {
            rule.name: self._hedging if rule.hedging is None else _hedging(rule.hedging)
            for rule in settings.load_balancing.rules
        }
        self._hedges = HedgeAllowance()
        self.shadows: Shadows | None = None
        self._renewing: set[bytes] = set()
        self._background: set[asyncio.Task[Any]] = set()

    @property
    def plans_change_with_time(self) -> bool:
        """Whether a question's plan may be another in an hour."""
        return self._candidates.change_with_time

    def plan(self, question: Question) -> Plan:
        """Decide who may answer: equal questions always have the same plan, as far as rules do not
        look at the clock.

        Raises:
            UnknownModelError, UnknownStrategyError, NoModelAvailableError
            MissingDependencyError: it wants the semantic cache, which is not installed.
        """
        rule: RuleSettings | None = None
        if question.use_semantic_cache:
            self._semantic.check()
        if question.shadow and self.shadows is None:
            raise InvalidRequestError("shadow=True, but the configuration has no `shadows`")
        if question.strategy is not None:
            self._strategies.get(question.strategy)
        epsilon = 0.0
        if question.model_id is not None:
            models: tuple[Model, ...] = (self._candidates.named(question.model_id),)
            name: str = _EXPLICIT.name
            strategy: Strategy = _EXPLICIT
            failover = self._chains.named()
        else:
            rule, models = self._candidates.pool(question)
            failover = self._chains.routed(rule)
            balancing = self._settings.load_balancing
            fallback = rule.strategy if rule else balancing.default_strategy
            name = fallback if question.strategy is None else question.strategy
            own = rule.options if rule is not None and rule.strategy == name else None
            strategy = self._strategies.get(name, own or None)
            stated = None if rule is None else rule.epsilon
            epsilon = balancing.epsilon if stated is None else stated
        key = None
        policy = question.cache_policy
        if self._may_cache(question, models) and not policy.no_store:
            key = question.key_among(self._catalog.scope(models), question.messages_json)
        hedging = self._hedging if rule is None else self._hedging_of_rules[rule.name]
        if question.hedge is not None:
            hedging = hedging_of(hedging, question.hedge)
        return Plan(models, name, strategy, key, rule, epsilon, failover, hedging)

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
            record, line = self._log_hit(request, plan, entry, completion)
            if completion.parsed is None and len(line) <= MAX_LINE_BYTES:
                prepared.hit = Hit(entry, completion, LineTemplate(line), record)
        return completion

    def _hit_again(self, hit: Hit, started: float) -> Completion:
        """The same question, answered by the same entry: only id and times differ."""
        request_id, created_at = uuid7(), datetime.now(UTC)
        latency_ms = (time.perf_counter() - started) * 1000
        self._log.append_lines(hit.line.fill(request_id, created_at, latency_ms))
        if self._log.listeners.ended:
            self._log.listeners.tell_end(hit.record.again(request_id, created_at, latency_ms))
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
        if not self._log.listeners.around:
            return await self._answer(request, plan, emit)
        with self._log.listeners.surround(request.begun("chat")):
            return await self._answer(request, plan, emit)

    async def _answer(self, request: Request, plan: Plan, emit: Emit | None) -> Completion:
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
            if self.shadows is not None:
                self.shadows.after(request, completion.model)
        return completion

    async def shadow(self, question: Question, model: Model) -> None:
        """Ask a model for comparison, and log it. The router had no part in it.

        Raises:
            ProviderError, DeadlineExceededError, BudgetError, ResponseParseError
        """
        request, trace = Request.of(question, time.perf_counter()), Trace(strategy=SHADOW)
        plan = Plan((model,), SHADOW, _EXPLICIT, None)
        try:
            try:
                asking = self._asking(request, None)
                reply = await self._attempts.run(request, plan.models, trace, asking)
            finally:
                trace.attempts[:] = [replace(a, role="shadow") for a in trace.attempts]
            completion, _ = self._complete(request, plan, reply, trace)
        except BaseException as error:
            self._log.append(failed_record(request, None, trace, error, self._content))
            raise
        self._log.append(answered_record(request, None, trace, completion, self._content))

    async def settle(self, timeout_s: float) -> None:
        """Wait for shadow calls that are under way."""
        if self.shadows is not None:
            await self.shadows.settle(timeout_s)

    async def aclose(self) -> None:
        """Break off what goes on in the background."""
        if self.shadows is not None:
            await self.shadows.aclose()
        for task in self._background:
            task.cancel()
        if self._background:
            await asyncio.wait(self._background, timeout=_LEAVE_S)

    # --- answers that came otherwise: from a provider's batch -----------------------------------

    async def answer_from_cache(self, request: Request, plan: Plan) -> Completion | None:
        """Answer from the exact cache, if a fresh answer is there, and log it."""
        policy = request.question.cache_policy
        if plan.key is None or not policy.reads:
            return None
        entry, outcome = await self._cache.get(plan.key, policy)
        if entry is None or not entry.fresh(time.time()):
            return None
        completion = answer_again(request, entry, outcome)
        if completion is not None:
            self._log_hit(request, plan, entry, completion)
        return completion

    def take(
        self, request: Request, plan: Plan, reply: Reply, trace: Trace, *, log: bool = True
    ) -> Completion:
        """Keep and log an answer; how long it took says nothing of its model, and is no latency.

        Args:
            log: False: it is in the log.

        Raises:
            ResponseParseError: it does not fit the asked-for format; that is logged, too.
        """
        try:
            completion, _ = self._complete(request, plan, reply, trace)
        except NovellusError as error:
            if log:
                self.fail(request, plan, trace, error)
            raise
        if log:
            record = answered_record(request, plan.key, trace, completion, self._content)
            self._log.append(without_latency(record))
        return completion

    def fail(self, request: Request, plan: Plan, trace: Trace, error: BaseException) -> None:
        """Log that a request ended without an answer."""
        record = failed_record(request, plan.key, trace, error, self._content)
        self._log.append(without_latency(record))

    def take_again(self, request: Request, plan: Plan, entry: CacheEntry) -> Completion | None:
        """Log and return the answer that an equal request got while this one waited for it."""
        completion = answer_again(request, entry, CacheOutcome.COALESCED)
        if completion is not None and plan.key is not None:
            record = hit_record(request, plan.key, entry, completion, self._content, plan.rule_name)
            self._log.append(without_latency(record))
        return completion

    def price(self, model: Model, reply: Reply, at: datetime) -> Price:
        """Price an answer that was no call of ours, by its service tier."""
        return self._attempts.price(model, reply, at)

    # --- cache -------------------------------------------------------------------------------

    async def _from_cache(
        self, request: Request, plan: Plan, key: bytes
    ) -> tuple[CacheEntry, Completion] | None:
        policy = request.question.cache_policy
        if not policy.reads:
            return None
        entry: CacheEntry | None = None
        outcome = CacheOutcome.MISS
        similar: SimilarEntry | None = None
        left_s = None if request.deadline is None else request.deadline - time.perf_counter()
        # Past the deadline it is a miss, and the next step says so.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(left_s):
                entry, outcome = await self._cache.get(key, policy)
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
            entry, _ = await self._cache.get(key, request.question.cache_policy)
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
    ) -> tuple[RequestRecord, bytes]:
        assert plan.key is not None  # noqa: S101
        record = hit_record(request, plan.key, entry, completion, self._content, plan.rule_name)
        return record, self._log.append(record)

    # --- route, call, price, keep --------------------------------------------------------------

    async def _ask(
        self, request: Request, plan: Plan, trace: Trace, emit: Emit | None
    ) -> tuple[Completion, CacheEntry]:
        """Have a provider answer; return the answer and what is kept of it."""
        trace.strategy = plan.strategy_name
        order = await self._route(request, plan, trace)
        if isinstance(plan.strategy, Cascade) and trace.strategy == plan.strategy_name:
            reply = await self._climb(request, plan, plan.strategy, order, trace, emit)
        else:
            asking = self._asking(request, emit)
            hedge: Hedge | None = None
            if plan.hedging is not None:
                forecast = self._candidates.estimates(request.question).forecast
                hedge = Hedge(plan.hedging, forecast, self._hedges)
            reply = await self._attempts.run(
                request, order, trace, asking, failover=plan.failover, hedge=hedge
            )
        return self._complete(request, plan, reply, trace)

    def _asking(self, request: Request, emit: Emit | None) -> ObservedAsk:
        question = request.question
        ask = AskForAnswer(question.messages, question.params, emit)
        return ObservedAsk(ask, question, self._observed)

    async def _climb(
        self,
        request: Request,
        plan: Plan,
        cascade: Cascade,
        order: list[Model],
        trace: Trace,
        emit: Emit | None,
    ) -> Reply:
        """Ask the models one after another until an answer is good enough.

        What was asked in vain is paid for, and an attempt like any other. Where a stronger model
        fails, the weaker one's answer is better than none. Of a stream only the last step is live:
        what was said can't be taken back.
        """
        question = request.question
        position = step = 0
        best: Reply | None = None
        heard, answered_by, dropped_params = trace.heard, trace.answered_by, trace.dropped_params
        while True:
            step += 1
            last = step >= cascade.max_steps or position == len(order) - 1
            begun = len(trace.attempts)
            asking = self._asking(request, emit if last else None)
            try:
                reply = await self._attempts.run(
                    request, order[position:], trace, asking, failover=plan.failover
                )
            except NovellusError as error:
                if best is None or trace.streamed:
                    raise
                logger.warning("no stronger model answered (%s): the weaker answer stays", error)
                reply = best
                trace.heard, trace.answered_by = heard, answered_by
                trace.dropped_params = dropped_params
                break
            finally:
                if step > 1:  # not what the router picked: a step up from there
                    trace.attempts[begun:] = [
                        replace(a, role="failover") if a.role == "primary" else a
                        for a in trace.attempts[begun:]
                    ]
            heard, answered_by, dropped_params = (
                trace.heard, trace.answered_by, trace.dropped_params
            )  # fmt: skip
            assert answered_by is not None  # noqa: S101  set together with the reply
            if answered_by not in order:
                break  # a stand-in: there is no step above it
            position = order.index(answered_by) + 1
            if last or position >= len(order):
                break
            why = cascade.why_escalate(
                Answer(
                    reply.content,
                    question.last_user_text,
                    answered_by.id,
                    reply.finish_reason,
                    reply.tool_calls,
                    question.params,
                )
            )
            if why is None:
                break
            best = reply
            if trace.route is not None:
                told = f"{answered_by.id} was not good enough ({why})"
                earlier = trace.route.reason
                trace.route = replace(
                    trace.route, reason=told if earlier is None else f"{earlier}; {told}"
                )
        if emit is not None and not trace.streamed:
            trace.streamed = True
            await emit(Chunk(reply.content, reply.reasoning or ""))
        return reply

    async def _route(self, request: Request, plan: Plan, trace: Trace) -> list[Model]:
        started = time.perf_counter()
        question = request.question
        dropped: list[Candidate] = []
        try:
            kept, resting = self._candidates.that_fit(question, plan.models, plan.rule, dropped)
        except ContextWindowExceededError as error:
            wider = _wider(question, plan)
            if not wider:
                raise
            trace.strategy = _FAILOVER
            trace.route = Route(
                strategy=_FAILOVER,
                candidates=(*_in_order(wider), *dropped),
                picked=wider[0].id,
                propensity=1.0,
                rule=plan.rule_name,
                reason=_too_long(error),
            )
            trace.route_ms = (time.perf_counter() - started) * 1000
            return wider
        finally:
            trace.dropped = tuple(dropped)
        estimates = self._candidates.estimates(question)
        ranking, name, reason = await self._rank(question, plan, kept, estimates, self._random)
        trace.strategy = name
        picked = ranking.picked
        trace.route = Route(
            strategy=name,
            candidates=ranking.order + trace.dropped,
            picked=picked.model_id,
            propensity=picked.probability,
            rule=plan.rule_name,
            reason=reason,
        )
        by_id = kept.by_id
        order = [by_id[candidate.model_id] for candidate in ranking.order]
        if not isinstance(plan.strategy, Cascade):
            order += resting
        trace.route_ms = (time.perf_counter() - started) * 1000
        return order

    async def _rank(
        self,
        question: Question,
        plan: Plan,
        kept: Pool,
        estimates: Estimates,
        random: Random,
        *,
        draw: bool = True,
    ) -> tuple[Ranking, str, str | None]:
        """Return the ranking, whose it is, and why it is not the planned strategy's, if so.

        Args:
            draw: False leaves the order and every state as they are: nothing is picked.
        """
        options = kept.options
        context = RoutingContext(random, question, estimates, self._routers.get)
        strategy, name, epsilon = plan.strategy, plan.strategy_name, plan.epsilon
        reason: str | None = None
        if strategy.uses_history and not self._knows_history:
            self._learn_history()
        if len(kept) > 1:
            reason = self._candidates.prefer_cheaper(question, kept)
            if reason is not None:
                strategy, name, epsilon = _CHEAPEST, _CHEAPEST.name, 0.0
        try:
            ranking = await self._asked(strategy, options, context, epsilon, draw=draw)
            if ranking is not None:
                return ranking, name, reason
            why = f"{name} named no model"
        except Exception as error:
            why = f"{name} could not decide ({type(error).__name__}: {error})"
            logger.warning("%s: another strategy did", why)
        name = self._settings.load_balancing.default_strategy
        if name != plan.strategy_name:
            with contextlib.suppress(Exception):
                strategy = self._strategies.get(name)
                ranking = await self._asked(strategy, options, context, epsilon, draw=draw)
                if ranking is not None:
                    return ranking, name, f"{why}: {name} did"
        ranking = await self._asked(_LOTTERY, options, context, epsilon, draw=draw)
        assert ranking is not None  # noqa: S101  only a balancer may name none
        return ranking, _LOTTERY.name, f"{why}: {_LOTTERY.name} did"

    async def _asked(
        self,
        strategy: Strategy,
        options: list[Option],
        context: RoutingContext,
        epsilon: float,
        *,
        draw: bool,
    ) -> Ranking | None:
        if isinstance(strategy, ModelLoadBalancer):
            asked = strategy if draw else copy.deepcopy(strategy)
            judged = await asked.ask(options, context)
            if judged is None:
                return None
        else:
            if isinstance(strategy, Learned):
                await self._routers.ensure(strategy.router)
            if draw:
                return strategy.rank(options, context, epsilon)
            judged = strategy.judge(options, context)
        mixed = explored(judged, epsilon)
        return drawn(mixed, context.random) if draw else Ranking(tuple(mixed))

    def _learn_history(self) -> None:
        """Learn from the log what calls come to, once, in the background."""
        self._knows_history = True
        task = asyncio.create_task(self._observed.learn_from_log(self._conninfo))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def explain(self, question: Question) -> Explanation:
        """Return how a question would be routed now. Sends, logs and changes nothing.

        Raises:
            UnknownModelError, UnknownStrategyError
        """
        plan: Plan | None = None
        refused: str | None = None
        dropped: list[Candidate] = []
        kept = Pool()
        judged: list[Candidate] = []
        name, reason = "none", None
        try:
            plan = self.plan(question)
            name = plan.strategy_name
            kept, _ = self._candidates.that_fit(question, plan.models, plan.rule, dropped)
        except NoModelAvailableError as error:
            refused = str(error)
        except ContextWindowExceededError as error:
            if plan is not None and (wider := _wider(question, plan)):
                judged, name, reason = _in_order(wider), _FAILOVER, _too_long(error)
            else:
                refused = str(error)
        estimates = self._candidates.estimates(question)
        if plan is not None and kept:
            twin = Random()
            twin.setstate(self._random.getstate())
            ranking, name, reason = await self._rank(
                question, plan, kept, estimates, twin, draw=False
            )
            judged = sorted(ranking.order, key=lambda c: -c.probability)
        rule = None if plan is None else plan.rule_name
        return Explanation(
            rule=rule,
            rules=tuple(self._verdicts(question, rule)),
            strategy=name,
            epsilon=0.0 if plan is None else plan.epsilon,
            candidates=tuple(
                ExplainedCandidate(
                    c.model_id,
                    c.probability,
                    c.score,
                    c.dropped,
                    estimates.expected_cost_usd(c.model_id),
                    forecast.latency_ms if forecast.seen else None,
                    estimates.expected_output_tokens(c.model_id),
                    estimates.in_flight(c.model_id),
                )
                for c in (*judged, *dropped)
                for forecast in (estimates.forecast(c.model_id),)
            ),
            input_tokens=question.input_tokens,
            needs=tuple(sorted(question.needs)),
            reason=reason,
            refused=refused,
        )

    def _verdicts(self, question: Question, decided: str | None) -> Iterator[RuleVerdict]:
        found = False
        for rule, reason in self._candidates.rules(question):
            if question.model_id is not None:
                yield RuleVerdict(rule.name, False, "the call names its model")
            elif reason is not None:
                yield RuleVerdict(rule.name, False, reason)
            elif found:
                yield RuleVerdict(rule.name, False, f"it would hold, and {decided} comes before it")
            else:
                found, decided = True, rule.name
                stated = rule.conditions.model_fields_set
                why = "all its conditions hold" if stated else "it has no conditions"
                yield RuleVerdict(rule.name, True, why)

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
        key, question = plan.key, request.question
        stood_in = model not in plan.models
        if key is not None and stood_in:
            # An answer of a model that was not asked for is kept for calls that ask for it.
            key = question.key_among(self._catalog.scope((model,)), question.messages_json)
        entry = entry_of(key or b"", request, model, reply, trace, expiry(time.time(), *ttls_s))
        keep = worth_keeping(reply, tool_calls=self._settings.cache.tool_calls)
        if key is not None and policy.writes and keep:
            self._cache.put(entry, self._content.text(question.last_user_text))
            if not stood_in:
                self._semantic.learn(question, plan, entry)
        return completion, entry


def _wider(question: Question, plan: Plan) -> list[Model]:
    """Return who takes a prompt that is too long for all candidates."""
    return [] if plan.failover is None else plan.failover.wider(question, plan.models)


def _in_order(models: list[Model]) -> list[Candidate]:
    return [Candidate(model.id, float(n == 0)) for n, model in enumerate(models)]


def _too_long(error: ContextWindowExceededError) -> str:
    return f"the prompt is too long for {error.model}, the widest of the candidates"


def _hedging(settings: HedgingSettings | None) -> Hedging | None:
    policy = None if settings is None else settings.policy()
    return None if policy is None else Hedging(**policy)


def _parse_or_fail(request: Request, reply: Reply) -> object:
    if reply.tool_calls and not reply.content:
        return None
    return parse_answer(
        reply.content,
        request.question.params.get("response_format"),
        request.question.response_model,
    )
