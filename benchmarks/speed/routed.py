"""Calls a second with routing, limits and a budget on, beside the LiteLLM Router and the bare SDK."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

from benchmarks.speed.figures import Effort, Row, Section, interleaved, median_ratio
from benchmarks.speed.processes import ClientProcess, count_rows, database, loopback_server

if TYPE_CHECKING:
    from collections.abc import Callable

OVER_ROUTER = 3.0
CONCURRENCY = 200

_OURS = {
    "lab.acomplete: rule, strategy, limits, a hard budget; logged": "lab_routed",
    "lab.batch: the same": "lab_routed_batch",
}
_SDK = "openai SDK, its default transport, no routing"
_FLOOR = "aiohttp alone"
_PEERS = {
    "litellm Router, as it comes": {},
    "litellm Router, keeping to rpm and tpm": {"limits": True},
}


def measure(effort: Effort, peer_python: str | None) -> tuple[Section]:
    """Measure calls that choose among four models, 200 at once."""
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(loopback_server())
        db = stack.enter_context(database())
        absent: list[str] = []

        def started(contender: str, **options: object) -> ClientProcess:
            peer = contender.startswith("litellm")
            python = peer_python or sys.executable if peer else sys.executable
            process = ClientProcess(contender, url, python=python, **options)
            return stack.enter_context(process)

        where = {"home": str(db.home), "database_url": db.conninfo, "tags": {"by": "routed"}}
        running = {title: started(name, **where) for title, name in _OURS.items()}
        running |= {_SDK: started("sdk"), _FLOOR: started("aiohttp")}
        for title, options in _PEERS.items():
            try:
                running[title] = started("litellm_routed", **options)
            except ModuleNotFoundError:
                absent.append(f"{title} is absent: not installed (see --peer-python)")

        concurrency = max(2, min(CONCURRENCY, effort.concurrent_calls // 2))

        def turn(title: str) -> Callable[[], float]:
            # A rate needs no more calls where each takes long.
            calls = effort.concurrent_calls // (2 if title in _PEERS else 1)
            order = running[title].order
            return lambda: calls / order("concurrent", calls=calls, concurrency=concurrency)

        found = interleaved({title: turn(title) for title in running}, effort.rounds)
        for title in _OURS:
            running[title].order("close")
        made = (effort.rounds + 1) * len(_OURS) * effort.concurrent_calls
        logged = count_rows(db.conninfo)
    ours = [found[title] for title in _OURS]
    rows = []
    for title, samples in found.items():
        ratios = [median_ratio(mine, samples) for mine in ours]
        rows.append(
            Row(
                title,
                "calls/s",
                samples,
                ours=title in _OURS,
                beside="" if title in _OURS else "ours " + ", ".join(f"{r:.2f}x" for r in ratios),
                target=f"≥ {OVER_ROUTER}x" if title in _PEERS else "",
                met=min(ratios) >= OVER_ROUTER if title in _PEERS else None,
            )
        )
    note = f"{logged:,} rows in ai_requests for the {made:,} calls of ours"
    wrong = () if logged == made else (f"{logged:,} rows for {made:,} calls",)
    title = f"Calls with routing, limits and a budget, {concurrency} at once"
    return (Section(title, tuple(rows), (*absent, note), wrong),)
