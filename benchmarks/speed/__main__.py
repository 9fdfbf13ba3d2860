"""Measure and print: `python -m benchmarks.speed --help`; `docs/speed.md` explains each line."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from benchmarks.speed import cache, calls, imports, log, routed, semantic
from benchmarks.speed.figures import TINY, Effort, Row, Section

if TYPE_CHECKING:
    from collections.abc import Iterable

PARTS = {
    "import": imports.measure,
    "calls": calls.measure,
    "routed": routed.measure,
    "cache": cache.measure,
    "log": log.measure,
    "semantic": semantic.measure,
}


def run(parts: Iterable[str], effort: Effort, peer_python: str | None) -> list[Section]:
    """Measure the named parts, in order."""
    sections: list[Section] = []
    for part in parts:
        sections += PARTS[part](effort, peer_python)
    return sections


def show(section: Section, console: Console) -> None:
    """Print a section as a table."""
    table = Table(title=section.title, title_justify="left", title_style="bold", expand=False)
    for heading, justify in (
        ("what", "left"),
        ("median", "right"),
        ("spread", "right"),
        ("ours against it", "left"),
        ("target", "left"),
        ("verdict", "left"),
    ):
        table.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for row in section.rows:
        verdict = {None: "", True: "[green]met[/]", False: "[red]missed[/]"}[row.met]
        spread = f"±{row.spread:.0%}" if len(row.samples) > 1 else ""
        table.add_row(
            row.name,
            f"{_figure(row.median)} {row.unit}",
            spread,
            row.beside,
            row.target,
            verdict,
            style="bold" if row.ours else None,
        )
    console.print(table)
    for note in section.notes:
        console.print(f"  {note}", highlight=False)
    for broken in section.wrong:
        console.print(f"  [red]wrong:[/] {broken}", highlight=False)
    console.print()


def as_json(sections: list[Section]) -> str:
    """Every sample, for other programs."""
    return json.dumps(
        {
            "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
            "python": platform.python_version(),
            "sections": [
                {
                    "title": s.title,
                    "rows": [_row_json(r) for r in s.rows],
                    "notes": s.notes,
                    "wrong": s.wrong,
                }
                for s in sections
            ],
        },
        indent=1,
    )


def _row_json(row: Row) -> dict[str, object]:
    return {
        "name": row.name,
        "unit": row.unit,
        "median": statistics.median(row.samples),
        "samples": row.samples,
        "ours": row.ours,
        "beside": row.beside,
        "target": row.target,
        "met": row.met,
    }


def _figure(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 1 else f"{value:.4g}"


def main() -> int:
    """Measure what is asked for; return 1 if a promise (other than of speed) was broken."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("--only", action="append", choices=PARTS, help="one part; may be repeated")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    parser.add_argument(
        "--peer-python",
        metavar="PATH",
        help="a Python that has litellm and gptcache; by default this one",
    )
    parser.add_argument(
        "--quick", action="store_true", help="try that it works; the figures mean nothing"
    )
    asked = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 132)
    sections: list[Section] = []
    for part in asked.only or PARTS:
        for section in run([part], TINY if asked.quick else Effort(), asked.peer_python):
            show(section, console)
            sections.append(section)
    if asked.json is not None:
        asked.json.write_text(as_json(sections), encoding="utf-8")
    return 1 if any(s.wrong for s in sections) else 0


if __name__ == "__main__":
    sys.exit(main())
