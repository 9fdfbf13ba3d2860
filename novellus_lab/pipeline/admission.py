"""What stands between the router's pick and the provider: breaker, rate limits, budgets.

Before each provider call a place is taken: the circuit must be closed, the limits must have room, and
the most that the call may cost must fit into its budgets. When the call ends, the place is given
back, with what was truly used.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from novellus_lab.errors import CircuitOpenError, RateLimitError, StoreUnavailableError
from novellus_lab.limits.budget import Budget, CallScope, Scope
from novellus_lab.limits.budgets import Budgets
from novellus_lab.limits.quota import key_quota, model_quota
from novellus_lab.limits.rate_limits import RateLimits
from novellus_lab.pipeline.pool import Pool
from novellus_lab.pipeline.question import PURPOSE_TAG
from novellus_lab.pricing.book import BATCH
from novellus_lab.routing.breaker import BreakerPolicy, CircuitBreaker

if TYPE_CHECKING:
    from collections.abc import Iterable
    from uuid import UUID

    from novellus_lab.limits.budgets import Reservation
    from novellus_lab.limits.quota import Quota
    from novellus_lab.limits.rate_limits import Permit
    from novellus_lab.pipeline.catalog import Model
    from novellus_lab.pipeline.question import Question
    from novellus_lab.pipeline.quick_prices import QuickPrices
    from novellus_lab.pipeline.request import Request
    from novellus_lab.settings import BudgetSettings, Settings

logger = logging.getLogger("novellus_lab.limits")

_INPUT_MARGIN = Decimal("1.25")
"""A prompt is counted without the model's own tokenizer: budgets reserve for a quarter more."""
_LONGEST_ANSWER = 4096
"""Tokens reserved for an answer where neither call nor model says how long it may be."""
_MOST_POOLS = 256
_URGENCY = {"high": 10.0, "urgent": 30.0, "low": -10.0}
"""What the labels of `priority` are worth, in seconds of waiting."""


@dataclass(slots=True)
class Place:
    """What one call holds. End it once."""

    _breaker: CircuitBreaker
    _model_id: str
    _ticket: int | None
    _permit: Permit | None
    _reservation: Reservation | None
    waited_ms: float

    def answered(self, tokens: int, cost_usd: Decimal | None) -> None:
        """The provider answered: what it used and cost takes the place of what was reserved."""
        self._settle(tokens, cost_usd)
        if self._ticket is not None:
            self._breaker.on_success(self._model_id, self._ticket)

    def failed(
        self,
        error: BaseException,
        tokens: int,
        cost_usd: Decimal | None,
        *,
        sent: bool,
        waited_s: float,
    ) -> None:
        """The call ended with an error, whoever's fault it was."""
        if sent:
            self._settle(tokens or None, cost_usd)
        else:
            self._give_back()
        if self._ticket is not None:
            self._breaker.on_failure(self._model_id, self._ticket, error, waited_s=waited_s)

    def _settle(self, tokens: int | None, cost_usd: Decimal | None) -> None:
        permit, self._permit = self._permit, None
        reservation, self._reservation = self._reservation, None
        if permit is not None:
            permit.settle(tokens)
        if reservation is not None:
            reservation.settle(cost_usd)

    def _give_back(self) -> None:
        permit, self._permit = self._permit, None
        reservation, self._reservation = self._reservation, None
        if permit is not None:
            permit.cancel()
        if reservation is not None:
            reservation.cancel()


@dataclass(frozen=True, slots=True)
class _Together:
    """What holds for the models of a pool together: who passes it passes each one's own."""

    quotas: tuple[Quota, ...]
    longest_answer: int
    """In tokens, where the call does not say."""


