"""From a caller's arguments to a `Question`: checked, normalised, immutable.

Everything that is wrong with a call is said here, before anything is sent or spent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import orjson

from novellus_lab.cache.key import cache_key
from novellus_lab.cache.policy import CachePolicy
from novellus_lab.errors import InvalidRequestError
from novellus_lab.pipeline.hedging import checked_hedge
from novellus_lab.tokens import estimate_message_tokens
from novellus_lab.types import EMPTY

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from novellus_lab.types import Message

PURPOSE_TAG = "novellus.purpose"
"""Tag of the requests that this package makes on its own: what they are for."""

ROLES = ("system", "developer", "user", "assistant", "tool")
_TAG_TYPES = (str, int, float, bool, type(None))
_LONGEST_PATH = 1_000
_ROLE_SET = frozenset(ROLES)


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a call asks, and how: everything but when. One may stand for many equal calls.

    Two with equal `messages_json` and `params_json` ask the same.
    """

    messages_json: bytes
    """The messages as canonical JSON (sorted keys, UTF-8): cache key, log and provider read this."""
    params_json: bytes
    """Everything else that may change the answer, as canonical JSON."""
    params: Mapping[str, Any]
    """The same as a mapping, as far as it was given: max_tokens, temperature, tools, …"""
    model_id: str | None = None
    strategy: str | None = None
    stream: bool = False
    use_cache: bool = True
    use_semantic_cache: bool | None = None
    """Whether the answer to a similar question will do; None: as configured."""
    cache_policy: CachePolicy = field(default_factory=CachePolicy)
    response_model: type | None = None
    """The Pydantic class that `response_format` named."""
    timeout_s: float | None = None
    """For the whole call, retries and failovers included; None: no limit."""
    hedge: bool | Mapping[str, Any] | None = None
    """Whether and how a slow call is made a second time; None: as configured."""
    shadow: bool | None = None
    """Whether shadow models are asked, too: True, all of them; None: as configured."""
    priority: str | int | None = None
    tags: Mapping[str, Any] = field(default_factory=lambda: EMPTY)
    session_id: str | None = None
    experiment: str | None = None
    arm: str | None = None

    @property
    def messages(self) -> list[Message]:
        """A fresh copy of the messages: the caller's own objects are never handed on."""
        loaded: list[Message] = orjson.loads(self.messages_json)
        return loaded

    @cached_property
    def prompt_hash(self) -> bytes:
        return blake2b(self.messages_json, digest_size=16).digest()

    @cached_property
    def input_tokens(self) -> int:
        """Estimated length of the prompt, tools included."""
        return estimate_message_tokens(self.messages, self.params.get("tools", ()))

    @cached_property
    def needs(self) -> frozenset[str]:
        """What a model must be capable of to answer this."""
        needs = set()
        if self.params.get("tools"):
            needs.add("function_calling")
        if self.params.get("response_format", {}).get("type") == "json_schema":
            needs.add("json_schema")
        for kind, capability in (("image_url", "vision"), ("input_audio", "audio")):
            if f'"{kind}"'.encode() in self.messages_json and self._has_part(kind):
                needs.add(capability)
        return frozenset(needs)

    @cached_property
    def last_user_text(self) -> str:
        """Text of the last user turn."""
        for message in reversed(self.messages):
            if message["role"] == "user":
                content = message.get("content")
                if isinstance(content, str):
                    return content
                texts = (part["text"] for part in content or () if part.get("type") == "text")
                return "\n".join(texts)
        return ""

    @cached_property
    def frame_json(self) -> bytes | None:
        """All but the text of the last turn, as canonical JSON: what a similar question must share.

        None where that turn is not a user's, or holds more than text: nothing is similar to it.
        """
        messages = self.messages
        last = messages[-1]
        content = last.get("content")
        if last["role"] != "user" or not isinstance(content, str):
            return None
        return canonical_json("messages", [*messages[:-1], {**last, "content": None}])

    def key_among(self, scope: bytes, messages_json: bytes) -> bytes:
        """Return the cache key of these messages, asked as this question is.

        Args:
            scope: digest of the models that may answer.
            messages_json: the question's own, or its `frame_json`.
        """
        return cache_key(
            scope,
            messages_json,
            self.params_json,
            namespace=self.cache_policy.namespace,
            sample=self.cache_policy.sample,
            experiment=self.experiment,
            arm=self.arm,
        )

    def _has_part(self, kind: str) -> bool:
        return any(
            part.get("type") == kind
            for message in self.messages
            if isinstance(message.get("content"), list)
            for part in message["content"]
        )


