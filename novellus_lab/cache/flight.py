"""Single flight: of equal requests in the air one calls the provider, the others get its answer.

Within a process the callers of one event loop share a flight. Among processes a `Lease` says who
leads; the others look for the answer in the shared cache until it is there.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from novellus_lab.errors import DeadlineExceededError, NovellusError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from novellus_lab.cache.lease import Lease

T = TypeVar("T")

_FIRST_PAUSE_S = 0.005
_LONGEST_PAUSE_S = 0.1
_STORED_S = 5.0


@dataclass(frozen=True, slots=True)
class Landed(Generic[T]):
    """What a flight brought."""

    value: T
    led: bool
    """Whether the caller's own `leader` made it; otherwise it is another caller's or process's."""


class SingleFlight(Generic[T]):
    """Runs on one event loop.

    Args:
        lease: among processes, says who leads; None: only this process's callers share.
        stored: returns when what a leader made can be found by other processes (at most 5 s are
            waited, in the background). The lease is kept until then.
    """

    def __init__(
        self,
        lease: Lease | None = None,
        *,
        stored: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._lease = lease
        self._stored = stored
        self._flights: dict[bytes, deque[asyncio.Future[_Outcome[T]]]] = {}
        """For each key in the air, who waits."""
        self._releases: dict[bytes, asyncio.Task[None]] = {}

    @property
    def in_the_air(self) -> int:
        """How many keys are being worked on by this process."""
        return len(self._flights)

    async def run(
        self,
        key: bytes,
        leader: Callable[[], Awaitable[T]],
        *,
        look_up: Callable[[], Awaitable[T | None]] | None = None,
        deadline: float | None = None,
    ) -> Landed[T]:
        """Return what `leader` makes, or what an equal call made that was under way.

        `leader` runs in the task of its caller, so that its time, its log and its cancellation are
        the caller's own. If that caller is cancelled or runs out of time, one who waits takes over
        with a `leader` of its own; any other error of the leader is everybody's.

        Args:
            key: equal for equal requests.
            leader: makes the answer, and puts it where `look_up` finds it. Must not run the same
                key again.
            look_up: finds an answer that was made before, here or by another process; None where
                there is none. Called before `leader` is, and while another process leads. Without
                it nothing is shared among processes.
            deadline: `time.perf_counter()` up to which this caller waits; a leader minds its own.

        Raises:
            DeadlineExceededError: the deadline passed while waiting.
            Exception: whatever the leader raised. Those that waited each get a
                `NovellusError` of their own, equal to the leader's.
        """
        waiting = self._flights.get(key)
        if waiting is not None:
            outcome = await self._wait(key, waiting, deadline)
            if isinstance(outcome, _Failed):
                error = outcome.error()
                try:
                    raise error
                finally:
                    del error, outcome  # an error's frames must not hold the error
            if outcome is not None:
                return outcome
        else:
            self._flights[key] = deque()
        landed: Landed[T] | None = None
        failed: _Failed | None = None
        try:
            landed = await self._lead(key, leader, look_up, deadline)
        except DeadlineExceededError:
            raise  # this caller's: others may have more time
        except Exception as error:
            failed = _Failed(error)
            raise
        finally:
            if landed is not None:
                self._land(key, Landed(landed.value, led=False))
            elif failed is not None:
                self._land(key, failed)
            else:
                self._hand_over(key)
            failed = None
        return landed

    async def close(self) -> None:
        """Give back the leases of answers that are stored, or soon. The lease itself stays open."""
        while self._releases:
            await asyncio.wait(self._releases.values())

    # --- within the process --------------------------------------------------------------------

    async def _wait(
        self, key: bytes, waiting: deque[asyncio.Future[_Outcome[T]]], deadline: float | None
    ) -> _Outcome[T]:
        """Return how the flight ended; None: it goes on, and the caller is to lead it."""
        future: asyncio.Future[_Outcome[T]] = asyncio.get_running_loop().create_future()
        waiting.append(future)
        try:
            if deadline is None:
                return await future
            async with asyncio.timeout(deadline - time.perf_counter()):
                return await future
        except BaseException as error:
            if future.done() and not future.cancelled() and future.result() is None:
                self._hand_over(key)  # it was to lead, and can't
            if isinstance(error, TimeoutError):
                raise DeadlineExceededError(
                    "the deadline passed while an equal request was under way"
                ) from None
            raise

    def _land(self, key: bytes, outcome: _Outcome[T]) -> None:
        waiting = self._flights.pop(key)
        for future in waiting:
            if not future.done():
                future.set_result(outcome)
        waiting.clear()  # who waited still has it in a frame, which the error has in its traceback

    def _hand_over(self, key: bytes) -> None:
        waiting = self._flights[key]
        while waiting:
            future = waiting.popleft()
            if not future.done():
                future.set_result(None)
                return
        del self._flights[key]

    # --- among processes -----------------------------------------------------------------------

    async def _lead(
        self,
        key: bytes,
        leader: Callable[[], Awaitable[T]],
        look_up: Callable[[], Awaitable[T | None]] | None,
        deadline: float | None,
    ) -> Landed[T]:
        if look_up is None:
            return Landed(await leader(), led=True)
        lease = self._lease
        made = False
        if lease is not None:
            made = self._keep(key)
            pause_s = _FIRST_PAUSE_S
            while not await lease.acquire(key):
                found = await look_up()
                if found is not None:
                    return Landed(found, led=False)
                await _pause(pause_s, deadline)
                pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)
        try:
            # It may have landed between the caller's own look and now.
            found = await look_up()
            if found is not None:
                return Landed(found, led=False)
            value = await leader()
            made = True
            return Landed(value, led=True)
        finally:
            if lease is not None:
                self._release(lease, key, made)

    def _keep(self, key: bytes) -> bool:
        """Return whether an earlier flight has the lease still, which goes over to the next."""
        task = self._releases.pop(key, None)
        return task is not None and task.cancel()

    def _release(self, lease: Lease, key: bytes, made: bool) -> None:
        if not made or self._stored is None:
            lease.release(key)
            return
        task = asyncio.create_task(self._release_when_stored(lease, key, self._stored))
        self._releases[key] = task
        task.add_done_callback(lambda done: self._forget(key, done))

    def _forget(self, key: bytes, task: asyncio.Task[None]) -> None:
        if self._releases.get(key) is task:
            del self._releases[key]

    @staticmethod
    async def _release_when_stored(
        lease: Lease, key: bytes, stored: Callable[[], Awaitable[None]]
    ) -> None:
        try:
            async with asyncio.timeout(_STORED_S):
                await stored()
        except TimeoutError:
            pass
        lease.release(key)


@dataclass(frozen=True, slots=True)
class _Failed:
    cause: Exception

    def error(self) -> Exception:
        """Return the error for one of those that waited.

        Ours are copied: many tasks that raise one object write into one traceback.
        """
        given = self.cause
        if not isinstance(given, NovellusError):
            return given
        twin = type(given).__new__(type(given), *given.args)
        twin.__dict__.update(given.__dict__)
        if notes := getattr(given, "__notes__", None):
            twin.__notes__ = list(notes)
        twin.__cause__ = given.__cause__
        twin.__suppress_context__ = given.__suppress_context__
        return twin


_Outcome = Landed[T] | _Failed | None


async def _pause(pause_s: float, deadline: float | None) -> None:
    if deadline is not None:
        left_s = deadline - time.perf_counter()
        if left_s <= 0:
            raise DeadlineExceededError(
                "the deadline passed while another process made the answer to an equal request"
            )
        pause_s = min(pause_s, left_s)
    await asyncio.sleep(pause_s)
