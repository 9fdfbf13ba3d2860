"""A batch that workers share."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from novellus_lab.errors import InvalidRequestError, NovellusError
from novellus_lab.pipeline.structured import parse_answer
from novellus_lab.queue.arguments import JobRequest, check_request
from novellus_lab.queue.queue import answer_of
from novellus_lab.types import BatchFailure, Completion

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from novellus_lab.queue.jobs import JobRow
    from novellus_lab.queue.queue import JobQueue

    Result = Completion | BatchFailure

logger = logging.getLogger("novellus_lab")

FIND_WORKER_S = 10.0
"""How long a batch waits for a worker before it refuses."""
_WORKERS_GONE_S = 90.0
_AT_ONCE = 1_000
"""Jobs that are queued in one transaction."""


async def run_queued_batch(
    jobs: JobQueue,
    items: Sequence[dict[str, Any]],
    queue: bool | str,
    on_result: Callable[[Result], None],
) -> list[Result]:
    """Have workers answer every item; results in order, failures in their places.

    Cancelling cancels what was not answered yet.

    Args:
        queue: its name; True: the default one.

    Raises:
        NoWorkerError: no worker serves the queue; nothing was queued.
    """
    name = queue if isinstance(queue, str) else "default"
    results: list[Result | None] = [None] * len(items)

    def take(place: int, result: Result) -> None:
        results[place] = result
        with contextlib.suppress(Exception):  # showing it must not cost anybody the others
            on_result(result)

    checked: dict[int, JobRequest] = {}
    for place, item in enumerate(items):
        try:
            checked[place] = check_request(jobs.runtime, item, queue=name)
        except InvalidRequestError as error:
            take(place, BatchFailure(error, place))
    places = list(checked)
    if not places:
        return results  # type: ignore[return-value]
    await jobs.expect_worker(name, FIND_WORKER_S)

    def on_end(number: int, told: JobRow | NovellusError) -> None:
        place = places[number]
        model = checked[place].response_model
        try:
            if isinstance(told, NovellusError):
                raise told
            completion = answer_of(told)
            if model is not None and completion.content:
                completion = replace(completion, parsed=parse_answer(completion.content, {}, model))
            take(place, completion)
        except NovellusError as error:
            take(place, BatchFailure(error, place))

    ids: list[UUID] = []
    try:
        for start in range(0, len(places), _AT_ONCE):
            some = [checked[place] for place in places[start : start + _AT_ONCE]]
            ids += await jobs.put_all(some)
        await jobs.all_ended(ids, name, on_end, give_up_s=_WORKERS_GONE_S)
    except BaseException:
        await _cancel_rest(
            jobs, [id for id, place in zip(ids, places, strict=False) if results[place] is None]
        )
        raise
    return results  # type: ignore[return-value]


async def _cancel_rest(jobs: JobQueue, ids: Sequence[UUID]) -> None:
    try:
        async with asyncio.timeout(4.0):
            await jobs.cancel_all(ids)
    except (NovellusError, TimeoutError) as error:
        logger.warning("not all of the batch's jobs could be cancelled: %s", error)
