"""`lab.benchmark`: run, resume, rerun and compare runs."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from novellus_lab.display import money, progress_bar
from novellus_lab.errors import InvalidRequestError
from novellus_lab.experiments.arms import Arm, arms_of
from novellus_lab.experiments.benchmark import BUILT_IN, Benchmark
from novellus_lab.experiments.benchmark_run import BenchmarkDiff, BenchmarkRun
from novellus_lab.experiments.comparison import Ending
from novellus_lab.experiments.design import Design
from novellus_lab.experiments.judge import Judge
from novellus_lab.experiments.loading import workload_of
from novellus_lab.experiments.logged_answers import answering, answers_by_id, answers_of
from novellus_lab.experiments.run import run_experiment
from novellus_lab.experiments.scorers import scorer_of
from novellus_lab.experiments.trial import Outcome
from novellus_lab.ids import uuid7
from novellus_lab.spaces.experiments import (
    budget_of,
    check_arguments,
    dollars,
    embedding_of,
    store_of,
)
from novellus_lab.spaces.open_arms import LabAccess, open_arms

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from novellus_lab.experiments.observation import Observation
    from novellus_lab.experiments.store import StoredExperiment
    from novellus_lab.experiments.workload import Item
    from novellus_lab.pipeline.runtime import Runtime


class RunList(tuple["StoredExperiment", ...]):
    """Runs of benchmarks, the newest first. Shows itself as a table."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        from novellus_lab.display import table_html

        rows = [
            (
                one.name,
                str(one.id),
                ", ".join(arm["name"] for arm in one.design["arms"]),
                one.design["n"],
                one.status,
                f"{one.started_at:%Y-%m-%d %H:%M}",
                one.verdict or "",
            )
            for one in self
        ]
        header = ("benchmark", "run", "arms", "items", "status", "started", "quality")
        return table_html(header, rows)


