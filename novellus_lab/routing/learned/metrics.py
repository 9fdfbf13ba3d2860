"""What a router of two models is worth: the metrics of the RouteLLM paper (arXiv 2406.18665, 3.2).

A score says how much a prompt needs the strong model. At a threshold, prompts that score at least
as much go there. Performance gap recovered, PGR = (q - q_weak) / (q_strong - q_weak), says which
part of the way from the weak model's mean quality to the strong one's is made. APGR is its mean
over all shares of strong calls, CPT(x) the least share that recovers x of the gap. A router that
knows nothing has APGR 0.5 and CPT(x) = x.

Two ways to compute them. `measure` takes every cut point into account and averages over ties
(prompts with equal scores enter together; half of them means half of their gain). `measure_routellm`
does what the paper's code does (`routellm/evals`): eleven thresholds at the deciles of the scores,
the trapezoid between them, `numpy.interp` over a curve that may not be monotone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from novellus_lab.errors import InvalidRequestError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RouterMetrics:
    """APGR and CPT, as shares (0.5, not 50%)."""

    apgr: float
    cpt50: float
    cpt80: float


@dataclass(frozen=True, slots=True)
class ShareCurve:
    """Mean quality against the share of strong calls, from 0 to 1, one entry per distinct score.

    `thresholds[i]` is the score from which on prompts go to the strong model at `shares[i]`;
    the first is infinite: no call does. All arrays are of one length, in order of rising share.
    """

    shares: Floats
    qualities: Floats
    thresholds: Floats
    weak_quality: float
    strong_quality: float

    @property
    def gap_recovered(self) -> Floats:
        """PGR at each share; not a number where both models are equally good."""
        gap = self.strong_quality - self.weak_quality
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray((self.qualities - self.weak_quality) / gap)


def share_curve(
    scores: ArrayLike, weak: ArrayLike, strong: ArrayLike, weights: ArrayLike | None = None
) -> ShareCurve:
    """Return the curve of a router over prompts with known qualities of both models.

    Args:
        scores: one a prompt; the higher, the sooner it goes to the strong model.
        weak: quality of the weak model's answer to each prompt (1 right, 0 wrong, or between).
        strong: the same of the strong model.
        weights: how much each prompt counts; all alike by default.

    Raises:
        InvalidRequestError: nothing to measure, lengths that differ, or values that are no numbers.
    """
    score, low, high, weight = _checked(scores, weak, strong, weights)
    distinct, group = np.unique(-score, return_inverse=True)
    mass = np.bincount(group, weights=weight)
    gain = np.bincount(group, weights=weight * (high - low))
    total = float(weight.sum())
    weak_quality = float(np.dot(weight, low) / total)
    return ShareCurve(
        shares=np.concatenate([[0.0], np.cumsum(mass) / total]),
        qualities=weak_quality + np.concatenate([[0.0], np.cumsum(gain) / total]),
        thresholds=np.concatenate([[np.inf], -distinct]),
        weak_quality=weak_quality,
        strong_quality=float(np.dot(weight, high) / total),
    )


def measure(
    scores: ArrayLike, weak: ArrayLike, strong: ArrayLike, weights: ArrayLike | None = None
) -> RouterMetrics:
    """Return exact metrics over all cut points. Arguments and errors as `share_curve`.

    Not a number where the two models' mean qualities are equal: there is no gap to recover.
    """
    curve = share_curve(scores, weak, strong, weights)
    recovered = curve.gap_recovered
    return RouterMetrics(
        apgr=float(np.trapezoid(recovered, curve.shares)),
        cpt50=_first_share(curve.shares, recovered, 0.5),
        cpt80=_first_share(curve.shares, recovered, 0.8),
    )


def measure_routellm(
    scores: ArrayLike, weak: ArrayLike, strong: ArrayLike, bins: int = 10
) -> RouterMetrics:
    """Return the metrics as the paper's code computes them. Arguments and errors as `share_curve`.

    Scores with many ties can make neighbouring deciles equal; the paper's code refuses these, here
    they count once.
    """
    score, low, high, _ = _checked(scores, weak, strong, None)
    thresholds = np.unique(np.quantile(score, np.linspace(0, 1, bins + 1)))
    shares, qualities = [0.0], [float(low.mean())]
    for threshold in thresholds[-2::-1] if len(thresholds) > 1 else thresholds:
        chosen = score >= threshold
        shares.append(float(chosen.mean()))
        qualities.append(float(np.where(chosen, high, low).mean()))
    gap = float(high.mean() - low.mean())
    with np.errstate(divide="ignore", invalid="ignore"):
        recovered = (np.array(qualities) - low.mean()) / np.float64(gap)
    cpt50, cpt80 = (
        float(np.interp(low.mean() + part * gap, qualities, shares)) for part in (0.5, 0.8)
    )
    return RouterMetrics(float(np.trapezoid(recovered, shares)), cpt50, cpt80)


def _first_share(shares: Floats, recovered: Floats, part: float) -> float:
    """Return the least share at which the (piecewise linear) curve reaches `part`."""
    reached = np.flatnonzero(recovered >= part)
    if not len(reached):
        return float("nan")
    after = int(reached[0])
    before = after - 1  # the curve starts at 0, so there is one
    step = (part - recovered[before]) / (recovered[after] - recovered[before])
    return float(shares[before] + step * (shares[after] - shares[before]))


def _checked(
    scores: ArrayLike, weak: ArrayLike, strong: ArrayLike, weights: ArrayLike | None
) -> tuple[Floats, Floats, Floats, Floats]:
    score = np.asarray(scores, dtype=np.float64)
    arrays: dict[str, Any] = {
        "scores": score,
        "weak": np.asarray(weak, dtype=np.float64),
        "strong": np.asarray(strong, dtype=np.float64),
        "weights": np.ones(score.shape) if weights is None else np.asarray(weights, np.float64),
    }
    for name, values in arrays.items():
        if values.ndim != 1 or len(values) != len(score) or not len(values):
            raise InvalidRequestError(
                f"{name}: expected {len(score) or 'some'} numbers in one dimension, one a prompt, "
                f"got shape {values.shape}."
            )
        if not np.isfinite(values).all():
            where = int(np.flatnonzero(~np.isfinite(values))[0])
            raise InvalidRequestError(f"{name}[{where}] is {values[where]}: expected a number.")
    if (arrays["weights"] < 0).any() or arrays["weights"].sum() <= 0:
        raise InvalidRequestError("weights must not be negative, and not all zero.")
    return score, arrays["weak"], arrays["strong"], arrays["weights"]
