"""Runs queued requests through the pipeline, as many at once as it is told, until it is stopped.

A job is delivered at least once, and its answer is paid for once as far as anybody can know: before
each run the id that its request will have in the log is written down, so that whoever gets the job
of a worker that died looks there for an answer first. What can't be known is whether a provider
that was being asked when the worker died has answered: that call is made again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
import socket
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg

from novellus_lab.errors import (
    CircuitOpenError,
    DeadlineExceededError,
    NoModelAvailableError,
    NovellusError,
    ProviderError,
    QueueError,
    StoreUnavailableError,
)
from novellus_lab.ids import uuid7
from novellus_lab.pipeline.request import Request
from novellus_lab.queue import delivery, jobs
from novellus_lab.queue.answers import dump_completion, dump_error
from novellus_lab.queue.logged import logged_answer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from procrastinate import App
    from procrastinate.jobs import Job as Delivery
    from procrastinate.retry import RetryDecision

    from novellus_lab.pipeline.runtime import Runtime
    from novellus_lab.types import Completion

    Connection = jobs.Connection

logger = logging.getLogger("novellus_lab.worker")

_POLL_S = 1.0
"""How late a scheduled job may be, at most; others are told of at once."""
_KEEP_TRYING_S = 300.0
"""How long a worker holds on to an answer that the database does not take."""
_RECONNECT_S = 2.0


class _RunAgain(Exception):  # noqa: N818  a message to procrastinate, no error
    """The job is to be delivered once more."""

    def __init__(self, at: datetime) -> None:
        super().__init__("to be run again")
        self.at = at


class Worker:
    """Serves queues until it is stopped.

    Args:
        runtime: of the lab that answers.
        concurrency: jobs at once.
        queues: names; None: all.
        once: stop when nothing is left to do now.
        stop_timeout_s: on a stop, how long what is under way may take before it is given back.
        retry_delay_s: before the first retry; doubled for each further one, up to `max_delay_s`.
        heartbeat_s: how often it says that it is alive.
        stalled_s: a worker that was not heard of for so long has died: its jobs are run by others.
        keep_s: how long ended jobs and their results are kept.
    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        concurrency: int = 4,
        queues: Sequence[str] | None = None,
        once: bool = False,
        stop_timeout_s: float = 30.0,
        retry_delay_s: float = 2.0,
        max_delay_s: float = 300.0,
        heartbeat_s: float = 5.0,
        stalled_s: float = 30.0,
        keep_s: float = 7 * 86_400.0,
    ) -> None:
        delivery.check_installed()
        self._runtime = runtime
        self._concurrency = concurrency
        self._queues = list(queues) if queues else None
        self._once = once
        self._stop_timeout_s = stop_timeout_s
        self._retry_delay_s = retry_delay_s
        self._max_delay_s = max_delay_s
        self._heartbeat_s = heartbeat_s
        self._stalled_s = stalled_s
        self._keep_s = keep_s
        self._id = uuid7()
        self._host = socket.gethostname()
        self._name = f"{self._host}:{os.getpid()}"
        self._app: App | None = None
        self._serving: asyncio.Task[None] | None = None
        self._stopping = False

    def stop(self) -> None:
        """Take no more jobs, end those under way or give them back, and return from `run`."""
        self._stopping = True
        if self._serving is not None:
            self._serving.cancel()

    async def run(self) -> None:
        """Work until SIGTERM or SIGINT, or with `once` until nothing is left to do.

        A database that goes away is waited for.

        Raises:
            StoreUnavailableError: it does not answer when the worker starts.
        """
        await self._prepare()
        with self._signals():
            while not self._stopping:
                try:
                    await self._serve()
                    if self._once:
                        return
                except _LostError as error:
                    logger.warning("the database went away (%s): waiting for it", error)
                if not self._stopping:
                    await asyncio.sleep(_RECONNECT_S)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Stop at the first SIGTERM or SIGINT; a second one ends the process as it always does."""
        loop = asyncio.get_running_loop()
        caught = (signal.SIGTERM, signal.SIGINT)

        def let_go() -> None:
            for one in caught:
                loop.remove_signal_handler(one)

        def on_signal() -> None:
            logger.info("stopping: no more jobs are taken")
            let_go()
            self.stop()

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        for one in caught:
            loop.add_signal_handler(one, on_signal)
        try:
            yield
        finally:
            let_go()

    async def _prepare(self) -> None:
        try:
            async with await psycopg.AsyncConnection.connect(
                self._runtime.conninfo, autocommit=True, connect_timeout=5
            ) as connection:
                await delivery.prepare(connection)
        except psycopg.OperationalError as error:
            raise StoreUnavailableError(f"the database does not answer: {error}") from None

    async def _serve(self) -> None:
        from procrastinate.exceptions import ConnectorException

        app = delivery.new_app(self._runtime.conninfo, connections=min(self._concurrency, 8) + 2)
        app.task(name=delivery.TASK, retry=_strategy())(self._run_job)
        beating: asyncio.Task[None] | None = None
        try:
            async with app.open_async():
                self._app = app
                await self._beat()
                beating = asyncio.create_task(self._keep_beating())
                self._serving = asyncio.create_task(
                    app.run_worker_async(
                        queues=self._queues,  # type: ignore[arg-type]
                        name=self._name,
                        concurrency=self._concurrency,
                        wait=not self._once,
                        fetch_job_polling_interval=_POLL_S,
                        abort_job_polling_interval=_POLL_S,
                        shutdown_graceful_timeout=self._stop_timeout_s,
                        listen_notify=not self._once,
                        delete_jobs="always",
                        install_signal_handlers=False,
                        update_heartbeat_interval=self._heartbeat_s,
                        stalled_worker_timeout=self._stalled_s,
                    )
                )
                if self._stopping:
                    self._serving.cancel()
                try:
                    await self._serving
                except asyncio.CancelledError:
                    if not self._stopping:
                        raise
                beating.cancel()
                await self._leave()
        except (ConnectorException, psycopg.OperationalError) as error:
            raise _LostError(str(error) or type(error).__name__) from None
        finally:
            if beating is not None:
                beating.cancel()

    # --- one job -----------------------------------------------------------------------------

    async def _run_job(self, job: str) -> None:
        """Run a job that was delivered: end it, or have it delivered again."""
        id = UUID(job)
        begun = await self._do(lambda connection: self._begin(connection, id))
        if begun is None:
            return
        row, request_id = begun
        try:
            completion = await self._answer(row, request_id)
        except asyncio.CancelledError:
            # The worker is stopping, or the job was cancelled: then this changes nothing.
            await self._do(lambda connection: jobs.give_back(connection, id, request_id))
            raise
        except NovellusError as error:
            await self._failed(row, request_id, error)
            return
        except Exception as error:
            logger.exception("job %s met a defect", id)
            defect = NovellusError(
                f"a defect of novellus_lab or of what it calls: {type(error).__name__}: {error}"
            )
            await self._failed(row, request_id, defect)
            return
        result = dump_completion(completion)
        # Paid for: whatever happens to this worker now, it is stored if that can be done at all.
        await asyncio.shield(
            self._do(lambda connection: jobs.succeed(connection, id, request_id, result))
        )

    async def _begin(self, connection: Connection, id: UUID) -> tuple[jobs.JobRow, UUID] | None:
        """Begin a run; None if there is nothing (more) to run."""
        rows = await jobs.read(connection, [id], lock=True)
        if not rows or rows[0].ended:
            return None
        row = rows[0]
        if row.status == jobs.JobStatus.RUNNING and row.request_id is not None:
            logger.info("job %s was left by worker %s", id, row.worker)
            answer = await logged_answer(connection, row.request_id, self._runtime.content)
            if answer is not None:
                await jobs.succeed(connection, id, row.request_id, dump_completion(answer))
                return None
        if row.attempts >= row.max_attempts:
            died = QueueError(
                f"job {id} was begun {row.attempts} times, and each time its worker died (the "
                f"last: {row.worker}): see that worker's own log, then job.retry()"
            )
            await jobs.fail(connection, id, dump_error(died))
            return None
        return row, await jobs.begin(connection, id, self._name)

    async def _answer(self, row: jobs.JobRow, request_id: UUID) -> Completion:
        runtime = self._runtime
        started = time.perf_counter()
        arguments = dict(row.request)
        if row.priority:  # what is urgent in the queue is urgent for rules and limits
            arguments.setdefault("priority", row.priority)
        prompt = arguments.pop("prompt", None)
        prepared = runtime.intake.prepare(prompt, arguments, started, stream=False)
        request = replace(Request.of(prepared.question, started), id=request_id)
        return await runtime.thread.arun(runtime.pipeline.answer, request, prepared.plan)

    async def _failed(self, row: jobs.JobRow, request_id: UUID, error: NovellusError) -> None:
        attempt = row.attempts + 1
        told = dump_error(error)
        if not may_heal(error) or attempt >= row.max_attempts:
            logger.warning("job %s failed in attempt %d: %s", row.id, attempt, error)
            await self._do(lambda connection: jobs.fail(connection, row.id, told))
            return
        delay_s = min(self._max_delay_s, self._retry_delay_s * 2 ** (attempt - 1))
        delay_s *= random.uniform(0.75, 1.25)  # those that failed together don't come back together
        delay_s = max(delay_s, getattr(error, "retry_after_s", None) or 0.0)
        at = datetime.now(UTC) + timedelta(seconds=delay_s)
        logger.info("job %s failed and will run again in %.1f s: %s", row.id, delay_s, error)
        if await self._do(
            lambda connection: jobs.wait_again(connection, row.id, request_id, at, told)
        ):
            raise _RunAgain(at)

    async def _do(self, work: Callable[[Connection], Awaitable[Any]]) -> Any:
        """Do it in a transaction; a database that is away is waited for."""
        assert self._app is not None  # noqa: S101
        pool = self._app.connector.pool  # type: ignore[attr-defined]
        until = time.monotonic() + _KEEP_TRYING_S
        while True:
            try:
                async with pool.connection() as connection, connection.transaction():
                    return await work(connection)
            except (psycopg.OperationalError, TimeoutError) as error:
                if time.monotonic() > until:
                    raise
                logger.warning("the database does not answer (%s): trying again", error)
                await asyncio.sleep(1.0)

    # --- among other workers -----------------------------------------------------------------

    async def _keep_beating(self) -> None:
        forget_at = 0.0
        while True:
            try:
                await self._beat()
                await self._do(lambda connection: delivery.bring_again(connection, self._stalled_s))
                if time.monotonic() > forget_at:
                    forget_at = time.monotonic() + 600.0
                    await self._do(lambda connection: jobs.forget(connection, self._keep_s))
            except psycopg.Error as error:
                logger.warning("could not look after jobs of dead workers: %s", error)
            await asyncio.sleep(self._heartbeat_s)

    async def _beat(self) -> None:
        async def work(connection: Connection) -> None:
            await connection.execute(
                "INSERT INTO ai_queue_workers (id, host, pid, queues, concurrency)"
                " VALUES (%s, %s, %s, %s, %s) ON CONFLICT (id) DO UPDATE SET seen_at = now()",
                [self._id, self._host, os.getpid(), self._queues, self._concurrency],
            )
            await connection.execute(
                "DELETE FROM ai_queue_workers WHERE seen_at < now() - interval '1 day'"
            )

        await self._do(work)

    async def _leave(self) -> None:
        with contextlib.suppress(psycopg.Error):
            await self._do(
                lambda connection: connection.execute(
                    "DELETE FROM ai_queue_workers WHERE id = %s", [self._id]
                )
            )


class _LostError(Exception):
    """The database went away."""


def may_heal(error: NovellusError) -> bool:
    """Whether the same call may succeed later, here or in another worker."""
    if isinstance(
        error,
        (DeadlineExceededError, CircuitOpenError, NoModelAvailableError, StoreUnavailableError),
    ):
        return True
    return isinstance(error, ProviderError) and error.retryable


def _strategy() -> Any:
    from procrastinate.retry import BaseRetryStrategy, RetryDecision

    class Strategy(BaseRetryStrategy):
        """What is to run again is decided by the job itself; what was interrupted is, at once."""

        def get_retry_decision(
            self, *, exception: BaseException, job: Delivery
        ) -> RetryDecision | None:
            if isinstance(exception, _RunAgain):
                return RetryDecision(retry_at=exception.at)
            return RetryDecision(retry_at=datetime.now(UTC))

    return Strategy()
