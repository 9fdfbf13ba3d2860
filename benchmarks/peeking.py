"""What looking at running experiments does: `python -m benchmarks.peeking [--runs 1000] [--looks 30]`.

Both arms are the same (lognormal values, 1,500 a side at the end), so that every alarm is false. A run
alarms if its interval, asked at equally spaced looks from 50 values a side on, excludes 0 at any of
them. A fixed seed: it prints the same again.
"""

from __future__ import annotations

import argparse
import math
import sys
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table

from novellus_lab.experiments.stats.confidence import Confidence
from novellus_lab.experiments.stats.means import difference, mean

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SIZE = 1_500
WAYS = {
    "Welch's t, 95% for one look": Confidence(),
    "always-valid 95%, tuned to 1,000": Confidence(peeking=1_000),
}


KINDS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "normal": lambda r: r.normal(0, 1, SIZE),
    "lognormal minus lognormal": lambda r: r.lognormal(0, 1, SIZE) - r.lognormal(0, 1, SIZE),
    "exponential": lambda r: r.exponential(1, SIZE) - 1,
    "lognormal": lambda r: r.lognormal(0, 1, SIZE) - math.exp(0.5),
    "lognormal, nine in ten 0": lambda r: (
        r.lognormal(0, 1, SIZE) * (r.random(SIZE) < 0.1) - 0.1 * math.exp(0.5)
    ),
    "3% ones": lambda r: (r.random(SIZE) < 0.03) - 0.03,
}
"""Of mean 0."""


def misses(draw: Callable[[np.random.Generator], np.ndarray], runs: int) -> tuple[int, int]:
    """Runs that ever leave 0: by the plain boundary, and by ours."""
    random = np.random.default_rng(1)
    confidence = Confidence(peeking=500)
    plain = ours = 0
    for _ in range(runs):
        values = draw(random)
        shown = [mean(values[:n], confidence=confidence) for n in range(60, SIZE + 1, 20)]
        ours += any(estimate.excludes(0) for estimate in shown)
        plain += any(
            abs(estimate.value or 0)
            > estimate.standard_error * confidence.critical(math.inf, estimate.n)
            for estimate in shown
            if estimate.standard_error
        )
    return plain, ours


def alarms(runs: int, looks: int, seed: int = 0) -> dict[tuple[str, bool], int]:
    """Runs that alarm, by way and by whether the last look is the only one."""
    random = np.random.default_rng(seed)
    sizes = np.linspace(50, SIZE, looks).astype(int)
    found = {(way, once): 0 for way in WAYS for once in (True, False)}
    for _ in range(runs):
        control, treatment = random.lognormal(0, 1, (2, SIZE))
        for way, confidence in WAYS.items():
            excluded = [
                difference(control[:n], treatment[:n], confidence=confidence).excludes(0)
                for n in sizes
            ]
            found[way, True] += excluded[-1]
            found[way, False] += any(excluded)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peeking")
    parser.add_argument("--runs", type=int, default=1_000)
    parser.add_argument("--looks", type=int, default=30)
    options = parser.parse_args(arguments)
    found = alarms(options.runs, options.looks)
    table = Table(title=f"false alarms in {options.runs:,} runs of two equal arms")
    for column in ("interval", "one look at the end", f"any of {options.looks} looks"):
        table.add_column(column, justify="left" if column == "interval" else "right")
    for way in WAYS:
        table.add_row(
            way, *(f"{100 * found[way, once] / options.runs:.1f}%" for once in (True, False))
        )
    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print(table)
    runs = max(1, options.runs // 4)
    table = Table(title=f"true means left at any look, {runs:,} runs at 95%")
    for column in ("values", "plain boundary", "ours"):
        table.add_column(column, justify="left" if column == "values" else "right")
    for kind, draw in KINDS.items():
        table.add_row(kind, *(f"{100 * count / runs:.1f}%" for count in misses(draw, runs)))
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