class Admission:
    """One per lab. What asks about several models may run on any thread, the rest on the lab's loop."""

    def __init__(
        self, settings: Settings, models: Iterable[Model], prices: QuickPrices, conninfo: str
    ) -> None:
        redis = settings.redis_url
        limits = settings.limits
        self.limits = RateLimits(
            redis_url=None if redis is None else redis.get_secret_value(),
            on_limit=limits.on_limit,
            max_wait_s=limits.max_wait_s,
        )
        self.budgets = Budgets(
            [_budget(entry) for entry in settings.budgets] + _shadow_budgets(settings),
            conninfo,
            unpriced=settings.budget_policy.unpriced,
            unreachable=settings.budget_policy.unreachable,
            settle_wait_s=settings.budget_policy.settle_wait_s,
        )
        self.breaker = CircuitBreaker(BreakerPolicy(**settings.breaker.policy()))
        self._breaks = settings.breaker.enabled
        self._prices = prices
        models = list(models)
        self._quotas = {model.id: _quotas(model, settings) for model in models}
        self._longest = {m.id: int(m.settings.max_tokens or _LONGEST_ANSWER) for m in models}
        self._together: dict[tuple[str, ...], _Together] = {}

    def why_not(self, question: Question, model: Model) -> str | None:
        """Return None if a call could be sent to this model now, else why not. Changes nothing."""
        alone = Pool((model,))
        for told in (self.resting(alone), self.unaffordable(question, alone)):
            if told is not None and told[0] is not None:
                return told[0]
        return None

    def resting(self, models: Pool) -> list[str | None] | None:
        """Return for each model why its circuit lets no call through now; None: all do."""
        if not self._breaks or self.breaker.quiet:
            return None
        return [self.breaker.allows(model_id) for model_id in models.ids]

    def unaffordable(self, question: Question, models: Pool) -> list[str | None] | None:
        """Return for each model which budget surely stands against a call; None: none does."""
        budgets = self.budgets
        if budgets.idle:
            return None
        left_usd = budgets.room_usd(_scope(question, models[0]), models.ids)
        if left_usd is None:
            return None
        longest = question.params.get("max_tokens") or self._of(models).longest_answer
        most_usd = self._prices.ceiling(models, _most_input(question), int(longest))
        if most_usd is not None and most_usd <= left_usd:
            return None
        return [budgets.allows(_scope(question, m), self.most_usd(question, m)) for m in models]

    def waits_s(self, question: Question, models: Pool) -> list[float] | None:
        """Return for each how long a call would wait for the limits, as far as this process knows.

        None: none would.
        """
        quotas, wait_s, tokens = self._quotas, self.limits.wait_s, question.input_tokens
        together = self._of(models)
        longest = question.params.get("max_tokens") or together.longest_answer
        if self.limits.has_room(together.quotas, tokens + int(longest)):
            return None
        return [
            wait_s(limits, tokens + self._longest_answer(question, model))
            if (limits := quotas.get(model.id))
            else 0.0
            for model in models
        ]

    def prefer_cheaper(self, question: Question, models: Pool) -> str | None:
        """Return why a cheaper model should be taken, or None."""
        return self.budgets.prefer_cheaper(_scope(question, models[0]), models.ids)

    async def enter(
        self, request: Request, model: Model, attempt_id: UUID, *, forced: bool
    ) -> Place:
        """Take a place for one call, or for none.

        Args:
            forced: call even though the circuit is open: no other model is left to ask.

        Raises:
            CircuitOpenError: the model is not called now.
            LimitExceededError: there is no room, or none in time.
            BudgetExceededError, UnknownPriceError: it does not fit into a budget.
            StoreUnavailableError: a hard budget holds, and the database can't be asked.
        """
        quotas = self._quotas.get(model.id, ())
        ticket: int | None = None
        if self._breaks:
            ticket = self.breaker.enter(model.id, force=forced)
            if ticket is None:
                reason = self.breaker.allows(model.id) or "circuit open"
                raise CircuitOpenError(f"{model.id} is not called now: {reason}")
        if not quotas and self.budgets.idle:
            return Place(self.breaker, model.id, ticket, None, None, 0.0)
        started = time.perf_counter()
        question = request.question
        permit: Permit | None = None
        try:
            if quotas:
                permit = await self.limits.acquire(
                    quotas,
                    input_tokens=question.input_tokens,
                    output_tokens=self._longest_answer(question, model),
                    priority=_urgency(question.priority),
                    timeout_s=_left_s(request),
                )
            reservation: Reservation | None = None
            if not self.budgets.idle:
                reservation = await self.budgets.reserve(
                    _scope(question, model),
                    self.most_usd(question, model),
                    id=attempt_id,
                    timeout_s=_left_s(request),
                )
        except BaseException:
            if permit is not None:
                permit.cancel()
            if ticket is not None:
                self.breaker.on_abandoned(model.id, ticket)
            raise
        waited_ms = (time.perf_counter() - started) * 1000
        return Place(self.breaker, model.id, ticket, permit, reservation, waited_ms)

    def slow_down(self, model: Model, error: BaseException) -> None:
        """Honour a provider's retry-after for every call under the model's limit."""
        quotas = self._quotas.get(model.id, ())
        if quotas and isinstance(error, RateLimitError) and error.retry_after_s:
            self.limits.pause(quotas[0], error.retry_after_s)

    def most_usd(
        self, question: Question, model: Model, service_tier: str | None = None
    ) -> Decimal | None:
        """The most that a call may cost: its counted prompt and its longest answer."""
        return self._prices.estimate(
            model,
            _most_input(question),
            self._longest_answer(question, model),
            service_tier=service_tier,
        )

    async def reserve_in_batch(
        self, question: Question, model: Model, attempt_id: UUID
    ) -> Reservation | None:
        """Reserve what a request may cost in a provider's batch; rates and breaker are no matter there.

        Raises:
            BudgetExceededError, UnknownPriceError: it does not fit into a budget.
            StoreUnavailableError: a hard budget holds, and the database can't be asked.
        """
        if self.budgets.idle:
            return None
        usd = self.most_usd(question, model, BATCH)
        return await self.budgets.reserve(_scope(question, model), usd, id=attempt_id)

    def settle_in_batch(
        self, question: Question, model: Model, attempt_id: UUID, cost_usd: Decimal | None
    ) -> None:
        """Book what a request cost that another process, or this one before, had reserved for."""
        self.budgets.settle_held(attempt_id, cost_usd, _scope(question, model))

    async def start(self) -> None:
        """See how the budgets stand, before the first call is routed by them."""
        try:
            await self.budgets.refresh()
        except StoreUnavailableError as error:
            logger.warning("how the budgets stand is not known yet: %s", error)

    async def flush(self) -> None:
        """Return when what has ended is booked, or the servers are away."""
        await self.limits.flush()
        await self.budgets.flush()

    async def aclose(self) -> None:
        await self.limits.aclose()
        await self.budgets.aclose()

    def _of(self, models: Pool) -> _Together:
        found = self._together.get(models.ids)
        if found is None:
            if len(self._together) >= _MOST_POOLS:
                self._together.clear()
            quotas = {quota for name in models.ids for quota in self._quotas.get(name, ())}
            longest = max(self._longest[name] for name in models.ids)
            found = self._together[models.ids] = _Together(tuple(quotas), longest)
        return found

    def _longest_answer(self, question: Question, model: Model) -> int:
        return int(question.params.get("max_tokens") or self._longest[model.id])


