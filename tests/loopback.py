"""Real HTTP servers on 127.0.0.1 that speak the providers' wire formats.

`RecordedServer` serves what a provider really sent (a VCR recording); `ScriptedServer` serves what
a test or a benchmark wants to happen: any status, headers and body, streams in pieces, delays,
connections that break half-way, answers that never come. Both run in a thread of their own, on a
port that the kernel chooses, and keep what they were sent:

    with RecordedServer(WIRE / "pydantic-ai/….yaml", only="api.openai.com") as server:
        provider = OpenAIProvider(ProviderConfig("openai", base_url=server.url + "/v1"))
        ...
        assert server.requests[0].json["model"] == "gpt-4o"

    with ScriptedServer(openai_chat_reply("Hello")) as server: ...             # always the same
    with ScriptedServer([Scripted(503), openai_chat_reply("Hello")]) as server: ...   # in order
    with ScriptedServer(lambda request: Scripted(body=request.json)) as server: ...   # computed

Run as a program (`python -m tests.loopback`) it serves a canned chat completion in a process of
its own and prints its URL: what benchmarks need, where a server thread would share the client's
interpreter lock.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import inspect
import itertools
import json
import random
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import yaml
from aiohttp import web

if TYPE_CHECKING:
    from types import TracebackType

WIRE = Path(__file__).parent / "data" / "wire"
"""The recordings that ship with the tests."""

Split = int | Literal["awkward"] | None
"""How a body is cut into writes: pieces of so many bytes, or few cuts where parsers break."""


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it arrived."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON; None where it is empty."""
        return json.loads(self.body) if self.body else None


@dataclass(frozen=True, slots=True)
class Scripted:
    """One answer, and what goes wrong with it.

    A body that is no string or bytes is sent as JSON. `pieces` are sent one by one, each flushed,
    `between_s` apart. `end` says how it ends: normally, with the connection cut (`abort`: the
    client sees a truncated body), or never (`hang`: until the client leaves).
    """

    status: int = 200
    body: Any = None
    pieces: Sequence[str | bytes] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str | None = None
    """By default `application/json` for a body and `text/event-stream` for pieces."""
    delay_s: float = 0.0
    """Before the status line."""
    between_s: float = 0.0
    end: Literal["close", "abort", "hang"] = "close"
    """With `abort` or `hang` and neither body nor pieces, not even a status line is sent."""


Handler = Callable[[Received], "Scripted | Awaitable[Scripted]"]
Script = Scripted | Sequence[Scripted] | Handler


