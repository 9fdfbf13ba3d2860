"""The benchmark of metrics works, and says the same as plain SQL. How fast is not judged here."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from benchmarks.metrics import measure


async def test_the_benchmark_prints_ours_beside_plain_sql(database) -> None:
    printed = io.StringIO()
    found = await measure(database, 3_000, 1, Console(file=printed, width=200))
    assert [(a.time_range, a.model) for a in found] == [
        (time_range, model)
        for time_range in ("1h", "24h", "7d", "30d")
        for model in ("model-1", None)
    ]
    assert found[-1].requests > 2_990
    assert all(a.worst_error < 1e-9 for a in found)  # so few are read from the log
    assert "written_in" in printed.getvalue()


@pytest.mark.long
@pytest.mark.timeout(1_800)
async def test_quantiles_of_a_month_are_right_to_one_percent(database) -> None:
    found = await measure(database, 1_000_000, 1, Console(file=io.StringIO()))
    many = [a for a in found if a.requests > 50_000]
    assert {a.time_range for a in many} == {"7d", "30d"}
    assert all(0 < a.worst_error < 0.0105 for a in many)
