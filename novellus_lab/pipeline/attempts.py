"""The one loop in which retries, failover, back-off and the deadline are decided together."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from itertools import count
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from novellus_lab.errors import (
    BadRequestError,
    BudgetError,
    CircuitOpenError,
    ConfigurationError,
    ContentFilteredError,
    DeadlineExceededError,
    InvalidRequestError,
    LimitExceededError,
    ProviderError,
    ProviderTimeoutError,
    UnsupportedParameterError,
)
from novellus_lab.ids import uuid7
from novellus_lab.pipeline.failover import kind_of
from novellus_lab.pipeline.hedging import Race
from novellus_lab.pipeline.trace import Heard
from novellus_lab.tokens import estimate_tokens
from novellus_lab.types import Attempt, EmbeddingReply, Price, Reply, Status, Usage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence
    from random import Random

    from novellus_lab.pipeline.admission import Admission
    from novellus_lab.pipeline.asking import Ask
    from novellus_lab.pipeline.catalog import Catalog, Model
    from novellus_lab.pipeline.failover import Failover
    from novellus_lab.pipeline.hedging import Hedge
    from novellus_lab.pipeline.request import Request
    from novellus_lab.pipeline.trace import Trace
    from novellus_lab.pricing import PriceBook
    from novellus_lab.routing.latency import LatencyTracker
    from novellus_lab.settings import RetrySettings

R = TypeVar("R", Reply, EmbeddingReply)
Role = Literal["primary", "retry", "failover", "hedge"]

_CLOCKS_S = 0.005
"""What the event loop's clock, and the provider's view of it, may be early by."""

_NOT_CHARGED = Price(cost_usd=Decimal(0), version="not charged")


class Attempts:
    """Calls the candidates in order until one answers."""

    def __init__(
        self,
        catalog: Catalog,
        prices: PriceBook,
        latencies: LatencyTracker,
        retries: RetrySettings,
        random: Random,
        admission: Admission,
    ) -> None:
        self._catalog = catalog
        self._prices = prices
        self._latencies = latencies
        self._retries = retries
        self._random = random
        self._admission = admission

    async def run(
        self,
        request: Request,
        order: Sequence[Model],
        trace: Trace,
        ask: Ask[R],
        *,
        failover: Failover | None = None,
        hedge: Hedge | None = None,
    ) -> R:
        """Return the first answer; `trace` holds every attempt, also when this raises.

        Args:
            failover: who is asked beside those of `order`, and after what.
            hedge: a second call beside one that takes long.

        Raises:
            DeadlineExceededError: the call's deadline passed.
            ProviderError: the last candidate's error; its notes tell what was tried.
            UnsupportedParameterError: no candidate can honour a parameter.
        """
        if request.deadline is None:
            return await self._run(request, order, trace, ask, failover, hedge)
        if time.perf_counter() >= request.deadline:
            raise _too_late(request, trace)  # before anything is sent and paid for
        limit = asyncio.timeout(request.deadline - time.perf_counter())
        try:
            async with limit:
                return await self._run(request, order, trace, ask, failover, hedge)
        except TimeoutError as error:
            # A provider is given what is left of the deadline: near it, either may be the first to
            # notice that it has passed.
            passed = time.perf_counter() >= request.deadline - _CLOCKS_S
            if not (passed if isinstance(error, ProviderError) else limit.expired()):
                raise
            raise _too_late(request, trace) from None

    async def _run(
        self,
        request: Request,
        order: Sequence[Model],
        trace: Trace,
        ask: Ask[R],
        failover: Failover | None,
        hedge: Hedge | None,
    ) -> R:
        error: ProviderError | UnsupportedParameterError | BudgetError | None = None
        ahead, tried = deque(order), set[str]()
        withheld: _Withheld[R] | None = None
        kept_back: list[Model] = []  # by the breaker: asked when all others have failed
        at_last = False
        role: Role = "primary"
        while ahead:
            model = ahead.popleft()
            tried.add(model.id)
            failures: dict[str, int] = {}
            failed: BaseException | None = None
            # One that seems to be down is not worth more; who is only rate limited is.
            once = at_last and self._admission.breaker.is_open(model.id)
            for number in count(1):
                if number > 1:
                    role = "retry"
                # A retry keeps to its own schedule, and where nobody else is left one tries.
                forced = number > 1 or at_last or not (ahead or kept_back)
                try:
                    if hedge is None or hedge.sent:
                        reply = await self._once(request, model, trace, ask, role, forced=forced)
                    else:
                        other = ahead[0] if ahead and hedge.hedging.to == "next" else model
                        reply = await self._hedged(
                            request, model, other, trace, ask, role, forced=forced, hedge=hedge
                        )
                    if failover is None or trace.streamed or not _filtered(reply):
                        return reply
                    withheld = withheld or _Withheld(reply, trace)
                    failed = ContentFilteredError(f"{model.id} withheld its answer")
                    error = failed
                    break
                except UnsupportedParameterError as unsupported:
                    if isinstance(unsupported, ProviderError):
                        unsupported.model, unsupported.provider = model.id, model.provider
                    # Why the pick failed tells more than what a stand-in can't do.
                    error = error if isinstance(error, ProviderError) else unsupported
                    break
                except (LimitExceededError, CircuitOpenError) as refused:
                    refused.model, refused.provider = model.id, model.provider
                    error, failed = error or refused, refused
                    if isinstance(refused, CircuitOpenError):
                        kept_back.append(model)
                    break  # another model may have room
                except BudgetError as refused:
                    if trace.attempts and error is not None:
                        error.add_note(f"{model.id} was not asked: {refused}")
                        break
                    error = error or refused
                    break  # a cheaper one may fit
                except ProviderError as raised:
                    raised.model, raised.provider = model.id, model.provider
                    error = failed = raised
                    if trace.streamed:
                        raise
                    if once or not self._may_ask_again(raised, number, failures):
                        break
                    wait_s = self._wait_s(number, raised.retry_after_s)
                    if ahead and wait_s > self._retries.max_delay_s:
                        break  # another model answers sooner than this one lets us ask again
                    if request.deadline is not None and (
                        time.perf_counter() + wait_s >= request.deadline
                    ):
                        break
                    before = time.perf_counter()
                    try:
                        await asyncio.sleep(wait_s)
                    finally:
                        trace.queue_ms += (time.perf_counter() - before) * 1000
            role = "failover"
            chain: list[Model] | None = None
            if failover is not None and failed is not None:
                chain = failover.after(request.question, model, failed)
            if withheld is not None and chain is None and model.id == withheld.model_id:
                break  # nobody is said to stand in for it
            if chain is None and isinstance(failed, BadRequestError):
                if withheld is not None:
                    break
                raise failed  # no other would take it
            if chain is None and failover is not None and not ahead:
                chain = failover.at_last(request.question, model)
            if chain is not None:
                ahead, at_last = deque(m for m in chain if m.id not in tried), False
            if kept_back and not ahead:
                ahead, kept_back, at_last = deque(kept_back), [], True
        if withheld is not None:
            return withheld.again(trace)
        if error is None:
            raise AssertionError("a route without candidates")
        if len(trace.attempts) > 1:
            error.add_note(f"tried{_tried(trace)}")
        raise error

    def _may_ask_again(self, error: ProviderError, number: int, failures: dict[str, int]) -> bool:
        """Whether a model that was asked so often may be asked once more after this error.

        Args:
            failures: so far, of the kinds that have a number of their own; this one is added.
        """
        stated = self._retries.after
        kind = kind_of(error, stated) if stated else None
        if kind is None:
            return error.retryable and number < self._retries.max_attempts
        failures[kind] = failures.get(kind, 0) + 1
        # A provider may say of an error that mostly heals that this one does not.
        hopeless = type(error).retryable and not error.retryable
        return failures[kind] <= stated[kind] and not hopeless

    def _wait_s(self, failures: int, retry_after_s: float | None) -> float:
        """Full jitter (each wait uniform up to a doubling cap), never less than was asked for."""
        cap = min(self._retries.max_delay_s, self._retries.base_delay_s * 2 ** (failures - 1))
        wait_s = self._random.uniform(0, cap) if self._retries.jitter else cap
        return wait_s if retry_after_s is None else max(retry_after_s, 0.0) + wait_s * 0.1

    async def _hedged(
        self,
        request: Request,
        model: Model,
        other: Model,
        trace: Trace,
        ask: Ask[R],
        role: Role,
        *,
        forced: bool,
        hedge: Hedge,
    ) -> R:
        """Call a model, and another one beside it if the answer does not come in time."""
        after_s = hedge.after_s(model.id)
        if after_s is None:
            return await self._once(request, model, trace, ask, role, forced=forced)
        started, begun = time.perf_counter(), len(trace.attempts)
        reply = await Race[R](trace).run(
            lambda leg: self._once(request, model, leg, ask, role, forced=forced),
            lambda leg: self._once(request, other, leg, ask, "hedge", forced=False),
            after_s,
            hedge.take,
        )
        if trace.answer is not None and trace.answer.role == "hedge":
            # It would have taken longer still. Not to count it would make the model look quicker
            # with every hedge, and hedges more frequent.
            for attempt in trace.attempts[begun:]:
                if attempt.role == role and attempt.status is Status.CANCELLED:
                    self._latencies.observe(
                        model.id,
                        (time.perf_counter() - started) * 1000,
                        attempt.latency_ms if trace.streamed else None,
                        input_tokens=reply.usage.input_tokens,
                        output_tokens=reply.usage.output_tokens,
                    )
        return reply

    async def _once(
        self,
        request: Request,
        model: Model,
        trace: Trace,
        ask: Ask[R],
        role: Role,
        *,
        forced: bool,
    ) -> R:
        attempt_id = uuid7()
        place = await self._admission.enter(request, model, attempt_id, forced=forced)
        trace.queue_ms += place.waited_ms
        heard = trace.heard = Heard()
        started_at, started = datetime.now(UTC), time.perf_counter()

        def attempt(status: Status, price: Price, usage: Usage, **more: Any) -> Attempt:
            return Attempt(
                id=attempt_id,
                number=len(trace.attempts) + 1,
                role=role,
                model_id=model.id,
                provider=model.provider,
                started_at=started_at,
                status=status,
                latency_ms=(time.perf_counter() - started) * 1000,
                price=price,
                usage=usage,
                ttft_ms=heard.ttft_ms,
                **more,
            )

        def failed(status: Status, error: BaseException) -> None:
            provider_error = error if isinstance(error, ProviderError) else None
            usage, price = self._charge_for_failure(
                model, ask, heard, error, started_at, trace.overtaken_by_tokens
            )
            place.failed(
                error,
                usage.total_tokens,
                price.cost_usd,
                sent=provider_error is None or not provider_error.never_sent,
                waited_s=time.perf_counter() - started,
            )
            self._admission.slow_down(model, error)
            trace.attempts.append(
                attempt(
                    status,
                    price,
                    usage,
                    raw_usage=heard.raw_usage,
                    response_model=heard.model,
                    response_id=heard.response_id,
                    error_class=type(error).__name__,
                    error_message=str(error) or None,
                    status_code=provider_error and provider_error.status_code,
                    retry_after_s=provider_error and provider_error.retry_after_s,
                )
            )

        try:
            provider = self._catalog.provider(model)
            left_s = None if request.deadline is None else request.deadline - started
            reply = await _within(model, ask(provider, model, left_s, heard, trace))
        except Exception as raw:
            refused = isinstance(raw, (InvalidRequestError, ConfigurationError))
            if refused and not isinstance(raw, ProviderError):
                place.failed(raw, 0, None, sent=False, waited_s=0.0)
                raise  # nothing was sent
            error = raw if isinstance(raw, ProviderError) else _adapter_failed(model, raw)
            failed(Status.ERROR, error)
            error.partial_content = heard.text or None
            if error is raw:
                raise
            raise error from raw
        except asyncio.CancelledError as cancelled:
            deadline = request.deadline
            if deadline is not None and time.perf_counter() >= deadline - _CLOCKS_S:
                failed(Status.ERROR, DeadlineExceededError("the call's deadline passed"))
            else:
                failed(Status.CANCELLED, cancelled)
            raise
        finally:
            trace.provider_ms += (time.perf_counter() - started) * 1000

        done = attempt(
            Status.OK,
            self._price(model, reply.usage, started_at, reply),
            reply.usage,
            raw_usage=reply.raw_usage,
            response_model=reply.model,
            response_id=reply.response_id,
        )
        place.answered(reply.usage.total_tokens, done.price.cost_usd)
        trace.attempts.append(done)
        trace.answer = done
        trace.answered_by = model
        trace.dropped_params = reply.dropped_params
        # Of a recording, what was drawn: how much of it was waited for says nothing of the model.
        drawn_ms = reply.simulated_latency_ms if isinstance(reply, Reply) else None
        latency_ms = done.latency_ms if drawn_ms is None else drawn_ms
        self._latencies.observe(
            model.id,
            latency_ms,
            heard.ttft_ms,
            input_tokens=reply.usage.input_tokens,
            output_tokens=reply.usage.output_tokens,
        )
        return reply

    def price(self, model: Model, reply: Reply, at: datetime) -> Price:
        """Price an answer that came otherwise than by `run`: from a provider's batch."""
        return self._price(model, reply.usage, at, reply)

    def _price(
        self, model: Model, usage: Usage, at: datetime, reply: Reply | EmbeddingReply | None
    ) -> Price:
        price = self._prices.price(
            usage,
            **model.priced_as,
            response_model=None if reply is None else reply.model,
            at=at,
            service_tier=reply.service_tier if isinstance(reply, Reply) else None,
            billed_cost_usd=reply.billed_cost_usd if isinstance(reply, Reply) else None,
        )
        if not isinstance(reply, Reply) or not reply.other_models or price.version == "provider":
            return price
        others = [
            self._prices.price(
                used, provider=model.provider, model=name, at=at, base_url=model.config.base_url
            )
            for name, used in reply.other_models
        ]
        return self._prices.together([price, *others])

    def _charge_for_failure(
        self,
        model: Model,
        ask: Ask[R],
        heard: Heard,
        error: BaseException,
        at: datetime,
        overtaken_by_tokens: int | None,
    ) -> tuple[Usage, Price]:
        """What a call that did not come to its end used and cost.

        Providers charge a stream for its prompt and for what they generated until it broke off.
        They charge nothing for a request that they refused with an error status, or that never
        reached them. Whatever else was sent they may charge for, and nobody tells us how much: an
        answer that we stopped waiting for, that was cut off, or that can't be read. Only where
        another answer to the same question is there it can be estimated: a provider that was left
        writes to the end and charges it all.
        """
        if heard.text or heard.usage is not None:
            written = estimate_tokens(heard.text)
            if heard.usage is not None:
                usage = replace(
                    heard.usage,
                    output_tokens=max(heard.usage.output_tokens, written),
                    estimated=True,
                )
            else:
                usage = Usage(
                    input_tokens=ask.estimated_input_tokens(),
                    output_tokens=written,
                    estimated=True,
                )
            return usage, self._price(model, usage, at, None)
        if isinstance(error, ProviderError) and (
            (error.status_code or 0) >= 400 or error.never_sent
        ):
            return Usage(), _NOT_CHARGED
        if overtaken_by_tokens is not None:
            usage = Usage(
                input_tokens=ask.estimated_input_tokens(),
                output_tokens=overtaken_by_tokens,
                estimated=True,
            )
            return usage, self._price(model, usage, at, None)
        price = self._price(model, Usage(), at, None)
        if price.cost_usd == 0 and price.version == "local":
            return Usage(), price
        return Usage(), Price(
            cost_usd=None,
            reason="the call ended before its answer was read; the provider may charge for it",
        )


