"""Server-sent events, decoded from bytes as they arrive.

The format: https://html.spec.whatwg.org/multipage/server-sent-events.html. Only `event` and `data`
matter to the providers' APIs. Data stays bytes: JSON parsers take them as they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_LINE_END = re.compile(rb"\r\n|\n|\r")


class Event(NamedTuple):
    """One event: its name (None where the stream gives none) and its data."""

    name: str | None
    data: bytes


class EventDecoder:
    """Turns chunks, cut anywhere, into events."""

    __slots__ = ("_data", "_name", "_rest", "_started")

    def __init__(self) -> None:
        self._rest = b""
        self._name: str | None = None
        self._data: list[bytes] = []
        self._started = False

    def feed(self, chunk: bytes) -> list[Event]:
        """Return the events that this chunk completes."""
        text = self._rest + chunk
        if not self._started and len(text) >= 3:
            self._started = True
            text = text.removeprefix(b"\xef\xbb\xbf")
        # A CR at the very end may be half of a CRLF: wait for what follows.
        held = b"\r" if text.endswith(b"\r") else b""
        lines = _LINE_END.split(text[:-1] if held else text)
        self._rest = lines.pop() + held
        return self._read(lines)

    def finish(self) -> list[Event]:
        """Return what is left: some servers close without the blank line that ends an event."""
        rest, self._rest = self._rest, b""
        return self._read([*_LINE_END.split(rest), b""])

    def _read(self, lines: list[bytes]) -> list[Event]:
        events = []
        for line in lines:
            if not line:
                if self._data:
                    events.append(Event(self._name, b"\n".join(self._data)))
                self._name, self._data = None, []
                continue
            field, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if field == b"data":
                self._data.append(value)
            elif field == b"event":
                self._name = value.decode("utf-8", "replace")
        return events


DRAIN_S = 0.1


async def drain(chunks: AsyncIterator[bytes]) -> None:
    """Read the few bytes after the last event, so that the connection can be used again."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(DRAIN_S):
            async for _ in chunks:
                pass
