"""`python -m benchmarks.speed`: measure and print the tables."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from benchmarks.speed import cache, calls, imports, log
from benchmarks.speed.figures import TINY, Effort, Section

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

PARTS: dict[str, Callable[[Effort, str | None], Section | tuple[Section, ...]]] = {
    "import": imports.measure,
    "calls": calls.measure,
    "cache": cache.measure,
    "log": log.measure,
}


def main(arguments: Iterable[str] | None = None) -> int:
    """Return 0 if every promise was kept and every target met, else 1."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("--only", choices=PARTS, action="append", help="one part; may be repeated")
    parser.add_argument("--peer-python", help="the Python of an environment that has the peers")
    parser.add_argument("--json", type=Path, help="write the figures to a file, too")
    parser.add_argument("--tiny", action="store_true", help="only see that it works")
    given = parser.parse_args(None if arguments is None else list(arguments))
    console = Console(width=None if sys.stdout.isatty() else 118, highlight=False)
    sections: list[Section] = []
    for name in given.only or PARTS:
        console.print(f"[dim]measuring: {name} …[/]")
        found = PARTS[name](TINY if given.tiny else Effort(), given.peer_python)
        for section in (found,) if isinstance(found, Section) else found:
            sections.append(section)
            show(console, section)
    if given.json:
        given.json.write_text(json.dumps([as_dict(s) for s in sections], indent=2) + "\n")
    failed = [row for s in sections for row in s.rows if row.met is False]
    return 1 if failed or any(s.wrong for s in sections) else 0


def show(console: Console, section: Section) -> None:
    """Print a section as a table, with its notes."""
    table = Table(title=section.title, title_justify="left", title_style="bold", box=None)
    table.add_column("")
    table.add_column("median", justify="right")
    table.add_column("±", justify="right", style="dim")
    for name in ("unit", "beside", "target", ""):
        table.add_column(name, style="dim" if name == "unit" else "")
    for row in section.rows:
        verdict = {None: "", True: "[green]met[/]", False: "[red]missed[/]"}[row.met]
        style = "bold" if row.ours else ""
        figure = f"{row.median:,.0f}" if row.median >= 100 else f"{row.median:.2f}"
        spread = f"{row.spread:.0%}" if len(row.samples) > 1 else ""
        table.add_row(
            f"[{style}]{row.name}[/]" if style else row.name,
            figure,
            spread,
            row.unit,
            row.beside,
            row.target,
            verdict,
        )
    console.print(table)
    for note in section.notes:
        console.print(f"  [dim]{note}[/]")
    for wrong in section.wrong:
        console.print(f"  [red]{wrong}[/]")
    console.print()


def as_dict(section: Section) -> dict[str, object]:
    """Return a section as plain data."""
    return {
        "title": section.title,
        "rows": [
            {
                "name": r.name,
                "unit": r.unit,
                "median": r.median,
                "spread": r.spread,
                "samples": r.samples,
                "beside": r.beside,
                "target": r.target,
                "met": r.met,
            }
            for r in section.rows
        ],
        "notes": section.notes,
        "wrong": section.wrong,
    }


if __name__ == "__main__":
    sys.exit(main())
