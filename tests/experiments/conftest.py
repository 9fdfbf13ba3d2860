"""Labs for experiments: those of tests/lab, and one over the recorded answers."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lab.conftest import make_lab, rows

__all__ = ["make_lab", "replay_lab", "rows"]

STRONG, WEAK = "replay/gpt-4-1106-preview", "replay/mixtral-8x7b-instruct"


def replay_model(id: str, **params: Any) -> dict[str, Any]:
    return {
        "provider": "replay",
        "model_name": id.removeprefix("replay/"),
        "params": {"time_scale": 0, **params},
    }


@pytest.fixture
def replay_lab(make_lab: Any) -> Any:
    return make_lab(replay_model(STRONG), replay_model(WEAK), seed=1)
