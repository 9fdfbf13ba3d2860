"""`lab.experiments` and `lab.compare`: which arm is better, by how much, and how sure."""

from __future__ import annotations

import asyncio
import contextlib
import math
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

from novellus_lab.errors import InvalidRequestError, did_you_mean
from novellus_lab.experiments.arms import Arm, arms_of
from novellus_lab.experiments.comparison import Comparison, Ending
from novellus_lab.experiments.design import Design
from novellus_lab.experiments.judge import Judge
from novellus_lab.experiments.loading import workload_of
from novellus_lab.experiments.metrics import metric_of
from novellus_lab.experiments.run import run_experiment
from novellus_lab.experiments.scorers import scorer_of
from novellus_lab.experiments.store import ExperimentStore, StoredExperiment
from novellus_lab.experiments.trial import Outcome
from novellus_lab.ids import uuid7
from novellus_lab.routing.assignment import HOLDOUT, REQUEST
from novellus_lab.spaces.open_arms import LabAccess, open_arms

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    import plotly.graph_objects as go

    from novellus_lab.pipeline.runtime import Runtime


class LabComparison(Comparison):
    """A comparison that draws itself."""

    def figure(self) -> go.Figure:
        """Draw what each arm differs by from the control, with intervals."""
        from novellus_lab.plots.comparison import effects_figure

        return effects_figure(self)

    def frontier(self) -> go.Figure:
        """Draw the arms by what they cost and how good they are."""
        from novellus_lab.plots.comparison import frontier_figure

        return frontier_figure(self)


