"""Of equal requests in the air one is made, within a process and among processes."""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import subprocess
import sys
import time
import weakref
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from novellus_lab.cache.flight import Landed, SingleFlight
from novellus_lab.cache.lease import TTL_S, Lease, PostgresLease, RedisLease
from novellus_lab.errors import (
    DeadlineExceededError,
    ProviderError,
    RateLimitError,
    ResponseParseError,
)
from tests.store.database_proxy import DatabaseProxy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from novellus_lab.store.database import Database
    from tests.cache.valkey import Valkey

LONG_S = 60
KEY = b"k" * 32

LEASE_TABLES = """
CREATE UNLOGGED TABLE IF NOT EXISTS ai_call_lease_holders (
    holder     bytea PRIMARY KEY,
    expires_at timestamptz NOT NULL
);
CREATE UNLOGGED TABLE IF NOT EXISTS ai_call_leases (
    cache_key bytea PRIMARY KEY,
    holder    bytea NOT NULL
);
"""


async def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        await asyncio.sleep(0.005)


def in_s(seconds: float) -> float:
    return time.perf_counter() + seconds


class Provider:
    """Makes answers when it is told to, and counts."""

    def __init__(self) -> None:
        self.calls = 0
        self.cancelled = 0
        self.go = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self) -> str:
        self.calls += 1
        number = self.calls
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return f"answer {number}"


# --- within a process ----------------------------------------------------------------------------


async def test_equal_calls_share_one_and_different_ones_do_not():
    flight: SingleFlight[str] = SingleFlight()
    provider, other = Provider(), Provider()
    calls = [asyncio.create_task(flight.run(KEY, provider)) for _ in range(1_000)]
    calls.append(asyncio.create_task(flight.run(b"other", other)))
    await asyncio.sleep(0)
    await until(lambda: provider.calls == other.calls == 1)
    assert flight.in_the_air == 2
    provider.go.set()
    other.go.set()
    landed = await asyncio.gather(*calls)
    assert provider.calls == other.calls == 1
    assert landed[0] == landed[-1] == Landed("answer 1", led=True)
    assert landed[1:-1] == [Landed("answer 1", led=False)] * 999
    assert flight.in_the_air == 0


async def test_calls_that_follow_one_another_are_each_made():
    flight: SingleFlight[str] = SingleFlight()
    provider = Provider()
    provider.go.set()
    assert [(await flight.run(KEY, provider)).value for _ in range(2)] == ["answer 1", "answer 2"]


async def test_what_landed_just_before_is_not_made_again():
    """A caller that missed the cache a moment before the answer came looks again."""
    flight: SingleFlight[str] = SingleFlight()
    provider = Provider()
    kept: list[str] = []

    async def look_up() -> str | None:
        await asyncio.sleep(0)
        return kept[0] if kept else None

    provider.go.set()
    kept.append((await flight.run(KEY, provider, look_up=look_up)).value)
    assert await flight.run(KEY, provider, look_up=look_up) == Landed("answer 1", led=False)
    assert provider.calls == 1


async def test_a_leader_that_is_cancelled_hands_over_to_one_that_waits():
    flight: SingleFlight[str] = SingleFlight()
    first, second = Provider(), Provider()
    leader = asyncio.create_task(flight.run(KEY, first))
    await until(lambda: first.calls)
    waiting = [asyncio.create_task(flight.run(KEY, second)) for _ in range(5)]
    await asyncio.sleep(0)
    waiting[0].cancel()  # the next in the row is gone as well
    leader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leader
    await until(lambda: second.calls)
    second.go.set()
    landed = await asyncio.gather(*waiting[1:])
    assert (first.calls, first.cancelled, second.calls) == (1, 1, 1)
    assert sorted(one.led for one in landed) == [False, False, False, True]
    assert flight.in_the_air == 0


