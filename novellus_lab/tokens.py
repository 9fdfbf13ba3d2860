"""Token counts without a tokenizer: for estimates only, never for a bill that the provider states.

Used for the expected cost of a request, for prompts too long for a context window, and for streams
that were abandoned before the provider said what it counted.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from novellus_lab.types import Message

IMAGE_TOKENS = 765
"""An image counts as one of 1024 x 1024 does at OpenAI in high detail; others differ."""

MESSAGE_OVERHEAD_TOKENS = 4
"""Role and separators of a message in OpenAI's chat format."""

REPLY_PRIMING_TOKENS = 3

_SAMPLE_ABOVE = 200_000
_SAMPLE_PIECES = 50
_PIECE = 2_000

# What byte-pair encoders split text into before they merge: words with the space before them,
# numbers by threes, runs of punctuation, breaks; every other script character by character.
_PIECES = re.compile(
    r"(?P<word> ?[A-Za-z]+)|(?P<number>\d{1,3})|(?P<break>\s*\n\s*)|(?P<gap> (?=\d))|(?P<space>[^\S\n]+)"
    r"|(?P<mark> ?[!-/:-@\[-`{-~]+)|(?P<accented>[\u00aa-\u024f])|(?P<semitic>[\u0590-\u08ff]+)"
    r"|(?P<letters>[\u0250-\u2fff]+)|(?P<other>.)",
    re.DOTALL,
)


def estimate_tokens(text: str) -> int:
    """Estimate how many tokens a text has (of the size of OpenAI's cl100k vocabulary).

    Measured against cl100k_base: see `docs/prices.md`. Texts over 200,000 characters are sampled,
    so that ten megabytes take milliseconds.
    """
    if not text:
        return 0
    if len(text) <= _SAMPLE_ABOVE:
        return max(1, round(_weigh(text)))
    step = len(text) / _SAMPLE_PIECES
    starts = [int(n * step) for n in range(_SAMPLE_PIECES)]
    sampled = sum(_weigh(text[start : start + _PIECE]) for start in starts)
    return round(sampled * len(text) / (_SAMPLE_PIECES * _PIECE))


def estimate_message_tokens(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
) -> int:
    """Estimate a conversation's input tokens, tools and overhead included."""
    total = REPLY_PRIMING_TOKENS
    for message in messages:
        total += MESSAGE_OVERHEAD_TOKENS
        content = message.get("content")
        if isinstance(content, str):
            total += estimate_tokens(content)
        elif content:
            for part in content:
                text = part.get("text")
                total += IMAGE_TOKENS if text is None else estimate_tokens(text)
        for call in message.get("tool_calls") or ():
            function = call.get("function", {})
            total += 8 + estimate_tokens(str(function.get("arguments", "")))
    if tools:
        total += estimate_tokens(orjson.dumps(list(tools), default=str).decode())
    return total


def _weigh(text: str) -> float:
    tokens = 0.0
    for match in _PIECES.finditer(text):
        kind, length = match.lastgroup, match.end() - match.start()
        if kind == "word":
            tokens += 1.0 if length <= 8 else 1.0 + (length - 8) * 0.16
        elif kind == "mark":
            tokens += 1.0 if length <= 3 else 1.0 + (length - 3) * 0.28
        elif kind == "space":
            tokens += 0.0 if length == 1 else 1.0
        elif kind == "letters":
            tokens += length * 0.5
        elif kind == "semitic":
            tokens += length * 0.85
        elif kind == "other":
            tokens += 0.95 if ord(text[match.start()]) < 0x10000 else 2.3
        else:
            tokens += 1.0
    return tokens
