"""A streamed answer, as its consumer sees it.

The whole request runs as one task on the lab's loop and puts chunks into a channel; the consumer
takes them from any thread or loop. A consumer that walks away cancels the task, which closes the
provider's connection, prices what had arrived, and logs it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from novellus_lab.errors import NovellusError
from novellus_lab.pipeline.loop_thread import acquire_interruptibly
from novellus_lab.types import Chunk

if TYPE_CHECKING:
    from collections.abc import Callable

    from novellus_lab.pipeline.loop_thread import LoopThread
    from novellus_lab.types import Completion

_HIGH_WATER = 1024
"""Chunks that may wait for a slow consumer before the provider is no longer read."""


class Channel:
    """Chunks from one task on the lab's loop to one consumer elsewhere."""

    def __init__(self) -> None:
        self._chunks: deque[Chunk] = deque()
        self._lock = threading.Lock()
        self._wake: Callable[[], None] | None = None
        self._room: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = False

    async def put(self, chunk: Chunk) -> None:
        """Hand a chunk over; wait while too many are untaken."""
        with self._lock:
            self._chunks.append(chunk)
            wake, self._wake = self._wake, None
            full = len(self._chunks) >= _HIGH_WATER
            if full:
                self._loop = asyncio.get_running_loop()
                room = self._room = asyncio.Event()
        if wake is not None:
            wake()
        if full:
            await room.wait()

    def end(self) -> None:
        """No more chunks will come."""
        with self._lock:
            self._ended = True
            wake, self._wake = self._wake, None
        if wake is not None:
            wake()

    def take(self, wake: Callable[[], None]) -> Chunk | bool | None:
        """Return a chunk, or None at the end, or False if it must be waited for.

        In the last case `wake` is called once, from another thread, when there is news.
        """
        with self._lock:
            if self._chunks:
                chunk = self._chunks.popleft()
                if self._room is not None and len(self._chunks) < _HIGH_WATER // 2:
                    room, self._room = self._room, None
                    if self._loop is not None:
                        with contextlib.suppress(RuntimeError):  # the lab was closed
                            self._loop.call_soon_threadsafe(room.set)
                return chunk
            if self._ended:
                return None
            self._wake = wake
            return False


class _Production:
    """The producing side: what the task on the loop holds.

    It knows nothing of the consumer, so that a stream that nobody holds any more is collected, and
    by that cancelled.
    """

    def __init__(self, run: Callable[..., Any]) -> None:
        self.channel = Channel()
        self.finished = threading.Event()
        self.completion: Completion | None = None
        self.error: BaseException | None = None
        self._run = run

    async def main(self) -> None:
        try:
            self.completion = await self._run(self.channel.put)
        except BaseException as error:
            self.error = error

    def end(self) -> None:
        self.finished.set()
        self.channel.end()


class _Streamed:
    """What the sync and the async stream share.

    Args:
        thread: where the request runs.
        run: the request; it is given the coroutine function that takes its chunks.
        lab: kept alive: a lab that nobody holds any more is closed.
    """

    _job: Any = None

    def __init__(self, thread: LoopThread, run: Callable[..., Any], lab: object) -> None:
        self._thread = thread
        self._lab = lab
        self._left = False
        self._production = _Production(run)
        self._job = thread.start(self._production.main, self._production.end)

    @property
    def completion(self) -> Completion:
        """The whole answer, once the stream has ended.

        Raises:
            RuntimeError: the stream has not ended, was closed, or failed.
        """
        completion = self._production.completion
        if completion is None:
            ended = self._production.finished.is_set()
            raise RuntimeError(
                "the stream was left or failed before its end: there is no whole answer"
                if ended
                else "the stream has not ended: read it to the end first"
            )
        return completion

    def _cancel(self) -> None:
        if self._job is not None and not self._production.finished.is_set():
            self._left = True
            self._thread.cancel(self._job)

    def _raise_error(self) -> None:
        """At the end of the chunks: raise unless it is the end of the answer, or we left."""
        production = self._production
        if production.completion is not None or self._left:
            return
        error, production.error = production.error, None
        if error is None or isinstance(error, asyncio.CancelledError):
            self._left = True
            raise NovellusError("the lab was closed while this stream was under way")
        self._left = True
        try:
            raise error
        finally:
            del error  # breaks the cycle error -> traceback -> frame

    def __del__(self) -> None:
        self._cancel()


class Stream(_Streamed):
    """`for chunk in lab.stream(...)`. Afterwards `.completion` holds the whole answer."""

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Chunk:
        self._thread.refuse_own_thread()
        news = threading.Lock()
        news.acquire()
        while True:
            chunk = self._production.channel.take(news.release)
            if isinstance(chunk, Chunk):
                return chunk
            if chunk is None:
                self._raise_error()
                raise StopIteration
            try:
                acquire_interruptibly(news)
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Stop reading. What had arrived is priced and logged when this returns."""
        self._cancel()
        self._production.finished.wait(5.0)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class AsyncStream(_Streamed):
    """`async for chunk in lab.astream(...)`. Afterwards `.completion` holds the whole answer."""

    def __aiter__(self) -> AsyncStream:
        return self

    async def __anext__(self) -> Chunk:
        loop = asyncio.get_running_loop()
        while True:
            news = asyncio.Event()

            def wake(news: asyncio.Event = news) -> None:
                with contextlib.suppress(RuntimeError):  # the consumer's loop is gone
                    loop.call_soon_threadsafe(news.set)

            chunk = self._production.channel.take(wake)
            if isinstance(chunk, Chunk):
                return chunk
            if chunk is None:
                self._raise_error()
                raise StopAsyncIteration
            try:
                await news.wait()
            except asyncio.CancelledError:
                self._cancel()
                raise

    async def aclose(self) -> None:
        """Stop reading. What had arrived is priced and logged when this returns."""
        self._cancel()
        if not self._production.finished.is_set():
            await asyncio.to_thread(self._production.finished.wait, 5.0)

    async def __aenter__(self) -> AsyncStream:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()