def _scope(question: Question, model: Model) -> CallScope:
    return CallScope(model.id, question.tags, question.session_id)


def _most_input(question: Question) -> int:
    return int(question.input_tokens * _INPUT_MARGIN) + 16


def _urgency(priority: str | int | None) -> float:
    if isinstance(priority, str):
        return _URGENCY.get(priority, 0.0)
    return float(priority or 0)


def _left_s(request: Request) -> float | None:
    return None if request.deadline is None else request.deadline - time.perf_counter()


def _quotas(model: Model, settings: Settings) -> tuple[Quota, ...]:
    entry = model.settings
    key = None if model.config.api_key is None else model.config.api_key.get_secret_value()
    found = []
    if entry.rpm is not None or entry.tpm is not None or entry.concurrent is not None:
        found.append(
            model_quota(
                model.id,
                key,
                rpm=entry.rpm,
                tpm=entry.tpm,
                concurrent=entry.concurrent,
                burst=settings.limits.burst,
            )
        )
    found += [
        key_quota(
            shared.api_key_env,
            key,
            rpm=shared.rpm,
            tpm=shared.tpm,
            concurrent=shared.concurrent,
            burst=settings.limits.burst,
        )
        for shared in settings.limits.keys
        if key is not None and settings.api_key((shared.api_key_env,)) == model.config.api_key
    ]
    return tuple(found)


def _shadow_budgets(settings: Settings) -> list[Budget]:
    names = [(entry, settings.model(entry.model).model_id) for entry in settings.shadows]
    purpose = f"{PURPOSE_TAG}=shadow"
    return [
        Budget(f"shadow calls of {name}", entry.usd, entry.per, Scope(model=name, tag=purpose))
        for entry, name in names
    ]


def _budget(entry: BudgetSettings) -> Budget:
    return Budget(
        entry.name,
        entry.usd,
        entry.per,
        Scope(**dict(entry.scope)),
        entry.on_exceed,
        entry.warn_at,
        entry.time_zone,
    )
