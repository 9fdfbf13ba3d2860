"""What the score is computed from: a few numbers about a pair of questions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from novellus_lab.cache.semantic import lexicon

if TYPE_CHECKING:
    from novellus_lab.cache.semantic.alignment import Pair

CHEAP = ("static", "weakest", "same_kind", "same_words", "length", "words")
"""Names of the numbers that need no sentence encoder, in the order of `cheap_features`."""

ENCODED = ("encoder", "encoder_high")
"""Names of those that do, in the order of `encoded_features`."""

SIGNS: dict[str, int] = {
    "static": 1, "weakest": 1, "same_kind": 1, "same_words": 1, "length": 1, "words": 0,
    "encoder": 1, "encoder_high": 1,
}  # fmt: skip
"""Which way each may count: 1, up; -1, down; 0, either. The fit is held to it, so that no accident
of the data makes more agreement lower a score."""

ENOUGH_WORDS = 6
"""Content words from which a question is taken to say what it means: more are no more evidence."""


def cheap_features(pair: Pair, static: float) -> tuple[float, ...]:
    """Return the numbers named in `CHEAP`.

    Args:
        pair: the two questions.
        static: cosine of the two questions' static vectors.
    """
    a, b, aligned = pair.a, pair.b, pair.aligned
    longer = max(len(a.content), len(b.content))
    weakest = min(_weakest(a.content, aligned.best_a), _weakest(b.content, aligned.best_b))
    return (
        static,
        weakest,
        float(a.kind == b.kind and a.kind != ""),
        float(sorted(a.stems) == sorted(b.stems)),
        min(len(a.content), len(b.content)) / longer if longer else 1.0,
        math.log1p(min(longer, ENOUGH_WORDS)),
    )


def encoded_features(encoder: float) -> tuple[float, ...]:
    """Return the numbers named in `ENCODED`, of the cosine of the two questions' sentence vectors."""
    return (encoder, max(0.0, encoder - 0.9))


def _weakest(words: tuple[str, ...], best: tuple[float, ...]) -> float:
    """Return how well the word that is matched worst is matched; words of no weight don't count."""
    return min(
        (
            match
            for word, match in zip(words, best, strict=True)
            if match < 1 and word not in lexicon.WEAK_WORDS
        ),
        default=1.0,
    )
