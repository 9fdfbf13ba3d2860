"""Means of arms: their difference, in units and in percent, and CUPED.

Welch's t, or the paired t; with clusters both at once, as in moments.py. The relative difference is
Fieller's (1954, JRSS B 16): all `theta` for which the t-test of "mean of the treatment - theta * mean
of the control is 0" does not reject. Its degrees of freedom are those of the difference, so that the
percentage excludes 0 exactly where the difference does. It has no bound where the control's mean
can't be told from 0. CUPED (Deng, Xu, Kohavi & Walker 2013, WSDM) takes from each value what its
covariate, known before the experiment, foretells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from novellus_lab.errors import InvalidRequestError
from novellus_lab.experiments.stats.confidence import ONE_LOOK, Confidence
from novellus_lab.experiments.stats.estimate import Estimate, cannot_tell
from novellus_lab.experiments.stats.intervals import fieller, two_sided
from novellus_lab.experiments.stats.moments import Moments, moments
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
    from numpy.typing import ArrayLike


def mean(
    values: ArrayLike, *, clusters: Clusters | None = None, confidence: Confidence = ONE_LOOK
) -> Estimate:
    """The mean of one sample, by Student's t.

    Raises:
        InvalidRequestError: no values, NaN among them, or clusters that don't fit.
    """
    sample = checked(values, "values")
    return mean_of(sample, grouping([clusters], [len(sample)]), "mean, Student's t", confidence)


def difference(
    control: ArrayLike,
    treatment: ArrayLike,
    *,
    paired: bool = False,
    clusters: Clusters | ArmClusters | None = None,
    confidence: Confidence = ONE_LOOK,
) -> Estimate:
    """Mean of the treatment minus mean of the control, in the values' own unit.

    Args:
        control, treatment: values of the arms; of the same prompts in the same order if `paired`.
        clusters: a label a pair if paired, else `(labels of control, labels of treatment)`. A label
            in both arms is one cluster: give arms that share no sessions labels that differ.
        confidence: level and looks.

    Raises:
        InvalidRequestError: an arm without values, NaN, pairs that don't match, or such clusters.
    """
    if paired:
        base, other = checked_alike(control=control, treatment=treatment)
        groups = grouping([labels_of_pairs(clusters)], [len(base)])
        scale = float(max(np.abs(base).max(), np.abs(other).max()))
        method = "paired difference of means, Student's t"
        return mean_of(other - base, groups, method, confidence, scale=scale, null=0.0)
    base, other = checked(control, "control"), checked(treatment, "treatment")
    groups = grouping(labels_of_arms(clusters), [len(base), len(other)])
    return _difference_of([base, other], groups, "difference of means, Welch's t", confidence)


def relative_difference(
    control: ArrayLike,
    treatment: ArrayLike,
    *,
    paired: bool = False,
    clusters: Clusters | ArmClusters | None = None,
    confidence: Confidence = ONE_LOOK,
) -> Estimate:
    """Mean of the treatment over mean of the control, minus 1: -0.2 is 20% less.

    Arguments and errors as `difference`. Nothing is said where the control's mean is not above 0.
    """
    if paired:
        base, other = checked_alike(control=control, treatment=treatment)
        groups = grouping([labels_of_pairs(clusters)], [len(base)])
        groups = Grouping((*groups.codes, *groups.codes), groups.count)
    else:
        base, other = checked(control, "control"), checked(treatment, "treatment")
        groups = grouping(labels_of_arms(clusters), [len(base), len(other)])
    method = f"{'paired ' if paired else ''}relative difference of means, Fieller"
    n = len(base) + (0 if paired else len(other))
    if not float(base.mean()) > 0:
        why = "the control's mean is not above 0: nothing to take a percentage of"
        return cannot_tell(None, why, confidence, method, n, groups.count)
    quotient = float(other.mean() / base.mean())
    found = moments([base, other], groups)
    if not isinstance(found, str) and _nothing_varies(base, other, quotient, paired):
        found = "nothing varies, or not its difference: nothing tells how it would"
    if isinstance(found, str):
        return cannot_tell(quotient - 1, found, confidence, method, n, groups.count)
    df, error = found.df([-1, 1]), math.sqrt(found.variance([-1, 1]))
    skewness = found.skewness([-1, 1])
    above, below = (float(each) for each in found.means[::-1])
    ratio = two_sided(
        lambda critical: fieller(above, below, found.covariance[::-1, ::-1], critical),
        confidence.reach(df, found.units, skewness),
    )
    statistic = float(found.means[1] - found.means[0]) / error
    return Estimate(
        quotient - 1,
        min(ratio.low - 1, quotient - 1),
        max(ratio.high - 1, quotient - 1),
        confidence.level,
        method,
        n,
        found.units,
        df=df,
        p_value=confidence.p_value(statistic, df, found.units, skewness),
        always_valid=confidence.always_valid,
    ).with_notes(
        confidence.too_early(found.units, skewness)
        or ("" if ratio.bounded else "the control's mean can't be told from 0: no percentage")
    )


def _nothing_varies(base: Floats, other: Floats, quotient: float, paired: bool) -> bool:
    if not paired:
        return spread_is_none(base) and spread_is_none(other)
    scale = float(max(np.abs(base).max(), np.abs(other).max()))
    return spread_is_none(other - base, scale) or spread_is_none(other - quotient * base, scale)


@dataclass(frozen=True, slots=True)
class Adjusted:
    """A difference after CUPED, the same without it, and which part of the variance it took away."""

    estimate: Estimate
    unadjusted: Estimate
    variance_removed: float


def cuped_difference(
    control: ArrayLike,
    treatment: ArrayLike,
    control_covariates: ArrayLike,
    treatment_covariates: ArrayLike,
    *,
    clusters: ArmClusters | None = None,
    confidence: Confidence = ONE_LOOK,
) -> Adjusted:
    """The difference of means, with what covariates foretell taken out (CUPED).

    Each arm must hold only observations whose covariates were known before the arm was drawn: the
    prompt's length or the session's earlier cost, never anything that the arm could change. The
    slopes are common to both arms and fitted within them.

    Args:
        control_covariates, treatment_covariates: a number an observation, or a row of numbers.

    Raises:
        InvalidRequestError: as `difference`; or covariates that don't fit the values.
    """
    base, other = checked(control, "control"), checked(treatment, "treatment")
    before = [
        _covariates(values, len(arm), name)
        for values, arm, name in (
            (control_covariates, base, "control_covariates"),
            (treatment_covariates, other, "treatment_covariates"),
        )
    ]
    if before[0].shape[1] != before[1].shape[1]:
        raise InvalidRequestError("covariates: expected as many columns in both arms.")
    within = np.concatenate([x - x.mean(axis=0) for x in before])
    centred = np.concatenate([base - base.mean(), other - other.mean()])
    slopes = np.linalg.lstsq(within, centred, rcond=None)[0]
    middle = np.concatenate(before).mean(axis=0)
    adjusted = [y - (x - middle) @ slopes for x, y in zip(before, (base, other), strict=True)]
    groups = grouping(labels_of_arms(clusters), [len(base), len(other)])
    plain = _difference_of([base, other], groups, "difference of means, Welch's t", confidence)
    method = "difference of means, CUPED"
    least = within.shape[1] + 2
    if len(centred) < 10 * least:
        why = f"{len(centred)} observations are too few to fit {within.shape[1]} covariates"
        return Adjusted(plain.with_notes(f"not adjusted: {why}"), plain, 0.0)
    after = _difference_of(adjusted, groups, method, confidence)
    if after.standard_error is None or not plain.standard_error:
        return Adjusted(after, plain, 0.0)
    return Adjusted(after, plain, 1 - (after.standard_error / plain.standard_error) ** 2)


def mean_of(
    sample: Floats,
    groups: Grouping,
    method: str,
    confidence: Confidence,
    *,
    scale: float | None = None,
    null: float | None = None,
    what: str = "",
) -> Estimate:
    """The mean of a checked sample, as an estimate of whatever its numbers stand for."""
    value = float(sample.mean())
    found = moments([sample], groups)
    if isinstance(found, str):
        return cannot_tell(value, found, confidence, method, len(sample), groups.count)
    if spread_is_none(sample, scale):
        seen = what or (f"all {len(sample)} pairs differ alike" if null is not None else "")
        why = f"{seen or f'all {len(sample)} values are equal'}: nothing tells how they vary"
        return cannot_tell(value, why, confidence, method, len(sample), groups.count)
    return _from_moments(found, [1.0], method, confidence, null)


def _difference_of(
    arms: list[Floats], groups: Grouping, method: str, confidence: Confidence
) -> Estimate:
    value = float(arms[1].mean() - arms[0].mean())
    n = sum(map(len, arms))
    found = moments(arms, groups)
    if isinstance(found, str):
        return cannot_tell(value, found, confidence, method, n, groups.count)
    still = [
        name
        for name, arm in zip(("control", "treatment"), arms, strict=True)
        if spread_is_none(arm)
    ]
    if len(still) == 2:
        why = "all values of an arm are equal, in both: nothing tells how they vary"
        return cannot_tell(value, why, confidence, method, n, groups.count)
    note = f"all values of the {still[0]} are equal: it counts as exactly known" if still else ""
    return _from_moments(found, [-1.0, 1.0], method, confidence, 0.0).with_notes(note)


def _from_moments(
    found: Moments, weights: list[float], method: str, confidence: Confidence, null: float | None
) -> Estimate:
    value = float(np.dot(weights, found.means))
    error = math.sqrt(found.variance(weights))
    df = found.df(weights)
    if not error:  # clusters whose errors cancel out, within each of them
        why = "the clusters' errors cancel out: nothing tells how they vary"
        return cannot_tell(value, why, confidence, method, found.n, found.units)
    skewness = found.skewness(weights)
    reach = confidence.reach(df, found.units, skewness)
    return Estimate(
        value,
        value - reach.down * error,
        value + reach.up * error,
        confidence.level,
        method,
        found.n,
        found.units,
        standard_error=error,
        df=df,
        p_value=None
        if null is None
        else confidence.p_value((value - null) / error, df, found.units, skewness),
        always_valid=confidence.always_valid,
    ).with_notes(confidence.too_early(found.units, skewness) or _skew_note(skewness, confidence))


def _skew_note(skewness: float, confidence: Confidence) -> str:
    """Cochran's rule (Sampling Techniques, 1977, 2.15): n of at least 25 times the squared skewness."""
    if confidence.always_valid or abs(skewness) <= 0.2:
        return ""
    return "very skewed for so few units: the true interval is wider to one side (see bootstrap-t)"


def _covariates(values: ArrayLike, length: int, name: str) -> Floats:
    table = np.asarray(values, dtype=np.float64)
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or len(table) != length or not np.isfinite(table).all():
        raise InvalidRequestError(
            f"{name}: expected a finite number, or a row of them, for each of {length} values."
        )
    return table
