"""Conversations in the form that the conventions give them: messages of parts, as JSON.

What comes here went through content logging's switch and redactor before.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from novellus_lab.records import RequestRecord

_FINISH = {"tool_calls": "tool_call"}


def input_messages(record: RequestRecord) -> str | None:
    """Return the question of a chat; None where it is not logged."""
    messages = record.messages
    if isinstance(messages, (bytes, bytearray)):
        messages = orjson.loads(messages)
    if record.kind != "chat" or not isinstance(messages, list):
        return None
    return _coded([_message(one) for one in messages if isinstance(one, dict)])


def output_messages(record: RequestRecord) -> str | None:
    """Return the answer; None where it is not logged, or there is none."""
    if record.kind != "chat" or (record.response is None and not record.tool_calls):
        return None
    parts = [{"type": "text", "content": record.response}] if record.response else []
    parts += [
        _tool_call(call["id"], call["name"], call["arguments"]) for call in record.tool_calls or ()
    ]
    reason = record.finish_reason or "error"
    return _coded(
        [{"role": "assistant", "parts": parts, "finish_reason": _FINISH.get(reason, reason)}]
    )


def _message(message: dict[str, Any]) -> dict[str, Any]:
    role, content = str(message.get("role", "user")), message.get("content")
    if role == "tool":
        part = {
            "type": "tool_call_response",
            "id": message.get("tool_call_id"),
            "response": content,
        }
        return {"role": role, "parts": [part]}
    if isinstance(content, list):
        parts = [_part(one) for one in content if isinstance(one, dict)]
    else:
        parts = [] if content is None else [{"type": "text", "content": content}]
    for call in message.get("tool_calls") or ():
        named = call.get("function") or {}
        parts.append(_tool_call(call.get("id"), named.get("name"), named.get("arguments")))
    said: dict[str, Any] = {"role": role, "parts": parts}
    if message.get("name") is not None:
        said["name"] = message["name"]
    return said


def _part(part: dict[str, Any]) -> dict[str, Any]:
    if part.get("type") == "text":
        return {"type": "text", "content": part.get("text", "")}
    if part.get("type") == "image_url":
        image = part.get("image_url")
        url = image.get("url", "") if isinstance(image, dict) else str(image)
        if not url.startswith("data:"):
            return {"type": "uri", "modality": "image", "uri": url}
        # A picture in every span would drown whoever keeps them.
        kind, _, data = url[5:].partition(",")
        return {"type": "image", "mime_type": kind.split(";")[0], "omitted_characters": len(data)}
    return {"type": str(part.get("type", "unknown"))}


def _tool_call(id: Any, name: Any, arguments: Any) -> dict[str, Any]:
    with contextlib.suppress(ValueError, TypeError):  # the model's own text need not be JSON
        arguments = orjson.loads(arguments)
    return {"type": "tool_call", "id": id, "name": name, "arguments": arguments}


def _coded(messages: list[dict[str, Any]]) -> str:
    return orjson.dumps(messages, default=str).decode()
