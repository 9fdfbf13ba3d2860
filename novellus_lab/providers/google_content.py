"""OpenAI-style calls to Gemini's generateContent and back, in the names of its REST API.

Reference: https://ai.google.dev/api/generate-content
"""

from __future__ import annotations

import mimetypes
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson

from novellus_lab.errors import (
    ContentFilteredError,
    InvalidRequestError,
    ProviderUnavailableError,
    UnsupportedParameterError,
)
from novellus_lab.providers.base import data_url, reject_or_drop, signed_call_id, split_call_id
from novellus_lab.providers.usage import google_usage
from novellus_lab.types import EMPTY, Delta, FinishReason, Reply, ToolCall, Usage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from novellus_lab.providers.base import Call
    from novellus_lab.types import Message

_BESIDE_CONFIG = frozenset(
    [
        "systemInstruction",
        "tools",
        "toolConfig",
        "safetySettings",
        "cachedContent",
        "serviceTier",
        "labels",
        "store",
    ]
)
"""Parameters that stand on the request itself; all others stand in its `generationConfig`."""
_VERBATIM = frozenset(
    ["responseSchema", "responseJsonSchema", "parameters", "parametersJsonSchema", "args", "labels"]
)
"""What holds names of the caller's own."""
_UNSIGNED = "skip_thought_signature_validator"
"""Google's word for a call that another model made, and that therefore has no signature."""
_WANTS_SIGNATURES = re.compile(r"gemini-(?![12]\b|pro$|pro-vision|exp-)")
"""Gemini 3 and later refuse a history whose tool calls have none."""
_SEARCH_BY_REQUEST = re.compile(r"gemini-[12]\b")

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


