"""Health for a scrape: read now and then, and never in its way."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import TYPE_CHECKING

from novellus_lab.errors import StoreUnavailableError
from novellus_lab.monitoring.health import score_health
from novellus_lab.monitoring.health_facts import read_facts
from novellus_lab.monitoring.rollups import catch_up, connected

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from novellus_lab.monitoring.health import HealthRules

logger = logging.getLogger("novellus_lab.monitoring")

_EVERY_S = 30.0
_WITHIN_S = 5.0


async def read_health(
    conninfo: str, rules: HealthRules, *, caching: bool
) -> Mapping[str, float | None]:
    """Return the scores of all models that were asked within a day; None where one is unknown.

    Raises:
        StoreUnavailableError, TimeoutError: the database does not answer.
    """
    async with asyncio.timeout(_WITHIN_S):
        try:
            async with connected(conninfo) as connection:
                await catch_up(connection)
        except StoreUnavailableError:
            pass  # it may be that we may only read: then as far as others have brought the rollups
        async with connected(conninfo) as connection:
            facts = await read_facts(connection, rules, (), caching=caching)
    return {f.model_id: score_health(f, rules).score for f in facts}


class KeptHealth:
    """Scores that are read anew at most twice a minute. What can't be read is not there.

    Args:
        read: may wait for the database.
    """

    def __init__(self, read: Callable[[], Mapping[str, float | None]]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._scores: Mapping[str, float | None] = {}
        self._next_at = 0.0
        self._failing = False

    def __call__(self) -> Mapping[str, float | None]:
        with self._lock:
            if time.monotonic() >= self._next_at:
                self._scores = self._look()
                self._next_at = time.monotonic() + _EVERY_S
            return self._scores

    def _look(self) -> Mapping[str, float | None]:
        try:
            scores = self._read()
        except Exception as error:
            if not self._failing:
                logger.warning("health can't be read: %s", error or type(error).__name__)
            self._failing = True
            return {}
        self._failing = False
        return scores
