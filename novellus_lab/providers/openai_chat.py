"""OpenAI's chat completions API: our call to its request, its answer and its stream to ours.

Every compatible server speaks this, each with its own accent; the reader takes what is known of
them: missing usage, usage beside choices or in every chunk, null content, content in parts,
reasoning under two names, no ids, tool calls with ids missing or indexes repeated, no choices.

Reference: https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import json
import re
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

import orjson

from novellus_lab.providers.api_errors import error_in_band, gave_up, unreadable
from novellus_lab.providers.base import Call, reject_or_drop, without_signatures
from novellus_lab.providers.usage import openai_chat_usage
from novellus_lab.types import EMPTY, Delta, FinishReason, Reply, ToolCall, Usage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PATH = "/chat/completions"

CONTROLS = frozenset({"api", "max_tokens_param", "reasoning_model", "stream_usage", "extra_body"})
"""Parameters that steer this adapter and are not sent."""

_REASONING = re.compile(r"(?:^|[/.:_-])(?:o[1-9]\d*(?:-(?!\w*chat)|$)|gpt-5(?!.*chat)|codex-)")
_WITHOUT_SAMPLING = re.compile(r"(?:^|/)(?:o[1-9]\d*(?:-|$)|gpt-5(?:-(?!chat)|$))")


def is_reasoning_model(model: str) -> bool:
    """Whether a name is one of OpenAI's reasoning models, which take `max_completion_tokens`."""
    return _REASONING.search(model.lower()) is not None


def refuses_sampling(model: str, params: Mapping[str, Any]) -> bool:
    """Whether a model is known to refuse temperature and top_p.

    The o series and the first gpt-5 always do. gpt-5.1 and later take them as long as they do not
    reason, which is their default, or was: where nothing is said, the provider decides.
    """
    told = params.get("reasoning_model")
    if told is not None:
        return bool(told)
    if _WITHOUT_SAMPLING.search(model.lower()):
        return True
    effort = params.get("reasoning_effort")
    return is_reasoning_model(model) and effort is not None and effort != "none"


