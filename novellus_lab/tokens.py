"""Estimate token counts without a tokenizer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from novellus_lab.types import Message


def estimate_tokens(text: str) -> int:
    """Estimate how many tokens a text has."""
    raw = len(text.encode("utf-8", "surrogatepass"))
    return (raw + 3) // 4


def estimate_message_tokens(
    messages: Sequence[Message], tools: Iterable[Mapping[str, Any]] = ()
) -> int:
    """Estimate the input tokens of a conversation."""
    return estimate_tokens(json.dumps([list(messages), list(tools)], default=str))
