"""Where conversations are kept: PostgreSQL, or Redis if the configuration says so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from novellus_lab.errors import ConfigurationError
from novellus_lab.settings.schema import NO_REDIS_URL
from novellus_lab.spaces.session_turns import SessionTurns

if TYPE_CHECKING:
    from decimal import Decimal

    from novellus_lab.pipeline.runtime import Runtime
    from novellus_lab.spaces.session_turns import Conversation, Turn


class ConversationStore(Protocol):
    """Where conversations are kept: PostgreSQL (`SessionTurns`) or Redis (`RedisSessionTurns`)."""

    runtime: Runtime

    async def read(self, id: str) -> Conversation: ...
    async def set_system(self, id: str, system: str | None) -> None: ...
    async def add(self, id: str, turn: Turn) -> None: ...
    async def cost(self, id: str) -> Decimal | None: ...
    async def clear(self, id: str) -> None: ...


def open_conversations(runtime: Runtime) -> ConversationStore:
    """Open the store that `sessions.store` names; nothing is connected yet.

    Raises:
        ConfigurationError, MissingDependencyError: it is Redis, which can't be used.
    """
    settings = runtime.settings
    if settings.sessions.store == "postgres":
        return SessionTurns(runtime)
    from novellus_lab.spaces.session_redis import RedisSessionTurns

    if settings.redis_url is None:
        raise ConfigurationError(NO_REDIS_URL)
    url = settings.redis_url.get_secret_value()
    return RedisSessionTurns(runtime, url, ttl_s=settings.sessions.ttl_seconds)
