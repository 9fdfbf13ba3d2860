"""What an exact hit takes: from memory, logged, and from PostgreSQL."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Any

import psycopg

from benchmarks.speed.contenders import ASKED, MODEL, our_model
from benchmarks.speed.figures import Effort, Row, Section, interleaved, median_ratio
from benchmarks.speed.processes import ClientProcess, count_rows, database, loopback_server
from novellus_lab import Lab
from novellus_lab.cache.key import cache_key, scope_digest
from novellus_lab.pipeline.request import build_request

if TYPE_CHECKING:
    from collections.abc import Callable

HITS_A_SECOND = 20_000
SHARED_MS = 2.0


def measure(effort: Effort, peer_python: str | None) -> tuple[Section, Section]:
    """Measure hits from memory, and from PostgreSQL by a lab whose memory is empty."""
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(loopback_server())
        db = stack.enter_context(database())
        config = {"models": [our_model(url)], "cache": {"ttl_seconds": None}}

        def open_lab() -> Lab:
            return Lab(home=db.home, database_url=db.conninfo, config=config)

        memory = _from_memory(effort, open_lab, db.conninfo, url, peer_python)
        return memory, _from_postgres(effort, open_lab, db.conninfo)


def _from_memory(
    effort: Effort, open_lab: Callable[[], Lab], conninfo: str, url: str, peer_python: str | None
) -> Section:
    with contextlib.ExitStack() as stack:
        lab = stack.enter_context(open_lab())
        lab.complete(**ASKED, model_id=MODEL)
        lab.flush()

        def ours() -> float:
            started = time.perf_counter()
            for _ in range(effort.hits):
                lab.complete(**ASKED, model_id=MODEL)
            lab.flush(timeout=120)  # until the last row is in PostgreSQL
            return effort.hits / (time.perf_counter() - started)

        def unlogged() -> float:
            started = time.perf_counter()
            for _ in range(effort.hits):
                lab.complete(**ASKED, model_id=MODEL)
            seconds = time.perf_counter() - started
            lab.flush(timeout=120)
            return effort.hits / seconds

        turns = {
            "lab.complete, until its row is in PostgreSQL": ours,
            "lab.complete, until it returns": unlogged,
            "floor: check, key and dict": lambda: _key_and_dict(effort.hits),
        }
        absent = []
        for name, title, options in (
            ("litellm", "litellm's local cache, no log", {"cache": True}),
            ("gptcache", "GPTCache's exact match, no log", {}),
        ):
            try:
                process = ClientProcess(name, url, python=peer_python or sys.executable, **options)
            except (ModuleNotFoundError, RuntimeError):
                absent.append(f"{title.partition(',')[0]} is absent: not installed here")
                continue
            stack.enter_context(process)
            calls = max(1, effort.hits // 50)
            process.order("sequential", calls=2)
            turns[title] = _rate(process, calls)
        found = interleaved(turns, effort.cache_rounds)
        made = 1 + 2 * effort.hits * (effort.cache_rounds + 1)
    logged = count_rows(conninfo)
    first, *_ = found.values()
    rows = []
    for name, rates in found.items():
        judged = rates is first
        rows.append(
            Row(
                name,
                "hits/s",
                rates,
                ours=name.startswith("lab"),
                beside="" if judged else f"ours {median_ratio(first, rates):.2f}x",
                target=f"≥ {HITS_A_SECOND:,}" if judged else "",
                met=min_median(rates) >= HITS_A_SECOND if judged else None,
            )
        )
    note = f"{logged:,} rows in ai_requests for {made:,} calls"
    wrong = () if logged == made else (note,)
    return Section("Exact hits from memory, synchronous", tuple(rows), (*absent, note), wrong)


def min_median(samples: tuple[float, ...]) -> float:
    return sorted(samples)[len(samples) // 2]


def _rate(process: ClientProcess, calls: int) -> Callable[[], float]:
    return lambda: calls / process.order("sequential", calls=calls)


def _key_and_dict(hits: int) -> float:
    scope = scope_digest([b"model"])
    known: dict[bytes, Any] = {}
    started = time.perf_counter()
    for _ in range(hits):
        request = build_request(**ASKED, model_id=MODEL)
        known.get(cache_key(scope, request.messages_json, request.params_json))
    return hits / (time.perf_counter() - started)


def _from_postgres(effort: Effort, open_lab: Callable[[], Lab], conninfo: str) -> Section:
    prompts = [f"Question number {n}?" for n in range(effort.shared_hits)]
    with open_lab() as lab:
        lab.batch(prompts, model_id=MODEL, progress=False)
        lab.flush(timeout=60)

    def ours() -> float:
        with open_lab() as fresh:
            fresh.complete("Something else, to open the connection", model_id=MODEL)
            started = time.perf_counter()
            for prompt in prompts:
                if fresh.complete(prompt, model_id=MODEL).cache != "postgres":
                    raise AssertionError("a hit did not come from PostgreSQL")
            return (time.perf_counter() - started) * 1000 / len(prompts)

    with psycopg.connect(conninfo, autocommit=True) as connection:
        keys = [
            row[0]
            for row in connection.execute(
                "SELECT cache_key FROM ai_response_cache WHERE kind = 'chat'"
            )
        ]

        def bare() -> float:
            started = time.perf_counter()
            for key in keys:
                connection.execute(
                    "SELECT response::text FROM ai_response_cache WHERE cache_key = %s", [key]
                ).fetchone()
            return (time.perf_counter() - started) * 1000 / len(keys)

        found = interleaved(
            {"lab.complete, logged": ours, "floor: SELECT by key": bare}, effort.cache_rounds
        )
    mine, floor = found.values()
    return Section(
        "Exact hits from PostgreSQL, one after another",
        (
            Row(
                "lab.complete, logged",
                "ms a hit",
                mine,
                ours=True,
                target=f"< {SHARED_MS:g} ms",
                met=min_median(mine) < SHARED_MS,
            ),
            Row(
                "floor: SELECT by key",
                "ms a hit",
                floor,
                beside=f"ours {median_ratio(mine, floor):.2f}x",
            ),
        ),
    )