def build_question(
    prompt: str | None = None,
    *,
    messages: Sequence[Message] | None = None,
    model_id: str | None = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    stop: str | Sequence[str] | None = None,
    seed: int | None = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
    functions: Sequence[Mapping[str, Any]] | None = None,
    tool_choice: str | Mapping[str, Any] | None = None,
    response_format: Any = None,
    params: Mapping[str, Any] | None = None,
    stream: bool = False,
    use_cache: bool = True,
    use_semantic_cache: bool | None = None,
    cache: Mapping[str, Any] | CachePolicy | None = None,
    model_selection_strategy: str | None = None,
    timeout: float | None = None,
    hedge: bool | Mapping[str, Any] | None = None,
    shadow: bool | None = None,
    priority: str | int | None = None,
    tags: Mapping[str, Any] | None = None,
    session_id: str | None = None,
    experiment: str | None = None,
    arm: str | None = None,
    default_timeout_s: float | None = None,
) -> Question:
    """Check a call's arguments and return the `Question` that they mean.

    Raises:
        InvalidRequestError: naming the argument, what was given and what is allowed.
    """
    asked: dict[str, Any] = {}
    response_model: type | None = None

    if prompt is not None:
        if messages is not None:
            raise InvalidRequestError("give either prompt or messages, not both")
        if not isinstance(prompt, str):
            raise InvalidRequestError(f"prompt must be a string, not {type(prompt).__name__}")
        if not prompt or prompt.isspace():
            raise InvalidRequestError("prompt is empty: there is nothing to ask")
        messages = [{"role": "user", "content": prompt}]
    elif messages is None:
        raise InvalidRequestError("give a prompt or messages: there is nothing to ask")
    else:
        messages = _checked_messages(messages)

    if max_tokens is not None:
        if isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 1:
            raise InvalidRequestError(
                f"max_tokens must be a whole number of at least 1, not {max_tokens!r}"
            )
        asked["max_tokens"] = max_tokens
    if temperature is not None:
        asked["temperature"] = _number("temperature", temperature, 0.0, 2.0)
    if top_p is not None:
        asked["top_p"] = _number("top_p", top_p, 0.0, 1.0)
    if stop is not None:
        asked["stop"] = _checked_stop(stop)
    if seed is not None:
        if isinstance(seed, bool) or not isinstance(seed, int) or not -(2**63) <= seed < 2**63:
            raise InvalidRequestError(f"seed must be a whole number of 64 bits, not {seed!r}")
        asked["seed"] = seed
    if tools is not None or functions is not None:
        asked["tools"] = _checked_tools(tools, functions)
    if tool_choice is not None:
        if not asked.get("tools"):
            raise InvalidRequestError("tool_choice is given without tools to choose from")
        asked["tool_choice"] = _checked_tool_choice(tool_choice, asked["tools"])
    if response_format is not None:
        wanted, response_model = _checked_response_format(response_format)
        if wanted is not None:
            asked["response_format"] = wanted
    if params is not None and not isinstance(params, Mapping):
        raise InvalidRequestError(
            f"params must be a dict such as {{'reasoning_effort': 'low'}}, not a "
            f"{type(params).__name__}"
        )
    if params:
        clash = sorted(_OWN_PARAMETERS.intersection(params))
        if clash:
            raise InvalidRequestError(
                f"params must not repeat {', '.join(clash)}: give them as arguments of the call"
            )
        asked["params"] = dict(params)
    if type(use_cache) is not bool or type(use_semantic_cache) not in (bool, type(None)):
        raise InvalidRequestError("use_cache and use_semantic_cache must be True or False")
    if shadow is not None and type(shadow) is not bool:
        raise InvalidRequestError(f"shadow must be True or False, not {shadow!r:.80}")
    policy = CachePolicy.parse(cache) if cache is not None else _DEFAULT_POLICY
    if model_id is not None and (not isinstance(model_id, str) or not model_id):
        raise InvalidRequestError(f"model_id must be a non-empty string, not {model_id!r}")
    timeout_s = default_timeout_s if timeout is None else checked_timeout_s(timeout)
    if tags is not None:
        tags = checked_tags(tags)
    if priority is not None and type(priority) is not int:
        checked_label("priority", priority)
    for name, label in (("session_id", session_id), ("experiment", experiment), ("arm", arm)):
        if label is not None:
            checked_label(name, label)
    if arm is not None and experiment is None:
        raise InvalidRequestError("arm is given without experiment: name the experiment too")

    return Question(
        messages_json=canonical_json("messages", messages),
        params_json=canonical_json("the call's parameters", asked) if asked else b"{}",
        params=asked,
        model_id=model_id,
        strategy=model_selection_strategy,
        stream=stream,
        use_cache=use_cache,
        use_semantic_cache=use_semantic_cache,
        cache_policy=policy,
        response_model=response_model,
        timeout_s=timeout_s,
        hedge=None if hedge is None else checked_hedge(hedge),
        shadow=shadow,
        priority=priority,
        tags=tags or EMPTY,
        session_id=session_id,
        experiment=experiment,
        arm=arm,
    )


