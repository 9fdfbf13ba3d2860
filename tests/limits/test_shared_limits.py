"""Limits that processes share over a real Valkey; and what holds while it is away."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import time

import pytest
import redis

from novellus_lab.errors import LimitExceededError
from novellus_lab.limits.quota import key_quota, model_quota
from novellus_lab.limits.rate_limits import RateLimits
from novellus_lab.limits.shared import SharedLimits

LONG_S = 30


async def until(condition) -> None:
    end = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        await asyncio.sleep(0.01)


class Labs:
    """Several limiters on one server, as several processes have them."""

    def __init__(self, url: str, number: int = 2, **options) -> None:
        self.all = [RateLimits(redis_url=url, **options) for _ in range(number)]

    async def __aenter__(self) -> list[RateLimits]:
        return self.all

    async def __aexit__(self, *_: object) -> None:
        for lab in self.all:
            await lab.aclose()


async def test_requests_are_counted_together(valkey):
    q = model_quota("m", rpm=60)
    async with Labs(valkey, on_limit="raise") as (a, b):
        for _ in range(30):
            (await a.acquire((q,))).settle()
            (await b.acquire((q,))).settle()
        for lab in (a, b):
            with pytest.raises(LimitExceededError, match="60 requests a minute") as e:
                await lab.acquire((q,))
            assert 0 < e.value.retry_after_s <= 1


async def test_tokens_are_held_and_settled_for_all(valkey):
    q = model_quota("m", tpm=6_000)
    async with Labs(valkey, on_limit="raise") as (a, b):
        permit = await a.acquire((q,), input_tokens=1_000, output_tokens=4_000)
        with pytest.raises(LimitExceededError, match="tokens a minute"):
            await b.acquire((q,), input_tokens=1_500)
        permit.settle(1_500)
        await a.flush()
        cancelled = await b.acquire((q,), input_tokens=4_500)
        cancelled.cancel()
        await b.flush()
        (await a.acquire((q,), input_tokens=4_500)).settle(7_500)  # a debt of 3,000
        await a.flush()
        with pytest.raises(LimitExceededError) as e:
            await b.acquire((q,), input_tokens=1)
        assert e.value.retry_after_s == pytest.approx(30, abs=3)


async def test_calls_at_once_and_who_waits_is_let_in_by_another_process_end(valkey):
    model, key = model_quota("m"), key_quota("KEY", "secret", concurrent=2)
    async with Labs(valkey) as (a, b):
        first, second = await a.acquire((model, key)), await b.acquire((model, key))
        waits = [asyncio.create_task(lab.acquire((model, key))) for lab in (a, b)]
        await asyncio.sleep(0.1)
        assert not any(task.done() for task in waits)
        first.settle()
        second.settle()
        for permit in await asyncio.wait_for(asyncio.gather(*waits), LONG_S):
            permit.settle()


async def test_all_quotas_or_none(valkey):
    model, key = model_quota("m", rpm=5), key_quota("KEY", "secret", concurrent=1)
    async with Labs(valkey, on_limit="raise") as (a, b):
        running = await a.acquire((model, key))
        for _ in range(10):
            with pytest.raises(LimitExceededError, match="KEY allows 1 calls at once"):
                await b.acquire((model, key))
        running.settle()
        await a.flush()
        for _ in range(4):
            (await b.acquire((model, key))).settle()
            await b.flush()
        with pytest.raises(LimitExceededError, match="5 requests"):
            await b.acquire((model, key))


async def test_order_and_priority_within_a_process(valkey):
    q = model_quota("m", concurrent=1)
    async with Labs(valkey, 1) as (lab,):
        order: list[str] = []

        async def call(name: str, priority: float = 0) -> None:
            permit = await lab.acquire((q,), priority=priority)
            order.append(name)
            permit.settle()

        running = await lab.acquire((q,))
        tasks = []
        for name, priority in (("0", 0), ("1", 0), ("2", 0), ("urgent", 50)):
            tasks.append(asyncio.create_task(call(name, priority)))
            await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        running.settle()
        await asyncio.wait_for(asyncio.gather(*tasks), LONG_S)
        assert order == ["urgent", "0", "1", "2"]


async def test_who_leaves_takes_no_room_along(valkey):
    q = model_quota("m", concurrent=1)
    async with Labs(valkey, 1) as (lab,):
        running = await lab.acquire((q,))
        tasks = [asyncio.create_task(lab.acquire((q,))) for _ in range(20)]
        await asyncio.sleep(0.05)
        running.settle()
        for task in tasks[:-1]:
            await asyncio.sleep(0.001)
            if task.done() and not task.cancelled():
                task.result().cancel()
            task.cancel()
        last = await asyncio.wait_for(tasks[-1], LONG_S)
        last.settle()
        await lab.flush()
        with redis.Redis.from_url(valkey) as client:
            assert [client.zcard(key) for key in client.keys("*calls")] == []


async def test_a_pause_holds_for_all(valkey):
    q = model_quota("m")
    async with Labs(valkey, on_limit="raise") as (a, b):
        await b.acquire((q,))
        a.pause(q, 30)
        await until(lambda: not a._pausing)
        with pytest.raises(LimitExceededError, match="pause") as e:
            await b.acquire((q,))
        assert e.value.retry_after_s == pytest.approx(30, abs=3)


async def test_a_prompt_that_never_fits_is_refused_without_asking(valkey):
    async with Labs(valkey, 1) as (lab,):
        with pytest.raises(LimitExceededError, match="for ever"):
            await lab.acquire((model_quota("m", tpm=10),), input_tokens=11)


async def test_a_deadline_ends_the_wait(valkey):
    rpm, one = model_quota("m", rpm=1), model_quota("n", concurrent=1)
    async with Labs(valkey, 1) as (lab,):
        await lab.acquire((rpm,))
        with pytest.raises(LimitExceededError, match="longer timeout"):
            await lab.acquire((rpm,), timeout_s=20)
        await lab.acquire((one,))
        with pytest.raises(LimitExceededError):
            await lab.acquire((one,), timeout_s=0.05)


_HOLDER = """
import asyncio, sys
from novellus_lab.limits.quota import model_quota
from novellus_lab.limits.rate_limits import RateLimits

