"""A trained router: plain numbers, that say of a prompt how much it needs the strong model."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Literal, overload

import numpy as np

from novellus_lab.errors import ConfigurationError, InvalidRequestError
from novellus_lab.routing.learned.encoder import Encoder
from novellus_lab.routing.learned.heads import head_from_dict
from novellus_lab.routing.learned.metrics import RouterMetrics
from novellus_lab.routing.learned.thresholds import (
    Evidence,
    PredictedCurve,
    QualityOf,
    Threshold,
    described,
    for_quality,
    for_share,
    predicted_curve,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from decimal import Decimal

    from numpy.typing import ArrayLike, NDArray

    from novellus_lab.routing.learned.encoder import Embedder
    from novellus_lab.routing.learned.heads import Head

    Floats = NDArray[np.float64]

_FORMAT = "novellus-router/1"


@dataclass(frozen=True, slots=True)
class Calibration:
    """From a head's gain (strong less weak quality) to what outcomes bore out; both rising.

    Win probability: sigmoid(win_intercept + win_slope * gain). Expected gain: a straight line.
    """

    win_intercept: float
    win_slope: float
    gain_intercept: float
    gain_slope: float

    def win_probability(self, gain: Floats) -> Floats:
        return np.asarray(1 / (1 + np.exp(-(self.win_intercept + self.win_slope * gain))))

    def expected_gain(self, gain: Floats) -> Floats:
        return np.asarray(self.gain_intercept + self.gain_slope * gain)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A learner that stood for choice: its APGR out of fold."""

    name: str
    apgr: float


@dataclass(frozen=True, slots=True)
class TrainingSummary:
    """What a router was trained on and how good it is, all measured out of fold.

    Attributes:
        outcomes, paired: rows in all, and those with both models' qualities.
        learner: the one that was chosen; "+" names the embedder, if it uses one.
        metrics: of the whole procedure, choice of the learner included (nested cross-validation).
        apgr_low, apgr_high: 95% bootstrap interval.
        length_apgr: what prompt length alone reaches on the same rows.
        informative: whether the interval lies above 0.5, a coin's APGR. Else don't route by it.
        grouped: whether groups were kept together, so that it holds for unseen ones.
    """

    weak_model: str
    strong_model: str
    outcomes: int
    paired: int
    weak_quality: float
    strong_quality: float
    learner: str
    candidates: tuple[Candidate, ...]
    metrics: RouterMetrics
    apgr_low: float
    apgr_high: float
    length_apgr: float
    folds: int
    grouped: bool
    data_sha256: str
    trained_at: str

    @property
    def informative(self) -> bool:
        return self.apgr_low > 0.5

    def __str__(self) -> str:
        verdict = "" if self.informative else "  NOT better than chance: don't route by it.\n"
        return (
            f"Router {self.weak_model} (weak) / {self.strong_model} (strong), by {self.learner}\n"
            f"  {self.outcomes} outcomes, {self.paired} of them paired; mean quality "
            f"{self.weak_quality:.3f} weak, {self.strong_quality:.3f} strong\n"
            f"  APGR {self.metrics.apgr:.3f} [{self.apgr_low:.3f}, {self.apgr_high:.3f}] "
            f"(prompt length alone {self.length_apgr:.3f}, a coin 0.500), "
            f"CPT(50%) {self.metrics.cpt50:.1%}, CPT(80%) {self.metrics.cpt80:.1%}\n{verdict}"
            f"  {self.folds} folds{' by group' if self.grouped else ''}, out of fold, nested; "
            f"data {self.data_sha256[:12]}, trained {self.trained_at}"
        )