class _Withheld(Generic[R]):
    """An answer that a provider's filter cut short: better than none, where no stand-in has one."""

    def __init__(self, reply: R, trace: Trace) -> None:
        self._reply: R = reply
        self._answer, self._heard = trace.answer, trace.heard
        self._answered_by, self._dropped_params = trace.answered_by, trace.dropped_params

    @property
    def model_id(self) -> str | None:
        return None if self._answered_by is None else self._answered_by.id

    def again(self, trace: Trace) -> R:
        trace.answer, trace.heard = self._answer, self._heard
        trace.answered_by, trace.dropped_params = self._answered_by, self._dropped_params
        return self._reply


def _filtered(reply: Reply | EmbeddingReply) -> bool:
    return isinstance(reply, Reply) and reply.finish_reason == "content_filter"


def _too_late(request: Request, trace: Trace) -> DeadlineExceededError:
    total_s = (request.deadline or request.started) - request.started
    return DeadlineExceededError(
        f"no answer within the deadline of {total_s:g} s{_tried(trace)}; pass a larger timeout, or "
        f"a faster model"
    )


async def _within(model: Model, work: Awaitable[R]) -> R:
    """Hold one attempt to the model's own `timeout_s`."""
    limit_s = model.settings.timeout_s
    if limit_s is None:
        return await work
    limit = asyncio.timeout(limit_s)
    try:
        async with limit:
            return await work
    except TimeoutError as error:
        if isinstance(error, ProviderError) or not limit.expired():
            raise
        raise ProviderTimeoutError(
            f"{model.id} did not answer within its timeout_s of {limit_s:g}"
        ) from None


def _adapter_failed(model: Model, error: Exception) -> ProviderError:
    # Only the type: the text of a foreign exception may hold anything, a key included.
    return ProviderError(
        f"the provider adapter {model.provider!r} failed with {type(error).__name__} while calling "
        f"{model.id}: this is a defect of the adapter, its cause is chained below"
    )


def _tried(trace: Trace) -> str:
    if not trace.attempts:
        return ""
    return ": " + ", ".join(
        f"{a.model_id} ({a.error_class or a.status.value} after {a.latency_ms:.0f} ms)"
        for a in trace.attempts
    )
