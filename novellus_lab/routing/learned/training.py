"""Training: choose a learner by cross-validation, measure the whole procedure, fit on everything.

Nested: what is reported of a router (metrics, thresholds, curve) comes from prompts that neither
the fit nor the choice of the learner had seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from novellus_lab.errors import InvalidRequestError
from novellus_lab.routing.learned import fitting
from novellus_lab.routing.learned.encoder import Encoder
from novellus_lab.routing.learned.features import surface_features
from novellus_lab.routing.learned.heads import BlendHead
from novellus_lab.routing.learned.metrics import measure, share_curve
from novellus_lab.routing.learned.outcomes import MIN_OUTCOMES, outcome_arrays
from novellus_lab.routing.learned.router import (
    Calibration,
    Candidate,
    TrainedRouter,
    TrainingSummary,
)
from novellus_lab.routing.learned.thresholds import Evidence, resampled_curves

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from novellus_lab.routing.learned.encoder import Embedder
    from novellus_lab.routing.learned.heads import Head
    from novellus_lab.routing.learned.outcomes import Outcome, OutcomeArrays

    Matrix = NDArray[np.float64]
    Rows = NDArray[np.intp]

INNER_FOLDS = 3
_LEAST_SLOPE = 1e-3
"""A router that learned nothing, or the wrong way round, still has rising maps; its summary says
that it is no better than chance."""


@dataclass(frozen=True, slots=True, eq=False)
class _Learned:
    encoder: Encoder
    head: Head


@dataclass(frozen=True, slots=True, eq=False)
class _Data:
    """All rows with what the encoders read."""

    rows: OutcomeArrays
    surface: Matrix
    vectors: NDArray[np.float32] | None
    embedder: str | None
    seed: int

    @property
    def qualities(self) -> Matrix:
        return np.stack([self.rows.weak, self.rows.strong], axis=1)


def train(
    outcomes: Iterable[Outcome | Mapping[str, Any]],
    *,
    embedder: Embedder | None = None,
    weak_model: str = "weak",
    strong_model: str = "strong",
    folds: int = 5,
    seed: int = 0,
) -> TrainedRouter:
    """Learn from outcomes for which prompts the strong model is worth its price.

    Two learners stand for choice, and the mean of both: ridge logistic regressions, and extremely
    randomised trees. Each predicts both models' qualities from surface features of the prompt; with
    an `embedder`, also from these and the main components of the prompt's embedding. The one that
    makes most quality over all shares of strong calls is taken. Some 15 s for 1,300 outcomes.

    Args:
        outcomes: rows of one pair of models; see `Outcome`. Rows with the quality of one answer
            (thumbs) are welcome; to measure by them their propensity is needed.
        embedder: makes vectors of prompts; the router will ask for it (its name is kept).
        weak_model, strong_model: their ids, for the record.
        folds: of the outer cross-validation; groups are never split.
        seed: of folds and trees; the same data and seed give the same router.

    Raises:
        InvalidRequestError: outcomes that nothing can be learned or measured from; see the message.
        MissingDependencyError: scikit-learn is not installed.
    """
    rows = outcome_arrays(outcomes)
    if folds < 2:
        raise InvalidRequestError(f"folds is {folds}: at least 2 are needed.")
    measurable = int(rows.measurable.sum())
    if measurable < MIN_OUTCOMES:
        raise InvalidRequestError(
            f"only {measurable} outcomes can be measured by: give at least {MIN_OUTCOMES} with both "
            "qualities, or with one and the propensity with which that model was chosen."
        )
    if int(rows.groups.max()) < INNER_FOLDS:
        raise InvalidRequestError(
            f"{int(rows.groups.max()) + 1} groups can't be split into training and testing: "
            f"at least {INNER_FOLDS + 1} are needed, or none at all."
        )
    data = _Data(
        rows,
        np.array([surface_features(prompt) for prompt in rows.prompts]),
        None if embedder is None else np.asarray(embedder.embed(list(rows.prompts)), np.float32),
        None if embedder is None else embedder.name,
        seed,
    )
    everything = np.arange(len(rows))
    qualities = np.empty((len(rows), 2))
    predicted = np.empty((len(rows), 2))
    by_candidate: dict[str, Matrix] = {}
    parts = _folds(rows.groups, folds, np.random.default_rng(seed))
    for tested in parts:
        fitted_on = np.setdiff1d(everything, tested)
        choice = _chosen(data, *_out_of_fold(data, fitted_on))
        candidates = _fit_candidates(data, fitted_on, fitting.TREES)
        for name, learned in candidates.items():
            guess = _predict(data, learned, tested)
            by_candidate.setdefault(name, np.empty((len(rows), 2)))[tested] = guess
            if name == choice:
                predicted[tested] = guess
        qualities[tested] = _estimated(data, tested, by_candidate["linear"][tested])
    choice = _chosen(data, everything, by_candidate, qualities)
    learned = _fit_candidates(data, everything, fitting.TREES)[choice]
    gains = predicted[:, 1] - predicted[:, 0]
    calibration = _calibrated(rows, gains, predicted, qualities)
    seen = rows.measurable
    evidence = Evidence.of(
        calibration.win_probability(gains)[seen],
        qualities[seen, 0],
        qualities[seen, 1],
        rows.weights[seen],
        rows.groups[seen],
    )
    low, high = _apgr_interval(evidence, seed)
    return TrainedRouter(
        learned.encoder,
        learned.head,
        calibration,
        evidence,
        TrainingSummary(
            weak_model=weak_model,
            strong_model=strong_model,
            outcomes=len(rows),
            paired=int(rows.paired.sum()),
            weak_quality=float(np.average(evidence.weak, weights=evidence.weights)),
            strong_quality=float(np.average(evidence.strong, weights=evidence.weights)),
            learner=choice,
            candidates=tuple(
                Candidate(name, _apgr(rows, guess[:, 1] - guess[:, 0], qualities))
                for name, guess in by_candidate.items()
            ),
            metrics=measure(evidence.scores, evidence.weak, evidence.strong, evidence.weights),
            apgr_low=low,
            apgr_high=high,
            length_apgr=_apgr(rows, np.array([float(len(p)) for p in rows.prompts]), qualities),
            folds=len(parts),
            grouped=rows.grouped,
            data_sha256=rows.sha256,
            trained_at=datetime.now(UTC).isoformat(timespec="seconds"),
        ),
        embedder,
    )


def _folds(groups: Rows, folds: int, random: np.random.Generator) -> list[Rows]:
    """Deal groups out to folds of about equal size, none of them empty."""
    sizes = np.bincount(groups)
    order = random.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    filled = np.zeros(min(folds, len(sizes)))
    fold_of = np.empty(len(sizes), dtype=np.intp)
    for group in order:
        fold_of[group] = filled.argmin()
        filled[fold_of[group]] += sizes[group]
    return [np.flatnonzero(fold_of[groups] == fold) for fold in range(len(filled))]


def _out_of_fold(data: _Data, rows: Rows) -> tuple[Rows, dict[str, Matrix], Matrix]:
    """Return rows, each candidate's predictions for them out of fold, and estimated qualities."""
    predictions: dict[str, Matrix] = {}
    qualities = np.empty((len(rows), 2))
    groups = np.unique(data.rows.groups[rows], return_inverse=True)[1]
    for part in _folds(groups, INNER_FOLDS, np.random.default_rng(data.seed)):
        fitted_on = np.delete(rows, part)
        for name, learned in _fit_candidates(data, fitted_on, fitting.TREES_TO_CHOOSE).items():
            guess = _predict(data, learned, rows[part])
            predictions.setdefault(name, np.empty((len(rows), 2)))[part] = guess
        qualities[part] = _estimated(data, rows[part], predictions["linear"][part])
    return rows, predictions, qualities


