"""`Lab`: what a person holds in a notebook."""

from __future__ import annotations

import atexit
import contextlib
import inspect
import logging
import os
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, Unpack, overload

from novellus_lab.errors import InvalidRequestError, NovellusError
from novellus_lab.pipeline.batch import batch_items, run_batch
from novellus_lab.pipeline.embedding import build_embedding_request
from novellus_lab.pipeline.intake import CALL_ARGUMENTS
from novellus_lab.pipeline.question import build_question
from novellus_lab.pipeline.recording import refused_record
from novellus_lab.pipeline.request import Request
from novellus_lab.pipeline.stream import AsyncStream, Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from datetime import datetime, timedelta
    from decimal import Decimal
    from pathlib import Path
    from types import TracebackType
    from uuid import UUID

    import polars as pl

    from novellus_lab.analytics.log_mirror import LogMirror
    from novellus_lab.analytics.selection import Filters
    from novellus_lab.cache.policy import CachePolicy
    from novellus_lab.limits.budgets import SpendingScope
    from novellus_lab.monitoring.health import HealthScores
    from novellus_lab.monitoring.metrics import ModelMetrics
    from novellus_lab.monitoring.period import TimeRange
    from novellus_lab.pipeline.embedding import EmbeddingRequest
    from novellus_lab.pipeline.runtime import Runtime
    from novellus_lab.queue.provider_batches import ProviderBatches
    from novellus_lab.queue.queue import JobQueue
    from novellus_lab.reports.cost_report import CostReport
    from novellus_lab.reports.period import Period
    from novellus_lab.spaces.analytics import LabAnalytics
    from novellus_lab.spaces.anomalies import Anomalies
    from novellus_lab.spaces.benchmark import LabBenchmark
    from novellus_lab.spaces.budgets import LabBudgets
    from novellus_lab.spaces.cache import LabCache
    from novellus_lab.spaces.comparisons import LabComparison
    from novellus_lab.spaces.experiments import LabExperiments
    from novellus_lab.spaces.monitor import LabMonitor
    from novellus_lab.spaces.open_arms import LabAccess
    from novellus_lab.spaces.plot import LabPlot
    from novellus_lab.spaces.queue import Job, LabQueue
    from novellus_lab.spaces.router import LabRouter
    from novellus_lab.spaces.session import Session
    from novellus_lab.spaces.session_store import ConversationStore
    from novellus_lab.spaces.telemetry import LabTelemetry
    from novellus_lab.spaces.widgets import LabWidgets
    from novellus_lab.store.database import Database
    from novellus_lab.types import BatchFailure, Completion, Message

logger = logging.getLogger("novellus_lab")

_STAND_IN = (
    "No provider key is set and no Ollama is in reach: recorded answers of two models to maths "
    "questions (GSM8K) stand in, marked REPLAY. Set OPENAI_API_KEY, CLAUDE_API_KEY or "
    "GOOGLE_API_KEY, or start Ollama, to call live models."
)

_F = TypeVar("_F", bound="Callable[..., Any]")


class CallArguments(TypedDict, total=False):
    """The keyword arguments of `complete`, `stream` and their async twins; see `Lab.complete`."""

    messages: Sequence[Message] | None
    model_id: str | None
    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    stop: str | Sequence[str] | None
    seed: int | None
    tools: Sequence[Mapping[str, Any]] | None
    functions: Sequence[Mapping[str, Any]] | None
    tool_choice: str | Mapping[str, Any] | None
    response_format: Any
    params: Mapping[str, Any] | None
    use_cache: bool
    use_semantic_cache: bool | None
    cache: Mapping[str, Any] | CachePolicy | None
    model_selection_strategy: str | None
    timeout: float | None
    hedge: bool | Mapping[str, Any] | None
    shadow: bool | None
    priority: str | int | None
    tags: Mapping[str, Any] | None
    session_id: str | None
    experiment: str | None
    arm: str | None


def _shows_call_arguments(method: _F) -> _F:
    """Give a method the signature that tab completion should show: `build_question`'s own."""
    own = inspect.signature(method)
    theirs = inspect.signature(build_question).parameters
    shown = [own.parameters["self"], theirs["prompt"]]
    shown += [theirs[name] for name in CALL_ARGUMENTS]
    if "stream" in own.parameters:
        shown.append(own.parameters["stream"])
    method.__signature__ = own.replace(parameters=shown)  # type: ignore[attr-defined]
    return method


