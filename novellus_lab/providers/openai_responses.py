"""OpenAI's Responses API: our call to its request, its answer and its event stream to ours.

Chosen by `params: {api: responses}` on a model. Answers are not stored at OpenAI (`store: false`)
unless the parameters say so: a conversation travels with each call, as in the chat API.

Reference: https://platform.openai.com/docs/api-reference/responses
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson

from novellus_lab.errors import InvalidRequestError
from novellus_lab.providers.api_errors import error_in_band, unreadable
from novellus_lab.providers.base import Call, reject_or_drop, without_signatures
from novellus_lab.providers.openai_chat import (
    CONTROLS,
    MISSHAPEN,
    arguments_text,
    billed_cost,
    finish_reason,
    refuses_sampling,
)
from novellus_lab.providers.usage import openai_responses_usage
from novellus_lab.types import EMPTY, Delta, Reply, ToolCall

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from novellus_lab.types import Message

PATH = "/responses"


def request_body(
    call: Call,
    *,
    provider: str,
    stream: bool = False,
    options: Mapping[str, Any] = EMPTY,
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the request's JSON, and the names of parameters that were left out.

    Raises:
        UnsupportedParameterError: a parameter that this API lacks, or that the model is known to
            refuse, and dropping it was not allowed.
        InvalidRequestError: a message holds content that this API has no form for.
    """
    params = call.params
    body: dict[str, Any] = {
        "model": call.model,
        "input": [
            item for message in without_signatures(call.messages) for item in _items(message)
        ],
        "store": False,
    }
    body.update((k, v) for k, v in params.items() if k not in CONTROLS)
    body.update(params.get("extra_body") or {})
    controls = {**options, **params} if options or params else EMPTY

    unsupported: dict[str, object] = {"stop": call.stop, "seed": call.seed}
    for name in ("stop", "seed", "n", "frequency_penalty", "presence_penalty", "logit_bias"):
        if body.get(name) is not None and (name, body[name]) != ("n", 1):
            unsupported[name] = body[name]
        body.pop(name, None)
    temperature = call.temperature if call.temperature is not None else body.get("temperature")
    top_p = call.top_p if call.top_p is not None else body.get("top_p")
    if refuses_sampling(call.model, {**controls, **_effort(body)}):
        unsupported |= {"temperature": temperature, "top_p": top_p}
        temperature = top_p = None
    dropped = reject_or_drop(call, provider, unsupported)

    for name, value in (("temperature", temperature), ("top_p", top_p)):
        body.pop(name, None)
        if value is not None:
            body[name] = value
    if call.max_tokens is not None:
        body["max_output_tokens"] = call.max_tokens
    else:
        for name in ("max_tokens", "max_completion_tokens"):
            if (most := body.pop(name, None)) is not None:
                body.setdefault("max_output_tokens", most)
    if (effort := body.pop("reasoning_effort", None)) is not None:
        body["reasoning"] = {"effort": effort, **(body.get("reasoning") or {})}
    text: dict[str, Any] = dict(body.pop("text", None) or {})
    if (verbosity := body.pop("verbosity", None)) is not None:
        text["verbosity"] = verbosity
    if call.response_format is not None:
        text["format"] = _text_format(call.response_format)
    if text:
        body["text"] = text
    if call.tools:
        body["tools"] = [_tool(tool) for tool in call.tools]
    if call.tool_choice is not None:
        body["tool_choice"] = _tool_choice(call.tool_choice)
    body.pop("stream_options", None)
    if stream:
        body["stream"] = True
    return body, dropped


def _effort(body: Mapping[str, Any]) -> dict[str, Any]:
    reasoning = body.get("reasoning")
    effort = reasoning.get("effort") if isinstance(reasoning, dict) else None
    return {} if effort is None else {"reasoning_effort": effort}


def _items(message: Message) -> Iterator[dict[str, Any]]:
    """Turn one message of the chat form into input items."""
    role, content = message["role"], message.get("content")
    if role in ("tool", "function"):
        yield {
            "type": "function_call_output",
            "call_id": message.get("tool_call_id") or message.get("name") or "",
            "output": _parts(content, "input") if isinstance(content, list) else content or "",
        }
        return
    if content:
        said = "output" if role == "assistant" else "input"
        yield {
            "role": role,
            "content": _parts(content, said) if isinstance(content, list) else content,
        }
    for call in message.get("tool_calls") or ():
        yield {
            "type": "function_call",
            "call_id": call["id"],
            "name": call["function"]["name"],
            "arguments": arguments_text(call["function"].get("arguments")),
        }


def _parts(content: list[Any], said: str) -> list[dict[str, Any]]:
    return [
        {"type": f"{said}_text", "text": part} if isinstance(part, str) else _part(part, said)
        for part in content
    ]


def _part(part: Mapping[str, Any], said: str) -> dict[str, Any]:
    kind = part.get("type")
    if kind in ("text", "input_text", "output_text"):
        return {**part, "type": f"{said}_text"}
    if kind == "image_url":
        image = part["image_url"]
        image = {"url": image} if isinstance(image, str) else dict(image)
        return {
            "type": "input_image",
            "image_url": image["url"],
            "detail": image.get("detail", "auto"),
        }
    if kind == "file":
        return {"type": "input_file", **part["file"]}
    if kind in ("input_image", "input_file", "refusal"):
        return dict(part)
    raise InvalidRequestError(
        f"the Responses API has no form for message content of type {kind!r}; "
        f"use text, image_url or file, or the chat API (leave `api: responses` out)"
    )


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = tool.get("function")
    if tool.get("type") != "function" or not function:
        return dict(tool)  # web_search and the provider's other tools, or this API's own form
    flat = {"type": "function", "strict": False, **function}
    flat.setdefault("parameters", {"type": "object", "properties": {}})
    return flat


