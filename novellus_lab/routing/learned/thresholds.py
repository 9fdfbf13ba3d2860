"""From out-of-fold scores to thresholds and the cost/quality curve, with bounds.

Everything here stands on predictions for prompts that the predicting model had not seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from novellus_lab.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

QualityOf = Literal["strong", "gap"]
_RESAMPLES = 500
_STEPS = 100


@dataclass(frozen=True, slots=True)
class Threshold:
    """From which win probability on a prompt goes to the strong model, and what that gives.

    Attributes:
        win_probability: the threshold; 0 sends everything to the strong model, 1 nothing.
        strong_share: expected share of calls to the strong model.
        strong_share_low, strong_share_high: its two-sided interval at `confidence`.
        quality: expected mean quality of the answers.
        quality_low: lower bound of it, one-sided at `confidence`.
        confidence: of the bounds.
    """

    win_probability: float
    strong_share: float
    strong_share_low: float
    strong_share_high: float
    quality: float
    quality_low: float
    confidence: float


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One share of strong calls. Quality with a two-sided interval; cost per call."""

    strong_share: float
    win_probability: float
    quality: float
    quality_low: float
    quality_high: float
    cost_usd: Decimal | None


@dataclass(frozen=True, slots=True)
class PredictedCurve:
    """What quality costs: points from no strong call to nothing but strong calls."""

    points: tuple[CurvePoint, ...]
    weak_quality: float
    strong_quality: float
    confidence: float


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """Out-of-fold win probabilities beside what both models' answers were worth, best first.

    Where only one model had answered, qualities are doubly robust estimates and may lie outside
    of 0 to 1; their means are unbiased.
    """

    scores: Floats
    weak: Floats
    strong: Floats
    weights: Floats
    groups: NDArray[np.intp]

    @classmethod
    def of(
        cls, scores: Floats, weak: Floats, strong: Floats, weights: Floats, groups: NDArray[np.intp]
    ) -> Evidence:
        order = np.argsort(-scores, kind="stable")
        codes = np.unique(groups[order], return_inverse=True)[1]
        return cls(scores[order], weak[order], strong[order], weights[order], codes)

    def to_dict(self) -> dict[str, Any]:
        return {
            "scores": self.scores.tolist(),
            "weak": np.round(self.weak, 6).tolist(),
            "strong": np.round(self.strong, 6).tolist(),
            "weights": np.round(self.weights, 6).tolist(),
            "groups": self.groups.tolist(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Evidence:
        return cls(
            scores=np.array(data["scores"], dtype=np.float64),
            weak=np.array(data["weak"], dtype=np.float64),
            strong=np.array(data["strong"], dtype=np.float64),
            weights=np.array(data["weights"], dtype=np.float64),
            groups=np.array(data["groups"], dtype=np.intp),
        )

    def cut(self, share: float) -> float:
        """Return the threshold that sends the best-scored `share` of calls to the strong model."""
        if share <= 0:
            return 1.0
        if share >= 1:
            return 0.0
        reached = np.cumsum(self.weights) / self.weights.sum()
        count = int(np.searchsorted(reached, share - 1e-9)) + 1
        if count >= len(self.scores):
            return 0.0
        return float((self.scores[count - 1] + self.scores[count]) / 2)


def for_share(evidence: Evidence, share: float, confidence: float) -> Threshold:
    """Return the threshold at which `share` of calls go to the strong model."""
    _check_part("strong_share", share)
    return described(evidence, evidence.cut(share), confidence)


def for_quality(evidence: Evidence, part: float, of: QualityOf, confidence: float) -> Threshold:
    """Return the threshold of fewest strong calls that surely keeps `part` of the quality.

    `of="strong"`: mean quality at least `part` of the strong model's. `of="gap"`: at least `part`
    of the way from the weak model's quality to the strong one's (PGR).

    Shares of strong calls are tried from all downwards in steps of a hundredth, each with a
    one-sided test at `confidence`, until the first one fails. In this fixed sequence the whole
    procedure errs no more often than one test does (Angelopoulos et al., "Learn then test", 2021).

    Raises:
        InvalidRequestError: not even the strong model alone can be shown to reach it.
    """
    _check_part("min_quality", part)
    _check_confidence(confidence)
    if of not in ("strong", "gap"):
        raise InvalidRequestError(f"of is {of!r}: expected 'strong' or 'gap'.")
    gain = evidence.strong - evidence.weak
    # Linear in the outcomes, so no ratio of two noisy means is needed: is its mean below zero?
    spare = evidence.weak - part * evidence.strong if of == "strong" else -part * gain
    kept: float | None = None
    for step in range(_STEPS, -1, -1):
        threshold = evidence.cut(step / _STEPS)
        margin = spare + np.where(evidence.scores >= threshold, gain, 0.0)
        if _lower_bound(margin, evidence, confidence) < -1e-12:
            break
        kept = threshold
    if kept is None:
        raise InvalidRequestError(
            f"the outcomes do not show at confidence {confidence:g} that even the strong model "
            f"alone keeps {part:.0%} of the {'gap' if of == 'gap' else 'quality'}: more outcomes, "
            "less confidence, or a lower min_quality."
        )
    return described(evidence, kept, confidence)


def described(evidence: Evidence, threshold: float, confidence: float) -> Threshold:
    """Say what a threshold gives."""
    _check_confidence(confidence)
    chosen = evidence.scores >= threshold
    share = _mean(chosen.astype(np.float64), evidence)
    half = _error(chosen.astype(np.float64), evidence) * _t((1 + confidence) / 2, evidence)
    quality = np.where(chosen, evidence.strong, evidence.weak)
    return Threshold(
        win_probability=threshold,
        strong_share=share,
        strong_share_low=max(0.0, share - half),
        strong_share_high=min(1.0, share + half),
        quality=_mean(quality, evidence),
        quality_low=_lower_bound(quality, evidence, confidence),
        confidence=confidence,
    )


def resampled_curves(evidence: Evidence, shares: Floats, seed: int) -> Floats:
    """Return mean quality less that of the weak model, shape (resamples, 2 + shares).

    The first two columns are the weak model's quality and the gap. Groups are drawn with
    replacement, so that what belongs together stays together.
    """
    random = np.random.default_rng(seed)
    gain = evidence.strong - evidence.weak
    count = int(evidence.groups.max()) + 1
    rows = np.empty((_RESAMPLES, 2 + len(shares)))
    for row in rows:
        drawn = np.bincount(random.integers(count, size=count), minlength=count)
        weights = evidence.weights * drawn[evidence.groups]
        total = weights.sum()
        reached = np.concatenate([[0.0], np.cumsum(weights) / total])
        gained = np.concatenate([[0.0], np.cumsum(weights * gain) / total])
        row[0] = weights @ evidence.weak / total
        row[1] = gained[-1]
        row[2:] = np.interp(shares, reached, gained)
    return rows


def predicted_curve(
    evidence: Evidence,
    costs_usd: tuple[Decimal, Decimal] | None,
    points: int,
    confidence: float,
    seed: int = 0,
) -> PredictedCurve:
    """Return the curve at `points` equally spaced shares; bootstrap percentile intervals."""
    if points < 2:
        raise InvalidRequestError(f"points is {points}: a curve has at least 2.")
    _check_confidence(confidence)
    shares = np.linspace(0, 1, points)
    resampled = resampled_curves(evidence, shares, seed)
    qualities = resampled[:, :1] + resampled[:, 2:]
    low, high = np.quantile(qualities, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    made = []
    for number, share in enumerate(shares.tolist()):
        at = described(evidence, evidence.cut(share), confidence)
        cost = None
        if costs_usd is not None:
            weak, strong = costs_usd
            part = Decimal(number) / (points - 1)
            cost = weak + part * (strong - weak)
        made.append(
            CurvePoint(
                share, at.win_probability, at.quality, float(low[number]), float(high[number]), cost
            )
        )
    return PredictedCurve(tuple(made), made[0].quality, made[-1].quality, confidence)


def _check_part(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise InvalidRequestError(f"{name} is {value}: expected a share from 0 to 1.")


def _check_confidence(confidence: float) -> None:
    if not 0.5 <= confidence < 1:
        raise InvalidRequestError(f"confidence is {confidence}: expected at least 0.5, below 1.")


def _mean(values: Floats, evidence: Evidence) -> float:
    return float(np.average(values, weights=evidence.weights))


def _error(values: Floats, evidence: Evidence) -> float:
    """Return the standard error of the mean, robust to dependence inside groups."""
    residuals = evidence.weights * (values - _mean(values, evidence))
    sums = np.bincount(evidence.groups, weights=residuals)
    count = len(sums)
    return float(np.sqrt((sums**2).sum() * count / (count - 1)) / evidence.weights.sum())


def _lower_bound(values: Floats, evidence: Evidence, confidence: float) -> float:
    return _mean(values, evidence) - _t(confidence, evidence) * _error(values, evidence)


def _t(probability: float, evidence: Evidence) -> float:
    """Return Student's quantile, groups less one degrees of freedom (Cornish-Fisher expansion)."""
    z = NormalDist().inv_cdf(probability)
    freedom = int(evidence.groups.max())
    return float(
        z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    )
