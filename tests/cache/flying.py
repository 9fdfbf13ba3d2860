"""A process that asks one thing many times at once: `python -m tests.cache.flying '{…}'`.

The leader appends a line to a file: what it would have spent. What came back is printed as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from novellus_lab.cache.flight import SingleFlight
from novellus_lab.cache.lease import PostgresLease, RedisLease
from novellus_lab.cache.postgres import PostgresTier
from novellus_lab.cache.redis import RedisTier
from tests.cache.entries import entry

if TYPE_CHECKING:
    from novellus_lab.cache.entry import CacheEntry
    from novellus_lab.cache.lease import Lease


async def main(
    *,
    server: str,
    calls: str,
    callers: int,
    keys: int,
    takes_s: float,
    begin: str,
    number: int,
    ttl_s: float,
) -> None:
    lease: Lease
    if server.startswith("unix://"):
        tier = RedisTier(server, read_timeout_s=60)
        put, get, flush, close = tier.put, tier.get, tier.flush, tier.close
        lease = RedisLease(server, ttl_s=ttl_s, timeout_s=60)
    else:
        shared = PostgresTier(server, read_timeout_s=60)
        get, flush, close = shared.get, shared.flush, shared.close
        lease = PostgresLease(server, ttl_s=ttl_s, timeout_s=60)

        def put(one: CacheEntry) -> None:
            shared.put(one, None)

    flight: SingleFlight[CacheEntry] = SingleFlight(lease, stored=flush)

    async def ask(key: bytes) -> tuple[str, bool]:
        async def lead() -> CacheEntry:
            with Path(calls).open("a") as file:
                file.write(f"{os.getpid()} {key.decode()}\n")
            await asyncio.sleep(takes_s)
            one = entry(key, content=f"made by {os.getpid()}")
            put(one)
            return one

        landed = await flight.run(key, lead, look_up=lambda: get(key))
        return landed.value.content, landed.led

    Path(f"{begin}.{number}").touch()
    while not Path(begin).exists():  # all processes at once
        await asyncio.sleep(0.001)
    started = time.perf_counter()
    answers = await asyncio.gather(*(ask(b"%d" % (n % keys)) for n in range(callers)))
    took_s = time.perf_counter() - started
    await flight.close()
    await lease.close()
    await close()
    print(
        json.dumps({
            "contents": sorted({content for content, _ in answers}),
            "answers": len(answers),
            "led": sum(led for _, led in answers),
            "took_s": took_s,
        })
    )  # fmt: skip


if __name__ == "__main__":
    asyncio.run(main(**json.loads(sys.argv[1])))