def request_body(
    call: Call,
    *,
    provider: str,
    stream: bool = False,
    options: Mapping[str, Any] = EMPTY,
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the request's JSON, and the names of parameters that were left out.

    Args:
        options: the provider's, from the configuration; a model's params go before them.

    Raises:
        UnsupportedParameterError: the model is known to refuse a parameter, and dropping it was
            not allowed.
    """
    params = call.params
    body: dict[str, Any] = {"model": call.model, "messages": without_signatures(call.messages)}
    if params:
        body.update((k, v) for k, v in params.items() if k not in CONTROLS)
        body.update(params.get("extra_body") or {})
    controls = {**options, **params} if options or params else EMPTY

    dropped: tuple[str, ...] = ()
    temperature, top_p = call.temperature, call.top_p
    if (
        temperature is not None or top_p is not None or "temperature" in body or "top_p" in body
    ) and refuses_sampling(call.model, controls):
        asked = {
            "temperature": temperature if temperature is not None else body.get("temperature"),
            "top_p": top_p if top_p is not None else body.get("top_p"),
        }
        dropped += reject_or_drop(call, provider, asked)
        temperature = top_p = None
        body.pop("temperature", None)
        body.pop("top_p", None)
    if body.get("n") not in (None, 1):
        # More answers would be paid for and thrown away.
        dropped += reject_or_drop(call, provider, {"n": body["n"]})
        del body["n"]

    if call.max_tokens is not None:
        body[_max_tokens_name(call.model, controls)] = call.max_tokens
    if temperature is not None:
        body["temperature"] = temperature
    if top_p is not None:
        body["top_p"] = top_p
    if call.stop:
        body["stop"] = call.stop
    if call.seed is not None:
        body["seed"] = call.seed
    if call.tools:
        body["tools"] = call.tools
    if call.tool_choice is not None:
        body["tool_choice"] = call.tool_choice
    if call.response_format is not None:
        body["response_format"] = call.response_format
    if not stream:
        body.pop("stream_options", None)
    else:
        body["stream"] = True
        if controls.get("stream_usage", True):
            body["stream_options"] = {"include_usage": True, **(body.get("stream_options") or {})}
    return body, dropped


def _max_tokens_name(model: str, controls: Mapping[str, Any]) -> str:
    told = controls.get("max_tokens_param")
    if told:
        return str(told)
    reasoning = controls.get("reasoning_model")
    if reasoning is None:
        reasoning = is_reasoning_model(model)
    return "max_completion_tokens" if reasoning else "max_tokens"


MISSHAPEN = (AttributeError, IndexError, KeyError, TypeError, ValueError)
"""What reading raises where JSON, or its shape, is not what the API promises."""

_FINISH: Mapping[str, FinishReason] = {
    "stop": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "end_turn": "stop",
    "completed": "stop",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "max_output_tokens": "length",
    "tool_calls": "tool_calls",
    "tool_use": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "refusal": "content_filter",
    "safety": "content_filter",
    "error": "error",
    "insufficient_system_resource": "error",
}


def finish_reason(said: object, *, tool_calls: bool, refused: bool) -> FinishReason:
    """Return one of our finish reasons. Servers that say `stop` after a tool call are put right."""
    if refused:
        return "content_filter"
    reason = _FINISH.get(str(said).lower(), "unknown")
    if tool_calls and reason in ("stop", "unknown"):
        return "tool_calls"
    return reason


def billed_cost(usage: Mapping[str, Any], body: bytes) -> Decimal | None:
    """Return what the provider says it charged, in USD, from the digits that it sent.

    Where the caller brought a key of their own to OpenRouter (`is_byok`), its `cost` is its fee,
    and the upstream provider's bill comes on top.
    """
    if "cost" not in usage:
        return None
    try:
        exact = _usage_of(json.loads(body, parse_float=Decimal, parse_int=Decimal))
    except ValueError:
        return None
    cost = exact.get("cost")
    if isinstance(cost, dict):  # Perplexity
        cost = cost.get("total_cost")
    if not isinstance(cost, Decimal):
        return None
    if exact.get("is_byok"):
        upstream = (exact.get("cost_details") or {}).get("upstream_inference_cost")
        if isinstance(upstream, Decimal):
            cost += upstream
    try:
        return cost if cost.is_finite() and cost >= 0 else None
    except InvalidOperation:
        return None


def _usage_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """Find the usage object: the API's own place, Groq's in streams, a Responses event's."""
    groq = data.get("x_groq")
    response = data.get("response")
    found = (
        data.get("usage")
        or (groq.get("usage") if isinstance(groq, dict) else None)
        or (response.get("usage") if isinstance(response, dict) else None)
    )
    return found if isinstance(found, dict) else {}


def _texts(content: object) -> tuple[str, str]:
    """Return text and reasoning of a message's content: a string, nothing, or parts (Mistral)."""
    if isinstance(content, str):
        return content, ""
    if not isinstance(content, list):
        return "", ""
    text, reasoning = [], []
    for part in content:
        if not isinstance(part, dict):
            continue
        if part.get("type") == "thinking":
            reasoning.append(_texts(part.get("thinking"))[0])
        elif isinstance(part.get("text"), str):
            text.append(part["text"])
    return "".join(text), "".join(reasoning)


def _reasoning(message: Mapping[str, Any]) -> str:
    found = message.get("reasoning_content") or message.get("reasoning")
    return found if isinstance(found, str) else ""


def arguments_text(arguments: object) -> str:
    """Return a tool call's arguments as JSON text; some servers send an object."""
    if isinstance(arguments, str):
        return arguments
    return "" if arguments is None else orjson.dumps(arguments).decode()


def _tool_calls(message: Mapping[str, Any]) -> tuple[ToolCall, ...]:
    found = []
    for number, call in enumerate(message.get("tool_calls") or ()):
        function = call.get("function") or {}
        found.append(
            ToolCall(
                id=str(call.get("id") or f"call_{number}"),
                name=str(function.get("name") or ""),
                arguments=arguments_text(function.get("arguments")),
            )
        )
    legacy = message.get("function_call")
    if not found and isinstance(legacy, dict):
        found.append(
            ToolCall("call_0", str(legacy.get("name")), arguments_text(legacy.get("arguments")))
        )
    return tuple(found)


def read_reply(
    body: bytes,
    headers: Mapping[str, str],
    *,
    provider: str,
    model: str,
    dropped: tuple[str, ...] = (),
    secret: str | None = None,
) -> Reply:
    """Read a whole completion.

    A refusal (`message.refusal`) becomes the content, with finish reason `content_filter`: it was
    paid for, and it is not what was asked for. So does an answer that Azure's filter withheld.

    Raises:
        ProviderError: the body holds an error, or is none of what the API promises.
    """
    try:
        data = orjson.loads(body)
        error = _error_in(data)
        if error is None:
            reply = _reply(data, body, model, dropped)
    except MISSHAPEN:
        raise unreadable(body, headers, provider=provider, model=model) from None
    if error is not None:
        raise error_in_band(error, provider=provider, model=model, headers=headers, secret=secret)
    if reply.finish_reason == "error" and not reply.content:
        raise gave_up(provider=provider, model=model)
    return reply


def _error_in(data: Mapping[str, Any]) -> Any:
    """Return the error that stands in place of an answer, or in place of its first choice."""
    if data.get("error"):
        return data["error"]
    choices = data.get("choices")
    return (choices[0].get("error") or None) if choices else None


def _reply(data: Mapping[str, Any], body: bytes, model: str, dropped: tuple[str, ...]) -> Reply:
    choices, usage = data.get("choices"), _usage_of(data)
    if not choices and not usage:
        raise ValueError("neither an answer nor a bill")
    choice = choices[0] if choices else {}
    message = choice.get("message") or {}  # Azure leaves it out where its filter withheld it all
    content, thought = _texts(message.get("content"))
    refusal = message.get("refusal")
    tool_calls = (
        _tool_calls(message) if "tool_calls" in message or "function_call" in message else ()
    )
    return Reply(
        content=content or refusal or "",
        usage=openai_chat_usage(usage),
        model=data.get("model") or model,
        finish_reason=finish_reason(
            choice.get("finish_reason"), tool_calls=bool(tool_calls), refused=bool(refusal)
        ),
        tool_calls=tool_calls,
        reasoning=_reasoning(message) or thought or None,
        raw_usage=usage or EMPTY,
        response_id=data.get("id") or None,
        service_tier=data.get("service_tier"),
        billed_cost_usd=billed_cost(usage, body),
        dropped_params=dropped,
    )


class StreamReader:
    """Reads a stream chunk by chunk and puts the whole reply together.

    The stream is complete when a finish reason or `[DONE]` was seen; anything less is a stream
    that was cut.
    """

    def __init__(
        self,
        headers: Mapping[str, str],
        *,
        provider: str,
        model: str,
        dropped: tuple[str, ...] = (),
        secret: str | None = None,
    ) -> None:
        self._headers = headers
        self._provider = provider
        self._asked = model
        self._dropped = dropped
        self._secret = secret
        self._model: str | None = None
        self._id: str | None = None
        self._tier: str | None = None
        self._finish: object = None
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._refusal: list[str] = []
        self._tools: list[dict[str, str]] = []
        self._tool_at: dict[int, int] = {}
        self._usage: Mapping[str, Any] = EMPTY
        self._counted = Usage()
        self._billed: Decimal | None = None
        self.done = False

    @property
    def complete(self) -> bool:
        return self.done or self._finish is not None

    def feed(self, name: str | None, data: bytes) -> Iterator[Delta]:
        """Read one event.

        Raises:
            ProviderError: the event is an error, or can't be read.
        """
        if data.startswith(b"[DONE]"):
            self.done = True
            return
        try:
            delta, error = self._read(name, data)
        except MISSHAPEN:
            raise unreadable(
                data, self._headers, provider=self._provider, model=self._asked
            ) from None
        if delta is not None:
            yield delta
        if error:
            raise error_in_band(
                error,
                provider=self._provider,
                model=self._asked,
                headers=self._headers,
                secret=self._secret,
            )

    def _read(self, name: str | None, data: bytes) -> tuple[Delta | None, Any]:
        """Take in a chunk; return what it adds, and the error that it holds."""
        chunk: dict[str, Any] = orjson.loads(data)
        first = self._model is None and self._id is None
        self._model = self._model or chunk.get("model") or None
        self._id = self._id or chunk.get("id") or None
        self._tier = chunk.get("service_tier") or self._tier
        usage = _usage_of(chunk)
        if usage:
            self._usage, self._counted = usage, openai_chat_usage(usage)
            self._billed = billed_cost(usage, data)
        text = thought = ""
        error: Any = chunk.get("error") or (chunk if name == "error" else None)
        for choice in chunk.get("choices") or ():
            if choice.get("index"):  # a further answer, which nobody asked for
                continue
            error = error or choice.get("error")
            self._finish = choice.get("finish_reason") or self._finish
            said = choice.get("delta") or choice.get("message") or {}
            text, thought = _texts(said.get("content"))
            thought = _reasoning(said) or thought
            if refused := said.get("refusal"):
                self._refusal.append(refused)
                text = text or refused
            if said.get("tool_calls"):
                self._add_tool_calls(said["tool_calls"])
            elif isinstance(said.get("function_call"), dict):
                self._add_tool_calls([{"index": 0, "function": said["function_call"]}])
        if text:
            self._content.append(text)
        if thought:
            self._reasoning.append(thought)
        if not (text or thought or usage or (first and (self._model or self._id))):
            return None, error
        delta = Delta(
            content=text,
            reasoning=thought,
            usage=self._counted if usage else None,
            raw_usage=usage or None,
            model=self._model if first else None,
            response_id=self._id if first else None,
        )
        return delta, error

    def _add_tool_calls(self, pieces: list[dict[str, Any]]) -> None:
        for piece in pieces:
            function = piece.get("function") or {}
            index, id_ = piece.get("index"), piece.get("id")
            if not isinstance(index, int):
                index = len(self._tools) if id_ or not self._tools else len(self._tools) - 1
            at = self._tool_at.get(index)
            # Google's compatible endpoint gives every call the index 0, each with its own id.
            if at is None or (id_ and self._tools[at]["id"] not in ("", id_)):
                at = self._tool_at[index] = len(self._tools)
                self._tools.append({"id": "", "name": "", "arguments": ""})
            slot = self._tools[at]
            slot["id"] = slot["id"] or str(id_ or "")
            slot["name"] = slot["name"] or str(function.get("name") or "")
            slot["arguments"] += arguments_text(function.get("arguments"))

    def reply(self) -> Reply:
        """Return the answer, whole."""
        tools = tuple(
            ToolCall(slot["id"] or f"call_{n}", slot["name"], slot["arguments"])
            for n, slot in enumerate(self._tools)
        )
        finish = finish_reason(self._finish, tool_calls=bool(tools), refused=bool(self._refusal))
        if finish == "error" and not self._content:
            raise gave_up(provider=self._provider, model=self._asked)
        return Reply(
            content="".join(self._content),
            usage=self._counted,
            model=self._model or self._asked,
            finish_reason=finish,
            tool_calls=tools,
            reasoning="".join(self._reasoning) or None,
            raw_usage=self._usage,
            response_id=self._id,
            service_tier=self._tier,
            billed_cost_usd=self._billed,
            dropped_params=self._dropped,
        )