async def test_one_that_is_cancelled_as_it_is_to_take_over_passes_it_on():
    flight: SingleFlight[str] = SingleFlight()
    first, second = Provider(), Provider()
    leader = asyncio.create_task(flight.run(KEY, first))
    await until(lambda: first.calls)
    waiting = [asyncio.create_task(flight.run(KEY, second)) for _ in range(3)]
    await asyncio.sleep(0)
    leader.cancel()
    await asyncio.sleep(0)  # the leader ends now, and names waiting[0], which has not run yet
    waiting[0].cancel()
    await until(lambda: second.calls)
    assert waiting[0].cancelled()
    second.go.set()
    assert [one.led for one in await asyncio.gather(*waiting[1:])] == [True, False]
    assert flight.in_the_air == 0


async def test_all_cancelled_leaves_nothing():
    flight: SingleFlight[str] = SingleFlight()
    provider = Provider()
    calls = [asyncio.create_task(flight.run(KEY, provider)) for _ in range(100)]
    await until(lambda: provider.calls)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert flight.in_the_air == 0
    assert (provider.calls, provider.cancelled) == (1, 1)
    assert len(asyncio.all_tasks()) == 1


async def test_each_waits_up_to_its_own_deadline_and_the_call_goes_on():
    flight: SingleFlight[str] = SingleFlight()
    provider = Provider()
    leader = asyncio.create_task(flight.run(KEY, provider))
    await until(lambda: provider.calls)
    patient = asyncio.create_task(flight.run(KEY, provider, deadline=in_s(LONG_S)))
    for deadline in (in_s(0.05), in_s(-1)):
        with pytest.raises(DeadlineExceededError, match="equal request"):
            await flight.run(KEY, provider, deadline=deadline)
    provider.go.set()
    assert (await leader).led
    assert (await patient) == Landed("answer 1", led=False)
    assert provider.calls == 1


async def test_a_leader_out_of_time_does_not_take_the_others_with_it():
    flight: SingleFlight[str] = SingleFlight()
    provider = Provider()
    go = asyncio.Event()

    async def out_of_time() -> str:
        await go.wait()
        raise DeadlineExceededError("the leader's own")

    leader = asyncio.create_task(flight.run(KEY, out_of_time))
    await asyncio.sleep(0)
    waiting = [asyncio.create_task(flight.run(KEY, provider)) for _ in range(3)]
    await asyncio.sleep(0)
    go.set()
    provider.go.set()
    with pytest.raises(DeadlineExceededError):
        await leader
    assert [one.led for one in await asyncio.gather(*waiting)] == [True, False, False]


async def test_an_error_is_everybodys_as_it_is_and_the_next_call_is_made():
    flight: SingleFlight[str] = SingleFlight()
    provider = Provider()
    provider.error = RateLimitError("slow down", model="m", provider="p", retry_after_s=7.5)
    provider.error.partial_content = "half"
    provider.error.add_note("tried: m")
    provider.error.__cause__ = OSError("below")
    calls = [asyncio.create_task(flight.run(KEY, provider)) for _ in range(5)]
    await until(lambda: provider.calls)
    provider.go.set()
    errors = await asyncio.gather(*calls, return_exceptions=True)
    assert errors[0] is provider.error
    for error in errors[1:]:
        assert type(error) is RateLimitError
        assert (str(error), error.model, error.retry_after_s) == ("slow down", "m", 7.5)
        assert (error.partial_content, error.__notes__) == ("half", ["tried: m"])
        assert error.__cause__ is provider.error.__cause__
    # Each is its own: what one caller notes on its error is not on the others'.
    errors[1].add_note("mine")
    assert errors[2].__notes__ == errors[0].__notes__ == ["tried: m"]
    assert len({id(error) for error in errors}) == 5
    assert flight.in_the_air == 0
    provider.error = None
    assert (await flight.run(KEY, provider)).led


@pytest.mark.parametrize(
    "error",
    [
        ProviderError("a"),
        ResponseParseError("no JSON", content="{"),
        DeadlineExceededError("late"),
        KeyError("a bug"),
    ],
)
async def test_errors_and_what_they_hold_are_freed_without_the_collector(error):
    class Big:
        pass

    flight: SingleFlight[str] = SingleFlight()
    go = asyncio.Event()
    kept: list[weakref.ref[Big]] = []

    async def lead() -> str:
        big = Big()
        kept.append(weakref.ref(big))
        await go.wait()
        raise type(error).__new__(type(error), *error.args)

    async def call() -> None:
        try:
            await flight.run(KEY, lead)
        except Exception as raised:
            assert type(raised) is type(error)

    gc.collect()
    gc.disable()
    try:
        calls = [asyncio.create_task(call()) for _ in range(20)]
        await asyncio.sleep(0.01)
        go.set()
        await asyncio.gather(*calls)
        calls.clear()
        await asyncio.sleep(0)
        assert [one() for one in kept] == [None] * len(kept)
    finally:
        gc.enable()


