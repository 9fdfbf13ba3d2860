"""OpenAI-style calls to Anthropic's Messages API and back.

Reference: https://platform.claude.com/docs/en/api/messages
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import orjson

from novellus_lab.errors import InvalidRequestError, UnsupportedParameterError
from novellus_lab.providers.api_errors import error_in_band
from novellus_lab.providers.base import data_url, reject_or_drop, split_call_id
from novellus_lab.providers.usage import anthropic_other_models, anthropic_usage
from novellus_lab.types import EMPTY, Delta, FinishReason, Reply, ToolCall

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from novellus_lab.providers.base import Call
    from novellus_lab.types import Message

DEFAULT_MAX_TOKENS = 4096
"""The API demands a limit; this is ours where neither call nor configuration states one. A budget
for thoughts comes on top."""
LEAST_TOP_P_THINKING = 0.95

_FINISH: Mapping[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


_NO_SAMPLING = re.compile(r"claude-(?:opus-4-(?:[7-9]|\d\d)(?!\d)|[a-z]+-(?:[5-9]|\d\d)(?!\d))")
"""Since Opus 4.7 and all of Claude 5, the models refuse temperature, top_p and top_k."""
_ONE_SAMPLER = re.compile(r"claude-(?:opus-4-[1-9](?!\d)|(?:sonnet|haiku)-4-[5-9](?!\d))")
"""Since Opus 4.1 and Claude 4.5, they refuse temperature and top_p together."""


def request_body(call: Call, *, provider: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return what to send, and the parameters left out because API or model can't honour them.

    Raises:
        UnsupportedParameterError: there is such a parameter, and dropping it was not allowed.
    """
    body: dict[str, Any] = {k: v for k, v in call.params.items() if k != "extra_body"}
    body.update(call.params.get("extra_body") or {})
    given = {
        "max_tokens": call.max_tokens,
        "temperature": call.temperature,
        "top_p": call.top_p,
        "stop_sequences": list(call.stop) or None,
    }
    body.update((name, value) for name, value in given.items() if value is not None)
    form = call.response_format or EMPTY
    refused = {
        "seed": call.seed,
        # There is no mode for JSON of any shape: name a schema.
        "response_format": form if form.get("type") == "json_object" else None,
        **_refused_sampling(call.model, body),
    }
    if _thinks(body) and _forces(call.tool_choice):
        refused["tool_choice"] = call.tool_choice
    dropped = reject_or_drop(call, provider, refused)
    for name in dropped:
        body.pop(name, None)
    body.setdefault("max_tokens", DEFAULT_MAX_TOKENS + _thinking_budget(body))
    body = {"model": call.model, **body, **_conversation(call.messages)}
    if call.tools:
        body["tools"] = [*(_tool(tool) for tool in call.tools), *body.get("tools", ())]
    # Without tools the API takes no choice among them, not even that of none.
    if call.tool_choice is not None and "tool_choice" not in dropped:
        if body.get("tools"):
            body["tool_choice"] = {
                **body.get("tool_choice", EMPTY),
                **_tool_choice(call.tool_choice),
            }
        elif _forces(call.tool_choice):
            raise InvalidRequestError(f"tool_choice {call.tool_choice!r} is given without tools")
    if form.get("type") == "json_schema":
        wanted = {"type": "json_schema", "schema": _closed(form["json_schema"]["schema"])}
        body["output_config"] = {**body.get("output_config", EMPTY), "format": wanted}
    return body, dropped


def _refused_sampling(model: str, body: dict[str, Any]) -> dict[str, object]:
    """Return the sampling parameters that would be refused; what asks for the default is left out."""
    temperature, top_p = body.get("temperature"), body.get("top_p")
    if _NO_SAMPLING.search(model):
        for name in ("temperature", "top_p"):
            if body.get(name) == 1:
                del body[name]
        return {name: body.get(name) for name in ("temperature", "top_p", "top_k")}
    refused: dict[str, object] = {}
    if temperature is not None and (temperature > 1 or (_thinks(body) and temperature != 1)):
        # The API's range ends at 1; to clip silently would answer another question.
        refused["temperature"] = temperature
    if _thinks(body):
        refused["top_k"] = body.get("top_k")
        if top_p is not None and top_p < LEAST_TOP_P_THINKING:
            refused["top_p"] = top_p
    if temperature is not None and top_p is not None and _ONE_SAMPLER.search(model):
        refused["top_p"] = top_p
    return refused


