"""What a question consists of, as far as a comparison needs to know. No model, no vectors."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from novellus_lab.cache.semantic import lexicon
from novellus_lab.cache.semantic.question_kind import kind_of, mood_of

MAX_CHARACTERS = 8_000
"""Longer texts are compared as they are, letter by letter."""
LONG_WORDS = 60
"""A text of more words is no question any more: it carries a passage."""
PASSAGE_WORDS = 25
"""What stands behind a colon and is longer than this is a passage, whatever stands before it."""
_REMEMBERED = 4_096
_REMEMBERED_STEMS = 16_384

_QUOTES = str.maketrans({
    "’": "'", "‘": "'", "ʼ": "'", "“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "–": "-",
    "—": "-", "\u00a0": " ", "\u200b": None, "\ufeff": None,
})  # fmt: skip

_TOKEN = re.compile(
    r"""
    (?P<number>(?<![\w.])[vV]?[0-9](?:[0-9,]*[0-9])?(?:\.[0-9]+)*(?:(?:st|nd|rd|th)\b)?)
    |(?P<plain>[A-Za-z]+(?![^\s?,!;]))                        # most words, and the fastest
    |(?P<name>https?://\S+|[\w.+-]+@[\w-]+\.\w[\w.]*          # addresses
        |[A-Za-z]:\\\S+|(?:~|\.{1,2})?/[\w.-]+(?:/[\w.-]*)+   # paths
        |(?<![\w-])--?[A-Za-z][\w-]*                          # command line options
        |\w+(?:(?:\.|::|->|_|/)\w+)+(?:\(\))?|\w+\(\)          # identifiers
        |[A-Za-z][\w]*[+#]+(?!\w)|\.[A-Za-z]\w+               # C++, C#, .NET
        |[^\W\d_]+\d\w*)                                      # GPT4, H2O
    |(?P<word>[^\W\d_]+(?:'[^\W\d_]+)*)
    |(?P<sign>[-+*/^=<>≤≥≠×÷−√%&|~$€£¥₹°@\\]+)
    |(?P<stop>[.?!:;,\n(){}\[\]"]+)
    |(?P<other>\S)
    """,
    re.VERBOSE,
)
_CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)
_QUOTED = re.compile(r'"([^"\n]{1,200})"|(?<![\w])\'([^\'\n]{1,200}?)\'(?!\w)')
_CODE_SIGNS = re.compile(r"[{};=<>\[\]()]")
_FURTHER = re.compile(
    r"(?:\band|\balso|\?)\W+(?:and |also )?"
    r"(?:what|how|which|why|when|where|who|is|are|do|does|can|should)\b",
    re.IGNORECASE,
)
_BRINGS_ALONG = re.compile(
    r"\b(summar|translat|rewrit|rephras|paraphras|proofread|correct|fix|debug|review|refactor|explain|"
    r"classif|extract|analy[sz]|improv|edit|shorten|simplif|convert|format|describe|comment|document|"
    r"answer|read|identif|find|label|tag|complet|continu|evaluat|grade|check|this|these|following|"
    r"below|above|text|code|passage|article|paragraph|sentence|email|context|given)",
    re.IGNORECASE,
)
"""Before a colon: what stands behind it is brought along, not asked."""

_CONTRACTED = {
    "can't": "can not", "won't": "will not", "shan't": "shall not", "let's": "let us",
    "cannot": "can not", "i'm": "i am", "ain't": "is not", "gonna": "going to", "wanna": "want to",
    "dont": "do not", "doesnt": "does not", "cant": "can not", "isnt": "is not", "didnt": "did not",
    "wont": "will not", "whats": "what is", "hows": "how is", "im": "i am", "ive": "i have",
}  # fmt: skip
_ENDINGS = {"re": "are", "ve": "have", "ll": "will", "d": "would", "m": "am"}
_IS = frozenset(("what", "who", "how", "where", "when", "why", "that", "it", "there", "he", "she"))
_SPELLINGS = (
    ("isation", "ization"), ("ise", "ize"), ("ised", "ized"), ("ising", "izing"), ("our", "or"),
    ("ours", "ors"), ("tre", "ter"),
)  # fmt: skip
_ESSES = ("sses", "shes", "ches", "xes", "zes")
_NOT_PLURAL = ("ss", "us", "is")


@dataclass(frozen=True, slots=True)
class Reading:
    """One question, taken apart. Everything that may not differ has a field of its own."""

    text: str
    canonical: str
    """The text without differences that never matter: space, form of quotes, final punctuation."""
    words: tuple[str, ...]
    """All words in lower case, contractions written out."""
    content: tuple[str, ...]
    """Words that carry the topic, in order, in lower case."""
    stems: tuple[str, ...]
    """Their stems: equal for the forms of a word."""
    kind: str
    """Of question, or task: see `question_kind`."""
    mood: str
    """Of a yes-or-no question: whether it asks for what can, what must or what will be."""
    parts: int
    """How many questions it asks at once."""
    numbers: tuple[str, ...]
    """Sorted, with their units: "15 percent", "2nd"."""
    units: frozenset[str]
    """All units and currencies named, with a number or without."""
    times: frozenset[str]
    """Months, days of the week, today, tomorrow."""
    operators: frozenset[str]
    """Comparatives, quantifiers and directions."""
    signs: tuple[str, ...]
    """Arithmetic and other signs, emoji: in order."""
    negated: bool
    possessive: bool
    """Whether it has an owner: "France's capital"."""
    names: frozenset[str]
    """Stems of capitalised words, acronyms and identifiers."""
    literals: tuple[str, ...]
    """Quoted strings, code, addresses, identifiers, words in other scripts: exactly as written."""
    bindings: frozenset[tuple[str, str]]
    """(preposition, stem): what stands after from, to, into, than …"""
    payload: str
    """The passage that the text brings along ("Summarise this: …"); or empty."""
    english: bool
    long: bool


@lru_cache(maxsize=_REMEMBERED)
def read(text: str) -> Reading:
    """Take a question apart; of late ones the result is remembered."""
    plain = text
    if not text.isascii():
        plain = unicodedata.normalize("NFC", text.translate(_QUOTES))
    head, payload = _split_payload(plain)
    tokens = _Tokens(head)
    words = tokens.words
    kind = kind_of(words)
    content = _content(tokens, kind)
    return Reading(
        text=text,
        canonical=_canonical(plain),
        words=tuple(words),
        content=tuple(word for word, _ in content),
        stems=tuple(root for _, root in content),
        kind=kind,
        mood=mood_of(words) if kind == "yesno" else "",
        parts=len(_FURTHER.findall(head)) + 1,
        numbers=tuple(sorted(tokens.numbers)),
        units=frozenset(tokens.units),
        times=frozenset(tokens.times),
        operators=frozenset(tokens.operators),
        signs=tuple(tokens.signs),
        negated=tokens.negated,
        possessive=tokens.possessive,
        names=frozenset(tokens.names),
        literals=tuple(sorted(tokens.literals + _quoted(head))),
        bindings=frozenset(tokens.bindings),
        payload=payload,
        english=_is_english(plain, words),
        long=len(words) > LONG_WORDS,
    )


@lru_cache(maxsize=_REMEMBERED_STEMS)
def stem(word: str) -> str:
    """Return what the forms of a word share. Crude: it need not be a word."""
    word = lexicon.IRREGULAR.get(word, word)
    if len(word) < 4 or not word.isascii():
        return word
    for ending, instead in _SPELLINGS:
        if len(word) > len(ending) + 2 and word.endswith(ending):
            word = word[: -len(ending)] + instead
            break
    if word.endswith("ies") and len(word) > 4:
        word = word[:-3] + "y"
    elif word.endswith(_ESSES):
        word = word[:-2]
    elif word.endswith("s") and not word.endswith(_NOT_PLURAL):
        word = word[:-1]
    for ending in ("ing", "ed"):
        root = word[: -len(ending)]
        if word.endswith(ending) and len(root) > 2 and any(v in root for v in "aeiouy"):
            word = root[:-1] if root[-1] == root[-2] and root[-1] not in "lsz" else root
            break
    if word.endswith("ly") and len(word) > 5:
        word = word[:-2]
    if word.endswith("e") and len(word) > 3:
        word = word[:-1]
    if word.endswith("y") and len(word) > 3:
        word = word[:-1] + "i"
    return word


class _Tokens:
    """Collects what a text's tokens are, one after another."""

    def __init__(self, text: str) -> None:
        self.words: list[str] = []
        self.content: list[tuple[str, str]] = []
        self.numbers: list[str] = []
        self.units: set[str] = set()
        self.times: set[str] = set()
        self.operators: set[str] = set()
        self.signs: list[str] = []
        self.names: set[str] = set()
        self.literals: list[str] = []
        self.bindings: set[tuple[str, str]] = set()
        self.negated = False
        self.possessive = False
        self._text = text
        self._binder = ""  # the preposition that the next topic word stands after
        self._counted = ""  # a number that waits for its unit
        self._previous = ""
        self._fresh = True  # at the start of a sentence, where a capital means nothing
        tokens = list(_TOKEN.finditer(text))
        initials = [text[t.start()] for t in tokens if t.lastgroup in ("plain", "word")]
        capitals = sum(map(str.isupper, initials))
        self._shouted = text.isupper() and len(tokens) > 2
        self._title_case = capitals > 3 and len(initials) <= capitals * 1.5
        for place, token in enumerate(tokens):
            kind, raw = token.lastgroup, token.group()
            if kind in ("plain", "word"):
                at_end = place == 0 or place == len(tokens) - 1
                after = tokens[place + 1].group().lower() if place + 1 < len(tokens) else ""
                self._word(raw, after, at_end)
            elif kind == "stop":
                self._fresh = self._fresh or raw[-1] in '.?!:\n"' or "\n" in raw
            else:
                self._fresh = False
                if kind == "number":
                    self._number(raw)
                elif kind == "sign":
                    self._sign(raw, token.start(), token.end())
                elif kind == "name":
                    self._identifier(raw)
                elif raw.isalnum() or unicodedata.category(raw) in ("So", "Sm", "Sc"):
                    self.signs.append(raw)
                    self._counted = ""

    def _word(self, raw: str, after: str, at_end: bool) -> None:
        low = raw.lower()
        if raw in lexicon.ROMAN and not self._shouted:
            self._number(lexicon.ROMAN[raw])
            self._fresh = False
            return
        expanded = _expand(low)
        word = expanded[0]
        self.words.extend(expanded)
        self.possessive = self.possessive or low.endswith("s'") or (low == f"{word}'s")
        if (
            word in lexicon.NEGATIONS
            or "not" in expanded
            or (word.endswith("less") and len(word) > 6)
        ):
            self.negated = True
        acronym, is_name = self._naming(raw, low)
        self._fresh = False
        previous, self._previous = self._previous, word
        if self._counted and low in lexicon.UNITS:
            self._unit(lexicon.UNITS[low])
            return
        self._counted = ""
        if low in lexicon.UNIT_WORDS and not acronym:
            self.units.add(lexicon.UNIT_WORDS[low])
        number = lexicon.NUMBER_WORDS.get(word)
        per_second = word == "second" and previous in ("a", "per", "each", "every")
        if number is not None and not is_name and not per_second:
            self.numbers.append(number)
            self._counted = number
            self._binder = ""
            return
        if low in lexicon.TIME_WORDS or word in lexicon.TIME_WORDS:
            self.times.add(lexicon.TIME_WORDS.get(low) or lexicon.TIME_WORDS[word])
        elif low == "may" and is_name:
            self.times.add("may")
        if not raw.isascii():
            self.literals.append(raw)
        if word in lexicon.PRAISE and after in lexicon.FRAME_NOUNS:
            return
        operator = lexicon.OPERATOR_WORDS.get(word)
        if operator is not None:
            self.operators.add(operator)
        if word in lexicon.BINDERS and not is_name:
            if self._binder != "than":  # "than in tea" binds tea to than
                self._binder = word
        elif acronym or not (
            word in lexicon.FUNCTION_WORDS or (at_end and word in lexicon.GREETINGS)
        ):
            self._topic(word, stem(word), is_name)

    def _naming(self, raw: str, low: str) -> tuple[bool, bool]:
        """Return whether a word is an acronym, and whether it is a name of any form."""
        if raw == low or self._shouted or raw in ("I", "OK"):
            return False, False
        if raw.isupper():
            acronym = 1 < len(raw) < 6
            return acronym, acronym
        capital_inside = not raw[1:].islower()
        return False, capital_inside or not (self._fresh or self._title_case)

    def _topic(self, word: str, root: str, is_name: bool) -> None:
        self.content.append((word, root))
        if is_name:
            self.names.add(root)
        if self._binder:
            self.bindings.add((self._binder, root))
            self._binder = ""

    def _number(self, raw: str) -> None:
        value = raw.replace(",", "").lstrip("vV")
        self.numbers.append(value)
        self.words.append(value)
        self._counted = value
        self._previous = value
        self._binder = ""
        if self.signs and self.signs[-1] in lexicon.UNITS:  # $5
            self._unit(lexicon.UNITS[self.signs.pop()])

    def _unit(self, unit: str) -> None:
        self.numbers[-1] = f"{self._counted} {unit}"
        self.units.add(unit)
        self._counted = ""

    def _sign(self, raw: str, start: int, end: int) -> None:
        counted, unit = self._counted, lexicon.UNITS.get(raw)
        if unit is not None and counted:
            if raw == "°":  # "20 °C": the letter is to come
                return
            self._unit(unit)
            return
        hyphen = raw == "-" and (start == 0 or self._text[start - 1].isalpha())
        dash = raw == "-" and not counted and not self._text[end : end + 2].strip()[:1].isdigit()
        joins = raw in ("/", "&") and not counted
        if not (hyphen or dash or joins):
            self.signs.append(raw)
        self._counted = ""

    def _identifier(self, raw: str) -> None:
        self._counted = ""
        raw = raw.rstrip(".")
        low = raw.lower()
        self.words.append(low)
        if raw.count("/") == 1 and raw.replace("/", "").isalpha():  # and/or
            self.content.extend(
                (part, stem(part)) for part in low.split("/") if part not in lexicon.FUNCTION_WORDS
            )
            return
        self.literals.append(raw)
        self._topic(low, low, True)


def _content(tokens: _Tokens, kind: str) -> list[tuple[str, str]]:
    """Return topic words and stems without those that only name the kind of question."""
    content = tokens.content
    if kind == "define" and len(content) > 1:
        content = [
            (word, root)
            for i, (word, root) in enumerate(content)
            if not (i and word in lexicon.CLASS_NOUNS and content[i - 1][1] in tokens.names)
        ]
    elif kind == "howto":
        content = [pair for pair in content if pair[0] not in lexicon.FRAME_NOUNS] or content
    return content or [(w, stem(w)) for w in tokens.words if w in lexicon.CONTENT_IN_QUESTION]


def _expand(low: str) -> tuple[str, ...]:
    """Write out a contraction; of a possessive return the owner."""
    whole = _CONTRACTED.get(low)
    if whole is not None:
        return tuple(whole.split())
    if "'" not in low:
        return (low,)
    if low.endswith("n't"):
        return (low[:-3], "not")
    base, _, ending = low.partition("'")
    if ending == "s":
        return (base, "is") if base in _IS else (base,)
    if ending in _ENDINGS:
        return (base, _ENDINGS[ending])
    return (low.replace("'", ""),)


def _quoted(text: str) -> list[str]:
    found = [m.group().strip("`").strip() for m in _CODE.finditer(text)] if "`" in text else []
    if '"' in text or "'" in text:
        found.extend(
            " ".join((match.group(1) or match.group(2)).split()) for match in _QUOTED.finditer(text)
        )
    return found


def _split_payload(text: str) -> tuple[str, str]:
    """Split "Summarise this: …" into what is asked and what it is asked about."""
    text = text.strip()
    colon, newline = text.find(":"), text.find("\n")
    cut = newline
    if colon > 0 and (newline < 0 or colon < newline):
        after = text[colon + 1 :]
        rest = after.lstrip()
        is_mark = bool(rest) and not after[0].isalnum() and after[0] not in "/\\:"
        brought = (
            len(rest.split()) > PASSAGE_WORDS
            or "\n" in rest
            or (_BRINGS_ALONG.search(text[:colon]) is not None and not rest.endswith("?"))
        )
        if is_mark and brought:
            cut = colon
    if cut <= 0:
        return text, ""
    head, rest = text[:cut].strip(), text[cut + 1 :].strip()
    if "\n" in rest and len(head.split()) > PASSAGE_WORDS:
        body, _, last = rest.rpartition("\n")
        if len(last.split()) <= PASSAGE_WORDS:  # the passage first, then the question
            return last.strip(), f"{head}\n{body.rstrip()}"
    return head, rest


def _canonical(text: str) -> str:
    if "`" in text or "\n" in text or len(_CODE_SIGNS.findall(text)) > 3:
        return text.strip()  # code: space and case count
    folded = " ".join(text.split())
    bare = folded.rstrip("?. ")
    while bare.endswith("!") and bare[-2:-1].isalpha():  # not 5!
        bare = bare[:-1]
    return (bare or folded).casefold()


def _is_english(text: str, words: list[str]) -> bool:
    if not text.isascii():
        letters = [c for c in text if c.isalpha()]
        strange = sum(1 for c in letters if c > "\u024f")
        if strange * 4 > len(letters):
            return False
    foreign = english = 0
    for word in words:
        if word in lexicon.ENGLISH_WORDS:
            english += 1
        elif word in lexicon.FOREIGN_WORDS:
            foreign += 1
    return foreign == 0 or english > foreign * 2 or (foreign == 1 and english > 0)
