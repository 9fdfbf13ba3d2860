"""When requests arrive: a real trace at its own times, or scaled."""

from __future__ import annotations

import csv
import gzip
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import orjson

from novellus_lab.errors import ConfigurationError, InvalidRequestError

AZURE = "azure_llm_2023"
"""One hour of conversations at a large provider: 19,366 arrivals, 2023-11-16."""
_FILE = "azure_llm_inference_2023_conv.csv.gz"
_TIMES = ("timestamp", "time", "arrived_at", "created_at", "arrival_s", "offset_s")


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Seconds from the first arrival, in order."""

    name: str
    offsets_s: tuple[float, ...]
    source: str = ""
    licence: str = ""
    speed: float = 1.0
    """How many times as fast as the trace they come."""

    def __len__(self) -> int:
        return len(self.offsets_s)

    @property
    def duration_s(self) -> float:
        """From the first to the last."""
        return self.offsets_s[-1] if self.offsets_s else 0.0

    def first(self, n: int) -> Arrivals:
        """Return the first `n` of them."""
        return replace(self, offsets_s=self.offsets_s[:n])

    def scaled(self, speed: float) -> Arrivals:
        """Return them `speed` times as fast.

        Raises:
            InvalidRequestError: not above 0.
        """
        if (
            isinstance(speed, bool)
            or not isinstance(speed, (int, float))
            or not 0 < speed < math.inf
        ):
            raise InvalidRequestError(f"speed must be a number above 0, not {speed!r:.80}")
        return replace(
            self, offsets_s=tuple(at / speed for at in self.offsets_s), speed=self.speed * speed
        )

    def told(self) -> str:
        """In a few words."""
        pace = "" if self.speed == 1 else f", {self.speed:g} times as fast"
        return f"{len(self):,} arrivals of {self.name} in {self.duration_s:,.0f} s{pace}"


def arrivals_of(given: Any) -> Arrivals:
    """Return the arrivals that are meant.

    Args:
        given: `Arrivals`; `"azure_llm_2023"`; a path to CSV or JSONL (also gzipped) with a column
            `timestamp` (or `time`, `arrived_at`, `created_at`: a time, or milliseconds; `arrival_s`,
            `offset_s`: seconds); or times: seconds, or datetimes.

    Raises:
        InvalidRequestError: it is none of these, or holds no times.
    """
    if isinstance(given, Arrivals):
        return given
    if given == AZURE:
        return _azure()
    if isinstance(given, (str, Path)):
        path = Path(given)
        if not path.is_file():
            raise InvalidRequestError(
                f"there is neither a trace {str(given)!r} ({AZURE}) nor such a file"
            )
        return _arrivals(path.name.split(".")[0], _times(path), str(path))
    if isinstance(given, Iterable) and not isinstance(given, (bytes, dict)):
        return _arrivals("a list", [_seconds(one, 1.0, "arrivals") for one in given], "a list")
    raise InvalidRequestError(f"arrivals are a trace, a path or a list of times, not {given!r:.80}")


def _arrivals(name: str, times: list[float], source: str) -> Arrivals:
    if not times:
        raise InvalidRequestError(f"{source} holds no arrivals")
    ordered = sorted(times)
    return Arrivals(name, tuple(at - ordered[0] for at in ordered), source)


def _times(path: Path) -> list[float]:
    raw = path.read_bytes()
    if path.suffix == ".gz":
        raw = gzip.decompress(raw)
    rows: Iterable[dict[str, Any]]
    if ".csv" in path.suffixes:
        rows = csv.DictReader(TextIOWrapper(BytesIO(raw), encoding="utf-8-sig", newline=""))
    else:
        try:
            rows = [orjson.loads(line) for line in raw.splitlines() if line.strip()]
        except orjson.JSONDecodeError as error:
            raise InvalidRequestError(f"{path} is neither CSV nor JSONL: {error}") from None
    found = []
    for number, row in enumerate(rows, 1):
        lowered = {str(key).lower(): value for key, value in row.items()}
        name = next((one for one in _TIMES if one in lowered), None)
        if name is None:
            raise InvalidRequestError(f"{path}, row {number}: no column of {', '.join(_TIMES)}")
        scale = 1.0 if name.endswith("_s") else 0.001
        found.append(_seconds(lowered[name], scale, f"{path}, row {number}"))
    return found


def _seconds(value: Any, scale: float, where: str) -> float:
    """A number times `scale`, or a time."""
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    try:
        number = float(value) * scale
    except (TypeError, ValueError):
        try:
            text = str(value).strip()
            whole, dot, digits = text.partition(".")
            read = datetime.fromisoformat(f"{whole}{dot}{digits[:6]}" if digits.isdigit() else text)
        except ValueError:
            raise InvalidRequestError(f"{where}: {value!r:.80} is no time") from None
        return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, bool) or not math.isfinite(number):
        raise InvalidRequestError(f"{where}: {value!r:.80} is no time")
    return number


@cache
def _azure() -> Arrivals:
    packaged = Path(str(files("novellus_lab") / "_data" / _FILE))
    for path in (packaged, Path(__file__).parents[2] / "datasets" / "traffic" / _FILE):
        if path.is_file() and path.stat().st_size:
            found = _arrivals(
                AZURE, _times(path), "Azure/AzurePublicDataset, AzureLLMInferenceTrace_conv"
            )
            return replace(found, licence="CC-BY-4.0")
    raise ConfigurationError(f"this installation lacks its {_FILE}: reinstall novellus_lab")
