"""What the package adds to a provider call: against a server on loopback that answers at once."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.speed.figures import (
    Effort,
    Row,
    Section,
    interleaved,
    median_difference,
    median_ratio,
)
from benchmarks.speed.processes import ClientProcess, count_rows, database, loopback_server

if TYPE_CHECKING:
    from collections.abc import Callable

ADDED_MS = 0.3
OVER_SDK = 1.8
OVER_ROUTER = 3.0


@dataclass(frozen=True)
class Client:
    """A row of the table: a contender, and whose Python runs it."""

    title: str
    contender: str
    peer: bool = False

    @property
    def ours(self) -> bool:
        return self.contender.startswith("lab")


ONE_BY_ONE = (
    Client("lab.complete, logged", "lab"),
    Client("openai SDK, its default transport", "sdk"),
    Client("openai SDK on aiohttp", "sdk_on_aiohttp"),
    Client("httpx alone", "httpx"),
    Client("aiohttp alone", "aiohttp"),
    Client("litellm.completion", "litellm", peer=True),
    Client("litellm Router", "litellm_router", peer=True),
)
AT_ONCE = (
    Client("lab.acomplete, logged", "lab"),
    Client("lab.batch, logged", "lab_batch"),
    *ONE_BY_ONE[1:5],
    Client("litellm.acompletion", "litellm", peer=True),
    Client("litellm Router", "litellm_router", peer=True),
)


def measure(effort: Effort, peer_python: str | None) -> tuple[Section, Section]:
    """Measure calls one after another, and many at once."""
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(loopback_server())
        db = stack.enter_context(database())
        running: dict[str, ClientProcess] = {}
        absent: list[str] = []
        for client in {c.contender: c for c in (*ONE_BY_ONE, *AT_ONCE)}.values():
            python = peer_python or sys.executable if client.peer else sys.executable
            options = (
                {"home": str(db.home), "database_url": db.conninfo, "tags": {"by": "speed"}}
                if client.ours
                else {}
            )
            try:
                process = ClientProcess(client.contender, url, python=python, **options)
            except ModuleNotFoundError:
                absent.append(f"{client.title} is absent: not installed (see --peer-python)")
                continue
            running[client.contender] = stack.enter_context(process)
        one_by_one = _one_by_one(effort, running, absent)
        at_once = _at_once(effort, running, absent)

        for name in ("lab", "lab_batch"):
            running[name].order("close")
        made = (effort.rounds + 1) * (effort.sequential_calls + 2 * effort.concurrent_calls)
        logged = count_rows(db.conninfo)
        note = f"{logged:,} rows in ai_requests for the {made:,} calls of ours"
        wrong = () if logged == made else (f"{logged:,} rows for {made:,} calls",)
    return one_by_one, Section(at_once.title, at_once.rows, (*at_once.notes, note), wrong)


def _one_by_one(effort: Effort, running: dict[str, ClientProcess], absent: list[str]) -> Section:
    clients = [c for c in ONE_BY_ONE if c.contender in running]

    def turn(process: ClientProcess) -> Callable[[], float]:
        calls = effort.sequential_calls
        return lambda: process.order("sequential", calls=calls) / calls * 1000

    found = interleaved({c.title: turn(running[c.contender]) for c in clients}, effort.rounds)
    ours = found[clients[0].title]
    rows = []
    for client in clients:
        theirs = found[client.title]
        added = median_difference(ours, theirs)
        judged = client.contender == "sdk"
        rows.append(
            Row(
                client.title,
                "ms a call",
                theirs,
                ours=client.ours,
                beside="" if client.ours else f"ours {_signed(added)} ms",
                target=f"< {_signed(ADDED_MS)} ms" if judged else "",
                met=added < ADDED_MS if judged else None,
            )
        )
    return Section("Calls, one after another", tuple(rows), tuple(absent))


def _at_once(effort: Effort, running: dict[str, ClientProcess], absent: list[str]) -> Section:
    clients = [c for c in AT_ONCE if c.contender in running]

    def turn(client: Client) -> Callable[[], float]:
        process, concurrency = running[client.contender], effort.concurrency
        # A rate needs no more calls where each takes long.
        calls = effort.concurrent_calls // (3 if client.peer else 1)
        return lambda: calls / process.order("concurrent", calls=calls, concurrency=concurrency)

    found = interleaved({c.title: turn(c) for c in clients}, effort.rounds)
    ours = [found[c.title] for c in clients if c.ours]
    wanted = {"sdk": OVER_SDK, "litellm_router": OVER_ROUTER}
    rows = []
    for client in clients:
        theirs = found[client.title]
        ratios = [median_ratio(mine, theirs) for mine in ours]
        least = wanted.get(client.contender)
        rows.append(
            Row(
                client.title,
                "calls/s",
                theirs,
                ours=client.ours,
                beside="" if client.ours else "ours " + ", ".join(f"{r:.2f}x" for r in ratios),
                target="" if least is None else f"≥ {least}x",
                met=None if least is None else min(ratios) >= least,
            )
        )
    return Section(f"Calls, {effort.concurrency} at once", tuple(rows), tuple(absent))


def _signed(ms: float) -> str:
    return f"{'+' if ms >= 0 else '−'}{abs(ms):.2f}"
