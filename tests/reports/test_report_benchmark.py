"""The report's benchmark works. What it finds is not judged here: no test goes by the clock."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from benchmarks.report import measure

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.long
def test_the_benchmark_measures_and_prints_its_table(home: Path) -> None:
    printed = io.StringIO()
    console = Console(file=printed, width=120)
    console.print(measure(str(home), 2_000, console))
    assert "A cost report over 2,000 requests" in printed.getvalue()
    assert "requests cost $" in printed.getvalue()
