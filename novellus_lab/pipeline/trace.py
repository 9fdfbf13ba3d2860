"""What is known of a request while it is under way; whatever its end, the log is written from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from novellus_lab.types import EMPTY, CacheOutcome

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from novellus_lab.pipeline.catalog import Model
    from novellus_lab.types import Attempt, Candidate, Route, Usage


@dataclass(slots=True)
class Heard:
    """What an attempt has heard of the provider so far."""

    pieces: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    usage: Usage | None = None
    raw_usage: Mapping[str, Any] = field(default_factory=lambda: EMPTY)
    model: str | None = None
    response_id: str | None = None
    ttft_ms: float | None = None

    @property
    def text(self) -> str:
        """All that was generated and paid for, reasoning first."""
        return "".join(self.reasoning) + "".join(self.pieces)


@dataclass(slots=True)
class Trace:
    """Filled in step by step, on the lab's loop only."""

    cache: CacheOutcome = CacheOutcome.OFF
    strategy: str | None = None
    rule: str | None = None
    dropped: tuple[Candidate, ...] = ()
    """Where none was left: who they were, and why not."""
    route: Route | None = None
    route_ms: float = 0.0
    queue_ms: float = 0.0
    provider_ms: float = 0.0
    attempts: list[Attempt] = field(default_factory=list)
    answered_by: Model | None = None
    dropped_params: tuple[str, ...] = ()
    streamed: bool = False
    """Whether the caller has seen a piece of the answer: from then on nothing can be retried."""
    heard: Heard = field(default_factory=Heard)
    """Of the latest attempt."""
    answer: Attempt | None = None
    """The attempt that answered."""
    on_first_token: Callable[[], None] | None = None
    """Of a call in a race, to be told when its answer begins."""
    overtaken_by_tokens: int | None = None
    """Of a call that lost a race: the length of answer that its provider is taken to bill."""

    @property
    def cost_usd(self) -> Decimal | None:
        """Sum over the attempts; None if one of them has no known price."""
        return _total([attempt.price.cost_usd for attempt in self.attempts])

    @property
    def fees_usd(self) -> Decimal | None:
        fees = [a.price.fees_usd for a in self.attempts if a.price.fees_usd is not None]
        return sum(fees, Decimal(0)) if fees else None


def _total(costs: list[Decimal | None]) -> Decimal | None:
    total = Decimal(0)
    for cost in costs:
        if cost is None:
            return None
        total += cost
    return total
