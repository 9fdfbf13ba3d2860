"""`lab.router`: why a model is chosen, which strategies there are, and routers that learn."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Unpack, cast, overload
from uuid import UUID

import orjson

from novellus_lab.errors import InvalidRequestError, MissingDependencyError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from novellus_lab.lab import CallArguments
    from novellus_lab.pipeline.explanation import Explanation
    from novellus_lab.pipeline.runtime import Runtime
    from novellus_lab.pipeline.trained_routers import StoredRouter
    from novellus_lab.routing.answer_checks import Check
    from novellus_lab.routing.learned import TrainedRouter

    T = TypeVar("T")

logger = logging.getLogger("novellus_lab.routing")


class StrategyList(dict[str, str]):
    """One line for each strategy, by name. Shows itself as a table."""

    def _repr_html_(self) -> str:
        from novellus_lab.display import table_html

        return table_html(("strategy", "how it chooses"), self.items())


class RouterList(tuple["StoredRouter", ...]):
    """The trained routers, the newest of each name. Shows itself as a table."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        from novellus_lab.display import table_html

        rows = [
            (
                router.name,
                f"{router.weak_model} / {router.strong_model}",
                f"{router.outcomes:,}",
                router.learner,
                f"{router.apgr:.3f} [{router.apgr_low:.3f}, {router.apgr_high:.3f}]"
                + ("" if router.informative else ", no better than chance"),
                f"{router.trained_at:%Y-%m-%d %H:%M}",
            )
            for router in self
        ]
        header = ("router", "weak / strong", "outcomes", "learner", "APGR", "trained")
        return table_html(header, rows, ("APGR 0.5 is a coin",))


