"""Always-valid intervals that are exact: for metrics with known bounds, by betting.

Waudby-Smith & Ramdas 2024 (JRSS B 86(1), arXiv 2010.09686), the hedged capital process, theorem 3. For
each candidate mean `m` two gamblers start with 1 and bet that values lie above `m`, or below it:

    K+ = product of 1 + min(l_i, c / m) (x_i - m)      K- likewise with c / (1 - m) and a minus

If `m` is the mean, neither game is favourable, and by Ville's inequality the chance that one ever
reaches `2 / alpha` is at most alpha. The interval is every `m` at which neither has. The bets `l_i`
look only at earlier values: sqrt(2 log(2 / alpha) / (v i log(1 + i))), with `v` the variance so far.

So values must come in the order in which they were seen, and be independent units (sessions' means,
where calls share one). There is no warm-up and no tuning, and nothing that is true only for many.
For metrics without bounds give any estimator a `Confidence` with `peeking`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from novellus_lab.errors import InvalidRequestError
from novellus_lab.experiments.stats.estimate import Estimate
from novellus_lab.experiments.stats.samples import Floats, checked_alike, checked_within

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike

_MOST = 0.5
"""`c`: the part of a gambler's capital that one value can take at most."""


def bounded_mean(
    values: ArrayLike, *, low: float = 0.0, high: float = 1.0, level: float = 0.95
) -> Estimate:
    """The mean of values between known bounds, valid at any look.

    Args:
        values: in the order in which they came.
        low, high: what no value can be beyond, known beforehand and not from the values.

    Raises:
        InvalidRequestError: a value beyond the bounds, or bounds or a level that are none.
    """
    _check(low, high, level)
    sample = checked_within(values, "values", low, high)
    return _betting(sample, low, high, level, "mean, betting", None)


def bounded_difference(
    control: ArrayLike,
    treatment: ArrayLike,
    *,
    low: float = 0.0,
    high: float = 1.0,
    level: float = 0.95,
) -> Estimate:
    """The mean difference of pairs whose values have known bounds, valid at any look.

    Raises:
        InvalidRequestError: as `bounded_mean`, or pairs that don't match.
    """
    _check(low, high, level)
    base, other = checked_alike(control=control, treatment=treatment)
    base = checked_within(base, "control", low, high)
    other = checked_within(other, "treatment", low, high)
    reach = high - low
    return _betting(other - base, -reach, reach, level, "paired difference of means, betting", 0.0)


def randomised_difference(
    values: ArrayLike,
    treated: ArrayLike,
    *,
    share: float = 0.5,
    low: float = 0.0,
    high: float = 1.0,
    level: float = 0.95,
) -> Estimate:
    """The difference between two arms to which units were drawn by chance, valid at any look.

    Each unit stands for `(y - m) / share` if treated and `-(y - m) / (1 - share)` if not, with `m` the
    mean of all earlier ones: of these the expectation is the difference.

    Args:
        values: of both arms, in the order in which they came, a value a unit.
        treated: 1 for a unit of the treatment, 0 for one of the control.
        share: the probability with which each unit got the treatment, as the draw had it.

    Raises:
        InvalidRequestError: as `bounded_mean`; a share that is no probability.
    """
    _check(low, high, level)
    if not 0 < share < 1:
        raise InvalidRequestError(f"share is {share}: expected a probability between 0 and 1.")
    sample, arm = checked_alike(values=values, treated=treated)
    sample = checked_within(sample, "values", low, high)
    if not np.isin(arm, (0, 1)).all():
        raise InvalidRequestError("treated: expected 0 or 1 for each unit.")
    seen = np.arange(len(sample))
    before = np.cumsum(sample) - sample
    centre = np.where(seen > 0, before / np.maximum(seen, 1), (low + high) / 2)
    parts = (sample - centre) * np.where(arm == 1, 1 / share, -1 / (1 - share))
    reach = (high - low) / min(share, 1 - share)
    return _betting(parts, -reach, reach, level, "difference of means, betting", 0.0)


def log_capital(values: Floats, mean: float, alpha: float) -> tuple[Floats, Floats]:
    """What the gambler on more and the one on less have after each value, as logarithms.

    Args:
        values: between 0 and 1; along the last axis, in order.
        mean: the candidate, between 0 and 1.
        alpha: the bets are tuned for.
    """
    bets = _bets(values, alpha)
    up, down = _steps(values, bets, mean)
    return np.cumsum(up, axis=-1), np.cumsum(down, axis=-1)


def _steps(values: Floats, bets: Floats, mean: float) -> tuple[Floats, Floats]:
    above = np.minimum(bets, _MOST / mean if mean > 0 else np.inf)
    below = np.minimum(bets, _MOST / (1 - mean) if mean < 1 else np.inf)
    return np.log1p(above * (values - mean)), np.log1p(-below * (values - mean))


def _bets(values: Floats, alpha: float) -> Floats:
    count = np.arange(1, values.shape[-1] + 1)
    mean = (0.5 + np.cumsum(values, axis=-1)) / (count + 1)
    variance = (0.25 + np.cumsum((values - mean) ** 2, axis=-1)) / (count + 1)
    before = np.concatenate([np.full((*values.shape[:-1], 1), 0.25), variance[..., :-1]], axis=-1)
    return np.asarray(np.sqrt(2 * math.log(2 / alpha) / (before * count * np.log1p(count))))


def _betting(
    sample: Floats, low: float, high: float, level: float, method: str, null: float | None
) -> Estimate:
    alpha, scale = 1 - level, high - low
    scaled = np.clip((sample - low) / scale, 0.0, 1.0)
    bets = _bets(scaled, alpha)
    target = math.log(2 / alpha)

    def wealth(mean: float) -> tuple[float, float]:
        up, down = _steps(scaled, bets, mean)
        return float(up.sum()), float(down.sum())

    bottom = 0.0 if wealth(0.0)[0] < target else _bisect(lambda m: wealth(m)[0] - target)
    top = 1.0 if wealth(1.0)[1] < target else _bisect(lambda m: target - wealth(m)[1])
    note = ""
    if bottom > top:
        # Ville allows it with probability alpha; a mean that moves makes it likely.
        bottom, top = top, bottom
        note = "no single mean fits all of the values: it changed while they came, or by chance"
    value = float(sample.mean())
    p_value = None
    if null is not None:
        p_value = min(1.0, math.exp(math.log(2) - min(700.0, max(wealth((null - low) / scale)))))
    return Estimate(
        value,
        min(value, low + scale * bottom),
        max(value, low + scale * top),
        level,
        method,
        len(sample),
        len(sample),
        p_value=p_value,
        always_valid=True,
    ).with_notes(note)


def _bisect(falling: Callable[[float], float]) -> float:
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        if falling(middle) > 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _check(low: float, high: float, level: float) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InvalidRequestError(f"bounds {low} to {high}: expected finite ones, low below high.")
    if not 0 < level < 1:
        raise InvalidRequestError(f"level is {level}: expected one between 0 and 1 (0.95).")
