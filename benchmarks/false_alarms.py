"""Is the false-alarm rate kept where nothing is wrong? `python -m benchmarks.false_alarms`.

Alarms of the adaptive detector on simulated noise, as multiples of the rate that was asked for. Four
runs of 7,000 points five minutes apart of each kind; the first 1,500 points of a run don't count. Then the
same for slow change, by drifts a week.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table

from novellus_lab.monitoring.detect.adaptive import AdaptiveDetector
from novellus_lab.monitoring.detect.drift import DriftDetector

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Noise = Callable[[np.random.Generator, np.ndarray], np.ndarray]

RATES = (0.01, 0.003, 0.001, 0.0003)
DRIFTS_A_WEEK = (2.0, 0.5, 0.1)
START = datetime(2026, 1, 5, tzinfo=UTC)
STEP = timedelta(minutes=5)
DAY = 288
LEARNING = 1500


def _autoregressive(rng: np.random.Generator, t: np.ndarray) -> np.ndarray:
    values = rng.normal(size=len(t))
    for i in range(1, len(t)):
        values[i] += 0.9 * values[i - 1]
    return values


def _season(rng: np.random.Generator, t: np.ndarray) -> np.ndarray:
    wave = np.sin(2 * np.pi * t / DAY)
    return 100 + 40 * wave + (5 + 3 * wave) * rng.normal(size=len(t))


NOISES: dict[str, Noise] = {
    "normal": lambda rng, t: rng.normal(size=len(t)),
    "lognormal, sigma 0.5": lambda rng, t: rng.lognormal(0, 0.5, len(t)),
    "Student t, 3 degrees": lambda rng, t: rng.standard_t(3, len(t)),
    "autoregressive, 0.9": _autoregressive,
    "daily season, busy hours noisier": _season,
    "Poisson counts with a season": lambda rng, t: rng.poisson(5 + 4 * np.sin(2 * np.pi * t / DAY)),
    "error rate, 200 calls at 1 %": lambda rng, t: rng.binomial(200, 0.01, len(t)) / 200,
}


def multiples(noise: Noise, runs: int, points: int, echo: float) -> list[float]:
    """Alarms over those asked for, at each of `RATES`."""
    p_values: list[float] = []
    for seed in range(runs):
        values = noise(np.random.default_rng(seed), np.arange(points))
        detector = AdaptiveDetector(echo=echo)
        verdicts = detector.run((START + n * STEP, float(value)) for n, value in enumerate(values))
        p_values += [verdict.p_value for verdict in verdicts[LEARNING:]]
    return [float(np.mean(np.array(p_values) <= rate)) / rate for rate in RATES]


def drift_multiples(noise: Noise, runs: int, points: int) -> list[float]:
    """Drifts over those asked for, at each of `DRIFTS_A_WEEK`."""
    weeks = runs * (points - LEARNING) * STEP / timedelta(weeks=1)
    multiples = []
    for rate in DRIFTS_A_WEEK:
        drifts = 0
        for seed in range(runs):
            values = noise(np.random.default_rng(seed), np.arange(points))
            detector = DriftDetector(rate, interval=STEP)
            found = {
                drift.start
                for n, value in enumerate(values)
                if (drift := detector.observe(START + n * STEP, float(value)))
            }
            drifts += sum(start >= START + LEARNING * STEP for start in found)
        multiples.append(drifts / weeks / rate)
    return multiples


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.false_alarms")
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--points", type=int, default=7000)
    parser.add_argument("--echo", type=float, default=60)
    options = parser.parse_args(arguments)
    table = Table(title="alarms on noise, as multiples of the rate asked for")
    for column in ("noise", *map(str, RATES)):
        table.add_column(column, justify="left" if column == "noise" else "right")
    for name, noise in NOISES.items():
        found = multiples(noise, options.runs, options.points, options.echo)
        table.add_row(name, *(f"{one:.1f}" for one in found))
    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print(table)
    slow = Table(title="drifts found in noise, as multiples of the rate asked for")
    for column in ("noise", *(f"{rate:g} a week" for rate in DRIFTS_A_WEEK)):
        slow.add_column(column, justify="left" if column == "noise" else "right")
    for name, noise in NOISES.items():
        found = drift_multiples(noise, 6 * options.runs, options.points)
        slow.add_row(name, *(f"{one:.1f}" for one in found))
    console.print(slow)
    return 0


if __name__ == "__main__":
    sys.exit(main())
