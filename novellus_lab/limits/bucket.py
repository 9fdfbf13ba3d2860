"""The arithmetic of limits: a bucket that refills, and what of it is spoken for.

A call's tokens are known only when it has been answered. So a bucket has two numbers: its `level`,
and the part of it that calls under way have `held`. A call is let in if what nobody holds covers
its estimate. When it ends, its hold goes and what it truly used leaves the level: a refund or an
extra charge without either being computed. The level never refills above its capacity, holds
included, so the tokens that were truly used are limited exactly as by a plain token bucket, however
bad the estimates were; a level below zero is a debt that later calls wait for.

The usual form (charge the estimate now, give the difference back later) is not the same: it credits
tokens to a bucket that has meanwhile refilled by itself, and lets more through than the limit.

`take.lua` is the same arithmetic in Redis.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from novellus_lab.limits.quota import Quota

Dimension = Literal["rpm", "tpm", "concurrent", "retry-after"]

_DUST = 1e-9
"""What rounding may make a level fall short by; without it a wait of nothing could repeat."""


@dataclass(slots=True)
class Bucket:
    """A level that refills; times are seconds of one monotonic clock."""

    capacity: float
    per_second: float
    level: float
    at: float
    held: float = 0.0

    def free(self, now: float) -> float:
        """Return what nobody holds."""
        level = self.level + (now - self.at) * self.per_second
        self.level = level if level < self.capacity else self.capacity
        self.at = now
        return self.level - self.held

    def wait_s(self, amount: float, now: float) -> float:
        """Return 0 if `amount` is there, else the seconds until it is; inf if only a release helps."""
        if self.level - self.held >= amount:
            return 0.0  # what was there at the last look is still there
        lacking = amount - self.free(now)
        if lacking <= _DUST * self.capacity:
            return 0.0
        if self.held + amount > self.capacity * (1.0 + _DUST):
            return inf
        return lacking / self.per_second

    def spend(self, amount: float, now: float) -> None:
        self.free(now)
        level = self.level - amount
        self.level = level if level < self.capacity else self.capacity


class Gauge:
    """What one quota has left."""

    __slots__ = ("paused_until", "quota", "requests", "running", "tokens")

    def __init__(self, quota: Quota, now: float) -> None:
        self.quota = quota
        self.requests = _full(quota.rpm, quota.most_requests, now)
        self.tokens = _full(quota.tpm, quota.most_tokens, now)
        self.running = 0
        self.paused_until = 0.0

    def wait_s(self, tokens: float, now: float) -> tuple[float, Dimension]:
        """Return the seconds until a call fits (0: now; inf: only a release helps), and why."""
        wait, why = 0.0, "concurrent"
        if self.paused_until > now:
            wait, why = self.paused_until - now, "retry-after"
        if self.requests is not None:
            more = self.requests.wait_s(1.0, now)
            if more > wait:
                wait, why = more, "rpm"
        if self.tokens is not None:
            more = self.tokens.wait_s(self.held_for(tokens), now)
            if more > wait:
                wait, why = more, "tpm"
        if self.quota.concurrent is not None and self.running >= self.quota.concurrent:
            wait, why = inf, "concurrent"
        return wait, why  # type: ignore[return-value]

    def has_room(self, tokens: float, now: float) -> bool:
        """Return whether a call surely fits now; False: look with `wait_s`."""
        requests, bucket, most = self.requests, self.tokens, self.quota.concurrent
        return (
            self.paused_until <= now
            and (requests is None or requests.level >= 1.0)
            and (bucket is None or bucket.level - bucket.held >= tokens)
            and (most is None or self.running < most)
        )

    def take(self, tokens: float, now: float) -> None:
        self.running += 1
        if self.requests is not None:
            self.requests.spend(1.0, now)
        if self.tokens is not None:
            self.tokens.held += self.held_for(tokens)

    def give_back(self, tokens: float, used: float, now: float, *, sent: bool) -> None:
        """End a call that took `tokens` and used `used`."""
        self.running -= 1
        if self.requests is not None and not sent:
            self.requests.spend(-1.0, now)
        if self.tokens is not None:
            # Sums of many fractions: nothing under way means nothing held.
            self.tokens.held = self.tokens.held - self.held_for(tokens) if self.running else 0.0
            self.tokens.spend(used, now)

    def held_for(self, tokens: float) -> float:
        """An estimate larger than the bucket holds all of it: the prompt itself does fit."""
        return min(tokens, self.quota.most_tokens)


def _full(per_minute: int | None, capacity: float, now: float) -> Bucket | None:
    if per_minute is None:
        return None
    return Bucket(capacity, per_minute / 60.0, capacity, now)
