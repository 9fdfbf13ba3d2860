"""The Redis tier over a real Valkey: what one process stores another finds, whatever happens."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.redis_tier import measure
from novellus_lab.cache import redis as redis_module
from novellus_lab.cache.redis import PREFIX, RedisTier, decode, encode
from novellus_lab.cache.redis_server import RedisServer
from novellus_lab.errors import ConfigurationError, MissingDependencyError
from novellus_lab.types import ToolCall
from tests.cache.entries import entry, full_entry

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from novellus_lab.cache.entry import CacheEntry
    from tests.cache.valkey import Valkey

LONG_S = 60


def on_loop(url: str, work: Callable[..., Coroutine[Any, Any, Any]], **options: Any) -> Any:
    """Run with a tier, and close it. By default no read is late, however busy the machine."""
    options = {"read_timeout_s": LONG_S, **options}

    async def run() -> Any:
        tier = RedisTier(url, **options)
        try:
            return await work(tier)
        finally:
            await tier.close()
            assert len(asyncio.all_tasks()) == 1, "a task is left"

    return asyncio.run(run())


def name(key: bytes) -> bytes:
    return PREFIX + key.hex().encode()


async def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        await asyncio.sleep(0.01)


async def until_found(tier: RedisTier, key: bytes) -> CacheEntry:
    end = time.monotonic() + LONG_S
    while (found := await tier.get(key)) is None:
        assert time.monotonic() < end, "it was never found"
        await asyncio.sleep(0.01)
    return found


def store(server: Valkey, *entries: CacheEntry) -> None:
    with server.client() as client:
        for one in entries:
            client.set(name(one.key), encode(one))


# --- what is stored ------------------------------------------------------------------------------


def test_an_entry_comes_back_as_it_was(valkey_server):
    sent = full_entry()

    async def work(tier: RedisTier) -> None:
        tier.put(sent)
        await tier.flush()

    async def read(tier: RedisTier) -> CacheEntry | None:
        return await tier.get(sent.key)

    on_loop(valkey_server.url, work)
    assert on_loop(valkey_server.url, read) == sent


def test_another_process_finds_it(valkey_server):
    program = (
        "import asyncio, sys\n"
        "from novellus_lab.cache.redis import RedisTier\n"
        "async def main():\n"
        "    tier = RedisTier(sys.argv[1], read_timeout_s=60)\n"
        "    print((await tier.get(b'k' * 32)).content)\n"
        "    await tier.close()\n"
        "asyncio.run(main())"
    )

    async def work(tier: RedisTier) -> None:
        tier.put(entry())

    on_loop(valkey_server.url, work)  # what was put is stored at close
    done = subprocess.run(
        [sys.executable, "-c", program, f"redis://127.0.0.1:{valkey_server.port}/0"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.strip() == "An answer."
    assert done.stderr == ""


def test_what_was_put_is_found_before_it_is_stored_and_the_last_one_counts(valkey_server):
    async def work(tier: RedisTier) -> None:
        tier.put(entry(content="first"))
        assert (await tier.get(entry().key)).content == "first"
        tier.put(entry(content="second"))
        await tier.flush()
        tier.put(entry(content="third"))
        await tier.flush()
        assert (await tier.get(entry().key)).content == "third"

    on_loop(valkey_server.url, work)


def test_many_keys_are_read_at_once_and_the_absent_are_left_out(valkey_server):
    ones = [entry(bytes([n]) * 32, content=str(n)) for n in range(250)]

    async def work(tier: RedisTier) -> None:
        for one in ones:
            tier.put(one)
        await tier.flush()
        found = await tier.get_many([*(one.key for one in ones), b"absent", ones[0].key])
        assert found == {one.key: one for one in ones}
        with valkey_server.client() as client:
            assert client.info("commandstats")["cmdstat_mget"]["calls"] <= 4

    with valkey_server.client() as client:
        client.config_resetstat()
    on_loop(valkey_server.url, work)


TEXT = st.text(max_size=30) | st.sampled_from(["a\x00b", "\\u0000", "\\", '"', "\u2028", "😀"])


@settings(max_examples=60, deadline=None)
@given(
    st.binary(max_size=80),
    TEXT,
    TEXT,
    st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=4),
)
def test_the_form_at_rest_is_exact(key, content, arguments, vector):
    sent = entry(
        key,
        content=content,
        reasoning=content,
        tool_calls=(ToolCall("1", "f", arguments),),
        vector=tuple(vector) or None,
    )
    assert decode(key, encode(sent)) == sent


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_damaged_value_is_ever_read(data):
    """Cut anywhere, or any bit flipped, or moved to another key."""
    sent = replace(full_entry(), created_at=1.5e9, expires_at=2.5e9)
    whole = encode(sent)
    cut = data.draw(st.integers(0, len(whole) - 1))
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    flipped = bytearray(whole)
    flipped[bit // 8] ^= 1 << bit % 8
    for damaged in (whole[:cut], bytes(flipped), whole + b" ", b"", data.draw(st.binary())):
        with pytest.raises(ValueError):
            decode(sent.key, damaged)
    with pytest.raises(ValueError):
        decode(b"another key", whole)


def test_poisoned_values_are_misses_with_one_line_and_can_be_overwritten(valkey_server, caplog):
    whole = encode(entry())
    poison: dict[bytes, Any] = {
        b"truncated": whole[: len(whole) // 2],
        b"empty": b"",
        b"other format": b"N9" + whole[2:],
        b"bare json": entry().to_json(),
        b"not json": b"\xff\xfe\x00",
        b"number": b"42",
        b"of another key": whole,
    }

    async def work(tier: RedisTier) -> None:
        with valkey_server.client() as client:
            for key, value in poison.items():
                client.set(name(key), value)
            client.rpush(name(b"wrong type"), "a", "b")
        keys = [*poison, b"wrong type"]
        assert await tier.get_many(keys) == {}
        assert await tier.get_many(keys) == {}
        assert tier.stats().unreadable == 2 * len(poison)
        assert tier.stats().read_errors == 0
        for key in keys:
            tier.put(entry(key))
        await tier.flush()
        assert len(await tier.get_many(keys)) == len(keys)

    on_loop(valkey_server.url, work)
    assert caplog.text.count("can't be read and counts as a miss") == 1


def test_an_entry_leaves_redis_when_it_expires_and_is_not_found_by_our_clock(
    valkey_server, monkeypatch
):
    async def work(tier: RedisTier) -> None:
        now = time.time()
        tier.put(entry(b"past", expires_at=now - 1))
        tier.put(entry(b"future", expires_at=now + 1_000.25))
        tier.put(entry(b"never"))
        tier.put(entry(b"beyond any calendar", expires_at=1e300))
        await tier.flush()
        with valkey_server.client() as client:
            assert not client.exists(name(b"past"))
            assert client.pexpiretime(name(b"future")) == int((now + 1_000.25) * 1000)
            assert client.pexpiretime(name(b"never")) == -1
        keys = [b"past", b"future", b"never", b"beyond any calendar"]
        assert set(await tier.get_many(keys)) == set(keys[1:])
        # The clock jumps a day: the server has them still.
        monkeypatch.setattr(redis_module.time, "time", lambda: now + 86_400)
        assert set(await tier.get_many(keys)) == set(keys[2:])
        assert tier.stats().write_errors == 0

    on_loop(valkey_server.url, work)


def test_an_entry_that_has_expired_takes_the_older_one_away(valkey_server):
    async def work(tier: RedisTier) -> None:
        tier.put(entry(content="old"))
        await tier.flush()
        tier.put(entry(content="new", expires_at=time.time() - 1))
        await tier.flush()
        assert await tier.get(entry().key) is None

    on_loop(valkey_server.url, work)


def test_what_can_not_be_stored_takes_no_other_with_it_and_leaves_nothing_older(valkey_server):
    async def work(tier: RedisTier) -> None:
        for key in (b"surrogate", b"large", b"odd time"):
            tier.put(entry(key, content="old"))
        await tier.flush()
        tier.put(entry(b"0"))
        tier.put(entry(b"surrogate", content="\ud800"))
        tier.put(entry(b"large", content="x" * 2_000))
        tier.put(entry(b"odd time", expires_at=float("inf")))
        tier.put(entry(b"9"))
        await tier.flush()
        found = await tier.get_many([b"0", b"surrogate", b"large", b"odd time", b"9"])
        assert set(found) == {b"0", b"9"}
        stats = tier.stats()
        assert (stats.write_errors, stats.oversized, stats.waiting_writes) == (2, 1, 0)

    on_loop(valkey_server.url, work, max_value_bytes=1_500)


def test_a_full_server_keeps_what_it_has_and_says_so_once(own_valkey, caplog):
    async def work(tier: RedisTier) -> None:
        tier.put(entry(b"kept"))
        await tier.flush()
        with own_valkey.client() as client:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", "1mb")
        for n in range(20):
            tier.put(entry(b"%d" % n, content="x" * 200_000))
        await tier.flush()
        assert tier.stats().write_errors >= 10
        assert not tier.stats().away
        assert await tier.get(b"kept") is not None
        tier.discard(b"kept")
        await tier.flush()
        assert await tier.get(b"kept") is None

    on_loop(own_valkey.url, work)
    assert caplog.text.count("could not be stored in Redis") == 1


# --- what is removed -----------------------------------------------------------------------------


def test_a_discarded_entry_is_not_found_from_then_on(valkey_server):
    async def work(tier: RedisTier) -> None:
        tier.put(entry(b"a"))
        tier.put(entry(b"b"))
        await tier.flush()
        tier.discard(b"a")
        assert await tier.get(b"a") is None  # at once
        await tier.flush()
        with valkey_server.client() as client:
            assert client.keys("*") == [name(b"b")]
        tier.discard(b"b")
        tier.put(entry(b"b", content="again"))
        await tier.flush()
        assert (await tier.get(b"b")).content == "again"

    on_loop(valkey_server.url, work)


def test_an_answer_that_was_on_its_way_when_its_entry_was_discarded_is_a_miss(
    valkey_server, valkey_proxy
):
    async def work(tier: RedisTier) -> None:
        for key in (b"a", b"b", b"c"):
            tier.put(entry(key))
        await tier.flush()
        await tier.get(b"a")
        valkey_proxy.stall()
        reads = [asyncio.create_task(tier.get(key)) for key in (b"a", b"b", b"c")]
        await asyncio.sleep(0.05)
        tier.discard(b"a")
        tier.put(entry(b"b", content="new"))
        valkey_proxy.flow()
        found = await asyncio.gather(*reads)
        assert found[0] is None
        assert found[1].content == "new"
        assert found[2] is not None
        valkey_proxy.stall()
        read = asyncio.create_task(tier.get(b"c"))
        await asyncio.sleep(0.05)
        clear = asyncio.create_task(tier.clear())
        await asyncio.sleep(0.05)
        valkey_proxy.flow()
        assert await read is None
        await clear

    on_loop(valkey_proxy.url, work)


def test_entries_are_removed_by_what_they_are_and_strangers_are_left_alone(valkey_server):
    async def work(tier: RedisTier) -> None:
        for n in range(1_200):
            tier.put(entry(b"%d" % n, model="old" if n % 3 else "new"))
        await tier.flush()
        tier.put(entry(b"not stored yet", model="old"))
        with valkey_server.client() as client:
            client.set("novellus:1:r:stranger", "x")
            client.set("app:1", "x")
            assert await tier.discard_where(lambda one: one.model == "old") == 800
            await tier.flush()
            assert await tier.get(b"not stored yet") is None
            assert await tier.get(b"3") is not None
            assert client.dbsize() == 400 + 2
            tier.put(entry(b"x"))
            assert await tier.clear() == 400 + 1
            await tier.flush()
            assert await tier.get(b"x") is None
            assert client.keys("*") == [b"app:1"]

    on_loop(valkey_server.url, work)


# --- the server away -----------------------------------------------------------------------------


def test_with_the_server_down_a_read_is_a_miss_and_afterwards_a_hit(
    valkey_server, valkey_proxy, caplog
):
    async def work(tier: RedisTier) -> None:
        tier.put(entry())
        await tier.flush()
        assert await tier.get(entry().key) is not None
        valkey_proxy.cut()
        assert await tier.get(entry().key) is None
        stats = tier.stats()
        assert (stats.read_errors, stats.away) == (1, True)
        for _ in range(100):
            assert await tier.get(entry().key) is None
        assert tier.stats().read_errors == 1
        valkey_proxy.mend()
        await until_found(tier, entry().key)
        assert not tier.stats().away

    on_loop(valkey_proxy.url, work)
    assert caplog.text.count("can't be used, calls go on without it") == 1
    assert caplog.text.count("is back") == 1


def test_the_server_need_not_be_there_at_first(own_valkey, caplog):
    async def work(tier: RedisTier) -> None:
        assert await tier.get(b"x") is None
        tier.put(entry(b"x"))
        await tier.flush()
        assert (await tier.get(b"x")).content == "An answer."
        own_valkey.start()
        await until(lambda: tier.stats().waiting_writes == 0)
        with own_valkey.client() as client:
            assert client.exists(name(b"x"))

    own_valkey.kill()
    on_loop(own_valkey.url, work)
    assert len(caplog.records) == 2


def test_killed_in_the_midst_of_traffic_and_restarted(own_valkey, caplog):
    """No call fails, none gets another's answer, and the tier works again by itself."""

    async def work(tier: RedisTier) -> None:
        stop = False
        hits = 0

        async def traffic(seed: int) -> None:
            nonlocal hits
            n = seed
            while not stop:
                key = b"%d" % (n % 500)
                found = await tier.get(key)
                assert found is None or found.content == key.decode()
                hits += found is not None
                tier.put(entry(key, content=key.decode()))
                n += 7
                await asyncio.sleep(0)

        clients = [asyncio.create_task(traffic(seed)) for seed in range(20)]
        for _ in range(3):
            await asyncio.sleep(0.1)
            await asyncio.to_thread(own_valkey.kill)
            await until(lambda: tier.stats().away)
            await asyncio.to_thread(own_valkey.start)
            await until(lambda: not tier.stats().away)
        before = hits
        await until(lambda: hits > before + 500)
        stop = True
        await asyncio.gather(*clients)
        assert tier.stats().waiting_writes <= 10_000

    on_loop(own_valkey.url, work)
    assert caplog.text.count("can't be used") == caplog.text.count("is back") == 3


