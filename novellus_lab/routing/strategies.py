"""Strategies: from candidates to an order in which to try them, with probabilities.

A strategy *judges* the options of a request: each gets the probability with which it shall be picked,
and a score. Judging changes nothing, so that a choice can be explained without being made. Ranking
then draws one by these probabilities, and the rest is the order of failover. The log keeps the
probabilities, so that another strategy can be evaluated from the log alone.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from novellus_lab.errors import ConfigurationError
from novellus_lab.routing.latency import chances_of_least
from novellus_lab.types import Candidate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from decimal import Decimal
    from random import Random

    from novellus_lab.routing.latency import Forecast
    from novellus_lab.types import Message

TIE = 1e-9


@dataclass(frozen=True, slots=True)
class Option:
    """A model that can take the request, with what the configuration says of it."""

    model_id: str
    weight: float = 1.0
    priority: float = 0.0
    provider: str = ""
    capabilities: tuple[str, ...] = ()
    context_window: int | None = None
    concurrent: int | None = None
    """Calls at once that it is configured for."""


class Estimates(Protocol):
    """What this request is expected to come to with each model, and how the model is doing."""

    def expected_cost_usd(self, model_id: str) -> Decimal | None:
        """None where the price is not known."""

    def expected_output_tokens(self, model_id: str) -> int: ...
    def forecast(self, model_id: str) -> Forecast:
        """How long it will take: to its first token, if it is a stream."""

    def in_flight(self, model_id: str) -> int:
        """Calls of this process that are under way."""

    def success_share(self, model_id: str) -> float:
        """Of the model's recent calls."""


