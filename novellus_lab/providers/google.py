"""Google Gemini over the official SDK.

The SDK addresses, signs and sends; its retries are off. Its models of the answers are left aside:
they forget what they don't know (the service tier and new kinds of tokens among it, which decide
the price), and building them takes longer than all else in a call.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, ClassVar, cast

import orjson

from novellus_lab.errors import (
    InvalidRequestError,
    NovellusError,
    ProviderTimeoutError,
    ProviderUnavailableError,
)
from novellus_lab.providers.api_errors import (
    RefusedParameterError,
    error_in_band,
    from_sdk,
    truncated,
    unreadable,
)
from novellus_lab.providers.base import Provider, ProviderConfig, is_loopback
from novellus_lab.providers.google_content import Reader, request_body
from novellus_lab.providers.sse import EventDecoder
from novellus_lab.providers.usage import google_usage
from novellus_lab.types import Delta, EmbeddingReply, Reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    import httpx2
    from google.genai import Client

    from novellus_lab.providers.base import Call

DEFAULT_TIMEOUT_S = 600.0
CONNECT_TIMEOUT_S = 10.0
_MAX_TEXTS = 100
_MISSHAPEN = (KeyError, TypeError, IndexError, AttributeError, ValueError)


class GoogleProvider(Provider):
    """Gemini, by the Gemini API.

    `params` are what its REST reference calls the fields of `generationConfig` (`thinkingConfig`,
    `topK`, `presencePenalty`, …) and of the request itself (`safetySettings`, `tools`,
    `cachedContent`, `serviceTier`, `labels`), in camelCase or snake_case.

    Options (of the provider in the configuration):
        api_version: `v1beta`, say; the SDK's choice where it is left out.
        headers: sent with every request.
    """

    name: ClassVar[str] = "google"
    requires: ClassVar[str | None] = "google.genai"
    extra: ClassVar[str | None] = "google"
    api_key_envs: ClassVar[tuple[str, ...]] = ("GOOGLE_API_KEY", "GEMINI_API_KEY")

    def __init__(self, config: ProviderConfig) -> None:
        super().__init__(config)
        self._secret = config.api_key.get_secret_value() if config.api_key else None
        self._sdk: Client | None = None
        self._http: httpx2.AsyncClient | None = None

    @classmethod
    def unavailable_because(cls, config: ProviderConfig) -> str | None:
        if config.base_url is not None and config.api_key_env is None:
            # A gateway that one runs oneself may want no key, and is never sent Google's.
            config = ProviderConfig(cls.name, api_key=cls.no_key(), base_url=config.base_url)
        try:
            return super().unavailable_because(config)
        except ModuleNotFoundError:  # no package `google` at all
            return f"the google-genai package is not installed: pip install 'novellus_lab[{cls.extra}]'"

    async def complete(self, call: Call) -> Reply:
        body, dropped = request_body(call, provider=self.name)
        deadline = _deadline(call.timeout_s)
        response, left_out = await self._ask(call, body, "generateContent", deadline)
        reader = Reader(call.model, dropped=dropped + left_out)
        for data in await self._read_whole(response, call.model, deadline):
            for _ in self._feed(reader, data, response, call.model):
                pass
        return reader.reply()

    async def stream(self, call: Call) -> AsyncIterator[Delta]:
        body, dropped = request_body(call, provider=self.name)
        deadline = _deadline(call.timeout_s)
        response, left_out = await self._ask(call, body, "streamGenerateContent?alt=sse", deadline)
        reader = Reader(call.model, dropped=dropped + left_out)
        try:
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                # Some gateways answer whole, or send an error as a plain body.
                for data in await self._read_whole(response, call.model, deadline):
                    for delta in self._feed(reader, data, response, call.model):
                        yield delta
            else:
                async for event in self._events(response, reader, call.model, deadline):
                    for delta in self._feed(reader, event, response, call.model):
                        yield delta
            if not reader.ended:
                raise truncated(provider=self.name, model=call.model)
            yield Delta(reply=reader.reply())
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
        """Turn texts into vectors, in order, in requests of a hundred.

        Gemini's embeddings are charged by the token, and not every model's answer counts them:
        `raw_usage` is empty then, and whoever asked has to estimate.
        """
        deadline = _deadline(timeout_s)
        path = _model_path(model)
        vectors: list[tuple[float, ...]] = []
        raw: dict[str, Any] = {}
        for start in range(0, len(texts), _MAX_TEXTS):
            requests = [
                {
                    "model": path,
                    "content": {"parts": [{"text": text}]},
                    **({} if dimensions is None else {"outputDimensionality": dimensions}),
                }
                for text in texts[start : start + _MAX_TEXTS]
            ]
            response = await self._send(
                f"{path}:batchEmbedContents", {"requests": requests}, model, deadline
            )
            (data,) = await self._read_whole(response, model, deadline)
            try:
                found = [tuple(map(float, e["values"])) for e in data["embeddings"]]
                told = data.get("usageMetadata") or {}
                for name, count in told.items():
                    if isinstance(count, int):
                        raw[name] = raw.get(name, 0) + count
            except _MISSHAPEN:
                raise self._unreadable(response, model) from None
            if len(found) != len(requests):
                raise ProviderUnavailableError(
                    f"google model {model!r} answered {len(requests)} texts with "
                    f"{len(found)} vectors",
                    provider=self.name,
                    status_code=200,
                )
            vectors += found
        return EmbeddingReply(tuple(vectors), google_usage(raw), model, raw_usage=raw)

    async def aclose(self) -> None:
        client, self._sdk = self._sdk, None
        http, self._http = self._http, None
        if client is not None:
            await client.aio.aclose()
            client.close()
        if http is not None:
            await http.aclose()

    def _client(self) -> Client:
        if self._sdk is None:
            import httpx2
            from google.genai import Client, types

            most = self.config.max_connections
            # Made once: the SDK would make three of its own, for clients that we don't use.
            trusted = httpx2.create_ssl_context()
            self._http = httpx2.AsyncClient(
                verify=trusted,
                limits=httpx2.Limits(
                    max_connections=most, max_keepalive_connections=most, keepalive_expiry=30.0
                ),
                # The environment's proxies hold as for any program, never for a server right here.
                trust_env=not is_loopback(self.config.base_url),
            )
            options = self.config.options
            self._sdk = Client(
                api_key=self._secret or "no-key-needed",
                vertexai=False,
                http_options=types.HttpOptions(
                    base_url=self.config.base_url,
                    api_version=options.get("api_version"),
                    headers=dict(options.get("headers") or {}),
                    retry_options=types.HttpRetryOptions(attempts=1),
                    httpx_async_client=self._http,
                    client_args={"verify": trusted},
                    async_client_args={"verify": trusted, "ssl": trusted},
                ),
            )
        return self._sdk

    async def _ask(
        self, call: Call, body: dict[str, Any], method: str, deadline: float | None
    ) -> tuple[httpx2.Response, tuple[str, ...]]:
        """Send a request; return its response, and the parameters that the server made us drop.

        A server that refuses a parameter by name, at no charge, is asked again without it where
        dropping is allowed.
        """
        path = f"{_model_path(call.model)}:{method}"
        left_out: tuple[str, ...] = ()
        while True:
            try:
                return await self._send(path, body, call.model, deadline), left_out
            except RefusedParameterError as error:
                generation = body.get("generationConfig", {})
                name = error.param or ""
                if call.on_unsupported == "error" or name not in generation:
                    raise
                del generation[name]
                left_out += (name,)

    async def _send(
        self, path: str, body: dict[str, Any], model: str, deadline: float | None
    ) -> httpx2.Response:
        """Return a response whose status is 200; its body is still to be read."""
        try:
            content = orjson.dumps(body)
        except TypeError as error:
            raise InvalidRequestError(f"the request can't be written as JSON: {error}") from None
        import httpx2

        # The SDK's public methods lead through its models, and streams have no other way.
        api = self._client()._api_client
        timeout = httpx2.Timeout(DEFAULT_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        try:
            async with asyncio.timeout_at(deadline):
                request = api._build_request("post", path, {}, None)
                request.data, request.timeout = content, timeout  # type: ignore[assignment]
                answer = await api._async_request(request, None, stream=True)
                return cast("httpx2.Response", answer.response_stream)
        except Exception as error:
            translated = self._translate(error, model)
        raise translated

    async def _read_whole(
        self, response: httpx2.Response, model: str, deadline: float | None
    ) -> list[Mapping[str, Any]]:
        """Return the answer that a body holds, or the pieces of one that came in one body."""
        try:
            async with asyncio.timeout_at(deadline):
                content = await response.aread()
        except Exception as error:
            raise self._translate(error, model) from None
        finally:
            with contextlib.suppress(Exception):
                await response.aclose()
        try:
            data = orjson.loads(content)
        except ValueError:
            raise self._unreadable(response, model) from None
        pieces = data if isinstance(data, list) else [data]
        if not pieces or not all(isinstance(piece, dict) and piece for piece in pieces):
            raise self._unreadable(response, model)
        for piece in pieces:
            self._raise_error_in(piece, response, model)
        return pieces

    async def _events(
        self, response: httpx2.Response, reader: Reader, model: str, deadline: float | None
    ) -> AsyncIterator[Mapping[str, Any]]:
        decoder = EventDecoder()
        chunks = response.aiter_bytes()
        ended = False
        while not ended:
            try:
                async with asyncio.timeout_at(deadline):
                    events = decoder.feed(await anext(chunks))
            except StopAsyncIteration:
                events, ended = decoder.finish(), True
            except Exception as error:
                if reader.ended:  # all was said; only the goodbye was lost
                    return
                raise self._translate(error, model) from None
            for _, said in events:
                try:
                    data = orjson.loads(said)
                except ValueError:
                    raise unreadable(
                        said, response.headers, provider=self.name, model=model
                    ) from None
                self._raise_error_in(data, response, model)
                yield data

    def _feed(
        self, reader: Reader, data: Mapping[str, Any], response: httpx2.Response, model: str
    ) -> list[Delta]:
        try:
            return list(reader.feed(data))
        except _MISSHAPEN:
            said = orjson.dumps(data)
            raise unreadable(said, response.headers, provider=self.name, model=model) from None

    def _raise_error_in(self, data: Any, response: httpx2.Response, model: str) -> None:
        if isinstance(data, list) and data:
            data = data[0]
        if isinstance(data, dict) and data.get("error"):
            raise error_in_band(
                data["error"],
                provider=self.name,
                model=model,
                headers=response.headers,
                secret=self._secret,
            )

    def _unreadable(self, response: httpx2.Response, model: str) -> ProviderUnavailableError:
        return unreadable(response.content, response.headers, provider=self.name, model=model)

    def _translate(self, error: Exception, model: str) -> Exception:
        """Turn what the SDK and the HTTP library below it raise into an error of ours."""
        if isinstance(error, NovellusError):
            return error
        if type(error) is TimeoutError:
            return ProviderTimeoutError(
                f"{self.name} model {model!r} did not answer in time", provider=self.name
            )
        if isinstance(error, UnicodeError):  # the SDK reads a refusal as text
            return ProviderUnavailableError(
                f"{self.name} model {model!r} answered with what is no text", provider=self.name
            )
        return from_sdk(error, provider=self.name, model=model, secret=self._secret)


def _model_path(model: str) -> str:
    return model if model.startswith(("models/", "tunedModels/")) else f"models/{model}"


def _deadline(timeout_s: float | None) -> float | None:
    return None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s
