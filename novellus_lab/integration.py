"""The production system's own names, thin over the same lab.

`src.ai.integration` of its documentation is this module.
"""

from __future__ import annotations

import asyncio
import os
import threading
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Unpack

from novellus_lab.lab import Lab
from novellus_lab.routing.balancer import ModelLoadBalancer as ModelLoadBalancer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import timedelta

    from novellus_lab.lab import CallArguments
    from novellus_lab.monitoring.period import TimeRange
    from novellus_lab.pipeline.stream import AsyncStream
    from novellus_lab.spaces.cache import LabCache
    from novellus_lab.spaces.queue import Job
    from novellus_lab.types import Completion, Message

_lock = threading.Lock()
_shared: Lab | None = None


def _new_lock() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_new_lock)  # the parent's may be held by a thread not here


def shared_lab() -> Lab:
    """Return the lab that this module's functions use, opened on first use with defaults."""
    global _shared
    with _lock:
        if _shared is None or _shared.closed:
            _shared = Lab()
        return _shared


async def _opened() -> Lab:
    """Return the shared lab; opening it takes a second that the caller's loop is not held up for."""
    if _shared is None or _shared.closed:
        return await asyncio.to_thread(shared_lab)
    return _shared


async def ai_complete(
    prompt: str | None = None, *, stream: bool = False, **arguments: Unpack[CallArguments]
) -> dict[str, Any] | AsyncStream:
    """Answer a prompt or a conversation, as a plain dict; arguments as `Lab.complete`.

    The keys are the fields of `Completion`: `content`, `model`, `cost`, … An unknown cost is
    `Decimal("NaN")` here, so that `f"${response['cost']:.6f}"` is written as NaN, and every sum
    with it, too: never as 0.

    With `stream=True` it returns the stream: `async for chunk in await ai_complete(…)`.
    """
    return await AIModelManager().complete(prompt, stream=stream, **arguments)


async def ai_embed(
    text: str | Sequence[str], model: str | None = None, **options: Any
) -> list[float] | list[list[float]]:
    """Embed a text or a list of texts; embeddings are cached. Options as `Lab.embed`."""
    lab = await _opened()
    return await lab.aembed(text, model=model, **options)


async def ai_metrics(model_id: str | None = None, time_range: TimeRange = "1h") -> dict[str, Any]:
    """Return what a model did, as plain dicts; see `MetricsCollector.get_model_metrics`."""
    return await MetricsCollector().get_model_metrics(model_id, time_range)


async def ai_health() -> dict[str, float | None]:
    """Return the health of each model, 0 to 100; None where there is too little data to say.

    Of the models that are routed to, and all that were asked within a day; the worst come first.
    """
    return dict(await (await _opened()).monitor.ahealth())


class AIModelManager:
    """The production system's client.

    Args:
        lab: the lab to work through; default the shared one.
    """

    def __init__(self, lab: Lab | None = None) -> None:
        self._lab = lab

    async def complete(
        self,
        prompt: str | None = None,
        messages: Sequence[Message] | None = None,
        model_id: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        stream: bool = False,
        functions: Sequence[Mapping[str, Any]] | None = None,
        use_cache: bool = True,
        **arguments: Any,
    ) -> dict[str, Any] | AsyncStream:
        """Answer a prompt or a conversation, as `ai_complete`; further arguments as `Lab.complete`."""
        given = {
            "messages": messages,
            "model_id": model_id,
            "max_tokens": max_tokens,
            "temperature": temperature,
            "functions": functions,
        }
        arguments |= {name: value for name, value in given.items() if value is not None}
        arguments["use_cache"] = use_cache
        lab = self._lab or await _opened()
        if stream:
            return lab.astream(prompt, **arguments)
        completion: Completion = await lab.acomplete(prompt, **arguments)
        answer: dict[str, Any] = completion.to_dict()
        if answer["cost"] is None:
            answer["cost"] = Decimal("NaN")
        return answer

    async def queue_request(
        self,
        request_data: Mapping[str, Any],
        priority: int = 0,
        scheduled_at: datetime | timedelta | None = None,
        **options: Any,
    ) -> Job:
        """Have a worker answer a request later; see `Lab.queue_request`.

        Args:
            request_data: `complete`'s arguments: `{"prompt": "…"}`.
            priority: the highest goes first.
            scheduled_at: run it not before this time, or so long from now. A time without a zone is
                UTC here, since the production system's users write `datetime.utcnow() + …`
                (`Lab.queue_request` takes it as local).
            options: `queue`, `max_attempts`.
        """
        if isinstance(scheduled_at, datetime) and scheduled_at.tzinfo is None:
            scheduled_at = scheduled_at.replace(tzinfo=UTC)
        lab = self._lab or await _opened()
        return await lab.aqueue_request(request_data, priority, scheduled_at, **options)


class CacheManager:
    """The production system's cache, over the same tiers as `lab.cache`.

    Args:
        lab: the lab to work through; default the shared one.
    """

    def __init__(self, lab: Lab | None = None) -> None:
        self._lab = lab

    async def get(
        self, key: str, use_semantic: bool = False, semantic_query: str | None = None
    ) -> Any | None:
        """Return the value kept under a key, or None; see `lab.cache.get`."""
        return await (await self._cache()).aget(key, use_semantic, semantic_query)

    async def set(
        self, key: str, value: Any, ttl: float | None = 3600, generate_embedding: bool = False
    ) -> None:
        """Keep a value; see `lab.cache.set`."""
        await (await self._cache()).aset(key, value, ttl, generate_embedding)

    async def semantic_search(self, query: str, top_k: int = 5) -> list[dict[str, Any]]:
        """Return the kept questions that are most like a text, as dicts; see `Match`."""
        matches = await (await self._cache()).asemantic_search(query, top_k)
        return [match.to_dict() for match in matches]

    async def _cache(self) -> LabCache:
        return (self._lab or await _opened()).cache


class MetricsCollector:
    """The production system's metrics, over the same log as `lab.monitor`.

    Args:
        lab: the lab to work through; default the shared one.
    """

    def __init__(self, lab: Lab | None = None) -> None:
        self._lab = lab

    async def get_model_metrics(
        self, model_id: str | None = None, time_range: TimeRange = "1h"
    ) -> dict[str, Any]:
        """Return what a model did, as plain dicts: `["success_rate"]`, `["latency"]["avg"]`, ….

        Args:
            model_id: None: all models together.
            time_range: `"1h"`, `"6h"`, `"24h"`, `"7d"`, `"30d"`, any other duration, or
                `(start, end)`; see `lab.monitor.metrics`, whose fields the keys are.
        """
        lab = self._lab or await _opened()
        return (await lab.monitor.ametrics(model_id, time_range)).to_dict()

    async def calculate_health_score(self, model_id: str) -> float | None:
        """Return a model's health, 0 to 100; None where there is too little data to say.

        `lab.monitor.explain_health` says what was taken off, and why.
        """
        lab = self._lab or await _opened()
        return (await lab.monitor.aexplain_health(model_id)).score
