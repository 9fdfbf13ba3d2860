"""The bootstrap (Efron 1979), vectorised: a resample is a row of weights, never a copy of the data.

A statistic gets how often each unit was drawn, `(resamples, units)`, and returns one number a row. So
that means and ratios are matrix products, quantiles sums along the sorted values, and clustered and
paired resampling are the same thing: the unit is the session, or the pair.

Intervals are BCa (Efron 1987, JASA 82, 171-185), with the acceleration from the jackknife, over groups
of units where there are more than 200; or percentiles, for quantiles, for which the jackknife does
not work. For means of skewed values BCa covers no better than Student's t; bootstrap-t does (Hall 1988,
Annals of Statistics 16, 927-953): it resamples the t-statistic and takes its own quantiles instead of
Student's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy import special

from novellus_lab.errors import InvalidRequestError
from novellus_lab.experiments.stats.confidence import ONE_LOOK, Confidence
from novellus_lab.experiments.stats.estimate import Estimate, cannot_tell
from novellus_lab.experiments.stats.samples import (
    ArmClusters,
    Clusters,
    Floats,
    Ints,
    checked,
    checked_alike,
    grouping,
    labels_of_arms,
    labels_of_pairs,
    spread_is_none,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import ArrayLike

Weights = Floats
"""How often each unit was drawn: a row a resample, a column a unit."""

_ONE_LOOK_ONLY = (
    "A bootstrap interval is for one look: leave out peeking, or use an estimator that takes it."
)
_CELLS = 4_000_000
_JACKKNIFE_GROUPS = 200


@dataclass(frozen=True, slots=True)
class Resampling:
    """How many resamples, from which seed. The same seed gives the same interval, anywhere."""

    resamples: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.resamples < 100:
            raise InvalidRequestError(f"resamples is {self.resamples}: expected at least 100.")


RESAMPLING = Resampling()


def bootstrap(
    statistic: Callable[[Sequence[Weights]], Floats],
    strata: Sequence[int],
    *,
    method: str,
    n: int,
    interval: Literal["bca", "percentile"] = "bca",
    null: float | None = None,
    confidence: Confidence = ONE_LOOK,
    resampling: Resampling = RESAMPLING,
) -> Estimate:
    """Estimate a statistic with a bootstrap interval.

    Args:
        statistic: from the weights of each stratum to one number a row; NaN or infinite where a
            resample has none (nothing to divide by).
        strata: how many units each stratum has; each is resampled on its own. Pairs are one stratum
            whose units are the pairs, two independent arms are two.
        method: what the estimate is called.
        n: observations behind it.
        null: the value of no effect, for a p-value.

    Raises:
        InvalidRequestError: an always-valid interval was asked for, or a stratum is empty.
    """
    if confidence.always_valid:
        raise InvalidRequestError(_ONE_LOOK_ONLY)
    if not strata or min(strata) < 1:
        raise InvalidRequestError("A stratum is empty: there is nothing to resample.")
    units = sum(strata)
    method = f"{method}, bootstrap {'BCa' if interval == 'bca' else 'percentile'}"
    seen = float(statistic([np.ones((1, size)) for size in strata])[0])
    value = seen if np.isfinite(seen) else None
    if value is None:
        return cannot_tell(None, "it has no value", confidence, method, n, units)
    if min(strata) < 2:
        return cannot_tell(value, "a single unit", confidence, method, n, units)
    drawn = _draw(statistic, strata, resampling)
    lost = int((~np.isfinite(drawn)).sum())
    alpha = 1 - confidence.level
    if lost > len(drawn) * alpha / 4:
        why = f"it has no value in {lost} of {len(drawn)} resamples: it has no bound"
        return cannot_tell(value, why, confidence, method, n, units)
    drawn = np.sort(drawn[np.isfinite(drawn)])
    if drawn[-1] - drawn[0] <= 1e-12 * max(abs(drawn[0]), abs(drawn[-1])):
        why = "all resamples are equal: nothing tells how it varies"
        return cannot_tell(value, why, confidence, method, n, units)
    ends = np.array([alpha / 2, 1 - alpha / 2])
    note = ""
    if interval == "bca":
        shifted = _bca_levels(ends, drawn, value, _acceleration(statistic, strata))
        if shifted is None:
            note = "the resamples lie to one side of the estimate: percentiles instead of BCa"
        else:
            ends = shifted
    if (ends * len(drawn)).min() < 5 or ((1 - ends) * len(drawn)).min() < 5:
        note = note or "few resamples beyond the bounds: take more for this level"
    low, high = np.quantile(drawn, ends)
    p_value = None
    if null is not None:
        beyond = min((drawn <= null).sum(), (drawn >= null).sum())
        p_value = min(1.0, 2 * (float(beyond) + 1) / (len(drawn) + 1))
    return Estimate(
        value,
        float(low),
        float(high),
        confidence.level,
        method,
        n,
        units,
        standard_error=float(drawn.std(ddof=1)),
        p_value=p_value,
    ).with_notes(note)


def bootstrap_t_difference(
    control: ArrayLike,
    treatment: ArrayLike,
    *,
    paired: bool = False,
    clusters: Clusters | ArmClusters | None = None,
    confidence: Confidence = ONE_LOOK,
    resampling: Resampling = RESAMPLING,
) -> Estimate:
    """Difference of means by bootstrap-t: for skewed values, and too few of them for Student's t.

    Args and errors as `means.difference`; unpaired arms must not share clusters; one look only.
    """
    if confidence.always_valid:
        raise InvalidRequestError(_ONE_LOOK_ONLY)
    if paired:
        base, other = checked_alike(control=control, treatment=treatment)
        groups = grouping([labels_of_pairs(clusters)], [len(base)])
        scale = float(max(np.abs(base).max(), np.abs(other).max()))
        samples = [other - base]
        still = spread_is_none(samples[0], scale)
    else:
        samples = [checked(control, "control"), checked(treatment, "treatment")]
        groups = grouping(labels_of_arms(clusters), [len(sample) for sample in samples])
        if set(groups.codes[0]) & set(groups.codes[1]):
            raise InvalidRequestError("clusters: the arms share some; see means.difference.")
        still = all(spread_is_none(sample) for sample in samples)
    signs = [1.0] if paired else [-1.0, 1.0]
    arms = [_ClusteredMean(*arm) for arm in zip(samples, groups.codes, strict=True)]
    method = f"{'paired ' if paired else ''}difference of means, bootstrap-t"
    n = sum(map(len, samples))
    value = sum(s * float(sample.mean()) for s, sample in zip(signs, samples, strict=True))
    if still or min(arm.units for arm in arms) < 2:
        why = "all values are equal" if still else "a single unit"
        why += ": nothing tells how they vary"
        return cannot_tell(value, why, confidence, method, n, groups.count)

    def statistic(weights: Sequence[Weights]) -> Floats:
        mean, square = np.zeros(len(weights[0])), np.zeros(len(weights[0]))
        for sign, arm, drawn in zip(signs, arms, weights, strict=True):
            of_arm, variance = arm(drawn)
            mean, square = mean + sign * of_arm, square + variance
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray((mean - value) / np.sqrt(square))

    drawn = _draw(statistic, [arm.units for arm in arms], resampling)
    whole = [arm(np.ones((1, arm.units)))[1][0] for arm in arms]
    error = math.sqrt(sum(whole))
    drawn = np.where(np.isnan(drawn), np.inf, drawn)
    alpha = 1 - confidence.level
    lowest, highest = np.quantile(drawn, [alpha / 2, 1 - alpha / 2], method="inverted_cdf")
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        why = "too few values differ: many resamples are all alike"
        return cannot_tell(value, why, confidence, method, n, groups.count)
    at_null = value / error
    beyond = min((drawn <= at_null).sum(), (drawn >= at_null).sum())
    return Estimate(
        value,
        min(value, value - float(highest) * error),
        max(value, value - float(lowest) * error),
        confidence.level,
        method,
        n,
        groups.count,
        standard_error=error,
        p_value=min(1.0, 2 * (float(beyond) + 1) / (len(drawn) + 1)),
    )


class _ClusteredMean:
    """The mean of values in resamples of their clusters, and its squared standard error."""

    def __init__(self, values: Floats, codes: Ints) -> None:
        _, codes = np.unique(codes, return_inverse=True)
        centre = float(values.mean())
        sums = np.bincount(codes, weights=values - centre)
        sizes = np.bincount(codes).astype(np.float64)
        self.units = len(sizes)
        self._centre = centre
        self._table = np.stack([sums, sizes, sums**2, sums * sizes, sizes**2], axis=1)

    def __call__(self, weights: Weights) -> tuple[Floats, Floats]:
        total, size, squares, products, sizes = (weights @ self._table).T
        mean = total / size
        variance = (squares - 2 * mean * products + mean**2 * sizes) / size**2
        variance *= self.units / (self.units - 1)
        return self._centre + mean, np.where(variance > 1e-18 * squares / size**2, variance, 0.0)


class WeightedQuantile:
    """A quantile (the least value with at least `q` of the weight up to it) in such resamples."""

    def __init__(self, values: Floats, codes: Ints, q: float) -> None:
        order = np.argsort(values, kind="stable")
        self._values = values[order]
        self._codes = codes[order]
        self._alone = bool((np.bincount(codes) <= 1).all())
        self._q = q

    def __call__(self, weights: Weights) -> Floats:
        mass = np.cumsum(weights[:, self._codes], axis=1)
        # A hair less, so that 0.95 of 20 is the 19th whatever the rounding of 0.95 * 20.
        reached = mass >= (self._q * (1 - 1e-12)) * mass[:, -1:]
        return np.asarray(self._values[np.argmax(reached, axis=1)])


def _draw(
    statistic: Callable[[Sequence[Weights]], Floats], strata: Sequence[int], how: Resampling
) -> Floats:
    random = np.random.default_rng(how.seed)
    rows = max(1, min(how.resamples, _CELLS // sum(strata)))
    found = []
    for start in range(0, how.resamples, rows):
        count = min(rows, how.resamples - start)
        found.append(statistic([_weights(size, count, random) for size in strata]))
    return np.concatenate(found)


def _weights(units: int, rows: int, random: np.random.Generator) -> Weights:
    drawn = random.integers(0, units, size=(rows, units))
    drawn += np.arange(rows)[:, None] * units
    counts = np.bincount(drawn.ravel(), minlength=rows * units)
    return counts.reshape(rows, units).astype(np.float64)


def _acceleration(statistic: Callable[[Sequence[Weights]], Floats], strata: Sequence[int]) -> float:
    """Skewness of the jackknife's values: sum of cubes / (6 sum of squares^1.5), over all strata."""
    cubes = squares = 0.0
    for index, size in enumerate(strata):
        groups = min(size, _JACKKNIFE_GROUPS)
        of_unit = np.arange(size) * groups // size
        without = (of_unit[None, :] != np.arange(groups)[:, None]).astype(np.float64)
        weights = [np.ones((groups, other)) for other in strata]
        weights[index] = without
        left = statistic(weights)
        if not np.isfinite(left).all():
            return 0.0
        # Over strata, each stratum's influences are scaled as empirical ones: (size - 1) (mean - left).
        influence = (groups - 1) * (left.mean() - left) / groups
        cubes += float((influence**3).sum())
        squares += float((influence**2).sum())
    return cubes / (6 * squares**1.5) if squares > 0 else 0.0


def _bca_levels(ends: Floats, drawn: Floats, value: float, acceleration: float) -> Floats | None:
    below = float(((drawn < value).sum() + 0.5 * (drawn == value).sum()) / len(drawn))
    if not 0 < below < 1:
        return None
    bias = special.ndtri(below)
    z = bias + special.ndtri(ends)
    left = 1 - acceleration * z
    if (left <= 0).any():
        return None
    return np.asarray(special.ndtr(bias + z / left))