def test_a_stalled_server_delays_one_read_and_then_none(valkey_server, valkey_proxy, caplog):
    async def work(tier: RedisTier) -> None:
        tier.put(entry())
        await tier.flush()
        assert await until_found(tier, entry().key)
        valkey_proxy.stall()
        assert await asyncio.gather(*(tier.get(entry().key) for _ in range(50))) == [None] * 50
        assert tier.stats().away
        # Nothing is awaited any more: the very next step of the coroutine is its end.
        with pytest.raises(StopIteration) as ended:
            tier.get(entry().key).send(None)
        assert ended.value.value is None
        await asyncio.sleep(0.3)
        assert tier.stats().away, "an accepted connection is no answer"
        valkey_proxy.flow()
        await until_found(tier, entry().key)

    on_loop(valkey_proxy.url, work, read_timeout_s=0.2)
    assert "no answer in time" in caplog.text


def test_what_was_put_while_it_was_away_is_stored_when_it_is_back(valkey_server, valkey_proxy):
    async def work(tier: RedisTier) -> None:
        valkey_proxy.cut()
        for n in range(500):
            tier.put(entry(b"%03d" % n))
        await tier.flush(LONG_S)  # does not wait for what does not come
        assert tier.stats().waiting_writes == 500
        valkey_proxy.mend()
        await until(lambda: tier.stats().waiting_writes == 0)
        with valkey_server.client() as client:
            assert client.dbsize() == 500

    on_loop(valkey_proxy.url, work)


