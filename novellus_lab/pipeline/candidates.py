"""Who may answer a request: the pool, and who of it fits."""

from __future__ import annotations

from datetime import UTC, datetime
from math import isinf
from typing import TYPE_CHECKING, NamedTuple

from novellus_lab.errors import ContextWindowExceededError, NoModelAvailableError
from novellus_lab.pipeline.pool import Pool
from novellus_lab.routing.rules import failing, first_match
from novellus_lab.types import Candidate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from decimal import Decimal

    from novellus_lab.pipeline.admission import Admission
    from novellus_lab.pipeline.catalog import Catalog, Model
    from novellus_lab.pipeline.observing import Observed
    from novellus_lab.pipeline.question import Question
    from novellus_lab.pipeline.quick_prices import QuickPrices
    from novellus_lab.routing.answer_length import ExpectedUsage
    from novellus_lab.routing.latency import Forecast
    from novellus_lab.settings import RuleSettings

    WhyNot = Callable[[Model], str | None]

_CONTEXT_SLACK = 1.25
"""Token counts made without the model's own tokenizer are estimates: only what is surely too long
is refused before it is sent."""


_NOBODY = Pool()


class Fit(NamedTuple):
    """Who of a pool may answer a request."""

    models: Pool
    resting: Pool
    """Would do too, but their circuits let no call through now: better asked than no answer."""


