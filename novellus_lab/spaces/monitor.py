"""`lab.monitor`: how the models do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from novellus_lab.pipeline.runtime import Runtime


class LabMonitor:
    """Metrics and health of models, from the log.

    Args:
        ready: returns the runtime, when all calls made so far are in PostgreSQL. It waits: on a
            caller's event loop, put it on a thread.
    """

    def __init__(self, ready: Callable[[], Runtime]) -> None:
        self._ready = ready

    def __repr__(self) -> str:
        return "lab.monitor: metrics, health, explain_health"

    def metrics(self, model_id: str | None = None, time_range: Any = "1h") -> Any:
        raise NotImplementedError("metrics come with the rollups")

    async def ametrics(self, model_id: str | None = None, time_range: Any = "1h") -> Any:
        raise NotImplementedError("metrics come with the rollups")

    def health(self) -> Any:
        raise NotImplementedError("health comes with the rollups")

    async def ahealth(self) -> Any:
        raise NotImplementedError("health comes with the rollups")

    def explain_health(self, model_id: str) -> Any:
        raise NotImplementedError("health comes with the rollups")

    async def aexplain_health(self, model_id: str) -> Any:
        raise NotImplementedError("health comes with the rollups")
