"""Many requests at once, bounded, with results in order and errors in their places."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from novellus_lab.errors import InvalidRequestError, NovellusError
from novellus_lab.types import BatchFailure, Completion

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    Result = Completion | BatchFailure

logger = logging.getLogger("novellus_lab")


async def run_batch(
    ask: Callable[[dict[str, Any]], Awaitable[Completion]],
    items: Sequence[dict[str, Any]],
    max_concurrency: int,
    on_result: Callable[[Result], None],
) -> list[Result]:
    """Ask every item, at most `max_concurrency` at a time.

    A failed item becomes a `BatchFailure` in its place; cancelling cancels all that are under way.
    Whatever goes wrong with one item, or with showing it, costs nobody the answers of the others.
    """
    results: list[Result | None] = [None] * len(items)
    positions = iter(range(len(items)))

    async def worker() -> None:
        for index in positions:
            try:
                result: Result = await ask(items[index])
            except NovellusError as error:
                result = BatchFailure(error, index)
            except Exception as error:
                logger.exception("batch[%d] met a defect", index)
                result = BatchFailure(_defect(error), index)
            results[index] = result
            try:
                on_result(result)
            except Exception:
                logger.debug("the batch's progress could not be shown", exc_info=True)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(max_concurrency, len(items))):
            group.create_task(worker())
    return results  # type: ignore[return-value]


def _defect(error: Exception) -> NovellusError:
    wrapped = NovellusError(f"a defect of novellus_lab or of what it calls: {type(error).__name__}")
    wrapped.__cause__ = error
    return wrapped


def batch_items(prompts: Any, common: dict[str, Any], max_concurrency: int) -> list[dict[str, Any]]:
    """Turn prompts, message lists and argument dicts into keyword arguments of a call each.

    Raises:
        InvalidRequestError: an item is none of the three, or `max_concurrency` is no such number.
    """
    if (
        isinstance(max_concurrency, bool)
        or not isinstance(max_concurrency, int)
        or max_concurrency < 1
    ):
        raise InvalidRequestError(
            f"max_concurrency must be a whole number above 0, not {max_concurrency!r}"
        )
    if isinstance(prompts, (str, bytes, dict, type)) or not hasattr(prompts, "__iter__"):
        raise InvalidRequestError(
            "batch takes a list: of prompts, of message lists, or of dicts of arguments"
        )
    items: list[dict[str, Any]] = []
    for index, item in enumerate(prompts):
        if isinstance(item, dict):
            items.append({**common, **item})
        elif isinstance(item, (list, tuple)):
            items.append({**common, "messages": item})
        elif isinstance(item, str):
            items.append({**common, "prompt": item})
        else:
            raise InvalidRequestError(
                f"batch[{index}] must be a prompt, a list of messages or a dict of arguments, not "
                f"a {type(item).__name__}"
            )
    return items
