"""Hedged calls: one that takes unusually long is made a second time, and the first answer wins.

Either call is an attempt like any other: with its own place in limits and budgets, its own trace, its
own row of the log (role `hedge`). The one that comes too late is broken off.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field, fields, replace
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from novellus_lab.errors import InvalidRequestError, did_you_mean
from novellus_lab.pipeline.trace import Trace
from novellus_lab.types import EmbeddingReply, Reply

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from novellus_lab.routing.latency import Forecast

R = TypeVar("R", Reply, EmbeddingReply)

_MOST_SAVED = 10.0
"""Hedges that quiet times leave for a busy one."""
_TOO_LATE = "another call answered first"


@dataclass(frozen=True, slots=True)
class Hedging:
    """When and where a second call is made."""

    after_ms: float | None = None
    """So long after the first; None: when `quantile` of such calls of that model have ended."""
    quantile: float = 0.95
    min_calls: int = 5
    """Recent calls of a model without which its quantile is not known: then there is no second."""
    to: Literal["next", "same"] = "next"
    """The next candidate (the same model where there is none), or the same model."""
    max_share: float | None = 0.1
    """Most calls that are hedged; None: all that take so long."""


def checked_hedge(given: Any) -> bool | Mapping[str, Any]:
    """Check a call's `hedge` argument: True, False, or what differs from the configuration.

    Raises:
        InvalidRequestError: an unknown key, or a value of the wrong kind.
    """
    if isinstance(given, bool):
        return given
    names = [f.name for f in fields(Hedging) if f.name != "max_share"]
    if not isinstance(given, dict):
        raise InvalidRequestError(
            f"hedge must be True, False or a dict such as {{'after_ms': 800}}, not a "
            f"{type(given).__name__}"
        )
    for key, value in given.items():
        if key not in names:
            raise InvalidRequestError(
                f"hedge has no option {key!r}. {did_you_mean(str(key), names)}"
            )
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if key == "to":
            good, wanted = value in ("next", "same"), "'next' or 'same'"
        elif key == "quantile":
            good, wanted = number and 0 < value < 1, "between 0 and 1"
        elif key == "min_calls":
            good, wanted = number and isinstance(value, int) and value >= 1, "a count from 1 on"
        else:
            good, wanted = number and 0 <= value < 1e9, "milliseconds, 0 or more"
            good = good or value is None
        if not good:
            raise InvalidRequestError(f"hedge.{key} must be {wanted}, not {value!r:.80}")
    return dict(given)


def hedging_of(
    configured: Hedging | None, asked: bool | Mapping[str, Any] | None
) -> Hedging | None:
    """Return how a call is hedged, or None. What it asks for itself is not bound to a share."""
    if asked is None:
        return configured
    if asked is False:
        return None
    return replace(
        configured or Hedging(), max_share=None, **({} if asked is True else dict(asked))
    )


class HedgeAllowance:
    """How many hedges a lab's calls have earned: a provider in trouble is not sent twice as much."""

    def __init__(self) -> None:
        self._saved = _MOST_SAVED

    def earn(self, share: float) -> None:
        self._saved = min(_MOST_SAVED, self._saved + share)

    def spend(self) -> bool:
        """Take one, if one is there."""
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        return True


@dataclass(slots=True)
class Hedge:
    """The hedge of one request. It is sent once at most."""

    hedging: Hedging
    forecast: Callable[[str], Forecast]
    allowance: HedgeAllowance
    sent: bool = False

    def __post_init__(self) -> None:
        if self.hedging.max_share is not None:
            self.allowance.earn(self.hedging.max_share)

    def after_s(self, model_id: str) -> float | None:
        """Return how long this model's answer is waited for; None: for as long as it takes."""
        hedging = self.hedging
        if hedging.after_ms is not None:
            return hedging.after_ms / 1000
        forecast = self.forecast(model_id)
        if forecast.calls < hedging.min_calls:
            return None
        return forecast.quantile_ms(NormalDist().inv_cdf(hedging.quantile)) / 1000

    def take(self) -> bool:
        """Whether the second call is made; asked when it is due."""
        self.sent = self.hedging.max_share is None or self.allowance.spend()
        return self.sent