class LoopbackServer:
    """An HTTP server in a thread. Subclasses say what it answers."""

    def __init__(self) -> None:
        self.requests: list[Received] = []
        """What was received, in order."""
        self.connections = 0
        """How many TCP connections were opened."""
        self.client_left = threading.Event()
        """Set when a client closed its connection before its answer was complete."""
        self.url = ""
        """`http://127.0.0.1:port`, without a slash at the end; known once started."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stop: asyncio.Event | None = None
        self._seen_connections: set[object] = set()

    async def answer(self, request: Received) -> Scripted:
        raise NotImplementedError

    def start(self) -> Self:
        started = threading.Event()
        failure: list[BaseException] = []
        self._thread = threading.Thread(
            target=self._run, args=(started, failure), name="loopback-server", daemon=True
        )
        self._thread.start()
        started.wait()
        if failure:
            raise failure[0]
        return self

    def close(self) -> None:
        """Stop serving; open connections are cut."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is None or self._stop is None:
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            loop.call_soon_threadsafe(self._stop.set)
        thread.join(timeout=10)
        self._loop = self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()

    async def wait_client_left(self, timeout: float = 10.0) -> bool:
        """Wait, without holding up the caller's loop, until a client has left in mid-answer."""
        return await asyncio.to_thread(self.client_left.wait, timeout)

    def _run(self, started: threading.Event, failure: list[BaseException]) -> None:
        try:
            asyncio.run(self._serve(started))
        except BaseException as error:  # handed to the thread that started us
            failure.append(error)
        finally:
            started.set()

    async def _serve(self, started: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_route("*", "/{tail:.*}", self._handle)
        # handler_cancellation: the only way to notice that a client left while we are waiting.
        runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1
        )
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{port}"
        started.set()
        await self._stop.wait()
        await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        peer = request.transport.get_extra_info("peername") if request.transport else None
        if peer not in self._seen_connections:
            self._seen_connections.add(peer)
            self.connections += 1
        try:
            received = Received(
                method=request.method,
                path=request.path,
                query=dict(request.query),
                headers={k.lower(): v for k, v in request.headers.items()},
                body=await request.read(),
            )
            self.requests.append(received)
            return await self._send(request, await self.answer(received))
        except (asyncio.CancelledError, ConnectionResetError) as left:
            if self._stop is not None and not self._stop.is_set():
                self.client_left.set()
            if isinstance(left, asyncio.CancelledError):
                raise
            return web.Response()  # to nobody: the connection is gone

    async def _send(self, request: web.Request, said: Scripted) -> web.StreamResponse:
        if said.delay_s:
            await asyncio.sleep(said.delay_s)
        if said.body is None and said.pieces is None and said.end != "close":
            await self._end(request, said)
            return web.Response()  # to nobody: the connection is gone
        headers = dict(said.headers)
        if said.pieces is None and said.end == "close":
            body = _body_bytes(said.body)
            headers.setdefault("content-type", said.content_type or "application/json")
            return web.Response(status=said.status, body=body, headers=headers)
        pieces = said.pieces if said.pieces is not None else [_body_bytes(said.body)]
        by_default = "application/json" if said.pieces is None else "text/event-stream"
        headers.setdefault("content-type", said.content_type or by_default)
        response = web.StreamResponse(status=said.status, headers=headers)
        await response.prepare(request)
        for number, piece in enumerate(pieces):
            if number:
                await asyncio.sleep(said.between_s)
            await response.write(piece.encode() if isinstance(piece, str) else piece)
        if said.end == "close":
            await response.write_eof()
        else:
            await self._end(request, said)
        return response

    @staticmethod
    async def _end(request: web.Request, said: Scripted) -> None:
        if said.end == "hang":
            await asyncio.Event().wait()
        await asyncio.sleep(0.02)  # let what was written reach the client before the cut
        if request.transport is not None:
            request.transport.abort()


class ScriptedServer(LoopbackServer):
    """Answers as it is told: always the same, a list in order, or what a handler returns."""

    def __init__(self, script: Script) -> None:
        super().__init__()
        self._script = script
        self._next = 0

    async def answer(self, request: Received) -> Scripted:
        if isinstance(self._script, Scripted):
            return self._script
        if callable(self._script):
            said = self._script(request)
            return await said if inspect.isawaitable(said) else said
        self._next += 1
        if self._next > len(self._script):
            return Scripted(500, body={"error": {"message": "the loopback script ran out"}})
        return self._script[self._next - 1]


@dataclass(frozen=True, slots=True)
class Interaction:
    """A recorded request and its recorded answer."""

    method: str
    uri: str
    request: Any
    """The request's JSON, or its text where it is none."""
    status: int
    headers: Mapping[str, str]
    """Of the response; names in lower case."""
    body: bytes

    @property
    def json(self) -> Any:
        """The response as JSON."""
        return json.loads(self.body)


class RecordedServer(LoopbackServer):
    """Serves the interactions of a VCR recording, in order.

    Args:
        cassette: the YAML file.
        only: keep only interactions whose URI contains this (recordings may hold other traffic).
        split: cut bodies into several writes; `awkward` cuts inside multi-byte characters, between
            the line ends that part events, and inside field names.
    """

    def __init__(self, cassette: Path, only: str | None = None, *, split: Split = None) -> None:
        super().__init__()
        self.interactions = list(read_cassette(cassette, only))
        if not self.interactions:
            raise ValueError(f"{cassette} holds no interaction with {only!r}")
        self._split = split
        self._next = 0

    async def answer(self, request: Received) -> Scripted:
        self._next += 1
        if self._next > len(self.interactions):
            return Scripted(500, body={"error": {"message": "the recording has ended"}})
        recorded = self.interactions[self._next - 1]
        headers = {k: v for k, v in recorded.headers.items() if k not in _NOT_REPLAYED}
        if self._split is None:
            return Scripted(recorded.status, body=recorded.body, headers=headers)
        return Scripted(
            recorded.status,
            pieces=cut(recorded.body, self._split),
            headers=headers,
            between_s=0.001 if self._split == "awkward" else 0.0,
        )