async def main():
    limits = RateLimits(redis_url=sys.argv[1])
    await limits.acquire((model_quota("m", tpm=6_000, concurrent=1),), input_tokens=3_000)
    print("holds", flush=True)
    await asyncio.sleep(600)

import novellus_lab.limits.rate_limits as module
module._LEASE_S = 1.0
asyncio.run(main())
"""


async def test_a_process_that_dies_gives_its_place_back_and_its_tokens_count_as_used(valkey):
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, valkey], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "holds\n"
    holder.kill()
    holder.wait()
    holder.stdout.close()
    q = model_quota("m", tpm=6_000, concurrent=1)
    async with Labs(valkey, 1) as (lab,):
        permit = await asyncio.wait_for(lab.acquire((q,), input_tokens=100), LONG_S)
        permit.settle(100)
        await lab.flush()
        with pytest.raises(LimitExceededError, match="6,000 tokens"):
            await lab.acquire((q,), input_tokens=5_000, on_limit="raise")


_WORKER = """
import asyncio, sys, time
from novellus_lab.limits.quota import model_quota
from novellus_lab.limits.rate_limits import RateLimits

async def main():
    limits = RateLimits(redis_url=sys.argv[1])
    q = model_quota("m", rpm=6_000, concurrent=3)  # a hundred a second, six at first
    q = type(q)(q.id, q.label, q.rpm, q.tpm, q.concurrent, burst=0.001)
    async def call():
        permit = await limits.acquire((q,))
        began = time.time()
        await asyncio.sleep(0.005)
        print(began, time.time(), flush=True)
        permit.settle()
    await asyncio.gather(*(call() for _ in range(60)))
    await limits.aclose()

