"""The lab's own event loop, on a thread of its own.

All waiting happens here, whoever calls: a notebook cell (whose own loop is running), a plain
script, many threads, or somebody else's event loop. Connections thus belong to one loop for life.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from novellus_lab.errors import NovellusError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")

_INTERRUPT_GRACE_S = 5.0
"""How long an interrupted call may take to close its connection and be logged."""


class LoopThread:
    """An event loop that runs until `stop`."""

    def __init__(self, name: str = "novellus-loop") -> None:
        self.loop = _new_event_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()

    def run(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        """Run a coroutine function on the loop and wait for its result.

        An interrupt (Ctrl-C, "stop cell") cancels it, waits until it has cleaned up, and goes on.
        """
        self._refuse_own_thread()
        job = _Job[T](function, args)
        done = threading.Lock()
        done.acquire()
        job.on_done = done.release
        self._start(job)
        try:
            done.acquire()
        except BaseException:
            self.loop.call_soon_threadsafe(job.cancel)
            done.acquire(timeout=_INTERRUPT_GRACE_S)
            raise
        return job.result()

    async def arun(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        """Run a coroutine function on the loop and await its result from any other loop."""
        here = asyncio.get_running_loop()
        if here is self.loop:
            return await function(*args)
        job = _Job[T](function, args)
        done: asyncio.Future[None] = here.create_future()

        def wake() -> None:
            if not done.done():
                done.set_result(None)

        def on_done() -> None:
            # The caller's loop may be gone (asyncio.run was interrupted): nobody waits then.
            if not here.is_closed():
                here.call_soon_threadsafe(wake)

        job.on_done = on_done
        self._start(job)
        try:
            await asyncio.shield(done)
        except asyncio.CancelledError:
            self.loop.call_soon_threadsafe(job.cancel)
            await done
            raise
        return job.result()

    def start(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> _Job[T]:
        """Start a coroutine function and return at once; the job can be cancelled."""
        job = _Job[T](function, args)
        self._start(job)
        return job

    def cancel(self, job: _Job[Any]) -> None:
        """Cancel a started job; harmless when it is done or the loop is gone."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(job.cancel)

    def stop(self) -> None:
        """Cancel what still runs, stop the loop, and join the thread."""
        if self.loop.is_closed():
            return
        if threading.current_thread() is self._thread:
            raise NovellusError("a lab can't be closed from its own event loop; use another thread")
        self.loop.call_soon_threadsafe(self._cancel_all)
        self._thread.join(timeout=10.0)

    def _start(self, job: _Job[Any]) -> None:
        if self.loop.is_closed():
            raise NovellusError("this lab is closed: open a new one with Lab()")
        context = contextvars.copy_context()
        self.loop.call_soon_threadsafe(job.start, self.loop, self._tasks, context)

    def _refuse_own_thread(self) -> None:
        if threading.current_thread() is self._thread:
            raise NovellusError(
                "a synchronous lab call was made from inside the lab's own event loop (from a "
                "callback, for example), where it would wait for itself: use the async twin"
            )

    def _cancel_all(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        self.loop.create_task(self._stop_when_idle())

    async def _stop_when_idle(self) -> None:
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=5.0)
        await self.loop.shutdown_asyncgens()
        self.loop.stop()

    def _main(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.close()


class _Job(Generic[T]):
    """A coroutine on its way through the loop."""

    __slots__ = ("_args", "_cancelled", "_error", "_function", "_result", "_task", "on_done")

    def __init__(
        self, function: Callable[..., Coroutine[Any, Any, T]], args: tuple[Any, ...]
    ) -> None:
        self._function = function
        self._args = args
        self._task: asyncio.Task[None] | None = None
        self._cancelled = False
        self._result: T | None = None
        self._error: BaseException | None = None
        self.on_done: Callable[[], None] | None = None

    def start(
        self,
        loop: asyncio.AbstractEventLoop,
        tasks: set[asyncio.Task[Any]],
        context: contextvars.Context,
    ) -> None:
        self._task = loop.create_task(self._main(), context=context)
        tasks.add(self._task)
        self._task.add_done_callback(tasks.discard)
        if self._cancelled:
            self._task.cancel()

    def cancel(self) -> None:
        self._cancelled = True
        if self._task is not None:
            self._task.cancel()

    def result(self) -> T:
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # breaks the cycle error -> traceback -> frame -> job
        return self._result  # type: ignore[return-value]

    async def _main(self) -> None:
        try:
            self._result = await self._function(*self._args)
        except BaseException as error:
            self._error = error
        finally:
            if self.on_done is not None:
                self.on_done()


def _new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
