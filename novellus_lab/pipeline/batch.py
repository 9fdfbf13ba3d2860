"""Many requests at once, bounded, with results in order and errors in their places."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from novellus_lab.errors import InvalidRequestError, NovellusError
from novellus_lab.types import BatchFailure, Completion

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    Result = Completion | BatchFailure


async def run_batch(
    ask: Callable[[dict[str, Any]], Awaitable[Completion]],
    items: Sequence[dict[str, Any]],
    max_concurrency: int,
    on_result: Callable[[Result], None],
) -> list[Result]:
    """Ask every item, at most `max_concurrency` at a time.

    A failed item becomes a `BatchFailure` in its place; cancelling cancels all that are under way.
    """
    results: list[Result | None] = [None] * len(items)
    positions = iter(range(len(items)))

    async def worker() -> None:
        for index in positions:
            try:
                result: Result = await ask(items[index])
            except NovellusError as error:
                result = BatchFailure(error, index)
            results[index] = result
            on_result(result)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(max_concurrency, len(items))):
            group.create_task(worker())
    return results  # type: ignore[return-value]


def batch_items(prompts: Any, common: dict[str, Any]) -> list[dict[str, Any]]:
    """Turn prompts, message lists and argument dicts into keyword arguments of a call each.

    Raises:
        InvalidRequestError: an item is none of the three.
    """
    if isinstance(prompts, (str, bytes, dict)) or not hasattr(prompts, "__iter__"):
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
