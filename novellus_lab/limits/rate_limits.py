"""Requests and tokens a minute, and calls at once: let a call in now, let it wait, or refuse it.

Not the library `limits`: its counters take a hit and never give one back, so that a call whose
tokens are known only afterwards can be counted as nothing or as its worst case; and it has no
queue, so that whoever waits polls, and the quickest to poll wins.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
import time
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from math import inf
from typing import TYPE_CHECKING, Literal

from novellus_lab.errors import LimitExceededError
from novellus_lab.limits.bucket import Gauge
from novellus_lab.limits.lanes import Lane, Waiter
from novellus_lab.limits.shared import SharedLimits, SharedStoreAwayError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from novellus_lab.limits.quota import Quota

logger = logging.getLogger("novellus_lab.limits")

OnLimit = Literal["wait", "raise"]

_BATCH = 100
_POLL_S = 0.05
"""Where only a release helps, and it may happen in another process: look this often at first."""
_MAX_POLL_S = 1.0
_LEASE_S = 900.0
_LEASE_MARGIN_S = 30.0
_MAX_BACKOFF_S = 5.0
_TICK_S = 0.001
"""What an event loop's clock may be early by."""

_WHAT = {
    "rpm": "{0.rpm:,} requests a minute",
    "tpm": "{0.tpm:,} tokens a minute",
    "concurrent": "{0.concurrent:,} calls at once",
}


@dataclass(frozen=True, slots=True)
class LimitState:
    """What this process sees of one quota. Shared ones are seen by Redis alone."""

    label: str
    running: int
    waiting: int
    requests_left: float | None
    """None: not limited."""
    tokens_left: float | None
    """Spoken for already is not counted; below 0: more was used than was estimated."""
    paused_s: float


class Permit:
    """A place among the calls under way. End it once, with `settle` or `cancel`; both return at once."""

    __slots__ = ("_limits", "_member", "_quotas", "_tokens", "waited_s")

    def __init__(
        self,
        limits: RateLimits | None,
        quotas: tuple[Quota, ...],
        tokens: float,
        member: str | None = None,
        waited_s: float = 0.0,
    ) -> None:
        self._limits = limits
        self._quotas = quotas
        self._tokens = tokens
        self._member = member
        self.waited_s = waited_s
        """What the call waited for its turn, in seconds."""

    def settle(self, tokens: int | None = None) -> None:
        """The call ended, having used so many tokens; None: nobody knows, the estimate stands."""
        self._end(self._tokens if tokens is None else tokens, sent=True)

    def cancel(self) -> None:
        """Nothing was sent: give all of it back."""
        self._end(0.0, sent=False)

    def _end(self, used: float, *, sent: bool) -> None:
        limits, self._limits = self._limits, None
        if limits is not None:
            limits._end(self._quotas, self._tokens, self._member, used, sent=sent)


