"""The series, labels and weights of the Numenta Anomaly Benchmark, as its repository lays them out."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Series:
    """One labelled series. `windows` holds the first and last index of each labelled window."""

    name: str
    times: tuple[datetime, ...]
    values: tuple[float, ...]
    windows: tuple[tuple[int, int], ...]

    @property
    def group(self) -> str:
        """The folder that the series comes from: series of one group are alike."""
        return self.name.partition("/")[0]


@dataclass(frozen=True, slots=True)
class Profile:
    """What a hit, a false alarm and a miss weigh."""

    name: str
    hit: float
    false_alarm: float
    miss: float


def read_series(folder: Path) -> list[Series]:
    """Read all series under `folder/data` that have labels, in the order of their names.

    Raises:
        FileNotFoundError: `folder` holds no `labels/combined_windows.json`.
    """
    windows = json.loads((folder / "labels" / "combined_windows.json").read_text())
    found = []
    for path in sorted((folder / "data").glob("*/*.csv")):
        name = f"{path.parent.name}/{path.name}"
        if name not in windows:
            continue
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        times = tuple(datetime.fromisoformat(row["timestamp"]) for row in rows)
        index = {time: number for number, time in reversed(list(enumerate(times)))}
        limits = tuple(
            (index[datetime.fromisoformat(first)], index[datetime.fromisoformat(last)])
            for first, last in windows[name]
        )
        found.append(Series(name, times, tuple(float(row["value"]) for row in rows), limits))
    return found


def read_profiles(folder: Path) -> list[Profile]:
    """Read the three published profiles: standard, reward_low_FP_rate, reward_low_FN_rate."""
    profiles = json.loads((folder / "config" / "profiles.json").read_text())
    return [
        Profile(name, cost["tpWeight"], cost["fpWeight"], cost["fnWeight"])
        for name, cost in ((name, entry["CostMatrix"]) for name, entry in profiles.items())
    ]


def read_published(folder: Path) -> dict[str, dict[str, float]]:
    """Read each detector's published score of each given series (standard profile)."""
    published: dict[str, dict[str, float]] = {}
    for path in sorted((folder / "reference_scores").glob("*_standard_scores.csv")):
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                published.setdefault(row["Detector"], {})[row["File"]] = float(row["Score"])
    return published
