"""Limits hold exactly, waiting is fair, and nobody who leaves takes room with them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from novellus_lab.errors import LimitExceededError, RateLimitError
from novellus_lab.limits.bucket import Bucket
from novellus_lab.limits.quota import Quota, key_identity, key_quota, model_quota
from novellus_lab.limits.rate_limits import RateLimits


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def quota(name: str = "m", **limits) -> Quota:
    return model_quota(name, **limits)


async def soon(task: asyncio.Task) -> bool:
    """Let everything happen that can; return whether the task has ended."""
    for _ in range(10):
        await asyncio.sleep(0)
    return task.done()


async def test_requests_a_minute_and_no_more():
    limits, q = RateLimits(on_limit="raise", clock=Clock()), quota(rpm=60)
    for _ in range(60):
        (await limits.acquire((q,))).settle()
    with pytest.raises(
        LimitExceededError, match=r"m allows 60 requests a minute.* in 1\.00 s"
    ) as e:
        await limits.acquire((q,))
    assert e.value.retry_after_s == pytest.approx(1.0)
    assert isinstance(e.value, RateLimitError)
    assert (e.value.never_sent, e.value.retryable, e.value.limit) == (True, True, "m: rpm")
    limits._clock.now += 1.0
    await limits.acquire((q,))
    with pytest.raises(LimitExceededError):
        await limits.acquire((q,))


async def test_tokens_are_reserved_before_and_settled_after():
    clock = Clock()
    limits, q = RateLimits(on_limit="raise", clock=clock), quota(tpm=6_000)
    first = await limits.acquire((q,), input_tokens=1_000, output_tokens=4_000)
    with pytest.raises(LimitExceededError, match="when another call ends"):
        await limits.acquire((q,), input_tokens=1_001)
    first.settle(1_500)  # 3,500 are free again
    assert limits.state()[0].tokens_left == 4_500
    second = await limits.acquire((q,), input_tokens=4_500)
    second.settle(6_000)  # an estimate too low is a debt
    assert limits.state()[0].tokens_left == -1_500
    with pytest.raises(LimitExceededError) as e:
        await limits.acquire((q,), input_tokens=500)
    assert e.value.retry_after_s == pytest.approx(20)  # 2,000 tokens at 100 a second


async def test_an_end_counts_once_and_a_cancel_gives_all_back():
    limits, q = RateLimits(clock=Clock()), quota(rpm=10, tpm=1_000, concurrent=3)
    permit = await limits.acquire((q,), input_tokens=100)
    permit.cancel()
    permit.settle(900)
    permit.cancel()
    [state] = limits.state()
    assert (state.running, state.requests_left, state.tokens_left) == (0, 10, 1_000)
    permit = await limits.acquire((q,), input_tokens=100)
    permit.settle()  # nobody knows: the estimate stands
    permit.settle(0)
    [state] = limits.state()
    assert (state.running, state.requests_left, state.tokens_left) == (0, 9, 900)


async def test_a_refund_never_credits_what_the_bucket_won_back_by_itself():
    """Charge now and refund later would let 1,900 tokens through at once here."""
    clock = Clock()
    limits, q = RateLimits(on_limit="raise", clock=clock), quota(tpm=1_000)
    slow = await limits.acquire((q,), input_tokens=1_000)
    clock.now += 120
    slow.settle(100)
    (await limits.acquire((q,), input_tokens=900)).settle(900)
    with pytest.raises(LimitExceededError):
        await limits.acquire((q,), input_tokens=100)


async def test_a_prompt_larger_than_the_bucket_is_refused_at_once_whatever_the_mode():
    limits, q = RateLimits(clock=Clock()), quota(tpm=1_000, burst=0.5)
    with pytest.raises(LimitExceededError, match="501 tokens.*1,000 a minute.*500 at once") as e:
        await limits.acquire((q,), input_tokens=501)
    assert e.value.retryable is False
    assert e.value.retry_after_s is None
    # An answer that may be long is no reason: it holds all that there is.
    (await limits.acquire((q,), input_tokens=500, output_tokens=100_000)).settle(20)


async def test_all_quotas_or_none():
    limits = RateLimits(on_limit="raise", clock=Clock())
    model, key = quota("m", rpm=10), key_quota("KEY", "secret", concurrent=1)
    running = await limits.acquire((model, key))
    with pytest.raises(LimitExceededError, match="KEY allows 1 calls at once"):
        await limits.acquire((model, key))
    left = {state.label: state.requests_left for state in limits.state()}
    assert left == {"m": 9, "KEY": None}
    running.settle()
    await limits.acquire((model, key))


async def test_waiting_is_in_order_and_priority_overtakes():
    limits, q = RateLimits(), quota(concurrent=1)
    order: list[str] = []

    async def call(name: str, priority: float = 0) -> None:
        permit = await limits.acquire((q,), priority=priority)
        order.append(name)
        await asyncio.sleep(0)
        permit.settle()

    running = await limits.acquire((q,))
    tasks = [asyncio.create_task(call(f"{n}")) for n in range(5)]
    await asyncio.sleep(0)
    tasks.append(asyncio.create_task(call("urgent", priority=10)))
    await asyncio.sleep(0)
    assert limits.state()[0].waiting == 6
    running.settle()
    await asyncio.gather(*tasks)
    assert order == ["urgent", "0", "1", "2", "3", "4"]


async def test_nobody_waits_for_ever_behind_the_urgent():
    clock = Clock()
    limits, q = RateLimits(clock=clock), quota(concurrent=1)
    running = await limits.acquire((q,))
    humble = asyncio.create_task(limits.acquire((q,)))
    await soon(humble)
    clock.now += 11  # a priority of ten is worth ten seconds
    urgent = asyncio.create_task(limits.acquire((q,), priority=10))
    await soon(urgent)
    running.settle()
    assert await soon(humble)
    assert not urgent.done()
    urgent.cancel()


async def test_a_large_call_is_not_starved_by_small_ones():
    limits, q = RateLimits(), quota(tpm=60_000)
    running = await limits.acquire((q,), input_tokens=50_000)
    large = asyncio.create_task(limits.acquire((q,), input_tokens=30_000))
    await soon(large)
    small = asyncio.create_task(limits.acquire((q,), input_tokens=1))
    assert not await soon(small)  # there would be room, but it is not its turn
    running.settle(10_000)
    assert await soon(large)
    assert await soon(small)


async def test_one_model_at_its_limit_does_not_hold_up_another_of_the_same_key():
    limits = RateLimits()
    key = key_quota("KEY", "secret", rpm=100)
    busy, free = quota("busy", concurrent=1), quota("free")
    await limits.acquire((busy, key))
    waits = asyncio.create_task(limits.acquire((busy, key)))
    assert not await soon(waits)
    await asyncio.wait_for(limits.acquire((free, key)), 5)
    waits.cancel()


async def test_waiting_ends_when_the_bucket_has_refilled():
    limits, q = RateLimits(), quota(rpm=1_200, burst=0.0001)  # one at once, twenty a second
    started = time.monotonic()
    permits = await asyncio.gather(*(limits.acquire((q,)) for _ in range(5)))
    assert time.monotonic() - started >= 4 / 20 - 0.001
    assert max(p.waited_s for p in permits) >= 4 / 20 - 0.001


async def test_a_wait_is_bounded_by_the_deadline():
    limits, q = RateLimits(), quota(rpm=1)
    await limits.acquire((q,))
    with pytest.raises(LimitExceededError, match="longer timeout") as e:
        await limits.acquire((q,), timeout_s=30)  # a minute is needed: told so at once
    assert e.value.retry_after_s == pytest.approx(60, abs=1)
    one = quota("one", concurrent=1)
    await limits.acquire((one,))
    with pytest.raises(LimitExceededError, match="when another call ends"):
        await limits.acquire((one,), timeout_s=0.02)
    with pytest.raises(LimitExceededError):
        await RateLimits.acquire(limits, (one,), timeout_s=0)
    short = RateLimits(max_wait_s=0.01)
    await short.acquire((one,))
    with pytest.raises(LimitExceededError):
        await short.acquire((one,), timeout_s=100)
    assert [state.waiting for state in limits.state()] == [0, 0]


async def test_who_leaves_the_queue_leaves_nothing_behind():
    limits, q = RateLimits(), quota(concurrent=1)
    running = await limits.acquire((q,))
    first, second, third = (asyncio.create_task(limits.acquire((q,))) for _ in range(3))
    await soon(third)
    first.cancel()
    await soon(first)
    running.settle()  # lets the second in …
    second.cancel()  # … who left in the same moment
    assert await soon(third)
    assert second.cancelled()
    assert limits.state()[0].running == 1
    third.result().settle()
    assert limits.state()[0].running == 0
    assert not limits._lanes


async def test_raising_does_not_overtake_those_who_wait():
    limits, q = RateLimits(), quota(tpm=60_000)
    await limits.acquire((q,), input_tokens=50_000)
    waits = asyncio.create_task(limits.acquire((q,), input_tokens=20_000))
    await soon(waits)
    with pytest.raises(LimitExceededError):
        await limits.acquire((q,), input_tokens=1, on_limit="raise")
    waits.cancel()


async def test_a_pause_holds_everybody_and_then_ends():
    limits, q = RateLimits(), quota()
    await limits.acquire((q,))
    limits.pause(q, 0.05)
    assert limits.wait_s((q,)) == pytest.approx(0.05, abs=0.02)
    with pytest.raises(LimitExceededError, match="asked for a pause"):
        await limits.acquire((q,), on_limit="raise")
    started = time.monotonic()
    await limits.acquire((q,))
    assert time.monotonic() - started >= 0.03
    assert limits.wait_s((q,)) == 0


async def test_no_quota_no_work():
    limits = RateLimits()
    (await limits.acquire(())).settle(5)
    assert limits.state() == []
    assert limits.wait_s((quota(),)) == 0


def test_a_quotas_identity_gives_no_key_away():
    secret = "sk-" + "x" * 40
    q = key_quota("OPENAI_API_KEY", secret, rpm=1)
    assert secret not in repr(q)
    assert key_identity(secret) != key_identity(secret + "y")
    assert model_quota("m", secret).id != model_quota("m", "other").id
    assert key_identity(None) == key_identity("")


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(0, 40),  # seconds until the next call
            st.integers(1, 1_000),  # its estimate
            st.floats(0, 1),  # the part of it that is used
            st.floats(0, 100),  # how long it takes
        ),
        min_size=1,
        max_size=40,
    )
)
def test_what_is_truly_used_keeps_to_the_limit_in_any_stretch_of_time(calls):
    """In any stretch of time no more than the bucket and what it refilled meanwhile."""
    bucket, now = Bucket(1_000, 1_000 / 60, 1_000, 0.0), 0.0
    under_way: list[tuple[float, float, float]] = []
    used: deque[tuple[float, float]] = deque()

    def end_until(moment: float) -> None:
        for end, held, amount in sorted(under_way):
            if end <= moment:
                under_way.remove((end, held, amount))
                bucket.held -= held
                bucket.spend(amount, end)
                used.append((end, amount))

    for gap, estimate, part, takes in calls:
        now += gap
        end_until(now)
        if bucket.wait_s(estimate, now) == 0:
            bucket.held += estimate
            under_way.append((now + takes, estimate, estimate * part))
    end_until(now + 1_000)
    ends = list(used)
    for first in range(len(ends)):
        total = 0.0
        for last in range(first, len(ends)):
            total += ends[last][1]
            assert total <= 1_000 + (ends[last][0] - ends[first][0]) * 1_000 / 60 + 1e-6


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 500), st.booleans()), max_size=60))
def test_any_mix_of_calls_and_cancels_ends_with_full_counts(steps):
    async def run() -> None:
        clock = Clock()
        limits = RateLimits(clock=clock)
        key = key_quota("KEY", "k", concurrent=4, tpm=2_000)
        models = [quota(f"m{n}", concurrent=n + 1, rpm=60) for n in range(3)]
        tasks: list[asyncio.Task] = []
        for number, tokens, leave in steps:
            tasks.append(
                asyncio.create_task(limits.acquire((models[number], key), input_tokens=tokens))
            )
            await asyncio.sleep(0)
            if leave and tasks:
                task = tasks.pop(0)
                if task.done() and not task.cancelled():
                    task.result().settle(tokens)
                task.cancel()
            running = [s for s in limits.state() if s.label == "KEY"]
            assert all(s.running <= 4 for s in running)
        while tasks:
            clock.now += 60
            limits._serve()
            await asyncio.sleep(0)
            for task in [t for t in tasks if t.done()]:
                tasks.remove(task)
                with contextlib.suppress(asyncio.CancelledError):
                    task.result().settle(0)
        for _ in range(3):  # who was cancelled last has yet to leave
            await asyncio.sleep(0)
        assert all(state.running == 0 and state.waiting == 0 for state in limits.state())
        assert not limits._lanes
        await limits.aclose()

    asyncio.run(run())
