"""One call on its way: a question, asked now, under an id of its own."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from novellus_lab.ids import uuid7
from novellus_lab.store.listeners import Begun

if TYPE_CHECKING:
    from uuid import UUID

    from novellus_lab.pipeline.question import Question


@dataclass(frozen=True, slots=True)
class Request:
    """What becomes a row of the log."""

    question: Question
    id: UUID
    created_at: datetime
    started: float
    """`time.perf_counter()` when the call was made."""
    deadline: float | None
    """`time.perf_counter()` by which the whole call must be done."""

    @classmethod
    def of(cls, question: Question, started: float) -> Request:
        """Ask a question; `started` is `time.perf_counter()` when the call was made."""
        limit_s = question.timeout_s
        deadline = None if limit_s is None else started + limit_s
        return cls(question, uuid7(), datetime.now(UTC), started, deadline)

    def begun(self, kind: Literal["chat", "embedding"]) -> Begun:
        """Return what listeners are told at the beginning."""
        asked = self.question
        return Begun(self.id, kind, asked.model_id, asked.stream, asked.params)

    @property
    def elapsed_ms(self) -> float:
        return (time.perf_counter() - self.started) * 1000
