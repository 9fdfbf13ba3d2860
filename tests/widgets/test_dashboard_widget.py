"""The dashboard: looks by itself, says what the metrics say, can be paused, ends with its lab."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from novellus_lab.display import money
from novellus_lab.errors import InvalidRequestError, MissingDependencyError
from tests.experiments.conftest import STRONG
from tests.widgets.conftest import until

for needed in ("anywidget", "polars", "duckdb", "adbc_driver_postgresql"):
    pytest.importorskip(needed)


def test_it_follows_the_log_until_it_is_paused(replay_lab: Any) -> None:
    widget = replay_lab.widgets.dashboard("1h", every=3600)
    until(lambda: widget.looks == 1)
    assert "None in this time" in widget.anomalies.value
    replay_lab.complete("What is 2 + 2?", model_id=STRONG)
    replay_lab.complete("What is 2 + 2?", model_id=STRONG)
    widget.now.click()
    until(lambda: widget.looks == 2)
    metrics = replay_lab.metrics(None, "1h")
    assert metrics.requests.total == 2
    assert f"<b>{money(metrics.cost.total)}</b>" in widget.tiles.value
    assert STRONG in widget.health.value
    bars = widget.figures["costs"].widget.data
    assert sum(sum(y or 0 for y in bar.y) for bar in bars) == pytest.approx(
        float(metrics.cost.total)
    )
    assert widget.failure.value == ""
    widget.pause.value = True
    until(lambda: "paused" in widget.status.value)
    seen = widget.looks
    widget.every.value = 5.0
    until(lambda: widget.looks == seen + 1)
    widget.since.value = "24h"
    until(lambda: widget.looks == seen + 2)
    widget.close()
    until(lambda: not widget.busy)


def test_it_ends_with_its_lab(replay_lab: Any) -> None:
    widget = replay_lab.widgets.dashboard(every=1)
    until(lambda: widget.looks >= 2)
    replay_lab.close()
    until(lambda: not widget.busy)
    assert "the lab was closed" in widget.failure.value
    assert widget.status.value == "stopped"
    widget.now.click()
    assert "this lab is closed" in widget.failure.value


def test_what_can_t_be_is_refused(replay_lab: Any, monkeypatch: Any) -> None:
    with pytest.raises(InvalidRequestError, match="every"):
        replay_lab.widgets.dashboard(every=0)
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'novellus_lab\[notebook\]'"):
        replay_lab.widgets.explore()