async def test_many_flights_leave_no_task_and_no_future():
    flight: SingleFlight[int] = SingleFlight()

    async def lead(n: int) -> int:
        await asyncio.sleep(0)
        if n % 3 == 0:
            raise ProviderError("no")
        return n

    async def call(n: int) -> None:
        with suppress(ProviderError):
            await asyncio.wait_for(flight.run(b"%d" % (n % 50), lambda: lead(n)), LONG_S)

    calls = [asyncio.create_task(call(n)) for n in range(2_000)]
    for call_ in calls[::7]:
        asyncio.get_running_loop().call_soon(call_.cancel)
    await asyncio.gather(*calls, return_exceptions=True)
    assert flight.in_the_air == 0
    assert len(asyncio.all_tasks()) == 1


# --- leases --------------------------------------------------------------------------------------


def make_tables(database: Database) -> Database:
    with psycopg.connect(database.conninfo) as connection:
        connection.execute(LEASE_TABLES)
        connection.execute("TRUNCATE ai_call_leases, ai_call_lease_holders")
    return database


@pytest.fixture
def lease_database(plain_database) -> Database:
    return make_tables(plain_database)


@pytest.fixture(params=["redis", "postgres"])
def leases(request: pytest.FixtureRequest) -> Callable[..., Lease]:
    """Makes the lease of one process after another."""
    if request.param == "redis":
        valkey: Valkey = request.getfixturevalue("valkey_server")
        return lambda **options: RedisLease(valkey.url, **{"timeout_s": LONG_S, **options})
    database: Database = request.getfixturevalue("lease_database")
    return lambda **options: PostgresLease(database.conninfo, **{"timeout_s": LONG_S, **options})


async def acquired(lease: Lease, key: bytes = KEY) -> bool:
    end = time.monotonic() + LONG_S
    while not (got := await lease.acquire(key)):
        assert time.monotonic() < end, "it was never free"
        await asyncio.sleep(0.02)
    return got


async def test_one_holds_a_lease_until_it_gives_it_back(leases):
    one, other = leases(), leases()
    assert await one.acquire(KEY)
    assert not await other.acquire(KEY)
    assert await other.acquire(b"else")
    assert await one.acquire(KEY), "it is its own already"
    other.release(KEY)  # not its to give back
    assert not await other.acquire(KEY)
    one.release(KEY)
    assert await acquired(other)
    assert not await one.acquire(KEY)
    await one.close()
    assert (one.held, other.held) == (0, 2)
    await other.close()
    await other.close()
    assert await other.acquire(KEY), "closed: it stands in nobody's way"
    assert len(asyncio.all_tasks()) == 1


async def test_close_gives_back_what_is_held(leases):
    one, other = leases(ttl_s=LONG_S), leases()
    await one.acquire(KEY)
    await one.close()
    assert await other.acquire(KEY)
    await other.close()


async def test_a_lease_outlives_its_time_while_its_holder_lives(leases):
    one, other = leases(ttl_s=0.4), leases()
    await one.acquire(KEY)
    for _ in range(15):
        await asyncio.sleep(0.1)
        assert not await other.acquire(KEY)
    await one.close()
    await other.close()


async def test_a_holder_that_stands_still_loses_it_and_does_not_take_it_from_the_next(leases):
    one, other = leases(ttl_s=0.3), leases()
    await one.acquire(KEY)
    one._renewing.cancel()  # as a process that is stopped
    assert await acquired(other)
    one.release(KEY)
    await asyncio.sleep(0.1)
    third = leases()
    assert not await third.acquire(KEY)
    for lease in (one, other, third):
        await lease.close()