@dataclass(frozen=True, slots=True, eq=False)
class TrainedRouter:
    """Decides between a weak and a strong model. Made by `train`, kept as JSON; thread-safe.

    `embedder` is no part of the JSON. It is needed for predictions only if `summary.learner` names
    one, and must then be the one of that name.
    """

    encoder: Encoder
    head: Head
    calibration: Calibration
    evidence: Evidence
    summary: TrainingSummary
    embedder: Embedder | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        wanted = self.embedder_name
        if wanted and self.embedder is not None and self.embedder.name != wanted:
            raise ConfigurationError(
                f"this router was trained with the embedder {wanted!r}, not "
                f"{self.embedder.name!r}: give that one, or train anew."
            )

    @property
    def embedder_name(self) -> str | None:
        """Name of the embedder whose vectors the router reads; None if it reads none."""
        return None if self.encoder.projection is None else self.encoder.projection.embedder

    def win_probability(self, prompt: str, *, vector: ArrayLike | None = None) -> float:
        """Return the probability that the strong model answers better than the weak one.

        Args:
            prompt: what is asked.
            vector: the prompt's embedding, where it is known already.

        Raises:
            ConfigurationError: the router reads an embedding, and has neither vector nor embedder.
        """
        return float(self.calibration.win_probability(self._gain(prompt, vector)))

    def expected_gain(self, prompt: str, *, vector: ArrayLike | None = None) -> float:
        """Return how much better (in quality, 0 to 1) the strong model's answer is expected to be.

        Rises and falls with `win_probability`. Compare it with the extra cost of this very request,
        where that is known: worth it if `gain * value_usd > extra_cost_usd`. Raises as
        `win_probability`.
        """
        return float(self.calibration.expected_gain(self._gain(prompt, vector)))

    def win_probabilities(self, prompts: Sequence[str]) -> list[float]:
        """Return `win_probability` of each prompt."""
        return [self.win_probability(prompt) for prompt in prompts]

    def choose(
        self, prompt: str, threshold: Threshold | float, *, vector: ArrayLike | None = None
    ) -> Literal["strong", "weak"]:
        """Return which model shall answer: the strong one from `threshold` on."""
        least = threshold.win_probability if isinstance(threshold, Threshold) else threshold
        return "strong" if self.win_probability(prompt, vector=vector) >= least else "weak"

    @overload
    def threshold_for(self, *, strong_share: float, confidence: float = ...) -> Threshold: ...
    @overload
    def threshold_for(
        self, *, min_quality: float, of: QualityOf = ..., confidence: float = ...
    ) -> Threshold: ...
    @overload
    def threshold_for(
        self, *, value_usd: Decimal, extra_cost_usd: Decimal, confidence: float = ...
    ) -> Threshold: ...

    def threshold_for(
        self,
        *,
        strong_share: float | None = None,
        min_quality: float | None = None,
        of: QualityOf = "strong",
        value_usd: Decimal | None = None,
        extra_cost_usd: Decimal | None = None,
        confidence: float = 0.9,
    ) -> Threshold:
        """Return the threshold that fulfils one wish, and what it gives, from out-of-fold scores.

        Args:
            strong_share: this share of calls shall go to the strong model.
            min_quality: fewest strong calls that keep, at `confidence`, this share of the strong
                model's mean quality (`of="strong"`), or recover this share of the gap between the
                models (`of="gap"`, PGR).
            value_usd: what one unit of quality is worth (an answer right instead of wrong), with
            extra_cost_usd: how much more a call to the strong model costs. A prompt goes there
                if its expected gain is worth more.
            confidence: of the bounds.

        Raises:
            InvalidRequestError: not exactly one wish, a value out of range, or more quality than
                the outcomes can promise.
        """
        value = None
        if value_usd is not None and extra_cost_usd is not None:
            value = (value_usd, extra_cost_usd)
        wishes = [wish is not None for wish in (strong_share, min_quality, value)]
        if sum(wishes) != 1 or (value_usd is None) != (extra_cost_usd is None):
            raise InvalidRequestError(
                "ask for one of strong_share=, min_quality= (of='strong' or 'gap'), or value_usd= "
                "together with extra_cost_usd=."
            )
        if strong_share is not None:
            return for_share(self.evidence, strong_share, confidence)
        if value is not None:
            return described(self.evidence, self._break_even(*value), confidence)
        return for_quality(self.evidence, min_quality or 0.0, of, confidence)

    def curve(
        self,
        *,
        weak_cost_usd: Decimal | None = None,
        strong_cost_usd: Decimal | None = None,
        points: int = 21,
        confidence: float = 0.95,
    ) -> PredictedCurve:
        """Return what quality is to be expected at which share of strong calls, and at what cost.

        Costs are means per call of each model; what a prompt's own length adds is not in them.

        Raises:
            InvalidRequestError: one cost without the other, or fewer than two points.
        """
        if (weak_cost_usd is None) != (strong_cost_usd is None):
            raise InvalidRequestError("give both weak_cost_usd and strong_cost_usd, or neither.")
        costs = None
        if weak_cost_usd is not None and strong_cost_usd is not None:
            costs = (weak_cost_usd, strong_cost_usd)
        return predicted_curve(self.evidence, costs, points, confidence)

    def with_embedder(self, embedder: Embedder | None) -> TrainedRouter:
        """Return the same router, reading vectors from `embedder`."""
        return replace(self, embedder=embedder)

    def to_json(self) -> str:
        """Return everything but the embedder, as JSON. No prompt is in it."""
        summary = asdict(self.summary)
        return json.dumps(
            {
                "format": _FORMAT,
                "summary": summary,
                "encoder": self.encoder.to_dict(),
                "head": self.head.to_dict(),
                "calibration": asdict(self.calibration),
                "evidence": self.evidence.to_dict(),
            },
            allow_nan=False,
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: str | bytes, embedder: Embedder | None = None) -> TrainedRouter:
        """Read what `to_json` wrote.

        Raises:
            ConfigurationError: it is no router, one of another version, or of another embedder.
        """
        try:
            data = json.loads(text)
            if data.get("format") != _FORMAT:
                raise ConfigurationError(
                    f"expected a router of format {_FORMAT!r}, got {data.get('format')!r}."
                )
            summary = dict(data["summary"])
            summary["metrics"] = RouterMetrics(**summary["metrics"])
            summary["candidates"] = tuple(Candidate(**c) for c in summary["candidates"])
            return cls(
                Encoder.from_dict(data["encoder"]),
                head_from_dict(data["head"]),
                Calibration(**data["calibration"]),
                Evidence.from_dict(data["evidence"]),
                TrainingSummary(**summary),
                embedder,
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigurationError(
                f"this is no router that to_json wrote: {type(error).__name__}: {error}"
            ) from error

    def _break_even(self, value_usd: Decimal, extra_cost_usd: Decimal) -> float:
        """Return the win probability at which the expected gain is worth the extra cost."""
        if value_usd <= 0 or extra_cost_usd < 0:
            raise InvalidRequestError(
                f"value_usd is {value_usd}, extra_cost_usd {extra_cost_usd}: "
                "expected more than 0, and at least 0."
            )
        least = float(extra_cost_usd / value_usd)
        gain = (least - self.calibration.gain_intercept) / self.calibration.gain_slope
        return float(self.calibration.win_probability(np.array(gain)))

    def _gain(self, prompt: str, vector: ArrayLike | None) -> Floats:
        encoded = self.encoder.encode_prompt(prompt, self._vector(prompt, vector))
        quality = self.head.predict(encoded)[0]
        return np.asarray(quality[1] - quality[0])

    def _vector(self, prompt: str, given: ArrayLike | None) -> NDArray[np.float32] | None:
        projection = self.encoder.projection
        if projection is None:
            return None
        if given is not None:
            vector = np.asarray(given, dtype=np.float32)
        elif self.embedder is not None:
            vector = self.embedder.embed([prompt])[0]
        else:
            raise ConfigurationError(
                f"this router reads vectors of the embedder {projection.embedder!r}: give it to "
                "from_json or with_embedder, or the prompt's vector with the prompt."
            )
        if vector.shape != projection.mean.shape:
            raise ConfigurationError(
                f"this router reads vectors of {len(projection.mean)} numbers, made by "
                f"{projection.embedder!r}; got shape {vector.shape}."
            )
        return vector