_NOT_REPLAYED = frozenset(
    [
        "connection",
        "content-encoding",
        "content-length",
        "date",
        "keep-alive",
        "server",
        "set-cookie",
        "transfer-encoding",
    ]
)


def read_cassette(cassette: Path, only: str | None = None) -> Iterator[Interaction]:
    """Yield the interactions of a VCR recording, bodies decoded."""
    for entry in yaml.safe_load(cassette.read_text(encoding="utf-8"))["interactions"]:
        request, response = entry["request"], entry["response"]
        if only is not None and only not in request["uri"]:
            continue
        yield Interaction(
            method=request["method"],
            uri=request["uri"],
            request=_request_json(request),
            status=response["status"]["code"],
            headers={k.lower(): v[0] for k, v in response.get("headers", {}).items() if v},
            body=_response_bytes(response),
        )


def _request_json(request: Mapping[str, Any]) -> Any:
    if "parsed_body" in request:
        return request["parsed_body"]
    body = request.get("body")
    try:
        return json.loads(body) if body else None
    except ValueError:
        return body


def _response_bytes(response: Mapping[str, Any]) -> bytes:
    if "parsed_body" in response:
        return json.dumps(response["parsed_body"], ensure_ascii=False).encode()
    body = response.get("body") or {}
    if "base64_string" in body:
        data = base64.b64decode(body["base64_string"])
    else:
        text = body.get("string") or b""
        data = text.encode() if isinstance(text, str) else text
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def cut(body: bytes, split: Split) -> list[bytes]:
    """Cut a body into pieces; joined they are the body again."""
    if split is None:
        return [body]
    if split == "awkward":
        positions = _awkward_positions(body)
    else:
        positions = list(range(split, len(body), split))
    edges = [0, *positions, len(body)]
    return [body[a:b] for a, b in itertools.pairwise(edges) if a < b]


def _awkward_positions(body: bytes, most: int = 48) -> list[int]:
    inside_characters = [i for i, byte in enumerate(body) if byte & 0xC0 == 0x80]
    inside_line_ends = [
        i + 1 for i in range(len(body) - 1) if body[i : i + 2] in (b"\n\n", b"\r\n")
    ]
    inside_names = [i + 2 for i in range(len(body)) if body.startswith(b"data:", i)]
    chosen = random.Random(len(body))
    found: set[int] = set()
    for kind in (inside_characters, inside_line_ends, inside_names, range(1, len(body))):
        found.update(chosen.sample(list(kind), min(len(kind), most // 4)))
    return sorted(found)


def _body_bytes(body: Any) -> bytes:
    if body is None:
        return b""
    if isinstance(body, bytes):
        return body
    return body.encode() if isinstance(body, str) else json.dumps(body).encode()


def sse(*events: Any, event_names: bool = False, done: bool = False) -> list[str]:
    """Write events as server-sent events, one piece each.

    Args:
        events: anything JSON can hold (or a string, sent as it is, as data).
        event_names: also write `event:` with the event's own `type` (Anthropic, OpenAI Responses).
        done: end with OpenAI's `data: [DONE]`.
    """
    pieces = []
    for event in events:
        data = event if isinstance(event, str) else json.dumps(event)
        name = f"event: {event['type']}\n" if event_names else ""
        pieces.append(f"{name}data: {data}\n\n")
    if done:
        pieces.append("data: [DONE]\n\n")
    return pieces


def openai_usage(
    input_tokens: int = 10,
    output_tokens: int = 5,
    *,
    cached: int = 0,
    reasoning: int = 0,
) -> dict[str, Any]:
    """A usage object as OpenAI's chat API sends it."""
    return {
        "prompt_tokens": input_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": input_tokens + output_tokens,
        "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": reasoning, "audio_tokens": 0},
    }


def openai_chat_reply(
    content: str | None = "Hello there.",
    model: str = "gpt-4o-2024-08-06",
    *,
    usage: Mapping[str, Any] | None = None,
    finish_reason: str = "stop",
    tool_calls: Sequence[Mapping[str, Any]] = (),
    message: Mapping[str, Any] | None = None,
    **scripted: Any,
) -> Scripted:
    """A whole chat completion. `message` adds to (or overrides) the assistant message's fields;
    further arguments are those of `Scripted`."""
    said: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if tool_calls:
        said["tool_calls"] = list(tool_calls)
    body = {
        "id": "chatcmpl-loopback",
        "object": "chat.completion",
        "created": 1_760_000_000,
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": said | dict(message or {}),
                "logprobs": None,
                "finish_reason": finish_reason,
            }
        ],
        "usage": dict(usage) if usage is not None else openai_usage(),
        "service_tier": "default",
        "system_fingerprint": "fp_loopback",
    }
    # Serialised once: a server that answers thousands of calls must not be the bottleneck.
    return Scripted(body=json.dumps(body).encode(), **scripted)