def test_what_was_discarded_while_it_was_away_is_never_seen_again(valkey_server, valkey_proxy):
    ones = [entry(b"%04d" % n) for n in range(2_500)]

    async def work(tier: RedisTier) -> None:
        store(valkey_server, *ones)
        await tier.get(ones[0].key)
        valkey_proxy.cut()
        assert await tier.get(ones[0].key) is None
        for one in ones[:2_400]:
            tier.discard(one.key)
        valkey_proxy.mend()
        assert await until_found(tier, ones[-1].key)
        # The first hit is after the last discard.
        with valkey_server.client() as client:
            assert client.dbsize() == 100

    on_loop(valkey_proxy.url, work)


@pytest.mark.parametrize("how", ["clear", "where", "too many"])
def test_what_can_not_be_remembered_one_by_one_empties_the_tier(
    valkey_server, valkey_proxy, monkeypatch, how
):
    monkeypatch.setattr(redis_module, "_MAX_WAITING_DISCARDS", 50)

    async def work(tier: RedisTier) -> None:
        store(valkey_server, entry(b"old"), entry(b"older"))
        valkey_proxy.cut()
        assert await tier.get(b"old") is None
        if how == "clear":
            assert await tier.clear() == 0
        elif how == "where":
            assert await tier.discard_where(lambda one: one.key == b"old") == 0
        else:
            for n in range(51):
                tier.discard(b"%d" % n)
        tier.put(entry(b"new"))
        valkey_proxy.mend()
        await until(lambda: not tier.stats().away)
        await tier.flush()
        assert set(await tier.get_many([b"old", b"older", b"new"])) == {b"new"}

    on_loop(valkey_proxy.url, work)