class RateLimits:
    """One for a lab, on its event loop.

    Waiting is fair: calls with the same quotas go in the order in which they came, each unit of
    priority being worth one second of waiting, so that urgent calls overtake and nobody waits for
    ever. A call that waits for one model's limit does not hold up those of other models.

    With a Redis or Valkey the limits hold for all processes together (each keeps its own order of
    waiting). While it is away each process keeps the limits by itself, and says so.

    Args:
        redis_url: where to share; None keeps the limits in this process.
        on_limit: `wait`, or `raise` at once, where a call does not say.
        max_wait_s: longest wait; None: as long as the call's own deadline allows.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        *,
        redis_url: str | None = None,
        on_limit: OnLimit = "wait",
        max_wait_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_limit = on_limit
        self._max_wait_s = max_wait_s
        self._clock = clock
        self._gauges: dict[str, Gauge] = {}
        self._lanes: dict[tuple[Quota, ...], Lane] = {}
        self._numbers = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._shared = None if redis_url is None else SharedLimits(redis_url)
        self._away = False
        self._recovering: asyncio.Task[None] | None = None
        self._pausing: set[asyncio.Task[None]] = set()

    async def acquire(
        self,
        quotas: tuple[Quota, ...],
        *,
        input_tokens: int = 0,
        output_tokens: int = 0,
        priority: float = 0,
        timeout_s: float | None = None,
        on_limit: OnLimit | None = None,
    ) -> Permit:
        """Take a place for one call under all of its quotas, or under none.

        Args:
            quotas: the model's, the key's; always in the same order.
            input_tokens: of the prompt.
            output_tokens: that the answer will probably have, at most what it may have.
            priority: higher goes first.
            timeout_s: what is left of the call's deadline.
            on_limit: what to do where there is no room now.

        Raises:
            LimitExceededError: there was no room in time, or there never will be.
        """
        if not quotas:
            return Permit(None, quotas, 0.0)
        tokens = float(input_tokens + output_tokens)
        now = self._clock()
        gauges = [self._gauge(quota) for quota in quotas]
        for quota in quotas:
            if quota.tpm is not None and input_tokens > quota.most_tokens:
                raise _too_long(quota, input_tokens)
        shared = None if self._away else self._shared
        if shared is None and not self._lanes and _longest(gauges, tokens, now)[0] == 0.0:
            for gauge in gauges:
                gauge.take(tokens, now)
            return Permit(self, quotas, tokens)

        waits = (on_limit or self._on_limit) == "wait"
        patience_s = min(_or_inf(timeout_s), _or_inf(self._max_wait_s))
        waiter = Waiter(
            turn=now - priority,
            number=next(self._numbers),
            tokens=tokens,
            until=now + patience_s if waits else None,
            lease_s=_LEASE_S if timeout_s is None else timeout_s + _LEASE_MARGIN_S,
            admitted=asyncio.get_running_loop().create_future(),
        )
        lane = self._lanes.get(quotas)
        if lane is None:
            lane = self._lanes[quotas] = Lane(quotas)
        lane.add(waiter)
        if shared is not None:
            if lane.pump is None:
                lane.pump = asyncio.create_task(self._ask_shared(lane, shared))
            lane.woken.set()
        else:
            self._serve()
            if not waiter.admitted.done():
                wait, why, gauge = _longest(gauges, tokens, now)
                _refuse_in_vain([waiter], gauge.quota, why, wait, now)
        member = await self._turn_of(waiter, quotas, gauges)
        return Permit(self, quotas, tokens, member, waited_s=self._clock() - now)

    def wait_s(self, quotas: tuple[Quota, ...], tokens: int = 0) -> float:
        """Return what this process knows of how long a call would wait; inf: until another ends.

        For routing: changes nothing, and asks nobody.
        """
        longest_s, now = 0.0, self._clock()
        for quota in quotas:
            gauge = self._gauges.get(quota.id)
            if gauge is not None and (wait_s := gauge.wait_s(float(tokens), now)[0]) > longest_s:
                longest_s = wait_s
        return longest_s

    def has_room(self, quotas: Sequence[Quota], tokens: int) -> bool:
        """Return whether a call would wait for none of these, by what was there at the last look.

        For routing, before `wait_s` is asked of each: a bucket may have refilled since.
        """
        gauges, now = self._gauges, self._clock()
        for quota in quotas:
            gauge = gauges.get(quota.id)
            if gauge is not None and not gauge.has_room(tokens, now):
                return False
        return True

    def pause(self, quota: Quota, seconds: float) -> None:
        """Let no call in for so long: the provider asked for it (retry-after)."""
        gauge = self._gauge(quota)
        gauge.paused_until = max(gauge.paused_until, self._clock() + seconds)
        if self._shared is not None and not self._away:
            task = asyncio.create_task(self._pause_shared(self._shared, quota, seconds))
            self._pausing.add(task)
            task.add_done_callback(self._pausing.discard)
        self._serve()

    def state(self) -> list[LimitState]:
        """Return what is left of each quota that was asked for so far."""
        now = self._clock()
        waiting: dict[str, int] = {}
        for lane in self._lanes.values():
            for quota in lane.quotas:
                waiting[quota.id] = waiting.get(quota.id, 0) + len(lane)
        return [
            LimitState(
                label=gauge.quota.label,
                running=gauge.running,
                waiting=waiting.get(name, 0),
                requests_left=None if gauge.requests is None else gauge.requests.free(now),
                tokens_left=None if gauge.tokens is None else gauge.tokens.free(now),
                paused_s=max(0.0, gauge.paused_until - now),
            )
            for name, gauge in self._gauges.items()
        ]

    async def flush(self) -> None:
        """Return when Redis knows what ended before, or is away."""
        if self._shared is not None:
            await self._shared.flush()

    async def aclose(self) -> None:
        """Stop waiting for Redis, tell it what ended, and leave. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
        tasks = [*self._pausing, *(lane.pump for lane in self._lanes.values() if lane.pump)]
        if self._recovering is not None:
            tasks.append(self._recovering)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._shared is not None:
            await self._shared.aclose()

    # --- waiting -----------------------------------------------------------------------------

    def _gauge(self, quota: Quota) -> Gauge:
        gauge = self._gauges.get(quota.id)
        if gauge is None:
            gauge = self._gauges[quota.id] = Gauge(quota, self._clock())
        return gauge

    async def _turn_of(
        self, waiter: Waiter, quotas: tuple[Quota, ...], gauges: list[Gauge]
    ) -> str | None:
        """Wait until it is let in. Whoever leaves, for whatever reason, leaves nothing behind."""
        future = waiter.admitted
        try:
            while not future.done():
                # Who will not wait is told so by whom it asked.
                limit_s = inf if waiter.until is None else waiter.until - self._clock()
                await asyncio.wait((future,), timeout=None if limit_s == inf else max(limit_s, 0.0))
                now = self._clock()
                if not future.done() and waiter.until is not None and now >= waiter.until:
                    wait, why, gauge = _longest(gauges, waiter.tokens, now)
                    future.set_exception(_no_room(gauge.quota, why, wait, waited=True))
        except asyncio.CancelledError:
            if not future.done():
                future.cancel()
            elif future.exception() is None:
                self._end(quotas, waiter.tokens, future.result(), 0.0, sent=False)
            self._serve()
            raise
        if future.exception() is not None:
            self._serve()  # who stood behind it may fit
        return future.result()

    def _serve(self) -> None:
        """Let in whoever can be, in turn; a call that can't be holds its place in what it lacks."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._lanes:
            return
        now = self._clock()
        heads: list[tuple[Waiter, Lane]] = []
        for quotas, lane in list(self._lanes.items()):
            if lane.pump is not None:
                continue
            if (head := lane.head) is None:
                del self._lanes[quotas]
            else:
                heads.append((head, lane))
        heapify(heads)
        lacking: set[str] = set()
        soonest = inf
        while heads:
            waiter, lane = heappop(heads)
            if not lacking.isdisjoint(quota.id for quota in lane.quotas):
                continue
            gauges = [self._gauge(quota) for quota in lane.quotas]
            wait, _, culprit = _longest(gauges, waiter.tokens, now)
            if wait > 0.0:
                lacking.add(culprit.quota.id)
                soonest = min(soonest, wait)
                continue
            for gauge in gauges:
                gauge.take(waiter.tokens, now)
            waiter.admitted.set_result(None)
            if (head := lane.head) is None:
                del self._lanes[lane.quotas]
            else:
                heappush(heads, (head, lane))
        if soonest < inf:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(soonest + _TICK_S, self._serve)

    def _end(
        self,
        quotas: tuple[Quota, ...],
        tokens: float,
        member: str | None,
        used: float,
        *,
        sent: bool,
    ) -> None:
        now = self._clock()
        for quota in quotas:
            self._gauges[quota.id].give_back(tokens, used, now, sent=sent)
        if member is not None and self._shared is not None:
            self._shared.end(quotas, member, used, sent=sent)
        if self._lanes:
            for lane in self._lanes.values():
                if lane.pump is not None and not set(lane.quotas).isdisjoint(quotas):
                    lane.woken.set()
            self._serve()

    # --- with other processes ----------------------------------------------------------------

    async def _ask_shared(self, lane: Lane, shared: SharedLimits) -> None:
        """Ask Redis for those who wait in a lane, in turn, until nobody does."""
        gauges = [self._gauge(quota) for quota in lane.quotas]
        poll_s = _POLL_S
        try:
            while batch := lane.first(_BATCH):
                lane.woken.clear()
                members, wait_s, culprit, why = await shared.take(
                    lane.quotas, [w.tokens for w in batch], max(w.lease_s for w in batch)
                )
                now = self._clock()
                for waiter, member in zip(batch, members, strict=False):
                    if waiter.admitted.done():
                        shared.end(lane.quotas, member, 0.0, sent=False)
                        continue
                    for gauge in gauges:  # in step, for routing and for when Redis is away
                        gauge.take(waiter.tokens, now)
                    waiter.admitted.set_result(member)
                poll_s = _POLL_S if members else min(poll_s * 2, _MAX_POLL_S)
                if len(members) == len(batch):
                    continue
                wait = inf if wait_s is None else wait_s
                refused = batch[len(members) :]
                _refuse_in_vain(refused, lane.quotas[culprit], why, wait, now)
                if refused[0].admitted.done():
                    continue
                pause_s = min(wait + _TICK_S, _MAX_POLL_S) if wait < inf else poll_s
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s * random.uniform(1.0, 1.1)):
                        await lane.woken.wait()
                await shared.flush()  # what has ended here must be known there first
        except SharedStoreAwayError as error:
            self._went_away(error)
        finally:
            lane.pump = None
            self._serve()

    async def _pause_shared(self, shared: SharedLimits, quota: Quota, seconds: float) -> None:
        try:
            await shared.pause(quota, seconds)
        except SharedStoreAwayError as error:
            self._went_away(error)

    def _went_away(self, error: SharedStoreAwayError) -> None:
        if self._away:
            return
        self._away = True
        logger.warning(
            "Redis can't be asked (%s): until it can, this process keeps the rate limits by itself, "
            "and knows nothing of others",
            error,
        )
        self._recovering = asyncio.create_task(self._recover())

    async def _recover(self) -> None:
        assert self._shared is not None  # noqa: S101  it went away
        backoff_s = 0.1
        while self._away:
            await asyncio.sleep(backoff_s * random.uniform(0.5, 1.0))
            backoff_s = min(backoff_s * 2, _MAX_BACKOFF_S)
            with contextlib.suppress(SharedStoreAwayError):
                await self._shared.ping()
                self._away = False
        logger.warning("Redis is back: rate limits are shared again")


def _refuse_in_vain(waiters: list[Waiter], quota: Quota, why: str, wait: float, now: float) -> None:
    """Tell those at once who would not wait, or could not wait so long."""
    for waiter in waiters:
        if waiter.admitted.done():
            continue
        if waiter.until is None:
            waiter.admitted.set_exception(_no_room(quota, why, wait, waited=False))
        elif wait < inf and now + wait > waiter.until:
            waiter.admitted.set_exception(_no_room(quota, why, wait, waited=True))


def _longest(gauges: list[Gauge], tokens: float, now: float) -> tuple[float, str, Gauge]:
    """Return the longest wait among a call's quotas, for what, and whose."""
    longest, why, culprit = 0.0, "", gauges[0]
    for gauge in gauges:
        wait, what = gauge.wait_s(tokens, now)
        if wait > longest:
            longest, why, culprit = wait, what, gauge
    return longest, why, culprit


