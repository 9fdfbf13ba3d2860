"""A queued request in the hand, and `lab.queue`: jobs, workers, batches at providers."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from novellus_lab.errors import InvalidRequestError, NovellusError, UnknownJobError
from novellus_lab.pipeline.batch import batch_items
from novellus_lab.pipeline.structured import parse_answer
from novellus_lab.queue.answers import load_error
from novellus_lab.queue.jobs import JobStatus
from novellus_lab.queue.provider_batches import TEND_EVERY_S
from novellus_lab.queue.queue import answer_of
from novellus_lab.spaces.provider_batch import Batches, ProviderBatch

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence
    from typing import Unpack

    from novellus_lab.lab import CallArguments, Lab
    from novellus_lab.queue.jobs import JobRow
    from novellus_lab.queue.provider_batches import ProviderBatches
    from novellus_lab.queue.queue import JobQueue, WorkerState
    from novellus_lab.types import Completion, Message

logger = logging.getLogger("novellus_lab")


class Job:
    """A request in the queue: `job.status()`, `job.result()` or `await job`, `job.cancel()`.

    It is found again by its id from any process: `lab.job(id)`. It runs, and its result is kept,
    whether or not this object lives on.
    """

    def __init__(
        self,
        id: UUID,
        jobs: Callable[[], JobQueue],
        *,
        response_model: type | None = None,
        seen: JobRow | None = None,
    ) -> None:
        self.id = id
        self._jobs = jobs
        self._response_model = response_model
        self._seen = seen

    def status(self) -> JobStatus:
        """Return where it stands: queued, running, done, failed or cancelled.

        Raises:
            UnknownJobError: there is no such job (any more).
            StoreUnavailableError
        """
        return JobStatus(self._read().status)

    async def astatus(self) -> JobStatus:
        """Return where it stands: the async twin of `status`."""
        jobs = self._jobs()
        self._seen = await jobs.runtime.thread.arun(jobs.row, self.id)
        return JobStatus(self._seen.status)

    def result(self, timeout: float | None = None) -> Completion:
        """Wait for the end, and return the answer.

        Args:
            timeout: seconds to wait; None: until it has ended.

        Raises:
            JobNotDoneError: it has not ended within `timeout`. It goes on.
            JobCancelledError: it was cancelled.
            UnknownJobError: there is no such job (any more).
            NovellusError: what its call met, as `lab.complete` would have raised it.
        """
        jobs = self._jobs()
        return self._answer(jobs.runtime.thread.run(jobs.ended, self.id, _checked(timeout)))

    async def aresult(self, timeout: float | None = None) -> Completion:
        """Wait for the end, and return the answer: the async twin of `result`."""
        jobs = self._jobs()
        return self._answer(await jobs.runtime.thread.arun(jobs.ended, self.id, _checked(timeout)))

    def __await__(self) -> Generator[Any, None, Completion]:
        return self.aresult().__await__()

    def cancel(self) -> bool:
        """Cancel it; a call that is under way is broken off. Return whether it had not ended."""
        jobs = self._jobs()
        return jobs.runtime.thread.run(jobs.cancel, self.id)

    async def acancel(self) -> bool:
        """Cancel it: the async twin of `cancel`."""
        jobs = self._jobs()
        return await jobs.runtime.thread.arun(jobs.cancel, self.id)

    def retry(self) -> Job:
        """Run it afresh, after it failed; return itself.

        Raises:
            InvalidRequestError: it did not fail.
        """
        jobs = self._jobs()
        jobs.runtime.thread.run(jobs.retry, self.id)
        return self

    async def aretry(self) -> Job:
        """Run it afresh: the async twin of `retry`."""
        jobs = self._jobs()
        await jobs.runtime.thread.arun(jobs.retry, self.id)
        return self

    def _read(self) -> JobRow:
        jobs = self._jobs()
        self._seen = jobs.runtime.thread.run(jobs.row, self.id)
        return self._seen

    def _answer(self, row: JobRow) -> Completion:
        self._seen = row
        completion = answer_of(row)
        if self._response_model is None or (completion.tool_calls and not completion.content):
            return completion
        parsed = parse_answer(completion.content, {}, self._response_model)
        return replace(completion, parsed=parsed)

    def __repr__(self) -> str:
        """What was last heard of it: a repr asks nobody."""
        return f"Job({self.id}{'' if self._seen is None else f', {_told(self._seen)}'})"

    def _repr_html_(self) -> str:
        from novellus_lab.display import table_html

        try:
            row = self._read()
        except NovellusError as error:
            return table_html(("job",), [(str(self.id),)], (str(error),))
        return table_html(_HEADER, [_cells(row)])


class Jobs(tuple[Job, ...]):
    """Jobs, newest first. Shows itself as a table."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        from novellus_lab.display import table_html

        return table_html(_HEADER, [_cells(job._seen) for job in self if job._seen is not None])


