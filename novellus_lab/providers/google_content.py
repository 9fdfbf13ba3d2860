"""OpenAI-style calls to Gemini's generateContent and back."""

from __future__ import annotations

import base64
import mimetypes
from typing import TYPE_CHECKING, Any

import orjson

from novellus_lab.errors import ContentFilteredError, InvalidRequestError, ProviderUnavailableError
from novellus_lab.providers.base import data_url
from novellus_lab.providers.usage import google_usage
from novellus_lab.types import Delta, FinishReason, Reply, ToolCall

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from novellus_lab.providers.base import Call
    from novellus_lab.types import Message

_SIGNATURE = "~sig~"
"""Gemini wants a tool call's thought signature back with the call: it travels in the call's id."""

_FINISH: Mapping[str, FinishReason] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "MALFORMED_FUNCTION_CALL": "error",
    "MALFORMED_RESPONSE": "error",
    "UNEXPECTED_TOOL_CALL": "error",
    "TOO_MANY_TOOL_CALLS": "error",
    "MISSING_THOUGHT_SIGNATURE": "error",
}
_FILTERED = frozenset(
    [
        "SAFETY",
        "RECITATION",
        "LANGUAGE",
        "BLOCKLIST",
        "PROHIBITED_CONTENT",
        "SPII",
        "IMAGE_SAFETY",
        "IMAGE_PROHIBITED_CONTENT",
        "IMAGE_RECITATION",
        "MODEL_ARMOR",
    ]
)


