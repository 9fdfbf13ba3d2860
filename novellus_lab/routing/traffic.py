"""What goes on between this process and each model: calls under way, and how many come to an end."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from threading import Lock

HALF_LIFE_S = 300.0
_BELIEVED_CALLS = 4.0
"""A model of which nothing was seen counts as one that answered so many calls."""


@dataclass(slots=True)
class _Model:
    in_flight: int = 0
    answered: float = 0.0
    failed: float = 0.0
    at: float = 0.0

    def decay(self, now: float) -> None:
        if self.answered or self.failed:
            factor = math.exp2((self.at - now) / HALF_LIFE_S)
            self.answered *= factor
            self.failed *= factor
        self.at = now


class Traffic:
    """Counts by model; safe from any thread."""

    def __init__(self) -> None:
        self._models: dict[str, _Model] = {}
        self._lock = Lock()

    def begin(self, model_id: str) -> None:
        """A call is sent."""
        with self._lock:
            self._models.setdefault(model_id, _Model()).in_flight += 1

    def end(self, model_id: str, answered: bool | None) -> None:
        """It came to its end: with an answer, by the provider's fault, or (None) by neither."""
        with self._lock:
            model = self._models[model_id]
            model.in_flight -= 1
            if answered is None:
                return
            model.decay(time.monotonic())
            if answered:
                model.answered += 1.0
            else:
                model.failed += 1.0

    def in_flight(self, model_id: str) -> int:
        """Return how many calls of this process are under way."""
        model = self._models.get(model_id)
        return 0 if model is None else model.in_flight

    def success_share(self, model_id: str) -> float:
        """Return the share of recent calls that were answered; 1 where none was seen.

        As if four answered calls stood before them, so that one failure is no verdict.
        """
        model = self._models.get(model_id)
        if model is None:
            return 1.0
        with self._lock:
            model.decay(time.monotonic())
            answered = model.answered + _BELIEVED_CALLS
            return answered / (answered + model.failed)
