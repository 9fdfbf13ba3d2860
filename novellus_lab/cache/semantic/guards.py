"""Vetoes: what may not differ between two questions that get one answer.

Each guard looks at one thing and knows nothing of the others. `docs/semantic_cache.md` shows what
each one is worth: precision and recall with it taken away.
"""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING

from novellus_lab.cache.semantic import lexicon
from novellus_lab.cache.semantic.alignment import inversions, opposites
from novellus_lab.cache.semantic.question_kind import HARD_KINDS, NEAR_KINDS, TASKS
from novellus_lab.cache.semantic.reading import stem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from novellus_lab.cache.semantic.alignment import Pair
    from novellus_lab.cache.semantic.reading import Reading


UNRELATED = 0.35
"""Cosine of two words' static vectors below which one is no way of saying the other."""
SHORT = 6
"""Content words of a short question."""
SAME_FRAME = 0.6
SAME_LONG_FRAME = 0.85
"""Share of equal words, those that changed left out, from which two sentences count as the same."""


SAME_NAME = 0.45
"""Cosine from which a name and an adjective that begin alike are one: France, French."""


def differ_in_language(pair: Pair) -> str | None:
    """Words and vectors are English: of other languages only the same text is trusted."""
    a, b = pair.a, pair.b
    if a.english and b.english:
        return None
    return "not in English, where only the same text is a hit"


def differ_in_passage(pair: Pair) -> str | None:
    """Two passages are the same, to the letter, or the answer is another."""
    a, b = pair.a, pair.b
    if a.payload != b.payload:
        return "the passages differ" if a.payload and b.payload else "one brings a passage along"
    if (a.long or b.long) and a.stems != b.stems:
        return "long texts that differ"
    return None


def differ_in_numbers(pair: Pair) -> str | None:
    """Numbers, amounts, versions, ordinals; with their units."""
    a, b = pair.a, pair.b
    if a.numbers == b.numbers:
        return None
    return f"numbers differ: {_listed(a.numbers)} / {_listed(b.numbers)}"


def differ_in_units(pair: Pair) -> str | None:
    """Miles are not kilometres. A unit on one side only ("how many minutes") is no conflict."""
    a, b = pair.a, pair.b
    only_a, only_b = a.units - b.units, b.units - a.units
    if only_a and only_b:
        return f"units differ: {_listed(sorted(only_a))} / {_listed(sorted(only_b))}"
    return None


def differ_in_times(pair: Pair) -> str | None:
    """Months, days of the week, today and tomorrow."""
    a, b = pair.a, pair.b
    if a.times == b.times:
        return None
    return f"times differ: {_listed(sorted(a.times))} / {_listed(sorted(b.times))}"


def differ_in_negation(pair: Pair) -> str | None:
    """One says not, never, without; the other doesn't."""
    a, b = pair.a, pair.b
    return "only one is negated" if a.negated != b.negated else None


def differ_in_literals(pair: Pair) -> str | None:
    """Quoted strings, code, identifiers and addresses of one are in the other, as written."""
    a, b = pair.a, pair.b
    if a.literals == b.literals:
        return None
    for one, other in ((a, b), (b, a)):
        for literal in one.literals:
            if literal in other.literals:
                continue
            anywhere = len(literal) > 3 and literal.casefold() in other.text.casefold()
            if not anywhere and not (len(literal) > 1 and _holds_phrase(other, literal)):
                return f"only one has {literal[:60]!r}"
    return None


def differ_in_signs(pair: Pair) -> str | None:
    """Plus is not minus; one emoji is not another."""
    a, b = pair.a, pair.b
    if a.signs == b.signs:
        return None
    return f"signs differ: {_listed(a.signs)} / {_listed(b.signs)}"


