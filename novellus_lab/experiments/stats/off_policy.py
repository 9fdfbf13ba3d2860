"""What a strategy would have done, from a log that another one made: off-policy estimates.

Each logged call has the probability `p` with which its model was chosen. A strategy that would have
chosen that model with probability `pi` counts it `w = pi / p` times:

    IPS     mean of w r                           unbiased (Horvitz & Thompson 1952, JASA 47)
    SNIPS   sum of w r / sum of w                 steadier, bias of order 1/n (Swaminathan & Joachims 2015)
    DR      mean of q(x, pi) + w (r - q(x, a))    with a reward model q; right if p or q is (Dudík,
                                                  Langford & Li 2011, ICML, arXiv 1103.4601)

`q` must not have seen the call that it predicts: `reward_models.cross_fit`. Weights can be clipped,
which trades variance for a bias that is named in the notes.

A log can't tell everything. There is a `Refusal` instead of a number where the strategy would have done
what the log never did, where a handful of calls carries the weight, or where the weights' mean is not 1,
which it must be if the propensities are those of the draw.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from novellus_lab.errors import InvalidRequestError
from novellus_lab.experiments.stats.bootstrap import (
    RESAMPLING,
    Resampling,
    bootstrap_t_difference,
)
from novellus_lab.experiments.stats.confidence import ONE_LOOK, Confidence
from novellus_lab.experiments.stats.means import mean_of
from novellus_lab.experiments.stats.moments import moments
from novellus_lab.experiments.stats.samples import (
    Clusters,
    Floats,
    Grouping,
    checked_alike,
    grouping,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from novellus_lab.experiments.stats.estimate import Estimate

LEAST_EFFECTIVE = 30
"""Calls' worth of information below which nothing is said."""
MOST_OF_ONE = 0.1
"""Part of the whole weight that a single call may carry."""
MOST_UNSUPPORTED = 0.01
"""Part of the strategy's choices that the log could never have made."""
_WEIGHTS_OFF = 5.0
"""Standard errors of the weights' mean from 1."""

Interval = Literal["asymptotic", "bootstrap"]


@dataclass(frozen=True, slots=True)
class Logged:
    """Calls as they were logged, and what the strategy thinks of them.

    Args:
        rewards: what is averaged: cost, latency, quality.
        propensities: with which probability the log's strategy chose the model that it chose.
        target: with which probability the strategy in question would have chosen that model.
        clusters: sessions, if calls come in such.
        unsupported: part of the strategy's choices that the log could not have made
            (`unsupported_part`); None: not known, and only the weights' mean can show it.
    """

    rewards: ArrayLike
    propensities: ArrayLike
    target: ArrayLike
    clusters: Clusters | None = None
    unsupported: float | None = None


@dataclass(frozen=True, slots=True)
class Overlap:
    """How far the log covers what the strategy does."""

    n: int
    effective_n: float
    """(sum of w)^2 / sum of w^2 (Kish): as many calls of the strategy itself would tell as much."""
    mean_weight: float
    """1, but for chance, if propensities are right and everything is covered."""
    largest_weight: float
    largest_part: float
    """Of the whole weight, that of the heaviest call."""
    used: float
    """Part of the calls with any weight."""
    unsupported: float | None


@dataclass(frozen=True, slots=True)
class Refusal:
    """The log can't say, and why."""

    reason: str
    overlap: Overlap


@dataclass(frozen=True, slots=True)
class OffPolicyValue:
    """The mean reward that the strategy would have had."""

    estimate: Estimate
    overlap: Overlap
    parts: Floats = field(repr=False, compare=False)
    """Each call's part: their mean is the value. For `compare_offline`."""


def ips(
    logged: Logged,
    *,
    against_logged: bool = False,
    clip: float | None = None,
    interval: Interval = "asymptotic",
    confidence: Confidence = ONE_LOOK,
    resampling: Resampling = RESAMPLING,
) -> OffPolicyValue | Refusal:
    """Inverse propensity scoring.

    Args:
        against_logged: estimate the difference to what was logged, instead of the value.
        clip: the largest weight; None: as they are.
        interval: by Student's t, or bootstrap-t, which holds better where rewards and weights
            are skewed and there are few hundred calls (the notes say so).

    Raises:
        InvalidRequestError: nothing logged, NaN, lengths that differ, or no probabilities.
    """
    rows = _Rows.of(logged, clip)
    return rows.value(
        "IPS", rows.weights * rows.rewards, None, against_logged, interval, confidence, resampling
    )