async def test_thousands_of_keys_at_once(leases):
    one, other = leases(), leases()
    keys = [b"%d" % n for n in range(5_000)]
    assert all(await asyncio.gather(*(one.acquire(key) for key in keys)))
    assert one.held == 5_000
    assert not any(await asyncio.gather(*(other.acquire(key) for key in keys)))
    for key in keys:
        one.release(key)
    for key in keys[::100]:
        assert await acquired(other, key)
    await one.close()
    await other.close()


async def test_of_many_that_ask_at_once_one_has_it(leases):
    all_of_them = [leases() for _ in range(6)]
    for turn in range(10):
        keys = [b"%d %d" % (turn, n) for n in range(30)]
        got = await asyncio.gather(
            *(lease.acquire(key) for lease in all_of_them for key in keys)
        )  # fmt: skip
        assert sum(got) == len(keys)
    for lease in all_of_them:
        await lease.close()


async def test_a_lease_that_nobody_waits_for_any_more_is_given_back(leases):
    one, other = leases(), leases()
    asking = asyncio.create_task(one.acquire(KEY))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert await acquired(other)
    assert one.held == 0
    await one.close()
    await other.close()


async def test_with_redis_away_everybody_goes_ahead_and_it_is_said_once(
    valkey_server, valkey_proxy, caplog
):
    lease = RedisLease(valkey_proxy.url, timeout_s=LONG_S)
    holder = RedisLease(valkey_server.url, timeout_s=LONG_S)
    assert await holder.acquire(KEY)
    assert not await lease.acquire(KEY)
    valkey_proxy.cut()
    assert all(await asyncio.gather(*(lease.acquire(b"%d" % n) for n in range(50))))
    assert await lease.acquire(KEY)
    lease.release(KEY)
    assert lease.held == 0
    valkey_proxy.mend()
    await until(lambda: "is back" in caplog.text)
    assert not await lease.acquire(KEY)
    assert caplog.text.count("can't be used, calls go on without it") == 1
    await lease.close()
    await holder.close()


async def test_with_postgres_away_everybody_goes_ahead_and_it_is_said_once(lease_database, caplog):
    with DatabaseProxy(lease_database) as proxy:
        lease = PostgresLease(proxy.conninfo, timeout_s=LONG_S)
        holder = PostgresLease(lease_database.conninfo, timeout_s=LONG_S)
        assert await holder.acquire(KEY)
        assert not await lease.acquire(KEY)
        proxy.cut()
        assert all(await asyncio.gather(*(lease.acquire(b"%d" % n) for n in range(50))))
        proxy.mend()
        await until(lambda: "is back" in caplog.text)
        assert not await lease.acquire(KEY)
        assert caplog.text.count("can't be used, calls go on without it") == 1
        await lease.close()
        await holder.close()


async def test_what_was_given_back_while_the_server_was_away_is_free(lease_database):
    """Although its holder lives on, and holds others."""
    with DatabaseProxy(lease_database) as proxy:
        one = PostgresLease(proxy.conninfo, timeout_s=LONG_S, ttl_s=LONG_S)
        other = PostgresLease(lease_database.conninfo, timeout_s=LONG_S)
        for key in (b"a", b"b", b"c"):
            await one.acquire(key)
        proxy.cut()
        one.release(b"a")  # fails on its way
        await until(lambda: one._outage.away)
        one.release(b"b")  # is not even tried
        proxy.mend()
        assert await acquired(other, b"a")
        assert await acquired(other, b"b")
        assert not await other.acquire(b"c")
        await one.close()
        await other.close()


async def test_a_stalled_server_holds_up_one_call_for_the_time_limit(valkey_proxy):
    lease = RedisLease(valkey_proxy.url, timeout_s=0.2)
    while not lease._held:  # a busy machine may be late by itself
        await lease.acquire(KEY)
    valkey_proxy.stall()
    assert await asyncio.wait_for(lease.acquire(b"a"), LONG_S)
    with pytest.raises(StopIteration) as ended:  # nothing is awaited any more
        lease.acquire(b"b").send(None)
    assert ended.value.value is True
    valkey_proxy.flow()
    await lease.close()


