"""Asking every item in every arm: interleaved in time, within a number of dollars, stoppable."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from random import Random
from typing import TYPE_CHECKING, Any

from novellus_lab.errors import BudgetError, InvalidRequestError, NovellusError, ProviderError
from novellus_lab.experiments.judge import Judge
from novellus_lab.experiments.observation import Observation, felt_latency_ms
from novellus_lab.experiments.scorers import Score

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from novellus_lab.experiments.arms import Arm
    from novellus_lab.experiments.scorers import Scorer
    from novellus_lab.experiments.workload import Item
    from novellus_lab.types import Completion

    Ask = Callable[[dict[str, Any]], Awaitable[Completion]]

logger = logging.getLogger("novellus_lab.experiments")

ITEM_TAG = "item"
"""Of the calls of a trial, the tag that names the item."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One item, asked in all arms, in the order of the arms. Only whole ones are compared."""

    number: int
    observations: tuple[Observation, ...]

    @property
    def whole(self) -> bool:
        return all(seen.status != "unfinished" for seen in self.observations)


class Trial:
    """Asks the items of a workload.

    Each item is asked in all arms one after the other, in an order that is drawn anew for each item:
    what changes at a provider during the trial changes for all arms alike. Several items are under
    way at once.

    Args:
        experiment: under which name the calls are logged; arms of one experiment share no cache
            entries.
        asks: by arm, what sends a call.
        common: arguments of all calls; an arm's own and an item's own win, in this order.
        scorer: of single answers, or a `Judge` of pairs (against the first arm), or None.
        ask_judge: what the judge's calls are sent with.
        seed: of the order of arms.
    """

    def __init__(
        self,
        *,
        experiment: str,
        arms: Sequence[Arm],
        asks: Mapping[str, Ask],
        common: Mapping[str, Any],
        scorer: Scorer | Judge | None,
        ask_judge: Ask,
        seed: int,
    ) -> None:
        self._experiment = experiment
        self._arms = tuple(arms)
        self._asks = asks
        self._common = dict(common)
        self._scorer = scorer
        self._ask_judge = ask_judge
        self._seed = seed
        self._out_of_money: BudgetError | None = None
        self._stopped = False

    @property
    def out_of_money(self) -> BudgetError | None:
        """What refused a call for want of money, if anything did."""
        return self._out_of_money

    def stop(self) -> None:
        """Begin no further item; those under way are brought to their end."""
        self._stopped = True

    async def run(
        self,
        items: Sequence[tuple[int, Item]],
        *,
        max_concurrency: int,
        on_outcome: Callable[[Outcome], None],
    ) -> None:
        """Ask numbered items in their order; `on_outcome` hears of each as it is done, on this loop.

        Raises:
            InvalidRequestError: a call's arguments are wrong, or a scorer can't score this.
        """
        if isinstance(max_concurrency, bool) or max_concurrency < 1:
            raise InvalidRequestError(
                f"max_concurrency must be a whole number above 0, not {max_concurrency!r}"
            )
        waiting = iter(items)

        async def worker() -> None:
            for number, item in waiting:
                if self._stopped or self._out_of_money is not None:
                    return
                on_outcome(await self._item(number, item))

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(max_concurrency, len(items))):
                    group.create_task(worker())
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from None

    async def run_at(
        self,
        items: Sequence[tuple[int, Item]],
        offsets_s: Sequence[float],
        *,
        blocks: int,
        on_outcome: Callable[[Outcome], None],
    ) -> None:
        """Ask each item at its time, whether or not earlier ones were answered.

        Arms under the same load can't run at once: the trace is cut into blocks, and within each every
        arm goes through the block alone, in an order drawn anew.

        Args:
            offsets_s: of each item, seconds from the first.

        Raises:
            InvalidRequestError: as `run`.
        """
        size = max(1, -(-len(items) // max(1, blocks)))
        for start in range(0, len(items), size):
            if self._stopped or self._out_of_money is not None:
                return
            block = list(
                zip(items[start : start + size], offsets_s[start : start + size], strict=True)
            )
            order = list(range(len(self._arms)))
            Random(f"{self._seed}/block {start}").shuffle(order)
            seen: dict[int, dict[int, Observation]] = {}
            answers: dict[int, dict[int, Completion]] = {}
            for turn, place in enumerate(order):
                await self._block(block, self._arms[place], place, turn, seen, answers)
            for (number, item), _ in block:
                if isinstance(self._scorer, Judge):
                    await self._judge(self._scorer, item, seen[number], answers.get(number, {}))
                of_item = tuple(seen[number][place] for place in range(len(self._arms)))
                on_outcome(Outcome(number, of_item))

    async def _block(
        self,
        block: Sequence[tuple[tuple[int, Item], float]],
        arm: Arm,
        place: int,
        turn: int,
        seen: dict[int, dict[int, Observation]],
        answers: dict[int, dict[int, Completion]],
    ) -> None:
        async def ask(number: int, item: Item) -> None:
            observation, answer = await self._ask(item, arm, turn)
            if answer is not None:
                answers.setdefault(number, {})[place] = answer
                observation = await self._scored(item, answer, observation)
            seen.setdefault(number, {})[place] = observation

        loop = asyncio.get_running_loop()
        began, first = loop.time(), block[0][1]
        try:
            async with asyncio.TaskGroup() as group:
                for (number, item), offset in block:
                    await asyncio.sleep(max(0.0, began + offset - first - loop.time()))
                    if self._out_of_money is not None:
                        unfinished = self._unfinished(item, arm, turn)
                        seen.setdefault(number, {})[place] = unfinished
                        continue
                    group.create_task(ask(number, item))
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from None

    async def _item(self, number: int, item: Item) -> Outcome:
        order = list(range(len(self._arms)))
        Random(f"{self._seed}/{item.id}").shuffle(order)
        seen: dict[int, Observation] = {}
        answers: dict[int, Completion] = {}
        for turn, place in enumerate(order):
            arm = self._arms[place]
            if self._out_of_money is not None:
                seen[place] = self._unfinished(item, arm, turn)
                continue
            observation, answer = await self._ask(item, arm, turn)
            if answer is not None:
                answers[place] = answer
                observation = await self._scored(item, answer, observation)
            seen[place] = observation
        if isinstance(self._scorer, Judge):
            await self._judge(self._scorer, item, seen, answers)
        return Outcome(number, tuple(seen[place] for place in range(len(self._arms))))

    async def _ask(self, item: Item, arm: Arm, turn: int) -> tuple[Observation, Completion | None]:
        arguments = {"use_cache": False, **self._common, **arm.arguments, **item.arguments}
        tags = {**(arguments.pop("tags", None) or {}), ITEM_TAG: item.id}
        call = {
            **arguments,
            "messages": [dict(message) for message in item.messages],
            "experiment": self._experiment,
            "arm": arm.name,
            "tags": tags,
        }
        started_at, started = datetime.now(UTC), time.perf_counter()
        common: dict[str, Any] = {
            "item_id": item.id,
            "group": item.group,
            "arm": arm.name,
            "turn": turn,
            "started_at": started_at,
        }
        try:
            answer = await self._asks[arm.name](call)
        except BudgetError as refused:
            self._out_of_money = self._out_of_money or refused
            return self._unfinished(item, arm, turn), None
        except InvalidRequestError as wrong:
            if not isinstance(wrong, ProviderError):
                wrong.add_note(f"item {item.id!r}, arm {arm.name!r}")
                raise  # the same for every item: nothing is learned by going on
            return self._failed(common, wrong, started), None
        except NovellusError as error:
            return self._failed(common, error, started), None
        route = answer.route
        return (
            Observation(
                **common,
                status="ok",
                model=answer.model,
                provider=answer.provider,
                cache=answer.cache.value,
                hit=answer.cache.hit,
                cost_usd=answer.cost,
                latency_ms=felt_latency_ms(answer),
                ttft_ms=answer.ttft_ms,
                input_tokens=answer.usage.input_tokens,
                output_tokens=answer.usage.output_tokens,
                propensity=None if route is None else route.propensity,
                request_id=answer.request_id,
                content=answer.content,
            ),
            answer,
        )

    def _failed(self, common: dict[str, Any], error: Exception, started: float) -> Observation:
        return Observation(
            **common,
            status="error",
            error_class=type(error).__name__,
            error_message=str(error)[:500],
            latency_ms=(time.perf_counter() - started) * 1000,
            # An answer that did not come is no good answer.
            score=None if self._scorer is None or isinstance(self._scorer, Judge) else 0.0,
            score_reason=None if self._scorer is None else "no answer",
        )

    def _unfinished(self, item: Item, arm: Arm, turn: int) -> Observation:
        return Observation(
            item_id=item.id,
            group=item.group,
            arm=arm.name,
            turn=turn,
            started_at=datetime.now(UTC),
            status="unfinished",
        )

    async def _scored(
        self, item: Item, answer: Completion, observation: Observation
    ) -> Observation:
        if self._scorer is None or isinstance(self._scorer, Judge):
            return observation
        try:
            score = await self._scorer.score(item, answer)
        except NovellusError:
            raise
        except Exception as error:
            logger.exception("the scorer %r failed on item %r", self._scorer.name, item.id)
            score = Score(None, f"the scorer failed: {type(error).__name__}: {error}"[:300])
        return replace(
            observation,
            score=score.value,
            score_reason=score.reason,
            scoring_cost_usd=score.cost_usd,
        )

    async def _judge(
        self,
        judge: Judge,
        item: Item,
        seen: dict[int, Observation],
        answers: dict[int, Completion],
    ) -> None:
        """The control scores 0.5, the others what they are preferred by; no answer loses."""
        if any(observation.status == "unfinished" for observation in seen.values()):
            return
        free = Decimal(0)
        seen[0] = replace(
            seen[0],
            score=0.5,
            score_reason="what the others are judged against",
            scoring_cost_usd=free,
        )
        for place in range(1, len(self._arms)):
            if place not in answers or 0 not in answers:
                value = 0.5 if (place in answers) == (0 in answers) else float(place in answers)
                seen[place] = replace(
                    seen[place], score=value, score_reason="no answer", scoring_cost_usd=free
                )
                continue
            preference = await judge.prefer(item, answers[0], answers[place], self._ask_judge)
            seen[place] = replace(
                seen[place],
                score=preference.value,
                score_reason=preference.reason,
                scoring_cost_usd=preference.cost_usd,
            )
