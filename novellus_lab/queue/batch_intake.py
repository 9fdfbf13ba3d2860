"""What of a batch is to be handed to a provider: checked, looked for in the cache, put into words."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from novellus_lab.errors import BudgetError, InvalidRequestError, NovellusError
from novellus_lab.ids import uuid7
from novellus_lab.pipeline.asking import AskForAnswer
from novellus_lab.pipeline.question import build_question
from novellus_lab.pipeline.request import Request
from novellus_lab.queue.arguments import check_request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from novellus_lab.limits.budgets import Reservation
    from novellus_lab.pipeline.catalog import Model
    from novellus_lab.pipeline.pipeline import Plan
    from novellus_lab.pipeline.runtime import Runtime
    from novellus_lab.providers.batches import BatchApi, BatchLine
    from novellus_lab.types import Completion

    Leaders = Callable[[Collection[bytes]], Awaitable[Mapping[bytes, UUID]]]

_AT_ONCE = 200


@dataclass(slots=True)
class Draft:
    """One item on its way into a batch. It ends with an outcome, a leader, or a line."""

    position: int
    request_id: UUID = field(default_factory=uuid7)
    attempt_id: UUID = field(default_factory=uuid7)
    json: str | None = None
    response_model: type | None = None
    request: Request | None = None
    plan: Plan | None = None
    outcome: Completion | NovellusError | None = None
    """It is answered, or refused, already."""
    waits_for: UUID | None = None
    """An equal request that is under way."""
    line: BatchLine | None = None
    reservation: Reservation | None = None

    @property
    def model(self) -> Model:
        assert self.plan is not None  # noqa: S101  asked of drafts with a plan alone
        return self.plan.models[0]

    @property
    def key(self) -> bytes | None:
        return None if self.plan is None else self.plan.key

    @property
    def open(self) -> bool:
        return self.outcome is None and self.waits_for is None


@dataclass(frozen=True, slots=True)
class DraftedPart:
    """What goes to a provider in one piece."""

    model: Model
    drafts: tuple[Draft, ...]
    id: UUID = field(default_factory=uuid7)

    @property
    def left(self) -> DraftedPart | None:
        """What of it is still to be handed over."""
        drafts = tuple(one for one in self.drafts if one.open)
        return DraftedPart(self.model, drafts, self.id) if drafts else None

    @property
    def lines(self) -> list[BatchLine]:
        return [draft.line for draft in self.drafts if draft.line is not None]


async def draft(
    runtime: Runtime, items: Sequence[dict[str, Any]], asked_at: datetime, leaders: Leaders
) -> list[Draft]:
    """Turn arguments into drafts, in order. Nothing is sent; who is refused is logged as refused.

    Args:
        items: `Lab.complete`'s arguments, each.
        leaders: finds requests with such cache keys that are under way in other batches.

    Raises:
        InvalidRequestError: an item can't go into any batch: it names no model, or the provider
            has no batch API.
    """
    _check(items)
    drafts: list[Draft] = []
    for place, item in enumerate(items):
        drafts.append(_checked(runtime, place, item, asked_at))
        if place % 100 == 99:
            await asyncio.sleep(0)  # the loop is everybody's
    for model in {d.model.id: d.model for d in drafts if d.open}.values():
        runtime.catalog.provider(model).batches()  # raises, before anything is done
    await _look_up(runtime, drafts)
    await _join(drafts, leaders)
    for one in drafts:
        if one.open:
            _put_into_words(runtime, one)
            if one.position % 100 == 99:
                await asyncio.sleep(0)
    await _reserve(runtime, drafts)
    return drafts


def join_late(drafts: Sequence[Draft], leaders: Mapping[bytes, UUID]) -> None:
    """Let those wait, too, whose equals another process stored meanwhile; they reserve nothing."""
    moved: dict[UUID, UUID] = {}
    for one in drafts:
        leader = None if one.key is None or not one.open else leaders.get(one.key)
        if leader is not None and _shares(one):
            moved[one.request_id] = one.waits_for = leader
            give_back([one])
    for one in drafts:
        if one.waits_for is not None:
            one.waits_for = moved.get(one.waits_for, one.waits_for)


def parts_of(runtime: Runtime, drafts: Sequence[Draft]) -> list[DraftedPart]:
    """Put drafts with lines together, as many as a provider takes at once."""
    found: list[DraftedPart] = []
    groups: dict[tuple[str, str], list[Draft]] = {}
    for one in drafts:
        if one.open and one.line is not None:
            groups.setdefault((one.model.id, one.line.endpoint), []).append(one)
    for group in groups.values():
        model = group[0].model
        api = runtime.catalog.provider(model).batches()
        found += [DraftedPart(model, tuple(some)) for some in _cut(group, api)]
    return found


def _cut(group: Sequence[Draft], api: BatchApi) -> list[list[Draft]]:
    pieces: list[list[Draft]] = []
    size = 0
    for one in group:
        length = 1 + len(one.line.body) if one.line is not None else 0
        if not pieces or len(pieces[-1]) >= api.most_lines or size + length > api.most_bytes:
            pieces.append([])
            size = 0
        pieces[-1].append(one)
        size += length
    return pieces


def _check(items: Sequence[dict[str, Any]]) -> None:
    for place, item in enumerate(items):
        for name, why in _NOT_HERE.items():
            if item.get(name) is not None and item.get(name) is not False:
                raise InvalidRequestError(
                    f"batch[{place}]: a provider's batch takes no {name}: {why}"
                )
        if item.get("model_id") is None:
            raise InvalidRequestError(
                f"batch[{place}] names no model: a provider's batch is of one model, which is asked as "
                f"model_id"
            )


_NOT_HERE = {
    "timeout": "it ends within the provider's 24 hours; wait(timeout=…) says how long you wait",
    "stream": "its answers come whole",
    "model_selection_strategy": "the model is named by model_id",
}


def _checked(runtime: Runtime, place: int, item: dict[str, Any], asked_at: datetime) -> Draft:
    one = Draft(place)
    started = time.perf_counter()
    try:
        asked = check_request(runtime, item)
    except NovellusError as error:
        one.outcome = error
        return one
    one.json, one.response_model = asked.json, asked.response_model
    # The class that the caller named checks what comes from the cache, too.
    arguments = orjson.loads(asked.json)
    if asked.response_model is not None:
        arguments["response_format"] = asked.response_model
    question = build_question(**arguments)
    one.request = Request(question, one.request_id, asked_at, started, None)
    try:
        one.plan = runtime.pipeline.plan(question)
    except NovellusError as error:
        _refuse(runtime, one, error)
    return one


def _refuse(runtime: Runtime, one: Draft, error: NovellusError) -> None:
    one.outcome = error
    if one.request is not None:
        runtime.pipeline.refuse(one.request, error)


async def _look_up(runtime: Runtime, drafts: Sequence[Draft]) -> None:
    async def look(one: Draft) -> None:
        if one.request is not None and one.plan is not None:
            one.outcome = await runtime.pipeline.answer_from_cache(one.request, one.plan)

    wanted = [one for one in drafts if one.open and one.key is not None]
    for start in range(0, len(wanted), _AT_ONCE):
        await asyncio.gather(*(look(one) for one in wanted[start : start + _AT_ONCE]))


async def _join(drafts: Sequence[Draft], leaders: Leaders) -> None:
    """Let those wait whose equals are under way: in another batch, or earlier in this one."""
    wanted = [one for one in drafts if one.open and one.key is not None and _shares(one)]
    known = dict(await leaders({one.key for one in wanted if one.key is not None}))
    for one in wanted:
        assert one.key is not None  # noqa: S101
        leader = known.setdefault(one.key, one.request_id)
        if leader != one.request_id:
            one.waits_for = leader


def _shares(one: Draft) -> bool:
    assert one.request is not None  # noqa: S101  it has a plan
    policy = one.request.question.cache_policy
    return policy.reads and policy.writes


def _put_into_words(runtime: Runtime, one: Draft) -> None:
    assert one.request is not None  # noqa: S101  it is open
    question, model = one.request.question, one.model
    call = AskForAnswer(question.messages, question.params).call(model)
    try:
        one.line = runtime.catalog.provider(model).batches().line(one.request_id.hex, call)
    except NovellusError as error:
        _refuse(runtime, one, error)


async def _reserve(runtime: Runtime, drafts: Sequence[Draft]) -> None:
    if runtime.admission.budgets.idle:
        return

    async def reserve(one: Draft) -> None:
        assert one.request is not None  # noqa: S101  it is open
        try:
            one.reservation = await runtime.admission.reserve_in_batch(
                one.request.question, one.model, one.attempt_id
            )
        except NovellusError as error:
            if not isinstance(error, BudgetError):
                raise
            _refuse(runtime, one, error)

    wanted = [one for one in drafts if one.open]
    try:
        async with asyncio.TaskGroup() as group:
            for one in wanted:
                group.create_task(reserve(one))
    except BaseException as error:
        give_back(drafts)
        if isinstance(error, BaseExceptionGroup):
            raise error.exceptions[0] from None
        raise


def give_back(drafts: Sequence[Draft]) -> None:
    """Nothing was sent: give back what was reserved."""
    for one in drafts:
        reservation, one.reservation = one.reservation, None
        if reservation is not None:
            reservation.cancel()
