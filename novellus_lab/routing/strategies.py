"""Built-in strategies: from candidates to an order in which to try them, with probabilities.

A strategy returns a `Ranking`: the first entry is the pick, the rest is the order of failover, and
`probability` is that with which each *could have been* the pick, given what the strategy knew. The
log keeps it, so that another strategy can be evaluated from the log alone.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from novellus_lab.errors import UnknownStrategyError, did_you_mean
from novellus_lab.types import Candidate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from decimal import Decimal
    from random import Random

    from novellus_lab.routing.latency import LatencyTracker

TIE = 1e-9


@dataclass(frozen=True, slots=True)
class Option:
    """A model that can take the request, with what strategies decide by."""

    model_id: str
    weight: float
    priority: float
    expected_cost_usd: Callable[[], Decimal | None]
    """Computed only for strategies that ask."""


@dataclass(frozen=True, slots=True)
class RoutingContext:
    """What is known besides the candidates."""

    random: Random
    latencies: LatencyTracker
    stream: bool


@dataclass(frozen=True, slots=True)
class Ranking:
    """Candidates in the order in which to try them."""

    order: tuple[Candidate, ...]

    @property
    def picked(self) -> Candidate:
        return self.order[0]


class Strategy(ABC):
    """Orders the options of one request. Instances live as long as their lab and may hold state."""

    name: ClassVar[str]

    @abstractmethod
    def rank(self, options: Sequence[Option], context: RoutingContext) -> Ranking:
        """Return all options, best first. `options` holds at least one."""


class Weighted(Strategy):
    """Pick at random, in proportion to `weight`; fail over by the same lottery among the rest."""

    name = "weighted"

    def rank(self, options: Sequence[Option], context: RoutingContext) -> Ranking:
        total = sum(option.weight for option in options)
        left = list(options)
        order = []
        while left:
            weights = [option.weight for option in left]
            index = (
                context.random.choices(range(len(left)), weights)[0]
                if sum(weights) > 0
                else context.random.randrange(len(left))
            )
            option = left.pop(index)
            probability = option.weight / total if total > 0 else 1 / len(options)
            order.append(Candidate(option.model_id, probability, score=option.weight))
        return Ranking(tuple(order))


class CostOptimized(Strategy):
    """Least expected cost of this request; models without a known price come last."""

    name = "cost_optimized"

    def rank(self, options: Sequence[Option], context: RoutingContext) -> Ranking:
        costs = {option.model_id: option.expected_cost_usd() for option in options}
        scores = {m: None if cost is None else float(cost) for m, cost in costs.items()}
        return _least_first(options, scores, context, unknown_first=False)


class LeastLatency(Strategy):
    """Least recent latency (to the first token for streams); unseen models are tried first."""

    name = "least_latency"

    def rank(self, options: Sequence[Option], context: RoutingContext) -> Ranking:
        recent = context.latencies.ttft_ms if context.stream else context.latencies.latency_ms
        scores = {option.model_id: recent(option.model_id) for option in options}
        return _least_first(options, scores, context, unknown_first=True)


class Priority(Strategy):
    """Highest `priority` first; equal ones at random."""

    name = "priority"

    def rank(self, options: Sequence[Option], context: RoutingContext) -> Ranking:
        scores: dict[str, float | None] = {o.model_id: -o.priority for o in options}
        ranking = _least_first(options, scores, context, unknown_first=False)
        return Ranking(
            tuple(
                Candidate(c.model_id, c.probability, None if c.score is None else -c.score)
                for c in ranking.order
            )
        )


class RoundRobin(Strategy):
    """Each model in turn.

    The turn is fixed by how many requests came before, not by anything in this one, so each model
    counts as picked with probability 1/n.
    """

    name = "round_robin"

    def __init__(self) -> None:
        self._turn = itertools.count()

    def rank(self, options: Sequence[Option], context: RoutingContext) -> Ranking:
        names = sorted(option.model_id for option in options)
        start = next(self._turn) % len(names)
        return Ranking(
            tuple(Candidate(name, 1 / len(names)) for name in names[start:] + names[:start])
        )


class Explicit(Strategy):
    """The one model that the caller named."""

    name = "explicit"

    def rank(self, options: Sequence[Option], context: RoutingContext) -> Ranking:
        return Ranking(tuple(Candidate(option.model_id, 1.0) for option in options[:1]))


BUILT_IN: tuple[type[Strategy], ...] = (
    Weighted,
    CostOptimized,
    LeastLatency,
    RoundRobin,
    Priority,
)


def make_strategies() -> dict[str, Strategy]:
    """Return a fresh instance of each built-in strategy, by name."""
    return {cls.name: cls() for cls in BUILT_IN}


def strategy_named(name: str, strategies: dict[str, Strategy]) -> Strategy:
    """Look a strategy up.

    Raises:
        UnknownStrategyError: with near matches.
    """
    strategy = strategies.get(name) if isinstance(name, str) else None
    if strategy is None:
        raise UnknownStrategyError(
            f"there is no routing strategy {name!r}. {did_you_mean(str(name), list(strategies))}"
        )
    return strategy


def _least_first(
    options: Sequence[Option],
    scores: dict[str, float | None],
    context: RoutingContext,
    *,
    unknown_first: bool,
) -> Ranking:
    """Order by score, ties (and unknowns among themselves) at random.

    The first group shares the probability evenly: each of it would have been the pick as likely.
    """
    unknown = [o.model_id for o in options if scores[o.model_id] is None]
    known = sorted((s, o.model_id) for o in options if (s := scores[o.model_id]) is not None)
    groups: list[list[str]] = []
    last: float | None = None
    for score, model_id in known:
        if last is not None and abs(score - last) <= TIE * max(abs(score), abs(last)):
            groups[-1].append(model_id)
        else:
            groups.append([model_id])
            last = score
    if unknown:
        groups.insert(0 if unknown_first else len(groups), unknown)
    order: list[Candidate] = []
    for number, group in enumerate(groups):
        context.random.shuffle(group)
        probability = 1 / len(group) if number == 0 else 0.0
        order.extend(Candidate(m, probability, score=scores[m]) for m in group)
    return Ranking(tuple(order))
