"""The shared tier over a real PostgreSQL: what one process stores another finds."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row

from novellus_lab.cache import postgres
from novellus_lab.cache.postgres import PostgresTier
from novellus_lab.types import ToolCall
from tests.cache.entries import entry, full_entry
from tests.store.database_proxy import DatabaseProxy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator

    from novellus_lab.cache.entry import CacheEntry

LONG_S = 60


def on_loop(database: Any, work: Callable[..., Coroutine[Any, Any, Any]], **options: Any) -> Any:
    """Run with a tier, and close it."""

    async def run() -> Any:
        tier = PostgresTier(getattr(database, "conninfo", database), **options)
        try:
            return await work(tier)
        finally:
            await tier.close()

    return asyncio.run(run())


def rows(database: Any) -> list[dict[str, Any]]:
    with psycopg.connect(database.conninfo, row_factory=dict_row) as connection:
        return connection.execute("SELECT * FROM ai_response_cache ORDER BY cache_key").fetchall()


async def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + LONG_S
    while not (result := condition()) and not (asyncio.iscoroutine(result) and await result):
        assert time.monotonic() < end, "it did not come to pass"
        await asyncio.sleep(0.02)


async def until_found(tier: PostgresTier, key: bytes) -> CacheEntry:
    end = time.monotonic() + LONG_S
    while (found := await tier.get(key)) is None:
        assert time.monotonic() < end, "it was never found"
        await asyncio.sleep(0.02)
    return found


@pytest.fixture
def proxy(database) -> Iterator[DatabaseProxy]:
    with DatabaseProxy(database) as proxy:
        yield proxy


def test_an_entry_comes_back_as_it_was(database):
    sent = full_entry()

    async def work(tier: PostgresTier) -> CacheEntry | None:
        tier.put(sent, "the prompt")
        await tier.flush()
        return await tier.get(sent.key)

    assert on_loop(database, work) == sent
    [row] = rows(database)
    assert (row["kind"], row["model"], row["provider"]) == ("embedding", "gpt-4o", "openai")
    assert (row["prompt"], row["cost_usd"]) == ("the prompt", sent.cost_usd)
    assert (row["latency_ms"], row["source_request_id"]) == (12.5, UUID(int=7))
    assert row["expires_at"].timestamp() == pytest.approx(sent.expires_at)
    assert row["hits"] == 0


def test_another_process_finds_it(database):
    program = (
        "import asyncio, sys\n"
        "from novellus_lab.cache.postgres import PostgresTier\n"
        "async def main():\n"
        "    tier = PostgresTier(sys.argv[1])\n"
        "    found = await tier.get(b'k' * 32)\n"
        "    tier.count_hit(found.key)\n"
        "    await tier.close()\n"
        "    print(found.content)\n"
        "asyncio.run(main())"
    )

    async def work(tier: PostgresTier) -> None:
        tier.put(entry(), None)

    on_loop(database, work)  # what was put is stored at close
    done = subprocess.run(
        [sys.executable, "-c", program, database.conninfo],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.strip() == "An answer."
    [row] = rows(database)
    assert (row["hits"], row["prompt"]) == (1, None)
    assert row["last_hit_at"] is not None


def test_what_is_put_again_takes_the_place_of_the_older(database):
    async def work(tier: PostgresTier) -> CacheEntry | None:
        tier.put(entry(content="first"), None)
        tier.put(entry(content="second"), None)
        await tier.flush()
        tier.put(entry(content="third"), None)
        await tier.flush()
        return await tier.get(entry().key)

    found = on_loop(database, work)
    assert found.content == "third"


def test_many_keys_are_read_at_once_and_the_absent_are_left_out(database):
    ones = [entry(bytes([n]) * 32, content=str(n)) for n in range(120)]

    async def work(tier: PostgresTier) -> dict[bytes, CacheEntry]:
        for one in ones:
            tier.put(one, None)
        await tier.flush()
        return await tier.get_many([*(one.key for one in ones), b"absent", ones[0].key])

    assert on_loop(database, work) == {one.key: one for one in ones}


def test_an_expired_entry_is_not_found(database):
    async def work(tier: PostgresTier) -> list[CacheEntry | None]:
        tier.put(entry(b"past", expires_at=time.time() - 1), None)
        tier.put(entry(b"future", expires_at=time.time() + 1_000), None)
        tier.put(entry(b"never"), None)
        await tier.flush()
        return [await tier.get(key) for key in (b"past", b"future", b"never")]

    assert [found is not None for found in on_loop(database, work)] == [False, True, True]


def test_expired_entries_are_removed_a_few_at_a_time(database, monkeypatch):
    monkeypatch.setattr(postgres, "_PURGE_BATCH", 10)

    async def work(tier: PostgresTier) -> None:
        for n in range(35):
            tier.put(entry(b"past%d" % n, expires_at=time.time() - 1), None)
        tier.put(entry(b"future", expires_at=time.time() + 1_000), None)
        tier.put(entry(b"never"), None)
        await tier.flush()
        await until(lambda: len(rows(database)) <= 2)

    on_loop(database, work, tend_every_s=0.01, purge_every_s=0.05)
    assert [row["cache_key"] for row in rows(database)] == [b"future", b"never"]


def test_entries_that_another_process_removes_are_not_waited_for(database):
    async def store(tier: PostgresTier) -> None:
        for key in (b"a", b"b"):
            tier.put(entry(key, expires_at=time.time() - 1), None)

    async def purge(tier: PostgresTier) -> None:
        with psycopg.connect(database.conninfo) as other:
            other.execute("DELETE FROM ai_response_cache WHERE cache_key = 'a'")
            await tier.get(b"x")
            await until(lambda: len(rows(database)) == 1)
            other.rollback()

    on_loop(database, store)
    on_loop(database, purge, tend_every_s=0.01, purge_every_s=0.01)


def test_the_removal_goes_by_an_index(database):
    with psycopg.connect(database.conninfo) as connection:
        connection.execute("SET enable_seqscan = off")
        plan = connection.execute("EXPLAIN " + postgres._PURGE, [0.0, 500]).fetchall()
    assert "ai_response_cache_expires_at" in str(plan)


def test_hits_are_counted_from_any_thread_and_written_by_themselves(database):
    async def work(tier: PostgresTier) -> None:
        tier.put(entry(b"a"), None)
        tier.put(entry(b"b"), None)
        await tier.flush()

        def count() -> None:
            for _ in range(500):
                tier.count_hit(b"a")

        await asyncio.gather(*(asyncio.to_thread(count) for _ in range(4)))
        tier.count_hit(b"gone")
        await until(lambda: rows(database)[0]["hits"] == 2_000)

    on_loop(database, work, tend_every_s=0.01)
    assert [row["hits"] for row in rows(database)] == [2_000, 0]


def test_hits_are_written_at_close(database):
    async def work(tier: PostgresTier) -> None:
        tier.put(entry(), None)
        tier.count_hit(entry().key)

    on_loop(database, work, tend_every_s=3_600)
    assert rows(database)[0]["hits"] == 1


TEXT = st.text(max_size=30) | st.sampled_from(["a\x00b", "\\u0000", "\\", '"', "\u2028", "😀"])


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(TEXT, TEXT, TEXT, st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=4))
def test_content_comes_back_to_the_last_character(database, content, arguments, prompt, vector):
    sent = entry(
        content=content,
        reasoning=content,
        tool_calls=(ToolCall("1", "f", arguments),),
        vector=tuple(vector) or None,
    )

    async def work(tier: PostgresTier) -> CacheEntry | None:
        tier.put(sent, prompt)
        await tier.flush()
        return await tier.get(sent.key)

    assert on_loop(database, work) == sent
    assert rows(database)[0]["prompt"] == prompt.replace("\x00", "\ufffd")


def test_an_entry_that_can_not_be_stored_takes_no_other_with_it(database):
    """Half a character has no UTF-8; a price can be beyond what numeric holds."""
    bad = [
        entry(b"1", content="\ud800"),
        entry(b"2", reasoning="\udfff"),
        entry(b"3", cost_usd=Decimal("1E+999999")),
    ]
    good = [entry(b"0"), entry(b"9")]

    async def work(tier: PostgresTier) -> Any:
        for one in (good[0], *bad, good[1]):
            tier.put(one, "prompt")
        await tier.flush()
        return tier.stats(), await tier.get_many([one.key for one in (*good, *bad)])

    stats, found = on_loop(database, work)
    assert set(found) == {b"0", b"9"}
    assert (stats.write_errors, stats.waiting_writes) == (3, 0)


def test_a_prompt_with_half_a_character_is_stored_without_it(database):
    async def work(tier: PostgresTier) -> None:
        tier.put(entry(), "a\ud800b")

    on_loop(database, work)
    assert rows(database)[0]["prompt"] == "a\ufffdb"


def test_an_entry_of_another_form_is_a_miss(database, caplog):
    async def work(tier: PostgresTier) -> CacheEntry | None:
        tier.put(entry(), None)
        await tier.flush()
        with psycopg.connect(database.conninfo) as connection:
            connection.execute("UPDATE ai_response_cache SET response = '{\"v\": 99}'")
        return await tier.get(entry().key)

    assert on_loop(database, work) is None
    assert "counts as a miss" in caplog.text


def test_processes_that_store_the_same_keys_at_once_do_not_block_each_other(database):
    keys = [os.urandom(8) for _ in range(150)]

    async def work(tier: PostgresTier) -> None:
        others = [PostgresTier(database.conninfo) for _ in range(3)]
        for turn, one in enumerate((tier, *others)):
            for key in keys if turn % 2 else reversed(keys):
                one.put(entry(key), None)
        await asyncio.gather(*(one.close() for one in others))
        await tier.flush()
        assert [one.stats().write_errors for one in (tier, *others)] == [0] * 4

    on_loop(database, work)
    assert len(rows(database)) == 150


# --- the database away ---------------------------------------------------------------------------


def test_with_the_database_down_a_read_is_a_miss_and_afterwards_a_hit(database, proxy, caplog):
    async def work(tier: PostgresTier) -> None:
        tier.put(entry(), None)
        await tier.flush()
        assert await tier.get(entry().key) is not None
        proxy.cut()
        assert await tier.get(entry().key) is None
        assert tier.stats().read_errors == 1
        connections = proxy.connections
        for _ in range(100):  # nobody knocks on a closed door
            assert await tier.get(entry().key) is None
        assert proxy.connections == connections
        assert tier.stats().read_errors == 1
        proxy.mend()
        await until_found(tier, entry().key)

    on_loop(proxy, work)
    assert caplog.text.count("can't be reached, calls go on without it") == 1
    assert caplog.text.count("the shared cache is back") == 1


def test_what_was_put_while_the_database_was_down_is_stored_when_it_is_back(database, proxy):
    async def work(tier: PostgresTier) -> None:
        proxy.cut()
        for n in range(300):
            tier.put(entry(b"%03d" % n), None)
        await tier.flush(LONG_S)  # does not wait for what does not come
        assert tier.stats().waiting_writes == 300
        proxy.mend()
        await until(lambda: len(rows(database)) == 300)

    on_loop(proxy, work)


def test_what_waits_is_bounded(proxy, monkeypatch):
    monkeypatch.setattr(postgres, "_MAX_WAITING_WRITES", 50)
    monkeypatch.setattr(postgres, "_MAX_WAITING_HITS", 50)

    async def work(tier: PostgresTier) -> Any:
        proxy.cut()
        await tier.get(b"x")
        for n in range(200):
            tier.put(entry(b"%03d" % n), None)
            tier.count_hit(b"%03d" % n)
        return tier.stats(), len(tier._hits)

    stats, hits = on_loop(proxy, work)
    assert (stats.waiting_writes, stats.dropped_writes, hits) == (50, 150, 50)


def test_a_slow_read_is_a_miss(database):
    async def work(tier: PostgresTier) -> CacheEntry | None:
        tier.put(entry(), None)
        await tier.flush()
        with psycopg.connect(database.conninfo) as blocking:
            blocking.execute("LOCK TABLE ai_response_cache IN ACCESS EXCLUSIVE MODE")
            missed = await tier.get(entry().key)
        await until_found(tier, entry().key)
        return missed

    assert on_loop(database, work, read_timeout_s=0.2) is None


def test_close_with_the_database_down_is_no_error_and_may_be_repeated(proxy):
    async def work(tier: PostgresTier) -> None:
        tier.put(entry(), None)
        await tier.flush()
        proxy.cut()
        tier.put(entry(b"other"), None)
        tier.count_hit(b"other")
        await tier.close()
        await tier.close()
        tier.put(entry(), None)
        assert await tier.get(entry().key) is None

    on_loop(proxy, work)


def test_a_reader_that_waits_at_close_is_answered(database):
    async def work(tier: PostgresTier) -> list[CacheEntry | None]:
        with psycopg.connect(database.conninfo) as blocking:
            blocking.execute("LOCK TABLE ai_response_cache IN ACCESS EXCLUSIVE MODE")
            waiting: list[Awaitable[CacheEntry | None]] = [
                asyncio.create_task(tier.get(b"%d" % n)) for n in range(3)
            ]
            await asyncio.sleep(0.05)
            waiting.append(asyncio.create_task(tier.get(b"late")))
            await asyncio.sleep(0)
            await tier.close()
            return await asyncio.wait_for(asyncio.gather(*waiting), LONG_S)

    assert on_loop(database, work, read_timeout_s=LONG_S) == [None] * 4


def test_a_user_who_may_only_read_still_gets_hits(database):
    async def store(tier: PostgresTier) -> None:
        tier.put(entry(), None)

    async def read(tier: PostgresTier) -> CacheEntry | None:
        tier.put(replace(entry(), key=b"new"), None)
        tier.count_hit(entry().key)
        await tier.flush()
        await asyncio.sleep(0.1)  # let it try to remove and to count
        return await tier.get(entry().key)

    on_loop(database, store)
    with psycopg.connect(database.conninfo, autocommit=True) as admin:
        admin.execute("DROP ROLE IF EXISTS reads_cache")
        admin.execute("CREATE ROLE reads_cache")
        admin.execute("GRANT SELECT ON ai_response_cache TO reads_cache")
    conninfo = f"{database.conninfo} options='-c role=reads_cache'"
    assert on_loop(conninfo, read, tend_every_s=0.01, purge_every_s=0.01) is not None
    with psycopg.connect(database.conninfo, autocommit=True) as admin:
        admin.execute("DROP OWNED BY reads_cache")
        admin.execute("DROP ROLE reads_cache")
    assert [row["cache_key"] for row in rows(database)] == [entry().key]
