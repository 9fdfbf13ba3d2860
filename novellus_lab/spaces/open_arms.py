"""The arms of an experiment, ready to be asked."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from novellus_lab.experiments.arms import Arm
    from novellus_lab.experiments.trial import Ask
    from novellus_lab.pipeline.runtime import Runtime
    from novellus_lab.queue.queue import JobQueue


@dataclass(frozen=True, slots=True)
class LabAccess:
    """What experiments need of a lab."""

    live: Callable[[], Runtime]
    ready: Callable[[], Runtime]
    """The same, when all calls made so far are in PostgreSQL; it waits."""
    ask_item: Callable[[Runtime], Ask]
    """Makes of a runtime what sends a call."""
    open_config: Callable[[Any], Runtime]
    """Opens another configuration on the same database; who asked closes it."""
    jobs: Callable[[], JobQueue]


@asynccontextmanager
async def open_arms(
    access: LabAccess, runtime: Runtime, label: str, arms: Sequence[Arm], queue: bool | str
) -> AsyncIterator[tuple[list[Arm], dict[str, Ask]]]:
    """Register the strategies of arms, open their configurations; yield arms, and how each is asked.

    Args:
        queue: whether workers make the calls, or the name of their queue.

    Raises:
        NoWorkerError: with `queue`, and no worker serves it.
        ConfigurationError: an arm's configuration is wrong.
    """
    usual: Ask = access.ask_item(runtime)
    if queue is not False:
        from novellus_lab.experiments.queued_ask import QueuedAsk

        queued = QueuedAsk(access.jobs(), queue if isinstance(queue, str) else "default")
        await queued.expect_worker()
        usual = queued
    opened: list[Runtime] = []
    asks: dict[str, Ask] = {}
    ready: list[Arm] = []
    try:
        for arm in arms:
            on, asks[arm.name] = runtime, usual
            if arm.config is not None:
                on = await asyncio.to_thread(access.open_config, arm.config)
                opened.append(on)
                asks[arm.name] = _beside(on, access.ask_item(on))
            if arm.balancer is None:
                ready.append(arm)
                continue
            name = f"{arm.name} of {label}".replace(":", " -")
            on.strategies.register(name, arm.balancer)
            on.intake.forget()
            arguments = {**arm.arguments, "model_selection_strategy": name}
            ready.append(replace(arm, arguments=arguments, balancer=None))
        yield ready, asks
    finally:
        for other in opened:
            await asyncio.to_thread(other.close)


def _beside(other: Runtime, ask: Ask) -> Ask:
    """Calls of an arm with a configuration of its own run on that configuration's loop."""

    async def call(arguments: dict[str, Any]) -> Any:
        return await other.thread.arun(_awaited, ask, arguments)

    return call


async def _awaited(ask: Callable[[dict[str, Any]], Awaitable[Any]], call: dict[str, Any]) -> Any:
    return await ask(call)
