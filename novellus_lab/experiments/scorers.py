"""How good an answer is: from 0 to 1, or None where nobody can say."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from novellus_lab.errors import InvalidRequestError, did_you_mean
from novellus_lab.experiments.numbers import as_number, last_number

if TYPE_CHECKING:
    from novellus_lab.experiments.workload import Item
    from novellus_lab.types import Completion

    Embed = Callable[[list[str]], Awaitable[list[list[float]]]]

_MARKUP = re.compile(r"^[\s`*_\"'#]+|[\s`*_\"'.!]+$")


@dataclass(frozen=True, slots=True)
class Score:
    """What a scorer made of one answer."""

    value: float | None
    """0 (worst) to 1 (best); None: it can't be said, and `reason` tells why."""
    reason: str | None = None
    cost_usd: Decimal | None = Decimal(0)
    """What scoring itself cost, where a model was asked; None: unknown."""


class Scorer(Protocol):
    """Scores one answer; `name` says who did."""

    @property
    def name(self) -> str: ...

    async def score(self, item: Item, answer: Completion) -> Score: ...


@dataclass(frozen=True, slots=True)
class Exact:
    """The answer is what was expected: spaces, letter case and Markdown around it aside."""

    name: str = "exact"

    async def score(self, item: Item, answer: Completion) -> Score:
        if item.expected is None:
            return _NOTHING_EXPECTED
        return Score(float(_plain(answer.content) == _plain(str(item.expected))))


@dataclass(frozen=True, slots=True)
class Contains:
    """What was expected stands somewhere in the answer, whatever its letter case."""

    name: str = "contains"

    async def score(self, item: Item, answer: Completion) -> Score:
        if item.expected is None:
            return _NOTHING_EXPECTED
        return Score(float(_plain(str(item.expected)) in _plain(answer.content)))


@dataclass(frozen=True, slots=True)
class Numeric:
    """The number that the answer comes to is the one that was expected: $1,200.00 is 1200.

    It is the one after `####` or in `\\boxed{}`, else the last one. `tolerance` is relative.
    """

    tolerance: float = 0.0
    name: str = "numeric"

    async def score(self, item: Item, answer: Completion) -> Score:
        found = last_number(answer.content)
        expected = as_number(item.expected)
        if expected is not None:
            if found is None:
                return Score(0.0, "no number in the answer")
            allowed = abs(expected) * Decimal(str(self.tolerance))
            return Score(float(abs(found - expected) <= allowed), f"{found} for {expected}")
        if item.expected is not None:
            raise InvalidRequestError(
                f"item {item.id!r} expects {item.expected!r:.80}, which is no number: score it with "
                f"another scorer than 'numeric'"
            )
        wrong = item.about.get("wrong")
        if isinstance(wrong, (list, tuple)) and (
            found is None or any(as_number(w) == found for w in wrong)
        ):
            return Score(0.0, "known to be wrong")
        return _NOTHING_EXPECTED


@dataclass(frozen=True, slots=True)
class Regex:
    """The answer holds a match of a pattern; without one, of what the item expects."""

    pattern: str | None = None
    name: str = "regex"

    def __post_init__(self) -> None:
        if self.pattern is not None:
            _compiled(self.pattern)

    async def score(self, item: Item, answer: Completion) -> Score:
        pattern = self.pattern if self.pattern is not None else item.expected
        if pattern is None:
            return _NOTHING_EXPECTED
        return Score(float(_compiled(str(pattern)).search(answer.content) is not None))