async def test_what_a_restarted_redis_has_forgotten_is_taken_again(own_valkey):
    lease = RedisLease(own_valkey.url, timeout_s=LONG_S, ttl_s=0.3)
    await lease.acquire(KEY)
    own_valkey.kill()
    await until(lambda: lease._outage.away)
    await asyncio.to_thread(own_valkey.start)
    other = RedisLease(own_valkey.url, timeout_s=LONG_S)
    await until(lambda: not lease._outage.away)
    assert not await other.acquire(KEY)
    await lease.close()
    await other.close()


async def test_without_the_tables_calls_go_ahead(plain_database, caplog):
    with psycopg.connect(plain_database.conninfo, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS ai_call_leases, ai_call_lease_holders")
    lease = PostgresLease(plain_database.conninfo, timeout_s=LONG_S)
    assert await lease.acquire(KEY)
    assert "does not exist" in caplog.text
    await lease.close()


async def test_what_killed_processes_left_is_cleaned(lease_database):
    with psycopg.connect(lease_database.conninfo) as connection:
        connection.execute(
            "INSERT INTO ai_call_lease_holders VALUES ('dead', now() - interval '1 hour'), "
            "('fresh', now() - interval '1 second'), ('alive', now() + interval '1 hour')"
        )
        connection.execute(
            "INSERT INTO ai_call_leases VALUES ('1', 'dead'), ('2', 'unknown'), ('3', 'alive')"
        )
    lease = PostgresLease(lease_database.conninfo, timeout_s=LONG_S)
    await lease.acquire(KEY)
    with psycopg.connect(lease_database.conninfo) as connection:
        held = connection.execute("SELECT cache_key FROM ai_call_leases").fetchall()
        holders = connection.execute("SELECT holder FROM ai_call_lease_holders").fetchall()
    assert {key for (key,) in held} == {b"3", KEY}
    assert {holder for (holder,) in holders} == {b"fresh", b"alive", lease.holder}
    await lease.close()


# --- among processes -----------------------------------------------------------------------------


class Shared:
    """A cache that several flights of this test share, as processes would."""

    def __init__(self) -> None:
        self.kept: dict[bytes, str] = {}
        self.stored = asyncio.Event()
        self.stored.set()

    def flight(self, lease: Lease) -> SingleFlight[str]:
        return SingleFlight(lease, stored=self._until_stored)

    async def _until_stored(self) -> None:
        await self.stored.wait()

    async def run(
        self, flight: SingleFlight[str], make: Callable[[], Awaitable[str]], **options: Any
    ) -> Landed[str]:
        async def lead() -> str:
            value = await make()
            await self.stored.wait()
            self.kept[KEY] = value
            return value

        async def look_up() -> str | None:
            return self.kept.get(KEY)

        return await flight.run(KEY, lead, look_up=look_up, **options)


async def test_another_process_takes_the_answer_from_the_cache(leases):
    shared, provider = Shared(), Provider()
    one, other = leases(), leases()
    a, b = shared.flight(one), shared.flight(other)
    leader = asyncio.create_task(shared.run(a, provider))
    await until(lambda: provider.calls)
    followers = [asyncio.create_task(shared.run(b, provider)) for _ in range(20)]
    await asyncio.sleep(0.05)
    provider.go.set()
    assert (await leader).led
    assert await asyncio.gather(*followers) == [Landed("answer 1", led=False)] * 20
    assert provider.calls == 1
    for closing in (a, b, one, other):
        await closing.close()
    assert len(asyncio.all_tasks()) == 1


async def test_when_the_other_process_fails_one_that_waits_takes_over(leases):
    shared, failing, provider = Shared(), Provider(), Provider()
    failing.error = ProviderError("no")
    one, other = leases(), leases()
    leader = asyncio.create_task(shared.run(shared.flight(one), failing))
    await until(lambda: failing.calls)
    follower = asyncio.create_task(shared.run(shared.flight(other), provider))
    await asyncio.sleep(0.05)
    assert not provider.calls
    failing.go.set()
    provider.go.set()
    with pytest.raises(ProviderError):
        await leader
    assert (await follower) == Landed("answer 1", led=True)
    await one.close()
    await other.close()


async def test_a_deadline_holds_while_another_process_leads(leases):
    shared, provider = Shared(), Provider()
    one, other = leases(), leases()
    leader = asyncio.create_task(shared.run(shared.flight(one), provider))
    await until(lambda: provider.calls)
    b = shared.flight(other)
    patient = asyncio.create_task(shared.run(b, provider, deadline=in_s(LONG_S)))
    hurried = [asyncio.create_task(shared.run(b, provider, deadline=in_s(0.05))) for _ in range(3)]
    for call in hurried:
        with pytest.raises(DeadlineExceededError, match="equal request"):
            await call
    provider.go.set()
    assert (await patient) == Landed("answer 1", led=False)
    await leader
    await one.close()
    await other.close()


async def test_the_lease_is_kept_until_others_can_find_the_answer(leases):
    shared, provider = Shared(), Provider()
    provider.go.set()
    stored = asyncio.Event()
    one, other = leases(), leases()
    a = SingleFlight[str](one, stored=stored.wait)  # type: ignore[arg-type]
    assert (await shared.run(a, provider)).led
    await asyncio.sleep(0.05)
    assert not await other.acquire(KEY)
    # The same process asks again meanwhile: it has the lease, and keeps it.
    assert not (await shared.run(a, provider)).led
    await asyncio.sleep(0.05)
    assert not await other.acquire(KEY)
    stored.set()
    assert await acquired(other)
    await a.close()
    await one.close()
    await other.close()


@contextmanager
def processes(
    number: int, tmp_path: Path, server: str, **options: Any
) -> Iterator[tuple[list[subprocess.Popen[str]], Path]]:
    """Start processes that wait for one another, and let them go."""
    calls, begin = tmp_path / "calls", tmp_path / "begin"
    calls.touch()
    started = []
    for n in range(number):
        asked = {
            "server": server, "calls": str(calls), "callers": 500, "keys": 1, "takes_s": 0.3,
            "begin": str(begin), "number": n, "ttl_s": TTL_S, **options,
        }  # fmt: skip
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "tests.cache.flying", json.dumps(asked)],
                stdout=subprocess.PIPE,
                text=True,
                cwd=Path(__file__).parents[2],
            )
        )
    try:
        end = time.monotonic() + LONG_S
        while len(list(tmp_path.glob("begin.*"))) < number:
            assert time.monotonic() < end
            time.sleep(0.01)
        begin.touch()
        yield started, calls
    finally:
        for one in started:
            one.kill()
            one.communicate()


