"""Whether one answer serves two questions: a cascade from the cheap to the dear.

1. The same text, but for what never matters: a hit.
2. Guards: what may not differ and does is a veto.
3. Features: what words and static vectors settle alone is settled.
4. A sentence encoder decides the rest.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Literal, TypeAlias

from novellus_lab.cache.semantic.alignment import Pair, WordSimilarity
from novellus_lab.cache.semantic.guards import GUARDS
from novellus_lab.cache.semantic.pair_features import (
    CHEAP,
    ENCODED,
    cheap_features,
    encoded_features,
)
from novellus_lab.cache.semantic.reading import MAX_CHARACTERS, read
from novellus_lab.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Collection

    from novellus_lab.cache.semantic.alignment import Encoder

Path: TypeAlias = Literal["exact text", "features", "encoder"]


SAME_FORM = 0.999
"""Score of two questions that differ in their form alone ("What is …", "Tell me about …")."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an answer may be used again, and why."""

    accepted: bool
    score: float
    """From 0 to 1, monotone in the chance that both ask the same. Thresholds stand on it."""
    similarity: float
    """Cosine of the static vectors, by which the candidate was found. It decides nothing by itself."""
    path: Path
    """How far the cascade had to go."""
    reasons: tuple[str, ...]
    """Why, for a person: the guard that said no and what it saw, or what the score stands on."""


@dataclass(frozen=True, slots=True)
class Undecided:
    """A pair that words alone don't settle. Encode both `texts` and hand the vectors to `decide`."""

    texts: tuple[str, str]
    similarity: float
    cheap: tuple[float, ...]
    lost: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Logistic:
    """A logistic regression: weights of raw features, in the order of their names."""

    weights: tuple[float, ...]
    bias: float

    def __call__(self, features: tuple[float, ...]) -> float:
        z = self.bias
        for weight, value in zip(self.weights, features, strict=True):
            z += weight * value
        return 1.0 / (1.0 + math.exp(-z)) if z > -500 else 0.0


@dataclass(frozen=True, slots=True)
class Rule:
    """What was learned: two scores and where they decide. `benchmarks/semantic_pairs` makes it."""

    cheap: Logistic
    full: Logistic
    accept_above: float
    """Cheap score from which no encoder is asked: a hit."""
    reject_below: float
    """Cheap score below which none is asked: no hit."""
    threshold: float
    """Score from which a hit is served, as calibrated for `max_error_rate`."""
    max_error_rate: float
    confidence: float
    encoder: str
    """Name of the sentence encoder whose cosines the full score was fitted to."""

    @classmethod
    def from_json(cls, text: str) -> Rule:
        """Read what the fit wrote.

        Raises:
            ConfigurationError: it was made for other features than this version's.
        """
        raw = json.loads(text)
        names = {"cheap": list(CHEAP), "full": [*CHEAP, *ENCODED]}
        models = {}
        for name, expected in names.items():
            if list(raw[name]["weights"]) != expected:
                raise ConfigurationError(
                    f"the semantic cache's rule was fitted to {', '.join(raw[name]['weights'])}; this "
                    f"version measures {', '.join(expected)}: run python -m benchmarks.semantic_pairs --fit"
                )
            models[name] = Logistic(tuple(raw[name]["weights"].values()), raw[name]["bias"])
        return cls(
            cheap=models["cheap"],
            full=models["full"],
            accept_above=raw["accept_above"],
            reject_below=raw["reject_below"],
            threshold=raw["threshold"],
            max_error_rate=raw["max_error_rate"],
            confidence=raw["confidence"],
            encoder=raw["encoder"],
        )


@lru_cache(maxsize=1)
def shipped_rule() -> Rule:
    """The rule that comes with the package."""
    return Rule.from_json(files(__package__).joinpath("rule.json").read_text(encoding="utf-8"))


