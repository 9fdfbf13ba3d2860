"""What must be right before an effect may be believed: shares, steady effects, arms alike in time.

Shares (sample ratio mismatch): if the arms' sizes are not what the draw makes of them, calls were lost
in one arm, and no interval helps. Pearson's chi-square for one look; for many a Dirichlet-multinomial
mixture (Lindon & Malek 2022, NeurIPS, arXiv 2011.03567), whose p-value holds at every look.

Trend of the effect (novelty): the slope of the pairs' differences over time, or the difference of the
arms' slopes, with cluster-robust errors; and the effects of the earlier and the later half beside.

Arms in time: whether an arm's calls were made at other times than the other's, so that what changed at
the provider looks like an effect. Chi-square of arms by equally full stretches of time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from novellus_lab.errors import InvalidRequestError
from novellus_lab.experiments.stats.confidence import ONE_LOOK, Confidence
from novellus_lab.experiments.stats.estimate import Estimate, cannot_tell
from novellus_lab.experiments.stats.means import difference
from novellus_lab.experiments.stats.samples import (
    ArmClusters,
    Clusters,
    Floats,
    Grouping,
    checked,
    checked_alike,
    grouping,
    labels_of_arms,
    labels_of_pairs,
    spread_is_none,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike

ALARM = 0.001
"""p-values below it alarm. Checks are made often, and a false one costs trust."""
_LEAST_EXPECTED = 5


@dataclass(frozen=True, slots=True)
class Check:
    """Whether something is wrong with the run. `p_value` is None where it can't be told."""

    alarm: bool
    p_value: float | None
    sentence: str


def sample_ratio(
    counts: Mapping[str, int],
    shares: Mapping[str, float] | None = None,
    *,
    always_valid: bool = False,
    alarm: float = ALARM,
) -> Check:
    """Check the sizes of arms against the shares with which units are drawn to them.

    Args:
        counts: units of each arm: sessions, if these are what is drawn.
        shares: of each arm, in any scale; equal ones by default.
        always_valid: whether this is looked at again and again while the run goes on.
        alarm: the p-value below which it alarms.

    Raises:
        InvalidRequestError: fewer than two arms, other names in shares, or sizes that are none.
    """
    if len(counts) < 2:
        raise InvalidRequestError("sample_ratio: expected the sizes of at least two arms.")
    if shares is not None and set(shares) != set(counts):
        raise InvalidRequestError(
            f"sample_ratio: shares are of {sorted(shares)}, counts of {sorted(counts)}."
        )
    seen = np.array([counts[arm] for arm in counts], dtype=np.float64)
    part = np.array([1.0 if shares is None else shares[arm] for arm in counts], dtype=np.float64)
    if not (np.isfinite(seen).all() and (seen >= 0).all() and (seen == np.floor(seen)).all()):
        raise InvalidRequestError(f"sample_ratio: {dict(counts)}: expected whole numbers from 0.")
    if not (np.isfinite(part).all() and (part > 0).all()):
        raise InvalidRequestError(f"sample_ratio: shares {shares}: expected numbers above 0.")
    part /= part.sum()
    total = float(seen.sum())
    expected = total * part
    found = ", ".join(
        f"{arm} {int(n)} (expected {e:.0f})"
        for arm, n, e in zip(counts, seen, expected, strict=True)
    )
    if always_valid:
        p_value = _multinomial_mixture(seen, part)
    elif expected.min() < _LEAST_EXPECTED:
        return Check(False, None, f"Too few units to check the arms' sizes: {found}.")
    else:
        square = float(((seen - expected) ** 2 / expected).sum())
        p_value = float(special.chdtrc(len(seen) - 1, square))
    if p_value < alarm:
        return Check(
            True,
            p_value,
            f"The arms' sizes are not what the draw makes of them: {found}, p = {p_value:.2g}. "
            "Units were lost or drawn wrongly; don't believe the effects before you know why.",
        )
    return Check(False, p_value, f"The arms' sizes are as drawn: {found}, p = {p_value:.2g}.")