def contents_and_config(call: Call) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return what the SDK wants as `contents` and `config`."""
    system, contents = _conversation(call.messages)
    config: dict[str, Any] = {
        "system_instruction": system or None,
        "temperature": call.temperature,
        "top_p": call.top_p,
        "max_output_tokens": call.max_tokens,
        "stop_sequences": list(call.stop) or None,
        "seed": call.seed,
    }
    if call.tools:
        config["tools"] = [{"function_declarations": [_declaration(tool) for tool in call.tools]}]
        config["automatic_function_calling"] = {"disable": True}
    if call.tool_choice is not None:
        config["tool_config"] = {"function_calling_config": _tool_choice(call.tool_choice)}
    form = call.response_format or {}
    if form:
        config["response_mime_type"] = "application/json"
        if form["type"] == "json_schema":
            config["response_json_schema"] = form["json_schema"]["schema"]
    config.update(call.params)
    return contents, {name: value for name, value in config.items() if value is not None}


def _conversation(messages: Any) -> tuple[str, list[dict[str, Any]]]:
    system: list[str] = []
    contents: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    for message in messages:
        role = message["role"]
        if role in ("system", "developer"):
            system += [part["text"] for part in _parts(message) if "text" in part]
            continue
        if role == "tool":
            parts = [_tool_result(message, names)]
        else:
            parts = _parts(message) + _tool_calls(message, names)
        role = "model" if role == "assistant" else "user"
        if contents and contents[-1]["role"] == role:
            contents[-1]["parts"] += parts
        else:
            contents.append({"role": role, "parts": parts})
    if not contents:
        raise InvalidRequestError("Gemini wants at least one user message beside the system's")
    return "\n\n".join(system), contents


def _parts(message: Message) -> list[dict[str, Any]]:
    content = message.get("content")
    if isinstance(content, str):
        return [{"text": content}] if content else []
    return [_part(part) for part in content or ()]


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    kind = part.get("type")
    if kind == "text":
        return {"text": part["text"]}
    if kind != "image_url":
        raise InvalidRequestError(f"Gemini takes text and image_url parts here, no {kind!r}")
    image = part["image_url"]
    url = image["url"] if isinstance(image, dict) else image
    inline = data_url(url)
    if inline is not None:
        return {"inline_data": {"mime_type": inline[0], "data": inline[1]}}
    guessed = mimetypes.guess_type(url.partition("?")[0])[0] or "image/jpeg"
    return {"file_data": {"file_uri": url, "mime_type": guessed}}


def _tool_calls(message: Message, names: dict[str, str]) -> list[dict[str, Any]]:
    parts = []
    for call in message.get("tool_calls") or ():
        function = call["function"]
        names[call["id"]] = function["name"]
        try:
            arguments = orjson.loads(function["arguments"] or "{}")
        except ValueError:
            raise InvalidRequestError(
                f"the arguments of tool call {call['id']!r} are no JSON"
            ) from None
        part: dict[str, Any] = {"function_call": {"name": function["name"], "args": arguments}}
        _, sep, signature = call["id"].partition(_SIGNATURE)
        if sep:
            part["thought_signature"] = base64.urlsafe_b64decode(signature)
        parts.append(part)
    return parts


def _tool_result(message: Message, names: dict[str, str]) -> dict[str, Any]:
    name = names.get(message["tool_call_id"])
    if name is None:
        raise InvalidRequestError(
            f"tool result {message['tool_call_id']!r} answers no earlier tool call: Gemini needs the "
            f"assistant message that made it"
        )
    content = message.get("content")
    text = (
        content if isinstance(content, str) else "".join(p.get("text", "") for p in content or ())
    )
    try:
        result = orjson.loads(text)
    except ValueError:
        result = text
    response = result if isinstance(result, dict) else {"result": result}
    return {"function_response": {"name": name, "response": response}}


def _declaration(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = tool["function"]
    made = {"name": function["name"], "description": function.get("description", "")}
    if function.get("parameters"):
        made["parameters_json_schema"] = function["parameters"]
    return made


def _tool_choice(choice: str | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(choice, str):
        return {"mode": {"auto": "AUTO", "none": "NONE", "required": "ANY"}[choice]}
    return {"mode": "ANY", "allowed_function_names": [choice["function"]["name"]]}


class Reader:
    """Puts one answer, or the pieces of a streamed one, together."""

    def __init__(self, model: str) -> None:
        self._asked = model
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._calls: list[ToolCall] = []
        self._usage: Mapping[str, Any] = {}
        self._model: str | None = None
        self._id: str | None = None
        self._finish: str | None = None
        self._tier: str | None = None
        self.ended = False

    def feed(self, data: Mapping[str, Any]) -> Iterator[Delta]:
        """Read a response, or a piece of one, in the wire's own names.

        Raises:
            ContentFilteredError: the prompt was blocked.
        """
        blocked = (data.get("promptFeedback") or {}).get("blockReason")
        if blocked:
            raise ContentFilteredError(
                f"google model {self._asked!r} refused the prompt ({blocked})",
                provider="google",
                status_code=200,
            )
        self._model = data.get("modelVersion") or self._model
        self._id = data.get("responseId") or self._id
        # Counts are running totals: the last holds.
        usage = data.get("usageMetadata")
        if usage:
            self._usage = usage
            self._tier = usage.get("serviceTier") or self._tier
        text = thought = ""
        for candidate in data.get("candidates") or ():
            for part in (candidate.get("content") or {}).get("parts") or ():
                if "functionCall" in part:
                    self._call(part)
                elif part.get("thought"):
                    thought += part.get("text") or ""
                else:
                    text += part.get("text") or ""
            if candidate.get("finishReason"):
                self._finish, self.ended = candidate["finishReason"], True
            break
        self._texts.append(text)
        self._thoughts.append(thought)
        yield Delta(
            content=text,
            reasoning=thought,
            usage=google_usage(usage) if usage else None,
            raw_usage=usage or None,
            model=self._model,
            response_id=self._id,
        )

    def reply(self) -> Reply:
        """Return the answer, whole.

        Raises:
            ProviderUnavailableError: there is none: no text, no call, and no reason why.
        """
        finish = self._finish or ""
        if not self.ended and not any(self._texts) and not self._calls:
            raise ProviderUnavailableError(
                f"google model {self._asked!r} answered with no candidate", provider="google"
            )
        reason = _FINISH.get(finish, "content_filter" if finish in _FILTERED else "unknown")
        if self._calls and reason == "stop":
            reason = "tool_calls"
        tier = self._tier.lower() if self._tier else None
        return Reply(
            content="".join(self._texts),
            usage=google_usage(self._usage),
            model=self._model or self._asked,
            finish_reason=reason,
            tool_calls=tuple(self._calls),
            reasoning="".join(self._thoughts) or None,
            raw_usage=self._usage,
            response_id=self._id,
            service_tier=tier,
        )

    def _call(self, part: Mapping[str, Any]) -> None:
        call = part["functionCall"]
        call_id = call.get("id") or f"call_{len(self._calls)}"
        if part.get("thoughtSignature"):
            call_id += f"{_SIGNATURE}{part['thoughtSignature']}"
        arguments = orjson.dumps(call.get("args") or {}).decode()
        self._calls.append(ToolCall(call_id, call["name"], arguments))
