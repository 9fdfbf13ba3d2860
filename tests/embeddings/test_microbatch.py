"""Concurrent calls for single texts become batches, and each gets its own answer."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import numpy as np
import pytest

from novellus_lab.embeddings.microbatch import MicroBatcher

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from novellus_lab.embeddings.base import Vectors


class Lengths:
    """An embedder that can be held up: a text's vector is its length, twice."""

    name = "lengths-2"
    dimensions = 2

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.threads: set[str] = set()
        self.go = threading.Event()
        self.go.set()
        self.begun = threading.Event()

    def embed(self, texts: Sequence[str]) -> Vectors:
        self.batches.append(list(texts))
        self.threads.add(threading.current_thread().name)
        self.begun.set()
        assert self.go.wait(60)
        if "bad" in texts:
            raise ValueError("a bad text")
        return np.array([[len(text)] * 2 for text in texts], dtype=np.float32)


@asynccontextmanager
async def batching(embedder: Lengths, **options: float) -> AsyncIterator[MicroBatcher]:
    batcher = MicroBatcher(embedder, **options)
    try:
        yield batcher
    finally:
        embedder.go.set()
        await batcher.close()


async def begun(embedder: Lengths) -> None:
    while not embedder.begun.is_set():
        await asyncio.sleep(0.001)


async def test_each_call_gets_its_own_vector():
    embedder = Lengths()
    async with batching(embedder) as batcher:
        texts = ["x" * n for n in range(50)]
        vectors = await asyncio.gather(*[batcher.embed_one(text) for text in texts])
    assert [vector[0] for vector in vectors] == list(range(50))
    assert max(map(len, embedder.batches)) == 4
    assert len(embedder.batches) <= 14
    assert len(embedder.threads) == 1
    assert threading.current_thread().name not in embedder.threads


async def test_a_lone_call_is_answered():
    async with batching(Lengths()) as batcher:
        assert (await batcher.embed_one("four")).tolist() == [4, 4]


async def test_what_comes_during_a_batch_is_the_next_one():
    embedder = Lengths()
    embedder.go.clear()
    async with batching(embedder, max_texts=8) as batcher:
        first = asyncio.create_task(batcher.embed_one("a"))
        await begun(embedder)
        others = [asyncio.create_task(batcher.embed_one("b" * n)) for n in range(2, 7)]
        await asyncio.sleep(0.01)
        assert batcher.waiting == 5
        embedder.go.set()
        await asyncio.gather(first, *others)
    assert [len(batch) for batch in embedder.batches] == [1, 5]


async def test_similar_lengths_go_together_and_the_oldest_first():
    embedder = Lengths()
    embedder.go.clear()
    async with batching(embedder, max_texts=2) as batcher:
        first = asyncio.create_task(batcher.embed_one("now"))
        await begun(embedder)
        texts = ["x" * n for n in (10, 500, 11, 510)]
        others = [asyncio.create_task(batcher.embed_one(text)) for text in texts]
        await asyncio.sleep(0.01)
        embedder.go.set()
        vectors = await asyncio.gather(first, *others)
    assert [[len(text) for text in batch] for batch in embedder.batches] == [
        [3],
        [10, 11],
        [500, 510],
    ]
    assert [vector[0] for vector in vectors[1:]] == [10, 500, 11, 510]


async def test_many_texts_go_in_batches_and_keep_their_order():
    async with batching(Lengths(), max_texts=3) as batcher:
        vectors = await batcher.embed(["x" * n for n in range(10)])
        assert vectors.shape == (10, 2)
        assert vectors[:, 0].tolist() == list(range(10))
        assert (await batcher.embed([])).shape == (0, 2)


async def test_who_gave_up_is_not_computed_and_holds_nobody_up():
    embedder = Lengths()
    embedder.go.clear()
    async with batching(embedder) as batcher:
        first = asyncio.create_task(batcher.embed_one("first"))
        await begun(embedder)
        given_up = asyncio.create_task(batcher.embed_one("given up"))
        kept = asyncio.create_task(batcher.embed_one("kept"))
        await asyncio.sleep(0.01)
        given_up.cancel()
        first.cancel()  # in the middle of its own batch
        embedder.go.set()
        assert (await kept)[0] == 4
    assert embedder.batches == [["first"], ["kept"]]


async def test_a_time_limit_is_kept_while_the_worker_is_busy():
    embedder = Lengths()
    embedder.go.clear()
    async with batching(embedder) as batcher:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await batcher.embed_one("too slow")
        embedder.go.set()
        assert (await batcher.embed_one("fine"))[0] == 4


async def test_an_error_reaches_its_batch_and_no_other():
    embedder = Lengths()
    async with batching(embedder, max_texts=2) as batcher:
        results = await asyncio.gather(
            *[batcher.embed_one(text) for text in ("bad", "bbb", "c", "d")], return_exceptions=True
        )
        assert isinstance(results[0], ValueError)
        assert isinstance(results[1], ValueError)
        assert [r[0] for r in results[2:]] == [1, 1]
        assert (await batcher.embed_one("later"))[0] == 5


async def test_closing_cancels_what_waits():
    embedder = Lengths()
    embedder.go.clear()
    batcher = MicroBatcher(embedder, max_texts=1)
    calls = [asyncio.create_task(batcher.embed_one(text)) for text in "abc"]
    await begun(embedder)
    await batcher.close()
    await batcher.close()
    embedder.go.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    with pytest.raises(RuntimeError):
        await batcher.embed_one("d")


async def test_it_has_the_name_of_what_it_wraps():
    async with batching(Lengths()) as batcher:
        assert (batcher.name, batcher.dimensions) == ("lengths-2", 2)