def self_normalised_ips(
    logged: Logged,
    *,
    against_logged: bool = False,
    clip: float | None = None,
    interval: Interval = "asymptotic",
    confidence: Confidence = ONE_LOOK,
    resampling: Resampling = RESAMPLING,
) -> OffPolicyValue | Refusal:
    """Self-normalised IPS: the usual choice without a reward model. Arguments and errors as `ips`."""
    rows = _Rows.of(logged, clip)
    return rows.value(
        "SNIPS",
        rows.weights * rows.rewards,
        rows.weights,
        against_logged,
        interval,
        confidence,
        resampling,
    )


def doubly_robust(
    logged: Logged,
    predicted: ArrayLike,
    predicted_target: ArrayLike,
    *,
    against_logged: bool = False,
    clip: float | None = None,
    interval: Interval = "asymptotic",
    confidence: Confidence = ONE_LOOK,
    resampling: Resampling = RESAMPLING,
) -> OffPolicyValue | Refusal:
    """Doubly robust. Arguments and errors as `ips`, and

    Args:
        predicted: the reward model's word on each call with the model that was chosen.
        predicted_target: its mean over what the strategy would have chosen.
    """
    rows = _Rows.of(logged, clip)
    _, q, of_target = checked_alike(
        rewards=rows.rewards, predicted=predicted, predicted_target=predicted_target
    )
    parts = of_target + rows.weights * (rows.rewards - q)
    return rows.value("DR", parts, None, against_logged, interval, confidence, resampling)


def compare_offline(
    control: OffPolicyValue,
    treatment: OffPolicyValue,
    *,
    clusters: Clusters | None = None,
    confidence: Confidence = ONE_LOOK,
) -> Estimate:
    """The difference of two strategies' values from one log: call by call, so that chance cancels.

    Raises:
        InvalidRequestError: they are from different logs.
    """
    one, two = checked_alike(control=control.parts, treatment=treatment.parts)
    groups = grouping([clusters], [len(one)])
    return mean_of(two - one, groups, "difference of off-policy values", confidence, null=0.0)


def unsupported_part(target: ArrayLike, logged: ArrayLike) -> float:
    """Return the part of the strategy's choices that the log could not have made.

    Args:
        target, logged: for each call (row) and model (column) the probability of being chosen.

    Raises:
        InvalidRequestError: shapes that differ, or rows that are no probabilities.
    """
    of_target, of_log = (np.asarray(each, dtype=np.float64) for each in (target, logged))
    if of_target.ndim != 2 or of_target.shape != of_log.shape or not of_target.size:
        raise InvalidRequestError(
            f"expected a row a call and a column a model, alike in both, got {of_target.shape} and "
            f"{of_log.shape}."
        )
    for name, table in (("target", of_target), ("logged", of_log)):
        sums = table.sum(axis=1)
        if not (
            np.isfinite(table).all() and (table >= 0).all() and np.allclose(sums, 1, atol=1e-6)
        ):
            raise InvalidRequestError(f"{name}: expected probabilities that sum to 1 in each row.")
    return float(np.where(of_log > 0, 0.0, of_target).sum(axis=1).mean())


def overlap(logged: Logged, *, clip: float | None = None) -> Overlap:
    """Return how far the log covers the strategy. Errors as `ips`."""
    return _Rows.of(logged, clip).overlap


def refusal(logged: Logged, *, clip: float | None = None) -> Refusal | None:
    """Return why the log can't say, or None if it can. Errors as `ips`."""
    return _Rows.of(logged, clip).refusal()


