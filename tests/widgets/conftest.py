"""Labs for widgets, and waiting for what they do beside the caller."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tests.experiments.conftest import replay_lab
from tests.lab.conftest import make_lab, rows

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["make_lab", "replay_lab", "rows"]


def until(true: Callable[[], object], seconds: float = 60) -> None:
    """Wait until something holds; what it waits for happens on other threads."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)
