"""Rows of `ai_requests` that were never asked: seeded, with faults at known times."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import psycopg

from novellus_lab.ids import uuid7

COLUMNS = (
    *("id", "created_at", "kind", "stream", "status", "error_class", "model", "provider", "rule"),
    *("cache", "input_tokens", "output_tokens", "cost_usd", "latency_ms", "tags", "session_id"),
    "attempts",
)


def now() -> datetime:
    """The last full minute."""
    return datetime.now(UTC).replace(second=0, microsecond=0)


NOW = now()

Row = dict[str, Any]
Fault = Callable[[Row, np.random.Generator], None]


@dataclass(frozen=True)
class Injected:
    """What happens to the requests of some minutes; `times` as many are made."""

    start: datetime
    end: datetime
    change: Fault = lambda row, rng: None
    times: float = 1.0


def rows(
    start: datetime,
    end: datetime,
    *,
    every: timedelta = timedelta(minutes=1),
    mean: float = 12.0,
    models: Iterable[str] = ("big", "small"),
    faults: Iterable[Injected] = (),
    seed: int = 7,
) -> list[Row]:
    """Poisson many requests in each span of `every`, one in ten from the cache, one in 100 failed."""
    rng = np.random.default_rng(seed)
    faults, models = list(faults), list(models)
    made = []
    time = start
    while time < end:
        now = [fault for fault in faults if fault.start <= time < fault.end]
        for _ in range(rng.poisson(mean * np.prod([fault.times for fault in now]))):
            output = int(rng.lognormal(5, 0.3))
            hit = rng.random() < 0.1
            row = {
                "created_at": time + rng.random() * every,
                "model": models[int(rng.integers(len(models)))],
                "team": ("search", "support", "sales")[int(rng.integers(3))],
                "status": "error" if rng.random() < 0.01 else "ok",
                "cache": "memory" if hit else "miss",
                "output_tokens": output,
                "latency_ms": 2.0 if hit else float(300 + 5 * output * rng.lognormal(0, 0.2)),
                "cost_usd": 0.0 if hit else round(1e-5 * output, 8),
            }
            for fault in now:
                fault.change(row, rng)
            made.append(row)
        time += every
    return made


def write(conninfo: str, made: Iterable[Row]) -> None:
    """Enter rows into the log."""
    with (
        psycopg.connect(conninfo) as connection,
        connection.cursor() as cursor,
        cursor.copy(f"COPY ai_requests ({', '.join(COLUMNS)}) FROM STDIN".encode()) as copy,
    ):
        for row in made:
            at = row["created_at"]
            failed = row["status"] == "error"
            copy.write_row(
                [
                    row.get("id") or uuid7(int(at.timestamp() * 1e9)),
                    *(at, row.get("kind", "chat"), False, row["status"]),
                    row.get("error_class", "ProviderUnavailableError") if failed else None,
                    *(row["model"], row.get("provider", "made-up"), row.get("rule", "default")),
                    *(row["cache"], 100, None if failed else row["output_tokens"]),
                    *(None if failed else row["cost_usd"], row["latency_ms"]),
                    json.dumps(row.get("tags", {"team": row.get("team", "search")})),
                    *(row.get("session"), 1),
                ]
            )