def _tool_choice(choice: str | Mapping[str, Any]) -> str | dict[str, Any]:
    if isinstance(choice, str):
        return choice
    function = choice.get("function")
    return {"type": "function", "name": function["name"]} if function else dict(choice)


def _text_format(wanted: Mapping[str, Any]) -> dict[str, Any]:
    schema = wanted.get("json_schema")
    if wanted.get("type") != "json_schema" or schema is None:
        return dict(wanted)
    return {"type": "json_schema", **schema}


def _searches(response: Mapping[str, Any]) -> int:
    """Count paid web searches: as the response states them, else its calls that searched."""
    stated = (response.get("tool_usage") or {}).get("web_search") or {}
    if isinstance(stated.get("num_requests"), int):
        return int(stated["num_requests"])
    return sum(
        item.get("type") == "web_search_call"
        and (item.get("action") or {}).get("type", "search") == "search"
        for item in response.get("output") or ()
    )


def read_reply(
    body: bytes,
    headers: Mapping[str, str],
    *,
    provider: str,
    model: str,
    dropped: tuple[str, ...] = (),
    secret: str | None = None,
) -> Reply:
    """Read a whole response.

    Raises:
        ProviderError: the response failed, or is none of what the API promises.
    """
    try:
        data = orjson.loads(body)
        if not {"output", "error", "status"} & data.keys():
            raise unreadable(body, headers, provider=provider, model=model)
        error = _error_in(data)
        if error is None:
            return _reply(data, body, model, dropped)
    except MISSHAPEN:
        raise unreadable(body, headers, provider=provider, model=model) from None
    raise error_in_band(error, provider=provider, model=model, headers=headers, secret=secret)


def _error_in(data: Mapping[str, Any]) -> Any:
    """Return why there is no answer, or None where there is one."""
    if data.get("error"):
        return data["error"]
    status = data.get("status", "completed")
    if status in ("completed", "incomplete"):
        return None
    return {"message": f"the response was left {status!r}", "code": "server_error"}


def _reply(data: Mapping[str, Any], body: bytes, model: str, dropped: tuple[str, ...]) -> Reply:
    text: list[str] = []
    refusal: list[str] = []
    reasoning: list[str] = []
    tools: list[ToolCall] = []
    for item in data.get("output") or ():
        kind = item.get("type")
        if kind == "message":
            for part in item.get("content") or ():
                if part.get("type") == "refusal":
                    refusal.append(part.get("refusal") or "")
                else:
                    text.append(part.get("text") or "")
        elif kind == "function_call":
            tools.append(
                ToolCall(
                    id=item.get("call_id") or item.get("id") or f"call_{len(tools)}",
                    name=item.get("name") or "",
                    arguments=arguments_text(item.get("arguments")),
                )
            )
        elif kind == "reasoning":
            shown = (item.get("summary") or []) + (item.get("content") or [])
            reasoning.extend(part["text"] for part in shown if part.get("text"))
    said: object = "stop"
    if data.get("status") == "incomplete":
        said = (data.get("incomplete_details") or {}).get("reason")
    usage = data.get("usage") or {}
    return Reply(
        content="".join(text) or "".join(refusal),
        usage=openai_responses_usage(usage, _searches(data)),
        model=data.get("model") or model,
        finish_reason=finish_reason(said, tool_calls=bool(tools), refused=bool(refusal)),
        tool_calls=tuple(tools),
        reasoning="\n\n".join(reasoning) or None,
        raw_usage=usage or EMPTY,
        response_id=data.get("id"),
        service_tier=data.get("service_tier"),
        billed_cost_usd=billed_cost(usage, body),
        dropped_params=dropped,
    )


class StreamReader:
    """Reads a stream event by event; `response.completed` (or `incomplete`) holds it all."""

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
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._reply: Reply | None = None
        self.done = False

    @property
    def complete(self) -> bool:
        return self._reply is not None

    def feed(self, name: str | None, data: bytes) -> Iterator[Delta]:
        """Read one event.

        Raises:
            ProviderError: the event is an error, the response failed, or it can't be read.
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
        """Take in an event; return what it adds, and the error that it holds."""
        event: dict[str, Any] = orjson.loads(data)
        kind = event.get("type") or name
        if kind == "response.created":
            response = event["response"]
            return Delta(model=response.get("model"), response_id=response.get("id")), None
        if kind in ("response.output_text.delta", "response.refusal.delta"):
            self._content.append(event["delta"])
            return Delta(content=event["delta"]), None
        if kind in ("response.reasoning_summary_text.delta", "response.reasoning_text.delta"):
            self._reasoning.append(event["delta"])
            return Delta(reasoning=event["delta"]), None
        if kind in ("response.completed", "response.incomplete", "response.failed"):
            response, self.done = event["response"], True
            error = _error_in(response)
            if error is None:
                self._reply = _reply(response, data, self._asked, self._dropped)
            usage = response.get("usage")
            counted = openai_responses_usage(usage, _searches(response)) if usage else None
            return Delta(usage=counted, raw_usage=usage) if usage else None, error
        if kind == "error" or event.get("error"):
            return None, event.get("error") or {k: v for k, v in event.items() if k != "type"}
        return None, None

    def reply(self) -> Reply:
        """Return the answer, whole."""
        assert self._reply is not None, "asked for the reply of a stream that is not complete"  # noqa: S101
        reply = self._reply
        if not reply.content and self._content:  # servers that leave `output` out at the end
            reply = replace(reply, content="".join(self._content))
        if reply.reasoning is None and self._reasoning:
            reply = replace(reply, reasoning="".join(self._reasoning))
        return reply
