"""Batches and embeddings."""

from __future__ import annotations

from decimal import Decimal

import pytest

from novellus_lab import BatchFailure
from novellus_lab.errors import BadRequestError, InvalidRequestError, UnknownModelError
from tests.lab.conftest import embedding_model, openai_model
from tests.loopback import (
    ScriptedServer,
    openai_chat_reply,
    openai_embedding_reply,
    openai_error,
)


def echo(request):
    text = request.json["messages"][-1]["content"]
    if "bad" in text:
        return openai_error(400, "no such thing")
    return openai_chat_reply(text.upper())


def test_a_batch_keeps_its_order_and_its_errors_in_place(make_lab, rows, capsys):
    with ScriptedServer(echo) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        results = lab.batch(
            [
                "one",
                "bad",
                {"prompt": "two", "max_tokens": 5},
                [{"role": "user", "content": "x"}],
                "",
            ],
            tags={"run": 1},
            progress=True,
        )
        lab.flush()
    assert [r.content for r in results] == ["ONE", None, "TWO", "X", None]
    assert isinstance(results[1], BatchFailure)
    assert isinstance(results[1].error, BadRequestError)
    assert results[1].index == 1
    assert isinstance(results[4].error, InvalidRequestError)
    assert not results[1]
    assert len(rows()) == 5
    assert sum(r["tags"] == {"run": 1} for r in rows()) == 4


def test_concurrency_is_bounded(make_lab):
    import asyncio

    now, most = 0, 0

    async def answer(request):
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.02)
        now -= 1
        return openai_chat_reply("x")

    with ScriptedServer(answer) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        lab.batch([f"{n}" for n in range(40)], max_concurrency=7, progress=False)
    assert most == 7


async def test_the_async_batch(make_lab):
    with ScriptedServer(echo) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        results = await lab.abatch(["a", "b"], progress=False)
    assert [r.content for r in results] == ["A", "B"]


@pytest.mark.parametrize("prompts", ["one", 5, [5], {"prompt": "x"}])
def test_what_is_no_batch_is_refused(make_lab, prompts):
    lab = make_lab(openai_model("gpt-4o", "http://127.0.0.1:9"))
    with pytest.raises(InvalidRequestError, match="batch"):
        lab.batch(prompts)


def embedding(request):
    asked = request.json["input"]
    texts = [asked] if isinstance(asked, str) else asked
    return openai_embedding_reply([[float(len(t)), 1.0] for t in texts], tokens=10 * len(texts))


def test_embeddings_are_batched_cached_text_by_text_and_logged(make_lab, rows):
    with ScriptedServer(embedding) as server:
        model = embedding_model("embed", server.url)
        lab = make_lab(model)
        assert lab.embed("abc") == [3.0, 1.0]
        assert lab.embed(["abc", "abcd", "abcd"]) == [[3.0, 1.0], [4.0, 1.0], [4.0, 1.0]]
        assert lab.embed(["abcd", "abc"]) == [[4.0, 1.0], [3.0, 1.0]]
        assert len(server.requests) == 2
        lab.flush()
        other = make_lab(model)
        assert other.embed("abcd") == [4.0, 1.0]
        assert len(server.requests) == 2
        other.flush()
    logged = rows()
    assert [r["kind"] for r in logged] == ["embedding"] * 4
    assert [r["cache"] for r in logged] == ["miss", "miss", "memory", "postgres"]
    assert [r["cost_usd"] for r in logged] == [Decimal("0.01"), Decimal("0.01"), 0, 0]
    assert logged[2]["uncached_cost_usd"] == Decimal("0.02")


def test_a_thousand_texts_go_in_batches(make_lab):
    with ScriptedServer(embedding) as server:
        lab = make_lab(embedding_model("embed", server.url))
        vectors = lab.embed([f"text {'x' * n}" for n in range(600)])
        assert [v[0] for v in vectors] == [float(5 + n) for n in range(600)]
        assert len(server.requests) == 3


def test_wrong_embedding_calls_are_refused(make_lab):
    with ScriptedServer(embedding) as server:
        lab = make_lab(embedding_model("embed", server.url), openai_model("gpt-4o", server.url))
        for text in ("", ["ok", " "], ["ok", 3], 7):
            with pytest.raises(InvalidRequestError, match="text"):
                lab.embed(text)
        with pytest.raises(UnknownModelError, match="makes no embeddings.*embed"):
            lab.embed("x", model="gpt-4o")
        with pytest.raises(Exception, match=r"lab\.embed"):
            lab.complete("x", model_id="embed")
        assert not server.requests
