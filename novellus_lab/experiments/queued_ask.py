"""A call that a worker makes: put on the queue with others, awaited by its own caller."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from novellus_lab.errors import NovellusError
from novellus_lab.queue.arguments import check_request
from novellus_lab.queue.batch import FIND_WORKER_S
from novellus_lab.queue.queue import answer_of

if TYPE_CHECKING:
    from uuid import UUID

    from novellus_lab.queue.arguments import JobRequest
    from novellus_lab.queue.jobs import JobRow
    from novellus_lab.queue.queue import JobQueue
    from novellus_lab.types import Completion

_GATHER_S = 0.02
"""How long calls are gathered before they are put on the queue together."""
_WORKERS_GONE_S = 90.0


@dataclass(slots=True)
class _Waiting:
    request: JobRequest
    answer: asyncio.Future[Completion]


class QueuedAsk:
    """Sends calls through the queue, on the lab's loop. Whoever stops waiting cancels the job.

    Args:
        queue: its name.
    """

    def __init__(self, jobs: JobQueue, queue: str) -> None:
        self._jobs = jobs
        self._queue = queue
        self._gathered: list[_Waiting] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def expect_worker(self) -> None:
        """Return when a worker serves the queue.

        Raises:
            NoWorkerError
        """
        await self._jobs.expect_worker(self._queue, FIND_WORKER_S)

    async def __call__(self, call: dict[str, Any]) -> Completion:
        """Have a worker make the call.

        Raises:
            InvalidRequestError: its arguments are wrong; nothing was queued.
            NovellusError: what it ended with.
        """
        request = check_request(self._jobs.runtime, call, queue=self._queue)
        waiting = _Waiting(request, asyncio.get_running_loop().create_future())
        self._gathered.append(waiting)
        if len(self._gathered) == 1:
            task = asyncio.create_task(self._send())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await waiting.answer

    async def _send(self) -> None:
        await asyncio.sleep(_GATHER_S)
        together, self._gathered = self._gathered, []
        together = [waiting for waiting in together if not waiting.answer.cancelled()]

        def on_end(number: int, told: JobRow | NovellusError) -> None:
            answer = together[number].answer
            if answer.done():
                return
            try:
                if isinstance(told, NovellusError):
                    raise told
                answer.set_result(answer_of(told))
            except NovellusError as error:
                answer.set_exception(error)

        ids = []
        try:
            ids = await self._jobs.put_all([waiting.request for waiting in together])
            ended = asyncio.ensure_future(
                self._jobs.all_ended(ids, self._queue, on_end, give_up_s=_WORKERS_GONE_S)
            )
            for id, waiting in zip(ids, together, strict=True):
                waiting.answer.add_done_callback(partial(self._given_up, id))
            await ended
        except NovellusError as error:
            for waiting in together:
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)

    def _given_up(self, id: UUID, answer: asyncio.Future[Completion]) -> None:
        if not answer.cancelled():
            return
        task = asyncio.create_task(self._cancel(id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _cancel(self, id: UUID) -> None:
        try:
            await self._jobs.cancel(id)
        except NovellusError:
            return  # it ended meanwhile, or the database is away: the worker answers it unheard
