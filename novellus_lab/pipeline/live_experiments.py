"""The experiments on live traffic that are under way, as the database has them."""

from __future__ import annotations

import asyncio
import logging
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import psycopg

from novellus_lab.errors import StoreUnavailableError
from novellus_lab.routing.assignment import LiveArm, LiveExperiment, assigned

if TYPE_CHECKING:
    from collections.abc import Mapping

    from novellus_lab.pipeline.kept_connection import KeptConnection

logger = logging.getLogger("novellus_lab.experiments")

LOOK_S = 15.0
"""How soon a lab takes part in an experiment that another process began, or leaves one."""

_RUNNING = """
SELECT label, design FROM public.ai_experiments
WHERE kind = 'live' AND ended_at IS NULL ORDER BY started_at, id
"""


class LiveExperiments:
    """One per lab: `apply` on any thread, `refresh` and `follow` on the lab's loop."""

    def __init__(self, connection: KeptConnection) -> None:
        self.connection = connection
        """To the tables of experiments: one for all that is asked of them."""
        self._running: tuple[LiveExperiment, ...] = ()

    def __bool__(self) -> bool:
        return bool(self._running)

    def apply(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a call's arguments as the experiment that it falls into has them."""
        return assigned(self._running, arguments, token_hex(8))

    async def refresh(self) -> None:
        """Read which experiments are under way.

        Raises:
            StoreUnavailableError
        """

        async def read(connection: psycopg.AsyncConnection[Any]) -> list[tuple[str, Any]]:
            cursor = await connection.execute(_RUNNING)
            return await cursor.fetchall()

        self._running = tuple(_live(label, d) for label, d in await self.connection.run(read))

    async def follow(self) -> None:
        """Look now and then, for as long as the lab lives. With the database away nothing changes."""
        while True:
            try:
                await self.refresh()
            except (StoreUnavailableError, psycopg.Error, OSError) as error:
                logger.debug("experiments can't be read: %s", error)
            await asyncio.sleep(LOOK_S)


def _live(label: str, design: Mapping[str, Any]) -> LiveExperiment:
    arms = tuple(
        LiveArm(arm["name"], float(arm["share"]), arm.get("arguments") or {})
        for arm in design["arms"]
    )
    return LiveExperiment(label, design["unit"], arms)