class Asked(Protocol):
    """The request, as far as strategies may look at it."""

    @property
    def last_user_text(self) -> str: ...
    @property
    def messages(self) -> list[Message]: ...
    @property
    def params(self) -> Mapping[str, Any]: ...
    @property
    def tags(self) -> Mapping[str, Any]: ...
    @property
    def priority(self) -> str | int | None: ...
    @property
    def session_id(self) -> str | None: ...
    @property
    def input_tokens(self) -> int: ...
    @property
    def stream(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class RoutingContext:
    """What is known besides the candidates."""

    random: Random
    asked: Asked
    estimates: Estimates
    router: Callable[[str], Any] | None = None
    """Returns the trained router (`routing.learned.TrainedRouter`) of a name, or None."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """Candidates in the order in which to try them."""

    order: tuple[Candidate, ...]

    @property
    def picked(self) -> Candidate:
        return self.order[0]


class Strategy(ABC):
    """Orders the options of one request. Instances live as long as their lab and may hold state.

    Options of the YAML are keyword arguments of the class.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    """One line for `lab.router.strategies()`; default: the docstring's first."""
    uses_history: ClassVar[bool] = True
    """Whether it looks at what earlier calls came to: then the log is read once."""

    @abstractmethod
    def judge(self, options: Sequence[Option], context: RoutingContext) -> list[Candidate]:
        """Return all options, best first, with probabilities that sum to 1. Changes nothing.

        `options` holds at least one.
        """

    def rank(
        self, options: Sequence[Option], context: RoutingContext, epsilon: float = 0.0
    ) -> Ranking:
        """Draw one of the options by the probabilities of `judge`; the rest follows as failover.

        Args:
            epsilon: share of calls that go to any of the options, whatever the strategy thinks; the
                stated probabilities include it.
        """
        return drawn(explored(self.judge(options, context), epsilon), context.random)


def explored(judged: Sequence[Candidate], epsilon: float) -> Sequence[Candidate]:
    """Mix probabilities with even ones: `epsilon` of them are spread over all."""
    if not epsilon or len(judged) < 2:
        return judged
    even = epsilon / len(judged)
    return [Candidate(c.model_id, even + (1 - epsilon) * c.probability, c.score) for c in judged]


def drawn(judged: Sequence[Candidate], random: Random) -> Ranking:
    """Draw the pick by its probability; those who could have been it follow by the same lottery,
    the others in their order, equal ones shuffled."""
    if len(judged) == 1:
        return Ranking(tuple(judged))
    hopeful = [c for c in judged if c.probability > 0]
    if len(hopeful) == 1:
        order = hopeful
    else:
        # Keys of weighted sampling without replacement (Efraimidis & Spirakis 2006); the first of
        # them is drawn with exactly its weight.
        draw, log = random.random, math.log
        keys = [-log(1.0 - draw()) / c.probability for c in hopeful]
        order = [hopeful[n] for n in sorted(range(len(keys)), key=keys.__getitem__)]
    if len(order) < len(judged):
        rest = [c for c in judged if c.probability <= 0]
        for _, equals in itertools.groupby(rest, key=lambda c: c.score):
            group = list(equals)
            if len(group) > 1:
                random.shuffle(group)
            order = [*order, *group]
    return Ranking(tuple(order))


class _Fixed(Strategy):
    """A strategy that judges by the configuration alone: by the same options, always the same."""

    uses_history = False

    def __init__(self) -> None:
        self._judged: dict[tuple[str, ...], tuple[list[Option], list[Candidate]]] = {}

    def judge(self, options: Sequence[Option], context: RoutingContext) -> list[Candidate]:
        key = tuple([option.model_id for option in options])
        known = self._judged.get(key)
        if known is not None and known[0] == options:
            return known[1]
        if len(self._judged) >= 64:
            self._judged.clear()
        judged = self.fixed(options)
        self._judged[key] = (list(options), judged)
        return judged

    @abstractmethod
    def fixed(self, options: Sequence[Option]) -> list[Candidate]: ...


class Weighted(_Fixed):
    """At random, in proportion to `weight`; failover by the same lottery among the rest."""

    name = "weighted"

    def fixed(self, options: Sequence[Option]) -> list[Candidate]:
        return _in_proportion([(o.model_id, o.weight) for o in options])


class HealthWeighted(Strategy):
    """At random, in proportion to `weight` times the share of recent calls that were answered."""

    name = "health_weighted"
    uses_history = False

    def judge(self, options: Sequence[Option], context: RoutingContext) -> list[Candidate]:
        return _in_proportion(
            [(o.model_id, o.weight * context.estimates.success_share(o.model_id)) for o in options]
        )


class CostOptimized(Strategy):
    """Least expected cost of this request; models without a known price come last.

    Args:
        min_quality: models whose quality is less, or not stated, come after the others …
        qualities: … by model id, from 0 to 1 (from a benchmark of yours).
    """

    name = "cost_optimized"

    def __init__(
        self, min_quality: float | None = None, qualities: Mapping[str, float] | None = None
    ) -> None:
        if min_quality is not None and not qualities:
            raise ConfigurationError(
                "cost_optimized: min_quality is stated without qualities: {model_id: 0 to 1, …}"
            )
        self._qualities = dict(qualities or {})
        self._min_quality = min_quality

    def judge(self, options: Sequence[Option], context: RoutingContext) -> list[Candidate]:
        scores = {o.model_id: _cost(o, context) for o in options}
        least = self._min_quality
        if least is None:
            return _least_first(scores)
        good = {m: s for m, s in scores.items() if self._qualities.get(m, 0.0) >= least}
        if not good:
            # None is good enough: the best that is known, whatever it costs.
            best = max(self._qualities.get(m, 0.0) for m in scores)
            good = {m: s for m, s in scores.items() if self._qualities.get(m, 0.0) >= best}
        rest = {m: s for m, s in scores.items() if m not in good}
        return _least_first(good) + [
            Candidate(c.model_id, 0.0, c.score) for c in (_least_first(rest) if rest else ())
        ]


class LeastLatency(Strategy):
    """Soonest answer (or first token, for streams) by what was seen lately; tries the unsure ones.

    Thompson sampling: each model is picked with the probability that it is the fastest for a request
    of this size, by what is known. What was not seen, or not lately, may be, and is tried; what is
    surely slower is not. Calls under way count against a model: with as many as it is configured for
    (`concurrent`, or 16) it counts as twice as slow, so that a burst does not all go to one.
    """

    name = "least_latency"
    _AT_ONCE = 16

    def judge(self, options: Sequence[Option], context: RoutingContext) -> list[Candidate]:
        estimates = context.estimates
        forecasts = [estimates.forecast(option.model_id) for option in options]
        means = [
            f.mean_log_ms + _crowded(estimates.in_flight(o.model_id), o.concurrent or self._AT_ONCE)
            for f, o in zip(forecasts, options, strict=True)
        ]
        chances = chances_of_least(means, [f.sd_log for f in forecasts])
        judged = [
            (-chance, mean, Candidate(o.model_id, chance, f.latency_ms if f.seen else None))
            for chance, mean, o, f in zip(chances, means, options, forecasts, strict=True)
        ]
        judged.sort(key=lambda j: j[:2])
        return [candidate for _, _, candidate in judged]


class LeastBusy(Strategy):
    """Fewest calls of this process under way; equal ones at random."""

    name = "least_busy"
    uses_history = False

    def judge(self, options: Sequence[Option], context: RoutingContext) -> list[Candidate]:
        return _least_first(
            {o.model_id: float(context.estimates.in_flight(o.model_id)) for o in options}
        )


class Priority(_Fixed):
    """Highest `priority` first; equal ones at random."""

    name = "priority"

    def fixed(self, options: Sequence[Option]) -> list[Candidate]:
        return [
            Candidate(c.model_id, c.probability, None if c.score is None else -c.score)
            for c in _least_first({o.model_id: -o.priority for o in options})
        ]


class RoundRobin(_Fixed):
    """Each model in turn.

    The turn is fixed by how many requests came before, not by anything in this one, so each model
    counts as picked with probability 1/n.
    """

    name = "round_robin"

    def __init__(self) -> None:
        super().__init__()
        self._turn = itertools.count()

    def fixed(self, options: Sequence[Option]) -> list[Candidate]:
        return [Candidate(name, 1 / len(options)) for name in sorted(o.model_id for o in options)]

    def rank(
        self, options: Sequence[Option], context: RoutingContext, epsilon: float = 0.0
    ) -> Ranking:
        judged = self.judge(options, context)
        if epsilon and context.random.random() < epsilon:
            return drawn(judged, context.random)
        start = next(self._turn) % len(judged)
        return Ranking(tuple(judged[start:] + judged[:start]))


class Explicit(Strategy):
    """The one model that the caller named."""

    name = "explicit"
    uses_history = False

    def judge(self, options: Sequence[Option], context: RoutingContext) -> list[Candidate]:
        return [Candidate(option.model_id, 1.0) for option in options[:1]]


def _cost(option: Option, context: RoutingContext) -> float | None:
    cost = context.estimates.expected_cost_usd(option.model_id)
    return None if cost is None else float(cost)


def _crowded(in_flight: int, at_once: int) -> float:
    """What calls under way add to the logarithm of a latency: log 2 when all places are taken."""
    return math.log1p(in_flight / at_once) if in_flight else 0.0


def _in_proportion(weights: Sequence[tuple[str, float]]) -> list[Candidate]:
    total = sum(weight for _, weight in weights)
    if total <= 0:
        return [Candidate(name, 1 / len(weights), weight) for name, weight in weights]
    return [
        Candidate(name, weight / total, weight)
        for name, weight in sorted(weights, key=lambda pair: -pair[1])
    ]


def _least_first(scores: Mapping[str, float | None]) -> list[Candidate]:
    """Order by score, unknown ones last. The first group shares the probability evenly."""
    known = sorted((s, m) for m, s in scores.items() if s is not None)
    unknown = [m for m, s in scores.items() if s is None]
    if not known:
        return [Candidate(m, 1 / len(unknown)) for m in unknown]
    least = known[0][0]
    first = sum(1 for score, _ in known if score - least <= TIE * max(abs(score), abs(least)))
    judged = [
        Candidate(m, 1 / first if n < first else 0.0, score) for n, (score, m) in enumerate(known)
    ]
    return judged + [Candidate(m) for m in unknown]


def by_name(classes: Iterable[type[Strategy]]) -> dict[str, type[Strategy]]:
    """Return strategy classes by their names."""
    return {cls.name: cls for cls in classes}
