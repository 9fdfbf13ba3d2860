"""Limits that many processes share: one script in Redis or Valkey, by the server's clock."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from novellus_lab.errors import MissingDependencyError
from novellus_lab.ids import uuid7

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from novellus_lab.limits.quota import Quota

_TIMEOUT_S = 1.0
_BATCH = 100
_MOST_UNSENT = 10_000
"""Ends of calls that wait for Redis to come back; beyond, the lease ends them."""


class SharedStoreAwayError(Exception):
    """Redis did not answer, or not what was asked."""


class SharedLimits:
    """Runs on one event loop.

    A call that is let in holds a place under a lease; one whose process dies gives the place back
    when the lease runs out, and counts as having used its estimate.

    Args:
        url: `redis://…`, `rediss://…` or `unix://…`.
    """

    def __init__(self, url: str, *, prefix: str = "novellus:limits") -> None:
        try:
            import redis.asyncio as redis
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
            from redis.exceptions import NoScriptError, RedisError
        except ImportError:
            raise MissingDependencyError(
                "redis_url is set, and the package redis is not installed: "
                "pip install 'novellus_lab[redis]', or leave redis_url out"
            ) from None
        # In the braces what a cluster places keys by: a script needs all of them in one place.
        self._prefix = f"{{{prefix}}}"
        self._client: Any = redis.Redis.from_url(
            url,
            socket_timeout=_TIMEOUT_S,
            socket_connect_timeout=_TIMEOUT_S,
            # Once more, for a connection that the server has closed meanwhile; the script knows a
            # call again. Longer patience is not the library's to have.
            retry=Retry(NoBackoff(), 1),
            decode_responses=True,
        )
        self._faults = (RedisError, OSError, TimeoutError, asyncio.TimeoutError)
        self._no_script = NoScriptError
        self._script = (files("novellus_lab.limits") / "take.lua").read_text(encoding="utf-8")
        self._sha: str | None = None
        self._ended: deque[tuple[tuple[Quota, ...], str, float, bool]] = deque(maxlen=_MOST_UNSENT)
        self._ending: asyncio.Task[bool] | None = None

    async def take(
        self, quotas: tuple[Quota, ...], tokens: Sequence[float], lease_s: float
    ) -> tuple[list[str], float | None, int, str]:
        """Let calls in, in their order, until one does not fit.

        Returns:
            The members of those that were let in, for `end`; then of the first that was not: the
            seconds until it may fit (None: only a release helps), which quota it waits for, and its
            dimension.

        Raises:
            SharedStoreAwayError
        """
        members = [f"{uuid7().hex}:{amount:g}" for amount in tokens]
        try:
            admitted, wait_us, culprit, why = await self._run(
                "take", quotas, f"{lease_s * 1e6:.0f}", *members
            )
        except BaseException:
            for member in members:  # it may have let them in, and its answer was lost
                self.end(quotas, member, 0.0, sent=False)
            raise
        wait_s = None if int(wait_us) < 0 else int(wait_us) / 1e6
        return members[: int(admitted)], wait_s, int(culprit) - 1, str(why)

    def end(self, quotas: tuple[Quota, ...], member: str, used: float, *, sent: bool) -> None:
        """A call ended: tell Redis soon."""
        self._ended.append((quotas, member, used, sent))
        if self._ending is None:
            self._ending = asyncio.create_task(self._tell_ends())

    async def pause(self, quota: Quota, seconds: float) -> None:
        """Let nothing in for so long.

        Raises:
            SharedStoreAwayError
        """
        await self._run("pause", (quota,), f"{seconds * 1e6:.0f}")

    async def ping(self) -> None:
        """Ask whether Redis is there.

        Raises:
            SharedStoreAwayError
        """
        await self._answered(self._client.ping())

    async def flush(self) -> None:
        """Return when the ends that were noted are told, or Redis is away."""
        while self._ended or self._ending is not None:
            if self._ending is None:
                self._ending = asyncio.create_task(self._tell_ends())
            if not await asyncio.shield(self._ending):
                return

    async def aclose(self) -> None:
        with contextlib.suppress(SharedStoreAwayError):
            await self.flush()
        if self._ending is not None:
            self._ending.cancel()
        with contextlib.suppress(*self._faults):
            await self._client.aclose()

    async def _tell_ends(self) -> bool:
        """Return whether Redis took them."""
        try:
            while self._ended:
                quotas = self._ended[0][0]
                batch: list[tuple[tuple[Quota, ...], str, float, bool]] = []
                while self._ended and self._ended[0][0] == quotas and len(batch) < _BATCH:
                    batch.append(self._ended.popleft())
                told = [
                    word
                    for _, member, used, sent in batch
                    for word in (member, f"{used:.6f}", "sent" if sent else "unsent")
                ]
                try:
                    await self._run("end", quotas, *told)
                except BaseException as error:
                    self._ended.extendleft(reversed(batch))
                    if isinstance(error, SharedStoreAwayError):
                        return False  # with the next end, or at the next flush, it is tried again
                    raise
            return True
        finally:
            self._ending = None

    async def _run(self, action: str, quotas: tuple[Quota, ...], *words: str) -> list[Any]:
        keys = [
            f"{self._prefix}:{quota.id}:{part}" for quota in quotas for part in ("state", "calls")
        ]
        limits = [
            word
            for q in quotas
            for word in (
                q.rpm or -1,
                q.tpm or -1,
                q.concurrent or -1,
                q.most_requests,
                q.most_tokens,
            )
        ]
        arguments = [*keys, action, len(quotas), *limits, *words]
        for _ in range(2):
            if self._sha is None:
                self._sha = await self._answered(self._client.script_load(self._script))
            try:
                answer: list[Any] = await self._answered(
                    self._client.evalsha(self._sha, len(keys), *arguments)
                )
            except self._no_script:
                self._sha = None  # the server was started anew
                continue
            return answer
        raise SharedStoreAwayError("Redis forgets the script as soon as it is loaded")

    async def _answered(self, command: Awaitable[Any]) -> Any:
        try:
            return await command
        except self._no_script:
            raise
        except self._faults as error:
            raise SharedStoreAwayError(f"{type(error).__name__}: {error}") from error