def _chosen(data: _Data, rows: Rows, predictions: Mapping[str, Matrix], qualities: Matrix) -> str:
    """Return the candidate with most quality, as the mean over all shares of strong calls."""
    seen = data.rows.measurable[rows]
    made = {}
    for name, predicted in predictions.items():
        curve = share_curve(
            (predicted[:, 1] - predicted[:, 0])[seen],
            qualities[seen, 0],
            qualities[seen, 1],
            data.rows.weights[rows][seen],
        )
        made[name] = float(np.trapezoid(curve.qualities, curve.shares))
    return max(made, key=made.__getitem__)


def _estimated(data: _Data, rows: Rows, model: Matrix) -> Matrix:
    """Return both qualities of rows; a missing one doubly robust, from `model` and propensity.

    Robins, Rotnitzky & Zhao 1994: the model's guess, plus the surprise over it where an answer was
    seen, in inverse proportion to how probable it was to see it.
    """
    known = data.qualities[rows]
    chances = data.rows.propensities[rows, None]
    surprise = np.where(np.isnan(known) | np.isnan(chances), 0, (known - model) / chances)
    return np.where(data.rows.paired[rows, None], known, model + surprise)


def _fit_candidates(data: _Data, rows: Rows, trees: int) -> dict[str, _Learned]:
    candidates: dict[str, _Learned] = {}
    weights = data.rows.weights[rows]
    qualities = data.qualities[rows]
    for embedder in (None,) if data.embedder is None else (None, data.embedder):
        vectors = None if embedder is None or data.vectors is None else data.vectors[rows]
        encoder = Encoder.fit(data.surface[rows], vectors, embedder, weights)
        encoded = encoder.encode(data.surface[rows], vectors)
        linear = fitting.fit_linear(encoded, qualities, weights)
        forest = fitting.fit_forest(encoded, qualities, weights, data.seed, trees)
        suffix = "" if embedder is None else f"+{embedder}"
        candidates[f"linear{suffix}"] = _Learned(encoder, linear)
        candidates[f"forest{suffix}"] = _Learned(encoder, forest)
        candidates[f"blend{suffix}"] = _Learned(encoder, BlendHead((linear, forest)))
    return candidates