def differ_in_kind(pair: Pair) -> str | None:
    """Why is not how; a summary is no translation."""
    a, b = pair.a, pair.b
    if a.parts != b.parts:
        return f"one asks {a.parts}, the other {b.parts} things at once"
    if a.mood != b.mood and a.mood and b.mood:
        return f"one asks what {a.mood} be, the other what {b.mood} be"
    if a.kind == b.kind:
        return None
    if not a.kind or not b.kind:
        return "one asks whether, the other doesn't" if "yesno" in (a.kind, b.kind) else None
    both = frozenset((a.kind, b.kind))
    if both <= HARD_KINDS and both not in NEAR_KINDS:
        return f"one asks {a.kind}, the other {b.kind}"
    if both <= TASKS:
        return f"one asks to {a.kind}, the other to {b.kind}"
    for one, other in ((a, b), (b, a)):
        kind, against = one.kind, other.kind
        if kind in _SHARP_KINDS | _MAKING and (against in TASKS or against == "define"):
            return f"one asks {kind}, the other {against}"
        if kind == "why" and against in ("what", "which", "how"):
            return f"one asks why, the other {against}"
        if (
            kind in _MEASURES
            and against in ("what", "which", "define", "list")
            and lexicon.MEASURE_NOUNS.isdisjoint(other.content)
            and not lexicon.WEAK_WORDS.issuperset(other.content)
        ):
            return f"one asks {kind}, the other for no measure"
    return None


_MAKING = TASKS - {"calculate", "list", "translate", "suggest", "compare"}
_MEASURES = frozenset(("howmany", "howmuch", "howlong", "howoften", "howfar", "howold", "degree"))
_SHARP_KINDS = frozenset(("why", "when", "where", "howto", "howlong", "howoften", "yesno"))


def differ_in_operators(pair: Pair) -> str | None:
    """More and less, before and after, all and some, first and last."""
    a, b = pair.a, pair.b
    only_a, only_b = a.operators - b.operators, b.operators - a.operators
    if not only_a and not only_b:
        return None
    strong = lexicon.STRONG_OPERATORS
    if (
        {"maximum", "most"} & only_a | {"maximum", "most"} & only_b
        and _superlative(a)
        and _superlative(b)
    ):
        return None  # the largest is the maximum
    if only_a & strong or only_b & strong:
        return f"only one says {_listed(sorted((only_a | only_b) & strong))}"
    for group in lexicon.OPERATOR_GROUPS:
        if only_a & group and only_b & group:
            return f"{_listed(sorted(only_a & group))} / {_listed(sorted(only_b & group))}"
    return None


def _surfaces(reading: Reading, root: str) -> set[str]:
    return {w for w, r in zip(reading.content, reading.stems, strict=True) if r == root}


def _superlative(reading: Reading) -> bool:
    return bool(reading.operators & {"maximum", "most"}) or any(
        len(word) > 5 and word.endswith("est") for word in reading.content
    )


def differ_in_names(pair: Pair) -> str | None:
    """Each name of one is in the other, in whatever form: France, French; USA, United States."""
    a, b = pair.a, pair.b
    for one, other in ((a, b), (b, a)):
        for name in one.names:
            if name in other.stems:
                if name in other.names and not _surfaces(one, name) & _surfaces(other, name):
                    return f"only one names {_listed(sorted(_surfaces(one, name)))!r}"
                continue
            if name in other.words and name not in lexicon.FUNCTION_WORDS:  # IT is not it
                continue
            if _alias(name, other):
                continue
            word = one.content[one.stems.index(name)] if name in one.stems else name
            if any(
                _forms_of_a_name(word, w) and pair.similarity(word, w) >= SAME_NAME
                for w in other.content
            ):
                continue
            return f"only one names {word!r}"
    return None


def differ_by_opposites(pair: Pair) -> str | None:
    """Enable and disable: of two words without a partner, one is the other's opposite."""
    a, b = pair.a, pair.b
    for i in pair.aligned.left_a:
        for j in pair.aligned.left_b:
            if opposites(a.stems[i], b.stems[j]) or opposites(a.content[i], b.content[j]):
                return f"{a.content[i]!r} is the opposite of {b.content[j]!r}"
    only_a, only_b = set(a.words).difference(b.words), set(b.words).difference(a.words)
    for one in only_a:
        for other in only_b:
            if frozenset((one, other)) in lexicon.OPPOSITES:
                return f"{one!r} is the opposite of {other!r}"
    turned_a, turned_b = _turned(a), _turned(b)
    if turned_a and turned_b and turned_a != turned_b:
        return f"{_listed(sorted(turned_a))} / {_listed(sorted(turned_b))}"
    return None


