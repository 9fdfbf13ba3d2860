"""The number that an answer comes to."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

_NUMBER = r"[-+]?\$?\s?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|[-+]?\.\d+"
_MARKED = re.compile(rf"####\s*({_NUMBER})|\\boxed\{{\s*({_NUMBER})[^}}]*\}}")
_ANY = re.compile(rf"(?<![\w.])({_NUMBER})")


def last_number(text: str) -> Decimal | None:
    """Return the number after the last `####` or in the last `\\boxed{…}`, else the last of all.

    Thousands separators and dollar signs are left out: `$1,200.50` is 1200.50. None if there is none.
    """
    found: str | None = None
    for match in _MARKED.finditer(text):
        found = match[1] or match[2]
    if found is None:
        for match in _ANY.finditer(text):
            found = match[1]
    return None if found is None else _decimal(found)


def as_number(value: object) -> Decimal | None:
    """Return what a dataset states as a number, or None: of a text, its last one."""
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, Decimal)):
        return Decimal(value)
    if isinstance(value, float):
        return Decimal(repr(value))
    return last_number(value) if isinstance(value, str) else None


def _decimal(text: str) -> Decimal | None:
    try:
        return Decimal(text.replace(",", "").replace("$", "").replace(" ", ""))
    except InvalidOperation:
        return None