class Verifier:
    """Decides whether an earlier question's answer serves a new one. Thread-safe.

    Only the last user turns are compared: that all else is equal is the caller's to see to.

    Args:
        word_vectors: words to unit vectors, one row each (`StaticEmbedder.word_vectors`).
        threshold: least score of a hit; None: as shipped or calibrated.
        rule: what was learned; None: as shipped.
        without: names of guards to leave out, to see what each is worth.
    """

    def __init__(
        self,
        word_vectors: Encoder,
        *,
        threshold: float | None = None,
        rule: Rule | None = None,
        without: Collection[str] = (),
    ) -> None:
        self.rule = rule if rule is not None else shipped_rule()
        self.threshold = threshold if threshold is not None else self.rule.threshold
        self._words = WordSimilarity(word_vectors)
        self._guards = {name: guard for name, guard in GUARDS.items() if name not in without}

    def verify(
        self, question: str, candidate: str, similarity: float, encode: Encoder | None = None
    ) -> Verdict:
        """Decide in one go.

        Args:
            question: the new question.
            candidate: the question whose answer is at hand.
            similarity: cosine of their static vectors.
            encode: texts to unit vectors; None: what words alone don't settle is no hit.
        """
        first = self.compare(question, candidate, similarity)
        if isinstance(first, Verdict):
            return first
        if encode is None:
            return Verdict(
                accepted=False,
                score=min(self.rule.cheap(first.cheap), self.rule.accept_above),
                similarity=similarity,
                path="features",
                reasons=(
                    "words alone don't settle it, and there is no sentence encoder",
                    *first.lost,
                ),
            )
        vectors = encode(first.texts)
        return self.decide(first, float(vectors[0] @ vectors[1]))

    def compare(self, question: str, candidate: str, similarity: float) -> Verdict | Undecided:
        """Decide without an encoder, or say that one is needed. Takes no I/O and no model."""
        if not question.strip() or not candidate.strip():
            return self._no(similarity, "one has no text")
        if len(question) > MAX_CHARACTERS or len(candidate) > MAX_CHARACTERS:
            return self._long(question, candidate, similarity)
        a, b = read(question), read(candidate)
        if a.canonical == b.canonical and a.stems == b.stems and a.payload == b.payload:
            return Verdict(True, 1.0, similarity, "exact text", ("the same text",))
        pair = Pair(a, b, self._words)
        for name, guard in self._guards.items():
            objection = guard(pair)
            if objection is not None:
                return self._no(similarity, f"{name}: {objection}")
        if pair.same_form:
            return Verdict(
                accepted=self.threshold <= SAME_FORM,
                score=SAME_FORM,
                similarity=similarity,
                path="features",
                reasons=("the same question in another form",),
            )
        cheap = cheap_features(pair, similarity)
        score = self.rule.cheap(cheap)
        lost = _explain(pair)
        if score >= self.rule.accept_above:
            return Verdict(
                accepted=score >= self.threshold,
                score=score,
                similarity=similarity,
                path="features",
                reasons=("the same words ask the same",),
            )
        if score < self.rule.reject_below:
            return Verdict(False, score, similarity, "features", lost)
        return Undecided(texts=(question, candidate), similarity=similarity, cheap=cheap, lost=lost)

    def decide(self, undecided: Undecided, encoder_similarity: float) -> Verdict:
        """Decide a pair by the cosine of its two texts' sentence vectors."""
        score = self.rule.full(undecided.cheap + encoded_features(encoder_similarity))
        return Verdict(
            accepted=score >= self.threshold,
            score=score,
            similarity=undecided.similarity,
            path="encoder",
            reasons=(f"sentence similarity {encoder_similarity:.2f}", *undecided.lost),
        )

    def _long(self, question: str, candidate: str, similarity: float) -> Verdict:
        if question.strip() == candidate.strip():
            return Verdict(True, 1.0, similarity, "exact text", ("the same text",))
        return self._no(similarity, "long texts that differ")

    def _no(self, similarity: float, reason: str) -> Verdict:
        return Verdict(False, 0.0, similarity, "features", (reason,))


def _explain(pair: Pair) -> tuple[str, ...]:
    return tuple(
        "only one says " + ", ".join(words[:8]) for words in (pair.lost_a, pair.lost_b) if words
    )
