"""Who may answer a request: the pool, and who of it fits."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from math import isinf
from typing import TYPE_CHECKING

from novellus_lab.errors import ContextWindowExceededError, NoModelAvailableError
from novellus_lab.routing.rules import first_match
from novellus_lab.routing.strategies import Option
from novellus_lab.types import Candidate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from decimal import Decimal

    from novellus_lab.pipeline.admission import Admission
    from novellus_lab.pipeline.catalog import Catalog, Model
    from novellus_lab.pipeline.question import Question
    from novellus_lab.pricing import PriceBook
    from novellus_lab.routing.latency import LatencyTracker
    from novellus_lab.settings import RuleSettings

    WhyNot = Callable[[Model], str | None]

_EXPECTED_OUTPUT_TOKENS = 256
"""Assumed length of an answer when costs are compared beforehand and nothing better is known."""

_CONTEXT_SLACK = 1.25
"""Token counts made without the model's own tokenizer are estimates: only what is surely too long
is refused before it is sent."""


class Candidates:
    """Pools and their limits. Safe from any thread."""

    def __init__(
        self,
        catalog: Catalog,
        rules: Sequence[RuleSettings],
        prices: PriceBook,
        latencies: LatencyTracker,
        admission: Admission,
    ) -> None:
        self._admission = admission
        self._catalog = catalog
        self._rules = rules
        self._prices = prices
        self._latencies = latencies

    def named(self, model_id: str) -> Model:
        """Return the model that a call asks for by name.

        Raises:
            UnknownModelError, NoModelAvailableError
        """
        model = self._catalog.available(model_id)
        if model.is_embedding:
            raise NoModelAvailableError(f"{model.id} makes embeddings, not answers: use lab.embed")
        return model

    def pool(self, question: Question) -> tuple[RuleSettings | None, tuple[Model, ...]]:
        """Return the rule that decides, if one does, and the available models of its pool.

        Raises:
            NoModelAvailableError: there are none.
        """
        rule = first_match(self._rules, question) if self._rules else None
        if rule is None or not rule.model_pool:
            models = self._catalog.chat_pool
            if not models:
                raise NoModelAvailableError(self._catalog.why_empty())
            return rule, models
        named = [self._catalog.get(name) for name in rule.model_pool]
        models = tuple(m for m in named if m.unavailable is None and not m.is_embedding)
        if models:
            return rule, models
        if self._catalog.stands_in:  # recorded answers stand in for this pool, too
            return rule, self._catalog.chat_pool
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
    ) -> list[Model]:
        """Drop the models that can't, or by the rule may not, answer this request.

        Who they are, and why, is in `dropped`, also when this raises.

        A model that the caller named is held to its context window only: what it can is its
        provider's to say. A rule's `max_latency_ms` drops no one where it would leave no one.

        Raises:
            ContextWindowExceededError: the prompt is too long for all of them.
            NoModelAvailableError: none is left, for whatever reasons.
        """
        kept = _keep(list(models), dropped, lambda m: _too_long(question, m))
        if not kept:
            raise _too_long_for_all(models, question.input_tokens)
        if question.model_id is None and (needs := question.needs):
            kept = _keep(kept, dropped, lambda m: _lacks(m, needs))
        if rule is not None and rule.conditions.max_cost_usd is not None:
            most_usd = rule.conditions.max_cost_usd
            kept = _keep(kept, dropped, lambda m: self._too_dear(question, m, most_usd))
        if not kept:
            told = "; ".join(f"{c.model_id}: {c.dropped}" for c in dropped)
            decided = "" if rule is None else f" by rule {rule.name!r}"
            raise NoModelAvailableError(f"no model{decided} can take this request: {told}")
        if rule is not None and rule.conditions.max_latency_ms is not None:
            most_ms = rule.conditions.max_latency_ms
            too_slow: list[Candidate] = []
            quick = _keep(kept, too_slow, lambda m: self._too_slow(question, m, most_ms))
            if quick:
                dropped += too_slow
                kept = quick
        return self._ready(question, kept, dropped)

    def _ready(
        self, question: Question, models: list[Model], dropped: list[Candidate]
    ) -> list[Model]:
        """Leave out who can't be called now, and who would make the call wait: unless all would."""
        for why_not in (self._admission.why_not, self._waits):
            if len(models) < 2:
                break
            not_now: list[Candidate] = []
            ready = _keep(models, not_now, partial(why_not, question))
            if ready:
                dropped += not_now
                models = ready
        return models

    def _waits(self, question: Question, model: Model) -> str | None:
        wait_s = self._admission.wait_s(question, model)
        if not wait_s:
            return None
        until = "when a call ends" if isinf(wait_s) else f"in {wait_s:.1f} s"
        return f"its rate limits have room {until}"

    def prefer_cheaper(self, question: Question, models: Sequence[Model]) -> str | None:
        """Return why the cheapest should be taken, whatever the strategy says, or None."""
        for model in models:
            reason = self._admission.prefer_cheaper(question, model)
            if reason is not None:
                return reason
        return None

    def option(self, model: Model, question: Question) -> Option:
        """Return what strategies decide by."""
        return Option(
            model.id,
            weight=model.weight,
            priority=model.settings.priority,
            expected_cost_usd=lambda: self._expected_cost_usd(question, model),
        )

    def _too_dear(self, question: Question, model: Model, most_usd: Decimal) -> str | None:
        cost_usd = self._expected_cost_usd(question, model)
        if cost_usd is None:
            return f"its price is unknown, and the rule allows ${most_usd:f}"
        if cost_usd > most_usd:
            return f"its expected cost of ${cost_usd:f} exceeds the rule's ${most_usd:f}"
        return None

    def _too_slow(self, question: Question, model: Model, most_ms: float) -> str | None:
        """By what this process saw lately; a model that it has not seen gets its chance."""
        recent = self._latencies.ttft_ms if question.stream else self._latencies.latency_ms
        latency_ms = recent(model.id)
        if latency_ms is None or latency_ms <= most_ms:
            return None
        return f"its recent latency of {latency_ms:,.0f} ms exceeds the rule's {most_ms:,.0f} ms"

    def _expected_cost_usd(self, question: Question, model: Model) -> Decimal | None:
        asked = question.params.get("max_tokens", model.settings.max_tokens)
        return self._prices.estimate(
            provider=model.provider,
            model=model.name,
            input_tokens=question.input_tokens,
            output_tokens=min(asked or _EXPECTED_OUTPUT_TOKENS, _EXPECTED_OUTPUT_TOKENS),
            at=datetime.now(UTC),
            configured=model.prices,
            base_model=model.settings.base_model,
            base_url=model.config.base_url,
        )


def _keep(models: Sequence[Model], dropped: list[Candidate], why_not: WhyNot) -> list[Model]:
    kept = []
    for model in models:
        reason = why_not(model)
        if reason is None:
            kept.append(model)
        else:
            dropped.append(Candidate(model.id, dropped=reason))
    return kept


def _too_long(question: Question, model: Model) -> str | None:
    window = model.settings.context_window
    if window is None or len(question.messages_json) <= window:  # a token is at least a byte
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
