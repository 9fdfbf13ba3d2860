"""Is an answer good enough, or should a stronger model be asked? Built-in checks, and your own.

A check takes an `Answer` and returns None where it is good enough, else why not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from novellus_lab.errors import ConfigurationError, did_you_mean
from novellus_lab.types import EMPTY

if TYPE_CHECKING:
    from novellus_lab.types import ToolCall


@dataclass(frozen=True, slots=True)
class Answer:
    """What a check looks at."""

    content: str
    prompt: str = ""
    """Text of the last user turn."""
    model_id: str = ""
    finish_reason: str = "stop"
    tool_calls: tuple[ToolCall, ...] = ()
    params: Mapping[str, Any] = field(default_factory=lambda: EMPTY)
    """Of the call: max_tokens, response_format, …"""


Check = Callable[[Answer], "str | bool | None"]
"""None or True: good enough. False, or a text that says why: not."""

_REFUSAL = re.compile(
    r"^\W*(?:(?:i['’]?m|i am) (?:very |really )?(?:sorry|afraid)|sorry\b|i apologi[sz]e|unfortunately|as an ai\b|"
    r"i (?:can(?:['’]t|not)|could not|couldn['’]t|am unable|['’]?m unable|am not able|won['’]t|"
    r"do not have|don['’]t have) )"
    r"(?=.{0,200}\b(?:can(?:['’]t|not)|couldn['’]t|unable|not able|won['’]t|do(?:es)?n['’]t have|do not have|"
    r"not allowed|against|language model|sorry|help|assist|provide|comply|answer)\b)",
    re.I | re.S,
)
_UNSURE = re.compile(
    r"\b(?:i['’]?m not (?:entirely |completely |quite |really )?(?:sure|certain|confident)|"
    r"i am not (?:entirely |completely |quite |really )?(?:sure|certain|confident)|i don['’]t know|i do not know|"
    r"i(?: am|['’]m) unsure|it is unclear|it['’]s unclear|not enough information|"
    r"(?:hard|difficult|impossible) to (?:say|tell|know|determine)|i(?: can only|['’]d have to| would have to) guess|"
    r"my best guess|low confidence|confidence\s*[:=]\s*(?:low|[0-4]?\d\s*%))",
    re.I,
)


def not_empty(answer: Answer) -> str | None:
    """Some text, or a tool call."""
    return None if answer.content.strip() or answer.tool_calls else "it is empty"


def complete(answer: Answer) -> str | None:
    """Not cut off at its token limit."""
    return "it was cut off at its token limit" if answer.finish_reason == "length" else None


def not_refused(answer: Answer) -> str | None:
    """No refusal ("I'm sorry, but I can't …") at its beginning, none by a content filter."""
    if answer.finish_reason == "content_filter":
        return "the provider's filter withheld it"
    return "it reads as a refusal" if _REFUSAL.match(answer.content) else None


def sure(answer: Answer) -> str | None:
    """Does not itself say that it is unsure."""
    found = _UNSURE.search(answer.content)
    return None if found is None else f"it says itself {found.group(0)!r}"


def valid_json(answer: Answer) -> str | None:
    """JSON that fits the call's schema, as far as its types, required keys and enums go."""
    text = answer.content.strip()
    if text.startswith("```"):
        text = text.strip("`").removeprefix("json").strip()
    try:
        value = json.loads(text)
    except ValueError:
        return "it is no JSON"
    wanted = answer.params.get("response_format") or {}
    schema = (wanted.get("json_schema") or {}).get("schema")
    return None if schema is None else _misfit(value, schema, schema, "it")


def structured(answer: Answer) -> str | None:
    """`valid_json`, where the call asked for JSON."""
    kind = (answer.params.get("response_format") or {}).get("type")
    return valid_json(answer) if kind in ("json_object", "json_schema") else None


def at_least(characters: int) -> Check:
    """Return a check for a length."""

    def long_enough(answer: Answer) -> str | None:
        length = len(answer.content.strip())
        return None if length >= characters else f"it has {length} of {characters} characters"

    return long_enough