@dataclass(frozen=True, slots=True)
class Trend:
    """Whether the effect changes over time, and what it was at first and at last."""

    check: Check
    slope: Estimate
    """Change of the effect per unit of time as given."""
    earlier: Estimate
    later: Estimate


def effect_trend(
    control: ArrayLike,
    treatment: ArrayLike,
    control_times: ArrayLike,
    treatment_times: ArrayLike | None = None,
    *,
    paired: bool = False,
    clusters: Clusters | ArmClusters | None = None,
    alarm: float = 0.01,
    confidence: Confidence = ONE_LOOK,
) -> Trend:
    """Check whether the effect wears off or grows: novelty, caches that fill, a provider that changes.

    Args:
        control_times, treatment_times: of each call, in any unit (days since the start); of each
            pair, once, if paired.

    Raises:
        InvalidRequestError: as `means.difference`, or times that don't fit.
    """
    if paired:
        base, other, when = checked_alike(
            control=control, treatment=treatment, control_times=control_times
        )
        groups = grouping([labels_of_pairs(clusters)], [len(base)])
        times = [when, when]
        slopes = [_slope_errors(other - base, when, groups)]
    else:
        if treatment_times is None:
            raise InvalidRequestError("treatment_times: expected the times of unpaired arms.")
        base, first = checked_alike(control=control, control_times=control_times)
        other, second = checked_alike(treatment=treatment, treatment_times=treatment_times)
        groups = grouping(labels_of_arms(clusters), [len(base), len(other)])
        times = [first, second]
        slopes = [
            _slope_errors(values, when, Grouping((codes,), groups.count))
            for values, when, codes in zip((base, other), times, groups.codes, strict=True)
        ]
    n = len(base) + (0 if paired else len(other))
    slope = _slope_estimate(slopes, n, groups.count, confidence)
    middle = float(np.median(np.concatenate(times[: 1 if paired else 2])))
    halves = [
        _half(base, other, times, paired, clusters, early, middle, confidence)
        for early in (True, False)
    ]
    check = Check(False, slope.p_value, "Too little is known to see a trend in the effect.")
    if slope.p_value is not None and slope.bounded:
        alarmed = slope.p_value < alarm
        told = f"{slope.value:+.3g} a unit of time, p = {slope.p_value:.2g}"
        if halves[0].value is not None and halves[1].value is not None:
            told = (
                f"{halves[0].value:+.3g} in the earlier half, {halves[1].value:+.3g} in the later, "
                f"p = {slope.p_value:.2g}"
            )
        words = "The effect changes over time" if alarmed else "No trend in the effect"
        check = Check(alarmed, slope.p_value, f"{words}: {told}.")
    return Trend(check, slope, *halves)


def arms_in_time(
    control_times: ArrayLike,
    treatment_times: ArrayLike,
    *,
    stretches: int = 10,
    alarm: float = ALARM,
) -> Check:
    """Check whether both arms' calls were made at the same times, as interleaving makes them.

    Raises:
        InvalidRequestError: no times, NaN, or fewer than two stretches.
    """
    first, second = (
        checked(control_times, "control_times"),
        checked(treatment_times, "treatment_times"),
    )
    if stretches < 2:
        raise InvalidRequestError(f"stretches is {stretches}: expected at least 2.")
    both = np.concatenate([first, second])
    least = min(len(first), len(second)) / len(both)
    stretches = min(stretches, int(len(both) * least / _LEAST_EXPECTED))
    if stretches < 2:
        return Check(False, None, "Too few calls to see whether the arms ran at the same times.")
    edges = np.unique(np.quantile(both, np.linspace(0, 1, stretches + 1)[1:-1]))
    if spread_is_none(both):
        return Check(False, None, "All calls have the same time.")
    table = np.array(
        [np.bincount(np.searchsorted(edges, t), minlength=len(edges) + 1) for t in (first, second)]
    ).astype(float)
    table = table[:, table.sum(axis=0) > 0]
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    if table.shape[1] < 2 or expected.min() < 1:
        return Check(False, None, "Too few different times to see whether the arms ran alike.")
    p_value = float(
        special.chdtrc(table.shape[1] - 1, float(((table - expected) ** 2 / expected).sum()))
    )
    if p_value < alarm:
        gap = float(second.mean() - first.mean())
        return Check(
            True,
            p_value,
            f"The arms did not run at the same times (means differ by {gap:+.3g}), p = {p_value:.2g}: "
            "what changed in between looks like an effect.",
        )
    return Check(False, p_value, f"The arms ran at the same times, p = {p_value:.2g}.")


