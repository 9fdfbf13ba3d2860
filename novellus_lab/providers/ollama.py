"""Ollama over its official client: local models, no key, no bill."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

import orjson

from novellus_lab.errors import (
    BadRequestError,
    ContextWindowExceededError,
    InvalidRequestError,
    NovellusError,
    ProviderError,
    ProviderTimeoutError,
    ProviderUnavailableError,
)
from novellus_lab.providers.base import Provider, ProviderConfig, data_url
from novellus_lab.providers.usage import ollama_usage
from novellus_lab.types import Delta, EmbeddingReply, FinishReason, Reply, ToolCall

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    import ollama

    from novellus_lab.providers.base import Call
    from novellus_lab.types import Message

DEFAULT_HOST = "http://127.0.0.1:11434"
_REACH_S = 0.15
_OPTIONS = frozenset(
    [
        "num_ctx",
        "num_keep",
        "num_batch",
        "num_gpu",
        "num_thread",
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
    """A local Ollama. `params` that are its model options (`num_ctx`, `top_k`, …) go there; others
    (`think`, `keep_alive`) beside them."""

    name: ClassVar[str] = "ollama"
    requires: ClassVar[str | None] = "ollama"
    extra: ClassVar[str | None] = "ollama"
    own_endpoints: ClassVar[bool] = True

    def __init__(self, config: ProviderConfig) -> None:
        super().__init__(config)
        self._sdk: ollama.AsyncClient | None = None

    @classmethod
    def unavailable_because(cls, config: ProviderConfig) -> str | None:
        missing = super().unavailable_because(config)
        if missing is not None:
            return missing
        host = config.base_url or DEFAULT_HOST
        parts = urlsplit(host)
        port = parts.port or (443 if parts.scheme == "https" else 11434)
        try:
            socket.create_connection((parts.hostname or "127.0.0.1", port), _REACH_S).close()
        except OSError:
            return f"no Ollama answers at {host}: start it with `ollama serve`, or set OLLAMA_HOST"
        return None

    async def complete(self, call: Call) -> Reply:
        pieces = [piece async for piece in self._chat(call, stream=False)]
        return _reply(pieces, call)

    async def stream(self, call: Call) -> AsyncIterator[Delta]:
        pieces: list[dict[str, Any]] = []
        chat = self._chat(call, stream=True)
        try:
            async for piece in chat:
                pieces.append(piece)
                message = piece.get("message") or {}
                text, thought = message.get("content") or "", message.get("thinking") or ""
                if text or thought:
                    yield Delta(content=text, reasoning=thought, model=piece.get("model"))
        finally:
            await chat.aclose()  # type: ignore[attr-defined]
        yield Delta(reply=_reply(pieces, call))

    async def embed(
        self,
        model: str,
        texts: Sequence[str],
        *,
        dimensions: int | None = None,
        timeout_s: float | None = None,
    ) -> EmbeddingReply:
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._client().embed(
                    model=model, input=list(texts), dimensions=dimensions
                )
        except Exception as error:
            raise _translate(error, model) from None
        raw = {"prompt_eval_count": answer.prompt_eval_count or 0}
        return EmbeddingReply(
            vectors=tuple(tuple(vector) for vector in answer.embeddings),
            usage=ollama_usage(raw),
            model=answer.model or model,
            raw_usage=raw,
        )

    async def installed_models(self) -> tuple[str, ...]:
        """Return the names of the models that were pulled."""
        try:
            async with asyncio.timeout(2.0):
                answer = await self._client().list()
        except Exception as error:
            raise _translate(error, "any") from None
        return tuple(model.model for model in answer.models if model.model)

    async def aclose(self) -> None:
        client, self._sdk = self._sdk, None
        if client is not None:
            await client.close()  # type: ignore[no-untyped-call]

    def _client(self) -> ollama.AsyncClient:
        if self._sdk is None:
            import ollama

            settings: dict[str, Any] = {"trust_env": False}
            try:
                from httpx_aiohttp import AiohttpTransport
            except ImportError:
                pass
            else:
                settings["transport"] = AiohttpTransport()
            host = self.config.base_url or os.environ.get("OLLAMA_HOST") or DEFAULT_HOST
            self._sdk = ollama.AsyncClient(host=host, **settings)
        return self._sdk

    async def _chat(self, call: Call, *, stream: bool) -> AsyncIterator[dict[str, Any]]:
        """Yield the server's messages: one, or a stream of them that ends with `done`."""
        arguments = _arguments(call)
        loop = asyncio.get_running_loop()
        deadline = None if call.timeout_s is None else loop.time() + call.timeout_s
        done = False
        answer: Any = None
        try:
            async with asyncio.timeout_at(deadline):
                answer = await self._client().chat(stream=stream, **arguments)  # type: ignore[call-overload]
            if not stream:
                yield answer.model_dump(exclude_none=True)
                return
            while not done:
                async with asyncio.timeout_at(deadline):
                    piece = await anext(answer, None)
                if piece is None:
                    break
                data = piece.model_dump(exclude_none=True)
                done = bool(data.get("done"))
                yield data
        except Exception as error:
            raise _translate(error, call.model) from None
        finally:
            if stream and answer is not None:
                await answer.aclose()
        if not done:
            raise ProviderUnavailableError(
                f"ollama model {call.model!r}: the stream stopped before the answer was complete",
                provider="ollama",
            )