class ExperimentList(tuple[StoredExperiment, ...]):
    """Experiments, the newest first. Shows itself as a table."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        from novellus_lab.display import table_html

        rows = [
            (
                one.name,
                one.kind,
                ", ".join(arm["name"] for arm in one.design["arms"]),
                one.status,
                f"{one.started_at:%Y-%m-%d %H:%M}",
                one.verdict or "",
            )
            for one in self
        ]
        return table_html(("experiment", "kind", "arms", "status", "started", "verdict"), rows)


class LabExperiments:
    """Comparisons of arms, before, on, and beside live traffic."""

    def __init__(self, access: LabAccess) -> None:
        self._access = access
        self._live = access.live

    def __repr__(self) -> str:
        return "lab.experiments: compare, start, stop, analyse, plan, score, list, load"

    # --- comparisons -------------------------------------------------------------------------

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
        progress: bool | None = None,
        on_look: Callable[[LabComparison], None] | None = None,
        **arguments: Any,
    ) -> LabComparison:
        """Ask the same items in every arm, and say which is better; see `Lab.compare`."""
        from novellus_lab.display import steps

        runtime = self._live()
        run = self._planned(
            runtime, strategies, workload, scorer, metric, n, name, level, sequential, margin,
            max_usd, max_concurrency, queue, seed, on_look, arguments,
        )  # fmt: skip
        with steps(run.items_planned, progress, f"comparing {run.design.name}") as advance:
            return runtime.thread.run(run, lambda _outcome: advance())

    async def acompare(
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
        progress: bool | None = None,
        on_look: Callable[[LabComparison], None] | None = None,
        **arguments: Any,
    ) -> LabComparison:
        """Ask the same items in every arm: the async twin of `compare`."""
        from novellus_lab.display import steps

        runtime = self._live()
        run = await asyncio.to_thread(
            self._planned,
            runtime, strategies, workload, scorer, metric, n, name, level, sequential, margin,
            max_usd, max_concurrency, queue, seed, on_look, arguments,
        )  # fmt: skip
        with steps(run.items_planned, progress, f"comparing {run.design.name}") as advance:
            return await runtime.thread.arun(run, lambda _outcome: advance())

    def _planned(
        self,
        runtime: Runtime,
        strategies: Any,
        workload: Any,
        scorer: Any,
        metric: str | None,
        n: int | None,
        name: str | None,
        level: float,
        sequential: bool,
        margin: float | str | None,
        max_usd: Decimal | float | str | None,
        max_concurrency: int,
        queue: bool | str,
        seed: int,
        on_look: Callable[[LabComparison], None] | None,
        arguments: dict[str, Any],
    ) -> _Run:
        """Check everything before anything is sent."""
        arms = arms_of(
            strategies,
            strategies=runtime.strategies.names(),
            models=[model.id for model in runtime.catalog],
        )
        load = workload_of(workload).sample(n, seed=seed)
        if scorer == "judge":
            raise InvalidRequestError(
                "say who judges: scorer=novellus_lab.experiments.judge.Judge('gpt-4o')"
            )

        if scorer is None or isinstance(scorer, Judge):
            found: Any = scorer
        else:
            found = scorer_of(scorer, embed=embedding_of(runtime))
        decides = metric_of(metric or ("score" if found is not None else "cost_usd"))
        if decides.needs_score and found is None:
            raise InvalidRequestError(
                f"the metric {decides.name!r} needs a scorer: scorer='numeric', for example"
            )
        if isinstance(level, bool) or not isinstance(level, float) or not 0 < level < 1:
            raise InvalidRequestError(f"level must be between 0 and 1 (0.95), not {level!r:.80}")
        check_arguments(arguments)
        size, relative = _margin(margin)
        cap = None if max_usd is None else dollars(max_usd)
        id = uuid7()
        name = name or f"{load.name}: {' / '.join(arm.name for arm in arms)}"[:120]
        if any(arm.config is not None for arm in arms) and queue is not False:
            raise InvalidRequestError(
                "an arm with a configuration of its own can't go through the queue: workers have theirs"
            )
        design = Design(
            id=id,
            name=name,
            label=f"{name[:120]} {id.hex[-8:]}",
            arms=tuple(arm.told() for arm in arms),
            workload=load.name,
            workload_hash=load.content_hash,
            n=len(load),
            metric=decides.name,
            scorer=None if found is None else str(found.name),
            level=level,
            sequential=bool(sequential),
            margin=size,
            margin_relative=relative,
            seed=seed,
            max_usd=None if cap is None else str(cap),
            common=arguments,
        )
        return _Run(
            self._access,
            runtime,
            design,
            arms,
            load.items,
            found,
            cap,
            max_concurrency,
            queue,
            on_look,
        )

    # --- live traffic ------------------------------------------------------------------------

    def start(
        self,
        name: str,
        arms: Any,
        *,
        unit: str = "session_id",
        share: float = 1.0,
        holdout: float = 0.0,
        weights: Mapping[str, float] | None = None,
    ) -> StoredExperiment:
        """Let live calls fall into arms, from now on, in every process of this database.

        Whoever calls need not change anything: a call falls into an arm by its unit, the same one
        always, and gets the arm's arguments; `ai_requests.experiment` and `arm` say so. Calls that
        state what an arm would set, or name an experiment, are left alone. Other processes take
        part within 15 seconds.

        Args:
            arms: as in `lab.compare`, but plain arguments only; the first is the control.
            unit: `"session_id"`, `"tag:user"` (a tag's value), or `"request"` (each by a lot of its
                own). Calls without it take no part.
            share: of units that take part.
            holdout: of those, the share that is left as it was, as the arm `holdout`.
            weights: of the arms, if not equal.

        Raises:
            InvalidRequestError: it is under way already, or an argument is wrong.
        """
        runtime = self._live()
        return runtime.thread.run(
            self._start,
            runtime,
            *self._live_design(runtime, name, arms, unit, share, holdout, weights),
        )

    async def astart(self, name: str, arms: Any, **options: Any) -> StoredExperiment:
        """Let live calls fall into arms: the async twin of `start`."""
        runtime = self._live()
        defaults = {"unit": "session_id", "share": 1.0, "holdout": 0.0, "weights": None}
        given = {**defaults, **options}
        design = self._live_design(
            runtime, name, arms, given["unit"], given["share"], given["holdout"], given["weights"]
        )
        return await runtime.thread.arun(self._start, runtime, *design)

    def stop(self, name: str) -> StoredExperiment:
        """End an experiment on live traffic: calls are as they were, everywhere within 15 seconds.

        Raises:
            InvalidRequestError: there is none of that name.
        """
        runtime = self._live()
        return runtime.thread.run(self._stop, runtime, name)

    async def astop(self, name: str) -> StoredExperiment:
        """End an experiment on live traffic: the async twin of `stop`."""
        runtime = self._live()
        return await runtime.thread.arun(self._stop, runtime, name)

    async def _start(self, runtime: Runtime, name: str, design: dict[str, Any]) -> StoredExperiment:
        store = store_of(runtime)
        for one in await store.stored(1_000):
            if one.kind == "live" and one.ended_at is None and one.name == name:
                raise InvalidRequestError(
                    f"the experiment {name!r} is under way since {one.started_at:%Y-%m-%d %H:%M}: stop "
                    f"it first, lab.experiments.stop({name!r})"
                )
        id = uuid7()
        await store.begin(id, name, f"{name} {id.hex[-8:]}", "live", design)
        await runtime.experiments.refresh()
        return await store.find(str(id))

    async def _stop(self, runtime: Runtime, name: str) -> StoredExperiment:
        store = store_of(runtime)
        one = await store.find(name)
        if one.kind != "live":
            raise InvalidRequestError(f"{name!r} is no experiment on live traffic")
        await store.end(one.id, "stopped", None)
        await runtime.experiments.refresh()
        return await store.find(str(one.id))

    def _live_design(
        self,
        runtime: Runtime,
        name: str,
        arms: Any,
        unit: str,
        share: float,
        holdout: float,
        weights: Mapping[str, float] | None,
    ) -> tuple[str, dict[str, Any]]:
        if not isinstance(name, str) or not name.strip() or len(name) > 200:
            raise InvalidRequestError("an experiment needs a name of 1 to 200 characters")
        found = arms_of(
            arms,
            strategies=runtime.strategies.names(),
            models=[model.id for model in runtime.catalog],
        )
        for arm in found:
            if arm.balancer is not None or arm.config is not None:
                raise InvalidRequestError(
                    f"arm {arm.name!r}: live arms are plain arguments. Register a strategy of yours in "
                    f"every process (lab.router.register) and give its name"
                )
            runtime.intake.question("?", arm.arguments)
        if unit not in ("session_id", REQUEST) and not (
            unit.startswith("tag:") and len(unit) > len("tag:")
        ):
            raise InvalidRequestError(
                f"unit must be 'session_id', 'tag:<key>' or 'request', not {unit!r:.80}"
            )
        for what, value in (("share", share), ("holdout", holdout)):
            if (
                isinstance(value, bool)
                or not isinstance(value, (int, float))
                or not 0 <= value <= 1
            ):
                raise InvalidRequestError(f"{what} must be between 0 and 1, not {value!r:.80}")
        if HOLDOUT in (names := [arm.name for arm in found]):
            raise InvalidRequestError(f"no arm may be named {HOLDOUT!r}: holdout= makes that one")
        wanted = dict.fromkeys(names, 1.0) if weights is None else dict(weights)
        if set(wanted) != set(names) or not all(
            isinstance(w, (int, float)) and math.isfinite(w) and w > 0 for w in wanted.values()
        ):
            raise InvalidRequestError(
                f"weights must have a number above 0 for each of {', '.join(names)}"
            )
        total = sum(wanted.values())
        rest = share * (1 - holdout)
        told = [{**arm.told(), "share": rest * wanted[arm.name] / total} for arm in found]
        if holdout:
            told.append({"name": HOLDOUT, "arguments": {}, "share": share * holdout})
        return name, {"arms": told, "unit": unit, "share": share, "holdout": holdout}

    # --- what is kept ------------------------------------------------------------------------

    def list(self, limit: int = 50) -> ExperimentList:
        """Return the latest experiments, newest first."""
        runtime = self._live()
        return ExperimentList(runtime.thread.run(store_of(runtime).stored, limit))

    async def alist(self, limit: int = 50) -> ExperimentList:
        """Return the latest experiments: the async twin of `list`."""
        runtime = self._live()
        return ExperimentList(await runtime.thread.arun(store_of(runtime).stored, limit))

    def load(self, key: str | UUID) -> LabComparison:
        """Return a comparison again, as far as it came: by id, label or name (the newest of it).

        The texts of answers are not in it; `ai_requests` has them.

        Raises:
            InvalidRequestError: there is none, or it is one on live traffic.
        """
        runtime = self._live()
        return runtime.thread.run(self._load, runtime, str(key))

    async def aload(self, key: str | UUID) -> LabComparison:
        """Return a comparison again: the async twin of `load`."""
        runtime = self._live()
        return await runtime.thread.arun(self._load, runtime, str(key))

    async def _load(self, runtime: Runtime, key: str) -> LabComparison:
        store = store_of(runtime)
        one = await store.find(key)
        if one.kind != "comparison":
            raise InvalidRequestError(
                f"{key!r} is an experiment on live traffic: lab.experiments.analyse({key!r})"
            )
        design = Design.of(one.id, one.name, one.label, one.design)
        by_number: dict[int, dict[str, Any]] = {}
        for number, seen in await store.observed(one.id):
            by_number.setdefault(number, {})[seen.arm] = seen
        outcomes = [
            Outcome(number, tuple(seen[name] for name in design.names))
            for number, seen in by_number.items()
            if len(seen) == len(design.names)
        ]
        ending = Ending.WHOLE if len(outcomes) == design.n else Ending.INTERRUPTED
        return await asyncio.to_thread(LabComparison.of, design, outcomes, ending)

    def score(
        self, request_id: UUID | str, value: float | bool, *, scorer: str = "person",
        reason: str | None = None,
    ) -> None:  # fmt: skip
        """Keep how good an answer was: a thumb, a review, what a customer did next.

        Evaluations from the log and routers that learn read it. The latest word of a scorer holds.

        Args:
            request_id: `r.request_id`.
            value: 0 (bad) to 1 (good), or True and False.
            scorer: whose word it is.

        Raises:
            InvalidRequestError: no such value, or no id.
        """
        runtime = self._live()
        runtime.thread.run(store_of(runtime).score, *_scored(request_id, value, scorer, reason))

    async def ascore(
        self, request_id: UUID | str, value: float | bool, *, scorer: str = "person",
        reason: str | None = None,
    ) -> None:  # fmt: skip
        """Keep how good an answer was: the async twin of `score`."""
        runtime = self._live()
        told = _scored(request_id, value, scorer, reason)
        await runtime.thread.arun(store_of(runtime).score, *told)


class _Run:
    """One comparison, checked, ready to be run on the lab's loop."""

    def __init__(
        self,
        access: LabAccess,
        runtime: Runtime,
        design: Design,
        arms: tuple[Arm, ...],
        items: tuple[Any, ...],
        scorer: Any,
        cap: Decimal | None,
        max_concurrency: int,
        queue: bool | str,
        on_look: Callable[[LabComparison], None] | None,
    ) -> None:
        self._access = access
        self._runtime = runtime
        self.design = design
        self._arms = arms
        self._items = items
        self._scorer = scorer
        self._cap = cap
        self._max_concurrency = max_concurrency
        self._queue = queue
        self._on_look = on_look

    @property
    def items_planned(self) -> int:
        return len(self._items)

    async def __call__(self, on_outcome: Callable[[Outcome], None]) -> LabComparison:
        runtime, access, design = self._runtime, self._access, self.design
        async with open_arms(access, runtime, design.label, self._arms, self._queue) as (
            arms,
            asks,
        ):
            return await run_experiment(
                design,
                arms=arms,
                items=self._items,
                asks=asks,
                common=design.common,
                scorer=self._scorer,
                ask_judge=access.ask_item(runtime),
                store=store_of(runtime),
                max_concurrency=self._max_concurrency,
                budget=lambda: budget_of(runtime, self._cap, design.name),
                flush=lambda: asyncio.to_thread(access.ready),
                on_outcome=on_outcome,
                on_look=self._on_look,
                kind="comparison",
                result=LabComparison.of,
                told=lambda comparison: comparison.verdict,
            )