@dataclass(frozen=True, slots=True)
class JsonSchema:
    """The answer is JSON that fits a schema: the scorer's, or the one that the item expects."""

    schema: Mapping[str, Any] | None = None
    name: str = "json_schema"

    async def score(self, item: Item, answer: Completion) -> Score:
        schema = self.schema if self.schema is not None else item.expected
        if not isinstance(schema, Mapping):
            return _NOTHING_EXPECTED
        try:
            import jsonschema
        except ImportError:
            from novellus_lab.errors import MissingDependencyError

            raise MissingDependencyError(
                "the scorer json_schema needs jsonschema: pip install 'novellus_lab[experiments]'"
            ) from None
        try:
            value = orjson.loads(_unfenced(answer.content))
        except orjson.JSONDecodeError as error:
            return Score(0.0, f"no JSON: {error}")
        validator = jsonschema.validators.validator_for(schema)(schema)
        wrong = next(validator.iter_errors(value), None)
        return (
            Score(1.0) if wrong is None else Score(0.0, f"{wrong.json_path}: {wrong.message:.200}")
        )


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the dataset says of this model's recorded answer (replay models only)."""

    name: str = "recorded"

    async def score(self, item: Item, answer: Completion) -> Score:
        verdict = item.about.get("recorded", {}).get(answer.model)
        if verdict is None:
            return Score(None, f"the dataset has no verdict on {answer.model}'s answer")
        return Score(float(verdict))


@dataclass(frozen=True, slots=True)
class Similarity:
    """Cosine similarity of the answer's and the expected text's embeddings, cut to 0 … 1.

    Likeness of subject, not of truth: "it rises" and "it falls" are near each other.
    """

    embed: Embed
    name: str = "similarity"

    async def score(self, item: Item, answer: Completion) -> Score:
        if item.expected is None:
            return _NOTHING_EXPECTED
        if not answer.content.strip():
            return Score(0.0, "the answer is empty")
        a, b = await self.embed([answer.content, str(item.expected)])
        norm = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
        if not norm:
            return Score(0.0, "an embedding is zero")
        return Score(min(1.0, max(0.0, sum(x * y for x, y in zip(a, b, strict=True)) / norm)))


class Own:
    """A function of the user's: `(item, answer) -> float | bool | None | Score`, sync or async."""

    def __init__(self, function: Callable[..., Any], name: str | None = None) -> None:
        self.function = function
        self.name: str = name or str(getattr(function, "__name__", "own"))

    async def score(self, item: Item, answer: Completion) -> Score:
        value = self.function(item, answer)
        if inspect.isawaitable(value):
            value = await value
        if isinstance(value, Score):
            return value
        if value is None:
            return Score(None, "the scorer did not say")
        if not isinstance(value, (bool, int, float)) or not 0 <= value <= 1:
            raise InvalidRequestError(
                f"the scorer {self.name!r} must return a number from 0 to 1, True, False or None, not "
                f"{value!r:.80} (item {item.id!r})"
            )
        return Score(float(value))


BY_NAME: dict[str, Callable[[], Scorer]] = {
    "exact": Exact,
    "contains": Contains,
    "numeric": Numeric,
    "regex": Regex,
    "json_schema": JsonSchema,
    "recorded": Recorded,
}


def scorer_of(given: Any, *, embed: Embed | None = None) -> Scorer:
    """Return the scorer that is meant: a name, an object with `score`, or a function.

    Args:
        embed: what `"similarity"` embeds with.

    Raises:
        InvalidRequestError: it is none of these.
    """
    if isinstance(given, str):
        if given == "similarity" and embed is not None:
            return Similarity(embed)
        if given.startswith("regex:"):
            return Regex(given.removeprefix("regex:"))
        if given in BY_NAME:
            return BY_NAME[given]()
        known = (*BY_NAME, "similarity", "judge")
        raise InvalidRequestError(
            f"there is no scorer {given!r}. {did_you_mean(given, known)} Or give a function of "
            f"(item, answer) that returns 0 to 1"
        )
    if hasattr(given, "score") and hasattr(given, "name"):
        scorer: Scorer = given
        return scorer
    if callable(given):
        return Own(given)
    raise InvalidRequestError(
        f"a scorer is a name ({', '.join(BY_NAME)}), a function of (item, answer), or an object with "
        f"name and score; not {given!r:.80}"
    )


_NOTHING_EXPECTED = Score(None, "the item does not say what to expect")


def _plain(text: str) -> str:
    return _MARKUP.sub("", " ".join(text.split())).casefold()


def _unfenced(text: str) -> str:
    """The inside of a Markdown fence, if the whole answer is one."""
    match = re.fullmatch(r"\s*```[\w-]*\n(.*?)\n?```\s*", text, re.DOTALL)
    return match[1] if match else text


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise InvalidRequestError(f"{pattern!r:.80} is no regular expression: {error}") from None
