"""What the score is computed from: a few numbers about a pair of questions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from novellus_lab.cache.semantic import lexicon

if TYPE_CHECKING:
    from novellus_lab.cache.semantic.alignment import Pair

CHEAP = (
    "static",
    "cover_low",
    "weakest",
    "lost_both",
    "lost_in_frame",
    "inversions",
    "same_kind",
    "same_words",
    "length",
    "words",
)
"""Names of the numbers that need no sentence encoder, in the order of `cheap_features`."""

ENCODED = ("encoder", "encoder_high")
"""Names of those that do, in the order of `encoded_features`."""

SIGNS: dict[str, int] = {
    "static": 1, "cover_low": 1, "weakest": 1, "lost_both": -1, "lost_in_frame": -1,
    "inversions": -1, "same_kind": 1, "same_words": 1, "length": 1, "words": 0,
    "encoder": 1, "encoder_high": 1,
}  # fmt: skip
"""Which way each may count: 1, up; -1, down; 0, either. The fit is held to it, so that no accident
of the data makes more agreement lower a score."""

ENOUGH_WORDS = 6
"""Content words from which a question is taken to say what it means: more are no more evidence."""

_WEAK_WEIGHT = 0.25


def cheap_features(pair: Pair, static: float) -> tuple[float, ...]:
    """Return the numbers named in `CHEAP`.

    Args:
        pair: from `pair_up`.
        static: cosine of the two questions' static vectors.
    """
    a, b, aligned = pair.a, pair.b, pair.aligned
    cover_a, weakest_a = _cover(a.content, aligned.best_a)
    cover_b, weakest_b = _cover(b.content, aligned.best_b)
    matched = len(aligned.same)
    inversions = aligned.inversions / (matched * (matched - 1) / 2) if matched > 1 else 0.0
    fewer, more = sorted((len(pair.lost_a), len(pair.lost_b)))
    longer = max(len(a.content), len(b.content))
    return (
        static,
        min(cover_a, cover_b),
        min(weakest_a, weakest_b),
        math.log1p(fewer),
        math.log1p(more) * pair.frame,
        inversions,
        float(a.kind == b.kind and a.kind != ""),
        float(sorted(a.stems) == sorted(b.stems)),
        min(len(a.content), len(b.content)) / longer if longer else 1.0,
        math.log1p(min(longer, ENOUGH_WORDS)),
    )


def encoded_features(encoder: float) -> tuple[float, ...]:
    """Return the numbers named in `ENCODED`, of the cosine of the two questions' sentence vectors."""
    return (encoder, max(0.0, encoder - 0.9))


def _cover(words: tuple[str, ...], best: tuple[float, ...]) -> tuple[float, float]:
    """Return the mean and the least match of a question's words."""
    total = weight = 0.0
    weakest = 1.0
    for word, match in zip(words, best, strict=True):
        if word in lexicon.WEAK_WORDS:
            share = _WEAK_WEIGHT
        else:
            share = 1.0
            if match < weakest:
                weakest = match
        total += share * match
        weight += share
    return (total / weight if weight else 1.0), weakest