def openai_chat_stream(
    pieces: Sequence[str] = ("Hello", " there", "."),
    model: str = "gpt-4o-2024-08-06",
    *,
    usage: Mapping[str, Any] | None = None,
    finish_reason: str | None = "stop",
    usage_with_choices: bool = False,
    done: bool = True,
    **scripted: Any,
) -> Scripted:
    """A chat completion as an event stream, usage in a last chunk of its own.

    Args:
        pieces: the content, one chunk each.
        finish_reason: None leaves the finishing chunk out.
        usage_with_choices: put the usage into the finishing chunk, beside its choice, as some
            servers do.
        done: end with `data: [DONE]`.
        scripted: further arguments of `Scripted` (`between_s`, `end`, …).
    """

    def chunk(choices: list[dict[str, Any]], counted: Mapping[str, Any] | None = None) -> Any:
        return {
            "id": "chatcmpl-loopback",
            "object": "chat.completion.chunk",
            "created": 1_760_000_000,
            "model": model,
            "service_tier": "default",
            "choices": choices,
            "usage": None if counted is None else dict(counted),
        }

    def choice(delta: Mapping[str, Any], finish: str | None = None) -> list[dict[str, Any]]:
        return [{"index": 0, "delta": dict(delta), "logprobs": None, "finish_reason": finish}]

    counted = usage if usage is not None else openai_usage(output_tokens=len(pieces))
    events = [chunk(choice({"role": "assistant", "content": ""}))]
    events += [chunk(choice({"content": piece})) for piece in pieces]
    if finish_reason is not None:
        events.append(chunk(choice({}, finish_reason), counted if usage_with_choices else None))
        if not usage_with_choices:
            events.append(chunk([], counted))
    return Scripted(pieces=sse(*events, done=done), **scripted)


def openai_embedding_reply(
    vectors: Sequence[Sequence[float]], model: str = "text-embedding-3-small", tokens: int = 5
) -> Scripted:
    """An embeddings answer with float vectors."""
    return Scripted(
        body={
            "object": "list",
            "model": model,
            "data": [
                {"object": "embedding", "index": i, "embedding": list(vector)}
                for i, vector in enumerate(vectors)
            ],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
    )


def openai_error(
    status: int,
    message: str = "it went wrong",
    *,
    code: str | None = None,
    kind: str = "error",
    headers: Mapping[str, str] | None = None,
) -> Scripted:
    """An error as OpenAI sends it."""
    error = {"message": message, "type": kind, "param": None, "code": code}
    return Scripted(status, body={"error": error}, headers=headers or {})


def main() -> None:
    """Serve a canned chat completion (a stream where it is asked for) until stdin is closed."""
    reply, stream = openai_chat_reply(), openai_chat_stream()

    def answer(request: Received) -> Scripted:
        return stream if b'"stream":true' in request.body else reply

    with ScriptedServer(answer) as server:
        print(server.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
