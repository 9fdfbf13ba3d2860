"""What is asked of a provider: an answer whole, an answer as a stream, or vectors."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from novellus_lab.errors import ProviderError, ProviderUnavailableError
from novellus_lab.providers.base import Call
from novellus_lab.tokens import estimate_message_tokens, estimate_tokens
from novellus_lab.types import EMPTY, Chunk, EmbeddingReply, Reply, Usage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from novellus_lab.pipeline.catalog import Model
    from novellus_lab.pipeline.trace import Heard, Trace
    from novellus_lab.providers.base import Provider
    from novellus_lab.types import Message

    Emit = Callable[[Chunk], Awaitable[None]]

R_co = TypeVar("R_co", Reply, EmbeddingReply, covariant=True)


class Ask(Protocol[R_co]):
    """One question, put to whichever model's turn it is."""

    async def __call__(
        self, provider: Provider, model: Model, left_s: float | None, heard: Heard, trace: Trace
    ) -> R_co:
        """Put it to this provider; note in `heard` what arrives before the end."""

    def estimated_input_tokens(self) -> int:
        """Count the question, for when the provider never said."""


@dataclass(frozen=True, slots=True)
class AskForAnswer:
    """Ask for a whole answer, or, with `emit`, for a stream."""

    messages: Sequence[Message]
    params: Mapping[str, Any]
    emit: Emit | None = None

    async def __call__(
        self, provider: Provider, model: Model, left_s: float | None, heard: Heard, trace: Trace
    ) -> Reply:
        call = self.call(model, left_s)
        if self.emit is None:
            reply = await provider.complete(call)
        else:
            reply = await self._stream(provider, call, heard, trace, self.emit)
        return self.counted(reply)

    def counted(self, reply: Reply) -> Reply:
        """Return an answer with its usage: estimated, where the server reports none, or nonsense."""
        if reply.usage.total_tokens:
            return reply
        return replace(reply, usage=self._counted(reply))

    def estimated_input_tokens(self) -> int:
        return estimate_message_tokens(self.messages, self.params.get("tools", ()))

    def _counted(self, reply: Reply) -> Usage:
        said = [reply.content, reply.reasoning or "", *(c.arguments for c in reply.tool_calls)]
        return Usage(
            input_tokens=self.estimated_input_tokens(),
            output_tokens=sum(estimate_tokens(text) for text in said if text),
            estimated=True,
        )

    async def _stream(
        self, provider: Provider, call: Call, heard: Heard, trace: Trace, emit: Emit
    ) -> Reply:
        started = time.perf_counter()
        deltas: Any = provider.stream(call)
        reply: Reply | None = None
        try:
            async for delta in deltas:
                if delta.usage is not None:
                    heard.usage = delta.usage
                    heard.raw_usage = delta.raw_usage or heard.raw_usage
                heard.model = delta.model or heard.model
                heard.response_id = delta.response_id or heard.response_id
                if delta.content or delta.reasoning:
                    if heard.ttft_ms is None:
                        heard.ttft_ms = (time.perf_counter() - started) * 1000
                        if trace.on_first_token is not None:
                            trace.on_first_token()
                    heard.pieces.append(delta.content)
                    heard.reasoning.append(delta.reasoning)
                    trace.streamed = True
                    await emit(Chunk(delta.content, delta.reasoning))
                if delta.reply is not None:
                    reply = delta.reply
        finally:
            await deltas.aclose()
        if reply is None:
            raise ProviderUnavailableError(
                "the stream ended without its closing event: the answer may be cut short"
            )
        return reply

    def call(self, model: Model, left_s: float | None = None) -> Call:
        """Return the question as it is put to a model."""
        asked, settings = self.params, model.settings
        if settings.timeout_s is not None:
            left_s = settings.timeout_s if left_s is None else min(left_s, settings.timeout_s)
        return Call(
            model=model.name,
            messages=self.messages,
            max_tokens=asked.get("max_tokens", settings.max_tokens),
            temperature=asked.get("temperature", settings.temperature),
            top_p=asked.get("top_p"),
            stop=tuple(asked.get("stop", ())),
            seed=asked.get("seed"),
            tools=asked.get("tools", ()),
            tool_choice=asked.get("tool_choice"),
            response_format=asked.get("response_format"),
            params={**settings.params, **asked.get("params", EMPTY)},
            timeout_s=left_s,
            on_unsupported=model.on_unsupported,
        )


@dataclass(frozen=True, slots=True)
class AskForVectors:
    """Ask for the embeddings of some texts."""

    texts: Sequence[str]
    dimensions: int | None

    async def __call__(
        self, provider: Provider, model: Model, left_s: float | None, heard: Heard, trace: Trace
    ) -> EmbeddingReply:
        reply = await provider.embed(
            model.name, self.texts, dimensions=self.dimensions, timeout_s=left_s
        )
        if len(reply.vectors) != len(self.texts):
            raise ProviderError(
                f"{model.id} returned {len(reply.vectors)} vectors for {len(self.texts)} texts"
            )
        if reply.raw_usage or reply.usage.total_tokens:
            return reply
        counted = Usage(input_tokens=self.estimated_input_tokens(), estimated=True)
        return replace(reply, usage=counted)  # this server reports none

    def estimated_input_tokens(self) -> int:
        return sum(estimate_tokens(text) for text in self.texts)
