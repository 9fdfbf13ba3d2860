"""Conversations in a real Valkey: as those in PostgreSQL, and what is said when the server fails."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from decimal import Decimal
from uuid import uuid4

import pytest

from novellus_lab import Lab
from novellus_lab.errors import ConfigurationError, StoreUnavailableError
from novellus_lab.spaces.session_redis import PREFIX
from novellus_lab.spaces.session_turns import Turn
from tests.cache.conftest import own_valkey
from tests.cache.valkey import Valkey
from tests.lab.conftest import openai_model
from tests.loopback import ScriptedServer, openai_chat_reply, openai_error
from tests.queue.test_sessions import count, sent

__all__ = ["own_valkey"]


@pytest.fixture(scope="module")
def running_valkey():
    server = Valkey()
    yield server
    server.close()


@pytest.fixture
def valkey(running_valkey, monkeypatch):
    with running_valkey.client() as client:
        client.flushall()
    monkeypatch.setenv("REDIS_URL", running_valkey.url)
    return running_valkey


IN_REDIS = {"sessions": {"store": "redis"}}


def test_a_conversation_goes_on_in_another_lab_and_nothing_of_it_is_in_postgres(
    make_lab, rows, valkey
):
    with ScriptedServer(count) as server:
        one = make_lab(openai_model("gpt-4o", server.url), **IN_REDIS)
        other = make_lab(openai_model("gpt-4o", server.url), **IN_REDIS)
        s = one.session("chat-1", system="Be brief.")
        s.complete("one")
        again = other.session("chat-1")
        assert again.system == "Be brief."
        again.complete("zwei ½")
        assert sent(server) == [
            ("system", "Be brief."),
            ("user", "one"),
            ("assistant", "2 messages"),
            ("user", "zwei ½"),
        ]
        assert s.history == again.history
        assert [m["content"] for m in s.history] == ["one", "2 messages", "zwei ½", "4 messages"]
        again.system = None
        assert len(again.history) == 4  # from here on it holds for all
        s.complete("three")
        assert sent(server)[0] == ("user", "one")
        one.flush()
        other.flush()
        assert s.cost == again.cost == sum(row["cost_usd"] for row in rows())
    assert rows("ai_sessions") == rows("ai_session_turns", "session_id") == []


async def test_those_who_speak_at_once_are_all_remembered(make_lab, valkey):
    with ScriptedServer(count) as server:
        labs = [make_lab(openai_model("gpt-4o", server.url), **IN_REDIS) for _ in range(2)]
        talks = [lab.session("shared") for lab in labs]
        said = [f"n{n}" for n in range(20)]
        await asyncio.gather(*(talks[n % 2].acomplete(text) for n, text in enumerate(said)))
        history = await talks[0].ahistory()
        cost = await talks[0].acost()
    assert sorted(m["content"] for m in history[::2]) == sorted(said)
    assert {m["role"] for m in history[1::2]} == {"assistant"}
    assert cost > 0


def test_a_process_of_its_own_goes_on_with_it(make_lab, valkey, database, tmp_path):
    with ScriptedServer(count) as server:
        s = make_lab(openai_model("gpt-4o", server.url), **IN_REDIS).session("shared")
        s.complete("one")
        config = {"models": [openai_model("gpt-4o", server.url)], **IN_REDIS}
        program = (
            "import sys; from novellus_lab import Lab\n"
            f"with Lab(home={str(tmp_path / 'other')!r}, database_url=sys.argv[1], config={config!r}) as lab:\n"
            "    print(lab.session('shared').complete('two').content)"
        )
        ran = subprocess.run(
            [sys.executable, "-c", program, database.conninfo],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        assert ran.stdout.strip() == "3 messages"
        assert [m["content"] for m in s.history[::2]] == ["one", "two"]


def test_clear_forgets_what_was_said_not_what_it_cost(make_lab, valkey):
    with ScriptedServer(count) as server:
        s = make_lab(openai_model("gpt-4o", server.url), **IN_REDIS).session(system="Be brief.")
        s.complete("one")
        cost = s.cost
        s.clear()
        assert s.history == []
        assert s.cost == cost > 0
        s.complete("two")
        assert sent(server) == [("system", "Be brief."), ("user", "two")]


def test_a_history_that_is_too_long_loses_its_oldest_turns(make_lab, valkey):
    with ScriptedServer(lambda request: openai_chat_reply("y " * 100)) as server:
        lab = make_lab(openai_model("gpt-4o", server.url, context_window=1_000), **IN_REDIS)
        s = lab.session(max_tokens=100)
        for n in range(8):
            s.complete(f"{n} " + "x " * 100)
        assert 1 < len(server.requests[-1].json["messages"]) < 15
        assert len(s.history) == 16


def test_a_turn_that_is_added_twice_counts_once(make_lab, valkey):
    lab = make_lab(openai_model("gpt-4o", "http://127.0.0.1:9"), **IN_REDIS)
    turns = lab._conversations()
    turn = Turn(uuid4(), [{"role": "user", "content": "x"}], Decimal("0.1"))
    for _ in range(2):
        turns.runtime.thread.run(turns.add, "s", turn)
    assert len(lab.session("s").history) == 1
    assert lab.session("s").cost == Decimal("0.1")
    turns.runtime.thread.run(turns.add, "s", Turn(uuid4(), turn.messages, None))
    assert lab.session("s").cost is None


def test_each_turn_begins_the_lifetime_anew(make_lab, valkey):
    long = {"sessions": {"store": "redis", "ttl_seconds": 1000}}
    with ScriptedServer(count) as server, valkey.client() as client:
        s = make_lab(openai_model("gpt-4o", server.url), **long).session("s", system="Hm.")
        s.complete("one")
        keys = client.keys(f"{PREFIX}*")
        assert len(keys) == 3
        assert all(990_000 < client.pttl(key) <= 1_000_000 for key in keys)
        for key in keys:
            client.pexpire(key, 5_000)
        s.complete("two")
        assert all(client.pttl(key) > 990_000 for key in keys)


def test_without_a_lifetime_it_is_kept(make_lab, valkey):
    with ScriptedServer(count) as server, valkey.client() as client:
        make_lab(openai_model("gpt-4o", server.url), **IN_REDIS).session("s").complete("one")
        assert {client.pttl(key) for key in client.keys(f"{PREFIX}*")} == {-1}


def test_what_the_server_lost_is_no_empty_history(make_lab, valkey):
    with ScriptedServer(count) as server, valkey.client() as client:
        s = make_lab(openai_model("gpt-4o", server.url), **IN_REDIS).session("s")
        s.complete("one")
        client.flushall()
        for _ in range(2):
            with pytest.raises(StoreUnavailableError, match="0 of at least 1 turns"):
                s.complete("two")
        assert len(server.requests) == 1
        s.clear()
        assert s.complete("two").content == "1 messages"


def test_a_server_that_is_away_is_an_error_before_anything_is_sent(
    make_lab, own_valkey, monkeypatch
):
    monkeypatch.setenv("REDIS_URL", own_valkey.url)
    with ScriptedServer(count) as server:
        s = make_lab(openai_model("gpt-4o", server.url), **IN_REDIS).session("s")
        own_valkey.kill()
        with pytest.raises(StoreUnavailableError, match="sessions in Redis"):
            s.complete("one")
        assert server.requests == []
        own_valkey.start()
        assert s.complete("one").content == "1 messages"


def test_an_answer_that_was_paid_for_is_returned_and_its_turn_stored_later(
    make_lab, own_valkey, monkeypatch, caplog
):
    monkeypatch.setenv("REDIS_URL", own_valkey.url)

    def answer(request):
        if len(request.json["messages"]) > 2 or "kill" not in str(request.json):
            return count(request)
        own_valkey.kill()
        return openai_chat_reply("paid for")

    with ScriptedServer(answer) as server:
        s = make_lab(openai_model("gpt-4o", server.url), **IN_REDIS).session("s")
        assert s.complete("kill").content == "paid for"
        assert "waits in this process" in caplog.text
        with pytest.raises(StoreUnavailableError):
            s.complete("two")
        own_valkey.start()
        s.complete("two")
        assert [m["content"] for m in s.history] == ["kill", "paid for", "two", "3 messages"]


def test_a_call_that_fails_leaves_no_trace(make_lab, valkey):
    with ScriptedServer(openai_error(400, "no")) as server:
        s = make_lab(openai_model("gpt-4o", server.url), **IN_REDIS).session()
        with pytest.raises(Exception, match="no"):
            s.complete("bad")
        assert s.history == []


def test_settings_that_can_t_be_are_refused_when_the_lab_is_made(tmp_path):
    with pytest.raises(ConfigurationError, match="redis_url"):
        Lab(home=tmp_path / "h", config={"models": [], **IN_REDIS})
    with pytest.raises(ConfigurationError, match="store: redis"):
        Lab(home=tmp_path / "h", config={"models": [], "sessions": {"ttl_seconds": 5}})
