"""Embeddings: order, batches, both encodings."""

from __future__ import annotations

import base64
import contextlib
import struct

import pytest

from novellus_lab.errors import ProviderUnavailableError, RateLimitError
from novellus_lab.providers.base import ProviderConfig
from novellus_lab.providers.openai import OpenAIProvider
from novellus_lab.types import Usage
from tests.loopback import Scripted, ScriptedServer, openai_embedding_reply


@contextlib.asynccontextmanager
async def served(script, **options):
    with ScriptedServer(script) as server:
        provider = OpenAIProvider(
            ProviderConfig("openai", base_url=server.url + "/v1", options=options)
        )
        try:
            yield provider, server
        finally:
            await provider.aclose()


def by_length(request):
    """Each text becomes (its length, 0.5); the server sends them in the wrong order."""
    texts = request.json["input"]
    rows = [
        {"index": i, "embedding": _encoded([float(len(t)), 0.5], request.json["encoding_format"])}
        for i, t in enumerate(texts)
    ]
    usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
    return Scripted(body={"model": "e-1", "data": rows[::-1], "usage": usage})


def _encoded(vector, form):
    if form == "float":
        return vector
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


@pytest.mark.parametrize("form", ["float", "base64"])
async def test_vectors_come_in_the_order_of_the_texts(form):
    async with served(by_length, embedding_format=form) as (provider, server):
        reply = await provider.embed("e", ["a", "ccc", "bb"], dimensions=2)
        body = server.requests[0].json
    assert body == {
        "model": "e", "input": ["a", "ccc", "bb"], "encoding_format": form, "dimensions": 2,
    }  # fmt: skip
    assert reply.vectors == ((1.0, 0.5), (3.0, 0.5), (2.0, 0.5))
    assert (reply.model, reply.usage, reply.raw_usage) == (
        "e-1", Usage(3), {"prompt_tokens": 3, "total_tokens": 3},
    )  # fmt: skip


async def test_many_texts_go_in_batches_and_their_usage_adds_up():
    texts = ["x" * (n % 7 + 1) for n in range(5000)]
    async with served(by_length) as (provider, server):
        reply = await provider.embed("e", texts)
        sizes = [len(r.json["input"]) for r in server.requests]
    assert sizes == [2048, 2048, 904]
    assert [v[0] for v in reply.vectors] == [len(t) for t in texts]
    assert reply.usage.input_tokens == reply.raw_usage["prompt_tokens"] == 5000


async def test_long_texts_go_in_smaller_batches():
    async with served(by_length) as (provider, server):
        await provider.embed("e", ["é" * 60_000] * 5)
        assert [len(r.json["input"]) for r in server.requests] == [2, 2, 1]


async def test_a_server_with_a_smaller_limit():
    async with served(by_length, embedding_batch=2) as (provider, server):
        assert len((await provider.embed("e", ["a"] * 5)).vectors) == 5
        assert len(server.requests) == 3


async def test_no_texts_cost_nothing():
    async with served(by_length) as (provider, server):
        reply = await provider.embed("e", [])
        assert (reply.vectors, reply.usage, server.requests) == ((), Usage(), [])


@pytest.mark.parametrize(
    "said",
    [
        openai_embedding_reply([[1.0]]),
        Scripted(body="<html>"),
        Scripted(body={"data": [{"embedding": "###"}, {"embedding": None}]}),
        Scripted(body={"data": ["a", "b"]}),
        Scripted(body=[]),
    ],
    ids=["too few", "html", "no vectors", "no rows", "a list"],
)
async def test_answers_that_are_none(said):
    async with served(said) as (provider, _):
        with pytest.raises(ProviderUnavailableError):
            await provider.embed("e", ["a", "b"])


async def test_an_error_in_a_200_body():
    async with served(Scripted(body={"error": {"code": 429, "message": "slow"}})) as (provider, _):
        with pytest.raises(RateLimitError):
            await provider.embed("e", ["a"])