def _predict(data: _Data, learned: _Learned, rows: Rows) -> Matrix:
    vectors = None if data.vectors is None else data.vectors[rows]
    return learned.head.predict(learned.encoder.encode(data.surface[rows], vectors))


def _calibrated(
    rows: OutcomeArrays, gains: Matrix, predicted: Matrix, qualities: Matrix
) -> Calibration:
    """Fit both maps from out-of-fold gains to outcomes (Platt 1999, and least squares)."""
    # Who would have won where one answer is missing? As if both were right independently.
    likely = np.clip(predicted[:, 1], 0, 1) * (1 - np.clip(predicted[:, 0], 0, 1))
    won = np.where(rows.paired, rows.strong > rows.weak, likely)
    spread = float(np.sqrt(np.average((gains - gains.mean()) ** 2, weights=rows.weights))) or 1.0
    intercept, slope = fitting.logistic(gains[:, None] / spread, won, rows.weights, 1.0)
    slope = max(float(slope) / spread, _LEAST_SLOPE)
    seen = rows.measurable
    weights, known = rows.weights[seen], gains[seen]
    real = (qualities[:, 1] - qualities[:, 0])[seen]
    middle, mean = np.average(known, weights=weights), np.average(real, weights=weights)
    variance = np.average((known - middle) ** 2, weights=weights)
    covariance = np.average((known - middle) * (real - mean), weights=weights)
    rise = max(float(covariance / variance) if variance > 0 else 0.0, _LEAST_SLOPE)
    return Calibration(float(intercept), slope, float(mean - rise * middle), rise)


def _apgr(rows: OutcomeArrays, scores: Matrix, qualities: Matrix) -> float:
    seen = rows.measurable
    return measure(scores[seen], qualities[seen, 0], qualities[seen, 1], rows.weights[seen]).apgr


def _apgr_interval(evidence: Evidence, seed: int) -> tuple[float, float]:
    """Return a 95% bootstrap interval of APGR; groups are drawn, not rows."""
    shares = np.linspace(0, 1, 101)
    resampled = resampled_curves(evidence, shares, seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        apgr = np.trapezoid(resampled[:, 2:], shares, axis=1) / resampled[:, 1]
    low, high = np.nanquantile(apgr, [0.025, 0.975])
    return float(low), float(high)