def _thinks(body: Mapping[str, Any]) -> bool:
    thinking = body.get("thinking")
    return isinstance(thinking, dict) and thinking.get("type") in ("enabled", "adaptive")


def _thinking_budget(body: Mapping[str, Any]) -> int:
    """Tokens that thoughts may take: the API counts them among `max_tokens`."""
    budget = (body.get("thinking") or EMPTY).get("budget_tokens")
    return budget if isinstance(budget, int) else 0


def _forces(choice: object) -> bool:
    return choice not in (None, "auto", "none")


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
        if not blocks:
            continue  # the API refuses empty turns, and they say nothing
        role = "assistant" if role == "assistant" else "user"
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": role, "content": blocks})
    if not turns:
        raise UnsupportedParameterError(
            "Anthropic wants at least one user message beside the system's"
        )
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
        blocks = [_part(part) for part in content or () if part.get("text") != ""]
    for call in message.get("tool_calls") or ():
        function = call["function"]
        try:
            arguments = orjson.loads(function["arguments"] or "{}")
        except ValueError:
            raise InvalidRequestError(
                f"the arguments of tool call {call['id']!r} are no JSON: {function['arguments']!r:.80}"
            ) from None
        blocks.append(
            {
                "type": "tool_use",
                "id": _call_id(call["id"]),
                "name": function["name"],
                "input": arguments,
            }
        )
    return blocks


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    kind = part.get("type")
    if kind == "image_url":
        image = part["image_url"]
        block = {
            "type": "image",
            "source": _source(image["url"] if isinstance(image, dict) else image),
        }
    elif kind == "file" and isinstance(part["file"].get("file_data"), str):
        block = {"type": "document", "source": _source(part["file"]["file_data"])}
        if part["file"].get("filename"):
            block["title"] = part["file"]["filename"]
    elif kind in ("input_audio", "file", "video_url"):
        raise UnsupportedParameterError(
            f"Anthropic takes text, image_url and file (with file_data) here, no {kind!r}"
        )
    else:
        # Text, with its cache_control if any, or a block of Anthropic's own: thinking with its
        # signature, a document, what a tool of its servers found.
        return dict(part)
    if "cache_control" in part:
        block["cache_control"] = part["cache_control"]
    return block


def _source(url: str) -> dict[str, Any]:
    inline = data_url(url)
    if inline is None:
        return {"type": "url", "url": url}
    return {"type": "base64", "media_type": inline[0], "data": inline[1]}


def _call_id(call_id: str) -> str:
    """Return a tool call's id in the letters that the API takes."""
    return re.sub(r"[^\w-]", "_", split_call_id(call_id)[0], flags=re.ASCII)


def _tool_result(message: Message) -> list[dict[str, Any]]:
    content = message.get("content")
    result = content if isinstance(content, str) else [_part(part) for part in content or ()]
    call_id = _call_id(message["tool_call_id"])
    return [{"type": "tool_result", "tool_use_id": call_id, "content": result}]


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
    """Read a whole message. Raises KeyError, TypeError or the like if it is none.

    Blocks that are neither text, nor thoughts, nor calls of the caller's tools are left aside: what
    a tool of Anthropic's servers was asked and found, redacted thoughts, and kinds yet to come.
    """
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[ToolCall] = []
    for block in data["content"]:
        kind = block.get("type")
        if kind == "text":
            texts.append(block["text"])
        elif kind == "thinking":
            thoughts.append(block.get("thinking") or "")
        elif kind == "tool_use":
            said = block.get("input") or {}
            # A string: what came of arguments that a limit cut short.
            arguments = said if isinstance(said, str) else orjson.dumps(said).decode()
            calls.append(ToolCall(block["id"], block["name"], arguments))
    usage = data.get("usage") or EMPTY
    return Reply(
        content="".join(texts),
        usage=anthropic_usage(usage),
        model=data["model"],
        finish_reason=_FINISH.get(data.get("stop_reason") or "", "unknown"),
        tool_calls=tuple(calls),
        reasoning="".join(thoughts) or None,
        raw_usage=usage,
        response_id=data.get("id"),
        service_tier=_tier(usage),
        other_models=anthropic_other_models(usage),
        dropped_params=dropped,
    )