def test_what_waits_is_bounded(valkey_server, valkey_proxy, monkeypatch):
    monkeypatch.setattr(redis_module, "_MAX_WAITING_WRITES", 50)

    async def work(tier: RedisTier) -> None:
        valkey_proxy.cut()
        await tier.get(b"x")
        for n in range(200):
            tier.put(entry(b"%03d" % n))
        stats = tier.stats()
        assert (stats.waiting_writes, stats.dropped_writes) == (50, 150)

    on_loop(valkey_proxy.url, work)


def test_a_server_that_refuses_to_remove_is_not_read_from(own_valkey, caplog):
    """What was discarded must not be served; with a reader's rights it can't be removed."""

    async def work(tier: RedisTier) -> None:
        store(own_valkey, entry())
        assert await tier.get(entry().key) is not None
        tier.discard(entry().key)
        await until(lambda: tier.stats().away)
        assert await tier.get(entry().key) is None
        with own_valkey.client() as client:
            client.acl_setuser("reader", enabled=True, reset_keys=False, commands=["+unlink"])
        await until(lambda: not tier.stats().away)
        assert await tier.get(entry().key) is None

    with own_valkey.client() as client:
        client.acl_setuser(
            "reader",
            enabled=True,
            passwords=["+secret-word"],
            keys=["*"],
            commands=["+mget", "+client"],
        )
    on_loop(f"redis://reader:secret-word@127.0.0.1:{own_valkey.port}/0", work)
    assert "permissions" in caplog.text
    assert "secret-word" not in caplog.text


