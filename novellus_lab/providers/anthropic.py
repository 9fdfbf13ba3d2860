"""Anthropic's Messages API over the official SDK."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, ClassVar, cast
from urllib.parse import urlsplit

import orjson

from novellus_lab.errors import (
    InvalidRequestError,
    NovellusError,
    ProviderTimeoutError,
)
from novellus_lab.providers import anthropic_messages
from novellus_lab.providers.api_errors import (
    RefusedParameterError,
    error_in_band,
    from_sdk,
    truncated,
    unreadable,
)
from novellus_lab.providers.base import Provider, ProviderConfig, is_loopback, no_batches_at
from novellus_lab.providers.sse import EventDecoder, drain
from novellus_lab.types import Delta, Reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import anthropic
    import httpx2

    from novellus_lab.providers.base import Call
    from novellus_lab.providers.batches import BatchApi

DEFAULT_TIMEOUT_S = 600.0
CONNECT_TIMEOUT_S = 10.0
_NEEDED = frozenset({"model", "messages", "max_tokens", "stream", "tools", "system"})
_MISSHAPEN = (KeyError, TypeError, IndexError, AttributeError, ValueError)


class AnthropicProvider(Provider):
    """Claude, by the Messages API.

    `params` are that API's own (`thinking`, `output_config`, `top_k`, `metadata`, …); `tools` among
    them (web search, say) stand beside the call's.

    Options (of the provider in the configuration):
        headers: sent with every request (`anthropic-beta`, say).
        batches: whether a server at a `base_url` has the batch API, too.
    """

    name: ClassVar[str] = "anthropic"
    requires: ClassVar[str | None] = "anthropic"
    extra: ClassVar[str | None] = "anthropic"
    api_key_envs: ClassVar[tuple[str, ...]] = ("CLAUDE_API_KEY", "ANTHROPIC_API_KEY")

    def __init__(self, config: ProviderConfig) -> None:
        super().__init__(config)
        self._secret = config.api_key.get_secret_value() if config.api_key else None
        self._sdk: anthropic.AsyncAnthropic | None = None
        self._refused: dict[str, frozenset[str]] = {}

    @classmethod
    def unavailable_because(cls, config: ProviderConfig) -> str | None:
        if config.base_url is not None and config.api_key_env is None:
            # A gateway that one runs oneself may want no key, and is never sent Anthropic's.
            config = ProviderConfig(cls.name, api_key=cls.no_key(), base_url=config.base_url)
        return super().unavailable_because(config)

    async def complete(self, call: Call) -> Reply:
        body, dropped = anthropic_messages.request_body(call, provider=self.name)
        response, left_out = await self._ask(body, call)
        return self._read_whole(response, call.model, dropped + left_out)

    async def stream(self, call: Call) -> AsyncIterator[Delta]:
        body, dropped = anthropic_messages.request_body(call, provider=self.name)
        loop = asyncio.get_running_loop()
        deadline = None if call.timeout_s is None else loop.time() + call.timeout_s
        response, left_out = await self._ask({**body, "stream": True}, call)
        reader = anthropic_messages.StreamReader(
            response.headers,
            provider=self.name,
            model=call.model,
            dropped=dropped + left_out,
            secret=self._secret,
        )
        decoder = EventDecoder()
        chunks = response.aiter_bytes()
        data, ended = b"", False
        try:
            if response.headers.get("content-type", "").startswith("application/json"):
                # Some gateways answer whole, or send an error as a plain body.
                try:
                    async with asyncio.timeout_at(deadline):
                        data = await response.aread()
                except Exception as error:
                    raise self._translate(error, call.model) from None
                reply = self._read_whole(response, call.model, dropped + left_out)
                yield Delta(content=reply.content, reasoning=reply.reasoning or "")
                yield Delta(reply=reply)
                return
            while not reader.complete and not ended:
                try:
                    async with asyncio.timeout_at(deadline):
                        events = decoder.feed(await anext(chunks))
                except StopAsyncIteration:
                    events, ended = decoder.finish(), True
                except Exception as error:
                    if reader.said_all:  # only the goodbye was lost
                        break
                    raise self._translate(error, call.model) from None
                for _, data in events:
                    for delta in reader.feed(data):
                        yield delta
            if not reader.said_all:
                raise truncated(provider=self.name, model=call.model)
            reply = reader.reply()
            await drain(chunks)
            yield Delta(reply=reply)
        except _MISSHAPEN:
            raise unreadable(data, response.headers, provider=self.name, model=call.model) from None
        finally:
            with contextlib.suppress(Exception):
                await response.aclose()

    def batches(self) -> BatchApi:
        from novellus_lab.providers.anthropic_batches import AnthropicBatches

        base_url = self.config.base_url
        if not (base_url is None or _is_anthropic(base_url) or self.config.options.get("batches")):
            raise no_batches_at(base_url, self.name)
        return AnthropicBatches(_BatchSpeaker(self))

    async def aclose(self) -> None:
        client, self._sdk = self._sdk, None
        if client is not None:
            await client.close()

    def _client(self) -> anthropic.AsyncAnthropic:
        if self._sdk is None:
            import anthropic
            import httpx2

            most = self.config.max_connections
            settings: dict[str, Any] = {
                "limits": httpx2.Limits(
                    max_connections=most, max_keepalive_connections=most, keepalive_expiry=30.0
                ),
                # The environment's proxies hold as for any program, never for a server right here.
                "trust_env": not is_loopback(self.config.base_url),
            }
            try:
                http_client: Any = anthropic.DefaultAioHttpClient(**settings)
            except RuntimeError:  # aiohttp is not installed
                http_client = anthropic.DefaultAsyncHttpxClient(**settings)
            self._sdk = anthropic.AsyncAnthropic(
                api_key=self._secret or "no-key-needed",
                auth_token=None,
                base_url=self.config.base_url,
                max_retries=0,
                timeout=DEFAULT_TIMEOUT_S,
                default_headers=dict(self.config.options.get("headers") or {}),
                http_client=http_client,
            )
        return self._sdk

    async def _ask(
        self, body: dict[str, Any], call: Call
    ) -> tuple[httpx2.Response, tuple[str, ...]]:
        """Send a request; return its response, and the parameters that the server made us drop.

        A server that refuses a parameter by name, at no charge, is asked again without it where
        dropping is allowed.
        """
        may_drop = call.on_unsupported == "drop"
        known = self._refused.get(call.model, frozenset()) if may_drop else frozenset()
        left_out = tuple(name for name in known if name in body)
        for name in left_out:
            del body[name]
        while True:
            try:
                return await self._send(body, call), left_out
            except RefusedParameterError as error:
                name = error.param or ""
                if not may_drop or name in _NEEDED or name not in body:
                    raise
                self._refused[call.model] = self._refused.get(call.model, frozenset()) | {name}
                del body[name]
                left_out += (name,)

    async def _send(self, body: dict[str, Any], call: Call) -> httpx2.Response:
        import anthropic
        import httpx2

        try:
            content = orjson.dumps(body)
        except TypeError as error:
            raise InvalidRequestError(f"the request can't be written as JSON: {error}") from None
        client = self._client()
        limit = DEFAULT_TIMEOUT_S if call.timeout_s is None else max(call.timeout_s, 0.001)
        try:
            async with asyncio.timeout(call.timeout_s):
                response = await client.post(
                    "/v1/messages",
                    cast_to=httpx2.Response,
                    content=content,
                    options={
                        "headers": {"Content-Type": "application/json"},
                        "timeout": httpx2.Timeout(limit, connect=min(limit, CONNECT_TIMEOUT_S)),
                    },
                    stream=body.get("stream", False),
                    stream_cls=anthropic.AsyncStream[object],
                )
                return cast("httpx2.Response", response)
        except Exception as error:
            translated = self._translate(error, call.model)
        raise translated

    def _read_whole(self, response: httpx2.Response, model: str, dropped: tuple[str, ...]) -> Reply:
        try:
            data = orjson.loads(response.content)
            if data.get("error"):
                raise error_in_band(
                    data["error"],
                    provider=self.name,
                    model=model,
                    headers=response.headers,
                    secret=self._secret,
                )
            return anthropic_messages.read_reply(data, dropped=dropped)
        except _MISSHAPEN:
            raise unreadable(
                response.content, response.headers, provider=self.name, model=model
            ) from None

    def _translate(self, error: Exception, model: str) -> Exception:
        if isinstance(error, NovellusError):
            return error
        if type(error) is TimeoutError:
            return ProviderTimeoutError(
                f"{self.name} model {model!r} did not answer in time", provider=self.name
            )
        return from_sdk(error, provider=self.name, model=model, secret=self._secret)


class _BatchSpeaker:
    """Says in a batch what the provider says in a call."""

    def __init__(self, provider: AnthropicProvider) -> None:
        self._provider = provider
        self.name = provider.name
        self.secret = provider._secret

    def client(self) -> anthropic.AsyncAnthropic:
        return self._provider._client()

    def words(self, call: Call) -> tuple[dict[str, Any], tuple[str, ...]]:
        provider = self._provider
        body, dropped = anthropic_messages.request_body(call, provider=provider.name)
        if call.on_unsupported == "drop":
            refused = provider._refused.get(call.model, frozenset())
            left_out = tuple(name for name in refused if name in body)
            for name in left_out:
                del body[name]
            dropped += left_out
        return body, dropped

    def translate(self, error: Exception, model: str) -> Exception:
        return self._provider._translate(error, model)


def _is_anthropic(base_url: str) -> bool:
    host = urlsplit(base_url).hostname or ""
    return host == "anthropic.com" or host.endswith(".anthropic.com")