def _tier(usage: Mapping[str, Any]) -> str | None:
    """Return what decides the price: fast mode and inference in the US alone are dearer."""
    if usage.get("speed") == "fast":
        return "fast"
    if usage.get("inference_geo") == "us":
        return "inference_geo us"
    return usage.get("service_tier")


class StreamReader:
    """Puts the events of a stream together; `message_stop` ends it.

    Events, blocks and deltas of unknown kinds are left aside, as the API asks its readers to.
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
        self._message: dict[str, Any] = {}
        self._blocks: dict[int, dict[str, Any]] = {}
        self._pieces: dict[int, list[str]] = {}
        """Of each block the text, the thoughts or the arguments, as they came."""
        self.complete = False

    @property
    def said_all(self) -> bool:
        """Whether only the goodbye is missing: the reason to stop, and with it the bill, are here."""
        return self.complete or self._message.get("stop_reason") is not None

    def feed(self, data: bytes) -> Iterator[Delta]:
        """Read one event.

        Raises:
            ProviderError: it is an error event.
        """
        event = orjson.loads(data)
        kind = event.get("type")
        if kind == "content_block_delta":
            yield from self._delta(event["index"], event["delta"])
        elif kind == "content_block_start":
            yield from self._start(event["index"], dict(event["content_block"]))
        elif kind == "message_start":
            self._message = dict(event["message"])
            yield self._counted(first=True)
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
                headers=self._headers,
                secret=self._secret,
            )

    def reply(self) -> Reply:
        """Return the answer, whole."""
        content = [self._whole(index) for index in sorted(self._blocks)]
        return read_reply({**self._message, "content": content}, dropped=self._dropped)

    def _start(self, index: int, block: dict[str, Any]) -> Iterator[Delta]:
        self._blocks[index] = block
        begun = block.get(_GROWS.get(block["type"], "")) or ""
        self._pieces[index] = [begun]
        if begun:
            yield Delta(content=begun) if block["type"] == "text" else Delta(reasoning=begun)

    def _delta(self, index: int, delta: Mapping[str, Any]) -> Iterator[Delta]:
        kind = delta["type"]
        if kind == "text_delta":
            self._pieces[index].append(delta["text"])
            yield Delta(content=delta["text"])
        elif kind == "thinking_delta":
            self._pieces[index].append(delta["thinking"])
            yield Delta(reasoning=delta["thinking"])
        elif kind == "input_json_delta":
            self._pieces[index].append(delta["partial_json"])

    def _whole(self, index: int) -> dict[str, Any]:
        block, said = self._blocks[index], "".join(self._pieces[index])
        if block["type"] in _GROWS:
            return {**block, _GROWS[block["type"]]: said}
        if block["type"] == "tool_use" and said:
            return {**block, "input": self._arguments(said)}
        return block

    def _arguments(self, said: str) -> Any:
        try:
            return orjson.loads(said)
        except ValueError:
            if self._message.get("stop_reason") in ("max_tokens", "model_context_window_exceeded"):
                return said
            raise

    def _counted(self, *, first: bool = False) -> Delta:
        usage = self._message.get("usage") or {}
        return Delta(
            usage=anthropic_usage(usage) if usage else None,
            raw_usage=usage or None,
            model=self._message.get("model") if first else None,
            response_id=self._message.get("id") if first else None,
        )


_GROWS = {"text": "text", "thinking": "thinking"}
"""In which field a kind of block grows with its deltas."""
