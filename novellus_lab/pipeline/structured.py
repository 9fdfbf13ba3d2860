"""The answer to `response_format`: JSON, or an instance of the caller's Pydantic model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from novellus_lab.errors import ResponseParseError

if TYPE_CHECKING:
    from collections.abc import Mapping


def parse_answer(
    content: str, response_format: Mapping[str, Any] | None, response_model: type | None
) -> Any:
    """Return the parsed answer, or None where no format was asked for.

    Raises:
        ResponseParseError: it is no JSON, or the Pydantic model refuses it.
    """
    if response_format is None:
        return None
    text = _without_fence(content)
    if response_model is None:
        try:
            return orjson.loads(text)
        except ValueError as error:
            raise ResponseParseError(
                f"the answer is no valid JSON ({error}): {content[:200]!r}", content=content
            ) from None
    from pydantic import ValidationError

    try:
        return response_model.model_validate_json(text)  # type: ignore[attr-defined]
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'answer'}: {e['msg']}" for e in error.errors()[:5]
        )
        raise ResponseParseError(
            f"the answer does not fit {response_model.__name__} ({problems}): {content[:200]!r}",
            content=content,
        ) from None
    except Exception as error:  # a validator of the caller's
        raise ResponseParseError(
            f"{response_model.__name__} failed with {type(error).__name__} on the answer: "
            f"{content[:200]!r}",
            content=content,
        ) from error


def _without_fence(content: str) -> str:
    """Models without a strict JSON mode like to wrap JSON in a Markdown fence."""
    text = content.strip()
    if text.startswith("```") and text.endswith("```") and "\n" in text:
        return text[text.index("\n") + 1 : -3].strip()
    return text