def _multinomial_mixture(seen: Floats, part: Floats) -> float:
    """1 / (likelihood of a Dirichlet mixture over that of the shares), at most 1.

    The mixture's parameters are ten times the number of arms times the shares: about the shares, so
    that small mismatches are found, which are the usual ones.
    """
    a = 10 * len(part) * part
    log_e = (
        special.gammaln(a.sum())
        - special.gammaln(a.sum() + seen.sum())
        + (special.gammaln(a + seen) - special.gammaln(a)).sum()
        - (seen * np.log(part)).sum()
    )
    return min(1.0, math.exp(-min(700.0, max(-700.0, float(log_e)))))


def _slope_errors(values: Floats, times: Floats, groups: Grouping) -> tuple[float, Floats] | str:
    """The least-squares slope and each cluster's part in its error; or why there is none."""
    if len(np.unique(groups.codes[0])) < 4 or spread_is_none(times):
        return "too few units, or all at one time"
    centred = times - times.mean()
    square = float((centred**2).sum())
    slope = float((centred * values).sum()) / square
    residual = values - values.mean() - slope * centred
    if spread_is_none(residual, float(np.abs(values).max())):
        return "the values follow time exactly"
    leverage = 1 / len(values) + centred**2 / square
    # HC3 for single observations: divides by 1 - leverage.
    parts = centred * residual / (square * np.maximum(1 - leverage, 1e-6))
    summed = np.bincount(groups.codes[0], weights=parts, minlength=groups.count)
    return slope, np.asarray(summed, dtype=np.float64)


def _slope_estimate(
    slopes: list[tuple[float, Floats] | str], n: int, units: int, confidence: Confidence
) -> Estimate:
    method = "slope of the effect, cluster-robust"
    found = [slope for slope in slopes if not isinstance(slope, str)]
    if len(found) < len(slopes):
        why = next(slope for slope in slopes if isinstance(slope, str))
        return cannot_tell(None, why, confidence, method, n, units)
    value = found[-1][0] - (found[0][0] if len(found) == 2 else 0.0)
    parts = found[-1][1] - (found[0][1] if len(found) == 2 else 0.0)
    used = int((parts != 0).sum())
    error = math.sqrt(float((parts**2).sum()) * units / max(units - 1, 1))
    df = max(1.0, used - 2.0 * len(found))
    square = float((parts**2).sum())
    skewness = float((parts**3).sum()) / square**1.5 if square > 0 else 0.0
    reach = confidence.reach(df, units, skewness)
    return Estimate(
        value,
        value - reach.down * error,
        value + reach.up * error,
        confidence.level,
        method,
        n,
        units,
        standard_error=error,
        df=df,
        p_value=confidence.p_value(value / error, df, units, skewness),
        always_valid=confidence.always_valid,
    ).with_notes(confidence.too_early(units, skewness))


def _half(
    base: Floats,
    other: Floats,
    times: list[Floats],
    paired: bool,
    clusters: Clusters | ArmClusters | None,
    early: bool,
    middle: float,
    confidence: Confidence,
) -> Estimate:
    chosen = [(when < middle) if early else (when >= middle) for when in times]
    if not all(mask.any() for mask in chosen):
        return cannot_tell(None, "no calls in it", confidence, "difference of means", 0, 0)
    labels: Clusters | ArmClusters | None = None
    if clusters is not None and paired:
        labels = np.asarray(labels_of_pairs(clusters), dtype=object)[chosen[0]].tolist()
    elif clusters is not None:
        one, two = (
            np.asarray(of_arm, dtype=object)[mask].tolist()
            for of_arm, mask in zip(labels_of_arms(clusters), chosen, strict=True)
        )
        labels = (one, two)
    return difference(
        base[chosen[0]], other[chosen[1]], paired=paired, clusters=labels, confidence=confidence
    )
