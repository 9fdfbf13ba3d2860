"""What a provider is: the one class to subclass, and what it is handed.

A provider turns a `Call` (OpenAI-style messages) into its SDK's request and the SDK's answer into
a `Reply`. It knows nothing of retries, prices, caches or logs; its SDK's own retries are off.
It imports its SDK inside methods, so that listing providers costs nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from urllib.parse import urlsplit

from novellus_lab.errors import InvalidRequestError, UnsupportedParameterError
from novellus_lab.ids import uuid7
from novellus_lab.types import EMPTY, Delta, EmbeddingReply, Message, Reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from pydantic import SecretStr

    from novellus_lab.providers.batches import BatchApi


@dataclass(frozen=True, slots=True)
class ProviderConfig:
    """How to reach a provider. One per (provider, base_url, key); models that agree share a client."""

    provider: str
    api_key: SecretStr | None = None
    api_key_env: str | None = None
    """Name of the variable that the key came from, or should come from; for messages."""
    base_url: str | None = None
    max_connections: int = 256
    options: Mapping[str, Any] = field(default_factory=lambda: EMPTY)
    """Provider-specific: `api_version` (Azure), `organization` (OpenAI), `path` (replay), …"""


@dataclass(frozen=True, slots=True)
class Call:
    """One provider call, normalised. Messages are OpenAI-style and were validated."""

    model: str
    """The provider's own name of the model (or the Azure deployment)."""
    messages: Sequence[Message]
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    tools: Sequence[Mapping[str, Any]] = ()
    """OpenAI form: `{"type": "function", "function": {name, description, parameters}}`."""
    tool_choice: str | Mapping[str, Any] | None = None
    response_format: Mapping[str, Any] | None = None
    """`{"type": "json_object"}` or `{"type": "json_schema", "json_schema": {name, schema, strict}}`."""
    params: Mapping[str, Any] = field(default_factory=lambda: EMPTY)
    """Provider-specific parameters, passed on as they are (`reasoning_effort`, `thinking`, …)."""
    timeout_s: float | None = None
    """What is left of the deadline for this attempt."""
    on_unsupported: Literal["error", "drop"] = "error"


class Provider(ABC):
    """A service that answers calls. Subclass it, and name it under `novellus_lab.providers`.

    Errors leave as the classes of `novellus_lab.errors` (`ProviderError` and below), with `model`
    left None: the caller knows it. Keys never stand in a message.
    """

    name: ClassVar[str]
    """As it stands in the YAML: `openai`."""
    requires: ClassVar[str | None] = None
    """The SDK's import name, if it needs one."""
    extra: ClassVar[str | None] = None
    """The extra of this package that installs the SDK."""
    api_key_envs: ClassVar[tuple[str, ...]] = ()
    """Variables that may hold the key, in order. Empty: no key is needed."""
    own_endpoints: ClassVar[bool] = False
    """Whether each customer has an address of their own (Azure), to which the default key belongs.
    Elsewhere a `base_url` leads to somebody else, who is sent only a key that was named for them."""

    def __init__(self, config: ProviderConfig) -> None:
        self.config = config

    @classmethod
    def unavailable_because(cls, config: ProviderConfig) -> str | None:
        """Say why this provider can't be used, or None if it can. Sends nothing, is quick."""
        if cls.requires is not None:
            from importlib.util import find_spec

            if find_spec(cls.requires) is None:
                return (
                    f"the {cls.requires} package is not installed: "
                    f"pip install 'novellus_lab[{cls.extra or cls.name}]'"
                )
        if cls.api_key_envs and config.api_key is None:
            names = (config.api_key_env,) if config.api_key_env else cls.api_key_envs
            return f"{' or '.join(names)} is not set"
        return None

    @staticmethod
    def no_key() -> SecretStr:
        """A placeholder for servers that want no key, where an SDK insists on one."""
        from pydantic import SecretStr

        return SecretStr("no-key-needed")

    @abstractmethod
    async def complete(self, call: Call) -> Reply:
        """Answer a call whole."""

    @abstractmethod
    def stream(self, call: Call) -> AsyncIterator[Delta]:
        """Answer a call piece by piece; the last delta carries the whole `Reply`.

        Closing the iterator early closes the connection.
        """

    async def embed(
        self,
        model: str,
        texts: Sequence[str],
        *,
        dimensions: int | None = None,
        timeout_s: float | None = None,
    ) -> EmbeddingReply:
        """Turn texts into vectors, in order."""
        raise UnsupportedParameterError(
            f"provider {self.name!r} has no embeddings; configure an embedding model of another one"
        )

    def batches(self) -> BatchApi:
        """Return the way to this provider's batch API.

        Raises:
            UnsupportedParameterError: it has none, or none is known at this address.
        """
        raise UnsupportedParameterError(
            f"provider {self.name!r} has no batch API here: leave provider_batch out, or name a model "
            f"of openai, azure or anthropic"
        )

    async def aclose(self) -> None:  # noqa: B027  most need it, a few have nothing to close
        """Close connections. Called once, on the loop that ran the calls."""


