"""What an exact hit costs, from memory and from PostgreSQL; every hit is logged."""

from __future__ import annotations

import contextlib
import hashlib
import json
import statistics
import sys
import time
from typing import TYPE_CHECKING

import orjson
import psycopg

from benchmarks.speed.contenders import ASKED, MODEL, our_model
from benchmarks.speed.figures import Effort, Row, Section, interleaved, median_ratio
from benchmarks.speed.processes import ClientProcess, count_rows, database, loopback_server
from novellus_lab import Lab

if TYPE_CHECKING:
    from collections.abc import Callable

HITS_PER_S = 20_000
SHARED_MS = 2.0

_PEERS = {
    "GPTCache, exact map, not logged": ("gptcache", 4),
    "litellm, local cache, not logged": ("litellm", 20),
}
"""Contender, and by what its number of hits is divided: it is that much slower."""


def measure(effort: Effort, peer_python: str | None) -> tuple[Section, Section]:
    """Measure hits from memory, then hits from PostgreSQL."""
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(loopback_server())
        db = stack.enter_context(database())
        lab = stack.enter_context(
            Lab(home=db.home, database_url=db.conninfo, config={"models": [our_model(url)]})
        )
        memory = _from_memory(effort, lab, db.conninfo, url, peer_python)
        return memory, _from_postgres(effort, lab, db.conninfo)


def _from_memory(
    effort: Effort, lab: Lab, conninfo: str, url: str, peer_python: str | None
) -> Section:
    asked = {**ASKED, "model_id": MODEL}
    lab.complete(**asked)  # the one call that is made

    def hits() -> float:
        started = time.perf_counter()
        for _ in range(effort.hits):
            lab.complete(**asked)
        lab.flush(timeout=60.0)
        return effort.hits / (time.perf_counter() - started)

    kept = {_key(): "Hello there."}

    def floor() -> float:
        started = time.perf_counter()
        for _ in range(effort.hits):
            kept[_key()]
        return effort.hits / (time.perf_counter() - started)

    turns: dict[str, Callable[[], float]] = {
        "lab.complete, logged, flush included": hits,
        "floor: key (orjson, blake2b) and a dict": floor,
    }
    notes = []
    with contextlib.ExitStack() as stack:
        for title, (contender, slower) in _PEERS.items():
            try:
                process = stack.enter_context(
                    ClientProcess(contender, url, python=peer_python or sys.executable, cache=True)
                )
                process.order("sequential", calls=2)  # a miss and a hit: litellm imports late
            except ModuleNotFoundError:
                notes.append(
                    f"{title.partition(',')[0]} is absent: not installed (see --peer-python)"
                )
                continue
            turns[title] = _peer(process, max(1, effort.hits // slower))
        found = interleaved(turns, effort.cache_rounds)

    made = 1 + (effort.cache_rounds + 1) * effort.hits
    logged = count_rows(conninfo)
    served = count_rows(conninfo, "cache = 'memory'")
    notes.append(f"{logged:,} rows in ai_requests for {made:,} requests, {served:,} of them hits")
    broken = logged != made or served != made - 1
    ours = found["lab.complete, logged, flush included"]
    rows = []
    for title, rates in found.items():
        if rates is ours:
            met = statistics.median(rates) >= HITS_PER_S
            target = f"≥ {HITS_PER_S:,}/s"
            row = Row(title, "hits/s", rates, ours=True, target=target, met=met)
        else:
            row = Row(title, "hits/s", rates, beside=f"ours {median_ratio(ours, rates):.2f}x")
        rows.append(row)
    return Section(
        "Exact hits from memory, sync, one process",
        tuple(rows),
        tuple(notes),
        (notes[-1],) if broken else (),
    )


def _key() -> bytes:
    return hashlib.blake2b(orjson.dumps({"model": MODEL, **ASKED})).digest()


def _peer(process: ClientProcess, hits: int) -> Callable[[], float]:
    return lambda: hits / float(process.order("sequential", calls=hits))


def _from_postgres(effort: Effort, lab: Lab, conninfo: str) -> Section:
    prompts = [f"{ASKED['messages'][1]['content']} No. {n}" for n in range(effort.shared_hits)]
    lab.batch(prompts, model_id=MODEL, progress=False)
    lab.flush(timeout=60.0)
    memory = lab._live().caching.responses.memory

    def hits() -> float:
        memory.clear()
        started = time.perf_counter()
        outcomes = {lab.complete(prompt, model_id=MODEL).cache for prompt in prompts}
        seconds = time.perf_counter() - started
        assert outcomes == {"postgres"}, outcomes
        return seconds / len(prompts) * 1000

    with psycopg.connect(conninfo, autocommit=True) as connection:
        keys = [
            row[0]
            for row in connection.execute("SELECT cache_key FROM ai_response_cache").fetchall()
        ]

        def select() -> float:
            started = time.perf_counter()
            for key in keys:
                found = connection.execute(
                    "SELECT response::text FROM ai_response_cache WHERE cache_key = %s",
                    [key],
                    prepare=True,
                ).fetchone()
                json.loads(found[0])  # type: ignore[index]
            return (time.perf_counter() - started) / len(keys) * 1000

        found = interleaved(
            {"lab.complete, logged": hits, "floor: SELECT by key, psycopg": select},
            effort.cache_rounds,
        )
    ours, floor = found.values()
    return Section(
        "Exact hits from PostgreSQL",
        (
            Row(
                "lab.complete, logged",
                "ms a hit",
                ours,
                ours=True,
                target=f"< {SHARED_MS:g} ms",
                met=statistics.median(ours) < SHARED_MS,
            ),
            Row(
                "floor: SELECT by key, psycopg",
                "ms a hit",
                floor,
                beside=f"ours {median_ratio(ours, floor):.2f}x",
            ),
        ),
    )
