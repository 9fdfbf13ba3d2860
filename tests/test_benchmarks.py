"""The speed benchmark works. What it finds is not judged here: no test goes by the clock."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from benchmarks.speed.__main__ import run, show
from benchmarks.speed.figures import TINY


@pytest.mark.parametrize(
    "part",
    [
        pytest.param("import", marks=pytest.mark.long),
        pytest.param("calls", marks=pytest.mark.long),
        pytest.param("routed", marks=pytest.mark.long),
        "cache",
        "log",
        "semantic",
    ],
)
def test_the_benchmark_measures_and_prints_its_tables(part: str) -> None:
    sections = run([part], TINY, None)
    assert sections
    for section in sections:
        assert not section.wrong
        assert all(row.median >= 0 for row in section.rows)
        printed = io.StringIO()
        show(section, Console(file=printed, width=200))
        assert section.title in printed.getvalue()
        assert section.rows[0].name in printed.getvalue()