class LabBenchmark:
    """A benchmark of a lab: dataset, scorer and arguments, and its runs."""

    def __init__(self, access: LabAccess, benchmark: Benchmark) -> None:
        self._access = access
        self.benchmark = benchmark

    @classmethod
    def of(
        cls,
        access: LabAccess,
        name: str,
        workload: Any = None,
        scorer: Any = None,
        version: str = "1",
        arguments: dict[str, Any] | None = None,
    ) -> LabBenchmark:
        """Return the benchmark that is meant.

        Raises:
            InvalidRequestError: there is none of that name, or a part of it is wrong.
        """
        if not isinstance(name, str) or not name.strip() or len(name) > 200:
            raise InvalidRequestError("a benchmark needs a name of 1 to 200 characters")
        if workload is None and name not in BUILT_IN:
            raise InvalidRequestError(
                f"there is no benchmark {name!r}; there are {', '.join(BUILT_IN)}. For one of yours give "
                f"workload= and scorer="
            )
        load = workload_of(name if workload is None else workload)
        scorer = BUILT_IN.get(name) if scorer is None else scorer
        if scorer is None or isinstance(scorer, Judge) or scorer == "judge":
            raise InvalidRequestError(
                f"the benchmark {name!r} needs a scorer of single answers: 'exact', 'numeric', a function "
                f"of (item, answer) … (a judge compares two: lab.compare has it)"
            )
        given = dict(arguments or {})
        check_arguments(given)
        found = scorer_of(scorer, embed=embedding_of(access.live()))
        return cls(access, Benchmark(name, load, found, given, version))

    def __repr__(self) -> str:
        one = self.benchmark
        return (
            f"<benchmark {one.name!r}: {len(one.workload)} items, scored by {one.scorer.name}, "
            f"{one.content_hash}>: run, rerun, diff, runs, load"
        )

    # --- running -----------------------------------------------------------------------------

    def run(
        self,
        models: Any = None,
        *,
        n: int | None = None,
        seed: int = 0,
        max_usd: Decimal | float | str | None = None,
        max_concurrency: int = 16,
        queue: bool | str = False,
        resume: bool = True,
        level: float = 0.95,
        progress: bool | None = None,
    ) -> BenchmarkRun:
        """Ask every model every item, score, and keep it all.

        A run that broke off (the kernel died, the money ended, the cell was stopped) goes on with the
        same call: what was answered is not asked, and not paid, again.

        Args:
            models: models, strategies or any arms of `lab.compare`; default: all chat models that can
                be called.
            n: how many items, drawn by `seed`; None: all.
            max_usd: what this call of `run` may spend.
            max_concurrency: items under way at once.
            queue: have `novellus worker` processes make the calls; or the name of their queue.
            resume: go on with the latest unfinished run of the same benchmark, arms, n and seed.

        Raises:
            InvalidRequestError: an argument is wrong; nothing was sent.
            NoWorkerError: with `queue`, and no worker serves it.
        """
        runtime = self._access.live()
        run = _Run(self._access, runtime, self.benchmark, self._arms(runtime, models))
        run.plan(n, seed, max_usd, max_concurrency, queue, resume, level)
        with progress_bar(len(run.items), progress, self.benchmark.name) as told:
            return runtime.thread.run(run, _teller(run, told))

    async def arun(
        self,
        models: Any = None,
        *,
        n: int | None = None,
        seed: int = 0,
        max_usd: Decimal | float | str | None = None,
        max_concurrency: int = 16,
        queue: bool | str = False,
        resume: bool = True,
        level: float = 0.95,
        progress: bool | None = None,
    ) -> BenchmarkRun:
        """Ask every model every item: the async twin of `run`."""
        runtime = self._access.live()
        run = _Run(self._access, runtime, self.benchmark, self._arms(runtime, models))
        run.plan(n, seed, max_usd, max_concurrency, queue, resume, level)
        with progress_bar(len(run.items), progress, self.benchmark.name) as told:
            return await runtime.thread.arun(run, _teller(run, told))

    def rerun(
        self,
        run: BenchmarkRun | UUID | str,
        *,
        fresh: bool = False,
        max_usd: Decimal | float | str | None = None,
        max_concurrency: int = 16,
        progress: bool | None = None,
    ) -> BenchmarkRun:
        """Reproduce a run from the log, or repeat it with fresh calls.

        From the log the answers are those that were given, scored anew: with the same scorer the
        result is the same to the last bit, with another one it is what it would have been. Nothing is sent.

        Args:
            run: a run, or its id.
            fresh: ask again: same items, arms and arguments.
            max_usd: what fresh calls may cost.

        Raises:
            InvalidRequestError: there is no such run, its items are not this benchmark's, or (from the
                log) a text is not there: content logging was off, or its day was deleted.
        """
        runtime = self._access.live()
        work = _Rerun(self._access, runtime, self.benchmark, _key(run), fresh)
        work.limits(max_usd, max_concurrency)
        with progress_bar(work.total(runtime), progress, f"{self.benchmark.name} again") as told:
            return runtime.thread.run(work, _teller(work, told))

    async def arerun(
        self,
        run: BenchmarkRun | UUID | str,
        *,
        fresh: bool = False,
        max_usd: Decimal | float | str | None = None,
        max_concurrency: int = 16,
    ) -> BenchmarkRun:
        """Reproduce a run from the log, or repeat it: the async twin of `rerun`."""
        runtime = self._access.live()
        work = _Rerun(self._access, runtime, self.benchmark, _key(run), fresh)
        work.limits(max_usd, max_concurrency)
        return await runtime.thread.arun(work, lambda _outcome: None)

    # --- looking back ------------------------------------------------------------------------

    def runs(self, limit: int = 50) -> RunList:
        """Return this benchmark's runs, newest first."""
        runtime = self._access.live()
        stored = runtime.thread.run(store_of(runtime).stored, 1_000)
        mine = [o for o in stored if o.kind == "benchmark" and o.name == self.benchmark.name]
        return RunList(mine[:limit])

    def load(self, run: UUID | str) -> BenchmarkRun:
        """Return a run again, with the answers that the log has.

        Raises:
            InvalidRequestError: there is none.
        """
        runtime = self._access.ready()
        return runtime.thread.run(load_run, runtime, str(run))

    def diff(
        self,
        before: BenchmarkRun | UUID | str,
        after: BenchmarkRun | UUID | str,
        *,
        margin: float | None = None,
    ) -> BenchmarkDiff:
        """Tell what changed from one run to another, item by item, and whether quality got worse.

        Args:
            margin: a loss of quality (0 to 1) that does not matter.

        Raises:
            InvalidRequestError: there is no such run, or they have nothing in common.
        """
        found = [
            one if isinstance(one, BenchmarkRun) else self.load(one) for one in (before, after)
        ]
        return BenchmarkDiff.of(found[0], found[1], margin=margin)

    def _arms(self, runtime: Runtime, given: Any) -> tuple[Arm, ...]:
        if given is None:
            given = [m.id for m in runtime.catalog if m.unavailable is None and not m.is_embedding]
            if not given:
                raise InvalidRequestError("no model can be called: `novellus models` says why not")
        if isinstance(given, (str, type)) or callable(given):
            given = [given]
        return arms_of(
            given,
            strategies=runtime.strategies.names(),
            models=[model.id for model in runtime.catalog],
            least=1,
        )


