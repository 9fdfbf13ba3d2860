"""The benchmark of the frames works. What it finds is not judged here: no test goes by the clock."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from benchmarks.frames import QUESTIONS, measure
from tests.embedded_homes import remove_state


@pytest.mark.long
def test_the_benchmark_asks_everything_of_everybody(new_home):
    home = new_home("bench")
    printed = io.StringIO()
    console = Console(file=printed, width=160)
    console.print(measure(str(home), 2_000, console))
    assert all(question in printed.getvalue() for question in QUESTIONS)
    assert "no copy" in printed.getvalue()
    remove_state(home)
