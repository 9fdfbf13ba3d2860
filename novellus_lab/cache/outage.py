"""A shared server that is away: said once, asked by a task of its own until it is back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

logger = logging.getLogger("novellus_lab.cache")

_MIN_BACKOFF_S = 0.05
_MAX_BACKOFF_S = 5.0


def _nothing() -> None:
    pass


class Outage:
    """While `away`, nobody knocks: calls go on without the server, at once.

    Args:
        what: names the server in the log, as in "the Redis cache at localhost:6379/0".
        come_back: tries whether it answers, and makes up for what was missed; raises if it doesn't.
        describe: what may be said of an error; no password.
        on_back: called when it is back.
        max_backoff_s: the longest pause between two tries.
    """

    def __init__(
        self,
        what: str,
        come_back: Callable[[], Awaitable[None]],
        *,
        describe: Callable[[BaseException], str],
        on_back: Callable[[], None] = _nothing,
        max_backoff_s: float = _MAX_BACKOFF_S,
    ) -> None:
        self.away = False
        self._what = what
        self._come_back = come_back
        self._describe = describe
        self._on_back = on_back
        self._max_backoff_s = max_backoff_s
        self._recovering: asyncio.Task[None] | None = None
        self._closed = False

    def begin(self, error: BaseException) -> None:
        """Note that the server failed. One line in the log, however many calls noticed it."""
        if self.away or self._closed:
            return
        self.away = True
        logger.warning(
            "%s can't be used, calls go on without it: %s", self._what, self._describe(error)
        )
        self._recovering = asyncio.create_task(self._recover())

    async def close(self) -> None:
        """Stop trying. Idempotent."""
        self._closed = True
        if self._recovering is not None:
            self._recovering.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._recovering

    async def _recover(self) -> None:
        backoff_s = min(_MIN_BACKOFF_S, self._max_backoff_s)
        while True:
            await asyncio.sleep(backoff_s * random.uniform(0.5, 1.0))
            backoff_s = min(backoff_s * 2, self._max_backoff_s)
            try:
                async with asyncio.timeout(_MAX_BACKOFF_S):
                    await self._come_back()
            except Exception as error:  # whatever it is: to give up would be for ever
                logger.debug("%s is still away: %s", self._what, self._describe(error))
            else:
                break
        self.away = False
        logger.warning("%s is back", self._what)
        self._on_back()