asyncio.run(main())
"""


def test_two_processes_keep_one_limit(valkey):
    workers = [
        subprocess.Popen([sys.executable, "-c", _WORKER, valkey], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    calls = []
    for worker in workers:
        out, _ = worker.communicate(timeout=60)
        assert worker.returncode == 0
        calls += [tuple(map(float, line.split())) for line in out.splitlines()]
    assert len(calls) == 120
    began = sorted(b for b, _ in calls)
    # Between being let in and being seen here some milliseconds pass: allow for five calls.
    for n in range(0, 120, 10):
        for m in range(n + 20, 120, 10):
            assert m - n <= 6 + (began[m] - began[n]) * 100 + 5
    edges = sorted([(b, 1) for b, _ in calls] + [(e, -1) for _, e in calls])
    running = most = 0
    for _, step in edges:
        running += step
        most = max(most, running)
    assert most <= 3


async def test_away_the_limits_are_kept_here_with_a_warning_and_then_shared_again(
    valkey, valkey_server, caplog
):
    q = model_quota("m", rpm=60, concurrent=1)
    caplog.set_level(logging.WARNING, "novellus_lab.limits")
    async with Labs(valkey, 1) as (lab,):
        running = await lab.acquire((q,))
        waits = asyncio.create_task(lab.acquire((q,)))
        await asyncio.sleep(0.05)
        valkey_server.stop()
        await until(lambda: lab._away)
        assert "by itself" in caplog.text
        assert not waits.done()
        running.settle()
        permit = await asyncio.wait_for(waits, LONG_S)
        with pytest.raises(LimitExceededError, match="1 calls at once"):
            await lab.acquire((q,), on_limit="raise")
        permit.settle()
        valkey_server.start()
        await until(lambda: not lab._away)
        assert "shared again" in caplog.text
        permit = await lab.acquire((q,))
        with redis.Redis.from_url(valkey) as client:
            [calls] = client.keys("*calls")
            assert client.zcard(calls) == 1
        permit.settle()
        await lab.flush()
        with redis.Redis.from_url(valkey) as client:
            assert not client.exists(calls)


async def test_a_server_that_was_never_there_is_no_obstacle():
    async with Labs("redis://127.0.0.1:1", 1) as (lab,):
        (await asyncio.wait_for(lab.acquire((model_quota("m", rpm=5),)), LONG_S)).settle()


async def test_what_is_sent_again_because_its_answer_was_lost_counts_once(valkey):
    q = model_quota("m", rpm=60, tpm=1_000, concurrent=2)
    shared = SharedLimits(valkey)
    run = shared._run
    shared._run = lambda *words: _twice(run, *words)
    members, *_ = await shared.take((q,), [300.0], 60)
    assert len(members) == 1
    shared.end((q,), members[0], 200.0, sent=True)
    await shared.flush()
    with redis.Redis.from_url(valkey, decode_responses=True) as client:
        [state] = client.keys("*state")
        found = client.hgetall(state)
    assert float(found["held"]) == 0
    assert float(found["requests"]) == pytest.approx(59, abs=0.9)
    assert float(found["tokens"]) == pytest.approx(800, abs=100)
    await shared.aclose()


async def _twice(run, *words):
    await run(*words)
    return await run(*words)


async def test_a_thousand_calls_are_counted_to_the_token(valkey):
    q = model_quota("m", tpm=1_000_000, concurrent=50)
    async with Labs(valkey) as (a, b):

        async def call(lab: RateLimits, n: int) -> None:
            permit = await lab.acquire((q,), input_tokens=100, output_tokens=400)
            await asyncio.sleep(0)
            if n % 10 == 0:
                permit.cancel()
            else:
                permit.settle(300)

        started = time.time()
        await asyncio.gather(*(call(lab, n) for n in range(500) for lab in (a, b)))
        await a.flush()
        await b.flush()
        with redis.Redis.from_url(valkey, decode_responses=True) as client:
            [state] = client.keys("*state")
            found = client.hgetall(state)
        used = 900 * 300
        refilled = (time.time() - started) * 1_000_000 / 60
        assert float(found["held"]) == 0
        assert 1_000_000 - used - 1 <= float(found["tokens"]) <= 1_000_000 - used + refilled


async def test_without_the_package_the_message_says_how_to_get_it(monkeypatch):
    from novellus_lab.errors import MissingDependencyError

    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(MissingDependencyError, match="pip install"):
        SharedLimits("redis://localhost")
