"""Ollama over its official client: local models, no key, no bill.

The client addresses, sends and tells errors; its models of requests and answers are left aside: they
drop what they don't know, nested schemas of tools and the ids of calls among it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
from typing import TYPE_CHECKING, Any, ClassVar, cast
from urllib.parse import urlsplit

import orjson

from novellus_lab.errors import (
    BadRequestError,
    InvalidRequestError,
    NovellusError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    UnsupportedParameterError,
)
from novellus_lab.providers.api_errors import (
    error_in_band,
    from_response,
    from_sdk,
    truncated,
)
from novellus_lab.providers.base import (
    Provider,
    ProviderConfig,
    data_url,
    is_loopback,
    reject_or_drop,
    signed_call_id,
    without_signatures,
)
from novellus_lab.providers.sse import DRAIN_S
from novellus_lab.providers.usage import ollama_usage
from novellus_lab.types import EMPTY, Delta, EmbeddingReply, FinishReason, Reply, ToolCall

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    import httpx
    import ollama

    from novellus_lab.providers.base import Call
    from novellus_lab.types import Message

DEFAULT_HOST = "http://127.0.0.1:11434"
DEFAULT_TIMEOUT_S = 600.0
CONNECT_TIMEOUT_S = 10.0
_REACH_S = 0.15
_MISSHAPEN = (KeyError, TypeError, IndexError, AttributeError, ValueError)
_OPTIONS = frozenset(
    [
        "num_ctx",
        "num_keep",
        "num_batch",
        "num_gpu",
        "num_thread",
        "main_gpu",
        "use_mmap",
        "top_k",
        "min_p",
        "typical_p",
        "repeat_last_n",
        "repeat_penalty",
        "presence_penalty",
        "frequency_penalty",
        "mirostat",
        "mirostat_tau",
        "mirostat_eta",
    ]
)
_BESIDE = frozenset(["think", "keep_alive", "truncate", "shift", "logprobs", "top_logprobs"])
_COUNTS = (
    "prompt_eval_count",
    "eval_count",
    "total_duration",
    "load_duration",
    "prompt_eval_duration",
    "eval_duration",
)
_FINISH: Mapping[str, FinishReason] = {"stop": "stop", "length": "length"}


class OllamaProvider(Provider):
    """A local Ollama, or one elsewhere.

    `params` that are its model options (`num_ctx`, `top_k`, …) go there, and so does what stands
    under `options`; `think`, `keep_alive` and the like go beside them. Ollama itself ignores what it
    does not know: other names are refused here.

    Options (of the provider in the configuration):
        headers: sent with every request.
    """

    name: ClassVar[str] = "ollama"
    requires: ClassVar[str | None] = "ollama"
    extra: ClassVar[str | None] = "ollama"
    own_endpoints: ClassVar[bool] = True

    def __init__(self, config: ProviderConfig) -> None:
        super().__init__(config)
        self._secret = config.api_key.get_secret_value() if config.api_key else None
        self._host = config.base_url or os.environ.get("OLLAMA_HOST") or DEFAULT_HOST
        self._sdk: ollama.AsyncClient | None = None

    @classmethod
    def unavailable_because(cls, config: ProviderConfig) -> str | None:
        missing = super().unavailable_because(config)
        if missing is not None:
            return missing
        host = config.base_url or DEFAULT_HOST
        parts = urlsplit(_with_scheme(host))
        port = parts.port or (443 if parts.scheme == "https" else 11434)
        try:
            socket.create_connection((parts.hostname or "127.0.0.1", port), _REACH_S).close()
        except OSError:
            return f"no Ollama answers at {host}: start it with `ollama serve`, or set OLLAMA_HOST"
        return None

    async def complete(self, call: Call) -> Reply:
        body, dropped = _request_body(call)
        deadline = _deadline(call.timeout_s)
        try:
            async with asyncio.timeout_at(deadline):
                answer = await self._post("/api/chat", {**body, "stream": False})
        except Exception as error:
            raise self._translate(error, call.model) from None
        try:
            self._raise_error_in(answer, call.model)
            if not answer.get("done"):
                raise truncated(provider=self.name, model=call.model)
            return _reply([answer], call, dropped)
        except _MISSHAPEN:
            raise self._unreadable(answer, call.model) from None

    async def stream(self, call: Call) -> AsyncIterator[Delta]:
        body, dropped = _request_body(call)
        deadline = _deadline(call.timeout_s)
        pieces: list[dict[str, Any]] = []
        answer: Any = None
        done = False
        try:
            while not done:
                try:
                    async with asyncio.timeout_at(deadline):
                        if answer is None:
                            answer = await self._post("/api/chat", {**body, "stream": True})
                        piece = await anext(answer, None)
                except Exception as error:
                    raise self._translate(error, call.model) from None
                if piece is None:
                    raise truncated(provider=self.name, model=call.model)
                pieces.append(piece)
                try:
                    done = bool(piece.get("done"))
                    delta = _delta(piece, first=len(pieces) == 1)
                    reply = _reply(pieces, call, dropped) if done else None
                except _MISSHAPEN:
                    raise self._unreadable(piece, call.model) from None
                if delta is not None:
                    yield delta
                if reply is not None:
                    with contextlib.suppress(Exception):  # the end, for the connection's next use
                        async with asyncio.timeout(DRAIN_S):
                            await anext(answer, None)
                    yield Delta(reply=reply)
        finally:
            if answer is not None:
                await answer.aclose()

    async def embed(
        self,
        model: str,
        texts: Sequence[str],
        *,
        dimensions: int | None = None,
        timeout_s: float | None = None,
    ) -> EmbeddingReply:
        body: dict[str, Any] = {"model": model, "input": list(texts)}
        if dimensions is not None:
            body["dimensions"] = dimensions
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._post("/api/embed", body)
        except Exception as error:
            raise self._translate(error, model) from None
        try:
            self._raise_error_in(answer, model)
            vectors = tuple(tuple(map(float, vector)) for vector in answer["embeddings"])
        except _MISSHAPEN:
            raise self._unreadable(answer, model) from None
        if len(vectors) != len(texts):
            raise ProviderUnavailableError(
                f"ollama model {model!r} answered {len(texts)} texts with {len(vectors)} vectors",
                provider=self.name,
                status_code=200,
            )
        raw = {name: answer[name] for name in _COUNTS if name in answer}
        return EmbeddingReply(
            vectors=vectors,
            usage=ollama_usage(raw),
            model=answer.get("model") or model,
            raw_usage=raw,
        )

    async def installed_models(self) -> tuple[str, ...]:
        """Return the names of the models that were pulled."""
        try:
            async with asyncio.timeout(2.0):
                answer = await self._client().list()
        except Exception as error:
            raise self._translate(error, "any") from None
        return tuple(model.model for model in answer.models if model.model)

    async def aclose(self) -> None:
        client, self._sdk = self._sdk, None
        if client is not None:
            await client.close()  # type: ignore[no-untyped-call]

    def _client(self) -> ollama.AsyncClient:
        if self._sdk is None:
            import httpx
            import ollama

            most = self.config.max_connections
            limits = httpx.Limits(
                max_connections=most, max_keepalive_connections=most, keepalive_expiry=30.0
            )
            # The environment's proxies hold as for any program, never for a server right here.
            trust_env = not is_loopback(_with_scheme(self._host))
            settings: dict[str, Any] = {"limits": limits, "trust_env": trust_env}
            try:
                from httpx_aiohttp import AiohttpTransport
            except ImportError:
                pass
            else:
                settings["transport"] = AiohttpTransport(limits=limits, trust_env=trust_env)
            headers = dict(self.config.options.get("headers") or {})
            if self._secret is not None:
                headers["authorization"] = f"Bearer {self._secret}"
            self._sdk = ollama.AsyncClient(
                host=self._host,
                headers=headers,
                follow_redirects=False,
                timeout=httpx.Timeout(DEFAULT_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
                **settings,
            )
            if "authorization" not in {name.lower() for name in headers}:
                # The client takes OLLAMA_API_KEY from the environment, for any server at all. A key
                # is sent where the configuration names one for it (`api_key_env`), nowhere else.
                self._sdk._client.headers.pop("authorization", None)
        return self._sdk

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        """Return the answer's JSON, or an iterator of JSON lines."""
        try:
            content = orjson.dumps(body)
        except TypeError as error:
            raise InvalidRequestError(f"the request can't be written as JSON: {error}") from None
        client = cast("Any", self._client())
        return await client._request(
            dict, "POST", path, content=content, stream=body.get("stream", False)
        )

    def _raise_error_in(self, answer: Mapping[str, Any], model: str) -> None:
        if answer.get("error"):
            raise error_in_band(
                answer["error"], provider=self.name, model=model, secret=self._secret
            )

    def _unreadable(self, answer: object, model: str) -> ProviderUnavailableError:
        return ProviderUnavailableError(
            f"ollama model {model!r} answered with what is no answer: {answer!r:.200}",
            provider=self.name,
            status_code=200,
        )

    def _translate(self, error: Exception, model: str) -> Exception:
        """Turn what the client and the HTTP library below it raise into an error of ours."""
        if isinstance(error, NovellusError):
            return error
        if type(error) is TimeoutError:
            return ProviderTimeoutError(
                f"ollama model {model!r} did not answer in time", provider=self.name
            )
        # What the client makes of a refusal lacks its headers, or fails to be made.
        response = _response_below(error)
        if response is not None:
            return self._refusal(response, model)
        if hasattr(error, "status_code"):  # an error line in a 200 stream
            return error_in_band(
                getattr(error, "error", None) or str(error),
                provider=self.name,
                model=model,
                secret=self._secret,
            )
        if isinstance(error, ValueError | TypeError):  # a line that is no JSON, or no object
            return ProviderUnavailableError(
                f"ollama model {model!r} answered with what can't be read as JSON",
                provider=self.name,
                status_code=200,
            )
        # The client hides that it could not connect behind a ConnectionError; why, shows only below.
        below = error.__context__ if isinstance(error, ConnectionError) else None
        cause = below if isinstance(below, Exception) else error
        return from_sdk(cause, provider=self.name, model=model, secret=self._secret)

    def _refusal(self, response: httpx.Response, model: str) -> NovellusError:
        if response.status_code == 404 and re.search(rb"model .*not found", response.content):
            return BadRequestError(
                f"ollama model {model!r} is not installed: `ollama pull {model}`",
                provider=self.name,
                status_code=404,
            )
        return from_response(response, provider=self.name, model=model, secret=self._secret)