@dataclass(frozen=True, slots=True)
class _Rows:
    """The checked log."""

    rewards: Floats
    raw: Floats
    weights: Floats
    groups: Grouping
    overlap: Overlap
    clip: float | None

    @classmethod
    def of(cls, logged: Logged, clip: float | None) -> _Rows:
        rewards, p, pi = checked_alike(
            rewards=logged.rewards, propensities=logged.propensities, target=logged.target
        )
        for name, low, values in (("propensities", "above 0", p), ("target", "from 0", pi)):
            bad = np.flatnonzero(
                (values < 0) | (values > 1 + 1e-9) | ((values == 0) & (values is p))
            )
            if len(bad):
                raise InvalidRequestError(
                    f"{name}[{bad[0]}] is {values[bad[0]]:g}: expected a probability {low} to 1."
                )
        if clip is not None and not clip >= 1:
            raise InvalidRequestError(f"clip is {clip}: expected a weight of at least 1, or None.")
        raw = pi / p
        weights = raw if clip is None else np.minimum(raw, clip)
        total, squares = float(weights.sum()), float((weights**2).sum())
        return cls(
            rewards,
            raw,
            weights,
            grouping([logged.clusters], [len(rewards)]),
            Overlap(
                n=len(rewards),
                effective_n=total**2 / squares if squares else 0.0,
                mean_weight=float(raw.mean()),
                largest_weight=float(raw.max()),
                largest_part=float(weights.max()) / total if total else 1.0,
                used=float((raw > 0).mean()),
                unsupported=logged.unsupported,
            ),
            clip,
        )

    def refusal(self) -> Refusal | None:
        seen = self.overlap
        if seen.used == 0:
            return Refusal("the strategy would have chosen none of what was logged", seen)
        if seen.unsupported is not None and seen.unsupported > MOST_UNSUPPORTED:
            return Refusal(
                f"{100 * seen.unsupported:.3g}% of the strategy's choices are ones that the log could "
                "never have made: let the router explore (epsilon) and log on",
                seen,
            )
        if seen.effective_n < LEAST_EFFECTIVE:
            return Refusal(
                f"{seen.n} logged calls tell as much about it as {seen.effective_n:.1f} of its own "
                f"would; at least {LEAST_EFFECTIVE} are needed",
                seen,
            )
        if seen.largest_part > MOST_OF_ONE:
            return Refusal(
                f"a single call carries {100 * seen.largest_part:.0f}% of the weight", seen
            )
        spread = moments([self.raw], self.groups)
        error = 0.0 if isinstance(spread, str) else spread.variance([1.0]) ** 0.5
        if error and abs(seen.mean_weight - 1) > max(_WEIGHTS_OFF * error, 0.01):
            return Refusal(
                f"the weights' mean is {seen.mean_weight:.3g} and not 1: the logged propensities are "
                "not those of the draw, or the strategy does what the log never did",
                seen,
            )
        return None

    def value(
        self,
        name: str,
        parts: Floats,
        shares: Floats | None,
        against_logged: bool,
        interval: Interval,
        confidence: Confidence,
        resampling: Resampling,
    ) -> OffPolicyValue | Refusal:
        """Of `parts`: their mean, or with `shares` the sum over the shares' sum."""
        refused = self.refusal()
        if refused is not None:
            return refused
        below = np.ones_like(parts) if shares is None else shares
        value = float(parts.sum() / below.sum())
        # Linear in each call: its mean is the value, its spread the delta method's.
        linear = parts if shares is None else value + (parts - value * below) / float(below.mean())
        if against_logged:
            linear = linear - self.rewards
        method = f"{name}{', against what was logged' if against_logged else ''}"
        null = 0.0 if against_logged else None
        if interval == "asymptotic":
            estimate = mean_of(linear, self.groups, method, confidence, null=null)
        else:
            drawn = bootstrap_t_difference(
                np.zeros_like(linear),
                linear,
                paired=True,
                clusters=self.groups.codes[0],
                confidence=confidence,
                resampling=resampling,
            )
            p_value = drawn.p_value if against_logged else None
            estimate = replace(drawn, method=f"{method}, bootstrap-t", p_value=p_value)
        if self.clip is not None:
            part = float((self.raw > self.clip).mean())
            if part:
                off = 1 - float(self.weights.sum() / self.raw.sum())
                estimate = estimate.with_notes(
                    f"weights above {self.clip:g} are clipped, {100 * part:.2g}% of the calls and "
                    f"{100 * off:.2g}% of the weight: biased by what these calls differ"
                )
        return OffPolicyValue(estimate, self.overlap, linear)