def test_close_with_the_server_down_is_no_error_and_may_be_repeated(
    valkey_server, valkey_proxy, caplog
):
    async def work(tier: RedisTier) -> None:
        tier.put(entry())
        await tier.flush()
        valkey_proxy.cut()
        tier.put(entry(b"other"))
        tier.discard(entry().key)
        await tier.close()
        await tier.close()
        tier.put(entry())
        tier.discard(entry().key)
        assert await tier.get(entry().key) is None
        assert await tier.clear() == 0

    on_loop(valkey_proxy.url, work)
    assert "discarded entries are left" in caplog.text


def test_a_reader_that_waits_at_close_is_answered_and_a_cancelled_one_harms_none(
    valkey_server, valkey_proxy
):
    async def work(tier: RedisTier) -> None:
        store(valkey_server, entry())
        await tier.get(b"x")
        valkey_proxy.stall()
        first = asyncio.create_task(tier.get(entry().key))
        second = asyncio.create_task(tier.get(entry().key))
        await asyncio.sleep(0.05)
        first.cancel()
        valkey_proxy.flow()
        assert await second is not None
        valkey_proxy.stall()
        waiting = [asyncio.create_task(tier.get(b"%d" % n)) for n in range(3)]
        await asyncio.sleep(0.05)
        waiting.append(asyncio.create_task(tier.get(b"late")))
        await asyncio.sleep(0)
        await tier.close()
        assert await asyncio.wait_for(asyncio.gather(*waiting), LONG_S) == [None] * 4

    on_loop(valkey_proxy.url, work)


def test_processes_that_store_and_discard_the_same_keys_do_not_disturb_each_other(valkey_server):
    keys = [os.urandom(8) for _ in range(150)]

    async def work(tier: RedisTier) -> None:
        others = [RedisTier(valkey_server.url, read_timeout_s=LONG_S) for _ in range(3)]
        for turn, one in enumerate((tier, *others)):
            for key in keys if turn % 2 else reversed(keys):
                one.put(entry(key, content=key.hex()))
        await asyncio.gather(*(one.flush() for one in (tier, *others)))
        found = await others[0].get_many(keys)
        assert {key: one.content for key, one in found.items()} == {k: k.hex() for k in keys}
        await asyncio.gather(*(one.close() for one in others))

    on_loop(valkey_server.url, work)


# --- addresses and secrets -----------------------------------------------------------------------


