"""OpenAI-style calls to Anthropic's Messages API and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from novellus_lab.errors import InvalidRequestError
from novellus_lab.providers.api_errors import error_in_band
from novellus_lab.providers.base import data_url, reject_or_drop
from novellus_lab.providers.usage import anthropic_usage
from novellus_lab.types import Delta, FinishReason, Reply, ToolCall

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from novellus_lab.providers.base import Call
    from novellus_lab.types import Message

DEFAULT_MAX_TOKENS = 4096
"""The API demands a limit; this is ours where neither call nor configuration states one."""

_FINISH: Mapping[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


def request_body(call: Call, *, provider: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return what to send, and the parameters left out because the API has none like them."""
    form = call.response_format or {}
    too_hot = call.temperature is not None and call.temperature > 1
    dropped = reject_or_drop(
        call,
        provider,
        {
            "seed": call.seed,
            # The API's range ends at 1; to clip silently would answer another question.
            "temperature": call.temperature if too_hot else None,
            # There is no mode for JSON of any shape: name a schema.
            "response_format": form if form.get("type") == "json_object" else None,
        },
    )
    body: dict[str, Any] = {
        "model": call.model,
        "max_tokens": call.max_tokens or DEFAULT_MAX_TOKENS,
        **_conversation(call.messages),
    }
    if call.temperature is not None and not too_hot:
        body["temperature"] = call.temperature
    if call.top_p is not None:
        body["top_p"] = call.top_p
    if call.stop:
        body["stop_sequences"] = list(call.stop)
    if call.tools:
        body["tools"] = [_tool(tool) for tool in call.tools]
    if call.tool_choice is not None:
        body["tool_choice"] = _tool_choice(call.tool_choice)
    if form.get("type") == "json_schema":
        schema = _closed(form["json_schema"]["schema"])
        body["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
    for name, value in call.params.items():
        if isinstance(value, dict) and isinstance(body.get(name), dict):
            body[name] = {**body[name], **value}
        else:
            body[name] = value
    return body, dropped


def _conversation(messages: Any) -> dict[str, Any]:
    """Lift system messages out, turn tool results into user turns, merge turns of one role."""
    system: list[dict[str, Any]] = []
    turns: list[dict[str, Any]] = []
    for message in messages:
        role = message["role"]
        if role in ("system", "developer"):
            system += _blocks(message)
            continue
        blocks = _tool_result(message) if role == "tool" else _blocks(message)
        role = "assistant" if role == "assistant" else "user"
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": role, "content": blocks})
    if not turns:
        raise InvalidRequestError("Anthropic wants at least one user message beside the system's")
    for turn in turns:
        parts = turn["content"]
        if len(parts) == 1 and set(parts[0]) == {"type", "text"}:
            turn["content"] = parts[0]["text"]
    if not system:
        return {"messages": turns}
    plain = all(set(block) == {"type", "text"} for block in system)
    said: Any = "\n\n".join(block["text"] for block in system) if plain else system
    return {"system": said, "messages": turns}


def _blocks(message: Message) -> list[dict[str, Any]]:
    content = message.get("content")
    if isinstance(content, str):
        blocks = [{"type": "text", "text": content}] if content else []
    else:
        blocks = [_part(part) for part in content or ()]
    for call in message.get("tool_calls") or ():
        function = call["function"]
        try:
            arguments = orjson.loads(function["arguments"] or "{}")
        except ValueError:
            raise InvalidRequestError(
                f"the arguments of tool call {call['id']!r} are no JSON: {function['arguments']!r:.80}"
            ) from None
        blocks.append(
            {"type": "tool_use", "id": call["id"], "name": function["name"], "input": arguments}
        )
    return blocks


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    if part.get("type") != "image_url":
        return dict(part)  # text, with its cache_control if any, or a block of Anthropic's own
    image = part["image_url"]
    url = image["url"] if isinstance(image, dict) else image
    inline = data_url(url)
    if inline is None:
        source: dict[str, Any] = {"type": "url", "url": url}
    else:
        source = {"type": "base64", "media_type": inline[0], "data": inline[1]}
    block: dict[str, Any] = {"type": "image", "source": source}
    if "cache_control" in part:
        block["cache_control"] = part["cache_control"]
    return block


def _tool_result(message: Message) -> list[dict[str, Any]]:
    content = message.get("content")
    result = content if isinstance(content, str) else [_part(part) for part in content or ()]
    return [{"type": "tool_result", "tool_use_id": message["tool_call_id"], "content": result}]


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = tool["function"]
    made = {
        "name": function["name"],
        "input_schema": function.get("parameters") or {"type": "object", "properties": {}},
    }
    if function.get("description"):
        made["description"] = function["description"]
    if "cache_control" in tool:
        made["cache_control"] = tool["cache_control"]
    return made


def _tool_choice(choice: str | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(choice, str):
        return {"type": {"auto": "auto", "none": "none", "required": "any"}[choice]}
    return {"type": "tool", "name": choice["function"]["name"]}


def _closed(schema: Any) -> Any:
    """Close every object: the API refuses schemas that allow further properties."""
    if isinstance(schema, dict):
        closed = {key: _closed(value) for key, value in schema.items()}
        if closed.get("type") == "object":
            closed.setdefault("additionalProperties", False)
        return closed
    return [_closed(item) for item in schema] if isinstance(schema, list) else schema


def read_reply(data: Mapping[str, Any], *, dropped: tuple[str, ...]) -> Reply:
    """Read a whole message. Raises KeyError or TypeError if it is none."""
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[ToolCall] = []
    for block in data["content"]:
        if block["type"] == "text":
            texts.append(block["text"])
        elif block["type"] == "thinking":
            thoughts.append(block["thinking"])
        elif block["type"] == "tool_use":
            arguments = orjson.dumps(block.get("input") or {}).decode()
            calls.append(ToolCall(block["id"], block["name"], arguments))
    usage = data.get("usage") or {}
    return Reply(
        content="".join(texts),
        usage=anthropic_usage(usage),
        model=data["model"],
        finish_reason=_FINISH.get(data.get("stop_reason") or "", "unknown"),
        tool_calls=tuple(calls),
        reasoning="".join(thoughts) or None,
        raw_usage=usage,
        response_id=data.get("id"),
        service_tier=usage.get("service_tier"),
        dropped_params=dropped,
    )


class StreamReader:
    """Puts the events of a stream together; `message_stop` ends it."""

    def __init__(self, *, provider: str, model: str, dropped: tuple[str, ...], secret: str | None):
        self._provider = provider
        self._asked = model
        self._dropped = dropped
        self._secret = secret
        self._message: dict[str, Any] = {}
        self._blocks: dict[int, dict[str, Any]] = {}
        self._json: dict[int, list[str]] = {}
        self.complete = False

    def feed(self, data: bytes) -> Iterator[Delta]:
        """Read one event.

        Raises:
            ProviderError: it is an error event.
        """
        event = orjson.loads(data)
        kind = event.get("type")
        if kind == "message_start":
            self._message = event["message"]
            yield self._counted(first=True)
        elif kind == "content_block_start":
            block = dict(event["content_block"])
            self._blocks[event["index"]] = block
            if block["type"] == "text" and block.get("text"):
                yield Delta(content=block["text"])
        elif kind == "content_block_delta":
            yield from self._delta(event["index"], event["delta"])
        elif kind == "message_delta":
            self._message.update(event.get("delta") or {})
            # Counts here are totals; kinds that it does not repeat (cached tokens) still hold.
            told = {k: v for k, v in (event.get("usage") or {}).items() if v is not None}
            self._message["usage"] = {**(self._message.get("usage") or {}), **told}
            yield self._counted()
        elif kind == "message_stop":
            self.complete = True
        elif kind == "error":
            raise error_in_band(
                event.get("error"),
                provider=self._provider,
                model=self._asked,
                secret=self._secret,
            )

    def reply(self) -> Reply:
        """Return the answer, whole."""
        for index, pieces in self._json.items():
            text = "".join(pieces)
            self._blocks[index]["input"] = orjson.loads(text) if text else {}
        content = [self._blocks[index] for index in sorted(self._blocks)]
        return read_reply({**self._message, "content": content}, dropped=self._dropped)

    def _delta(self, index: int, delta: Mapping[str, Any]) -> Iterator[Delta]:
        block = self._blocks[index]
        kind = delta["type"]
        if kind == "text_delta":
            block["text"] = block.get("text", "") + delta["text"]
            yield Delta(content=delta["text"])
        elif kind == "thinking_delta":
            block["thinking"] = block.get("thinking", "") + delta["thinking"]
            yield Delta(reasoning=delta["thinking"])
        elif kind == "input_json_delta":
            self._json.setdefault(index, []).append(delta["partial_json"])

    def _counted(self, *, first: bool = False) -> Delta:
        usage = self._message.get("usage") or {}
        return Delta(
            usage=anthropic_usage(usage) if usage else None,
            raw_usage=usage or None,
            model=self._message.get("model") if first else None,
            response_id=self._message.get("id") if first else None,
        )
