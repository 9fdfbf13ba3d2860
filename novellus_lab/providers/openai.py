"""OpenAI, and every server that speaks its API, over the official `openai` SDK.

A `base_url` makes vLLM, llama.cpp, LM Studio, OpenRouter, Groq, Mistral, DeepSeek and the like
work; no key is needed then unless one is named.

The SDK sends, signs and times out; its retries are off. Requests go by its documented way for raw
bodies and raw responses (`client.post(..., content=..., cast_to=httpx2.Response)`) over its own
aiohttp transport: building and validating the SDK's models costs as much as the rest of the call,
and turns compatible servers' accents into surprises.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import sys
from array import array
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, cast
from urllib.parse import urlsplit

import orjson

from novellus_lab.errors import (
    InvalidRequestError,
    NovellusError,
    ProviderTimeoutError,
    ProviderUnavailableError,
)
from novellus_lab.providers import openai_chat, openai_responses
from novellus_lab.providers.api_errors import (
    RefusedParameterError,
    error_in_band,
    from_sdk,
    truncated,
    unreadable,
)
from novellus_lab.providers.base import Provider, ProviderConfig, is_loopback, no_batches_at
from novellus_lab.providers.sse import EventDecoder, drain
from novellus_lab.providers.usage import openai_embedding_usage
from novellus_lab.types import EMPTY, Delta, EmbeddingReply, Reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from types import ModuleType

    import httpx2
    import openai

    from novellus_lab.providers.base import Call
    from novellus_lab.providers.batches import BatchApi

DEFAULT_TIMEOUT_S = 600.0
CONNECT_TIMEOUT_S = 10.0
KEEPALIVE_S = 30.0
NO_KEY = "no-key-needed"

_JSON = {"Content-Type": "application/json"}
_NEEDED = frozenset({"model", "messages", "input", "stream", "tools"})
_MAX_TEXTS_PER_REQUEST = 2048
_MAX_BYTES_PER_REQUEST = 300_000
"""OpenAI takes 2,048 texts and 300,000 tokens in one embedding request; no token is under a byte."""


class OpenAIProvider(Provider):
    """OpenAI's chat completions, responses and embeddings.

    Options (of the provider in the configuration; a model's `params` go before them):
        api: `chat` (default) or `responses`.
        max_tokens_param: `max_tokens` or `max_completion_tokens`; by default the second for names
            of OpenAI's reasoning models.
        reasoning_model: whether this is one, where the name does not tell.
        stream_usage: false for servers that reject `stream_options`.
        embedding_format: `base64` (default at OpenAI and Azure) or `float`.
        embedding_batch: texts in one request, at most 2,048.
        organization, project, headers: sent with every request.
        batches: whether a server at a `base_url` has the batch API, too.
    """

    name: ClassVar[str] = "openai"
    requires: ClassVar[str | None] = "openai"
    extra: ClassVar[str | None] = "openai"
    api_key_envs: ClassVar[tuple[str, ...]] = ("OPENAI_API_KEY",)

    def __init__(self, config: ProviderConfig) -> None:
        super().__init__(config)
        key = config.api_key
        self._secret = key.get_secret_value() if key is not None else None
        self._sdk: openai.AsyncOpenAI | None = None
        self._renamed: set[str] = set()
        self._refused: dict[str, frozenset[str]] = {}

    @classmethod
    def unavailable_because(cls, config: ProviderConfig) -> str | None:
        named = config.api_key is not None or config.api_key_env is not None
        if not named and config.base_url is not None and not _is_openai(config.base_url):
            from pydantic import SecretStr

            # Most compatible servers that one runs oneself want no key.
            config = replace(config, api_key=SecretStr(NO_KEY))
        return super().unavailable_because(config)

    async def complete(self, call: Call) -> Reply:
        flavour = self._flavour(call)
        body, dropped = flavour.request_body(call, provider=self.name, options=self.config.options)
        response, left_out = await self._post(
            flavour.PATH, body, call.model, call.timeout_s, drop=call.on_unsupported == "drop"
        )
        reply: Reply = flavour.read_reply(
            response.content,
            response.headers,
            provider=self.name,
            model=call.model,
            dropped=dropped + left_out,
            secret=self._secret,
        )
        return reply

    async def stream(self, call: Call) -> AsyncIterator[Delta]:
        flavour = self._flavour(call)
        body, dropped = flavour.request_body(
            call, provider=self.name, stream=True, options=self.config.options
        )
        loop = asyncio.get_running_loop()
        deadline = None if call.timeout_s is None else loop.time() + call.timeout_s
        response, left_out = await self._post(
            flavour.PATH,
            body,
            call.model,
            call.timeout_s,
            drop=call.on_unsupported == "drop",
            stream=True,
        )
        told: dict[str, Any] = {
            "provider": self.name,
            "model": call.model,
            "dropped": dropped + left_out,
            "secret": self._secret,
        }
        try:
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                # Some servers answer whole, or send an error as a plain body.
                whole = await self._read_whole(response, call.model, deadline)
                if whole.lstrip()[:1] == b"{":
                    reply = flavour.read_reply(whole, response.headers, **told)
                    yield Delta(content=reply.content, reasoning=reply.reasoning or "")
                    yield Delta(reply=reply)
                    return
                chunks = _once(whole)
            else:
                chunks = response.aiter_bytes()
            reader = flavour.StreamReader(response.headers, **told)
            decoder = EventDecoder()
            while not reader.done:
                try:
                    async with asyncio.timeout_at(deadline):
                        events = decoder.feed(await anext(chunks))
                except StopAsyncIteration:
                    events, ended = decoder.finish(), True
                except Exception as error:
                    if reader.complete:  # all was said; only the goodbye was lost
                        break
                    raise self._translate(error, call.model) from None
                else:
                    ended = False
                for name, data in events:
                    for delta in reader.feed(name, data):
                        yield delta
                if ended:
                    break
            if not reader.complete:
                raise truncated(provider=self.name, model=call.model)
            reply = reader.reply()
            await drain(chunks)
            yield Delta(reply=reply)
        finally:
            with contextlib.suppress(Exception):
                await response.aclose()

    async def embed(
        self,
        model: str,
        texts: Sequence[str],
        *,
        dimensions: int | None = None,
        timeout_s: float | None = None,
    ) -> EmbeddingReply:
        """Turn texts into vectors, in order, in as few requests as the API's limits allow."""
        options = self.config.options
        form = options.get("embedding_format") or ("base64" if self._is_first_party() else "float")
        vectors: list[tuple[float, ...]] = []
        name, raw, response_id = model, None, None
        loop = asyncio.get_running_loop()
        deadline = None if timeout_s is None else loop.time() + timeout_s
        most = min(
            int(options.get("embedding_batch") or _MAX_TEXTS_PER_REQUEST), _MAX_TEXTS_PER_REQUEST
        )
        for batch in _batches(texts, most):
            body: dict[str, Any] = {"model": model, "input": batch, "encoding_format": form}
            if dimensions is not None:
                body["dimensions"] = dimensions
            left = None if deadline is None else deadline - loop.time()
            response, _ = await self._post("/embeddings", body, model, left)
            data = self._embedding_json(response, model)
            try:
                found = _vectors(data)
                raw = _added(raw, data.get("usage") or {})
            except openai_chat.MISSHAPEN:
                raise unreadable(
                    response.content, response.headers, provider=self.name, model=model
                ) from None
            if len(found) != len(batch):
                raise ProviderUnavailableError(
                    f"{self.name} model {model!r} answered {len(batch)} texts with "
                    f"{len(found)} vectors",
                    provider=self.name,
                    status_code=200,
                )
            vectors += found
            name, response_id = data.get("model") or name, data.get("id") or response_id
        return EmbeddingReply(
            vectors=tuple(vectors),
            usage=openai_embedding_usage(raw),
            model=name,
            raw_usage=raw or EMPTY,
            response_id=response_id,
        )

    def batches(self) -> BatchApi:
        from novellus_lab.providers.openai_batches import OpenAIBatches

        if not (self._is_first_party() or self.config.options.get("batches")):
            raise no_batches_at(self._base_url(), self.name)
        return OpenAIBatches(_BatchSpeaker(self), _reader_of, prefix=self._batch_prefix)

    async def aclose(self) -> None:
        client, self._sdk = self._sdk, None
        if client is not None:
            await client.close()

    # What Azure does otherwise.

    _batch_prefix: ClassVar[str] = "/v1"
    """Before the path of a line's endpoint, whatever the `base_url`."""

    def _make_client(self, http_client: httpx2.AsyncClient | None) -> openai.AsyncOpenAI:
        import openai

        options = self.config.options
        headers: dict[str, Any] = dict(options.get("headers") or {})
        if self.config.base_url is not None and not _is_openai(self.config.base_url):
            # The SDK reads these from the environment; they are nobody's business but OpenAI's.
            for header, option in (
                ("OpenAI-Organization", "organization"),
                ("OpenAI-Project", "project"),
            ):
                if option not in options:
                    headers.setdefault(header, openai.Omit())
        return openai.AsyncOpenAI(
            api_key=self._secret or NO_KEY,
            base_url=self.config.base_url,
            organization=options.get("organization"),
            project=options.get("project"),
            max_retries=0,
            timeout=DEFAULT_TIMEOUT_S,
            default_headers=headers,
            http_client=http_client,
        )

    def _wire_model(self, model: str) -> str:
        """Return the name to send for a model."""
        return model

    def _path(self, path: str, model: str) -> str:
        return path

    def _base_url(self) -> str | None:
        return self.config.base_url or os.environ.get("OPENAI_BASE_URL")

    def _is_first_party(self) -> bool:
        base_url = self.config.base_url
        return base_url is None or _is_openai(base_url)

    # The plumbing.

    def _flavour(self, call: Call) -> ModuleType:
        api = call.params.get("api") or self.config.options.get("api") or "chat"
        if api == "chat":
            return openai_chat
        if api == "responses":
            return openai_responses
        raise InvalidRequestError(f"api must be 'chat' or 'responses', not {api!r}")

    def _client(self) -> openai.AsyncOpenAI:
        if self._sdk is None:
            import httpx2
            import openai

            most = self.config.max_connections
            settings: dict[str, Any] = {
                "limits": httpx2.Limits(
                    max_connections=most,
                    max_keepalive_connections=most,
                    keepalive_expiry=KEEPALIVE_S,
                ),
                # The environment's proxies hold as for any program, never for a server right here.
                "trust_env": not is_loopback(self._base_url()),
            }
            try:
                http_client = openai.DefaultAioHttpClient(**settings)
            except RuntimeError:  # aiohttp is not installed
                http_client = openai.DefaultAsyncHttpxClient(**settings)
            self._sdk = self._make_client(http_client)
        return self._sdk

    async def _post(
        self,
        path: str,
        body: dict[str, Any],
        model: str,
        timeout_s: float | None,
        *,
        drop: bool = False,
        stream: bool = False,
    ) -> tuple[httpx2.Response, tuple[str, ...]]:
        """Send a request; return its response, and the parameters that the server made us drop.

        A server that refuses a parameter by name, at no charge, is asked again without it where
        dropping is allowed, and with `max_completion_tokens` where it wants that for `max_tokens`.
        """
        body["model"] = self._wire_model(model)
        left_out = self._adapt(body, model, drop)
        while True:
            try:
                return await self._send(path, body, model, timeout_s, stream), left_out
            except RefusedParameterError as error:
                name = error.param
                if name == "max_tokens" and "max_completion_tokens" in str(error):
                    self._renamed.add(model)
                elif drop and name in body and name not in _NEEDED:
                    self._refused[model] = self._refused.get(model, frozenset()) | {name}
                else:
                    raise
                adapted = self._adapt(body, model, drop)
                if name in body:
                    raise
                left_out += adapted

    def _adapt(self, body: dict[str, Any], model: str, drop: bool) -> tuple[str, ...]:
        if model in self._renamed and "max_tokens" in body:
            body["max_completion_tokens"] = body.pop("max_tokens")
        if not drop or model not in self._refused:
            return ()
        names = tuple(n for n in self._refused[model] if n in body)
        for name in names:
            del body[name]
        return names

    async def _send(
        self, path: str, body: dict[str, Any], model: str, timeout_s: float | None, stream: bool
    ) -> httpx2.Response:
        import httpx2
        import openai

        try:
            content = orjson.dumps(body, default=_plain_json)
        except TypeError as error:
            raise InvalidRequestError(f"the request can't be written as JSON: {error}") from None
        client = self._client()
        # Whole: the SDK would otherwise put it together, and take it apart, for every call.
        url = str(client.base_url).rstrip("/") + self._path(path, model)
        limit = DEFAULT_TIMEOUT_S if timeout_s is None else max(timeout_s, 0.001)
        try:
            async with asyncio.timeout(timeout_s):
                response = await client.post(
                    url,
                    cast_to=httpx2.Response,
                    content=content,
                    options={
                        "headers": _JSON,
                        "timeout": httpx2.Timeout(limit, connect=min(limit, CONNECT_TIMEOUT_S)),
                    },
                    stream=stream,
                    stream_cls=openai.AsyncStream[object],
                )
                return cast("httpx2.Response", response)
        except Exception as error:
            translated = self._translate(error, model)
        raise translated

    def _translate(self, error: Exception, model: str) -> Exception:
        """Turn what the SDK and the libraries below it raise into an error of ours."""
        if isinstance(error, NovellusError):
            return error
        if type(error) is TimeoutError:
            return ProviderTimeoutError(
                f"{self.name} model {model!r} did not answer in time", provider=self.name
            )
        root = type(error).__module__.partition(".")[0]
        if root in ("openai", "httpx2", "httpx", "httpcore2", "httpcore", "aiohttp", "anyio") or (
            isinstance(error, OSError)
        ):
            return from_sdk(error, provider=self.name, model=model, secret=self._secret)
        return error

    async def _read_whole(
        self, response: httpx2.Response, model: str, deadline: float | None
    ) -> bytes:
        try:
            async with asyncio.timeout_at(deadline):
                return await response.aread()
        except Exception as error:
            raise self._translate(error, model) from None

    def _embedding_json(self, response: httpx2.Response, model: str) -> dict[str, Any]:
        try:
            data = orjson.loads(response.content)
        except orjson.JSONDecodeError:
            data = None
        if isinstance(data, dict) and data.get("error"):
            raise error_in_band(
                data["error"],
                provider=self.name,
                model=model,
                headers=response.headers,
                secret=self._secret,
            )
        if not isinstance(data, dict) or not isinstance(data.get("data"), list):
            raise unreadable(response.content, response.headers, provider=self.name, model=model)
        return data


class _BatchSpeaker:
    """Says in a batch what the provider says in a call."""

    def __init__(self, provider: OpenAIProvider) -> None:
        self._provider = provider
        self.name = provider.name
        self.secret = provider._secret

    def client(self) -> openai.AsyncOpenAI:
        return self._provider._client()

    def words(self, call: Call) -> tuple[ModuleType, dict[str, Any], tuple[str, ...]]:
        provider = self._provider
        flavour = provider._flavour(call)
        body, dropped = flavour.request_body(
            call, provider=provider.name, options=provider.config.options
        )
        body["model"] = provider._wire_model(call.model)
        drop = call.on_unsupported == "drop"
        return flavour, body, dropped + provider._adapt(body, call.model, drop)

    def translate(self, error: Exception, model: str) -> Exception:
        return self._provider._translate(error, model)


def _reader_of(kind: str) -> ModuleType:
    return openai_responses if kind == "response" else openai_chat


def _is_openai(base_url: str) -> bool:
    host = urlsplit(base_url).hostname or ""
    return host == "openai.com" or host.endswith(".openai.com")


def _plain_json(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def _batches(texts: Sequence[str], most: int) -> list[list[str]]:
    batches: list[list[str]] = []
    size = 0
    for text in texts:
        length = len(text.encode("utf-8", "surrogatepass"))
        if not batches or len(batches[-1]) >= most or size + length > _MAX_BYTES_PER_REQUEST:
            batches.append([])
            size = 0
        batches[-1].append(text)
        size += length
    return batches


def _vectors(data: Mapping[str, Any]) -> list[tuple[float, ...]]:
    rows = sorted(data["data"], key=lambda row: row.get("index", 0))
    return [_vector(row["embedding"]) for row in rows]


def _vector(embedding: str | Sequence[float]) -> tuple[float, ...]:
    if not isinstance(embedding, str):
        return tuple(map(float, embedding))
    floats = array("f", base64.b64decode(embedding))
    if sys.byteorder == "big":
        floats.byteswap()
    return tuple(floats)


def _added(total: dict[str, Any] | None, usage: Mapping[str, Any]) -> dict[str, Any]:
    if total is None:
        return dict(usage)
    for name, value in usage.items():
        if isinstance(value, int | float) and isinstance(total.get(name, 0), int | float):
            total[name] = total.get(name, 0) + value
    return total


async def _once(whole: bytes) -> AsyncIterator[bytes]:
    yield whole