_DEFAULT_POLICY = CachePolicy()
_OWN_PARAMETERS = frozenset(
    [
        "model",
        "messages",
        "prompt",
        "max_tokens",
        "temperature",
        "top_p",
        "stop",
        "seed",
        "tools",
        "tool_choice",
        "response_format",
        "stream",
        "timeout",
    ]
)


def canonical_json(what: str, value: Any) -> bytes:
    """Serialise with sorted keys; InvalidRequestError says where it can't be done, and why."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(_why_not_json(what, value, error)) from None


def _why_not_json(what: str, value: Any, error: Exception) -> str:
    for path, leaf in _leaves(what, value):
        if isinstance(leaf, str):
            for position, character in enumerate(leaf):
                if "\ud800" <= character <= "\udfff":
                    return (
                        f"{path} holds half a character (the lone surrogate U+{ord(character):04X} "
                        f"at position {position}), which no provider can be sent: repair the text, "
                        f"for example with text.encode('utf-16', 'surrogatepass').decode('utf-16', "
                        f"'replace')"
                    )
        elif not isinstance(leaf, _TAG_TYPES):
            return f"{path} can't be written as JSON: it holds a {type(leaf).__name__}"
    return f"{what} can't be written as JSON: {error}"


def _leaves(what: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what is no list or dict, and where it stands. What holds itself is seen once."""
    seen: set[int] = set()
    waiting = [(what, value)]
    while waiting:
        path, item = waiting.pop()
        if not isinstance(item, (dict, list, tuple)):
            yield path, item
            continue
        if id(item) in seen or len(path) > _LONGEST_PATH:
            continue
        seen.add(id(item))
        if isinstance(item, dict):
            for key in item:
                if isinstance(key, str):
                    yield f"a key of {path}", key
                else:
                    yield f"a key of {path} ({key!r:.80})", object()
            inner = [(f"{path}.{_printable(key)}", part) for key, part in item.items()]
        else:
            inner = [(f"{path}[{index}]", part) for index, part in enumerate(item)]
        waiting += reversed(inner)


def _printable(key: object) -> str:
    return str(key)[:100].encode("utf-8", "replace").decode()


