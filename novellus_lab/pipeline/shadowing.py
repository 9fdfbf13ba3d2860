"""Shadow calls: a share of the requests is also asked of another model, for comparison.

The caller sees and waits for nothing of it. A shadow is a request of its own in the log, with its own
answer and cost: its attempts have the role `shadow`, its tags say so and of which request it is. It is
asked after that request was answered, from no cache and into none, if there is room for it now.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from novellus_lab.cache.policy import CachePolicy
from novellus_lab.errors import ContextWindowExceededError, NoModelAvailableError, NovellusError
from novellus_lab.pipeline.pool import Pool
from novellus_lab.pipeline.question import PURPOSE_TAG
from novellus_lab.routing.rules import failing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from random import Random

    from novellus_lab.pipeline.admission import Admission
    from novellus_lab.pipeline.candidates import Candidates
    from novellus_lab.pipeline.catalog import Catalog, Model
    from novellus_lab.pipeline.question import Question
    from novellus_lab.pipeline.request import Request
    from novellus_lab.settings import Settings, ShadowSettings

    Ask = Callable[[Question, Model], Awaitable[None]]

logger = logging.getLogger("novellus_lab")

SHADOW = "shadow"
SHADOW_OF_TAG = "novellus.shadow_of"
"""Tag of a shadow: the id of the request that it is of."""
_NO_CACHE = CachePolicy(no_store=True)
_LEAVE_S = 5.0


@dataclass(slots=True)
class _Shadow:
    """One entry of `shadows`, and how it goes."""

    settings: ShadowSettings
    model: Model
    under_way: int = 0
    held_up: bool = False
    """Whether it was said that none can be asked; once is enough."""


class Shadows:
    """One per lab, on its loop.

    Args:
        ask: asks a shadow's question of its model, and logs it.
        lottery: of its own, so that the router's picks are as they were without shadows.
    """

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        candidates: Candidates,
        admission: Admission,
        ask: Ask,
        lottery: Random,
    ) -> None:
        models = ((entry, catalog.get(entry.model)) for entry in settings.shadows)
        self._shadows = [_Shadow(entry, m) for entry, m in models if m.unavailable is None]
        self._candidates = candidates
        self._admission = admission
        self._ask = ask
        self._lottery = lottery
        self._tasks: set[asyncio.Task[None]] = set()

    def after(self, request: Request, model_id: str) -> None:
        """A request was answered by a model: see later whether shadows are to be asked."""
        # Nothing of the caller's goes along: a shadow does not count in the budget of its block.
        asyncio.get_running_loop().call_soon(
            self._consider, request, model_id, context=contextvars.Context()
        )

    def _consider(self, request: Request, model_id: str) -> None:
        question = request.question
        if question.shadow is False or PURPOSE_TAG in question.tags:
            return
        for shadow in self._shadows:
            entry = shadow.settings
            drawn = question.shadow or self._lottery.random() < entry.share
            if not drawn or shadow.model.id == model_id:
                continue
            try:
                if failing(entry.conditions, question, datetime.now(UTC)) is None:
                    self._begin(shadow, question, request)
            except Exception:
                logger.exception("a shadow call could not be begun")

    def _begin(self, shadow: _Shadow, question: Question, request: Request) -> None:
        if shadow.under_way >= shadow.settings.max_concurrent:
            return
        model = shadow.model
        asked = replace(
            question,
            model_id=model.id,
            strategy=None,
            stream=False,
            use_cache=False,
            use_semantic_cache=False,
            cache_policy=_NO_CACHE,
            hedge=False,
            priority="low",
            tags={PURPOSE_TAG: SHADOW, SHADOW_OF_TAG: str(request.id)},
            session_id=None,
            experiment=None,
            arm=None,
        )
        reason = self._why_not(asked, model)
        if reason is not None:
            if not shadow.held_up:
                logger.warning("no shadow calls of %s for now: %s", model.id, reason)
            shadow.held_up = True
            return
        shadow.held_up = False
        shadow.under_way += 1
        task = asyncio.create_task(self._run(asked, model))
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            shadow.under_way -= 1
            self._tasks.discard(task)

        task.add_done_callback(ended)

    async def _run(self, question: Question, model: Model) -> None:
        try:
            await self._ask(question, model)
        except NovellusError as error:
            logger.info("a shadow call of %s failed: %s", model.id, error)
        except Exception:
            logger.exception("a shadow call of %s failed", model.id)

    def _why_not(self, question: Question, model: Model) -> str | None:
        """Return why the model can't be asked now, or not without holding anybody up."""
        try:
            self._candidates.that_fit(replace(question, model_id=None), (model,), None, [])
        except (ContextWindowExceededError, NoModelAvailableError) as error:
            return str(error)
        if (reason := self._admission.why_not(question, model)) is not None:
            return reason
        if any(self._admission.waits_s(question, Pool((model,))) or ()):
            return "its rate limits have no room"
        return None

    async def settle(self, timeout_s: float) -> None:
        """Wait for those that are under way, if they end in time."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)

    async def aclose(self) -> None:
        """Break off those that are under way; they are logged as cancelled."""
        for task in self._tasks:
            task.cancel()
        await self.settle(_LEAVE_S)