class Workers(tuple["WorkerState", ...]):
    """The workers that are alive. Shows itself as a table."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        from novellus_lab.display import table_html

        rows = [
            (
                f"{state.host}:{state.pid}",
                "all" if state.queues is None else ", ".join(state.queues),
                f"{state.running} of {state.concurrency}",
                f"{state.started_at.astimezone():%Y-%m-%d %H:%M:%S}",
            )
            for state in self
        ]
        about = () if self else ("no worker is alive: start one with `novellus worker`",)
        return table_html(("worker", "queues", "busy", "since"), rows, about)


class LabQueue:
    """The queue of a lab's database, and the batches at providers."""

    def __init__(
        self, jobs: Callable[[], JobQueue], batches: Callable[[], ProviderBatches]
    ) -> None:
        self._jobs = jobs
        self._batches = batches

    def __repr__(self) -> str:
        return "lab.queue: jobs, workers, submit_batch, batch, batches"

    def submit_batch(
        self,
        prompts: Iterable[str | Sequence[Message] | dict[str, Any]],
        **arguments: Unpack[CallArguments],
    ) -> ProviderBatch:
        """Hand many prompts over to their provider's batch API, and return at once.

        Answers come within 24 hours, mostly sooner, at the provider's batch price. Results, also
        after a restart, from any process: `lab.queue.batch(id).wait()`.

        Args:
            prompts: prompts, message lists, or dicts of `complete`'s arguments, as of `lab.batch`.
            arguments: `complete`'s, for every item; `model_id` is needed, `timeout` is not taken.

        What the exact cache holds is not handed over; nor is what equals a request that is under way
        in an earlier batch: its answer is waited for. Budgets hold what a batch may cost.

        Raises:
            InvalidRequestError: an item names no model, or its provider has no batch API; nothing
                was sent. Whatever else is wrong with an item stands in its place in the results.
            StoreUnavailableError: the database does not answer; nothing was sent.
        """
        batches = self._batches()
        items = batch_items(prompts, dict(arguments), 1)
        id, classes = batches.runtime.thread.run(batches.submit, items)
        return ProviderBatch(id, self._batches, classes=classes)

    async def asubmit_batch(
        self,
        prompts: Iterable[str | Sequence[Message] | dict[str, Any]],
        **arguments: Unpack[CallArguments],
    ) -> ProviderBatch:
        """Hand many prompts over to their provider: the async twin of `submit_batch`."""
        batches = self._batches()
        items = batch_items(prompts, dict(arguments), 1)
        id, classes = await batches.runtime.thread.arun(batches.submit, items)
        return ProviderBatch(id, self._batches, classes=classes)

    def batch(self, id: UUID | str) -> ProviderBatch:
        """Return a batch at a provider by its id, whoever submitted it.

        Raises:
            UnknownJobError: this is no id. Whether there is such a batch, its methods tell.
        """
        return ProviderBatch(job_id(id, "batch"), self._batches)

    def batches(self, *, limit: int = 20) -> Batches:
        """Return the latest batches at providers, newest first, as they were last seen."""
        batches = self._batches()
        found = batches.runtime.thread.run(batches.newest, limit)
        return Batches(ProviderBatch(one.batch.id, self._batches, seen=one) for one in found)

    async def abatches(self, *, limit: int = 20) -> Batches:
        """Return the latest batches at providers: the async twin of `batches`."""
        batches = self._batches()
        found = await batches.runtime.thread.arun(batches.newest, limit)
        return Batches(ProviderBatch(one.batch.id, self._batches, seen=one) for one in found)

    def jobs(self, status: str | None = None, *, limit: int = 100) -> Jobs:
        """Return the latest jobs, newest first.

        Args:
            status: only those that are queued, running, done, failed (the dead letters) or
                cancelled.
            limit: at most so many.
        """
        jobs = self._jobs()
        found = jobs.runtime.thread.run(jobs.newest, _status(status), limit)
        return Jobs(Job(row.id, self._jobs, seen=row) for row in found)

    async def ajobs(self, status: str | None = None, *, limit: int = 100) -> Jobs:
        """Return the latest jobs: the async twin of `jobs`."""
        jobs = self._jobs()
        found = await jobs.runtime.thread.arun(jobs.newest, _status(status), limit)
        return Jobs(Job(row.id, self._jobs, seen=row) for row in found)

    def workers(self) -> Workers:
        """Return the workers that are alive, on whatever machine."""
        jobs = self._jobs()
        return Workers(jobs.runtime.thread.run(jobs.workers))

    async def aworkers(self) -> Workers:
        """Return the workers that are alive: the async twin of `workers`."""
        jobs = self._jobs()
        return Workers(await jobs.runtime.thread.arun(jobs.workers))


