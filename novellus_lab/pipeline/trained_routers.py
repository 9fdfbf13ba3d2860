"""Routers that were trained, kept in the database under names; read once, and again when new."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg

from novellus_lab.errors import StoreUnavailableError

if TYPE_CHECKING:
    from datetime import datetime

    from novellus_lab.routing.learned import TrainedRouter

logger = logging.getLogger("novellus_lab.routing")

_FRESH_S = 60.0
"""How long a router is used before somebody looks whether there is a newer one."""
_WITHIN_S = 5.0


@dataclass(frozen=True, slots=True)
class StoredRouter:
    """A row of `ai_routers`, without the router's numbers."""

    name: str
    weak_model: str
    strong_model: str
    learner: str
    outcomes: int
    apgr: float
    apgr_low: float
    apgr_high: float
    informative: bool
    """Whether it is better than chance; don't route by it otherwise."""
    trained_at: datetime


@dataclass(slots=True)
class _Held:
    version: int
    router: TrainedRouter | None
    looked_at: float


class TrainedRouters:
    """One per lab. `ensure`, `save` and `stored` on the lab's loop, `get` on any thread."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._held: dict[str, _Held] = {}
        self._embedder: Any = None

    def get(self, name: str) -> TrainedRouter | None:
        """Return the router of a name as far as it was read."""
        held = self._held.get(name)
        return None if held is None else held.router

    async def ensure(self, name: str) -> None:
        """Read a router, if that was not done of late. Where the database is away, the old one stays."""
        held = self._held.get(name)
        if held is not None and time.monotonic() - held.looked_at < _FRESH_S:
            return
        if held is not None:
            held.looked_at = time.monotonic()  # one looks, the others go on
        try:
            await self._read(name, 0 if held is None else held.version)
        except (psycopg.Error, OSError, TimeoutError, StoreUnavailableError) as error:
            logger.warning("router %r can't be read: %s", name, type(error).__name__)

    async def save(self, name: str, router: TrainedRouter) -> None:
        """Keep a router as the newest of its name.

        Raises:
            StoreUnavailableError
        """
        text, summary = await asyncio.to_thread(router.to_json), router.summary
        try:
            async with await self._connected() as connection:
                await connection.execute(
                    b"INSERT INTO public.ai_routers (name, weak_model, strong_model, learner, outcomes, "
                    b"apgr, apgr_low, apgr_high, informative, trained_at, router) "
                    b"VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
                    [
                        name,
                        summary.weak_model,
                        summary.strong_model,
                        summary.learner,
                        summary.outcomes,
                        _finite(summary.metrics.apgr),
                        _finite(summary.apgr_low),
                        _finite(summary.apgr_high),
                        summary.informative,
                        summary.trained_at,
                        text,
                    ],
                )
        except (psycopg.Error, OSError, TimeoutError) as error:
            raise StoreUnavailableError(f"router {name!r} can't be kept: {error}") from None
        self._held.pop(name, None)

    async def stored(self) -> list[StoredRouter]:
        """Return the newest router of each name.

        Raises:
            StoreUnavailableError
        """
        try:
            async with await self._connected() as connection:
                cursor = await connection.execute(
                    b"SELECT DISTINCT ON (name) name, weak_model, strong_model, learner, outcomes, apgr, "
                    b"apgr_low, apgr_high, informative, trained_at FROM public.ai_routers "
                    b"ORDER BY name, id DESC"
                )
                return [StoredRouter(*row) for row in await cursor.fetchall()]
        except (psycopg.Error, OSError, TimeoutError) as error:
            raise StoreUnavailableError(f"the routers can't be read: {error}") from None

    async def _read(self, name: str, known: int) -> None:
        async with asyncio.timeout(_WITHIN_S), await self._connected() as connection:
            cursor = await connection.execute(
                b"SELECT id, CASE WHEN id <> %s THEN router::text END FROM public.ai_routers "
                b"WHERE name = %s ORDER BY id DESC LIMIT 1",
                [known, name],
            )
            row = await cursor.fetchone()
        if row is None:
            # Not yet: another process may be training it. Looked for again with the next call.
            return
        if row[1] is None:
            return
        router = await asyncio.to_thread(self._load, row[1])
        self._held[name] = _Held(row[0], router, time.monotonic())

    def _load(self, text: str) -> TrainedRouter:
        from novellus_lab.routing.learned import TrainedRouter

        router = TrainedRouter.from_json(text)
        if router.embedder_name is None:
            return router
        return router.with_embedder(self.embedder())

    def embedder(self) -> Any:
        """Return the offline embedder that routers read, opened on first use.

        Raises:
            MissingDependencyError: `novellus_lab[semantic]` is not installed.
        """
        if self._embedder is None:
            from novellus_lab.embeddings.registry import open_embedder

            self._embedder = open_embedder("static")
        return self._embedder

    async def _connected(self) -> psycopg.AsyncConnection[Any]:
        return await psycopg.AsyncConnection.connect(self._conninfo, autocommit=True)


def _finite(number: float) -> float | None:
    return number if number == number and abs(number) != float("inf") else None