class _Work:
    """A run to come: what both kinds of it share."""

    def __init__(self, access: LabAccess, runtime: Runtime, benchmark: Benchmark) -> None:
        self.access = access
        self.runtime = runtime
        self.benchmark = benchmark
        self.items: tuple[Item, ...] = ()
        self.resumed = 0
        """Items that an earlier start has done."""
        self._cap: Decimal | None = None
        self._max_concurrency = 16
        self._queue: bool | str = False

    def limits(self, max_usd: Decimal | float | str | None, max_concurrency: int) -> None:
        self._cap = None if max_usd is None else dollars(max_usd)
        self._max_concurrency = max_concurrency

    async def ask(
        self,
        design: Design,
        arms: Sequence[Arm],
        on_outcome: Callable[[Outcome], None],
        *,
        known: dict[tuple[str, str], Any],
        done: Sequence[Outcome] = (),
    ) -> BenchmarkRun:
        runtime, access = self.runtime, self.access
        async with open_arms(access, runtime, design.label, arms, self._queue) as (ready, asks):
            return await run_experiment(
                design,
                arms=ready,
                items=self.items,
                asks={name: answering(ask, known) for name, ask in asks.items()},
                common=design.common,
                scorer=self.benchmark.scorer,
                ask_judge=access.ask_item(runtime),
                store=store_of(runtime),
                max_concurrency=self._max_concurrency,
                budget=lambda: budget_of(runtime, self._cap, design.name),
                flush=lambda: asyncio.to_thread(access.ready),
                on_outcome=on_outcome,
                on_look=None,
                kind="benchmark",
                result=_run_of,
                told=_told,
                done=done,
            )


