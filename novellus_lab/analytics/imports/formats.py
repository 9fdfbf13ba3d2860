"""The formats by name, and which of them a row is of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from novellus_lab.analytics.imports.anthropic_usage import (
    expand_anthropic,
    is_anthropic,
    read_anthropic,
)
from novellus_lab.analytics.imports.langfuse import expand_langfuse, is_langfuse, read_langfuse
from novellus_lab.analytics.imports.litellm import is_litellm, read_litellm
from novellus_lab.analytics.imports.openai_usage import expand_openai, is_openai, read_openai
from novellus_lab.analytics.imports.own_rows import is_own, read_own
from novellus_lab.errors import InvalidRequestError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import tzinfo

    from novellus_lab.analytics.imports.calls import Item


def _alone(row: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    return (row,)


@dataclass(frozen=True, slots=True)
class Format:
    """How rows of one source are known, taken apart, and read."""

    name: str
    matches: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Mapping[str, Any]], Item]
    expand: Callable[[Mapping[str, Any]], Iterable[Mapping[str, Any]]] = _alone


def formats(zone: tzinfo) -> dict[str, Format]:
    """Return all formats, in the order in which they are tried.

    Args:
        zone: of times in our own JSON lines that have none; all others say that theirs are UTC.
    """
    known = (
        Format("litellm", is_litellm, read_litellm),
        Format("openai", is_openai, read_openai, expand_openai),
        Format("anthropic", is_anthropic, read_anthropic, expand_anthropic),
        Format("langfuse", is_langfuse, read_langfuse, expand_langfuse),
        Format("jsonl", is_own, lambda row: read_own(row, zone)),
    )
    return {one.name: one for one in known}


def format_named(name: str, known: Mapping[str, Format]) -> Format:
    """Return a format.

    Raises:
        InvalidRequestError: there is none of this name.
    """
    if name not in known:
        raise InvalidRequestError(
            f"there is no import format {name!r:.40}. {did_you_mean(name, list(known))}"
        )
    return known[name]


def format_of(row: Mapping[str, Any], known: Mapping[str, Format]) -> Format | None:
    """Return the format that a row is of, if it is of any."""
    return next((one for one in known.values() if one.matches(row)), None)
