"""What one process says is no longer true the others drop, and what may have been missed as well."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from novellus_lab.cache import invalidation
from novellus_lab.cache.invalidation import (
    EVERYTHING,
    Invalidation,
    Invalidations,
    PostgresInvalidations,
    RedisInvalidations,
)
from tests.store.database_proxy import DatabaseProxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.cache.valkey import Proxy, Valkey

LONG_S = 60


async def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        await asyncio.sleep(0.005)


class Memory:
    """What a process keeps, in place of its memory tier."""

    def __init__(self) -> None:
        self.told: list[Invalidation] = []
        self.lost = 0

    def on_invalidated(self, what: Invalidation) -> None:
        self.told.append(what)

    def on_lost(self) -> None:
        self.lost += 1


class Channel:
    """A server of either kind, and a way to it that can be cut."""

    def __init__(self, address: str, proxy: Proxy | DatabaseProxy) -> None:
        self.address = address
        self.proxy = proxy
        self.by_proxy = proxy.url if hasattr(proxy, "url") else proxy.conninfo
        self.kind = (
            RedisInvalidations if address.startswith("unix://") else PostgresInvalidations
        )  # fmt: skip

    def open(self, memory: Memory, address: str = "", **options: Any) -> Invalidations:
        return self.kind(address or self.address, memory.on_invalidated, memory.on_lost, **options)

    def end_connections(self) -> None:
        """As an administrator, or a restart, would."""

    def say(self, payload: str) -> None:
        """Publish anything."""


@pytest.fixture(params=["redis", "postgres"])
def channel(request: pytest.FixtureRequest) -> Iterator[Channel]:
    if request.param == "redis":
        valkey: Valkey = request.getfixturevalue("valkey_server")
        with valkey.proxy() as proxy:
            redis = Channel(valkey.url, proxy)
            client = valkey.client()
            redis.end_connections = lambda: client.client_kill_filter(_type="pubsub")
            redis.say = lambda payload: client.publish("novellus:1:i:0", payload)
            yield redis
            client.close()
        return
    database = request.getfixturevalue("plain_database")
    with DatabaseProxy(database) as proxy:
        postgres = Channel(database.conninfo, proxy)

        def execute(statement: str, *parameters: str) -> None:
            with psycopg.connect(database.conninfo, autocommit=True) as connection:
                connection.execute(statement.encode(), parameters or None)

        postgres.end_connections = lambda: execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        postgres.say = lambda payload: execute(
            "SELECT pg_notify('novellus_invalidation_1', %s)", payload
        )
        yield postgres


async def test_the_others_hear_it_and_whoever_said_it_does_not(channel):
    here, there = Memory(), Memory()
    one, other = channel.open(here), channel.open(there)
    assert await one.start(LONG_S)
    assert await other.start(LONG_S)
    assert (one.listening, here.lost, there.lost) == (True, 0, 0)
    said = [
        Invalidation((b"a" * 32, b"\x00\xff")),
        Invalidation(token="model:gpt-4o"),
        EVERYTHING,
    ]
    for what in said:
        one.publish(what)
    await until(lambda: len(there.told) == 3)
    assert there.told == said
    other.publish(Invalidation(token="back"))
    await until(lambda: here.told)
    assert here.told == [Invalidation(token="back")]
    assert here.lost == there.lost == 0
    await one.close()
    await other.close()
    await other.close()
    other.publish(EVERYTHING)
    assert not await other.start(0)
    assert len(asyncio.all_tasks()) == 1


async def test_another_process_is_heard(channel):
    memory = Memory()
    listener = channel.open(memory)
    await listener.start(LONG_S)
    program = (
        "import asyncio, sys\n"
        "from novellus_lab.cache import invalidation as i\n"
        "async def main():\n"
        "    one = getattr(i, sys.argv[1])(sys.argv[2], print, print)\n"
        "    one.publish(i.Invalidation((b'key',)))\n"
        "    await one.close()\n"
        "asyncio.run(main())"
    )
    await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", program, channel.kind.__name__, channel.address],
        check=True,
        cwd=Path(__file__).parents[2],
    )
    await until(lambda: memory.told)
    assert memory.told == [Invalidation((b"key",))]
    await listener.close()


async def test_thousands_of_keys_arrive_in_several_messages(channel):
    memory = Memory()
    speaker, listener = channel.open(Memory()), channel.open(memory)
    await listener.start(LONG_S)
    keys = tuple(n.to_bytes(32, "big") for n in range(3_000))
    speaker.publish(Invalidation(keys, "tag:x"))
    await until(lambda: sum(len(what.keys) for what in memory.told) == 3_000)
    assert tuple(key for what in memory.told for key in what.keys) == keys
    assert [what.token for what in memory.told if what.token] == ["tag:x"]
    await speaker.close()
    await listener.close()


async def test_after_a_lost_connection_everything_counts_as_lost(channel, caplog):
    memory = Memory()
    speaker, listener = channel.open(Memory()), channel.open(memory, channel.by_proxy)
    await listener.start(LONG_S)
    heard = listener.heard
    channel.proxy.cut()
    await until(lambda: not listener.listening)
    speaker.publish(Invalidation((b"missed",)))
    assert await speaker.flush(LONG_S)
    await asyncio.sleep(0.05)
    assert memory.told == []
    assert memory.lost == 0, "it would fill again with what is out of date"
    channel.proxy.mend()
    await until(lambda: memory.lost)
    assert listener.heard > heard
    speaker.publish(Invalidation((b"heard",)))
    await until(lambda: memory.told)
    assert (memory.told, memory.lost) == ([Invalidation((b"heard",))], 1)
    assert [m.endswith("is back") for m in caplog.messages] == [False, True]
    await speaker.close()
    await listener.close()


async def test_connections_that_the_server_ends_are_noticed_at_once(channel):
    memory = Memory()
    listener = channel.open(memory, ping_every_s=LONG_S)
    await listener.start(LONG_S)
    for lost in (1, 2):
        channel.end_connections()
        await until(lambda lost=lost: memory.lost == lost)
        assert listener.listening
    await listener.close()


async def test_a_connection_that_died_in_silence_is_noticed(valkey_proxy):
    memory = Memory()
    listener = RedisInvalidations(
        valkey_proxy.url, memory.on_invalidated, memory.on_lost, ping_every_s=0.1
    )
    await listener.start(LONG_S)
    await asyncio.sleep(0.5)
    assert (listener.listening, memory.lost) == (True, 0), "pings are answered"
    valkey_proxy.stall()
    await until(lambda: not listener.listening)
    valkey_proxy.flow()
    await until(lambda: memory.lost)
    await listener.close()


async def test_a_server_that_comes_late_counts_as_lost_messages(channel):
    memory = Memory()
    channel.proxy.cut()
    listener = channel.open(memory, channel.by_proxy)
    assert not await listener.start(LONG_S)
    assert memory.lost == 0
    channel.proxy.mend()
    await until(lambda: memory.lost)
    assert await listener.start()
    await listener.close()


async def test_what_can_not_be_sent_waits_and_is_sent_when_the_server_is_back(
    channel, monkeypatch, caplog
):
    monkeypatch.setattr(invalidation, "_MAX_WAITING", 10)
    memory = Memory()
    listener, speaker = channel.open(memory), channel.open(Memory(), channel.by_proxy)
    await listener.start(LONG_S)
    channel.proxy.cut()
    for n in range(10):
        speaker.publish(Invalidation((b"%d" % n,)))
    assert not await speaker.flush(0.05)
    channel.proxy.mend()
    await until(lambda: len(memory.told) == 10)
    assert await speaker.flush(LONG_S)
    channel.proxy.cut()
    for n in range(11):  # one too many: rather everything than nothing
        speaker.publish(Invalidation((b"%d" % n,)))
    channel.proxy.mend()
    await until(lambda: memory.told[-1] == EVERYTHING)
    channel.proxy.cut()
    speaker.publish(Invalidation((b"never",)))
    monkeypatch.setattr(speaker, "flush", lambda: Invalidations.flush(speaker, 0.05))
    await speaker.close()
    assert "messages could not be sent" in caplog.text
    await listener.close()


UNREADABLE = (
    "", "garbage", "[]", "{}", '{"from": "x"}', '{"from": "x", "keys": ["zz"]}',
    '{"from": "x", "keys": 5}', '{"from": "x", "token": 5}', '{"keys": ["00"]}',
    '{"from": "x", "all": 1}',
)  # fmt: skip


async def test_a_message_that_can_not_be_read_counts_as_lost(channel):
    memory = Memory()
    listener = channel.open(memory)
    await listener.start(LONG_S)
    for number, payload in enumerate(UNREADABLE):
        channel.say(payload)
        await until(lambda number=number: memory.lost == number + 1)
    assert memory.told == []
    assert listener.listening
    await listener.close()


async def test_a_listener_that_fails_loses_all_and_hears_the_next(channel, caplog):
    memory = Memory()
    told: list[Invalidation] = []

    def fail_once(what: Invalidation) -> None:
        told.append(what)
        if len(told) == 1:
            raise RuntimeError("a bug")

    listener = channel.kind(channel.address, fail_once, memory.on_lost)
    speaker = channel.open(Memory())
    await listener.start(LONG_S)
    speaker.publish(Invalidation((b"1",)))
    speaker.publish(Invalidation((b"2",)))
    await until(lambda: len(told) == 2)
    assert memory.lost == 1
    assert "a bug" in caplog.text
    await speaker.close()
    await listener.close()


async def test_what_is_said_here_counts_as_heard_so_that_no_read_brings_it_back(valkey_server):
    one = RedisInvalidations(valkey_server.url, print, print)
    before = one.heard
    one.publish(EVERYTHING)
    assert one.heard != before
    await one.close()


@settings(max_examples=100, deadline=None)
@given(
    st.builds(
        Invalidation,
        st.lists(st.binary(max_size=200), max_size=200).map(tuple),
        st.none() | st.text(st.characters(codec="utf-8"), max_size=100),
        st.booleans(),
    )
)
def test_every_message_arrives_whole_and_fits_a_notify(what):
    payloads = list(invalidation._payloads("me", what))
    assert all(len(payload) < 8_000 for payload in payloads)
    read = [invalidation._read(payload) for payload in payloads]
    assert all(sender == "me" for sender, _ in read)
    assert tuple(key for _, part in read for key in part.keys) == what.keys
    assert any(part.everything for _, part in read) == what.everything
    assert [part.token for _, part in read if part.token is not None] == (
        [] if what.token is None else [what.token]
    )


def test_a_name_that_no_message_holds_is_refused():
    for too_long in ({"keys": (b"x" * 1_001,)}, {"token": "é" * 501}):
        with pytest.raises(ValueError, match="at most"):
            Invalidation(**too_long)
