"""Which words of one question say what words of the other say."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

from novellus_lab.cache.semantic import lexicon

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from novellus_lab.cache.semantic.reading import Reading

    Encoder: TypeAlias = Callable[[Sequence[str]], NDArray[np.float32]]

COVERED = 0.5
"""Cosine of two words' static vectors from which one may stand for the other: "sofa" and "couch"
have 0.51, "France" and "Germany" 0.09, "increase" and "decrease" 0.08."""
_MAX_WORDS = 20_000
_MAX_PAIRS = 200_000


class WordSimilarity:
    """Cosine of two words' static vectors. Remembers words and pairs; thread-safe by the GIL's grace
    on single dictionary operations: at worst a pair is computed twice.

    Args:
        word_vectors: turns words into unit vectors, one row each.
    """

    def __init__(self, word_vectors: Encoder) -> None:
        self._word_vectors = word_vectors
        self._vectors: dict[str, NDArray[np.float32]] = {}
        self._pairs: dict[tuple[str, str], float] = {}

    def __call__(self, one: str, other: str) -> float:
        key = (one, other) if one < other else (other, one)
        known = self._pairs.get(key)
        if known is None:
            if len(self._pairs) >= _MAX_PAIRS:
                self._pairs.clear()
            known = self._pairs[key] = float(self._vector(one) @ self._vector(other))
        return known

    def _vector(self, word: str) -> NDArray[np.float32]:
        vector = self._vectors.get(word)
        if vector is None:
            if len(self._vectors) >= _MAX_WORDS:
                self._vectors.clear()
            vector = self._vectors[word] = self._word_vectors((word,))[0]
        return vector


@dataclass(frozen=True, slots=True)
class Alignment:
    """How the content words of two questions, a and b, match.

    Indices are positions in `Reading.content`.
    """

    same: tuple[tuple[int, int], ...]
    """Pairs that are forms of the same word, sorted by a."""
    left_a: tuple[int, ...]
    left_b: tuple[int, ...]
    """Words that have no such partner."""
    best_a: tuple[float, ...]
    best_b: tuple[float, ...]
    """For each word the cosine with its nearest word of the other question; 1 for a partner."""

    @property
    def inversions(self) -> int:
        """Pairs of matched words that stand in the other order."""
        return inversions([j for _, j in self.same])


def inversions(order: list[int]) -> int:
    """Return how many pairs of a list are not in ascending order."""
    return sum(1 for i, first in enumerate(order) for later in order[i + 1 :] if later < first)


@dataclass(frozen=True)
class Pair:
    """Two questions, and how their words match once somebody asks: many pairs need no vectors."""

    a: Reading
    b: Reading
    similarity: WordSimilarity

    @cached_property
    def aligned(self) -> Alignment:
        return align(self.a, self.b, self.similarity)

    @cached_property
    def lost_a(self) -> tuple[str, ...]:
        """Words of weight that nothing in the other question stands for."""
        return _lost(self.a, self.aligned.left_a, self.aligned.best_a)

    @cached_property
    def lost_b(self) -> tuple[str, ...]:
        return _lost(self.b, self.aligned.left_b, self.aligned.best_b)

    @cached_property
    def frame(self) -> float:
        """Share of words that both have, those lost left out: 1 where nothing else differs."""
        words_a = set(self.a.words).difference(self.lost_a)
        words_b = set(self.b.words).difference(self.lost_b)
        union = len(words_a | words_b)
        return len(words_a & words_b) / union if union else 1.0

    @property
    def same_form(self) -> bool:
        """Whether both are one question but for the form in which it is asked."""
        a, b = self.a, self.b
        if a.kind != b.kind or not a.kind or a.stems != b.stems:
            return False
        if not a.names and len(a.stems) < 2:
            return False
        changed = (set(a.words) ^ set(b.words)).difference(a.content, b.content)
        return changed <= _FORM


_FORM = lexicon.FORM_WORDS | lexicon.CLASS_NOUNS


def _lost(reading: Reading, left: tuple[int, ...], best: tuple[float, ...]) -> tuple[str, ...]:
    return tuple(
        reading.content[i]
        for i in left
        if best[i] < COVERED and reading.content[i] not in lexicon.WEAK_WORDS
    )


def align(a: Reading, b: Reading, similarity: WordSimilarity) -> Alignment:
    """Match the words of two questions: the same stem first, the rest by their vectors."""
    places: dict[str, list[int]] = {}
    for j, stem in enumerate(b.stems):
        places.setdefault(stem, []).append(j)
    same: list[tuple[int, int]] = []
    left_a: list[int] = []
    taken: set[int] = set()
    for i, stem in enumerate(a.stems):
        free = places.get(stem)
        if free:
            j = free.pop(0)
            same.append((i, j))
            taken.add(j)
        else:
            left_a.append(i)
    left_b = [j for j in range(len(b.stems)) if j not in taken]
    best_a = [1.0] * len(a.stems)
    best_b = [1.0] * len(b.stems)
    for i in left_a:
        best_a[i] = _best(a.content[i], b, similarity)
    for j in left_b:
        best_b[j] = _best(b.content[j], a, similarity)
    if left_a and left_b:
        _join_compounds(a, b, left_a, left_b, best_a, best_b)
    return Alignment(
        same=tuple(same),
        left_a=tuple(left_a),
        left_b=tuple(left_b),
        best_a=tuple(best_a),
        best_b=tuple(best_b),
    )


def opposites(one: str, other: str) -> bool:
    """Whether two words are a known pair of opposites, or made so by how they begin or end."""
    if frozenset((one, other)) in _OPPOSITE_STEMS:
        return True
    short, long = (one, other) if len(one) < len(other) else (other, one)
    if len(short) > 3 and long.endswith(short) and long[: -len(short)] in _PREFIXES:
        return True
    return _opposite_beginnings(one, other) or _opposite_beginnings(one[::-1], other[::-1])


def _opposite_beginnings(one: str, other: str) -> bool:
    """Whether both end alike, after over- and under-, upper- and lower-; or so in reverse."""
    for length in range(_shared_end(one, other), 2, -1):
        if frozenset((one[:-length], other[:-length])) in _BEGINNINGS:
            return True
    return False


def _shared_end(one: str, other: str) -> int:
    length = 0
    for x, y in zip(reversed(one), reversed(other), strict=False):
        if x != y:
            break
        length += 1
    return length


def _best(word: str, other: Reading, similarity: WordSimilarity) -> float:
    best = 0.0
    for candidate in other.content:
        cosine = similarity(word, candidate)
        if cosine > best:
            best = cosine
    return best


def _join_compounds(
    a: Reading,
    b: Reading,
    left_a: list[int],
    left_b: list[int],
    best_a: list[float],
    best_b: list[float],
) -> None:
    """Let "data set" match "dataset"."""
    for one, other, left_other, best_one, best_other in (
        (a, b, left_b, best_a, best_b),
        (b, a, left_a, best_b, best_a),
    ):
        whole = {other.content[j]: j for j in left_other}
        for i in range(len(one.content) - 1):
            j = whole.get(one.content[i] + one.content[i + 1])
            if j is not None:
                best_one[i] = best_one[i + 1] = best_other[j] = 1.0


def _stems(pair: frozenset[str]) -> frozenset[str]:
    from novellus_lab.cache.semantic.reading import stem

    return frozenset(stem(word) for word in pair)


_OPPOSITE_STEMS = frozenset(_stems(pair) for pair in lexicon.OPPOSITES)
_PREFIXES = frozenset(lexicon.NEGATIVE_PREFIXES)
_BEGINNINGS = lexicon.OPPOSITE_PREFIXES | {
    frozenset(beginning[::-1] for beginning in pair) for pair in lexicon.OPPOSITE_PREFIXES
}