def _number(name: str, value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidRequestError(f"{name} must be a number, not {value!r}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not low <= number <= high:  # also refuses NaN
        allowed = f"between {low:g} and {high:g}" if high < math.inf else f"at least {low:g}"
        raise InvalidRequestError(f"{name} must be {allowed}, not {value!r:.80}")
    return number


def checked_timeout_s(timeout: Any) -> float:
    """Return a call's `timeout` in seconds.

    Raises:
        InvalidRequestError: it is no positive number.
    """
    timeout_s = _number("timeout", timeout, 0.0, math.inf)
    if not 0 < timeout_s < math.inf:
        raise InvalidRequestError(
            f"timeout must be a positive number of seconds, not {timeout!r:.80}"
        )
    return timeout_s


def _checked_messages(messages: Any) -> list[Message]:
    if isinstance(messages, (str, bytes, dict)) or not hasattr(messages, "__iter__"):
        raise InvalidRequestError(
            f"messages must be a list of {{'role': …, 'content': …}} dicts, not a "
            f"{type(messages).__name__}"
        )
    try:
        checked = list(messages)
    except TypeError as error:
        raise InvalidRequestError(f"messages can't be read as a list: {error}") from None
    if not checked:
        raise InvalidRequestError("messages is empty: there is nothing to ask")
    said_something = False
    for index, message in enumerate(checked):
        where = f"messages[{index}]"
        if not isinstance(message, dict):
            raise InvalidRequestError(f"{where} must be a dict, not a {type(message).__name__}")
        role = message.get("role")
        if not isinstance(role, str) or role not in _ROLE_SET:
            raise InvalidRequestError(
                f"{where}.role must be one of {', '.join(ROLES)}, not {role!r}"
            )
        content = message.get("content")
        if isinstance(content, str):
            said_something = said_something or bool(content and not content.isspace())
        elif isinstance(content, (list, tuple)):
            _check_parts(where, content)
            said_something = said_something or bool(content)
        elif content is None:
            if not (role == "assistant" and message.get("tool_calls")):
                raise InvalidRequestError(f"{where}.content is missing")
        else:
            raise InvalidRequestError(
                f"{where}.content must be a string or a list of parts, not a "
                f"{type(content).__name__}"
            )
        if role == "tool" and not isinstance(message.get("tool_call_id"), str):
            raise InvalidRequestError(
                f"{where} is a tool result without tool_call_id: name the call that it answers"
            )
        if message.get("tool_calls") is not None:
            _check_tool_calls(where, message["tool_calls"])
    if not said_something:
        raise InvalidRequestError("all messages are empty: there is nothing to ask")
    return checked


def _check_parts(where: str, parts: Any) -> None:
    for index, part in enumerate(parts):
        spot = f"{where}.content[{index}]"
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            raise InvalidRequestError(f"{spot} must be a dict with a 'type', such as 'text'")
        if part["type"] == "text" and not isinstance(part.get("text"), str):
            raise InvalidRequestError(f"{spot}.text must be a string")
        if part["type"] == "image_url":
            image = part.get("image_url")
            url = image.get("url") if isinstance(image, dict) else image
            if not isinstance(url, str) or not url.startswith(("http://", "https://", "data:")):
                raise InvalidRequestError(
                    f"{spot}.image_url must be {{'url': 'https://…'}} or a 'data:image/…;base64,…' "
                    f"URL"
                )


def _check_tool_calls(where: str, calls: Any) -> None:
    if not isinstance(calls, (list, tuple)):
        raise InvalidRequestError(f"{where}.tool_calls must be a list")
    for index, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if (
            not isinstance(function, dict)
            or not isinstance(function.get("name"), str)
            or not isinstance(function.get("arguments"), str)
            or not isinstance(call.get("id"), str)
        ):
            raise InvalidRequestError(
                f"{where}.tool_calls[{index}] must be {{'id': …, 'type': 'function', 'function': "
                f"{{'name': …, 'arguments': '<JSON text>'}}}}"
            )


def _checked_stop(stop: Any) -> list[str]:
    stops = [stop] if isinstance(stop, str) else list(stop) if _is_sequence(stop) else None
    if stops is None or not stops or not all(isinstance(s, str) and s for s in stops):
        raise InvalidRequestError(
            f"stop must be a non-empty string or a list of them, not {stop!r}"
        )
    return stops


def _is_sequence(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _checked_tools(tools: Any, functions: Any) -> list[dict[str, Any]]:
    if tools is not None and functions is not None:
        raise InvalidRequestError("give either tools or functions (the older spelling), not both")
    name = "tools" if functions is None else "functions"
    given = tools if functions is None else functions
    if not _is_sequence(given):
        raise InvalidRequestError(f"{name} must be a list, not a {type(given).__name__}")
    checked: list[dict[str, Any]] = []
    for index, item in enumerate(given):
        where = f"{name}[{index}]"
        if not isinstance(item, dict):
            raise InvalidRequestError(
                f"{where} must be a dict with name, description and parameters (a JSON schema), not "
                f"a {type(item).__name__}"
            )
        tool = item if functions is None else {"type": "function", "function": item}
        function = tool.get("function")
        if tool.get("type") != "function" or not isinstance(function, dict):
            raise InvalidRequestError(
                f"{where} must be {{'type': 'function', 'function': {{'name': …, 'parameters': …}}}}"
            )
        if not isinstance(function.get("name"), str) or not function["name"]:
            raise InvalidRequestError(f"{where} has no function name")
        if "parameters" in function and not isinstance(function["parameters"], dict):
            raise InvalidRequestError(f"{where}: parameters must be a JSON schema, a dict")
        checked.append(tool)
    return checked


def _checked_tool_choice(choice: Any, tools: list[dict[str, Any]]) -> str | dict[str, Any]:
    names = [tool["function"]["name"] for tool in tools]
    if isinstance(choice, str) and choice in ("auto", "none", "required"):
        return str(choice)
    wanted = choice
    if isinstance(choice, dict):
        function = choice.get("function")
        wanted = function.get("name") if isinstance(function, dict) else None
    if not isinstance(wanted, str) or wanted not in names:
        raise InvalidRequestError(
            f"tool_choice must be 'auto', 'none', 'required' or the name of one of the tools "
            f"({', '.join(names) or 'none is given'}), not {choice!r}"
        )
    return {"type": "function", "function": {"name": wanted}}


def _checked_response_format(given: Any) -> tuple[dict[str, Any] | None, type | None]:
    if isinstance(given, type):
        schema_of = getattr(given, "model_json_schema", None)
        if schema_of is None:
            raise InvalidRequestError(
                f"response_format may be a Pydantic model class; {given.__name__} is none"
            )
        try:
            return _schema_format(given.__name__, schema_of()), given
        except Exception as error:
            raise InvalidRequestError(
                f"response_format: {given.__name__} has no JSON schema ({error!s:.300})"
            ) from None
    if isinstance(given, str):
        if given == "text":
            return None, None
        if given in ("json", "json_object"):
            return {"type": "json_object"}, None
    elif isinstance(given, dict):
        if given == {"type": "text"}:
            return None, None
        if given == {"type": "json_object"}:
            return {"type": "json_object"}, None
        inner = given.get("json_schema")
        if given.get("type") == "json_schema" and isinstance(inner, dict):
            if not isinstance(inner.get("schema"), dict):
                raise InvalidRequestError("response_format.json_schema.schema must be a dict")
            return {
                "type": "json_schema",
                "json_schema": {"name": "answer", **inner},
            }, None
        if given.get("type") == "object" and isinstance(given.get("properties"), dict):
            return _schema_format(str(given.get("title", "answer")), given), None
    raise InvalidRequestError(
        "response_format must be 'json', {'type': 'json_object'}, {'type': 'json_schema', "
        "'json_schema': {'name': …, 'schema': …}}, a JSON schema of an object, or a Pydantic model "
        f"class, not {given!r:.200}"
    )


def _schema_format(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "_" for c in name)[:64]
    return {
        "type": "json_schema",
        "json_schema": {"name": safe or "answer", "schema": schema},
    }


def checked_tags(tags: Any) -> dict[str, Any]:
    """Return a copy of a call's `tags`.

    Raises:
        InvalidRequestError: they are no flat dict that JSON can hold.
    """
    if not isinstance(tags, dict):
        raise InvalidRequestError(
            f"tags must be a dict such as {{'team': 'search'}}, not a {type(tags).__name__}"
        )
    for key, value in tags.items():
        if not isinstance(key, str) or not isinstance(value, _TAG_TYPES):
            raise InvalidRequestError(
                f"tags: {key!r} must be a string that names a string, number or boolean, not "
                f"{value!r:.80}"
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidRequestError(f"tags: {key!r} is {value}, which JSON can't hold")
    canonical_json("tags", tags)
    return dict(tags)


def checked_label(name: str, value: Any) -> None:
    """Check a text that names something.

    Raises:
        InvalidRequestError: it is none, or can't be sent or stored.
    """
    if not isinstance(value, str) or not value:
        raise InvalidRequestError(f"{name} must be a non-empty string, not {value!r:.80}")
    canonical_json(name, value)
