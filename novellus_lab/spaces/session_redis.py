"""Conversations in Redis or Valkey: the twin of `session_turns.py`, by `sessions: {store: redis}`.

Three keys a session: its turns, the cost of each turn by the request that it belongs to, its
system prompt. What changes them is one script, so that of two processes that speak at once each
adds its turn whole, and a turn that is added again, since the first answer was lost, counts once.

A server that is away is an error before anything is sent; nothing stands in for it, since a
conversation in two places would be none. A server that forgot turns which this process has seen
(evicted, restarted without its data, the lifetime over) is an error too, until `clear()`.
"""

from __future__ import annotations

import asyncio
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

import orjson

from novellus_lab.cache.redis_server import RedisServer, RedisSession
from novellus_lab.errors import StoreUnavailableError
from novellus_lab.spaces.session_turns import Conversation, messages_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from novellus_lab.pipeline.runtime import Runtime
    from novellus_lab.spaces.session_turns import Turn

PREFIX = "novellus:1:s:"
"""Of every key. Change the number when the form of a value changes: versions then never meet."""

_TIMEOUT_S = 5.0
_MOST_SEEN = 10_000
_UNKNOWN = b""

# KEYS: turns, costs, system. Each ends with the turns ever added, as a check of what is there.
_READ = """
return {redis.call('GET', KEYS[3]), redis.call('LRANGE', KEYS[1], 0, -1), redis.call('HLEN', KEYS[2])}
"""
_LIVE_ON = """
if tonumber(ARGV[1]) > 0 then
  for i = 1, 3 do redis.call('PEXPIRE', KEYS[i], ARGV[1]) end
end
"""
_ADD = f"""
if redis.call('HSETNX', KEYS[2], ARGV[2], ARGV[3]) == 1 then
  redis.call('RPUSH', KEYS[1], ARGV[4])
end
{_LIVE_ON}
return redis.call('HLEN', KEYS[2])
"""
_SET_SYSTEM = f"""
if ARGV[2] == '1' then redis.call('SET', KEYS[3], ARGV[3]) else redis.call('DEL', KEYS[3]) end
{_LIVE_ON}
return redis.call('HLEN', KEYS[2])
"""
_CLEAR = """
redis.call('DEL', KEYS[1])
return redis.call('HLEN', KEYS[2])
"""


class RedisSessionTurns:
    """One per runtime; its coroutines run on the lab's loop.

    Args:
        ttl_s: how long after its latest turn a session is kept; None: for ever.

    Raises:
        MissingDependencyError, ConfigurationError: from the constructor alone.
        StoreUnavailableError: from all others; the server does not answer, or has lost turns.
    """

    def __init__(self, runtime: Runtime, url: str, *, ttl_s: float | None) -> None:
        self.runtime = runtime
        self._ttl_ms = 0 if ttl_s is None else max(1, round(ttl_s * 1000))
        self._server = RedisServer(url)
        self._session = RedisSession(self._server)
        self._lock = asyncio.Lock()
        self._closes_with_lab = False
        self._seen: dict[str, int] = {}
        """Turns that each session is known to have had."""

    async def read(self, id: str) -> Conversation:
        """Return a conversation; an empty one if there is none of this id."""
        system, turns, ever = await self._run(_READ, id)
        self._note(id, ever)
        return Conversation(
            None if system is None else system.decode(),
            tuple([orjson.loads(turn) for turn in turns]),
        )

    async def set_system(self, id: str, system: str | None) -> None:
        """Keep what stands before the conversation."""
        stated = "0" if system is None else "1"
        await self._run(_SET_SYSTEM, id, self._ttl_ms, stated, system or "")

    async def add(self, id: str, turn: Turn) -> None:
        """Add a turn behind all that are there, and its cost to the session's. Once, if repeated."""
        cost = _UNKNOWN if turn.cost_usd is None else f"{turn.cost_usd:f}".encode()
        ever = await self._run(
            _ADD, id, self._ttl_ms, str(turn.request_id), cost, messages_json(turn.messages)
        )
        self._seen[id] = max(ever, self._seen.pop(id, 0))

    async def cost(self, id: str) -> Decimal | None:
        """Return the cost of all turns in US dollars; None if that of one is unknown."""
        costs = await self._ask(("HVALS", _keys(id)[1]))
        self._note(id, len(costs))
        try:
            return sum((Decimal(cost.decode()) for cost in costs), Decimal(0))
        except InvalidOperation:  # one is empty
            return None

    async def clear(self, id: str) -> None:
        """Forget what was said; system prompt and cost stay. What was lost is no error from here on."""
        self._seen[id] = await self._run(_CLEAR, id)

    # --- inside ------------------------------------------------------------------------------

    def _note(self, id: str, ever: int) -> None:
        seen = self._seen.pop(id, 0)
        if len(self._seen) >= _MOST_SEEN:
            self._seen.pop(next(iter(self._seen)))
        self._seen[id] = max(seen, ever)
        if ever < seen:
            raise StoreUnavailableError(
                f"{self._server.where} holds {ever} of at least {seen} turns of the session {id!r}: "
                f"it was evicted, lost in a restart, or its lifetime (sessions.ttl_seconds) is over. "
                f"Nothing was sent. Its calls are in the log under this session_id; clear() begins anew"
            )

    async def _run(self, script: str, id: str, *arguments: Any) -> Any:
        keys = _keys(id)
        return await self._ask(("EVAL", script, len(keys), *keys, *arguments))

    async def _ask(self, command: Sequence[Any]) -> Any:
        from redis.exceptions import RedisError

        if not self._closes_with_lab:
            self._closes_with_lab = True
            self.runtime.thread.start(self._close_at_the_end, lambda: None)
        try:
            async with self._lock, asyncio.timeout(_TIMEOUT_S):
                return await self._session.ask(*command)
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreUnavailableError(
                f"the sessions in Redis at {self._server.where} can't be used "
                f"({self._server.describe(error)}): try again when it is back"
            ) from None

    async def _close_at_the_end(self) -> None:
        try:
            await asyncio.Event().wait()  # until the lab cancels what runs
        finally:
            await self._session.close()


def _keys(id: str) -> tuple[str, str, str]:
    # The braces keep the three together, should a proxy in front spread keys over servers.
    return (f"{PREFIX}{{{id}}}:turns", f"{PREFIX}{{{id}}}:costs", f"{PREFIX}{{{id}}}:system")
