"""What a prompt looks like, in numbers: pure Python, some tens of microseconds.

None of them knows a benchmark. They say how long and how involved a text is, how much arithmetic,
code, negation and choice is in it, and how rare its words are; the training decides which matter.
"""

from __future__ import annotations

import math
import re
from typing import Final

VERSION: Final = 1
"""Goes up when any feature changes: a router trained on others must not be fed with these."""

_READ_CHARS = 8_000
"""Of a longer text the beginning and the end are read; its length counts as a whole."""

# Patterns of plain character ranges: several times as fast as Unicode's classes.
_WORD = re.compile(r"[a-zA-Z\u00c0-\u1fff\u3040-\uffef]+(?:['’][a-zA-Z]+)?")
_NUMBER = re.compile(r"[0-9][0-9.,:/]*")
_SENTENCE_END = re.compile(r"[.!?]+(?:\s|$)")
_OPTION = re.compile(r"^[ \t]*\(?([A-J])[.):][ \t]+(\S.*)$", re.MULTILINE)
_BARE_QUANTITY = re.compile(r"[\s$€£%+\-0-9.,/()^=*a-z]{1,16}")
_OPERATORS = "+*/^=<>×÷√∑∫±≤≥→∧∨¬≡"
_CODE = "{}[];`_"
_OF_THE_ABOVE = ("of the above", "of these", "a and b", "a, b and c")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NUMERAL = _words(
    "one two three four five six seven eight nine ten eleven twelve twenty hundred thousand dozen "
    "half third quarter twice double triple thrice first second"
)
_COMPARISON = _words(
    "more less fewer than as times twice half older younger longer shorter remaining rest left "
    "total each every per average percent ratio difference sum increase decrease higher lower"
)
_CONDITION = _words(
    "if when then after before while until unless because since suppose assuming given but however "
    "except would could"
)
_NEGATION = _words("not except never no false incorrect least cannot neither nor without")
_TIME = _words(
    "day days week weeks month months year years hour hours minute minutes old age today ago"
)
_THIRD_PERSON = _words("he she his her him they their them")
_FIRST_PERSON = _words("i you my your we our")
_FUNCTION = _words(
    "the a an of to in is are was were be been and or that this which it its for on with as by at "
    "from has have had not what who how when where why if then than but so do does did can will "
    "would he she his her they their there all each one more most some any no you i my your"
)
_QUESTION_WORDS = ("which", "what", "how", "why", "who", "following", "statement")
_TASK = _words(
    "write explain summarize summarise translate implement prove derive describe compare analyze "
    "analyse list design calculate compute find determine solve evaluate"
)

_KINDS = (
    _NUMERAL,
    _COMPARISON,
    _CONDITION,
    _NEGATION,
    _TIME,
    _THIRD_PERSON,
    _FIRST_PERSON,
    _TASK,
)
_KINDS_OF = {
    word: tuple(n for n, kind in enumerate(_KINDS) if word in kind)
    for word in frozenset().union(*_KINDS)
}
"""Which kinds a word counts for: one look-up a word instead of eight."""

FEATURES: Final = (
    "log_chars",
    "log_stem_chars",
    "log_words",
    "word_length",
    "log_numbers",
    "log_distinct_numbers",
    "numbers_per_word",
    "log_largest_number",
    "log_numerals",
    "log_fractions",
    "log_decimals",
    "log_percents",
    "log_money",
    "log_sentences",
    "log_words_per_sentence",
    "log_longest_sentence",
    "question_marks",
    "ends_with_question",
    "ends_with_colon",
    "has_blank",
    "log_comparisons",
    "log_conditions",
    "log_negations",
    "log_time_words",
    "log_third_person",
    "log_first_person",
    "log_tasks",
    "distinct_words",
    "log_distinct_words",
    "long_words",
    "function_words",
    "capitalised",
    "acronyms",
    "log_operators",
    "log_code",
    "log_lines",
    "log_commas",
    "log_parentheses",
    "log_quotes",
    *(f"asks_{word}" for word in _QUESTION_WORDS),
    "options",
    "log_option_chars",
    "log_option_spread",
    "log_option_max",
    "log_option_min",
    "options_numeric",
    "option_distinct_words",
    "options_in_stem",
    "options_in_stem_spread",
    "of_the_above",
    "numbered_statements",
)
"""Names of what `surface_features` returns, in order."""


