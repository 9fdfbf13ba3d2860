"""Text that a spreadsheet must not take for a formula (OWASP, CSV injection)."""

from __future__ import annotations

_STARTS = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "|", "%")
_CONTROL = ("\t", "\r", "\n")


def could_be_formula(text: str) -> bool:
    """Whether Excel, LibreOffice or Sheets might run a text when it opens it."""
    bare = text.lstrip(" \t\r\n\x00\u00a0\ufeff'\"")
    return text.startswith(_CONTROL) or bare.startswith(_STARTS)


def guarded(text: str) -> str:
    """Return a text with an apostrophe before it, where it might be run."""
    return f"'{text}" if could_be_formula(text) else text
