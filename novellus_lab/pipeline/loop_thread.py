"""The lab's own event loop, on a thread of its own.

All waiting happens here, whoever calls: a notebook cell (whose own loop is running), a plain
script, many threads, or somebody else's event loop. Connections thus belong to one loop for life.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import logging
import threading
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from novellus_lab.errors import NovellusError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")

logger = logging.getLogger("novellus_lab")

_INTERRUPT_GRACE_S = 5.0
"""How long an interrupted call may take to close its connection and be logged."""
_STOP_S = 15.0
_LOOK_UP_EVERY_S = 0.1


def acquire_interruptibly(lock: threading.Lock) -> None:
    """Wait for a lock, but not past an interrupt.

    Python's own wait ends with the signal. Where a library has put itself in the signal's way
    (Polars does, once imported), the kernel resumes the wait, and Ctrl-C would do nothing.
    """
    while not lock.acquire(timeout=_LOOK_UP_EVERY_S):
        pass


class LoopThread:
    """An event loop that runs until `stop`."""

    def __init__(self, name: str = "novellus-loop") -> None:
        self.loop = _new_event_loop()
        self._jobs: set[_Job[Any]] = set()
        self._starting = threading.Lock()
        self._stopping = False
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()

    def run(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        """Run a coroutine function on the loop and wait for its result.

        An interrupt (Ctrl-C, "stop cell") cancels it, waits until it has cleaned up, and goes on.

        Raises:
            NovellusError: the lab is closed, was closed meanwhile, or this is its own thread.
        """
        self.refuse_own_thread()
        done = threading.Lock()
        done.acquire()
        job = _Job[T](function, args, on_done=done.release)
        try:
            self._start(job)
            acquire_interruptibly(done)
        except NovellusError:
            raise
        except BaseException:
            self.cancel(job)
            done.acquire(timeout=_INTERRUPT_GRACE_S)
            raise
        return job.result()

    async def arun(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        """Run a coroutine function on the loop and await its result from any other loop."""
        here = asyncio.get_running_loop()
        if here is self.loop:
            return await function(*args)
        done: asyncio.Future[None] = here.create_future()

        def wake() -> None:
            if not done.done():
                done.set_result(None)

        def on_done() -> None:
            # The caller's loop may be gone (asyncio.run was interrupted): nobody waits then.
            with contextlib.suppress(RuntimeError):
                here.call_soon_threadsafe(wake)

        job = _Job[T](function, args, on_done=on_done)
        self._start(job)
        try:
            await asyncio.shield(done)
        except asyncio.CancelledError:
            self.cancel(job)
            await done
            raise
        return job.result()

    def start(
        self, function: Callable[[], Coroutine[Any, Any, T]], on_done: Callable[[], None]
    ) -> _Job[T]:
        """Start a coroutine function and return at once; the job can be cancelled.

        `on_done` is called on the loop's thread, whatever the end.

        Raises:
            NovellusError: the lab is closed.
        """
        job = _Job[T](function, (), on_done)
        self._start(job)
        return job

    def cancel(self, job: _Job[Any]) -> None:
        """Cancel a started job; harmless when it is done or the loop is gone."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(job.cancel)

    def stop(self, finish: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        """Cancel what runs and wait for it, run `finish`, stop the loop, and join the thread."""
        self.refuse_own_thread()
        with self._starting:
            stopping, self._stopping = self._stopping, True
        if not stopping:
            self.loop.call_soon_threadsafe(self._wind_up, finish)
        self._thread.join(timeout=_STOP_S)

    def refuse_own_thread(self) -> None:
        """Raise where waiting for the loop would be the loop waiting for itself."""
        if threading.current_thread() is self._thread:
            raise NovellusError(
                "a synchronous lab call was made from inside the lab's own event loop (from a "
                "callback, for example), where it would wait for itself: use the async twin, or "
                "another thread"
            )

    def _start(self, job: _Job[Any]) -> None:
        context = contextvars.copy_context()
        with self._starting:  # after `stop`, nothing is put where nobody would ever run it
            if self._stopping:
                raise NovellusError("this lab is closed: open a new one with Lab()")
            self.loop.call_soon_threadsafe(job.start, self.loop, self._jobs, context)

    def _wind_up(self, finish: Callable[[], Coroutine[Any, Any, None]] | None) -> None:
        for job in list(self._jobs):
            job.closed = True
            job.cancel()
        self._last = self.loop.create_task(self._stop_when_idle(finish))

    async def _stop_when_idle(self, finish: Callable[[], Coroutine[Any, Any, None]] | None) -> None:
        try:
            tasks = [job.task for job in self._jobs if job.task is not None]
            if tasks:
                await asyncio.wait(tasks, timeout=_INTERRUPT_GRACE_S)
            if finish is not None:
                await finish()
            await self.loop.shutdown_asyncgens()
        except Exception:
            logger.exception("a lab's connections could not be closed cleanly")
        finally:
            self.loop.stop()

    def _main(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            for job in list(self._jobs):  # it would not die; who waits for it need not wait on
                job.end(asyncio.CancelledError())
            self.loop.close()


class _Job(Generic[T]):
    """A coroutine on its way through the loop."""

    __slots__ = (
        "_args",
        "_coroutine",
        "_error",
        "_function",
        "_on_done",
        "_result",
        "closed",
        "task",
    )

    def __init__(
        self,
        function: Callable[..., Coroutine[Any, Any, T]],
        args: tuple[Any, ...],
        on_done: Callable[[], None] | None = None,
    ) -> None:
        self._function = function
        self._args = args
        self._result: T | None = None
        self._error: BaseException | None = None
        self._on_done = on_done
        self.task: asyncio.Task[None] | None = None
        self.closed = False
        """Whether the lab was closed while this was under way."""

    def start(
        self,
        loop: asyncio.AbstractEventLoop,
        jobs: set[_Job[Any]],
        context: contextvars.Context,
    ) -> None:
        self._coroutine = self._main(jobs)
        self.task = loop.create_task(self._coroutine, context=context)
        jobs.add(self)

    def cancel(self) -> None:
        """Cancel it, on the loop. One that did not take its first step yet takes it, cancelled."""
        if self.task is None:
            self.end(asyncio.CancelledError())  # interrupted before it was on its way
        elif inspect.getcoroutinestate(self._coroutine) == inspect.CORO_CREATED:
            # Its `finally` clauses, which log it and wake who waits, were not entered yet.
            asyncio.get_running_loop().call_soon(self.task.cancel)
        else:
            self.task.cancel()

    def end(self, error: BaseException | None) -> None:
        """Wake whoever waits, once."""
        self._error = self._error or error
        on_done, self._on_done = self._on_done, None
        if on_done is not None:
            on_done()

    def result(self) -> T:
        if self._error is None:
            return self._result  # type: ignore[return-value]
        if self.closed and isinstance(self._error, asyncio.CancelledError):
            raise NovellusError("the lab was closed while this call was under way")
        try:
            raise self._error
        finally:
            self._error = None  # breaks the cycle error -> traceback -> frame -> job

    async def _main(self, jobs: set[_Job[Any]]) -> None:
        error: BaseException | None = None
        try:
            self._result = await self._function(*self._args)
        except BaseException as raised:
            error = raised
        finally:
            jobs.discard(self)
            self.end(error)


def _new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
