"""The speed benchmark works. What it finds is not judged here: no test goes by the clock."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from benchmarks.speed.__main__ import main

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    "part",
    [
        pytest.param("import", marks=pytest.mark.long),
        pytest.param("calls", marks=pytest.mark.long),
        "cache",
        "log",
    ],
)
def test_the_benchmark_prints_its_table(
    part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--tiny", "--only", part, "--json", str(tmp_path / "figures.json")]) in (0, 1)
    sections = json.loads((tmp_path / "figures.json").read_text())
    assert sections
    printed = capsys.readouterr().out
    for section in sections:
        assert section["wrong"] == []
        assert section["title"] in printed
        assert all(row["median"] >= 0 for row in section["rows"])