def _arguments(call: Call) -> dict[str, Any]:
    options = {
        "num_predict": call.max_tokens,
        "temperature": call.temperature,
        "top_p": call.top_p,
        "seed": call.seed,
        "stop": list(call.stop) or None,
    }
    beside: dict[str, Any] = {}
    for name, value in call.params.items():
        if name == "options":
            options.update(value)
        elif name in _OPTIONS:
            options[name] = value
        else:
            beside[name] = value
    if call.tool_choice not in (None, "auto"):
        from novellus_lab.providers.base import reject_or_drop

        reject_or_drop(call, "ollama", {"tool_choice": call.tool_choice})
    form = call.response_format or {}
    if form:
        schema = form.get("json_schema", {}).get("schema")
        beside["format"] = schema if form["type"] == "json_schema" else "json"
    names: dict[str, str] = {}
    return {
        "model": call.model,
        "messages": [_message(message, names) for message in call.messages],
        "options": {k: v for k, v in options.items() if v is not None},
        **({"tools": [dict(tool) for tool in call.tools]} if call.tools else {}),
        **beside,
    }


def _dropped(call: Call) -> tuple[str, ...]:
    return () if call.tool_choice in (None, "auto") else ("tool_choice",)


def _message(message: Message, names: dict[str, str]) -> dict[str, Any]:
    role = "system" if message["role"] == "developer" else message["role"]
    made: dict[str, Any] = {"role": role}
    content = message.get("content")
    if isinstance(content, str) or content is None:
        made["content"] = content or ""
    else:
        made["content"] = "\n".join(p["text"] for p in content if p.get("type") == "text")
        images = [_image(p) for p in content if p.get("type") == "image_url"]
        if images:
            made["images"] = images
        odd = sorted({p["type"] for p in content} - {"text", "image_url"})
        if odd:
            raise InvalidRequestError(f"Ollama takes text and images, no {', '.join(odd)}")
    if message.get("tool_calls"):
        made["tool_calls"] = []
        for call in message["tool_calls"]:
            function = call["function"]
            names[call["id"]] = function["name"]
            try:
                arguments = orjson.loads(function["arguments"] or "{}")
            except ValueError:
                raise InvalidRequestError(
                    f"the arguments of tool call {call['id']!r} are no JSON"
                ) from None
            made["tool_calls"].append(
                {"function": {"name": function["name"], "arguments": arguments}}
            )
    if role == "tool" and message["tool_call_id"] in names:
        made["tool_name"] = names[message["tool_call_id"]]
    return made


def _image(part: Mapping[str, Any]) -> str:
    image = part["image_url"]
    url = image["url"] if isinstance(image, dict) else image
    inline = data_url(url)
    if inline is None:
        raise InvalidRequestError(
            "Ollama loads no images from the web: give them as 'data:image/…;base64,…'"
        )
    return inline[1]


def _reply(pieces: list[dict[str, Any]], call: Call) -> Reply:
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[ToolCall] = []
    for piece in pieces:
        message = piece.get("message") or {}
        texts.append(message.get("content") or "")
        thoughts.append(message.get("thinking") or "")
        for tool in message.get("tool_calls") or ():
            function = tool["function"]
            arguments = orjson.dumps(function.get("arguments") or {}).decode()
            calls.append(ToolCall(f"call_{len(calls)}", function["name"], arguments))
    last = pieces[-1]
    raw = {name: last[name] for name in _COUNTS if name in last}
    finish: FinishReason = _FINISH.get(last.get("done_reason") or "stop", "unknown")
    return Reply(
        content="".join(texts),
        usage=ollama_usage(raw),
        model=last.get("model") or call.model,
        finish_reason="tool_calls" if calls else finish,
        tool_calls=tuple(calls),
        reasoning="".join(thoughts) or None,
        raw_usage=raw,
        dropped_params=_dropped(call),
    )


def _translate(error: Exception, model: str) -> Exception:
    """Turn what the client and the HTTP library below it raise into an error of ours."""
    if isinstance(error, NovellusError):
        return error
    text = str(error).strip() or type(error).__name__
    status = getattr(error, "status_code", None)
    name = f"ollama model {model!r}"
    if isinstance(status, int):
        said = getattr(error, "error", None) or text
        kind: type[ProviderError] = ProviderUnavailableError
        if "context" in said and ("exceed" in said or "length" in said):
            kind = ContextWindowExceededError
        elif status == 404 and "not found" in said:
            return BadRequestError(
                f"{name} is not installed: `ollama pull {model}`",
                provider="ollama",
                status_code=status,
            )
        elif 400 <= status < 500:
            kind = BadRequestError
        known = status if status >= 400 else None
        return kind(f"{name}: {said[:500]}", provider="ollama", status_code=known)
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, TimeoutError) or "Timeout" in type(chain).__name__:
            return ProviderTimeoutError(f"{name} did not answer in time", provider="ollama")
        chain = chain.__cause__
    return ProviderUnavailableError(
        f"{name} can't be reached, or broke the connection: {text[:300]}", provider="ollama"
    )