_BUILT_IN: dict[str, Check] = {
    "not_empty": not_empty,
    "complete": complete,
    "not_refused": not_refused,
    "sure": sure,
    "json": valid_json,
    "structured": structured,
}
DEFAULT = ("not_empty", "complete", "not_refused", "sure", "structured")


def make_check(name: Any, registered: Mapping[str, Check] = EMPTY) -> tuple[str, Check]:
    """Return a check by its name: built in, registered, `{min_length: 40}`, or `module:function`.

    Raises:
        ConfigurationError: there is none.
    """
    if callable(name):
        return getattr(name, "__name__", "check"), name
    if isinstance(name, Mapping) and list(name) == ["min_length"]:
        length = name["min_length"]
        if isinstance(length, bool) or not isinstance(length, int) or length < 1:
            raise ConfigurationError(f"min_length must be a number of characters, not {length!r}")
        return f"min_length {length}", at_least(length)
    if isinstance(name, str):
        found = registered.get(name) or _BUILT_IN.get(name)
        if found is not None:
            return name, found
        if ":" in name:
            return name, _imported(name)
    known = [*_BUILT_IN, "min_length", *registered]
    raise ConfigurationError(
        f"there is no check {name!r}. {did_you_mean(str(name), known)} Your own: "
        f"lab.router.register_check(name, function), or `module:function`."
    )


def why_not_good(checks: Sequence[tuple[str, Check]], answer: Answer) -> str | None:
    """Return why an answer is not good enough, or None. A check that fails itself is passed by."""
    import logging

    for name, check in checks:
        try:
            verdict = check(answer)
        except Exception:
            logging.getLogger("novellus_lab.routing").warning(
                "the check %s failed and is passed by", name, exc_info=True
            )
            continue
        if verdict is False:
            return f"{name} says no"
        if isinstance(verdict, str) and verdict:
            return f"{name}: {verdict}"
    return None


def _imported(path: str) -> Check:
    module, _, attribute = path.partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except Exception as error:
        raise ConfigurationError(
            f"check {path!r} can't be loaded: {type(error).__name__}: {error}"
        ) from error
    if not callable(found):
        raise ConfigurationError(f"check {path!r} is no function")
    check: Check = found
    return check


_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "null": (type(None),),
}


def _misfit(value: Any, schema: Any, root: Any, where: str, depth: int = 0) -> str | None:
    """Return how a value fails a JSON schema, as far as types, keys and enums go."""
    if not isinstance(schema, Mapping) or depth > 32:
        return None
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/"):
        target = root
        for part in reference[2:].split("/"):
            target = target.get(part, {}) if isinstance(target, Mapping) else {}
        return _misfit(value, target, root, where, depth + 1)
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list):
            misfits = [_misfit(value, option, root, where, depth + 1) for option in schema[key]]
            return None if None in misfits else misfits[0]
    kinds = schema.get("type")
    allowed = [kinds] if isinstance(kinds, str) else kinds or []
    if allowed:
        fits = any(
            isinstance(value, _TYPES.get(kind, (object,)))
            and not (isinstance(value, bool) and kind in ("number", "integer"))
            for kind in allowed
        )
        if not fits:
            return f"{where} is no {' or '.join(allowed)}"
    if isinstance(schema.get("enum"), list) and value not in schema["enum"]:
        return f"{where} is none of {schema['enum']}"
    if isinstance(value, dict):
        for name in schema.get("required") or ():
            if name not in value:
                return f"{where} lacks {name!r}"
        for name, inner in (schema.get("properties") or {}).items():
            if name in value:
                found = _misfit(value[name], inner, root, f"{where}.{name}", depth + 1)
                if found:
                    return found
    if isinstance(value, list) and "items" in schema:
        for n, item in enumerate(value):
            found = _misfit(item, schema["items"], root, f"{where}[{n}]", depth + 1)
            if found:
                return found
    return None