def reject_or_drop(call: Call, provider: str, unsupported: Mapping[str, object]) -> tuple[str, ...]:
    """Return the names to leave out, or raise where dropping was not allowed.

    Args:
        unsupported: parameter name -> value as given; those that are None, empty or an empty
            tuple were not asked for and count for nothing.
    """
    asked = tuple(n for n, v in unsupported.items() if v is not None and v not in ((), "", [], {}))
    if asked and call.on_unsupported == "error":
        raise UnsupportedParameterError(
            f"{provider} model {call.model!r} can't honour {', '.join(asked)}; leave it out, choose "
            f"another model, or set `on_unsupported: drop` for it in the configuration"
        )
    return asked


def no_batches_at(base_url: str | None, provider: str) -> UnsupportedParameterError:
    """Return the error for an address of which nobody said that it has its provider's batch API."""
    return UnsupportedParameterError(
        f"whether the server at {urlsplit(base_url or '').hostname} has {provider}'s batch API is not "
        f"known: set providers.{provider}.options.batches to true if it has"
    )


def data_url(url: str) -> tuple[str, str] | None:
    """Split `data:image/png;base64,…` into media type and base64 text; None for another URL."""
    if not url.startswith("data:"):
        return None
    head, sep, body = url[5:].partition(",")
    if not sep or not head.endswith(";base64"):
        raise InvalidRequestError(
            "an image's data URL must look like 'data:image/png;base64,…'; this one does not"
        )
    return head.removesuffix(";base64") or "image/png", body


def is_loopback(url: str | None) -> bool:
    """Whether an address is this machine's own: no proxy of the environment stands before it."""
    host = urlsplit(url).hostname if url else None
    return host is not None and (host in ("localhost", "::1") or host.startswith("127."))


_SIGNATURE = "~sig~"


def signed_call_id(call_id: str | None, signature: str | None) -> str:
    """Return the id of a tool call, made up where the provider gave none, unique in any history.

    Gemini wants the signature of its thoughts back with the call that they led to. A message in
    OpenAI's form has no place for it but the id, which every caller hands back untouched.
    """
    call_id = call_id or f"call_{uuid7().hex}"
    return f"{call_id}{_SIGNATURE}{signature}" if signature else call_id


def split_call_id(call_id: str) -> tuple[str, str | None]:
    """Return the id of a tool call and its signature, if it has one."""
    plain, _, signature = call_id.partition(_SIGNATURE)
    return plain, signature or None


def without_signatures(messages: Sequence[Message]) -> Sequence[Message]:
    """Return messages whose tool call ids any provider takes (OpenAI's are 40 characters at most)."""
    if not any(_SIGNATURE in call_id for message in messages for call_id in _call_ids(message)):
        return messages
    return [_unsigned(message) for message in messages]


def _call_ids(message: Message) -> list[str]:
    calls = message.get("tool_calls")
    if calls:
        return [call["id"] for call in calls]
    answered = message.get("tool_call_id")
    return [answered] if answered else []


def _unsigned(message: Message) -> Message:
    plain = dict(message)
    if plain.get("tool_calls"):
        plain["tool_calls"] = [
            {**call, "id": split_call_id(call["id"])[0]} for call in plain["tool_calls"]
        ]
    if plain.get("tool_call_id"):
        plain["tool_call_id"] = split_call_id(plain["tool_call_id"])[0]
    return plain