class Lab:
    """A thin LLM client that routes, caches, fails over, prices and logs every call.

    ```python
    lab = Lab()
    r = lab.complete("Explain quantum computing", max_tokens=200)
    r.content, r.model, r.cost, r.latency_ms
    ```

    Args:
        home: where the embedded server, the spool and state live; default `$NOVELLUS_HOME`, else
            `./.novellus`.
        database_url: a PostgreSQL (with pgvector) to log to; default `$DATABASE_URL` or
            `$POSTGRES_*`, else a private server under `home`.
        redis_url: a Redis or Valkey to share caches and limits through; default `$REDIS_URL`.
        config: a YAML file or a mapping; default `$NOVELLUS_CONFIG`, `config/ai_models.yaml`, else
            the models that come with this package.
        redact: applied to every text before it is logged.
        seed: makes routing's lotteries repeatable.
        strategies: routing strategies of yours, by the names that the YAML gives them: subclasses of
            `ModelLoadBalancer`. More come with `lab.router.register`.

    Raises:
        ConfigurationError: naming file, key, and what is allowed.
        StoreError: the database can't be started, reached or used.

    A lab may be used from many threads, inside a running event loop, and after fork. It is a
    context manager, sync and async; when nobody holds it any more, and at interpreter exit, it
    closes itself.
    """

    def __init__(
        self,
        *,
        home: str | Path | None = None,
        database_url: str | None = None,
        redis_url: str | None = None,
        config: str | Path | Mapping[str, Any] | None = None,
        redact: Callable[[str], str] | None = None,
        seed: int | None = None,
        strategies: Mapping[str, Any] | None = None,
    ) -> None:
        # Drivers, schemas and providers come with the first lab: who imports this module may only
        # want its names, and a notebook's first cell should not wait.
        from novellus_lab.pipeline.runtime import Runtime, mirror_configuration
        from novellus_lab.settings import load_settings
        from novellus_lab.store.database import open_database, resolve_home
        from novellus_lab.store.listeners import Listeners

        self._listeners = Listeners()
        self._registered: dict[str, Any] = {
            "strategies": dict(strategies or {}),
            "checks": {},
            "listeners": self._listeners,
        }
        self._redact = redact
        self._seed = seed
        self._settings = load_settings(
            config, database_url=database_url, redis_url=redis_url, home=home
        )
        url = self._settings.database_url
        self._database = open_database(
            resolve_home(self._settings.home), None if url is None else url.get_secret_value()
        )
        try:
            mirror_configuration(self._settings, self._database.conninfo)
            runtime = Runtime.open(
                self._settings, self._database, redact=redact, seed=seed, **self._registered
            )
        except BaseException:
            self._database.close()
            raise
        self._job_queue: JobQueue | None = None
        self._provider_batches: ProviderBatches | None = None
        self._session_turns: ConversationStore | None = None
        self._told: LabTelemetry | None = None
        self._mirror: LogMirror | None = None
        self._held = _Held(runtime, self._database)
        weakref.finalize(self, _close_forgotten, self._held).atexit = False
        if runtime.catalog.stands_in:
            logger.warning("%s", _STAND_IN)
        _open_labs.add(self._held)
        if self._settings.telemetry.opentelemetry:
            content = self._settings.telemetry.content
            self._telemetry().instrument(None, None, content=content)

    # --- answers -----------------------------------------------------------------------------

    @overload
    def complete(
        self,
        prompt: str | None = None,
        *,
        stream: Literal[False] = False,
        **arguments: Unpack[CallArguments],
    ) -> Completion: ...
    @overload
    def complete(
        self,
        prompt: str | None = None,
        *,
        stream: Literal[True],
        **arguments: Unpack[CallArguments],
    ) -> Stream: ...

    @_shows_call_arguments
    def complete(
        self,
        prompt: str | None = None,
        *,
        stream: bool = False,
        **arguments: Unpack[CallArguments],
    ) -> Completion | Stream:
        """Answer a prompt or a conversation.

        Args:
            prompt: one user message; or give `messages`.
            messages: a conversation in OpenAI's form, for every provider: roles system, user,
                assistant, tool; images as `image_url` parts.
            model_id: the model to ask (`gpt-4o`, or `provider/name` where two share a name); no
                other stands in for it. Without it the router picks one of a pool, and when that
                one fails the next.
            max_tokens: longest answer, in tokens.
            temperature: 0 to 2.
            top_p: 0 to 1.
            stop: text or texts at which the answer ends.
            seed: for providers that honour one.
            tools: functions that the model may call, in OpenAI's form (`functions`: the older one).
            tool_choice: `auto`, `none`, `required`, or a tool's name.
            response_format: `"json"`, a JSON schema, or a Pydantic model class: see `r.parsed`.
            params: what only one provider knows (`{"reasoning_effort": "low"}`).
            use_cache: whether an equal, earlier request may answer.
            use_semantic_cache: whether one that means the same may, differing in the words of the
                last user turn alone; default as configured.
            cache: finer: ttl, max_age (seconds), no_store, read_only, write_only, namespace,
                sample.
            model_selection_strategy: `weighted`, `cost_optimized`, `least_latency`, `cascade`, …, or
                one of yours (see `lab.router.strategies()`); default as configured.
            timeout: seconds for everything, retries and failovers included.
            hedge: call a second time (the next candidate, else the same model) when the first takes
                longer than 95% of its calls, and take the first answer; or a dict: after_ms,
                quantile, min_calls, to (`next`, `same`). Both calls cost. Default as configured.
            shadow: False: no shadow model of the configuration is asked; True: all are.
            priority: a label for rules and the log.
            tags: free labels for analysis, such as `{"team": "search"}`.
            session_id: groups the calls of one conversation or user.
            experiment, arm: mark the call as part of an experiment.
            stream: return a `Stream` instead, as `lab.stream` does.

        Raises:
            InvalidRequestError: an argument is wrong; nothing was sent.
            ProviderError: the provider, and all that could stand in for it, failed.
            DeadlineExceededError: `timeout` passed.
            NoModelAvailableError: no model could be asked.
        """
        if stream:
            return self.stream(prompt, **arguments)
        started = time.perf_counter()
        runtime = self._live()
        prepared = runtime.intake.prepare(prompt, arguments, started, stream=False)
        hit = runtime.pipeline.cached_locally(prepared, started)
        if hit is not None:
            return hit
        request = Request.of(prepared.question, started)
        try:
            runtime.thread.refuse_own_thread()
        except NovellusError as error:
            runtime.pipeline.refuse(request, error)
            raise
        return runtime.thread.run(runtime.pipeline.answer, request, prepared.plan)

    @overload
    async def acomplete(
        self,
        prompt: str | None = None,
        *,
        stream: Literal[False] = False,
        **arguments: Unpack[CallArguments],
    ) -> Completion: ...
    @overload
    async def acomplete(
        self,
        prompt: str | None = None,
        *,
        stream: Literal[True],
        **arguments: Unpack[CallArguments],
    ) -> AsyncStream: ...

    @_shows_call_arguments
    async def acomplete(
        self,
        prompt: str | None = None,
        *,
        stream: bool = False,
        **arguments: Unpack[CallArguments],
    ) -> Completion | AsyncStream:
        """Answer a prompt or a conversation: the async twin of `complete`, same arguments."""
        if stream:
            return self.astream(prompt, **arguments)
        started = time.perf_counter()
        runtime = self._live()
        prepared = runtime.intake.prepare(prompt, arguments, started, stream=False)
        hit = runtime.pipeline.cached_locally(prepared, started)
        if hit is not None:
            return hit
        request = Request.of(prepared.question, started)
        return await runtime.thread.arun(runtime.pipeline.answer, request, prepared.plan)

    @_shows_call_arguments
    def stream(self, prompt: str | None = None, **arguments: Unpack[CallArguments]) -> Stream:
        """Answer piece by piece; same arguments as `complete`.

        `for chunk in lab.stream("…"): print(chunk, end="")`. Afterwards `.completion` holds the
        whole answer. Leaving early closes the connection; what had arrived is priced and logged.
        """
        started = time.perf_counter()
        runtime = self._live()
        prepared = runtime.intake.prepare(prompt, arguments, started, stream=True)
        request = Request.of(prepared.question, started)
        return Stream(
            runtime.thread, lambda emit: runtime.pipeline.answer(request, prepared.plan, emit), self
        )

    @_shows_call_arguments
    def astream(self, prompt: str | None = None, **arguments: Unpack[CallArguments]) -> AsyncStream:
        """Answer piece by piece: `async for chunk in lab.astream("…")`; see `stream`."""
        started = time.perf_counter()
        runtime = self._live()
        prepared = runtime.intake.prepare(prompt, arguments, started, stream=True)
        request = Request.of(prepared.question, started)
        return AsyncStream(
            runtime.thread, lambda emit: runtime.pipeline.answer(request, prepared.plan, emit), self
        )

    # --- vectors -----------------------------------------------------------------------------

    def embed(
        self,
        text: str | Sequence[str],
        *,
        model: str | None = None,
        dimensions: int | None = None,
        use_cache: bool = True,
        timeout: float | None = None,
        tags: Mapping[str, Any] | None = None,
        session_id: str | None = None,
    ) -> list[float] | list[list[float]]:
        """Turn a text into its embedding, or a list of texts into a list of them.

        Args:
            text: one text or many; many are sent in batches.
            model: an embedding model's id; default the first available one.
            dimensions: shorten the vectors, where the model can.
            use_cache: texts embedded before are not paid for again.
            timeout: seconds for everything.
            tags, session_id: as for `complete`.

        Raises:
            InvalidRequestError: an empty text, or a wrong argument; nothing was sent.
            UnknownModelError, NoModelAvailableError, ProviderError, DeadlineExceededError
        """
        runtime = self._live()
        asked = self._prepare_embedding(
            runtime, text, model, dimensions, use_cache, timeout, tags, session_id
        )
        try:
            runtime.thread.refuse_own_thread()
        except NovellusError as error:
            runtime.embedder.refuse(asked, error)
            raise
        vectors = [list(v) for v in runtime.thread.run(runtime.embedder.embed, asked)]
        return vectors[0] if isinstance(text, str) else vectors

    async def aembed(
        self,
        text: str | Sequence[str],
        *,
        model: str | None = None,
        dimensions: int | None = None,
        use_cache: bool = True,
        timeout: float | None = None,
        tags: Mapping[str, Any] | None = None,
        session_id: str | None = None,
    ) -> list[float] | list[list[float]]:
        """Embed texts: the async twin of `embed`, same arguments."""
        runtime = self._live()
        asked = self._prepare_embedding(
            runtime, text, model, dimensions, use_cache, timeout, tags, session_id
        )
        vectors = [list(v) for v in await runtime.thread.arun(runtime.embedder.embed, asked)]
        return vectors[0] if isinstance(text, str) else vectors

    # --- many --------------------------------------------------------------------------------

    def batch(
        self,
        prompts: Iterable[str | Sequence[Message] | dict[str, Any]],
        *,
        max_concurrency: int = 16,
        progress: bool | None = None,
        queue: bool | str = False,
        provider_batch: bool = False,
        **arguments: Unpack[CallArguments],
    ) -> list[Completion | BatchFailure]:
        """Answer many prompts, concurrently; results in order, errors in their places.

        Args:
            prompts: prompts, message lists, or dicts of `complete`'s arguments.
            max_concurrency: calls in the air at once.
            progress: show a progress bar with the cost so far; default: for more than one call,
                in a notebook or terminal.
            queue: have `novellus worker` processes answer it, on whatever machines they run, each
                as many at once as it was told; or the name of the queue that they serve.
            provider_batch: hand it over to the provider's own batch API: at its batch price (half,
                mostly), within 24 hours. It needs `model_id`. Stopping the cell leaves it running;
                calling again with equal requests waits for them instead of paying twice.
                `lab.queue.submit_batch` returns at once.
            arguments: `complete`'s, for every item that does not say otherwise.

        A failed item is a `BatchFailure` (falsy, with `.error`). Stopping the cell cancels what is
        under way; what was answered is logged and, if cacheable, kept.

        Raises:
            NoWorkerError: with `queue`, and no worker serves it; nothing was queued.
            InvalidRequestError: with `provider_batch`, an item names no model, or the provider has
                no batch API; nothing was sent.
        """
        from novellus_lab.display import batch_progress

        runtime = self._live()
        items = self._batch_items(runtime, prompts, arguments, max_concurrency)
        if provider_batch:
            handed = _one_way(self.queue, queue).submit_batch(items)
            with _goes_on(handed.id):
                return handed.wait(progress=progress)
        with batch_progress(len(items), progress) as on_result:
            if queue is not False:
                from novellus_lab.queue.batch import run_queued_batch

                return runtime.thread.run(run_queued_batch, self._jobs(), items, queue, on_result)
            return runtime.thread.run(
                run_batch, self._ask_item(runtime), items, max_concurrency, on_result
            )

    async def abatch(
        self,
        prompts: Iterable[str | Sequence[Message] | dict[str, Any]],
        *,
        max_concurrency: int = 16,
        progress: bool | None = None,
        queue: bool | str = False,
        provider_batch: bool = False,
        **arguments: Unpack[CallArguments],
    ) -> list[Completion | BatchFailure]:
        """Answer many prompts: the async twin of `batch`, same arguments."""
        from novellus_lab.display import batch_progress

        runtime = self._live()
        items = self._batch_items(runtime, prompts, arguments, max_concurrency)
        if provider_batch:
            handed = await _one_way(self.queue, queue).asubmit_batch(items)
            with _goes_on(handed.id):
                return await handed.await_results(progress=progress)
        with batch_progress(len(items), progress) as on_result:
            if queue is not False:
                from novellus_lab.queue.batch import run_queued_batch

                return await runtime.thread.arun(
                    run_queued_batch, self._jobs(), items, queue, on_result
                )
            return await runtime.thread.arun(
                run_batch, self._ask_item(runtime), items, max_concurrency, on_result
            )

    # --- experiments ---------------------------------------------------------------------------

    def compare(
        self,
        strategies: Any,
        workload: Any,
        *,
        scorer: Any = None,
        metric: str | None = None,
        n: int | None = None,
        name: str | None = None,
        level: float = 0.95,
        sequential: bool = False,
        margin: float | str | None = None,
        max_usd: Decimal | float | str | None = None,
        max_concurrency: int = 16,
        queue: bool | str = False,
        seed: int = 0,
        arrivals: Any = None,
        speed: float = 1.0,
        progress: bool | None = None,
        on_look: Callable[[LabComparison], None] | None = None,
        **arguments: Any,
    ) -> LabComparison:
        """Ask the same items in every arm, interleaved in time, and say which is better.

        ```python
        lab.compare(["weighted", "cost_optimized"], "gsm8k", n=200, scorer="numeric")
        ```

        Args:
            strategies: the arms, the control first: names of strategies or models, load balancers, dicts
                of `complete`'s arguments (`{"model": "gpt-4o", "max_tokens": 200}`), or of a whole
                configuration (`{"config": …}`); a list, or a dict by name.
            workload: the name of a dataset (`"gsm8k"`), a path (JSONL, CSV, Parquet), a frame (also
                one of `lab.requests()`), or a list of prompts, messages or dicts.
            scorer: of answers: `"exact"`, `"contains"`, `"numeric"`, `"regex:…"`, `"json_schema"`,
                `"similarity"`, a function of (item, answer) that returns 0 to 1, or a `Judge`.
            metric: what decides; default `score` with a scorer, else `cost_usd`.
            n: how many items, drawn by `seed`; None: all.
            level: of confidence.
            sequential: intervals that hold however often they are looked at, so that it may stop as
                soon as it is decided.
            margin: what does not matter, in the metric's unit, or `"5%"` of the control's value: within
                it arms are called as good as each other.
            max_usd: what all calls may cost together.
            max_concurrency: items under way at once.
            queue: have `novellus worker` processes make the calls; or the name of their queue.
            arrivals: compare under load: calls come at the times of a trace (`"azure_llm_2023"`, a path,
                or a list of seconds), whether or not earlier ones were answered; arms take turns, block
                by block, and the workload is asked from the beginning again where it is shorter.
            speed: how many times as fast as the trace.
            on_look: hears how it stands, now and then.
            arguments: `complete`'s, for every call. The cache is off unless an arm or these say
                otherwise; arms never share entries.

        Raises:
            InvalidRequestError: an argument is wrong; nothing was sent.
            NoWorkerError: with `queue`, and no worker serves it.
        """
        return self.experiments.compare(
            strategies,
            workload,
            scorer=scorer,
            metric=metric,
            n=n,
            name=name,
            level=level,
            sequential=sequential,
            margin=margin,
            max_usd=max_usd,
            max_concurrency=max_concurrency,
            queue=queue,
            seed=seed,
            arrivals=arrivals,
            speed=speed,
            progress=progress,
            on_look=on_look,
            **arguments,
        )

    async def acompare(self, strategies: Any, workload: Any, **options: Any) -> LabComparison:
        """Ask the same items in every arm: the async twin of `compare`, same arguments."""
        return await self.experiments.acompare(strategies, workload, **options)

    def benchmark(
        self,
        name: str,
        workload: Any = None,
        *,
        scorer: Any = None,
        version: str = "1",
        **arguments: Any,
    ) -> LabBenchmark:
        """Return a benchmark: `lab.benchmark("gsm8k").run(n=100)`.

        Runs are kept: they go on where they broke off, can be rerun from the log or with fresh calls, and
        compared item by item.

        Args:
            name: one of this package's (`"gsm8k"`), or a name for yours.
            workload: of yours: as in `lab.compare`, with what to expect of each item.
            scorer: of single answers: as in `lab.compare`.
            version: raise it to say that the benchmark is another one now.
            arguments: `complete`'s, for every call.

        Raises:
            InvalidRequestError: there is none of that name, or a part of it is wrong.
        """
        from novellus_lab.spaces.benchmark import LabBenchmark

        return LabBenchmark.of(self._access, name, workload, scorer, version, arguments)

    # --- conversations -----------------------------------------------------------------------

    def session(
        self,
        id: str | None = None,
        *,
        system: str | None = None,
        **arguments: Unpack[CallArguments],
    ) -> Session:
        """Open a conversation that remembers: `s = lab.session()`, `s.complete("…")`.

        Args:
            id: goes on with the conversation of this id, whoever began it; None begins a new one.
            system: what stands before the conversation; None: as it was.
            arguments: `complete`'s, for every call that does not say otherwise.

        It has `complete`, `stream` and their async twins, `history`, `cost`, `clear()`. What is
        said is kept in PostgreSQL (or Redis: `sessions.store`), whether or not content is logged,
        until `clear()`.

        Raises:
            InvalidRequestError: the id, the system prompt or an argument is wrong.
        """
        from novellus_lab.spaces.session import Session

        return Session(self._conversations, id, system=system, arguments=arguments)

    # --- later -------------------------------------------------------------------------------

    def queue_request(
        self,
        request_data: Mapping[str, Any],
        priority: int = 0,
        scheduled_at: datetime | timedelta | None = None,
        *,
        queue: str = "default",
        max_attempts: int = 5,
    ) -> Job:
        """Have a worker (`novellus worker`) answer a request, here or on another machine.

        Args:
            request_data: `complete`'s arguments: `{"prompt": "…", "max_tokens": 100}`. They are
                checked now. `timeout` counts from the moment when a worker begins.
            priority: of jobs that may run, those with the highest go first.
            scheduled_at: run it not before this time (local, if it has no zone), or so long from
                now (a timedelta).
            queue: for workers that serve certain queues only.
            max_attempts: rate limits, timeouts and failures of providers are retried, with growing
                pauses; after so many runs the job has failed, and keeps its request:
                `lab.queue.jobs("failed")`, `job.retry()`.

        The answer is logged as any other, and is waited for with `job.result()` or `await job`.
        Request and answer stand in the database until workers forget the job, a week after its end,
        whether or not content is logged. The budgets of the configuration hold in workers; a
        `with lab.budget(…)` block does not reach into them.

        Raises:
            InvalidRequestError: an argument is wrong; nothing was queued.
            StoreUnavailableError: the database does not answer.
        """
        from novellus_lab.spaces.queue import Job

        jobs = self._jobs()
        asked = jobs.check(request_data, priority, scheduled_at, queue, max_attempts)
        id = jobs.runtime.thread.run(jobs.put, asked)
        return Job(id, self._jobs, response_model=asked.response_model)

    async def aqueue_request(
        self,
        request_data: Mapping[str, Any],
        priority: int = 0,
        scheduled_at: datetime | timedelta | None = None,
        *,
        queue: str = "default",
        max_attempts: int = 5,
    ) -> Job:
        """Have a worker answer a request: the async twin of `queue_request`, same arguments."""
        from novellus_lab.spaces.queue import Job

        jobs = self._jobs()
        asked = jobs.check(request_data, priority, scheduled_at, queue, max_attempts)
        id = await jobs.runtime.thread.arun(jobs.put, asked)
        return Job(id, self._jobs, response_model=asked.response_model)

    def job(self, id: UUID | str) -> Job:
        """Return a queued request by its id, whoever queued it.

        Raises:
            UnknownJobError: this is no id. Whether there is such a job, its methods tell.
        """
        from novellus_lab.spaces.queue import Job, job_id

        return Job(job_id(id), self._jobs)

    # --- the log -----------------------------------------------------------------------------

    def requests(
        self,
        since: str | datetime | timedelta | None = "7d",
        *,
        until: str | datetime | timedelta | None = None,
        limit: int | None = None,
    ) -> pl.DataFrame:
        """Return the log as a Polars frame, newest first (`.to_pandas()` for pandas).

        Args:
            since: a duration back from now (`"1h"`, `"7d"`, a timedelta), a time (local, if it has
                no zone), or None for all.
            until: where to stop, in the same form.
            limit: at most so many rows.

        All columns of `ai_requests` are there. Costs are exact decimals, times are UTC, tags and
        messages are JSON texts: `frame["tags"].str.json_decode(pl.Struct({"team": pl.String}))`.

        Raises:
            InvalidRequestError: an argument is wrong.
            StoreUnavailableError: the database does not answer, or does not take what waits.
        """
        from novellus_lab.analytics.requests import read_requests

        self._ready()
        return read_requests(self._database.conninfo, since, until=until, limit=limit)

    def metrics(self, model_id: str | None = None, time_range: TimeRange = "1h") -> ModelMetrics:
        """Return what a model, or all together, did: `lab.metrics("gpt-4o", "24h").latency.p95`.

        It holds `success_rate` (percent), requests by their end, `latency`, `provider_latency`,
        `time_to_first_token`, `cache_latency` and `overhead` (avg, p50, p90, p95, p99 in
        milliseconds), tokens, `cost`, `cache` and errors by class, as attributes and as items.
        Arguments and errors as of `lab.monitor.metrics`.
        """
        return self.monitor.metrics(model_id, time_range)

    def sql(self, query: str, /, **frames: Any) -> Any:
        """Ask the log in SQL: returns a DuckDB relation (`.pl()`, `.df()`, `.to_arrow_table()`).

        Tables: `requests`, `attempts`, `cache`, `metrics`, `anomalies`, `experiments`, frames of
        yours by keyword, and, where a name is none of these, the caller's variable of that name.
        Nothing that it does reaches the log. See docs/analytics.md.

        Raises:
            InvalidRequestError: the query can't be run.
            StoreUnavailableError: the database does not answer.
        """
        from novellus_lab.analytics.sql import log_relation

        here = inspect.currentframe()
        caller = None if here is None else here.f_back
        return log_relation(self._log_mirror(), query, frames, caller)

    def health(self) -> HealthScores:
        """Return the health of each model, 0 to 100, None where there is too little data.

        `lab.monitor.explain_health("gpt-4o")` says what was taken off, and why.
        """
        return self.monitor.health()

    def anomalies(
        self, since: str | datetime | timedelta | None = "7d", **arguments: Any
    ) -> Anomalies:
        """Look for anomalies in the log and return them, newest first: `lab.monitor.anomalies`.

        Takes its arguments: `model`, `kind`, `severity`, `acknowledged`, `false_alarms`, …
        """
        return self.monitor.anomalies(since, **arguments)

    def cost_report(
        self,
        period: Period = "30d",
        *,
        tz: str = "UTC",
        templates: str | Path | None = None,
        detect: bool = False,
        **filters: Unpack[Filters],
    ) -> CostReport:
        """Return what a period cost, why it changed, who spends, and what would cost less.

        `lab.cost_report("30d").save("reports/november.html")`: one page that opens offline; also
        `.md`, `.xlsx`, `.csv` and `.pdf`. See docs/cost_report.md.

        Args:
            period: a duration back from now (or `until`), `"month"` (so far), `"last month"` (or day,
                week, quarter, year), or `(start, end)`. It is compared with the one before it.
            tz: on whose clock days and months begin.
            templates: a folder with templates of yours, used instead of the package's.
            detect: look for anomalies of spend now; else those that were found before are shown.
            filters: those of `lab.analytics`: `until`, `model`, `tag`, `experiment`, …

        Raises:
            InvalidRequestError: an argument is wrong.
            StoreUnavailableError: the database does not answer.
            MissingDependencyError: DuckDB, Polars or Plotly is not installed.
        """
        from novellus_lab.spaces.cost_report import make_cost_report

        return make_cost_report(
            self._log_mirror(),
            period,
            tz=tz,
            templates=templates,
            filters=filters,
            ttl_s=self._settings.cache.ttl_seconds,
            budgets=self.budgets.status,
            anomalies=self.monitor.anomalies,
            detect=detect,
        )

    async def acost_report(self, period: Period = "30d", **options: Any) -> CostReport:
        """Return what a period cost, and why: the async twin of `cost_report`, same arguments."""
        import asyncio

        return await asyncio.to_thread(self.cost_report, period, **options)

    # --- namespaces --------------------------------------------------------------------------

    @property
    def analytics(self) -> LabAnalytics:
        """Questions to the log, as frames: `costs`, `latency`, `cache`, `usage`, `errors`, `sessions`."""
        from novellus_lab.spaces.analytics import LabAnalytics

        return LabAnalytics(self._log_mirror, self._live)

    @property
    def plot(self) -> LabPlot:
        """A figure for each question: `costs`, `latency`, `cache`, `usage`, `errors`, `frontier`, …"""
        from novellus_lab.spaces.plot import LabPlot

        return LabPlot(self._log_mirror, self.monitor.anomalies)

    @property
    def cache(self) -> LabCache:
        """The response cache: `get`, `set`, `invalidate`, `stats`, `warm`, `export`, `restore`."""
        from novellus_lab.spaces.cache import LabCache

        return LabCache(self._live)

    @property
    def router(self) -> LabRouter:
        """How models are chosen: `explain`, `strategies`, `register`, `train`, `routers`."""
        from novellus_lab.spaces.router import LabRouter

        return LabRouter(self._live)

    @property
    def budgets(self) -> LabBudgets:
        """The budgets of the configuration: `status`."""
        from novellus_lab.spaces.budgets import LabBudgets

        return LabBudgets(self._live)

    @property
    def monitor(self) -> LabMonitor:
        """How the models do: `metrics`, `health`, `explain_health`, `prometheus`, `instrument`."""
        from novellus_lab.spaces.monitor import LabMonitor

        return LabMonitor(self._ready, self._telemetry)

    @property
    def queue(self) -> LabQueue:
        """Queued requests, workers, and batches at providers: `jobs`, `workers`, `submit_batch`, `batch`."""
        from novellus_lab.spaces.queue import LabQueue

        return LabQueue(self._jobs, self._batches)

    def budget(
        self, usd: Decimal | float | str, *, name: str = "this block"
    ) -> AbstractContextManager[SpendingScope]:
        """Hold the calls of a `with` block to an amount: `with lab.budget(usd=5) as spending: …`.

        Those of threads and tasks that the block starts with its context count, too. Blocks may be
        nested; a call counts in all of them. `spending.spent_usd` tells how far it has come.

        Raises:
            BudgetExceededError: from a call that might pass the amount; nothing was sent.
        """
        return self._live().admission.budgets.scope(usd, name=name)

    # --- life --------------------------------------------------------------------------------

    def flush(self, timeout: float = 10.0) -> None:
        """Return when every call made so far is in PostgreSQL.

        Shadow calls are waited for before, as long again at most.

        Raises:
            StoreUnavailableError: it was not within `timeout` seconds; the records wait in the
                spool and go in when the database is back.
        """
        self._live().flush(timeout, shadows=True)

    def close(self) -> None:
        """Flush, close all connections, leave the embedded server. Idempotent.

        Calls that are under way in other threads are cancelled, and logged as cancelled.
        """
        runtime = self._held.runtime
        if not self.closed and runtime.pid == os.getpid():
            runtime.thread.refuse_own_thread()
        if self._mirror is not None and self._mirror.pid == os.getpid():
            self._mirror.close()
        self._held.close()

    @property
    def closed(self) -> bool:
        return self._held.closed

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Lab:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        import asyncio

        await asyncio.to_thread(self.close)

    def __repr__(self) -> str:
        if self.closed:
            return "Lab(closed)"
        models = list(self._held.runtime.catalog)
        available = sum(m.unavailable is None for m in models)
        where = (
            f"embedded PostgreSQL in {self._database.home}"
            if self._database.embedded
            else "PostgreSQL by URL"
        )
        replay = ", replaying recorded answers" if self._held.runtime.catalog.replays else ""
        return f"Lab({where}, {available} of {len(models)} models available{replay})"

    def _repr_html_(self) -> str:
        from novellus_lab.display import LabFacts, lab_html

        if self.closed:
            return lab_html(LabFacts(("Lab", "closed"), ()))
        catalog = self._held.runtime.catalog
        models = list(catalog)
        providers = tuple(
            (
                provider,
                tuple(m.id for m in models if m.provider == provider and m.unavailable is None),
                tuple(
                    dict.fromkeys(
                        m.unavailable
                        for m in models
                        if m.provider == provider and m.unavailable is not None
                    )
                ),
            )
            for provider in dict.fromkeys(m.provider for m in models)
        )
        about = ("Lab", f"logs to {self._database.where}", f"models from {self._settings.source}")
        return lab_html(LabFacts(about, providers))

    @property
    def experiments(self) -> LabExperiments:
        """Which arm is better: `compare`, `start`, `stop`, `list`, `load`, `score`."""
        from novellus_lab.spaces.experiments import LabExperiments

        return LabExperiments(self._access)

    @property
    def widgets(self) -> LabWidgets:
        """To click instead of to type, in a notebook: `compare`, `playground`, `explore`, `dashboard`."""
        from novellus_lab.spaces.widgets import LabWidgets

        return LabWidgets(self)

    # --- inside ------------------------------------------------------------------------------

    def _live(self) -> Runtime:
        """Return this process's runtime; a forked child makes its own on first use."""
        held = self._held
        if held.closed:
            raise NovellusError("this lab is closed: open a new one with Lab()")
        if held.runtime.pid == os.getpid():
            return held.runtime
        with held.lock:
            if held.runtime.pid != os.getpid():
                _inherited.append(held.runtime)
                held.runtime = held.runtime.open(
                    self._settings,
                    self._database,
                    redact=self._redact,
                    seed=self._seed,
                    **self._registered,
                )
            return held.runtime

    def _ready(self) -> Runtime:
        """Return the runtime, when all calls made so far are in PostgreSQL."""
        runtime = self._live()
        self._database.revive()
        runtime.flush(10.0)
        return runtime

    def _telemetry(self) -> LabTelemetry:
        from novellus_lab.spaces.telemetry import LabTelemetry

        if self._told is None:
            lab = weakref.ref(self)  # whoever holds a registry does not hold the lab

            def live() -> Runtime:
                held = lab()
                if held is None:
                    raise NovellusError("this lab is closed: nobody held it any more")
                return held._live()

            self._told = LabTelemetry(live, self._listeners)
        return self._told

    @property
    def _access(self) -> LabAccess:
        from novellus_lab.spaces.open_arms import LabAccess

        return LabAccess(self._live, self._ready, self._ask_item, self._open_beside, self._jobs)

    def _open_beside(self, config: Any) -> Runtime:
        """Open another configuration on the same database; who asked closes it."""
        from novellus_lab.pipeline.runtime import Runtime
        from novellus_lab.settings import load_settings

        own = self._settings
        settings = load_settings(
            config,
            database_url=None if own.database_url is None else own.database_url.get_secret_value(),
            redis_url=None if own.redis_url is None else own.redis_url.get_secret_value(),
            home=own.home,
        )
        return Runtime.open(
            settings, self._database, redact=self._redact, seed=self._seed, **self._registered
        )

    def _log_mirror(self) -> LogMirror:
        """Return this process's columnar copy of the log, after all that was called so far is in it."""
        from novellus_lab.analytics.log_mirror import LogMirror

        self._ready()
        mirror = self._mirror
        if mirror is None or mirror.pid != os.getpid():
            _inherited.append(mirror)
            database = self._database
            directory = database.home / "analytics" / database.identity
            mirror = self._mirror = LogMirror(database.conninfo, directory)
        return mirror

    def _conversations(self) -> ConversationStore:
        """Return this process's way to the conversations."""
        from novellus_lab.spaces.session_store import open_conversations

        runtime, turns = self._live(), self._session_turns
        if turns is None or turns.runtime is not runtime:
            turns = self._session_turns = open_conversations(runtime)
        return turns

    def _jobs(self) -> JobQueue:
        """Return this process's way to the queue.

        Raises:
            MissingDependencyError: the queue's library is not installed.
        """
        from novellus_lab.queue.queue import JobQueue

        runtime, jobs = self._live(), self._job_queue
        if jobs is None or jobs.runtime is not runtime:
            jobs = self._job_queue = JobQueue(runtime)
        return jobs

    def _batches(self) -> ProviderBatches:
        """Return this process's way to batches at providers."""
        from novellus_lab.queue.provider_batches import ProviderBatches

        runtime, batches = self._live(), self._provider_batches
        if batches is None or batches.runtime is not runtime:
            batches = self._provider_batches = ProviderBatches(runtime)
        return batches

    def _prepare_embedding(
        self,
        runtime: Runtime,
        text: str | Sequence[str],
        model: str | None,
        dimensions: int | None,
        use_cache: bool,
        timeout: float | None,
        tags: Mapping[str, Any] | None,
        session_id: str | None,
    ) -> EmbeddingRequest:
        started = time.perf_counter()
        try:
            if not isinstance(text, (str, list, tuple)):
                raise InvalidRequestError(
                    f"text must be a string or a list of strings, not a {type(text).__name__}"
                )
            return build_embedding_request(
                [text] if isinstance(text, str) else text,
                model_id=model,
                dimensions=dimensions,
                use_cache=use_cache,
                timeout=timeout,
                default_timeout_s=self._settings.timeout_s,
                tags=tags,
                session_id=session_id,
            )
        except InvalidRequestError as error:
            given = {"model_id": model, "session_id": session_id}
            runtime.log.append(
                refused_record(error, given, runtime.content, started, kind="embedding")
            )
            raise

    def _batch_items(
        self, runtime: Runtime, prompts: Any, arguments: CallArguments, max_concurrency: int
    ) -> list[dict[str, Any]]:
        started = time.perf_counter()
        try:
            return batch_items(prompts, dict(arguments), max_concurrency)
        except InvalidRequestError as error:
            runtime.log.append(refused_record(error, arguments, runtime.content, started))
            raise

    def _ask_item(self, runtime: Runtime) -> Callable[[dict[str, Any]], Any]:
        async def ask(item: dict[str, Any]) -> Completion:
            arguments = dict(item)
            prompt = arguments.pop("prompt", None)
            started = time.perf_counter()
            prepared = runtime.intake.prepare(prompt, arguments, started, stream=False)
            hit = runtime.pipeline.cached_locally(prepared, started)
            if hit is not None:
                return hit
            request = Request.of(prepared.question, started)
            return await runtime.pipeline.answer(request, prepared.plan)

        return ask


