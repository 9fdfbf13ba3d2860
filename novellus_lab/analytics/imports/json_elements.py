"""The elements of a JSON document of any size, one at a time.

A document is a list, an object that holds the list (`{"data": [...]}`), an object by itself, or several of
these one after the other. Numbers with a point become `Decimal`, to the last digit that is written.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

LISTS = frozenset(("data", "rows", "logs", "items", "spend_logs"))
"""Keys under which exports keep their rows."""
_CHUNK = 1 << 16
_MAX_ELEMENT = 1 << 26
"""Characters: what is longer is taken for broken."""
_SPACE = " \t\n\r\ufeff"


def _refused(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")


DECODER = json.JSONDecoder(parse_float=Decimal, parse_constant=_refused, strict=False)


class BrokenJsonError(Exception):
    """The document can't be read from here on."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line


def json_elements(file: IO[str]) -> Iterator[tuple[int, Any, dict[str, Any]]]:
    """Yield each element with its line, and what stood beside its list before it.

    Raises:
        BrokenJsonError: with the line.
    """
    text = _Text(file)
    while text.peek():
        if text.peek() == "[":
            for line, element in text.list_elements():
                yield line, element, {}
        elif text.peek() == "{":
            line, beside, found = text.line, dict[str, Any](), False
            for key in text.object_keys():
                if key in LISTS and text.peek() == "[":
                    found = True
                    for where, element in text.list_elements():
                        yield where, element, beside
                else:
                    beside[key] = text.value()
            if not found:
                yield line, beside, {}
        else:
            raise BrokenJsonError(text.line, f"expected [ or {{, not {text.peek()!r}")


class _Text:
    """A window on the document that moves on."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._text = ""
        self._at = 0
        self._done = False
        self.line = 1

    def peek(self) -> str:
        """Return the next character that is no space; "" at the end."""
        while True:
            while self._at < len(self._text):
                if (character := self._text[self._at]) not in _SPACE:
                    return character
                self._move(self._at + 1)
            if not self._more(_CHUNK):
                return ""

    def value(self) -> Any:
        """Read a whole value."""
        self.peek()
        wanted = _CHUNK
        while True:
            try:
                value, end = DECODER.raw_decode(self._text, self._at)
                # A number at the very end of what was read may go on.
                if end < len(self._text) or not self._more(_CHUNK):
                    self._move(end)
                    return value
                continue
            except (ValueError, RecursionError) as error:
                reason = getattr(error, "msg", None) or str(error)
                if len(self._text) - self._at > _MAX_ELEMENT or not self._more(wanted):
                    raise BrokenJsonError(self.line, f"no JSON: {reason}") from None
                wanted *= 2

    def list_elements(self) -> Iterator[tuple[int, Any]]:
        self._expect("[")
        if self.peek() == "]":
            self._expect("]")
            return
        while True:
            self.peek()
            line = self.line
            yield line, self.value()
            if self._expect(",]") == "]":
                return

    def object_keys(self) -> Iterator[str]:
        """Yield keys; whoever asks for the next has read the value."""
        self._expect("{")
        if self.peek() == "}":
            self._expect("}")
            return
        while True:
            key = self.value()
            if not isinstance(key, str):
                raise BrokenJsonError(self.line, f"expected a key, not {key!r:.40}")
            self._expect(":")
            yield key
            if self._expect(",}") == "}":
                return

    def _expect(self, characters: str) -> str:
        found = self.peek()
        if not found or found not in characters:
            wanted = " or ".join(characters)
            raise BrokenJsonError(self.line, f"expected {wanted}, not {found or 'the end'!r}")
        self._move(self._at + 1)
        return found

    def _move(self, to: int) -> None:
        self.line += self._text.count("\n", self._at, to)
        self._at = to

    def _more(self, characters: int) -> bool:
        if self._done:
            return False
        read = self._file.read(characters)
        self._done = not read
        self._text = self._text[self._at :] + read
        self._at = 0
        return not self._done
