"""Google Gemini over the official SDK."""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import TYPE_CHECKING, Any, ClassVar

from novellus_lab.errors import (
    AuthenticationError,
    BadRequestError,
    ContentFilteredError,
    ContextWindowExceededError,
    NovellusError,
    ProviderError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    RateLimitError,
)
from novellus_lab.providers.base import Provider, ProviderConfig
from novellus_lab.providers.google_content import Reader, contents_and_config
from novellus_lab.providers.redaction import redact
from novellus_lab.providers.usage import google_usage
from novellus_lab.types import Delta, EmbeddingReply, Reply, Usage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from google.genai import Client

    from novellus_lab.providers.base import Call

_MAX_TEXTS = 100
_DURATION = re.compile(r"(\d+(?:\.\d+)?)s")
_TOO_LONG = re.compile(r"exceeds the maximum number of tokens|input token count", re.IGNORECASE)


class GoogleProvider(Provider):
    """Gemini. `params` are fields of the SDK's `GenerateContentConfig` (`thinking_config`, …).

    Options (of the provider in the configuration):
        api_version: `v1beta` (default) or another.
    """

    name: ClassVar[str] = "google"
    requires: ClassVar[str | None] = "google.genai"
    extra: ClassVar[str | None] = "google"
    api_key_envs: ClassVar[tuple[str, ...]] = ("GOOGLE_API_KEY", "GEMINI_API_KEY")

    def __init__(self, config: ProviderConfig) -> None:
        super().__init__(config)
        self._secret = config.api_key.get_secret_value() if config.api_key else None
        self._sdk: Client | None = None

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
        contents, config = contents_and_config(call)
        try:
            async with asyncio.timeout(call.timeout_s):
                response = await self._models().generate_content(
                    model=call.model, contents=contents, config=config
                )
        except Exception as error:
            raise self._translate(error, call.model) from None
        reader = Reader(call.model)
        for _ in reader.feed(_plain(response)):
            pass
        return reader.reply()

    async def stream(self, call: Call) -> AsyncIterator[Delta]:
        contents, config = contents_and_config(call)
        loop = asyncio.get_running_loop()
        deadline = None if call.timeout_s is None else loop.time() + call.timeout_s
        reader = Reader(call.model)
        pieces: Any = None
        try:
            try:
                async with asyncio.timeout_at(deadline):
                    pieces = await self._models().generate_content_stream(
                        model=call.model, contents=contents, config=config
                    )
                while True:
                    async with asyncio.timeout_at(deadline):
                        piece = await anext(pieces, None)
                    if piece is None:
                        break
                    for delta in reader.feed(_plain(piece)):
                        yield delta
            except Exception as error:
                raise self._translate(error, call.model) from None
        finally:
            if pieces is not None:
                with contextlib.suppress(Exception):
                    await pieces.aclose()
        if not reader.ended:
            raise ProviderUnavailableError(
                f"google model {call.model!r}: the stream stopped before the answer was complete",
                provider=self.name,
            )
        yield Delta(reply=reader.reply())

    async def embed(
        self,
        model: str,
        texts: Sequence[str],
        *,
        dimensions: int | None = None,
        timeout_s: float | None = None,
    ) -> EmbeddingReply:
        config: Any = None if dimensions is None else {"output_dimensionality": dimensions}
        vectors: list[tuple[float, ...]] = []
        usage, raw = Usage(), {}
        try:
            async with asyncio.timeout(timeout_s):
                for start in range(0, len(texts), _MAX_TEXTS):
                    contents: Any = [
                        {"parts": [{"text": t}]} for t in texts[start : start + _MAX_TEXTS]
                    ]
                    response = await self._models().embed_content(
                        model=model, contents=contents, config=config
                    )
                    vectors += [tuple(e.values or ()) for e in response.embeddings or ()]
                    told = _plain(response).get("usageMetadata")
                    if told:
                        raw = told
                        usage = Usage(usage.input_tokens + google_usage(told).input_tokens)
        except Exception as error:
            raise self._translate(error, model) from None
        return EmbeddingReply(tuple(vectors), usage, model, raw_usage=raw)

    async def aclose(self) -> None:
        client, self._sdk = self._sdk, None
        if client is not None:
            await client.aio.aclose()
            client.close()

    def _models(self) -> Any:
        if self._sdk is None:
            from google.genai import Client

            options: dict[str, Any] = {"retry_options": {"attempts": 1}}
            if self.config.base_url is not None:
                options["base_url"] = self.config.base_url
            if self.config.options.get("api_version"):
                options["api_version"] = self.config.options["api_version"]
            self._sdk = Client(
                api_key=self._secret or "no-key-needed",
                vertexai=False,
                http_options=options,  # type: ignore[arg-type]
            )
        return self._sdk.aio.models

    def _translate(self, error: Exception, model: str) -> Exception:
        """Turn what the SDK and the HTTP library below it raise into an error of ours."""
        from google.genai import errors

        if isinstance(error, NovellusError):
            return error
        name = f"{self.name} model {model!r}"
        if not isinstance(error, errors.APIError):
            seen: BaseException | None = error
            while seen is not None:
                if isinstance(seen, TimeoutError) or "Timeout" in type(seen).__name__:
                    return ProviderTimeoutError(
                        f"{name} did not answer in time", provider=self.name
                    )
                seen = seen.__cause__
            why = redact(str(error) or type(error).__name__, self._secret)[:300]
            return ProviderUnavailableError(
                f"{name} can't be reached, or its answer can't be read: {why}", provider=self.name
            )
        status, said = error.code or 0, error.message or error.status or "it gave no reason"
        kind = _classify(status, error.status or "", said, str(error.details))
        return kind(
            f"{name}: {redact(str(said), self._secret)[:1000]} (HTTP {status})",
            provider=self.name,
            status_code=status or None,
            retry_after_s=_retry_after_s(error),
        )


def _classify(status: int, name: str, said: str, details: str) -> type[ProviderError]:
    if "API_KEY_INVALID" in details or "API key not valid" in said or status in (401, 403):
        return AuthenticationError  # a wrong key is a 400 here
    if status == 429 or name == "RESOURCE_EXHAUSTED":
        return RateLimitError
    if status in (408, 504) or name == "DEADLINE_EXCEEDED":
        return ProviderTimeoutError
    if status >= 500 or not status:
        return ProviderUnavailableError
    if _TOO_LONG.search(said):
        return ContextWindowExceededError
    if "SAFETY" in details or "blocked" in said.lower():
        return ContentFilteredError
    return BadRequestError


def _retry_after_s(error: Any) -> float | None:
    details = error.details if isinstance(error.details, dict) else {}
    inner = details.get("error", details)
    for detail in inner.get("details") or () if isinstance(inner, dict) else ():
        delay = detail.get("retryDelay") if isinstance(detail, dict) else None
        found = _DURATION.fullmatch(delay) if isinstance(delay, str) else None
        if found:
            return float(found[1])
    headers = getattr(error.response, "headers", None) or {}
    try:
        return float(headers["retry-after"])
    except (KeyError, TypeError, ValueError):
        return None


def _plain(response: Any) -> dict[str, Any]:
    """Return an SDK object as the wire's JSON."""
    data: dict[str, Any] = response.model_dump(
        mode="json", by_alias=True, exclude_none=True, exclude={"sdk_http_response", "parsed"}
    )
    return data