def _turned(reading: Reading) -> frozenset[str]:
    """Return which way something is switched: "turn dark mode off" as "disable dark mode"."""
    found = set()
    words = reading.words
    for i, word in enumerate(words):
        if word in lexicon.TURNING:
            found.update([w for w in words[i + 1 : i + 5] if w in ("on", "off", "in", "out")][:1])
        elif word in lexicon.TURNED:
            found.add(lexicon.TURNED[word])
        elif word in ("speed", "slow") and words[i + 1 : i + 2] in (("up",), ("down",)):
            found.add("faster" if word == "speed" else "slower")
    return frozenset(found)


def differ_in_person(pair: Pair) -> str | None:
    """My name is not your name; who follows me is not whom I follow."""
    whose_a = {lexicon.PERSONS[w] for w in pair.a.words if w in lexicon.PERSONS}
    whose_b = {lexicon.PERSONS[w] for w in pair.b.words if w in lexicon.PERSONS}
    if whose_a and whose_b and not whose_a & whose_b:
        return f"{_listed(sorted(whose_a))} / {_listed(sorted(whose_b))}"
    if ("whose" in pair.a.words) != ("whose" in pair.b.words):
        return "only one asks whose"
    if _done_to_me(pair.a) != _done_to_me(pair.b):
        return "only one is of what is done to me"
    return None


def _done_to_me(reading: Reading) -> bool:
    """Whether "me" is an object, not the one who is told, shown or given something."""
    return any(
        word in ("me", "us") and before not in lexicon.TELLING
        for before, word in itertools.pairwise(reading.words)
    )


def differ_in_tense(pair: Pair) -> str | None:
    """When it was done is not when it should be; what was is not what is."""
    leading_a, leading_b = pair.a.words[:2], pair.b.words[:2]
    for one, other in ((leading_a, leading_b), (leading_b, leading_a)):
        if (
            pair.a.kind == pair.b.kind
            and not lexicon.PAST.isdisjoint(one)
            and not lexicon.PRESENT.isdisjoint(other)
        ):
            return "one asks what was, the other what is"
    for one, other in ((pair.a.words, pair.b.words), (pair.b.words, pair.a.words)):
        if (
            not lexicon.PAST.isdisjoint(one)
            and not lexicon.AHEAD.isdisjoint(other)
            and lexicon.AHEAD.isdisjoint(one)
            and lexicon.PAST.isdisjoint(other)
        ):
            return "one asks what was, the other what will or should be"
    return None


def differ_in_roles(pair: Pair) -> str | None:
    """From London to Paris is not from Paris to London; a dog bites a man, a man bites a dog."""
    a, b = pair.a, pair.b
    if a.bindings != b.bindings:
        bound_a, bound_b = _by_word(a), _by_word(b)
        for word, prepositions in bound_a.items():
            others = bound_b.get(word)
            if others and not (prepositions & others) and _opposed(prepositions, others):
                return f"{_listed(sorted(prepositions))} {word} / {_listed(sorted(others))} {word}"
        for preposition in _ORDERED:
            of_a = {w for p, w in a.bindings if p == preposition}
            of_b = {w for p, w in b.bindings if p == preposition}
            if (
                len(of_a) == len(of_b) == 1
                and of_a != of_b
                and of_a <= set(b.stems)
                and of_b <= set(a.stems)
            ):
                return f"{preposition} {_listed(of_a)} / {preposition} {_listed(of_b)}"
    if sorted(a.stems) == sorted(b.stems):
        less_a, less_b = set(a.words).difference(b.words), set(b.words).difference(a.words)
        parts_a, parts_b = less_a & lexicon.PARTS_PLAYED, less_b & lexicon.PARTS_PLAYED
        turning = (less_a | less_b) & lexicon.TURNING_ROUND
        if (parts_a and parts_b) or (turning and not _particles(a) and not _particles(b)):
            return f"{_listed(sorted(parts_a))} / {_listed(sorted(parts_b))}"
    particles_b = _particles(b)
    for verb, particles in _particles(a).items():
        against = particles_b.get(verb, particles)
        if not particles & against:
            return f"{verb} {_listed(sorted(particles))} / {verb} {_listed(sorted(against))}"
    if _passive(a, b) != _passive(b, a) and not pair.aligned.inversions:
        return "one does it, the other has it done to it"
    swapped = _swapped(a, b)
    if swapped is None and pair.aligned.inversions and not _order_explained(pair):
        return "the same words in another order"
    return swapped


