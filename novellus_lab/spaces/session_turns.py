"""Conversations in PostgreSQL: `ai_sessions` and the turns of each.

A turn is what was said and what was answered, in one row: a history has no question without its
answer, and of two processes that speak at once each adds its turn whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from novellus_lab.pipeline.kept_connection import KeptConnection
from novellus_lab.store.storable import storable_json

if TYPE_CHECKING:
    from decimal import Decimal
    from uuid import UUID

    import psycopg

    from novellus_lab.pipeline.runtime import Runtime
    from novellus_lab.types import Message

    Connection = psycopg.AsyncConnection[Any]


@dataclass(frozen=True, slots=True)
class Turn:
    """What was said and what was answered."""

    request_id: UUID
    """Of the answer, in `ai_requests`."""
    messages: list[Message]
    """The answer is the last."""
    cost_usd: Decimal | None


@dataclass(frozen=True, slots=True)
class Conversation:
    """A session as it stands."""

    system: str | None = None
    turns: tuple[list[Message], ...] = ()
    """The messages of each turn, oldest first."""


class SessionTurns:
    """One per runtime; its coroutines run on the lab's loop.

    Raises:
        StoreUnavailableError: from all of them; the database does not answer.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._database = KeptConnection(runtime.thread, runtime.conninfo)

    async def read(self, id: str) -> Conversation:
        """Return a conversation; an empty one if there is none of this id."""

        async def work(connection: Connection) -> Conversation:
            found = await connection.execute(
                "SELECT system FROM public.ai_sessions WHERE id = %s", [id]
            )
            row = await found.fetchone()
            if row is None:
                return Conversation()
            turns = await connection.execute(
                "SELECT messages FROM public.ai_session_turns WHERE session_id = %s"
                " ORDER BY position",
                [id],
            )
            return Conversation(row[0], tuple([turn[0] for turn in await turns.fetchall()]))

        return await self._database.run(work)

    async def set_system(self, id: str, system: str | None) -> None:
        """Keep what stands before the conversation."""

        async def work(connection: Connection) -> None:
            await connection.execute(
                "INSERT INTO public.ai_sessions (id, system) VALUES (%s, %s)"
                " ON CONFLICT (id) DO UPDATE SET system = excluded.system, updated_at = now()",
                [id, system],
            )

        await self._database.run(work)

    async def add(self, id: str, turn: Turn) -> None:
        """Add a turn behind all that are there, and its cost to the session's. Once, if repeated."""

        async def work(connection: Connection) -> None:
            # The session's row is locked from here on: whoever else adds a turn waits.
            await connection.execute(
                "INSERT INTO public.ai_sessions (id) VALUES (%s)"
                " ON CONFLICT (id) DO UPDATE SET updated_at = now()",
                [id],
            )
            there = await connection.execute(
                "SELECT 1 FROM public.ai_session_turns WHERE session_id = %s AND request_id = %s",
                [id, turn.request_id],
            )
            if await there.fetchone() is not None:
                return
            await connection.execute(
                "WITH session AS (UPDATE public.ai_sessions SET turns = turns + 1,"
                " cost_usd = cost_usd + coalesce(%s, 0), unpriced = unpriced + %s"
                " WHERE id = %s RETURNING turns)"
                " INSERT INTO public.ai_session_turns (session_id, position, request_id, messages)"
                " SELECT %s, turns, %s, %s::json FROM session",
                [
                    turn.cost_usd,
                    int(turn.cost_usd is None),
                    id,
                    id,
                    turn.request_id,
                    messages_json(turn.messages),
                ],
            )

        await self._database.run(work)

    async def cost(self, id: str) -> Decimal | None:
        """Return the cost of all turns in US dollars; None if that of one is unknown."""

        async def work(connection: Connection) -> Decimal | None:
            found = await connection.execute(
                "SELECT CASE WHEN unpriced = 0 THEN cost_usd END FROM public.ai_sessions"
                " WHERE id = %s UNION ALL SELECT 0 LIMIT 1",
                [id],
            )
            row = await found.fetchone()
            return None if row is None else row[0]

        return await self._database.run(work)

    async def clear(self, id: str) -> None:
        """Forget what was said; system prompt and cost stay."""

        async def work(connection: Connection) -> None:
            await connection.execute(
                "DELETE FROM public.ai_session_turns WHERE session_id = %s", [id]
            )

        await self._database.run(work)


def messages_json(messages: list[Message]) -> str:
    """Serialise the messages of a turn."""
    try:
        return orjson.dumps(messages).decode()
    except TypeError:  # a model sent half a character
        return orjson.dumps(storable_json(messages)).decode()
