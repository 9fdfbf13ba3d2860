"""Redis between memory and PostgreSQL, and what becomes of calls when a tier fails."""

from __future__ import annotations

import asyncio
import logging
import time

import psycopg
import pytest

from novellus_lab import CacheOutcome, Lab
from tests.cache.valkey import Valkey
from tests.lab.conftest import QUICK_RETRIES, openai_model
from tests.loopback import Scripted, ScriptedServer, openai_chat_reply


@pytest.fixture
def valkey():
    server = Valkey()
    yield server
    server.close()


@pytest.fixture
def llm():
    with ScriptedServer(lambda request: openai_chat_reply(f"answer {len(server.requests)}")) as s:
        server = s
        yield s


@pytest.fixture
def open_lab(database, tmp_path, valkey, llm):
    labs = []

    def make(**more):
        config = {"models": [openai_model("m", llm.url)], "retries": QUICK_RETRIES, **more}
        lab = Lab(
            home=tmp_path / "home",
            database_url=database.conninfo,
            redis_url=valkey.url,
            config=config,
        )
        labs.append(lab)
        return lab

    yield make
    for lab in labs:
        lab.close()


def test_redis_answers_before_postgresql_and_both_are_filled(open_lab, database, valkey):
    lab, other = open_lab(), open_lab()
    first = lab.complete("Hi")
    lab.flush()
    hit = other.complete("Hi")
    assert (hit.cache, hit.content, hit.usage) == (CacheOutcome.REDIS, first.content, first.usage)
    assert other.complete("Hi").cache is CacheOutcome.MEMORY
    with valkey.client() as client:
        client.flushall()
    third = open_lab()
    assert third.complete("Hi").cache is CacheOutcome.POSTGRES
    third.flush()
    assert open_lab().complete("Hi").cache is CacheOutcome.REDIS  # filled from below
    stats = third.cache.stats()
    assert [tier.tier for tier in stats.tiers] == ["memory", "redis", "postgres"]
    assert stats["redis"].note == ""


def test_a_redis_that_dies_is_a_tier_less_and_comes_back(open_lab, valkey, caplog):
    lab = open_lab()
    lab.complete("before")
    lab.flush()
    valkey.kill()
    other = open_lab()
    with caplog.at_level(logging.WARNING):
        assert other.complete("before").cache is CacheOutcome.POSTGRES
        assert other.complete("during").cache is CacheOutcome.MISS
    assert "calls go on without it" in caplog.text
    assert other.cache.stats()["redis"].note == "away"
    valkey.start()
    wait_for(lambda: other.cache.stats()["redis"].note == "")
    other.complete("after")
    other.flush()
    assert open_lab().complete("after").cache is CacheOutcome.REDIS


def test_what_is_taken_out_is_out_of_redis_and_other_memories_too(open_lab):
    lab, other = open_lab(), open_lab()
    lab.complete("Hi", tags={"a": 1})
    lab.flush()
    assert other.complete("Hi").cache is CacheOutcome.REDIS
    wait_for(lambda: other._live().caching._invalidations.listening)
    assert lab.cache.invalidate(tags={"a": 1}) == 1
    wait_for(lambda: len(other._live().caching.responses.memory) == 0)
    assert other.complete("Hi").cache is CacheOutcome.MISS


async def test_two_labs_share_one_call_over_redis(open_lab, llm):
    slow = openai_chat_reply("once")
    with ScriptedServer(Scripted(body=slow.body, delay_s=0.4)) as server:
        labs = [open_lab(models=[openai_model("m", server.url)]) for _ in range(2)]
        asked = [lab.acomplete("Hi") for lab in labs for _ in range(20)]
        answers = await asyncio.gather(*asked)
        assert {a.content for a in answers} == {"once"}
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "poison",
    [
        "'{}'::json",
        "'[1]'::json",
        "'null'::json",
        """'{"content": 5, "model": null}'::json""",
        """json_build_object('cost_usd', 'many', 'content', 'x')""",
    ],
)
def test_a_poisoned_row_is_a_miss_and_is_written_anew(make_lab, database, llm, poison):
    lab = make_lab(openai_model("m", llm.url))
    lab.complete("Hi")
    lab.flush()
    with psycopg.connect(database.conninfo, autocommit=True) as connection:
        connection.execute(f"UPDATE ai_response_cache SET response = {poison}")
    other = make_lab(openai_model("m", llm.url))
    assert other.complete("Hi").cache is CacheOutcome.MISS
    other.flush()
    assert make_lab(openai_model("m", llm.url)).complete("Hi").cache is CacheOutcome.POSTGRES


def test_two_processes_that_write_one_key_leave_one_whole_answer(make_lab, database, llm):
    labs = [make_lab(openai_model("m", llm.url)) for _ in range(2)]
    for _ in range(20):
        for lab in labs:
            lab.complete("Hi", cache={"write_only": True})
    for lab in labs:
        lab.flush()
    found = make_lab(openai_model("m", llm.url)).complete("Hi")
    assert found.cache is CacheOutcome.POSTGRES
    assert found.content.startswith("answer")


def test_a_clock_that_jumps_serves_nothing_that_is_over(make_lab, llm, monkeypatch):
    lab = make_lab(openai_model("m", llm.url), cache={"ttl_seconds": 60})
    lab.complete("Hi")
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 3600)
    assert lab.complete("Hi").cache is CacheOutcome.MISS
    monkeypatch.setattr(time, "time", lambda: now() - 3600)
    assert lab.complete("Hi").content.startswith("answer")


def wait_for(condition, timeout_s: float = 15.0) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)