class _Run(_Work):
    """A run of a benchmark, checked, ready for the lab's loop."""

    def __init__(
        self, access: LabAccess, runtime: Runtime, benchmark: Benchmark, arms: tuple[Arm, ...]
    ) -> None:
        super().__init__(access, runtime, benchmark)
        self._arms = arms

    def plan(
        self,
        n: int | None,
        seed: int,
        max_usd: Decimal | float | str | None,
        max_concurrency: int,
        queue: bool | str,
        resume: bool,
        level: float,
    ) -> None:
        self.limits(max_usd, max_concurrency)
        self._queue = queue
        self._resume = resume
        self.items = self.benchmark.workload.sample(n, seed=seed).items
        if isinstance(level, bool) or not isinstance(level, float) or not 0 < level < 1:
            raise InvalidRequestError(f"level must be between 0 and 1 (0.95), not {level!r:.80}")
        id = uuid7()
        one = self.benchmark
        self.design = Design(
            id=id,
            name=one.name,
            label=f"{one.name[:120]} {id.hex[-8:]}",
            arms=tuple(arm.told() for arm in self._arms),
            workload=one.workload.name,
            workload_hash=one.workload.content_hash,
            n=len(self.items),
            metric="score",
            scorer=str(one.scorer.name),
            level=level,
            seed=seed,
            max_usd=None if self._cap is None else str(self._cap),
            common=dict(one.arguments),
            benchmark=one.content_hash,
        )

    async def __call__(self, on_outcome: Callable[[Outcome], None]) -> BenchmarkRun:
        done: list[Outcome] = []
        known: dict[tuple[str, str], Any] = {}
        store = store_of(self.runtime)
        earlier = await self._unfinished() if self._resume else None
        if earlier is not None:
            self.design = replace(self.design, id=earlier.id, label=earlier.label)
            await asyncio.to_thread(self.access.ready)
            done = [o for o in await store.outcomes(self.design) if _answered(o)]
            known = await answers_of(self.runtime.experiments.connection, earlier.label)
            self.resumed = len(done)
            for outcome in done:
                on_outcome(outcome)
        return await self.ask(self.design, self._arms, on_outcome, known=known, done=done)

    async def _unfinished(self) -> StoredExperiment | None:
        """The latest run of the same that broke off."""
        own = self.design.told()
        same = ("arms", "benchmark", "n", "seed", "common")
        for one in await store_of(self.runtime).stored(1_000):
            if (
                one.kind == "benchmark"
                and one.name == self.design.name
                and one.status != "done"
                and all(one.design.get(key) == _plain(own[key]) for key in same)
                and not one.design.get("rerun_of")
            ):
                return one
        return None


class _Rerun(_Work):
    """A run again: from the log, or with fresh calls."""

    def __init__(
        self, access: LabAccess, runtime: Runtime, benchmark: Benchmark, run_id: str, fresh: bool
    ) -> None:
        super().__init__(access, runtime, benchmark)
        self._run_id = run_id
        self._fresh = fresh

    def total(self, runtime: Runtime) -> int:
        """Return how many items there are."""
        return int(runtime.thread.run(store_of(runtime).find, self._run_id).design["n"])

    async def __call__(self, on_outcome: Callable[[Outcome], None]) -> BenchmarkRun:
        await asyncio.to_thread(self.access.ready)
        first = await load_run(self.runtime, self._run_id)
        items = {item.id: item for item in self.benchmark.workload}
        ids = [outcome.observations[0].item_id for outcome in first.outcomes]
        if missing := [id for id in ids if id not in items]:
            raise InvalidRequestError(
                f"run {first.id} asked items that {self.benchmark.name!r} does not have "
                f"({missing[0]!r}, and {len(missing) - 1} more): name the benchmark that it was run of"
            )
        self.items = tuple(items[id] for id in ids)
        id = uuid7()
        design = replace(
            first.design,
            id=id,
            label=f"{self.benchmark.name[:120]} {id.hex[-8:]}",
            n=len(ids),
            scorer=str(self.benchmark.scorer.name),
            benchmark=self.benchmark.content_hash,
            rerun_of=first.id,
            from_log=not self._fresh,
            max_usd=None if self._cap is None else str(self._cap),
        )
        if self._fresh:
            arms = [_arm_of(told) for told in design.arms]
            return await self.ask(design, arms, on_outcome, known={})
        return await self._from_log(design, first, on_outcome)

    async def _from_log(
        self, design: Design, first: BenchmarkRun, on_outcome: Callable[[Outcome], None]
    ) -> BenchmarkRun:
        gone = [
            seen.item_id
            for outcome in first.outcomes
            for seen in outcome.observations
            if seen.ok and seen.content is None
        ]
        if gone:
            raise InvalidRequestError(
                f"the log no longer has the answers to {len(gone)} of run {first.id}'s calls (item "
                f"{gone[0]!r}, for one): content logging was off, or its partition was dropped. "
                f"fresh=True asks again"
            )
        ids = [
            s.request_id for o in first.outcomes for s in o.observations if s.request_id is not None
        ]
        answers = await answers_by_id(self.runtime.experiments.connection, ids)
        again = []
        for outcome, item in zip(first.outcomes, self.items, strict=True):
            observations = []
            for seen in outcome.observations:
                answer = answers.get(seen.request_id) if seen.ok and seen.request_id else None
                if answer is not None:
                    score = await self.benchmark.scorer.score(item, answer)
                    seen = replace(
                        seen,
                        score=score.value,
                        score_reason=score.reason,
                        scoring_cost_usd=score.cost_usd,
                    )
                observations.append(seen)
            again.append(Outcome(outcome.number, tuple(observations)))
            on_outcome(again[-1])
        store = store_of(self.runtime)
        await store.begin(design.id, design.name, design.label, "benchmark", design.told())
        rows = [(o.number, seen) for o in again for seen in o.observations]
        await store.observe(design.id, rows, None)
        run = _run_of(design, tuple(again), Ending.WHOLE)
        await store.end(design.id, "done", _told(run))
        return run


