"""`lab.experiments` and `lab.compare`: which arm is better, by how much, and how sure."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

from novellus_lab.errors import InvalidRequestError, did_you_mean
from novellus_lab.experiments.arms import Arm, arms_of
from novellus_lab.experiments.arrivals import Arrivals, arrivals_of
from novellus_lab.experiments.comparison import Comparison, Ending
from novellus_lab.experiments.design import Design
from novellus_lab.experiments.judge import Judge
from novellus_lab.experiments.loading import workload_of
from novellus_lab.experiments.metrics import Summary, metric_of
from novellus_lab.experiments.planned import ExperimentPlan, Pilot, planned
from novellus_lab.experiments.recommendation import Recommendation, chosen_of, strategies_to_try
from novellus_lab.experiments.run import run_experiment
from novellus_lab.experiments.scorers import scorer_of
from novellus_lab.experiments.stats.multiple import simultaneous_level
from novellus_lab.experiments.store import ExperimentStore, StoredExperiment
from novellus_lab.ids import uuid7
from novellus_lab.spaces.comparisons import LabComparison, LabLiveComparison, margin_of
from novellus_lab.spaces.live_traffic import analyse_live, live_design, start_live, stop_live
from novellus_lab.spaces.offline import (
    arm_of,
    evaluate_strategies,
    pilot_of_comparison,
    pilot_of_log,
    window_of,
)
from novellus_lab.spaces.open_arms import LabAccess, open_arms

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime, timedelta

    from novellus_lab.experiments.offline import OfflineEvaluation
    from novellus_lab.experiments.trial import Outcome
    from novellus_lab.pipeline.runtime import Runtime


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
        return (
            "lab.experiments: compare, plan, start, stop, analyse, evaluate_offline, recommend, score, "
            "list, load"
        )

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
        arrivals: Any = None,
        speed: float = 1.0,
        progress: bool | None = None,
        on_look: Callable[[LabComparison], None] | None = None,
        **arguments: Any,
    ) -> LabComparison:
        """Ask the same items in every arm, and say which is better; see `Lab.compare`."""
        from novellus_lab.display import steps

        runtime = self._live()
        run = self._planned(
            runtime,
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
            on_look=on_look,
            **arguments,
        )
        with steps(run.items_planned, progress, f"comparing {run.design.name}") as advance:
            return runtime.thread.run(run, lambda _outcome: advance())

    async def acompare(
        self, strategies: Any, workload: Any, *, progress: bool | None = None, **options: Any
    ) -> LabComparison:
        """Ask the same items in every arm: the async twin of `compare`, same arguments."""
        from novellus_lab.display import steps

        runtime = self._live()
        run = await asyncio.to_thread(self._planned, runtime, strategies, workload, **options)
        with steps(run.items_planned, progress, f"comparing {run.design.name}") as advance:
            return await runtime.thread.arun(run, lambda _outcome: advance())

    def _planned(
        self,
        runtime: Runtime,
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
        on_look: Callable[[LabComparison], None] | None = None,
        **arguments: Any,
    ) -> _Run:
        """Check everything before anything is sent."""
        arms = arms_of(
            strategies,
            strategies=runtime.strategies.names(),
            models=[model.id for model in runtime.catalog],
        )
        load = workload_of(workload)
        trace: Arrivals | None = None
        if arrivals is None:
            load = load.sample(n, seed=seed)
        else:
            if queue is not False:
                raise InvalidRequestError("arrivals are kept here, not by workers: leave out queue")
            trace = arrivals_of(arrivals).scaled(speed)
            trace = trace if n is None else trace.first(n)
            load = load.repeated(len(trace))
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
        size, relative = margin_of(margin)
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
            load=None if trace is None else trace.told(),
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
            None if trace is None else trace.offsets_s,
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
        expected_units: int = 1_000,
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
            expected_units: after about so many, intervals are narrowest; they hold at any number.

        Raises:
            InvalidRequestError: it is under way already, or an argument is wrong.
        """
        runtime = self._live()
        return runtime.thread.run(
            start_live,
            runtime,
            *live_design(runtime, name, arms, unit, share, holdout, weights, expected_units),
        )

    async def astart(self, name: str, arms: Any, **options: Any) -> StoredExperiment:
        """Let live calls fall into arms: the async twin of `start`."""
        runtime = self._live()
        defaults: dict[str, Any] = {
            "unit": "session_id", "share": 1.0, "holdout": 0.0, "weights": None,
            "expected_units": 1_000,
        }  # fmt: skip
        given = {**defaults, **options}
        design = live_design(
            runtime, name, arms, given["unit"], given["share"], given["holdout"], given["weights"],
            given["expected_units"],
        )  # fmt: skip
        return await runtime.thread.arun(start_live, runtime, *design)

    def stop(self, name: str) -> StoredExperiment:
        """End an experiment on live traffic: calls are as they were, everywhere within 15 seconds.

        Raises:
            InvalidRequestError: there is none of that name.
        """
        runtime = self._live()
        return runtime.thread.run(stop_live, runtime, name)

    async def astop(self, name: str) -> StoredExperiment:
        """End an experiment on live traffic: the async twin of `stop`."""
        runtime = self._live()
        return await runtime.thread.arun(stop_live, runtime, name)

    def analyse(
        self,
        name: str,
        *,
        metric: str = "cost_usd",
        scorer: str | None = None,
        level: float = 0.95,
        margin: float | str | None = None,
        sequential: bool = True,
    ) -> LabLiveComparison:
        """Tell what an experiment on live traffic says so far.

        Checks first whether units fell into the arms as they were drawn (a sample ratio mismatch), and
        whether the effect wears off. Calls of one unit are not independent: intervals are made of units.

        Args:
            metric: what decides; the names of `lab.compare`.
            scorer: whose scores count (`lab.experiments.score`); None: anybody's latest.
            sequential: intervals that hold however often this is asked. False is for one look, at the
                end that was planned.

        Raises:
            InvalidRequestError: there is none of that name, or nothing fell into it yet.
        """
        runtime = self._access.ready()
        return runtime.thread.run(
            analyse_live, runtime, name, metric, scorer, level, margin, sequential
        )

    async def aanalyse(self, name: str, **options: Any) -> LabLiveComparison:
        """Tell what an experiment on live traffic says so far: the async twin of `analyse`."""
        given = {
            "metric": "cost_usd", "scorer": None, "level": 0.95, "margin": None, "sequential": True,
            **options,
        }  # fmt: skip
        runtime = await asyncio.to_thread(self._access.ready)
        return await runtime.thread.arun(
            analyse_live,
            runtime,
            name,
            given["metric"],
            given["scorer"],
            given["level"],
            given["margin"],
            given["sequential"],
        )

    # --- before, and instead -----------------------------------------------------------------

    def plan(
        self,
        effect: float | str,
        *,
        metric: str = "score",
        like: Comparison | str | None = None,
        arms: int = 2,
        power: float = 0.8,
        level: float = 0.95,
        sequential: bool = False,
        equivalence: bool = False,
        since: str = "30d",
        mean: float | None = None,
        sd: float | None = None,
        correlation: float = 0.0,
        cost_usd: Decimal | float | str | None = None,
        group_size: float = 1.0,
        group_correlation: float = 0.0,
    ) -> ExperimentPlan:
        """Tell how many calls and dollars a comparison needs before it starts.

        Args:
            effect: the smallest difference worth finding, in the metric's unit, or `"5%"` of what it is.
            metric: a mean: `score`, `cost_usd`, `latency_ms`, `error_rate`, `output_tokens`.
            like: an earlier comparison (or its name) to take spread, pairing and costs from; default:
                the log of `since`, which says nothing of how pairs hang together (the safe side).
            power: how often the effect is found if it is there.
            sequential: whether it may be looked at, and stopped, at any time.
            equivalence: plan to show that arms differ by less than `effect`.
            mean, sd, correlation: state them instead; `cost_usd` of one call, too.
            group_size, group_correlation: of items that belong together.

        Raises:
            InvalidRequestError: too little is known to plan by, or an argument is wrong.
        """
        decides = metric_of(metric)
        if decides.summary is not Summary.MEAN:
            raise InvalidRequestError(
                f"plans are for means: {metric!r} is a {decides.summary.value}; plan by 'latency_ms' or "
                f"'cost_usd' instead"
            )
        if sd is not None:
            each = None if cost_usd is None else dollars(cost_usd)
            pilot = Pilot(
                0.0 if mean is None else mean, sd, None, correlation, each, None, "what was stated"
            )
        elif like is not None:
            pilot = pilot_of_comparison(
                like if isinstance(like, Comparison) else self.load(like), decides
            )
        else:
            pilot = pilot_of_log(self._access, decides, since)
        return planned(
            decides,
            effect,
            pilot,
            arms=arms,
            level=level,
            power=power,
            sequential=sequential,
            equivalence=equivalence,
            group_size=group_size,
            group_correlation=group_correlation,
        )

    def evaluate_offline(
        self,
        strategy: Any,
        *,
        since: str | datetime | timedelta | None = "30d",
        until: str | datetime | timedelta | None = None,
        scorer: str | None = None,
        experiment: str | None = None,
        limit: int = 20_000,
        level: float = 0.95,
        clip: float | None = None,
    ) -> OfflineEvaluation:
        """Tell what a strategy would have cost, how fast and how good it would have been, without a call.

        It looks at the calls that the router chose for, with the probability of each choice (the more
        `epsilon` explored, the more the log can say), and asks the strategy what it would have chosen:
        as the models, rules and latencies are now. Doubly robust estimates, with intervals, and a refusal where
        the log can't say.

        Args:
            strategy: a strategy, a model, a load balancer, or an arm as in `lab.compare`.
            scorer: whose scores are the quality; None: anybody's latest.
            experiment: calls of this experiment's label only.
            limit: the latest so many calls.
            clip: the largest weight of a call; None: as they are.

        Raises:
            InvalidRequestError: the strategy means nothing.
        """
        runtime = self._access.ready()
        window = window_of(since, until)
        return runtime.thread.run(
            evaluate_strategies,
            self._access,
            runtime,
            {"": strategy},
            window,
            scorer,
            experiment,
            limit,
            level,
            clip,
        )[""]

    async def aevaluate_offline(self, strategy: Any, **options: Any) -> OfflineEvaluation:
        """Tell what a strategy would have done: the async twin of `evaluate_offline`."""
        given = {
            "since": "30d", "until": None, "scorer": None, "experiment": None, "limit": 20_000,
            "level": 0.95, "clip": None, **options,
        }  # fmt: skip
        runtime = await asyncio.to_thread(self._access.ready)
        window = window_of(given["since"], given["until"])
        found = await runtime.thread.arun(
            evaluate_strategies,
            self._access,
            runtime,
            {"": strategy},
            window,
            given["scorer"],
            given["experiment"],
            given["limit"],
            given["level"],
            given["clip"],
        )
        return found[""]

    def recommend(
        self,
        strategies: Mapping[str, Any] | Sequence[Any] | None = None,
        *,
        objective: str = "cost_usd",
        guard: str | None = None,
        margin: float = 0.02,
        since: str | datetime | timedelta | None = "30d",
        until: str | datetime | timedelta | None = None,
        scorer: str | None = None,
        experiment: str | None = None,
        limit: int = 20_000,
        level: float = 0.95,
        power: float = 0.8,
    ) -> Recommendation:
        """Search strategies in the log, and propose one to confirm by a live comparison, with its plan.

        Args:
            strategies: to look at, as in `lab.compare`; default: the built-in ones, each model alone,
                and trained routers at several thresholds.
            objective: what is to get better.
            guard: what must not get worse by `margin` or more; default: `score` where answers were
                scored, else `error_rate`; nothing where quality itself is the objective.

        Intervals hold together over all that was looked at.

        Raises:
            InvalidRequestError: a strategy means nothing.
        """
        runtime = self._access.ready()
        aim = metric_of(objective)
        models = [m.id for m in runtime.catalog if m.unavailable is None and not m.is_embedding]
        if strategies is None:
            routers = runtime.thread.run(runtime.routers.stored)
            specs: dict[str, Any] = strategies_to_try(runtime.strategies.names(), models, routers)
        elif isinstance(strategies, Mapping):
            specs = {str(name): spec for name, spec in strategies.items()}
        else:
            specs = {arm_of(runtime, None, spec).name: spec for spec in strategies}
        if not specs:
            raise InvalidRequestError("there is no strategy to look at")
        together = simultaneous_level(level, len(specs))
        found = runtime.thread.run(
            evaluate_strategies,
            self._access,
            runtime,
            specs,
            window_of(since, until),
            scorer,
            experiment,
            limit,
            together,
            None,
        )
        told = {v.metric.name for one in found.values() for v in one.values}
        if guard is None and objective != "score":
            guard = "score" if "score" in told else "error_rate"
        held = None if guard is None or guard == objective else metric_of(guard)
        chosen, why_not = chosen_of(found, aim, held, margin)
        plan = None
        if chosen is not None and aim.summary is Summary.MEAN:
            change = found[chosen][objective].change
            assert change is not None  # noqa: S101
            with contextlib.suppress(InvalidRequestError):
                plan = self.plan(
                    abs(change.value or 0.0), metric=objective, level=level, power=power,
                    since="30d" if not isinstance(since, str) else since,
                )  # fmt: skip
        return Recommendation(aim, held, margin, found, specs, chosen, plan, why_not)

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
        outcomes = await store.outcomes(design)
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
        offsets_s: Sequence[float] | None,
    ) -> None:
        self._offsets_s = offsets_s
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
                offsets_s=self._offsets_s,
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
