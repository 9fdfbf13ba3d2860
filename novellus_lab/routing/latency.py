"""How long a call will take, by what this process saw of each model.

For each model a straight line in logarithms: latency grows as a power of the call's size (of the
answer's length for a whole answer, of the prompt's for the first token), from a level of the model's
own. Level and power are a normal posterior of the recent calls (conjugate Bayesian regression, a
call counts half after five minutes), so that what was not seen lately becomes uncertain again, and
what was never seen is as uncertain as models differ. The prior of the level is what the model took
over the last day.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

HALF_LIFE_S = 300.0
"""A provider's slow hour should not be held against it for the day."""
LONG_HALF_LIFE_S = 86_400.0

_TYPICAL_MS = 1000.0
"""Of a model of which nothing is known, where nothing is known of any other."""
_LEVEL_VARIANCE = 1.0
"""Models differ by a factor of e, more or less …"""
_DRIFT_VARIANCE = 0.25
"""… and one model from its own last day by a factor of 1.6."""
_NOISE_VARIANCE = 0.16
"""Of one call, before enough were seen to tell …"""
_NOISE_CALLS = 2.0
"""… and how many calls that belief is worth."""
_POWER_VARIANCE = 0.04
_FEW = 1e-6

# Gauss-Hermite for the standard normal, 7 points: exact for polynomials of degree 13.
_NODES = (
    (-3.750439717725742, 0.000548268855972),
    (-2.366759410734541, 0.030757123967586),
    (-1.154405394739968, 0.240123178605013),
    (0.0, 0.457142857142857),
    (1.154405394739968, 0.240123178605013),
    (2.366759410734541, 0.030757123967586),
    (3.750439717725742, 0.000548268855972),
)
_CONTENDERS = 8


@dataclass(frozen=True, slots=True)
class Forecast:
    """How long a call will take, as the normal distribution of the logarithm of its typical time."""

    mean_log_ms: float
    sd_log: float
    """How sure that is; of the model's typical time, not of one call."""
    calls: float
    """Recent calls behind it, the older ones discounted."""
    seen: bool
    """Whether the model was ever seen."""
    scatter_log: float = math.sqrt(_NOISE_VARIANCE)
    """How much single calls differ from the typical time."""

    @property
    def latency_ms(self) -> float:
        return math.exp(self.mean_log_ms)

    def quantile_ms(self, z: float) -> float:
        """Return below which time a share of calls stays; `z` is that quantile of a standard normal."""
        return math.exp(self.mean_log_ms + z * math.hypot(self.sd_log, self.scatter_log))


@dataclass(frozen=True, slots=True)
class _Shape:
    """How latency grows with size, before enough was seen to tell."""

    offset: float
    """Tokens that count even for the smallest call."""
    typical: float
    """Tokens at which a model's level is stated."""
    power: float

    def size(self, tokens: float | None) -> float:
        if tokens is None:
            return 0.0
        return math.log((tokens + self.offset) / (self.typical + self.offset))


_WHOLE = _Shape(offset=32.0, typical=256.0, power=0.8)
_FIRST = _Shape(offset=1000.0, typical=500.0, power=0.4)
_PREFILL = 0.01
"""A token of the prompt takes about a hundredth of the time of one of the answer."""


@dataclass(slots=True)
class _Level:
    """A decayed mean."""

    weight: float = 0.0
    total: float = 0.0
    at: float = 0.0

    def add(self, value: float, at: float) -> None:
        factor = math.exp2((self.at - at) / LONG_HALF_LIFE_S) if self.weight else 0.0
        # What comes late (from the log) is no newer than what is there.
        if factor > 1.0:
            share = 1.0 / factor
            self.weight += share
            self.total += share * value
            return
        self.weight = self.weight * factor + 1.0
        self.total = self.total * factor + value
        self.at = at


class _Line:
    """One model: decayed sums of size and log-latency, and the longer memory of its level."""

    __slots__ = ("at", "level", "n", "u", "uu", "uy", "y", "yy")

    def __init__(self) -> None:
        self.n = self.u = self.uu = self.y = self.uy = self.yy = self.at = 0.0
        self.level = _Level()

    def add(self, size: float, log_ms: float, at: float, power: float) -> None:
        weight = 1.0
        if self.n:
            factor = math.exp2((self.at - at) / HALF_LIFE_S)
            if factor > 1.0:
                weight = 1.0 / factor
            else:
                self.n *= factor
                self.u *= factor
                self.uu *= factor
                self.y *= factor
                self.uy *= factor
                self.yy *= factor
        self.at = max(self.at, at) if self.n else at
        self.n += weight
        self.u += weight * size
        self.uu += weight * size * size
        self.y += weight * log_ms
        self.uy += weight * size * log_ms
        self.yy += weight * log_ms * log_ms
        self.level.add(log_ms - power * size, at)

    def forecast(self, size: float, now: float, power: float, pool: _Level) -> Forecast:
        level = self.level
        believed = level.weight + 1.0
        middle = pool.total / pool.weight if pool.weight > _FEW else math.log(_TYPICAL_MS)
        mean0 = (level.total + middle) / believed
        variance0 = _DRIFT_VARIANCE + _LEVEL_VARIANCE / believed
        decay = math.exp2((self.at - now) / HALF_LIFE_S) if self.n else 0.0
        n = self.n * decay
        if n <= _FEW:
            sd = math.sqrt(variance0 + size * size * _POWER_VARIANCE)
            return Forecast(mean0 + power * size, sd, 0.0, level.weight > 0)
        u, uu, y, uy, yy = (
            self.u * decay, self.uu * decay, self.y * decay, self.uy * decay, self.yy * decay
        )  # fmt: skip
        # How much single calls scatter around a line of the assumed power.
        scatter = yy - 2 * power * uy + power * power * uu - (y - power * u) ** 2 / n
        noise = (_NOISE_CALLS * _NOISE_VARIANCE + max(scatter, 0.0)) / (
            _NOISE_CALLS + max(n - 1.0, 0.0)
        )
        a, b, d = 1 / variance0 + n / noise, u / noise, 1 / _POWER_VARIANCE + uu / noise
        e, f = mean0 / variance0 + y / noise, power / _POWER_VARIANCE + uy / noise
        determinant = a * d - b * b
        mean = ((d * e - b * f) + size * (a * f - b * e)) / determinant
        variance = (d - 2 * size * b + size * size * a) / determinant
        return Forecast(mean, math.sqrt(max(variance, 0.0)), n, True, math.sqrt(noise))