def _or_inf(seconds: float | None) -> float:
    return inf if seconds is None else seconds


def _no_room(quota: Quota, why: str, wait: float, *, waited: bool) -> LimitExceededError:
    what = (
        _WHAT[why].format(quota)
        if why in _WHAT
        else "nothing for now, its provider asked for a pause"
    )
    when = "when another call ends" if wait == inf else f"in {wait:.2f} s"
    advice = (
        "that is past what this call may wait: give it a longer timeout"
        if waited
        else "`on_limit: wait` would wait for it"
    )
    return LimitExceededError(
        f"{quota.label} allows {what}, and there is room for this call {when}; {advice}, ask another "
        f"model, or raise the limit in the YAML. Nothing was sent.",
        limit=f"{quota.label}: {why}",
        retry_after_s=None if wait == inf else wait,
    )


def _too_long(quota: Quota, input_tokens: int) -> LimitExceededError:
    error = LimitExceededError(
        f"the prompt has about {input_tokens:,} tokens, and {quota.label} allows {quota.tpm:,} a minute "
        f"({quota.most_tokens:,.0f} at once): it would wait for ever. Shorten it, ask another model, or "
        f"raise tpm in the YAML. Nothing was sent.",
        limit=f"{quota.label}: tpm",
    )
    error.retryable = False
    return error