def embedding_of(runtime: Runtime) -> Callable[[list[str]], Awaitable[list[list[float]]]]:
    """Return what the scorer `similarity` embeds texts with, on the lab's loop."""

    async def embed(texts: list[str]) -> list[list[float]]:
        from novellus_lab.pipeline.embedding import build_embedding_request

        asked = build_embedding_request(
            texts,
            model_id=None,
            dimensions=None,
            use_cache=True,
            timeout=None,
            default_timeout_s=runtime.settings.timeout_s,
            tags={"purpose": "score"},
            session_id=None,
        )
        return [list(vector) for vector in await runtime.embedder.embed(asked)]

    return embed


def budget_of(
    runtime: Runtime, cap: Decimal | None, name: str
) -> contextlib.AbstractContextManager[Any]:
    """Return the block that holds an experiment's calls to an amount."""
    if cap is None:
        return contextlib.nullcontext()
    return runtime.admission.budgets.scope(cap, name=f"the experiment {name!r}")


def store_of(runtime: Runtime) -> ExperimentStore:
    """Return the experiments in the database of a runtime."""
    return ExperimentStore(runtime.experiments.connection)


def check_arguments(arguments: Mapping[str, Any]) -> None:
    from novellus_lab.pipeline.intake import CALL_ARGUMENTS

    for key in arguments:
        if key not in CALL_ARGUMENTS or key in ("messages", "experiment", "arm"):
            allowed = [a for a in CALL_ARGUMENTS if a not in ("messages", "experiment", "arm")]
            raise InvalidRequestError(
                f"compare has no argument {key!r}. {did_you_mean(key, allowed)}"
            )