class LatencyTracker:
    """Recent latencies of answered calls, by model: whole answers, and first tokens of streams.

    Safe from any thread; each method takes a few microseconds.
    """

    def __init__(self) -> None:
        self._whole: dict[str, _Line] = {}
        self._first: dict[str, _Line] = {}
        self._whole_pool, self._first_pool = _Level(), _Level()
        self._lock = Lock()

    def observe(
        self,
        model_id: str,
        latency_ms: float,
        ttft_ms: float | None = None,
        *,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        age_s: float = 0.0,
    ) -> None:
        """Record one provider call that was answered.

        Args:
            age_s: how long ago that was.
        """
        at = time.monotonic() - age_s
        with self._lock:
            size = _whole_size(input_tokens, output_tokens)
            _note(self._whole, self._whole_pool, _WHOLE, model_id, size, latency_ms, at)
            if ttft_ms is not None:
                size = _FIRST.size(input_tokens)
                _note(self._first, self._first_pool, _FIRST, model_id, size, ttft_ms, at)

    def forecast(
        self,
        model_id: str,
        *,
        input_tokens: int | None = None,
        output_tokens: float | None = None,
        stream: bool = False,
    ) -> Forecast:
        """Return how long a call of this size will take: to its first token if it is a stream."""
        now = time.monotonic()
        with self._lock:
            if stream:
                line = self._first.get(model_id, _UNSEEN)
                size = _FIRST.size(input_tokens)
                return line.forecast(size, now, _FIRST.power, self._first_pool)
            line = self._whole.get(model_id, _UNSEEN)
            size = _whole_size(input_tokens, output_tokens)
            return line.forecast(size, now, _WHOLE.power, self._whole_pool)

    def latency_ms(self, model_id: str) -> float | None:
        """Time to a whole answer of 256 tokens; None for a model that was not seen yet."""
        forecast = self.forecast(model_id)
        return forecast.latency_ms if forecast.seen else None

    def ttft_ms(self, model_id: str) -> float | None:
        """Time to the first token of a stream; None if none was seen."""
        forecast = self.forecast(model_id, stream=True)
        return forecast.latency_ms if forecast.seen else None


_UNSEEN = _Line()


def _whole_size(input_tokens: int | None, output_tokens: float | None) -> float:
    if output_tokens is None:
        return 0.0
    return _WHOLE.size(output_tokens + _PREFILL * (input_tokens or 0))


def _note(
    lines: dict[str, _Line],
    pool: _Level,
    shape: _Shape,
    model_id: str,
    size: float,
    ms: float,
    at: float,
) -> None:
    log_ms = math.log(max(ms, 1e-3))
    line = lines.get(model_id)
    if line is None:
        line = lines[model_id] = _Line()
    line.add(size, log_ms, at, shape.power)
    pool.add(log_ms - shape.power * size, at)


def chances_of_least(means: Sequence[float], sds: Sequence[float]) -> list[float]:
    """Return the probability of each of some independent normal variables to be the least.

    That is the rule of Thompson sampling, computed instead of drawn (by Gauss-Hermite quadrature,
    then made to sum to 1). Of many, those with the best hopes contend; the others have 0.
    """
    order = sorted(range(len(means)), key=lambda i: means[i] - sds[i])[:_CONTENDERS]
    best = min(order, key=means.__getitem__)
    contenders = [
        i
        for i in order
        if means[i] - means[best] <= 3.5 * math.sqrt(sds[i] ** 2 + sds[best] ** 2) + 1e-12
    ]
    chances = [0.0] * len(means)
    if len(contenders) == 1:
        chances[contenders[0]] = 1.0
        return chances
    erfc = math.erfc
    scaled = {i: max(sds[i], 1e-9) * math.sqrt(2) for i in contenders}
    for i in contenders:
        chance = 0.0
        others = [(means[j], scaled[j]) for j in contenders if j != i]
        for node, weight in _NODES:
            value = means[i] + sds[i] * node
            for mean, scale in others:
                weight *= 0.5 * erfc((value - mean) / scale)
            chance += weight
        chances[i] = chance
    total = sum(chances)
    return [chance / total for chance in chances]