def test_a_password_stands_in_no_message(own_valkey, caplog):
    caplog.set_level(logging.DEBUG)
    with own_valkey.client() as client:
        client.config_set("requirepass", "geheim%wort")
    right = f"redis://:geheim%25wort@127.0.0.1:{own_valkey.port}/3"

    async def work(tier: RedisTier) -> None:
        tier.put(entry())
        await tier.flush()
        assert "geheim" not in repr(tier)
        assert str(own_valkey.port) in repr(tier)
        assert (await tier.get(entry().key)) is not None

    on_loop(right, work)
    with own_valkey.client(password="geheim%wort", db=3) as client:
        assert client.dbsize() == 1

    async def wrong(tier: RedisTier) -> None:
        assert await tier.get(entry().key) is None
        await until(lambda: "still away" in caplog.text)

    on_loop(f"redis://:falsches%25wort@127.0.0.1:{own_valkey.port}/0", wrong)
    own_valkey.kill()
    on_loop(right, wrong)
    assert "can't be used" in caplog.text
    for word in ("geheim", "falsches"):
        assert word not in caplog.text


@pytest.mark.parametrize(
    "url",
    [
        "http://u:hidden@host",
        "redis://u:hid/den@host:6379",
        "redis://u:hidden@host:x",
        "redis://u:hidden@host:99999",
        "redis://u:hidden@host/0?no_such_option=1",
        "redis://u:hidden@host/0?socket_timeout=soon",
    ],
)
def test_an_address_that_can_not_be_read_is_named_without_its_password(url):
    with pytest.raises(ConfigurationError) as raised:
        RedisTier(url)
    assert "redis_url" in str(raised.value)
    assert "hid" not in str(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__


def test_options_of_pools_and_decoding_do_no_harm(valkey_server):
    async def work(tier: RedisTier) -> None:
        tier.put(entry())
        await tier.flush()
        assert await tier.get(entry().key) is not None

    on_loop(f"{valkey_server.url}?max_connections=3&decode_responses=true&protocol=3", work)


def test_tls_is_spoken_to_a_rediss_address():
    server = RedisServer("rediss://host:6380/1?ssl_cert_reqs=none")
    assert server.where == "host:6380/1"
    assert "SSL" in server._class.__name__


def test_without_the_client_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "redis.asyncio.connection", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'novellus_lab\[redis\]'"):
        RedisTier("redis://localhost")


def test_redis_is_imported_when_a_tier_is_opened_and_not_before():
    program = (
        "import sys, novellus_lab.cache.redis, novellus_lab.cache.flight, novellus_lab.cache.lease,"
        " novellus_lab.cache.invalidation\n"
        "assert not {'redis', 'hiredis', 'psycopg'} & set(sys.modules)\n"
        "novellus_lab.cache.redis.RedisTier('redis://localhost')\n"
        "assert 'redis' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])


def test_nothing_of_a_closed_tier_stays(valkey_server):
    async def work(tier: RedisTier) -> None:
        tier.put(entry())
        await tier.flush()
        await tier.get(entry().key)

    on_loop(valkey_server.url, work)
    gc.collect()
    with valkey_server.client() as client:
        assert len(client.client_list()) == 1


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.tuples(st.sampled_from("pdgfc"), st.integers(0, 3), st.integers(0, 9)), max_size=30)
)
def test_a_tier_is_a_dictionary_to_its_process(valkey_server, steps):
    """Whatever the order of puts, discards, reads, flushes and clears."""

    async def work(tier: RedisTier) -> None:
        await tier.clear()
        held: dict[bytes, str] = {}
        for what, number, content in steps:
            key = b"%d" % number
            if what == "p":
                tier.put(entry(key, content=str(content)))
                held[key] = str(content)
            elif what == "d":
                tier.discard(key)
                held.pop(key, None)
            elif what == "g":
                found = await tier.get(key)
                assert (found and found.content) == held.get(key)
            elif what == "f":
                await tier.flush()
            else:
                await tier.clear()
                held.clear()
        await tier.flush()
        found = await tier.get_many([b"%d" % n for n in range(4)])
        assert {key: one.content for key, one in found.items()} == held

    on_loop(valkey_server.url, work)


def test_a_connection_that_was_closed_while_idle_is_no_outage(valkey_server, caplog):
    """A restart, or something between that ends what is silent for long."""

    async def work(tier: RedisTier) -> None:
        for n in range(3):
            tier.put(entry(content=str(n)))
            await tier.flush()
            with valkey_server.client() as client:
                client.client_kill_filter(_type="normal", skipme=True)
            assert (await tier.get(entry().key)).content == str(n)

    on_loop(valkey_server.url, work)
    assert caplog.records == []


def test_the_benchmark_measures(valkey_server):
    tables = asyncio.run(measure(valkey_server.url, 1, 20))
    assert [len(rows) for _, rows in tables] == [3, 2, 4]
    assert all(row.median > 0 for _, rows in tables for row in rows)