def _margin(given: float | str | None) -> tuple[float | None, bool]:
    """`0.02` in the metric's unit, or `"5%"` of the control's value."""
    relative = isinstance(given, str) and given.strip().endswith("%")
    try:
        size = None if given is None else float(str(given).strip().rstrip("%"))
    except ValueError:
        size = math.nan
    if size is None:
        return None, False
    if isinstance(given, bool) or not math.isfinite(size) or size <= 0:
        raise InvalidRequestError(
            f"margin must be above 0: 0.02 in the metric's unit, or '5%' of the control, not {given!r:.80}"
        )
    return (size / 100, True) if relative else (size, False)


def dollars(given: Decimal | float | str) -> Decimal:
    try:
        amount = Decimal(str(given))
    except ArithmeticError:
        amount = Decimal("nan")
    if isinstance(given, bool) or not amount.is_finite() or amount <= 0:
        raise InvalidRequestError(f"max_usd must be a number of dollars above 0, not {given!r:.80}")
    return amount


def _scored(
    request_id: UUID | str, value: float | bool, scorer: str, reason: str | None
) -> tuple[UUID, str, float, str | None]:
    try:
        id = request_id if isinstance(request_id, UUID) else UUID(request_id)
    except (ValueError, AttributeError, TypeError):
        raise InvalidRequestError(f"{request_id!r:.80} is no request's id") from None
    if not isinstance(value, (bool, int, float)) or not 0 <= value <= 1:
        raise InvalidRequestError(f"a score is from 0 (bad) to 1 (good), not {value!r:.80}")
    if not isinstance(scorer, str) or not scorer or len(scorer) > 100:
        raise InvalidRequestError("scorer must be a name of 1 to 100 characters")
    return id, scorer, float(value), reason