async def load_run(runtime: Runtime, key: str) -> BenchmarkRun:
    """Return a run as it is kept, with the answers that the log has.

    Raises:
        InvalidRequestError: there is none.
    """
    store = store_of(runtime)
    one = await store.find(key)
    if one.kind != "benchmark":
        raise InvalidRequestError(f"{key!r} is no run of a benchmark but a {one.kind} experiment")
    design = Design.of(one.id, one.name, one.label, one.design)
    outcomes = await store.outcomes(design)
    ids = [s.request_id for o in outcomes for s in o.observations if s.request_id is not None]
    answers = await answers_by_id(runtime.experiments.connection, ids)

    def with_text(seen: Observation) -> Observation:
        answer = None if seen.request_id is None else answers.get(seen.request_id)
        return seen if answer is None else replace(seen, content=answer.content)

    told = tuple(Outcome(o.number, tuple(map(with_text, o.observations))) for o in outcomes)
    whole = len(told) == design.n
    run = _run_of(design, told, Ending.WHOLE if whole else Ending.INTERRUPTED)
    return replace(run, started_at=one.started_at)


def _answered(outcome: Outcome) -> bool:
    """What failed is asked again when a run goes on; what was answered is not."""
    return all(seen.ok for seen in outcome.observations)


def _run_of(design: Design, outcomes: tuple[Outcome, ...], ending: Ending) -> BenchmarkRun:
    return BenchmarkRun(design, ending, tuple(sorted(outcomes, key=lambda o: o.number)))


def _told(run: BenchmarkRun) -> str:
    told = []
    for one in run.standings:
        quality = one.quality
        value = "–" if quality is None or quality.value is None else f"{quality.value:.1%}"
        told.append(f"{one.arm} {value}")
    return ", ".join(told)


def _arm_of(told: Any) -> Arm:
    if told.get("balancer"):
        raise InvalidRequestError(
            f"arm {told['name']!r} was a load balancer of your own ({told['balancer']}): run it anew with "
            f"run(models=…), the log does not hold code"
        )
    return Arm(told["name"], told["arguments"], config=told.get("config"))


def _teller(work: _Work, told: Callable[[str], None]) -> Callable[[Outcome], None]:
    """Show what was spent so far, and about how much is to come."""
    counts: Counter[str] = Counter()
    spent = Decimal(0)

    def on_outcome(outcome: Outcome) -> None:
        nonlocal spent
        counts["done"] += 1
        own = sum((s.cost_usd or Decimal(0) for s in outcome.observations), Decimal(0))
        if counts["done"] > work.resumed:
            spent += own
        new = counts["done"] - work.resumed
        left = len(work.items) - counts["done"]
        label = f"{money(spent)} so far"
        if new >= 5 and left > 0:
            label += f", about {money(spent / new * left)} to come"
        told(label)

    return on_outcome


def _key(run: BenchmarkRun | UUID | str) -> str:
    return run.id if isinstance(run, BenchmarkRun) else str(run)


def _plain(value: Any) -> Any:
    """As it comes back from the database."""
    import orjson

    return orjson.loads(orjson.dumps(value, default=str))