def request_body(call: Call, *, provider: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the request's JSON, and the names of parameters that were left out.

    Raises:
        UnsupportedParameterError: more than one answer is asked for, or a message holds what
            Gemini has no form for.
    """
    body, generation = _from_params(call.params)
    more = {
        name: generation.pop(name)
        for name in ("n", "candidateCount")
        if generation.get(name) not in (None, 1)
    }
    # More answers would be paid for and thrown away.
    dropped = reject_or_drop(call, provider, more)
    generation.pop("n", None)

    system, body["contents"] = _conversation(call)
    if system:
        body["systemInstruction"] = {"parts": [{"text": system}]}
    for name, value in (
        ("temperature", call.temperature),
        ("topP", call.top_p),
        ("maxOutputTokens", call.max_tokens),
        ("seed", call.seed),
        ("stopSequences", list(call.stop) or None),
    ):
        if value is not None:
            generation[name] = value
    form = call.response_format or EMPTY
    if form:
        generation["responseMimeType"] = "application/json"
        if form["type"] == "json_schema":
            generation["responseJsonSchema"] = form["json_schema"]["schema"]
    if call.tools:
        declared = {"functionDeclarations": [_declaration(tool) for tool in call.tools]}
        body["tools"] = [declared, *body.get("tools", ())]
        if call.tool_choice is not None:
            body["toolConfig"] = {
                **body.get("toolConfig", EMPTY),
                "functionCallingConfig": _tool_choice(call.tool_choice),
            }
    elif call.tool_choice not in (None, "auto", "none"):
        raise InvalidRequestError(f"tool_choice {call.tool_choice!r} is given without tools")
    if generation:
        body["generationConfig"] = generation
    return body, dropped


def _from_params(params: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Part parameters into the request's own and those of its `generationConfig`."""
    body: dict[str, Any] = {}
    generation: dict[str, Any] = {}
    for name, value in params.items():
        camel = _camel(name)
        if value is None or camel == "extraBody":
            continue
        value = value if camel in _VERBATIM else _camel_keys(value)
        if camel == "generationConfig":
            generation.update(value)
        elif camel in _BESIDE_CONFIG:
            body[camel] = value
        else:
            generation[camel] = value
    body.update(params.get("extra_body") or {})
    generation.update(body.pop("generationConfig", None) or {})
    return body, generation


def _camel(name: str) -> str:
    """`thinking_config` as the wire spells it."""
    return re.sub(r"_([a-z0-9])", lambda found: found[1].upper(), name)


def _camel_keys(value: Any) -> Any:
    if isinstance(value, dict):
        named = {_camel(key): item for key, item in value.items()}
        return {k: item if k in _VERBATIM else _camel_keys(item) for k, item in named.items()}
    return [_camel_keys(item) for item in value] if isinstance(value, list | tuple) else value


def _conversation(call: Call) -> tuple[str, list[dict[str, Any]]]:
    """Lift system messages out, turn tool results into user turns, merge turns of one role."""
    system: list[str] = []
    contents: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    signed = _WANTS_SIGNATURES.search(call.model) is not None
    for message in call.messages:
        role = message["role"]
        if role in ("system", "developer"):
            system += [part["text"] for part in _parts(message) if "text" in part]
            continue
        if role == "tool":
            parts = [_tool_result(message, names)]
        else:
            parts = _parts(message) + _tool_calls(message, names, signed)
        if not parts:
            continue
        role = "model" if role == "assistant" else "user"
        if contents and contents[-1]["role"] == role:
            contents[-1]["parts"] += parts
        else:
            contents.append({"role": role, "parts": parts})
    if not contents:
        raise UnsupportedParameterError(
            "Gemini wants at least one user message beside the system's"
        )
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
    if kind == "image_url":
        image = part["image_url"]
        return _blob(image["url"] if isinstance(image, dict) else image, "image/jpeg")
    if kind == "input_audio":
        audio = part["input_audio"]
        return {"inlineData": {"mimeType": f"audio/{audio['format']}", "data": audio["data"]}}
    if kind == "file" and isinstance(part["file"].get("file_data"), str):
        return _blob(part["file"]["file_data"], "application/pdf")
    raise UnsupportedParameterError(
        f"Gemini takes text, image_url, input_audio and file (with file_data) here, no {kind!r}"
    )


def _blob(url: str, default: str) -> dict[str, Any]:
    inline = data_url(url)
    if inline is not None:
        return {"inlineData": {"mimeType": inline[0], "data": inline[1]}}
    guessed = mimetypes.guess_type(url.partition("?")[0])[0] or default
    return {"fileData": {"fileUri": url, "mimeType": guessed}}


def _tool_calls(message: Message, names: dict[str, str], signed: bool) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    for call in message.get("tool_calls") or ():
        function = call["function"]
        names[call["id"]] = function["name"]
        try:
            arguments = orjson.loads(function["arguments"] or "{}")
        except ValueError:
            raise InvalidRequestError(
                f"the arguments of tool call {call['id']!r} are no JSON"
            ) from None
        part: dict[str, Any] = {"functionCall": {"name": function["name"], "args": arguments}}
        _, signature = split_call_id(call["id"])
        if signature is None and signed and not parts:
            signature = _UNSIGNED  # of calls made together, the first alone is signed
        if signature is not None:
            part["thoughtSignature"] = signature
        parts.append(part)
    return parts


def _tool_result(message: Message, names: Mapping[str, str]) -> dict[str, Any]:
    name = names.get(message["tool_call_id"])
    if name is None:
        raise InvalidRequestError(
            f"tool result {message['tool_call_id']!r} answers no earlier tool call: Gemini needs the "
            f"assistant message that made it"
        )
    content = message.get("content")
    if isinstance(content, str):
        text, shown = content, []
    else:
        parts = [_part(part) for part in content or ()]
        text = "".join(part.get("text", "") for part in parts)
        shown = [part for part in parts if "text" not in part]
    try:
        result = orjson.loads(text)
    except ValueError:
        result = text
    answer: dict[str, Any] = {
        "name": name,
        "response": result if isinstance(result, dict) else {"result": result},
    }
    if shown:
        answer["parts"] = shown
    return {"functionResponse": answer}


def _declaration(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = tool["function"]
    made = {"name": function["name"], "description": function.get("description", "")}
    if function.get("parameters"):
        made["parametersJsonSchema"] = function["parameters"]
    return made


def _tool_choice(choice: str | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(choice, str):
        return {"mode": {"auto": "AUTO", "none": "NONE", "required": "ANY"}[choice]}
    return {"mode": "ANY", "allowedFunctionNames": [choice["function"]["name"]]}


class Reader:
    """Puts one answer, or the pieces of a streamed one, together.

    Only the first candidate is read. Text of code that Gemini ran itself, and what that printed,
    is no part of the answer; images are not either.
    """

    def __init__(self, model: str, *, dropped: tuple[str, ...] = ()) -> None:
        self._asked = model
        self._dropped = dropped
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._calls: list[ToolCall] = []
        self._raw_usage: Mapping[str, Any] = EMPTY
        self._queries: set[str] = set()
        self._model: str | None = None
        self._id: str | None = None
        self._finish = ""
        self._tier: str | None = None
        self.ended = False

    def feed(self, data: Mapping[str, Any]) -> Iterator[Delta]:
        """Read a response, or a piece of one.

        Raises:
            ContentFilteredError: the prompt was blocked.
        """
        first = self._model is None and self._id is None
        self._model = data.get("modelVersion") or self._model
        self._id = data.get("responseId") or self._id
        # Counts are running totals: the last holds.
        usage = data.get("usageMetadata")
        if usage:
            self._raw_usage = usage
            self._tier = usage.get("serviceTier") or self._tier
        text = thought = ""
        for candidate in data.get("candidates") or ():
            if candidate.get("index"):  # a further answer, which nobody asked for
                continue
            for part in (candidate.get("content") or EMPTY).get("parts") or ():
                if part.get("functionCall"):
                    self._call(part)
                elif part.get("thought"):
                    thought += part.get("text") or ""
                else:
                    text += part.get("text") or ""
            grounding = candidate.get("groundingMetadata") or EMPTY
            self._queries.update(q for q in grounding.get("webSearchQueries") or () if q)
            if candidate.get("finishReason"):
                self._finish, self.ended = candidate["finishReason"], True
        self._texts.append(text)
        self._thoughts.append(thought)
        if text or thought or usage or (first and (self._model or self._id)):
            yield Delta(
                content=text,
                reasoning=thought,
                usage=self._usage() if usage else None,
                raw_usage=usage or None,
                model=self._model if first else None,
                response_id=self._id if first else None,
            )
        blocked = (data.get("promptFeedback") or EMPTY).get("blockReason")
        if blocked:
            raise ContentFilteredError(
                f"google model {self._asked!r} refused the prompt ({blocked})",
                provider="google",
                status_code=200,
                provider_request_id=self._id,
            )

    def reply(self) -> Reply:
        """Return the answer, whole.

        Raises:
            ProviderUnavailableError: there is none: no text, no call, and no reason why.
        """
        said = any(self._texts) or bool(self._calls)
        if not self.ended and not said:
            raise ProviderUnavailableError(
                f"google model {self._asked!r} answered with no candidate",
                provider="google",
                status_code=200,
                provider_request_id=self._id,
            )
        finish = _FINISH.get(
            self._finish, "content_filter" if self._finish in _FILTERED else "unknown"
        )
        if finish == "error" and not said:
            raise ProviderUnavailableError(
                f"google model {self._asked!r} gave up before it had answered ({self._finish})",
                provider="google",
                status_code=200,
                provider_request_id=self._id,
            )
        if self._calls and finish in ("stop", "unknown"):
            finish = "tool_calls"
        return Reply(
            content="".join(self._texts),
            usage=self._usage(),
            model=self._model or self._asked,
            finish_reason=finish,
            tool_calls=tuple(self._calls),
            reasoning="".join(self._thoughts) or None,
            raw_usage=self._raw_usage,
            response_id=self._id,
            service_tier=self._tier.lower() if self._tier else None,
            dropped_params=self._dropped,
        )

    def _usage(self) -> Usage:
        """What was used, with the searches that Google charges and does not count.

        It charges each query since Gemini 3, and before that each request that searched.
        """
        usage = google_usage(self._raw_usage)
        if not self._queries:
            return usage
        once = _SEARCH_BY_REQUEST.search(self._model or self._asked) is not None
        return replace(usage, web_searches=1 if once else len(self._queries))

    def _call(self, part: Mapping[str, Any]) -> None:
        call = part["functionCall"]
        self._calls.append(
            ToolCall(
                signed_call_id(call.get("id"), part.get("thoughtSignature")),
                call["name"],
                orjson.dumps(call.get("args") or {}).decode(),
            )
        )
