"""`lab.cache`, and what the YAML says of the cache, through the public face."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import timedelta

import pytest

from novellus_lab import CacheOutcome
from novellus_lab.errors import InvalidRequestError, ProviderError
from tests.lab.conftest import openai_model
from tests.loopback import Scripted, ScriptedServer, openai_chat_reply

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@pytest.fixture
def llm():
    """Answers with a number that counts its calls."""
    with ScriptedServer(lambda request: openai_chat_reply(f"answer {len(server.requests)}")) as s:
        server = s
        yield s


# --- values --------------------------------------------------------------------------------------


def test_values_are_kept_for_every_process_and_apart_from_answers(make_lab, llm):
    lab, other = make_lab(openai_model("m", llm.url)), make_lab(openai_model("m", llm.url))
    value = {"list": [1, 2.5, None, "é\x00"], "nested": {"a": True}}
    lab.cache.set("What?", value, tags={"team": "search"})
    lab.complete("What?")
    assert lab.cache.get("What?") == value
    lab.flush()
    assert other.cache.get("What?") == value
    assert other.cache.get("what?") is None


def test_a_value_expires(make_lab, llm):
    lab = make_lab(openai_model("m", llm.url))
    lab.cache.set("k", 1, ttl=0.05)
    lab.cache.set("for ever", 2, ttl=None)
    time.sleep(0.06)
    assert lab.cache.get("k") is None
    assert lab.cache.get("for ever") == 2


@pytest.mark.parametrize(
    ("key", "value", "more"),
    [("", 1, {}), (5, 1, {}), ("k", object(), {}), ("k", 1, {"ttl": -1}), ("k", 1, {"tags": 3})],
)
def test_what_can_not_be_kept_is_refused(make_lab, llm, key, value, more):
    lab = make_lab(openai_model("m", llm.url))
    with pytest.raises(InvalidRequestError):
        lab.cache.set(key, value, **more)


async def test_the_async_twins_do_the_same(make_lab, llm):
    lab = make_lab(openai_model("m", llm.url))
    await lab.cache.aset("k", [1])
    assert await lab.cache.aget("k") == [1]
    assert (await lab.cache.astats())["memory"].entries == 1
    assert await lab.cache.ainvalidate("k") == 1
    assert await lab.cache.aget("k") is None


# --- invalidation --------------------------------------------------------------------------------


def test_entries_are_taken_out_by_what_they_are(make_lab, llm):
    lab = make_lab(openai_model("a", llm.url), openai_model("b", llm.url))

    def fill() -> None:
        lab.complete("1", model_id="a", tags={"team": "x", "n": 1})
        lab.complete("2", model_id="b", tags={"team": "x", "n": 2})
        lab.complete("3", model_id="b")
        lab.flush()

    def left() -> list[str]:
        asked = {"1": "a", "2": "b", "3": "b"}
        policy = {"read_only": True}
        found = {
            prompt: lab.complete(prompt, model_id=model, cache=policy).cache
            for prompt, model in asked.items()
        }
        return [prompt for prompt, outcome in found.items() if outcome.hit]

    for condition, stay in (
        ({"model": "b"}, ["1"]),
        ({"tags": {"team": "x"}}, ["3"]),
        ({"tags": {"team": "x", "n": 2}}, ["1", "3"]),
        ({"model": "b", "tags": {"team": "x"}}, ["1", "3"]),
        ({"where": lambda entry: entry.model == "a"}, ["2", "3"]),
        ({"older_than": timedelta(hours=1)}, ["1", "2", "3"]),
        ({"older_than": timedelta(0)}, []),
        ({"everything": True}, []),
    ):
        fill()
        assert lab.cache.invalidate(**condition) == 3 - len(stay), condition
        assert left() == stay, condition
        lab.cache.invalidate(everything=True)


def test_other_processes_drop_their_copies(make_lab, llm):
    """Two labs are as two processes: each has a memory of its own."""
    lab, other = make_lab(openai_model("m", llm.url)), make_lab(openai_model("m", llm.url))
    first = lab.complete("Hi", tags={"faq": True})
    lab.flush()
    assert other.complete("Hi").cache is CacheOutcome.POSTGRES
    assert other.complete("Hi").cache is CacheOutcome.MEMORY
    wait_for(lambda: other._live().caching._invalidations.listening)
    assert lab.cache.invalidate(tags={"faq": True}) == 1
    wait_for(lambda: len(other._live().caching.responses.memory) == 0)
    assert other.complete("Hi").content != first.content


@pytest.mark.parametrize(
    "wrong",
    [{}, {"key": "k", "model": "m"}, {"everything": True, "model": "m"}, {"older_than": "soon"}],
)
def test_it_must_be_said_what_to_take_out(make_lab, llm, wrong):
    lab = make_lab(openai_model("m", llm.url))
    with pytest.raises(InvalidRequestError):
        lab.cache.invalidate(**wrong)


# --- stats, warm, files --------------------------------------------------------------------------


def test_stats_tell_what_each_tier_holds_and_did(make_lab, llm):
    lab = make_lab(openai_model("m", llm.url))
    for prompt in ("1", "1", "1", "2"):
        lab.complete(prompt)
    stats = lab.cache.stats()
    assert [state.tier for state in stats.tiers] == ["memory", "postgres"]
    assert (stats["memory"].entries, stats["memory"].served) == (2, 2)
    assert (stats["postgres"].entries, stats["postgres"].served) == (2, 0)
    assert "memory" in stats._repr_html_()


def test_the_cache_is_filled_from_the_log(make_lab, llm):
    lab = make_lab(openai_model("m", llm.url))
    first = lab.complete("Hi", tags={"a": 1})
    lab.complete("again", cache={"no_store": True})
    lab.cache.invalidate(everything=True)
    assert lab.cache.warm("1h") == 1
    again = lab.complete("Hi")
    assert again.cache.hit
    assert (again.content, again.usage, again.cost_saved) == (
        first.content,
        first.usage,
        first.cost,
    )
    assert again.cache_source_id == first.request_id
    lab.flush()
    assert lab.cache.warm("1h") == 0
    assert lab.cache.invalidate(tags={"a": 1}) == 1


def test_a_redacted_log_is_no_source_of_answers(make_lab, llm):
    lab = make_lab(openai_model("m", llm.url), redact=lambda text: "***")
    lab.complete("Hi")
    with pytest.raises(InvalidRequestError, match="redacted"):
        lab.cache.warm("1h")


def test_entries_go_to_a_file_and_come_back(make_lab, llm, tmp_path):
    pl = pytest.importorskip("polars")
    lab = make_lab(openai_model("m", llm.url))
    first = lab.complete("Hi")
    lab.cache.set("k", {"a": "é"}, ttl=None)
    path = tmp_path / "cache.parquet"
    assert lab.cache.export(path) == 2
    frame = pl.read_parquet(path)
    assert sorted(frame["kind"]) == ["chat", "value"]
    lab.cache.invalidate(everything=True)
    assert lab.cache.restore(path) == 2
    assert lab.cache.restore(path) == 0  # they are here, and as young
    assert lab.cache.get("k") == {"a": "é"}
    assert lab.complete("Hi").content == first.content


def test_another_file_is_refused(make_lab, llm, tmp_path):
    pl = pytest.importorskip("polars")
    lab = make_lab(openai_model("m", llm.url))
    other = tmp_path / "other.parquet"
    pl.DataFrame({"key": [1]}).write_parquet(other)
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 and nothing more")
    for path in (other, broken, tmp_path / "none.parquet"):
        with pytest.raises(InvalidRequestError, match=path.name):
            lab.cache.restore(path)


# --- what the YAML says --------------------------------------------------------------------------


def test_answers_live_as_long_as_rule_and_model_say(make_lab, rows, llm):
    lab = make_lab(
        openai_model("a", llm.url, cache_ttl_seconds=100),
        openai_model("b", llm.url),
        cache={"ttl_seconds": 1000},
        load_balancing={
            "rules": [
                {
                    "name": "short",
                    "model_pool": ["a"],
                    "cache_ttl_seconds": 10,
                    "conditions": {"tags": {"short": True}},
                }
            ]
        },
    )
    lab.complete("1", tags={"short": True})
    lab.complete("2", model_id="a")
    lab.complete("3", model_id="b")
    lab.complete("4", tags={"short": True}, cache={"ttl": 1})
    lab.flush()
    lived = {
        row["prompt"]: round((row["expires_at"] - row["created_at"]).total_seconds())
        for row in rows("ai_response_cache", "created_at")
    }
    assert lived == {"1": 10, "2": 100, "3": 1000, "4": 1}


def test_a_stale_answer_is_served_while_a_new_one_is_made(make_lab, rows, llm):
    lab = make_lab(
        openai_model("m", llm.url),
        cache={"ttl_seconds": 0.2, "stale_while_revalidate_seconds": 60},
    )
    assert lab.complete("Hi", tags={"team": "x"}).content == "answer 1"
    time.sleep(0.25)
    stale = lab.complete("Hi", tags={"team": "x"})
    assert (stale.content, stale.cache) == ("answer 1", CacheOutcome.MEMORY)
    assert "stale" in stale.warnings[0]
    wait_for(lambda: lab.complete("Hi", tags={"team": "x"}).content != "answer 1")
    lab.flush()
    renewal = [row for row in rows() if "novellus.purpose" in row["tags"]]
    assert renewal
    assert renewal[0]["tags"]["team"] == "x"
    assert renewal[0]["cache"] == "miss"


def test_a_failed_renewal_leaves_the_stale_answer(make_lab):
    replies = [openai_chat_reply("old"), *[Scripted(500)] * 50]
    with ScriptedServer(replies) as server:
        lab = make_lab(
            openai_model("m", server.url),
            cache={"ttl_seconds": 0.05, "stale_while_revalidate_seconds": 60},
        )
        lab.complete("Hi")
        for _ in range(3):
            time.sleep(0.1)
            assert lab.complete("Hi").content == "old"


def test_tool_calls_are_kept_only_if_asked(make_lab):
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    reply = openai_chat_reply("", tool_calls=[call], finish_reason="tool_calls")
    for kept in (False, True):
        with ScriptedServer(reply) as server:
            lab = make_lab(openai_model(f"m{kept}", server.url), cache={"tool_calls": kept})
            lab.complete("Hi", tools=[TOOL])
            again = lab.complete("Hi", tools=[TOOL])
            assert again.cache.hit is kept
            assert again.tool_calls[0].name == "f"
            assert len(server.requests) == 2 - kept


# --- single flight -------------------------------------------------------------------------------


async def test_a_thousand_equal_calls_make_one_provider_call(make_lab, rows):
    with ScriptedServer(Scripted(**slow("once"))) as server:
        lab = make_lab(openai_model("m", server.url))
        answers = await asyncio.gather(*(lab.acomplete("Hi") for _ in range(1_000)))
        assert len(server.requests) == 1
    lab.flush()
    assert {answer.content for answer in answers} == {"once"}
    logged = rows()
    assert len(logged) == 1_000
    made = [row for row in logged if row["cache"] == "miss"]
    shared = [row for row in logged if row["cache"] == "coalesced"]
    assert (len(made), len(shared)) == (1, 999)
    assert {row["cost_usd"] for row in shared} == {0}
    assert {row["uncached_cost_usd"] for row in shared} == {made[0]["cost_usd"]}
    assert {row["cache_source_id"] for row in shared} == {made[0]["id"]}
    assert len(rows("ai_request_attempts")) == 1
    assert lab.cache.stats().coalesced == 999


def test_two_labs_share_a_call_and_a_stream_waits_for_it(make_lab):
    with ScriptedServer(Scripted(**slow("once"))) as server:
        labs = [make_lab(openai_model("m", server.url)) for _ in range(2)]
        said: list[str] = []

        def ask(lab) -> None:
            said.append("".join(str(chunk) for chunk in lab.stream("Hi")))

        threads = [threading.Thread(target=ask, args=(lab,)) for lab in labs for _ in range(3)]
        threads[0].start()
        time.sleep(0.15)
        for thread in threads[1:]:
            thread.start()
        for thread in threads:
            thread.join()
        assert said == ["once"] * 6
        assert len(server.requests) == 1


async def test_an_error_is_everybodys_and_each_is_logged_as_failed(make_lab, rows):
    with ScriptedServer(Scripted(400, body={"error": {"message": "no"}}, delay_s=0.2)) as server:
        lab = make_lab(openai_model("m", server.url))
        results = await asyncio.gather(
            *(lab.acomplete("Hi") for _ in range(5)), return_exceptions=True
        )
        assert len(server.requests) == 1
    assert all(isinstance(result, ProviderError) for result in results)
    lab.flush()
    assert {row["status"] for row in rows()} == {"error"}
    assert sorted(row["attempts"] for row in rows()) == [0, 0, 0, 0, 1]


async def test_who_wants_an_answer_of_its_own_gets_one(make_lab):
    with ScriptedServer(Scripted(**slow("x"))) as server:
        lab = make_lab(openai_model("m", server.url))
        ask = [lab.acomplete("Hi", cache={"write_only": True}) for _ in range(3)]
        ask += [lab.acomplete("Hi", use_cache=False) for _ in range(2)]
        await asyncio.gather(*ask)
        assert len(server.requests) == 5
        lab = make_lab(openai_model("n", server.url), cache={"single_flight": False})
        await asyncio.gather(*(lab.acomplete("Hi") for _ in range(3)))
        assert len(server.requests) == 8


async def test_a_leader_that_is_cancelled_hands_over(make_lab, rows):
    with ScriptedServer(Scripted(**slow("x"))) as server:
        lab = make_lab(openai_model("m", server.url))
        leader = asyncio.create_task(lab.acomplete("Hi"))
        while not server.requests:
            await asyncio.sleep(0.01)
        follower = asyncio.create_task(lab.acomplete("Hi"))
        await asyncio.sleep(0.05)
        leader.cancel()
        assert (await follower).content == "x"
        assert len(server.requests) == 2
    lab.flush()
    assert sorted(row["status"] for row in rows()) == ["cancelled", "ok"]


def slow(text: str) -> dict:
    reply = openai_chat_reply(text)
    return {"body": reply.body, "delay_s": 0.4}


def wait_for(condition, timeout_s: float = 10.0) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)