def job_id(id: Any, what: str = "job") -> UUID:
    """Return the id of a job, or of a batch.

    Raises:
        UnknownJobError: it is none.
    """
    if isinstance(id, UUID):
        return id
    try:
        return UUID(str(id))
    except ValueError:
        raise UnknownJobError(
            f"{id!r:.80} is no {what}'s id: they look like 0199c2f4-5b1e-7c3a-9d2e-0123456789ab"
        ) from None


def run_worker(lab: Lab, **options: Any) -> None:
    """Answer queued requests in this process until it is stopped; options as of `Worker`.

    It keeps the rollups of the log up to date meanwhile, and looks after batches at providers.
    """
    from novellus_lab.monitoring.rollups import keep_up
    from novellus_lab.queue.worker import Worker

    async def work() -> None:
        runtime = lab._live()
        beside = [
            asyncio.create_task(keep_up(runtime.conninfo)),
            asyncio.create_task(_tend_batches(lab)),
        ]
        try:
            await Worker(runtime, **options).run()
        finally:
            for task in beside:
                task.cancel()

    asyncio.run(work())


async def _tend_batches(lab: Lab) -> None:
    batches = lab._batches()
    while True:
        try:
            await batches.runtime.thread.arun(batches.tend)
        except NovellusError as error:
            logger.info("batches can't be looked after: %s", error)
        await asyncio.sleep(TEND_EVERY_S)


def _status(status: str | None) -> str | None:
    if status is None or status in list(JobStatus):
        return status
    raise InvalidRequestError(
        f"status must be one of {', '.join(JobStatus)} or None, not {status!r:.80}"
    )


def _checked(timeout: float | None) -> float | None:
    if timeout is not None and (
        isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout >= 0
    ):
        raise InvalidRequestError(f"timeout must be seconds, 0 or more, or None, not {timeout!r}")
    return timeout


_HEADER = ("job", "status", "queue", "priority", "attempts", "worker", "")


def _cells(row: JobRow) -> Sequence[object]:
    attempts = f"{row.attempts} of {row.max_attempts}"
    status = str(row.status)
    return (row.id, status, row.queue, row.priority, attempts, row.worker or "", _note(row))


def _told(row: JobRow) -> str:
    note = _note(row)
    return f"{row.status}: {note}" if note else str(row.status)


def _note(row: JobRow) -> str:
    if row.status == JobStatus.QUEUED and row.scheduled_at and row.scheduled_at > datetime.now(UTC):
        at = f"not before {row.scheduled_at.astimezone():%Y-%m-%d %H:%M:%S}"
        return at if row.error is None else f"{at}, after {_error(row)}"
    if row.status in (JobStatus.FAILED, JobStatus.QUEUED) and row.error is not None:
        return _error(row)
    return ""


def _error(row: JobRow) -> str:
    error = load_error(row.error)
    return f"{type(error).__name__}: {error}"
