"""Servers that speak OpenAI's chat API and fail at random: a program of its own.

`python -m benchmarks.soak.servers SERVERS FAULT_SHARE SEED` prints their URLs as a line of JSON and
serves until stdin ends. To each line that it is sent it answers with what it did since the last
one: requests, by kind of fault ("none" where it answered at once).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import re
import socket
import struct
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

FAULTS = (
    "429",
    "429 with retry-after",
    "500",
    "503",
    "hang",
    "slow first byte",
    "reset before the answer",
    "reset within the answer",
    "malformed JSON",
)
"""As likely as each other."""
SLOW_S = 0.2
HANG_S = 30.0
"""A client that waits so long has no timeout."""
RETRY_AFTER_MS = 100
_PIECES = 4

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_NO_LINGER = struct.pack("ii", 1, 0)


class Faulty:
    """What all connections share."""

    def __init__(self, fault_share: float, seed: int) -> None:
        self._share = fault_share
        self._random = random.Random(seed)
        self.did: Counter[str] = Counter()

    def draw(self) -> str | None:
        """Return what goes wrong with the next answer, or None."""
        fault = self._random.choice(FAULTS) if self._random.random() < self._share else None
        self.did[fault or "none"] += 1
        return fault


class Connection(asyncio.Protocol):
    """One client's connection: requests one after another, each with its luck."""

    def __init__(self, faulty: Faulty) -> None:
        self._faulty = faulty
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self._later: list[asyncio.TimerHandle] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        for handle in self._later:
            handle.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(self._buffer, 0, end + 2)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self._buffer) < whole:
                return
            body, self._buffer = self._buffer[end + 4 : whole], self._buffer[whole:]
            self._answer(json.loads(body))

    def _answer(self, asked: dict[str, Any]) -> None:
        fault, stream = self._faulty.draw(), bool(asked.get("stream"))
        said = f"You said: {asked['messages'][-1]['content']}"
        if fault == "429":
            self._write(_refusal(429, "Too Many Requests"))
        elif fault == "429 with retry-after":
            told = f"retry-after-ms: {RETRY_AFTER_MS}\r\nretry-after: 1\r\n"
            self._write(_refusal(429, "Too Many Requests", told))
        elif fault in ("500", "503"):
            self._write(_refusal(int(fault), "Trouble"))
        elif fault == "hang":
            self._after(HANG_S, self._cut)
        elif fault == "slow first byte":
            self._after(SLOW_S, lambda: self._write(_whole(said) if not stream else _events(said)))
        elif fault == "reset before the answer":
            self._cut()
        elif fault == "reset within the answer":
            answer = _events(said) if stream else _whole(said)
            self._write(answer[: len(answer) * 2 // 3])
            self._after(0.005, self._cut)  # what was written arrives first
        elif fault == "malformed JSON":
            self._write(_garbled_events(said) if stream else _http(b'{"id": "x", "choices": [{"me'))
        else:
            self._write(_events(said) if stream else _whole(said))

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def _after(self, seconds: float, do: Callable[[], None]) -> None:
        self._later = [h for h in self._later if not h.cancelled() and h.when() > _now()]
        self._later.append(asyncio.get_running_loop().call_later(seconds, do))

    def _cut(self) -> None:
        """Reset: the client learns nothing but that it is over."""
        if self._transport is not None:
            opened = self._transport.get_extra_info("socket")
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            self._transport.abort()


def _now() -> float:
    return asyncio.get_running_loop().time()


def _http(body: bytes, status: str = "200 OK", more: str = "") -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n{more}\r\n"
    )
    return head.encode() + body


def _refusal(status: int, reason: str, more: str = "") -> bytes:
    kind = "rate_limit_exceeded" if status == 429 else "server_error"
    error = {"message": "not now", "type": kind, "param": None, "code": kind}
    return _http(json.dumps({"error": error}).encode(), f"{status} {reason}", more)


def _usage(said: str) -> dict[str, int]:
    words = len(said.split())
    return {"prompt_tokens": 10, "completion_tokens": words, "total_tokens": 10 + words}


def _whole(said: str) -> bytes:
    message = {"role": "assistant", "content": said}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-4o",
        "choices": [choice],
        "usage": _usage(said),
    }
    return _http(json.dumps(body).encode())


def _event(delta: dict[str, Any] | None, said: str, finish: str | None = None) -> str:
    chunk: dict[str, Any] = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "gpt-4o",
        "choices": [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}],
        "usage": _usage(said) if delta is None else None,
    }
    return f"data: {json.dumps(chunk)}\n\n"


def _pieces(said: str) -> list[str]:
    cuts = [len(said) * n // _PIECES for n in range(_PIECES + 1)]
    return [said[a:b] for a, b in itertools.pairwise(cuts)]


def _chunked(events: list[str], *, end: bool = True) -> bytes:
    head = (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    body = b"".join(f"{len(e.encode()):x}\r\n{e}\r\n".encode() for e in events)
    return head + body + (b"0\r\n\r\n" if end else b"")


def _events(said: str) -> bytes:
    pieces = [_event({"content": piece}, said) for piece in _pieces(said)]
    first = _event({"role": "assistant", "content": ""}, said)
    return _chunked(
        [first, *pieces, _event({}, said, "stop"), _event(None, said), "data: [DONE]\n\n"]
    )


def _garbled_events(said: str) -> bytes:
    first = _event({"role": "assistant", "content": ""}, said)
    return _chunked([first, 'data: {"id": "chatcmpl-1", "choices": [{"del\n\n'])


async def serve(servers: int, fault_share: float, seed: int) -> None:
    faulty = Faulty(fault_share, seed)
    loop = asyncio.get_running_loop()
    listening = [
        await loop.create_server(lambda: Connection(faulty), "127.0.0.1", 0, backlog=1024)
        for _ in range(servers)
    ]
    urls = [f"http://127.0.0.1:{s.sockets[0].getsockname()[1]}" for s in listening]
    print(json.dumps(urls), flush=True)
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps(faulty.did), flush=True)
        faulty.did.clear()


class FaultyServers:
    """Starts the program; `with FaultyServers(…) as servers: servers.urls`."""

    def __init__(self, servers: int, fault_share: float, seed: int = 0) -> None:
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "benchmarks.soak.servers",
                *map(str, (servers, fault_share, seed)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.urls: list[str] = self._line()

    def did(self) -> dict[str, int]:
        """Return the requests since the last time that this was asked, by what became of them."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return dict(self._line())

    def _line(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._process.communicate()  # stdin ends, and it with it


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])))