def address(request: pytest.FixtureRequest, kind: str) -> str:
    if kind == "redis":
        return str(request.getfixturevalue("valkey_server").url)
    return make_tables(request.getfixturevalue("database")).conninfo


@pytest.mark.parametrize("kind", ["redis", "postgres"])
@pytest.mark.parametrize("keys", [1, 25])
def test_processes_that_stampede_make_one_call(request, tmp_path, kind, keys):
    with processes(3, tmp_path, address(request, kind), keys=keys) as (started, calls):
        found = [json.loads(one.communicate(timeout=LONG_S)[0]) for one in started]
        made = calls.read_text().splitlines()
    assert len(made) == keys
    assert sum(one["led"] for one in found) == keys
    assert [one["answers"] for one in found] == [500] * 3
    assert {c for one in found for c in one["contents"]} == {
        f"made by {line.split()[0]}" for line in made
    }


@pytest.mark.parametrize("kind", ["redis", "postgres"])
def test_a_leader_that_is_killed_is_followed_by_another(request, tmp_path, kind):
    with processes(2, tmp_path, address(request, kind), takes_s=1.0, ttl_s=0.9) as (started, calls):
        end = time.monotonic() + LONG_S
        while not (made := calls.read_text().splitlines()):
            assert time.monotonic() < end
            time.sleep(0.01)
        pid = int(made[0].split()[0])
        [leader] = [one for one in started if one.pid == pid]
        [follower] = [one for one in started if one.pid != pid]
        leader.send_signal(signal.SIGKILL)
        found = json.loads(follower.communicate(timeout=LONG_S)[0])
        made = calls.read_text().splitlines()
    assert [int(line.split()[0]) for line in made] == [pid, follower.pid]
    assert (found["answers"], found["led"]) == (500, 1)
    assert found["contents"] == [f"made by {follower.pid}"]