def _with_scheme(host: str) -> str:
    """OLLAMA_HOST may be an address alone."""
    return host if "://" in host else f"http://{host}"


def _response_below(error: BaseException) -> httpx.Response | None:
    """Return the HTTP response that an error of the client came from."""
    seen: BaseException | None = error
    while seen is not None:
        response: httpx.Response | None = getattr(seen, "response", None)
        if response is not None:
            return response
        seen = seen.__context__
    return None


def _deadline(timeout_s: float | None) -> float | None:
    return None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s


def _request_body(call: Call) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the request's JSON, and the names of parameters that were left out.

    Raises:
        UnsupportedParameterError: Ollama has nothing like a parameter, or like a message's content.
    """
    options: dict[str, Any] = {}
    body: dict[str, Any] = {"model": call.model}
    unknown: dict[str, object] = {}
    for name, value in call.params.items():
        if name == "options":
            options.update(value)
        elif name == "extra_body":
            body.update(value)
        elif name in _OPTIONS:
            options[name] = value
        elif name in _BESIDE:
            body[name] = value
        elif (name, value) != ("n", 1):
            unknown[name] = value
    choice = call.tool_choice
    if choice not in (None, "auto", "none"):
        unknown["tool_choice"] = choice  # it offers tools, and can't insist on one
    dropped = reject_or_drop(call, "ollama", unknown)
    given = {
        "num_predict": call.max_tokens,
        "temperature": call.temperature,
        "top_p": call.top_p,
        "seed": call.seed,
        "stop": list(call.stop) or None,
    }
    options.update((name, value) for name, value in given.items() if value is not None)
    if options:
        body["options"] = options
    form = call.response_format or EMPTY
    if form:
        schema = form.get("json_schema", EMPTY).get("schema")
        body["format"] = schema if form["type"] == "json_schema" else "json"
    if call.tools and choice != "none":  # what is not offered is not called
        body["tools"] = list(call.tools)
    names: dict[str, str] = {}
    body["messages"] = [_message(m, names) for m in without_signatures(call.messages)]
    return body, dropped


def _message(message: Message, names: dict[str, str]) -> dict[str, Any]:
    role = "system" if message["role"] == "developer" else message["role"]
    made: dict[str, Any] = {"role": role}
    content = message.get("content")
    if isinstance(content, str) or content is None:
        made["content"] = content or ""
    else:
        odd = sorted({p["type"] for p in content} - {"text", "image_url"})
        if odd:
            raise UnsupportedParameterError(f"Ollama takes text and images, no {', '.join(odd)}")
        made["content"] = "\n".join(p["text"] for p in content if p["type"] == "text")
        images = [_image(p) for p in content if p["type"] == "image_url"]
        if images:
            made["images"] = images
    if message.get("tool_calls"):
        made["tool_calls"] = [_called(call, names) for call in message["tool_calls"]]
    if role == "tool":
        made["tool_call_id"] = message["tool_call_id"]
        if message["tool_call_id"] in names:
            made["tool_name"] = names[message["tool_call_id"]]
    return made


def _called(call: Mapping[str, Any], names: dict[str, str]) -> dict[str, Any]:
    function = call["function"]
    names[call["id"]] = function["name"]
    try:
        arguments = orjson.loads(function["arguments"] or "{}")
    except ValueError:
        raise InvalidRequestError(
            f"the arguments of tool call {call['id']!r} are no JSON"
        ) from None
    return {"id": call["id"], "function": {"name": function["name"], "arguments": arguments}}


def _image(part: Mapping[str, Any]) -> str:
    image = part["image_url"]
    url = image["url"] if isinstance(image, dict) else image
    inline = data_url(url)
    if inline is None:
        raise UnsupportedParameterError(
            "Ollama loads no images from the web: give them as 'data:image/…;base64,…'"
        )
    return inline[1]


def _delta(piece: Mapping[str, Any], *, first: bool) -> Delta | None:
    message = piece.get("message") or EMPTY
    text, thought = message.get("content") or "", message.get("thinking") or ""
    model = piece.get("model") if first else None
    return Delta(content=text, reasoning=thought, model=model) if text or thought or model else None


def _reply(pieces: Sequence[Mapping[str, Any]], call: Call, dropped: tuple[str, ...]) -> Reply:
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[ToolCall] = []
    for piece in pieces:
        message = piece.get("message") or EMPTY
        texts.append(message.get("content") or "")
        thoughts.append(message.get("thinking") or "")
        for tool in message.get("tool_calls") or ():
            function = tool["function"]
            said = function.get("arguments") or {}
            arguments = said if isinstance(said, str) else orjson.dumps(said).decode()
            calls.append(
                ToolCall(signed_call_id(tool.get("id"), None), function["name"], arguments)
            )
    last = pieces[-1]
    raw = {name: last[name] for name in _COUNTS if name in last}
    finish: FinishReason = _FINISH.get(last.get("done_reason") or "stop", "unknown")
    return Reply(
        content="".join(texts),
        usage=ollama_usage(raw),
        model=last.get("model") or call.model,
        finish_reason="tool_calls" if calls and finish != "length" else finish,
        tool_calls=tuple(calls),
        reasoning="".join(thoughts) or None,
        raw_usage=raw,
        dropped_params=dropped,
    )