def _passive(reading: Reading, other: Reading) -> bool:
    """Whether a verb that both have is passive in this one, and says by whom."""
    match = _BY_AGENT.search(" ".join(reading.words))
    return match is not None and stem(match[1]) in other.stems


_BY_AGENT = re.compile(
    r"\b(?:is|are|was|were|be|been|being|get|gets|got|getting)(?: \w+)? (\w+) by\b"
)
_COPULA = frozenset(("is", "are", "was", "were", "be", "been", "being"))


def _order_explained(pair: Pair) -> bool:
    """Whether grammar may have moved the words: "Python list" and "list in Python"."""
    a, b = pair.a, pair.b
    order = [j for i, j in pair.aligned.same if not _moves_freely(a.content[i])]
    words_a, words_b = set(a.words), set(b.words)
    return bool(
        not inversions(order)
        or (words_a & words_b & _SYMMETRIC and not (words_a | words_b) & _ASYMMETRIC)
        or (words_a ^ words_b) & _MOVING  # a compound, a genitive, a passive, "it is"
        or a.possessive != b.possessive
        or len(words_a & _COPULA) != len(words_b & _COPULA)
        or ("," in a.text) != ("," in b.text)  # two clauses
        or (a.kind == b.kind == "yesno" and a.words[0] != b.words[0])
        or not a.kind
        or not b.kind  # key words, in any order
    )


def _moves_freely(word: str) -> bool:
    return word.endswith(("est", "ly")) or word in lexicon.WEAK_WORDS


_MOVING = lexicon.BINDERS | {"it", "as"}


_PHRASAL = frozenset(stem(verb) for verb in lexicon.PHRASAL)


def _particles(reading: Reading) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for word, after in itertools.pairwise(reading.words):
        if after in lexicon.PARTICLES and stem(word) in _PHRASAL:
            found.setdefault(stem(word), set()).add(after)
    return found


def _swapped(a: Reading, b: Reading) -> str | None:
    """Two words that changed places, while all between and around them stayed."""
    if len(a.stems) != len(b.stems) or a.stems == b.stems or sorted(a.stems) != sorted(b.stems):
        return None
    moved = [i for i, (x, y) in enumerate(zip(a.stems, b.stems, strict=True)) if x != y]
    first, last = moved[0], moved[-1]
    words_a, words_b = _plain(a), _plain(b)
    if sorted(words_a) != sorted(words_b):
        return None
    joint = set(
        words_a[words_a.index(a.stems[first]) + 1 : words_a.index(a.stems[last])]
        if a.stems[first] in words_a and a.stems[last] in words_a
        else words_a
    )
    if joint & _SYMMETRIC and not joint & _ASYMMETRIC:
        return None
    return f"{a.content[first]!r} and {a.content[last]!r} changed places"


_SYMMETRIC = frozenset(("and", "or", "vs", "versus"))
_ASYMMETRIC = frozenset(("than", "to", "from", "into", "before", "after"))
_ORDERED = ("than", "before", "after", "over", "from", "to", "into")
_OPPOSED = frozenset(
    frozenset(pair.split())
    for pair in [
        "from to",
        "from into",
        "before after",
        "with without",
        "over under",
        "above below",
        "until since",
        "on off",
    ]
)