@dataclass(slots=True)
class _Leg(Generic[R]):
    """One of the two calls."""

    trace: Trace = field(default_factory=Trace)
    task: asyncio.Task[R] = field(init=False)
    left: bool = False
    """Whether it was broken off."""


class Race(Generic[R]):
    """Two calls for one answer; `trace` is given what came of both."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._legs: list[_Leg[R]] = []
        self._leader: _Leg[R] | None = None
        self._news = asyncio.Event()
        """Set when a call ends, or its first token arrives."""

    async def run(
        self,
        first: Callable[[Trace], Awaitable[R]],
        second: Callable[[Trace], Awaitable[R]],
        after_s: float,
        may: Callable[[], bool],
    ) -> R:
        """Return the answer of the call that has it, or its first token, before the other.

        Args:
            after_s: begin the second so long after the first …
            may: … if this says so then.

        Raises:
            Exception: what the first call met, where neither answered.
        """
        started = time.perf_counter()
        try:
            self._begin(first)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(after_s):
                    await self._news.wait()
            if not self._news.is_set() and may():
                self._begin(second)
            while self._leader is None and not all(leg.task.done() for leg in self._legs):
                await self._news.wait()
                self._news.clear()
            winner = self._leader or self._legs[0]
            await asyncio.wait((winner.task,))
            return winner.task.result()
        finally:
            try:
                await self._break_off()
            finally:
                self._tell(started)

    def _begin(self, call: Callable[[Trace], Awaitable[R]]) -> None:
        leg: _Leg[R] = _Leg()
        leg.trace.on_first_token = lambda: self._lead(leg, 0)

        async def main() -> R:
            return await call(leg.trace)

        def ended(task: asyncio.Task[R]) -> None:
            if not task.cancelled() and task.exception() is None:
                self._lead(leg, task.result().usage.output_tokens)
            self._news.set()

        leg.task = asyncio.create_task(main())
        leg.task.add_done_callback(ended)
        self._legs.append(leg)

    def _lead(self, leg: _Leg[R], tokens: int) -> None:
        """Break the other call off, before it can say anything to the caller.

        Args:
            tokens: that it is taken to be billed for as its answer.
        """
        if self._leader is not None:
            return
        self._leader = leg
        for other in self._legs:
            if other is not leg and not other.task.done():
                other.trace.overtaken_by_tokens = tokens
                other.left = True
                other.task.cancel(_TOO_LATE)
        self._news.set()

    async def _break_off(self) -> None:
        """Cancel what runs, and wait until it has let go of its places, priced and told."""
        interrupted: asyncio.CancelledError | None = None
        while running := [leg for leg in self._legs if not leg.task.done()]:
            for leg in running:
                if not leg.left or interrupted is not None:
                    leg.left = True
                    leg.task.cancel()
            try:
                await asyncio.wait([leg.task for leg in running])
            except asyncio.CancelledError as error:
                interrupted = error
        if interrupted is not None:
            raise interrupted

    def _tell(self, started: float) -> None:
        trace, first = self._trace, self._legs[0].trace
        chosen = first if self._leader is None else self._leader.trace
        attempts = [attempt for leg in self._legs for attempt in leg.trace.attempts]
        before = len(trace.attempts)
        trace.attempts += [
            replace(attempt, number=before + n)
            for n, attempt in enumerate(sorted(attempts, key=lambda a: a.started_at), 1)
        ]
        if chosen.answer is not None:
            trace.answer = next(a for a in trace.attempts if a.id == chosen.answer.id)
        trace.heard = chosen.heard
        trace.answered_by = chosen.answered_by
        trace.dropped_params = chosen.dropped_params
        trace.streamed = trace.streamed or chosen.streamed
        # Both at once: what they took together is what passed on the clock.
        trace.queue_ms += first.queue_ms
        trace.provider_ms += (time.perf_counter() - started) * 1000 - first.queue_ms
