"""What PostgreSQL can hold of a text or a JSON value: all but NUL and halves of characters."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

REPLACEMENT = "\ufffd"
_MAX_DEPTH = 100


def storable_text(text: str) -> str:
    """Replace NUL, and halves of surrogate pairs, by U+FFFD."""
    if "\x00" in text:
        text = text.replace("\x00", REPLACEMENT)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def storable_json(value: Any, depth: int = 0) -> Any:
    """Make a value that JSON and jsonb hold out of whatever this is.

    Integers beyond 64 bits, and what JSON has no form for, become their text; below a hundred
    levels stands "…".
    """
    if value is None or isinstance(value, (bool, float)):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**64 else _number_text(value)
    if isinstance(value, str):
        return storable_text(value)
    if depth > _MAX_DEPTH:
        return "…"
    if is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in fields(value)}
    if hasattr(value, "items"):
        return {storable_text(str(k)): storable_json(v, depth + 1) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [storable_json(item, depth + 1) for item in value]
    return storable_text(str(value))


def _number_text(value: int) -> str:
    try:
        return str(value)
    except ValueError:  # more digits than Python wants to write in decimal
        return hex(value)