class LabRouter:
    """How a lab chooses among models. What waits has an async twin: `aexplain`, `atrain`, …"""

    def __init__(self, live: Callable[[], Runtime]) -> None:
        self._live = live

    def __repr__(self) -> str:
        return "lab.router: explain, strategies, register, register_check, train, routers, trained"

    # --- choices -----------------------------------------------------------------------------

    def explain(
        self, prompt: str | None = None, *, stream: bool = False, **arguments: Unpack[CallArguments]
    ) -> Explanation:
        """Tell how a request would be routed: rules, candidates, probabilities, expected costs.

        Nothing is sent, logged or changed: no turn of `round_robin` is taken, no lot drawn. Same
        arguments as `lab.complete`.

        Raises:
            InvalidRequestError: an argument is wrong.
            UnknownModelError, UnknownStrategyError
        """
        runtime = self._live()
        question = runtime.intake.question(prompt, arguments, stream=stream)
        return runtime.thread.run(runtime.pipeline.explain, question)

    async def aexplain(
        self, prompt: str | None = None, *, stream: bool = False, **arguments: Unpack[CallArguments]
    ) -> Explanation:
        """Tell how a request would be routed: the async twin of `explain`."""
        runtime = self._live()
        question = runtime.intake.question(prompt, arguments, stream=stream)
        return await runtime.thread.arun(runtime.pipeline.explain, question)

    def strategies(self) -> StrategyList:
        """Return one line for each strategy, by the name that selects it."""
        return StrategyList(self._live().strategies.summaries())

    @overload
    def register(self, name: str, strategy: T) -> T: ...
    @overload
    def register(self, name: str) -> Callable[[T], T]: ...

    def register(self, name: str, strategy: Any = None) -> Any:
        """Make a strategy of yours known by a name; also as a decorator, `@lab.router.register("mine")`.

        For names in a YAML it must be known when the lab opens: `Lab(strategies={"mine": Mine})`, an
        entry point of the group `novellus_lab.strategies`, or `strategy: package.module:Class`.

        Args:
            name: for `model_selection_strategy=`; not a built-in one's.
            strategy: a subclass of `ModelLoadBalancer`, an instance of one, or a function with the
                arguments of `select_model`.

        Raises:
            InvalidRequestError: the name is taken by a built-in strategy, or it is no strategy.
        """
        if strategy is None:
            return lambda decorated: self.register(name, decorated)
        runtime = self._live()
        runtime.strategies.register(name, strategy)
        runtime.intake.forget()
        return strategy

    @overload
    def register_check(self, name: str, check: Check) -> Check: ...
    @overload
    def register_check(self, name: str) -> Callable[[Check], Check]: ...

    def register_check(self, name: str, check: Any = None) -> Any:
        """Make a check of answers known to `cascade` by a name; also as a decorator.

        Args:
            check: takes an `Answer` (content, prompt, model_id, finish_reason, tool_calls, params);
                returns None or True where it is good enough, else False or why not.
        """
        if check is None:
            return lambda decorated: self.register_check(name, decorated)
        runtime = self._live()
        runtime.strategies.register_check(name, check)
        runtime.intake.forget()
        return check

    # --- routers that learn ------------------------------------------------------------------

    def train(
        self,
        outcomes: Any,
        *,
        weak: str,
        strong: str,
        name: str = "default",
        embed: bool = True,
        folds: int = 5,
        seed: int = 0,
    ) -> TrainedRouter:
        """Learn for which prompts the strong model is worth its price, and keep that under a name.

        Strategy `learned` routes by it, in this process and in all others on this database:
        `strategy: learned` with `options: {router: default, strong_share: 0.3}` (or `min_quality`,
        `threshold`, `value_usd`).

        Args:
            outcomes: rows (dicts, or a Polars or pandas frame) with `prompt`, `weak` and `strong`: the
                quality of either answer, 0 to 1; one may be missing. Or thumbs: rows with
                `request_id` of a logged call and `quality`; prompt, model and propensity are then
                taken from the log.
            weak, strong: model ids.
            name: of the router; the newest of a name is used.
            embed: also try features of an embedding (needs `novellus_lab[semantic]`, else without).
                Routing then embeds prompts only if that was found to be better.
            folds, seed: of cross-validation.

        Raises:
            InvalidRequestError: outcomes that nothing can be learned from.
            UnknownModelError: `weak` or `strong` is not configured.
            MissingDependencyError: scikit-learn is not installed.
            StoreUnavailableError: the router can't be kept.
        """
        runtime = self._live()
        weak_id, strong_id = _pair(runtime, weak, strong, name)
        rows = _rows(outcomes)
        if _by_request(rows):
            rows = runtime.thread.run(_from_log, runtime, rows, weak_id, strong_id)
        router = _trained(runtime, rows, weak_id, strong_id, name, embed, folds, seed)
        runtime.thread.run(runtime.routers.save, name, router)
        return router

    async def atrain(
        self,
        outcomes: Any,
        *,
        weak: str,
        strong: str,
        name: str = "default",
        embed: bool = True,
        folds: int = 5,
        seed: int = 0,
    ) -> TrainedRouter:
        """Learn from outcomes, in a thread: the async twin of `train`."""
        return await asyncio.to_thread(
            self.train,
            outcomes,
            weak=weak,
            strong=strong,
            name=name,
            embed=embed,
            folds=folds,
            seed=seed,
        )

    def routers(self) -> RouterList:
        """Return the trained routers, the newest of each name.

        Raises:
            StoreUnavailableError: the database does not answer.
        """
        runtime = self._live()
        return RouterList(runtime.thread.run(runtime.routers.stored))

    async def arouters(self) -> RouterList:
        """Return the trained routers: the async twin of `routers`."""
        runtime = self._live()
        return RouterList(await runtime.thread.arun(runtime.routers.stored))

    def trained(self, name: str = "default") -> TrainedRouter:
        """Return a trained router: its `summary`, its `curve` of cost and quality, its predictions.

        Raises:
            InvalidRequestError: none of that name was trained.
        """
        runtime = self._live()
        runtime.thread.run(runtime.routers.ensure, name)
        router = runtime.routers.get(name)
        if router is None:
            raise InvalidRequestError(f"no router {name!r} was trained; see lab.router.routers()")
        return router


