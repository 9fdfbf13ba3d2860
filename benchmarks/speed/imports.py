"""How long it takes until the package is there: each run in a fresh interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from benchmarks.speed.figures import Effort, Row, Section, interleaved, median_ratio
from benchmarks.speed.processes import database

if TYPE_CHECKING:
    from collections.abc import Callable

HEAVY = ("pandas", "polars", "pyarrow", "plotly", "duckdb", "ipywidgets", "IPython")
SDKS = ("openai", "anthropic", "ollama", "google.genai", "litellm")
LIMIT_S = 0.25


def measure(effort: Effort, peer_python: str | None) -> tuple[Section]:
    """Measure imports, and how long the first `Lab()` takes where a server runs already."""
    statements = {
        "import novellus_lab": "import novellus_lab",
        "from novellus_lab import Lab": "from novellus_lab import Lab",
        "import openai": "import openai",
        "import litellm": "import litellm",
    }
    pythons = {"import litellm": peer_python or sys.executable}
    notes = []
    if not _can(pythons["import litellm"], "import litellm"):
        del statements["import litellm"]
        notes.append("litellm is not installed here: `pip install litellm`, or --peer-python")
    loaded = _heavy_loaded_by("from novellus_lab import Lab")
    wrong = (f"importing loads {', '.join(loaded)}",) if loaded else ()
    notes.append(f"loads neither {', '.join(HEAVY)} nor a provider's SDK")

    with database() as db:
        opening = (
            "from novellus_lab import Lab\n"
            f"lab = Lab(home={str(db.home)!r})\n"
            "import os; os._exit(0)"
        )
        turns: dict[str, Callable[[], float]] = {"an empty interpreter": _timed("pass")}
        for name, statement in statements.items():
            turns[name] = _timed(statement, pythons.get(name, sys.executable))
        turns["import, and Lab() open"] = _timed(opening)
        found = interleaved(turns, effort.import_rounds)

    whole = found["from novellus_lab import Lab"]
    rows = []
    for name, seconds in found.items():
        row = Row(name, "ms", tuple(s * 1000 for s in seconds))
        if name.startswith(("import novellus", "from novellus")):
            rows.append(_ours(row))
        elif name == "import, and Lab() open":
            rows.append(Row(row.name, row.unit, row.samples, ours=True))
        elif name == "an empty interpreter":
            rows.append(row)
        else:
            share = f"`import Lab` takes {median_ratio(whole, seconds):.2f}x"
            rows.append(Row(row.name, row.unit, row.samples, beside=share))
    title = "Import: wall time of a fresh interpreter"
    return (Section(title, tuple(rows), tuple(notes), wrong),)


def _ours(row: Row) -> Row:
    return Row(
        row.name,
        row.unit,
        row.samples,
        ours=True,
        target=f"< {LIMIT_S * 1000:.0f} ms",
        met=row.median < LIMIT_S * 1000,
    )


def _timed(statement: str, python: str = sys.executable) -> Callable[[], float]:
    def turn() -> float:
        started = time.perf_counter()
        subprocess.run([python, "-c", statement], check=True, capture_output=True)
        return time.perf_counter() - started

    return turn


def _can(python: str, statement: str) -> bool:
    return not subprocess.run([python, "-c", statement], capture_output=True).returncode


def _heavy_loaded_by(statement: str) -> list[str]:
    program = f"import json, sys\n{statement}\nprint(json.dumps(list(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return sorted(set(json.loads(done.stdout)) & {*HEAVY, *SDKS})