def _one_way(space: LabQueue, queue: bool | str) -> LabQueue:
    if queue is not False:
        raise InvalidRequestError("queue and provider_batch are two ways: choose one")
    return space


@contextlib.contextmanager
def _goes_on(batch_id: UUID) -> Iterator[None]:
    """Say where a batch is found again whose waiting was broken off."""
    try:
        yield
    except BaseException:
        logger.warning("the batch goes on at its provider: lab.queue.batch('%s').wait()", batch_id)
        raise


class _Held:
    """What a lab has to give back, apart from it: when nobody holds the lab, this is still there."""

    def __init__(self, runtime: Runtime, database: Database) -> None:
        self.runtime = runtime
        self.closed = False
        self.lock = threading.Lock()
        self._database = database

    def close(self) -> None:
        with self.lock:
            if self.closed:
                return
            self.closed = True
        try:
            if self.runtime.pid == os.getpid():
                self.runtime.close()
        finally:
            self._database.close()


_open_labs: weakref.WeakSet[_Held] = weakref.WeakSet()
_inherited: list[Runtime | LogMirror | None] = []
"""In a forked child, what was the parent's. It shares the parent's sockets and must not be collected:
that would unregister them, and the parent's calls would never be heard of again."""


def _close_forgotten(held: _Held) -> None:
    """Close what belonged to a lab that was collected, without holding up whoever collected it."""
    if held.closed:
        return
    # It may be the lab's own thread, which can't wait for itself.
    with contextlib.suppress(RuntimeError):  # the interpreter is at its end
        threading.Thread(target=held.close, name="novellus-close").start()


def _close_open_labs() -> None:
    for held in list(_open_labs):
        try:
            held.close()
        except Exception:
            logger.exception("a lab could not be closed cleanly")


def _after_fork_in_child() -> None:
    for held in list(_open_labs):
        held.lock = threading.Lock()  # the parent's may be held by a thread that is not here


atexit.register(_close_open_labs)
os.register_at_fork(after_in_child=_after_fork_in_child)