def differ_by_substitution(pair: Pair) -> str | None:
    """The same sentence with another word in it asks something else: what changed is the question.

    Who paraphrases a long text changes words here and there; there one changed word is suspect.
    """
    a, b, aligned = pair.a, pair.b, pair.aligned
    foreign_a = [a.content[i] for i in aligned.left_a if aligned.best_a[i] < UNRELATED]
    foreign_b = [b.content[j] for j in aligned.left_b if aligned.best_b[j] < UNRELATED]
    changed = set(a.words) ^ set(b.words)
    if changed <= lexicon.PLAIN_VERBS:  # where all else is the same, a plain verb is the question
        foreign_a += sorted(changed.intersection(a.words))
        foreign_b += sorted(changed.intersection(b.words))
        if foreign_a and foreign_b:
            return f"{_listed(foreign_a)} / {_listed(foreign_b)} in the same sentence"
    if not foreign_a or not foreign_b or pair.frame < SAME_FRAME:
        return None
    if max(len(a.content), len(b.content)) > SHORT and (
        len(pair.lost_a) > 1 or len(pair.lost_b) > 1 or pair.frame < SAME_LONG_FRAME
    ):
        return None
    return f"{_listed(foreign_a)} / {_listed(foreign_b)} in the same sentence"


def differ_by_addition(pair: Pair) -> str | None:
    """The same sentence with something added is a narrower question, or two."""
    if bool(pair.lost_a) == bool(pair.lost_b) or pair.frame < SAME_LONG_FRAME:
        return None
    return f"only one says {_listed(pair.lost_a or pair.lost_b)}, in the same sentence"


GUARDS: dict[str, Callable[[Pair], str | None]] = {
    "language": differ_in_language,
    "passage": differ_in_passage,
    "numbers": differ_in_numbers,
    "units": differ_in_units,
    "times": differ_in_times,
    "negation": differ_in_negation,
    "literals": differ_in_literals,
    "signs": differ_in_signs,
    "kind": differ_in_kind,
    "operators": differ_in_operators,
    "names": differ_in_names,
    "opposites": differ_by_opposites,
    "person": differ_in_person,
    "tense": differ_in_tense,
    "roles": differ_in_roles,
    "substitution": differ_by_substitution,
    "addition": differ_by_addition,
}
"""By name, in the order in which they are asked."""


def _opposed(one: frozenset[str], other: frozenset[str]) -> bool:
    return any(frozenset((p, q)) in _OPPOSED for p in one for q in other)


def _by_word(reading: Reading) -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for preposition, word in reading.bindings:
        found.setdefault(word, set()).add(preposition)
    return {word: frozenset(prepositions) for word, prepositions in found.items()}


def _plain(reading: Reading) -> list[str]:
    return [stem(word) for word in reading.words]


def _alias(name: str, other: Reading) -> bool:
    text = " ".join(other.words)
    for names in lexicon.ALIASES:
        if name in names and any(f" {alias} " in f" {text} " for alias in names):
            return True
    if 2 <= len(name) <= 5 and name.isalpha():
        initials = "".join(word[0] for word in other.content)
        if name in initials:
            return True
    return any(
        name in alias.split() and (names & set(other.words))
        for names in lexicon.ALIASES
        for alias in names
        if " " in alias
    )


def _holds_phrase(reading: Reading, phrase: str) -> bool:
    return f" {phrase.casefold()} " in f" {' '.join(reading.words)} "


def _listed(items: Iterable[str]) -> str:
    return ", ".join(items) or "none"


def _forms_of_a_name(one: str, other: str) -> bool:
    """Whether one of two words may be the adjective of the other: not Niger, Nigeria."""
    return one[:2] == other[:2] and one.endswith(_ADJECTIVES) != other.endswith(_ADJECTIVES)


_ADJECTIVES = ("an", "ish", "ese", "ch", "eek", "s", "ic")