def _pair(runtime: Runtime, weak: str, strong: str, name: str) -> tuple[str, str]:
    if not isinstance(name, str) or not name:
        raise InvalidRequestError(f"a router's name must be a non-empty text, not {name!r}")
    pair = runtime.catalog.get(weak).id, runtime.catalog.get(strong).id
    if pair[0] == pair[1]:
        raise InvalidRequestError(f"weak and strong are both {pair[0]}: two models are needed")
    return pair


def _rows(outcomes: Any) -> list[Any]:
    if hasattr(outcomes, "iter_rows"):  # Polars
        return list(outcomes.iter_rows(named=True))
    if hasattr(outcomes, "to_dict"):  # pandas
        return cast("list[Any]", outcomes.to_dict("records"))
    if isinstance(outcomes, (str, bytes, Mapping)) or not isinstance(outcomes, Iterable):
        raise InvalidRequestError(
            f"outcomes must be rows (dicts) or a frame, not a {type(outcomes).__name__}"
        )
    return list(outcomes)


def _by_request(rows: list[Any]) -> bool:
    return bool(rows) and all(
        isinstance(row, Mapping) and "request_id" in row and "prompt" not in row for row in rows
    )


def _trained(
    runtime: Runtime,
    rows: list[Any],
    weak: str,
    strong: str,
    name: str,
    embed: bool,
    folds: int,
    seed: int,
) -> TrainedRouter:
    from novellus_lab.routing.learned import train

    embedder = None
    if embed:
        try:
            embedder = runtime.routers.embedder()
        except MissingDependencyError as error:
            logger.info("trained without an embedding: %s", error)
    router = train(
        rows, embedder=embedder, weak_model=weak, strong_model=strong, folds=folds, seed=seed
    )
    if not router.summary.informative:
        logger.warning("router %r is no better than chance: don't route by it", name)
    return router


async def _from_log(
    runtime: Runtime, rows: list[Any], weak: str, strong: str
) -> list[dict[str, Any]]:
    """Turn ratings of logged calls into outcomes: each tells of the one model that answered."""
    import psycopg

    rated: dict[UUID, float] = {}
    for number, row in enumerate(rows):
        try:
            rated[UUID(str(row["request_id"]))] = float(row["quality"])
        except (KeyError, TypeError, ValueError):
            raise InvalidRequestError(
                f"outcomes[{number}] must have a request_id and a quality from 0 to 1, not {row!r:.100}"
            ) from None
    await asyncio.to_thread(runtime.log.flush)
    try:
        async with await psycopg.AsyncConnection.connect(
            runtime.conninfo, autocommit=True
        ) as connection:
            cursor = await connection.execute(
                b"SELECT id, messages, model, picked_model, propensity FROM public.ai_requests "
                b"WHERE id = ANY(%s) AND status = 'ok' AND kind = 'chat' AND messages IS NOT NULL",
                [list(rated)],
            )
            logged = await cursor.fetchall()
    except (psycopg.Error, OSError) as error:
        raise StoreUnavailableError(f"the log can't be read: {error}") from None
    outcomes = []
    for request_id, messages, model, picked, propensity in logged:
        if model not in (weak, strong):
            continue
        prompt = _last_user_text(messages)
        if not prompt:
            continue
        side = "weak" if model == weak else "strong"
        # An answer by failover, or from the cache, was not chosen with that probability.
        known = propensity if picked == model else None
        outcomes.append({"prompt": prompt, side: rated[request_id], "propensity": known or None})
    if not outcomes:
        raise InvalidRequestError(
            f"none of the {len(rated)} rated requests is in the log, with its content, as an answer of "
            f"{weak} or {strong}"
        )
    return outcomes


def _last_user_text(messages: Any) -> str:
    if isinstance(messages, (str, bytes)):
        messages = orjson.loads(messages)
    for message in reversed(messages or ()):
        if message.get("role") == "user":
            content = message.get("content")
            if isinstance(content, str):
                return content
            return "\n".join(p["text"] for p in content or () if p.get("type") == "text")
    return ""