def surface_features(text: str) -> list[float]:
    """Return the features of a prompt, in the order of `FEATURES`; all are finite.

    `log_` is log(1 + count). The stem is what stands before the options of a multiple choice
    question, else the whole text. Ratios are per word.
    """
    log = math.log1p
    chars = len(text)
    if chars > _READ_CHARS:
        text = f"{text[: _READ_CHARS // 2]}\n{text[-_READ_CHARS // 2 :]}"
    options = _options(text)
    stem = text[: options[0].start()] if options else text
    asked = stem.rstrip()
    cased = _WORD.findall(stem)
    words = [word.lower() for word in cased]
    kinds = [0] * len(_KINDS)
    for word in words:
        for kind in _KINDS_OF.get(word, ()):
            kinds[kind] += 1
    option_texts = [option[2] for option in options]
    lowered_options = "\n".join(option_texts).lower()
    option_words = lowered_options.split()
    stem_words = set(words)
    echoes = [_share_in(option.lower().split(), stem_words) for option in option_texts]
    every = words + option_words
    word_lengths = list(map(len, every))
    distinct = set(every)
    count, stem_count = max(len(every), 1), max(len(words), 1)
    numbers = [number.rstrip(".,:/") for number in _NUMBER.findall(stem)]
    sentences = max(1, len(_SENTENCE_END.findall(asked)))
    lengths = [len(option) for option in option_texts]
    mean_length = sum(lengths) / len(lengths) if lengths else 0.0
    spread = sum(abs(length - mean_length) for length in lengths) / max(len(lengths), 1)
    return [
        log(chars),
        log(len(stem)),
        log(len(every)),
        sum(word_lengths) / count,
        log(len(numbers)),
        log(len(set(numbers))),
        len(numbers) / stem_count,
        log(max(map(_value, numbers), default=0.0)),
        log(kinds[0]),
        log(len([number for number in numbers if "/" in number])),
        log(len([number for number in numbers if "." in number])),
        log(stem.count("%") + words.count("percent")),
        log(stem.count("$")),
        log(sentences),
        log(stem_count / sentences),
        log(max(map(len, _SENTENCE_END.split(asked)))),
        min(stem.count("?"), 5.0),
        float(asked.endswith("?")),
        float(asked.endswith(":")),
        float("__" in stem),
        *map(log, kinds[1:]),
        len(distinct) / count,
        log(len(distinct)),
        len([length for length in word_lengths if length >= 8]) / count,
        len([word for word in every if word in _FUNCTION]) / count,
        len([word for word in cased if word.istitle()]) / stem_count,
        len([word for word in cased if len(word) > 1 and word.isupper()]) / stem_count,
        log(sum(map(stem.count, _OPERATORS))),
        log(sum(map(text.count, _CODE))),
        log(stem.count("\n")),
        log(stem.count(",")),
        log(text.count("(")),
        log(stem.count('"') + stem.count("“")),
        *(float(word in distinct) for word in _QUESTION_WORDS),
        float(len(options)),
        log(mean_length),
        log(spread),
        log(max(lengths, default=0)),
        log(min(lengths, default=0)),
        sum(map(_is_quantity, option_texts)) / max(len(options), 1),
        len(set(option_words)) / max(len(option_words), 1),
        sum(echoes) / max(len(echoes), 1),
        max(echoes, default=0.0) - min(echoes, default=0.0),
        float(any(phrase in lowered_options for phrase in _OF_THE_ABOVE)),
        float("II" in cased or "statement 1" in stem.lower()),
    ]


def _options(text: str) -> list[re.Match[str]]:
    """Return the lines of a multiple choice question: two or more, lettered from A on."""
    found = list(_OPTION.finditer(text))
    while found and found[0][1] != "A":
        del found[0]
    return found if len(found) > 1 else []


def _share_in(words: list[str], known: set[str]) -> float:
    return len([word for word in words if word in known]) / max(len(words), 1)


def _is_quantity(option: str) -> bool:
    return any(map(str.isdigit, option)) and _BARE_QUANTITY.fullmatch(option.lower()) is not None


def _value(number: str) -> float:
    """Return a number's size: "1,200.50" is 1200.5, "3/4" is 3, "10:30" is 10."""
    if number.isdecimal():
        return float(number[:300])
    whole = re.split(r"[/:]", number, maxsplit=1)[0].replace(",", "")
    head, _, tail = whole.partition(".")
    # What has more than one point (a version, a date) counts by its beginning; 300 digits are many.
    return float(f"{head[:300]}.{tail.partition('.')[0][:20]}")