class Candidates:
    """Pools and their limits. Safe from any thread."""

    def __init__(
        self,
        catalog: Catalog,
        rules: Sequence[RuleSettings],
        prices: QuickPrices,
        observed: Observed,
        admission: Admission,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._admission = admission
        self._catalog = catalog
        self._rules = rules
        self._prices = prices
        self._observed = observed
        self._clock = clock
        self._pools: dict[tuple[str, ...], Pool] = {}
        self._everybody = Pool(catalog.chat_pool)
        self.change_with_time = any(rule.conditions.depends_on_time for rule in rules)
        """Whether another rule may decide for the same question in an hour."""

    def named(self, model_id: str) -> Model:
        """Return the model that a call asks for by name.

        Raises:
            UnknownModelError, NoModelAvailableError
        """
        model = self._catalog.available(model_id)
        if model.is_embedding:
            raise NoModelAvailableError(f"{model.id} makes embeddings, not answers: use lab.embed")
        return model

    def pool(self, question: Question) -> tuple[RuleSettings | None, Pool]:
        """Return the rule that decides, if one does, and the available models of its pool.

        Raises:
            NoModelAvailableError: there are none.
        """
        rule: RuleSettings | None = None
        if self._rules:
            now = self._clock() if self.change_with_time else None
            rule = first_match(self._rules, question, now)
        if rule is None or not rule.model_pool:
            if not self._everybody:
                raise NoModelAvailableError(self._catalog.why_empty())
            return rule, self._everybody
        known = self._pools.get(rule.model_pool)
        if known is not None:
            return rule, known
        named = [self._catalog.get(name) for name in rule.model_pool]
        models = Pool(m for m in named if m.unavailable is None and not m.is_embedding)
        if models:
            self._pools[rule.model_pool] = models
            return rule, models
        if self._catalog.stands_in:  # recorded answers stand in for this pool, too
            return rule, self._everybody
        reasons = "; ".join(f"{m.id}: {m.unavailable or 'makes embeddings'}" for m in named)
        raise NoModelAvailableError(
            f"rule {rule.name!r} decides, and no model of its pool can be used: {reasons}"
        )

    def that_fit(
        self,
        question: Question,
        models: Sequence[Model],
        rule: RuleSettings | None,
        dropped: list[Candidate],
    ) -> Fit:
        """Drop the models that can't, or by the rule may not, answer this request.

        Who they are, and why, is in `dropped`, also when this raises.

        A model that the caller named is held to its context window only: what it can is its
        provider's to say. A rule's `max_latency_ms` drops no one where it would leave no one.

        Raises:
            ContextWindowExceededError: the prompt is too long for all of them.
            NoModelAvailableError: none is left, for whatever reasons.
        """
        kept = models if isinstance(models, Pool) else Pool(models)
        if kept.narrowest < len(question.messages_json):  # a token is at least a byte
            kept = _keep(kept, dropped, lambda m: _too_long(question, m))
        if not kept:
            raise _too_long_for_all(models, question.input_tokens)
        if question.model_id is None and (needs := question.needs):
            kept = _keep(kept, dropped, lambda m: _lacks(m, needs))
        if rule is not None and rule.conditions.max_cost_usd is not None:
            most_usd, estimates = rule.conditions.max_cost_usd, self.estimates(question)
            kept = _keep(kept, dropped, lambda m: _too_dear(estimates, m, most_usd))
        if not kept:
            told = "; ".join(f"{c.model_id}: {c.dropped}" for c in dropped)
            decided = "" if rule is None else f" by rule {rule.name!r}"
            raise NoModelAvailableError(f"no model{decided} can take this request: {told}")
        if rule is not None and rule.conditions.max_latency_ms is not None:
            most_ms, estimates = rule.conditions.max_latency_ms, self.estimates(question)
            too_slow: list[Candidate] = []
            quick = _keep(kept, too_slow, lambda m: _too_slow(estimates, m, most_ms))
            if quick:
                dropped += too_slow
                kept = quick
        return self._ready(question, kept, dropped)

    def _ready(self, question: Question, models: Pool, dropped: list[Candidate]) -> Fit:
        """Leave out who can't be called now, and who would make the call wait: unless all would."""
        resting: Pool = _NOBODY
        if len(models) > 1 and (told := self._admission.resting(models)):
            models, resting = _leave_out(models, told, dropped)
        if len(models) > 1 and (told := self._admission.unaffordable(question, models)):
            models, _ = _leave_out(models, told, dropped)
        if len(models) > 1 and (waits_s := self._admission.waits_s(question, models)):
            models, _ = _leave_out(models, [_wait(s) if s else None for s in waits_s], dropped)
        return Fit(models, resting)

    def prefer_cheaper(self, question: Question, models: Pool) -> str | None:
        """Return why the cheapest should be taken, whatever the strategy says, or None."""
        if self._admission.budgets.idle:
            return None
        return self._admission.prefer_cheaper(question, models)

    def estimates(self, question: Question) -> QuestionEstimates:
        """Return what this question is expected to come to with each model."""
        return QuestionEstimates(question, self._catalog, self._prices, self._observed)

    def rules(self, question: Question) -> list[tuple[RuleSettings, str | None]]:
        """Return the rules in order, each with the condition that does not hold, if one does not."""
        now = self._clock()
        return [(rule, failing(rule.conditions, question, now)) for rule in self._rules]


class QuestionEstimates:
    """`routing.strategies.Estimates` of one question."""

    __slots__ = ("_catalog", "_observed", "_prices", "_question", "_usage")

    def __init__(
        self, question: Question, catalog: Catalog, prices: QuickPrices, observed: Observed
    ) -> None:
        self._question = question
        self._usage: dict[str, ExpectedUsage] = {}
        self._catalog = catalog
        self._prices = prices
        self._observed = observed

    def usage(self, model_id: str) -> ExpectedUsage:
        """Return how long the answer will be, and how much of the prompt the provider has cached."""
        found = self._usage.get(model_id)
        if found is None:
            found = self._usage[model_id] = self._expected(model_id)
        return found

    def _expected(self, model_id: str) -> ExpectedUsage:
        question, entry = self._question, self._catalog.get(model_id).settings
        return self._observed.lengths.expected(
            model_id,
            input_tokens=question.input_tokens,
            tags=question.tags,
            max_tokens=question.params.get("max_tokens", entry.max_tokens),
        )

    def expected_output_tokens(self, model_id: str) -> int:
        return self.usage(model_id).output_tokens

    def expected_cost_usd(self, model_id: str) -> Decimal | None:
        model, usage = self._catalog.get(model_id), self.usage(model_id)
        input_tokens = self._question.input_tokens
        return self._prices.estimate(
            model, input_tokens, usage.output_tokens, int(input_tokens * usage.cached_share)
        )

    def forecast(self, model_id: str) -> Forecast:
        question = self._question
        return self._observed.latencies.forecast(
            model_id,
            input_tokens=question.input_tokens,
            output_tokens=self.expected_output_tokens(model_id),
            stream=question.stream,
        )

    def in_flight(self, model_id: str) -> int:
        return self._observed.traffic.in_flight(model_id)

    def success_share(self, model_id: str) -> float:
        return self._observed.traffic.success_share(model_id)


def _wait(wait_s: float) -> str:
    until = "when a call ends" if isinf(wait_s) else f"in {wait_s:.1f} s"
    return f"its rate limits have room {until}"


def _too_dear(estimates: QuestionEstimates, model: Model, most_usd: Decimal) -> str | None:
    cost_usd = estimates.expected_cost_usd(model.id)
    if cost_usd is None:
        return f"its price is unknown, and the rule allows ${most_usd:f}"
    if cost_usd > most_usd:
        return f"its expected cost of ${cost_usd:f} exceeds the rule's ${most_usd:f}"
    return None


def _too_slow(estimates: QuestionEstimates, model: Model, most_ms: float) -> str | None:
    """By what this process saw lately; a model that it has not seen gets its chance."""
    forecast = estimates.forecast(model.id)
    if not forecast.calls or forecast.latency_ms <= most_ms:
        return None
    return (
        f"its recent latency of {forecast.latency_ms:,.0f} ms, for a request of this size, exceeds "
        f"the rule's {most_ms:,.0f} ms"
    )


def _keep(models: Pool, dropped: list[Candidate], why_not: WhyNot) -> Pool:
    kept = []
    for model in models:
        reason = why_not(model)
        if reason is None:
            kept.append(model)
        else:
            dropped.append(Candidate(model.id, dropped=reason))
    return models if len(kept) == len(models) else Pool(kept)


def _leave_out(
    models: Pool, reasons: Sequence[str | None], dropped: list[Candidate]
) -> tuple[Pool, Pool]:
    """Part those without a reason against them from the others; where all have one, keep all."""
    ready = Pool(m for m, reason in zip(models, reasons, strict=True) if reason is None)
    if not ready or len(ready) == len(models):
        return models, _NOBODY
    left_out = [(m, reason) for m, reason in zip(models, reasons, strict=True) if reason]
    dropped += [Candidate(m.id, dropped=reason) for m, reason in left_out]
    return ready, Pool(m for m, _ in left_out)


def _too_long(question: Question, model: Model) -> str | None:
    window = model.settings.context_window
    if window is None or len(question.messages_json) <= window:
        return None
    if question.input_tokens <= window * _CONTEXT_SLACK:
        return None
    return f"about {question.input_tokens:,} tokens exceed its context window of {window:,}"


def _too_long_for_all(models: Sequence[Model], tokens: int) -> ContextWindowExceededError:
    widest = max(models, key=lambda m: m.settings.context_window or 0)
    return ContextWindowExceededError(
        f"the prompt has about {tokens:,} tokens, more than any candidate takes "
        f"({widest.id}: {widest.settings.context_window:,}); shorten it or add a model with "
        f"a larger context_window. Nothing was sent.",
        model=widest.id,
        provider=widest.provider,
    )


def _lacks(model: Model, needs: frozenset[str]) -> str | None:
    """An entry that states no capabilities says nothing of what the model can't."""
    if "capabilities" not in model.settings.model_fields_set:
        return None
    missing = sorted(needs.difference(model.settings.capabilities))
    return f"it lacks {', '.join(missing)}" if missing else None
