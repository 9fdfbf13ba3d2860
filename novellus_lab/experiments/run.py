"""Running an experiment: ask, keep, look, stop when it is decided."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from novellus_lab.errors import NovellusError, StoreError
from novellus_lab.experiments.comparison import Ending, decided
from novellus_lab.experiments.trial import Outcome, Trial

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from novellus_lab.experiments.arms import Arm
    from novellus_lab.experiments.design import Design
    from novellus_lab.experiments.judge import Judge
    from novellus_lab.experiments.observation import Observation
    from novellus_lab.experiments.scorers import Scorer
    from novellus_lab.experiments.store import ExperimentStore
    from novellus_lab.experiments.trial import Ask
    from novellus_lab.experiments.workload import Item

R = TypeVar("R")

logger = logging.getLogger("novellus_lab.experiments")

_KEEP_AT_ONCE = 50
_BLOCKS = 4
"""Of a trace: in each, every arm takes its turn."""
_LOOKS = 100
"""How often, at most, a running comparison is looked at."""


async def run_experiment(
    design: Design,
    *,
    arms: Sequence[Arm],
    items: Sequence[Item],
    asks: Mapping[str, Ask],
    common: Mapping[str, Any],
    scorer: Scorer | Judge | None,
    ask_judge: Ask,
    store: ExperimentStore,
    max_concurrency: int,
    budget: Callable[[], AbstractContextManager[Any]],
    flush: Callable[[], Any],
    on_outcome: Callable[[Outcome], None],
    on_look: Callable[[R], None] | None,
    kind: str,
    result: Callable[[Design, tuple[Outcome, ...], Ending], R],
    told: Callable[[R], str],
    done: Sequence[Outcome] = (),
    offsets_s: Sequence[float] | None = None,
) -> R:
    """Ask all items in all arms and say what came of it.

    What was observed is kept as it comes: whatever ends this, nothing that was paid for is lost.

    Args:
        budget: makes the block that the calls are held to.
        flush: returns when the log holds all calls.
        on_outcome: hears of each item, on this loop.
        on_look: hears how it stands, now and then, on a thread of its own.
        kind: of the experiment, as `ai_experiments` names it.
        result: makes of all outcomes what is returned; `told` says it in words.
        done: outcomes of an earlier start, not asked again.
        offsets_s: when each item arrives; None: as soon as there is room.

    Raises:
        InvalidRequestError, StoreUnavailableError
    """
    await store.begin(design.id, design.name, design.label, kind, design.told())
    trial = Trial(
        experiment=design.label,
        arms=arms,
        asks=asks,
        common=common,
        scorer=scorer,
        ask_judge=ask_judge,
        seed=design.seed,
    )
    outcomes: list[Outcome] = list(done)
    finished = {outcome.number for outcome in done}
    left = [(number, item) for number, item in enumerate(items) if number not in finished]
    unkept: list[Outcome] = []
    every = max(1, len(items) // _LOOKS)
    looking: set[asyncio.Task[None]] = set()
    being_kept: set[asyncio.Task[None]] = set()
    over = False
    keeping = asyncio.Lock()

    async def keep() -> None:
        async with keeping:
            some, unkept[:] = list(unkept), []
            try:
                await store.observe(design.id, _rows(some), design.scorer)
            except StoreError:
                unkept[:0] = some  # with the rest, later
                raise

    def heard(outcome: Outcome) -> None:
        nonlocal over
        outcomes.append(outcome)
        unkept.append(outcome)
        with contextlib.suppress(Exception):  # showing it must cost nobody an answer
            on_outcome(outcome)
        if len(outcomes) % every == 0 or len(outcomes) == len(items):
            if design.sequential and not over and decided(design, outcomes):
                over = True
                trial.stop()
            if on_look is not None and not looking:
                _start(_look(on_look, result, design, tuple(outcomes)), looking)
        if len(unkept) >= _KEEP_AT_ONCE and not keeping.locked():
            _start(_quietly(keep()), being_kept)

    status, verdict = "failed", None
    try:
        with budget():
            if offsets_s is None:
                await trial.run(left, max_concurrency=max_concurrency, on_outcome=heard)
            else:
                await trial.run_at(left, offsets_s, blocks=_BLOCKS, on_outcome=heard)
        outcomes[:] = await _with_costs_of_failed(design, outcomes, store, flush)
        unkept[:] = outcomes if any(not _all_ok(o) for o in outcomes) else unkept
        ending = Ending.OUT_OF_MONEY if trial.out_of_money else Ending.WHOLE
        ending = Ending.DECIDED if over and len(outcomes) < len(items) else ending
        came = await asyncio.to_thread(result, design, tuple(outcomes), ending)
        status, verdict = "done" if len(outcomes) == len(items) or over else "stopped", told(came)
        return came
    except asyncio.CancelledError:
        status = "stopped"
        raise
    finally:
        await _finish(design, status, verdict, keep, store)


async def _finish(
    design: Design,
    status: str,
    verdict: str | None,
    keep: Callable[[], Any],
    store: ExperimentStore,
) -> None:
    try:
        async with asyncio.timeout(10):
            await keep()
            await store.end(design.id, status, verdict)
    except (NovellusError, TimeoutError) as error:
        logger.warning("experiment %r: not all of it could be kept: %s", design.name, error)


async def _with_costs_of_failed(
    design: Design, outcomes: list[Outcome], store: ExperimentStore, flush: Callable[[], Any]
) -> list[Outcome]:
    """A call that failed may have cost something; its row in the log says what."""
    if all(map(_all_ok, outcomes)):
        return outcomes
    try:
        await flush()
        since = min(seen.started_at for o in outcomes for seen in o.observations)
        costs = await store.costs_of_failed(design.label, since)
    except (NovellusError, TimeoutError) as error:
        logger.warning("what failed calls cost can't be read: %s", error)
        return outcomes

    def known(seen: Observation) -> Observation:
        found = None if seen.status != "error" else costs.get((seen.item_id, seen.arm))
        return seen if found is None else replace(seen, cost_usd=found[0], request_id=found[1])

    return [Outcome(o.number, tuple(map(known, o.observations))) for o in outcomes]


def _all_ok(outcome: Outcome) -> bool:
    return all(seen.ok for seen in outcome.observations)


def _rows(outcomes: Sequence[Outcome]) -> list[tuple[int, Observation]]:
    return [(o.number, seen) for o in outcomes for seen in o.observations]


def _start(work: Any, tasks: set[asyncio.Task[None]]) -> None:
    task = asyncio.create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)


async def _quietly(work: Any) -> None:
    try:
        await work
    except NovellusError as error:
        logger.warning("observations wait to be kept: %s", error)


async def _look(
    on_look: Callable[[R], None],
    result: Callable[[Design, tuple[Outcome, ...], Ending], R],
    design: Design,
    outcomes: tuple[Outcome, ...],
) -> None:
    try:
        await asyncio.to_thread(lambda: on_look(result(design, outcomes, Ending.RUNNING)))
    except Exception:
        logger.exception("the experiment could not be shown")
