"""Measure the semantic cache's parts: `python -m benchmarks.semantic_index [--million]`.

What it prints, each beside its floors in the same run, on one thread:

- the embedders: microseconds a text, time to open, and the encoder's rate in batches and when
  concurrent single texts are batched for it;
- the index at 10,000 and 100,000 entries (1,000,000 with `--million`): searches with the static
  embedding, beside numpy's brute force and hnswlib where it is installed; adding; memory; how often
  the nearest of all is found;
- PostgreSQL: loading an index from it, and a query of pgvector's.

Texts are pairs of sentences out of GSM8K's questions: many have half of their words in common. Of
the queries half are such a pair with a word left out and its sentences swapped, half are new pairs.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import gzip
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import psycopg
from rich.console import Console
from rich.table import Table

from novellus_lab.cache.semantic.index import VectorIndex
from novellus_lab.cache.semantic.pgvector import SemanticStore
from novellus_lab.embeddings.microbatch import MicroBatcher
from novellus_lab.embeddings.registry import NAMES, open_embedder
from novellus_lab.store.database import open_database, resolve_home

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from novellus_lab.embeddings.base import TextEmbedder, Vectors

DATA = Path(__file__).parent.parent / "datasets" / "gsm8k_replay.jsonl.gz"
SCOPE = b"one scope of all"
MODEL = "wordllama-256"


@dataclass(frozen=True, slots=True)
class Latency:
    """Of single operations, in milliseconds; `cpu_ms` is processor time a piece."""

    p50_ms: float
    p99_ms: float
    worst_ms: float
    cpu_ms: float

    def __str__(self) -> str:
        return (
            f"{self.p50_ms:.3f} / {self.p99_ms:.3f} / {self.worst_ms:.1f}  (CPU {self.cpu_ms:.3f})"
        )


def timed(operations: Iterable[Callable[[], Any]]) -> Latency:
    """Run operations one after another."""
    taken = []
    cpu = time.process_time()
    for operation in operations:
        started = time.perf_counter()
        operation()
        taken.append((time.perf_counter() - started) * 1_000)
    cpu = (time.process_time() - cpu) * 1_000 / len(taken)
    p50, p99, worst = np.quantile(taken, [0.5, 0.99, 1.0]).tolist()
    return Latency(p50, p99, worst, cpu)


class Texts:
    """Distinct texts, and questions about them."""

    def __init__(self, seed: int = 20_261_125) -> None:
        with gzip.open(DATA, "rt", encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        questions = [str(row.get("question") or row.get("prompt")) for row in rows]
        split = (re.split(r"(?<=[.?!])\s+", question) for question in questions)
        self._sentences = sorted({s for part in split for s in part if len(s.split()) > 3})
        self._random = random.Random(seed)
        self._seen: set[tuple[int, int]] = set()

    def new(self, count: int) -> list[tuple[str, str]]:
        """Return pairs that were never returned before."""
        found: list[tuple[str, str]] = []
        while len(found) < count:
            pair = (
                self._random.randrange(len(self._sentences)),
                self._random.randrange(len(self._sentences)),
            )
            # Not the other way round either: static vectors of the two are equal.
            if pair[0] != pair[1] and pair not in self._seen:
                self._seen |= {pair, pair[::-1]}
                found.append((self._sentences[pair[0]], self._sentences[pair[1]]))
        return found

    def paraphrase(self, pair: tuple[str, str]) -> str:
        """Leave a word out, and swap the sentences."""
        words = pair[0].split()
        words.pop(self._random.randrange(len(words)))
        return f"{pair[1]} {' '.join(words)}"


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def resident_mb() -> float:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def table(title: str, rows: Sequence[tuple[str, str]]) -> None:
    shown = Table(title=title, title_justify="left", title_style="bold")
    shown.add_column("what")
    shown.add_column("figure")
    for row in rows:
        shown.add_row(*row)
    Console(width=140).print(shown)


# --- embedders -------------------------------------------------------------------------------------


def embedders(texts: Texts, quick: bool) -> None:
    rows = []
    for name in NAMES:
        code = (
            "import time, sys; t = time.perf_counter(); c = time.process_time();"
            "from novellus_lab.embeddings.registry import open_embedder;"
            f"e = open_embedder({name!r}); e.embed(['first']);"
            "import resource;"
            "print(time.perf_counter() - t, time.process_time() - c,"
            " resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)"
        )
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        wall, cpu, peak = map(float, out.stdout.split())
        rows.append(
            (
                f"{name}: opened, first text",
                f"{wall:.2f} s (CPU {cpu:.2f} s), process {peak:.0f} MB",
            )
        )
        embed = open_embedder(name).embed
        embed(["warm"])
        count = 100 if quick or name != "static" else 20_000
        asked = [" ".join(pair) for pair in texts.new(count)]
        latency = timed([partial(embed, [text]) for text in asked])
        rows.append(
            (f"{name}: a text of {_words(asked):.0f} words, p50 / p99 / worst ms", str(latency))
        )
    table("Embedders", rows)


def _words(texts: Sequence[str]) -> float:
    return float(np.mean([len(text.split()) for text in texts]))


async def _closed_loop(batcher: MicroBatcher, texts: Sequence[str], callers: int) -> list[float]:
    waits: list[float] = []
    left = iter(texts)

    async def call() -> None:
        for text in left:
            started = time.perf_counter()
            await batcher.embed_one(text)
            waits.append((time.perf_counter() - started) * 1_000)

    await asyncio.gather(*[call() for _ in range(callers)])
    return waits


async def _open_loop(batcher: MicroBatcher, texts: Sequence[str], rate: float) -> list[float]:
    waits: list[float] = []
    chance = random.Random(1)

    async def call(text: str) -> None:
        started = time.perf_counter()
        await batcher.embed_one(text)
        waits.append((time.perf_counter() - started) * 1_000)

    async with asyncio.TaskGroup() as group:
        for text in texts:
            group.create_task(call(text))
            await asyncio.sleep(chance.expovariate(rate))
    return waits


def encoder(texts: Texts, quick: bool) -> None:
    """The encoder's own rate by size of batch, and what is left of it in single calls."""
    embedder: TextEmbedder = open_embedder("minilm")
    # Questions of a dozen words, as they are asked of a cache; in no order of length.
    asked = [pair[0] for pair in texts.new(60 if quick else 1_200)]
    embedder.embed(asked[:20])
    rows = []
    best, best_cpu = 0.0, float("inf")
    for size in (1, 4, 8, 32):
        cpu, started = time.process_time(), time.perf_counter()
        for start in range(0, len(asked), size):
            embedder.embed(asked[start : start + size])
        rate, cpu = len(asked) / (time.perf_counter() - started), time.process_time() - cpu
        best, best_cpu = max(best, rate), min(best_cpu, cpu)
        rows.append((f"batches of {size}", f"{rate:.0f}/s (CPU {cpu * 1_000 / len(asked):.2f} ms)"))

    async def single() -> None:
        for callers in (1, 4, 8, 64):
            batcher = MicroBatcher(embedder)
            cpu, started = time.process_time(), time.perf_counter()
            waits = await _closed_loop(batcher, asked, callers)
            rate, cpu = len(asked) / (time.perf_counter() - started), time.process_time() - cpu
            await batcher.close()
            rows.append(
                (
                    f"single texts, {callers} callers at a time",
                    f"{rate:.0f}/s (CPU {cpu * 1_000 / len(asked):.2f} ms: "
                    f"{best_cpu / cpu:.2f} of the best rate); {_quantiles(waits)}",
                )
            )
        for share in (0.5, 0.7):
            batcher = MicroBatcher(embedder)
            waits = await _open_loop(batcher, asked, share * best)
            await batcher.close()
            rows.append((f"single texts, arriving at {share:.0%} of the best", _quantiles(waits)))

    asyncio.run(single())
    table(f"The encoder on questions of {_words(asked):.0f} words", rows)


def _quantiles(waits: Sequence[float]) -> str:
    return "p50 {:.1f} ms, p99 {:.1f} ms".format(*np.quantile(waits, [0.5, 0.99]))


# --- the index -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Corpus:
    """Entries of an index, and questions of which half are about them."""

    vectors: Vectors
    questions: list[str]
    asked: Vectors

    @classmethod
    def make(cls, texts: Texts, embedder: TextEmbedder, size: int, count: int) -> Corpus:
        vectors = np.empty((size, embedder.dimensions), dtype=np.float32)
        kept: list[tuple[str, str]] = []
        for start in range(0, size, 10_000):
            pairs = texts.new(min(10_000, size - start))
            kept = (kept + pairs)[: 50 * count]
            vectors[start : start + len(pairs)] = embedder.embed([" ".join(p) for p in pairs])
        chosen = random.Random(size).sample(kept, count // 2)
        questions = [texts.paraphrase(pair) for pair in chosen]
        questions += [" ".join(pair) for pair in texts.new(count - len(questions))]
        random.Random(size).shuffle(questions)
        return cls(vectors, questions, embedder.embed(questions))

    def exact(self) -> tuple[NDArray[np.intp], Vectors]:
        """Return the nearest of each question, and its cosine."""
        nearest = np.empty(len(self.asked), dtype=np.intp)
        cosines = np.full(len(self.asked), -2, dtype=np.float32)
        for start in range(0, len(self.vectors), 50_000):
            found = self.asked @ self.vectors[start : start + 50_000].T
            best = found.argmax(axis=1)
            here = found[np.arange(len(best)), best]
            better = here > cosines
            nearest[better], cosines[better] = best[better] + start, here[better]
        return nearest, cosines


def index(texts: Texts, size: int, questions: int) -> Corpus:
    embedder = open_embedder()
    corpus = Corpus.make(texts, embedder, size, questions)
    nearest, cosines = corpus.exact()
    rows: list[tuple[str, str]] = []

    before = resident_mb()
    built = VectorIndex(corpus.vectors.shape[1], max_entries=2 * size)
    cpu, started = time.process_time(), time.perf_counter()
    keys = [key(n) for n in range(size)]
    for start in range(0, size, 2_000):
        part = keys[start : start + 2_000]
        built.add_many(part, [SCOPE] * len(part), corpus.vectors[start : start + 2_000])
    rows.append(
        ("adding all, searchable at once", f"{size / (time.perf_counter() - started):,.0f}/s")
    )
    early = timed(partial(built.search, SCOPE, q) for q in corpus.asked[:300])
    rows.append(("search while the graph is built, p50 / p99 / worst ms", str(early)))
    built.settle()
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    rows.append(("until the graph is built", f"{wall:.1f} s (CPU {cpu:.1f} s)"))
    grown = resident_mb() - before
    rows.append(
        (
            "memory",
            f"{grown:.0f} MB resident, {built.size_bytes / 1e6:.0f} MB by its own account, "
            f"{grown * 1e6 / size:.0f} bytes an entry",
        )
    )

    for what, here in (("near", cosines >= 0.85), ("none near", cosines < 0.85)):
        latency = timed(partial(built.search, SCOPE, q) for q in corpus.asked[here])
        rows.append((f"search, {what}, p50 / p99 / worst ms", str(latency)))
    hits = [q for q, cosine in zip(corpus.questions, cosines, strict=True) if cosine >= 0.85]
    whole = timed(partial(lambda q: built.search(SCOPE, embedder.embed([q])[0]), q) for q in hits)
    rows.append((f"static embedding of {_words(hits):.0f} words and search, near", str(whole)))
    rows.append(("that a second, one thread", f"{1_000 / whole.cpu_ms:,.0f} (by CPU time)"))
    found = [built.search(SCOPE, q)[0] for q in corpus.asked]
    right = [k == key(int(n)) for (k, _), n in zip(found, nearest, strict=True)]
    near = [r for r, c in zip(right, cosines, strict=True) if c >= 0.85]
    rows.append(
        (
            "recall@1 against all",
            f"{np.mean(right):.4f}; of {len(near)} whose nearest is above 0.85: {np.mean(near):.4f}",
        )
    )
    sample = random.Random(2).sample(range(size), min(size, 5_000))
    equal = [built.search(SCOPE, corpus.vectors[n])[0][1] == 1.0 for n in sample]
    rows.append(("equal vectors found", f"{np.mean(equal):.4f}"))
    more = embedder.embed([" ".join(pair) for pair in texts.new(2_000)])
    added = timed(partial(built.add, key(size + n), SCOPE, v) for n, v in enumerate(more))
    rows.append(("adding one, p50 / p99 / worst ms", str(added)))
    built.close()

    brute = timed(partial(lambda q: (corpus.vectors @ q).argmax(), q) for q in corpus.asked[:200])
    rows.append(("floor: numpy brute force", str(brute)))
    if size <= 100_000:
        rows += _hnswlib(corpus, nearest)
    table(f"Index of {size:,} entries, 256 dimensions, one scope", rows)
    return corpus


def _hnswlib(corpus: Corpus, nearest: NDArray[np.intp]) -> list[tuple[str, str]]:
    try:
        import hnswlib  # type: ignore[import-untyped]
    except ImportError:
        return [("floor: hnswlib", "not installed")]
    peer = hnswlib.Index(space="ip", dim=corpus.vectors.shape[1])
    peer.init_index(len(corpus.vectors), M=16, ef_construction=128)
    peer.set_num_threads(1)
    peer.set_ef(160)
    cpu = time.process_time()
    peer.add_items(corpus.vectors)
    cpu = time.process_time() - cpu
    latency = timed(partial(peer.knn_query, q, k=1) for q in corpus.asked)
    found = [int(peer.knn_query(q, k=1)[0][0, 0]) for q in corpus.asked]
    recall = np.mean(np.array(found) == nearest)
    return [("floor: hnswlib (f32)", f"{latency}; build CPU {cpu:.1f} s; recall@1 {recall:.4f}")]


# --- PostgreSQL ------------------------------------------------------------------------------------


def postgres(corpus: Corpus) -> None:
    rows: list[tuple[str, str]] = []
    with tempfile.TemporaryDirectory(prefix="semantic-") as directory:
        database = open_database(resolve_home(Path(directory) / "home"), None)
        try:
            rows += _fill(database.conninfo, corpus)
            rows += asyncio.run(_load(database.conninfo))
            rows += _bare(database.conninfo, corpus)
            rows += asyncio.run(_nearest(database.conninfo, corpus))
        finally:
            database.close()
    table(f"PostgreSQL with {len(corpus.vectors):,} entries", rows)


def _fill(conninfo: str, corpus: Corpus) -> list[tuple[str, str]]:
    name = "ai_response_cache_nearest_wordllama_256"
    with psycopg.connect(conninfo, autocommit=True) as connection:
        row = connection.execute(
            "SELECT indexdef FROM pg_indexes WHERE indexname = %s", [name]
        ).fetchone()
        assert row is not None
        connection.execute(f"DROP INDEX {name}".encode())
        with (
            connection.cursor() as cursor,
            cursor.copy(
                "COPY ai_response_cache (cache_key, kind, model, provider, prompt, response, "
                "created_at, embedding, embedding_model, semantic_scope) FROM STDIN"
            ) as copy,
        ):
            now = time.strftime("%Y-%m-%d")
            for n, vector in enumerate(corpus.vectors):
                text = f"[{','.join(map(str, vector.tolist()))}]"
                copy.write_row(
                    (key(n), "chat", "m", "p", f"prompt {n}", "{}", now, text, MODEL, SCOPE)
                )
        connection.execute("VACUUM ANALYZE ai_response_cache")
        started = time.perf_counter()
        connection.execute(row[0].encode())
        built = time.perf_counter() - started
    return [("building the HNSW index", f"{built:.1f} s")]


async def _load(conninfo: str) -> list[tuple[str, str]]:
    store = SemanticStore(conninfo)
    loaded = VectorIndex(256)
    cpu, started = time.process_time(), time.perf_counter()
    mark = await store.now()
    async for batch in store.load(MODEL, 256):
        loaded.add_many(batch.keys, batch.scopes, batch.vectors)
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    loaded.close()
    asks = []
    for _ in range(50):
        started = time.perf_counter()
        await store.follow(MODEL, 256, mark)
        asks.append((time.perf_counter() - started) * 1_000)
    await store.close()
    return [
        (
            "loading all into an index, until searchable",
            f"{wall:.1f} s (CPU {cpu:.1f} s), {len(loaded) / wall:,.0f}/s",
        ),
        ("asking for changes, none", f"p50 {np.median(asks):.1f} ms"),
    ]


def _bare(conninfo: str, corpus: Corpus) -> list[tuple[str, str]]:
    texts = [f"[{','.join(map(str, q.tolist()))}]" for q in corpus.asked[:500]]
    with psycopg.connect(conninfo, autocommit=True) as connection:
        query = (
            "SELECT cache_key FROM ai_response_cache WHERE embedding_model = 'wordllama-256' "
            "ORDER BY embedding::vector(256) <=> %s::vector(256) LIMIT 1"
        )
        for text in texts[:10]:
            connection.execute(query, [text], prepare=True)
        latency = timed(
            partial(lambda t: connection.execute(query, [t], prepare=True).fetchone(), t)
            for t in texts
        )
    return [("floor: bare query of pgvector's, no scope", str(latency))]


async def _nearest(conninfo: str, corpus: Corpus) -> list[tuple[str, str]]:
    nearest, _ = corpus.exact()
    store = SemanticStore(conninfo)
    await store.nearest(SCOPE, corpus.asked[0], MODEL)
    waits, right = [], []
    for query, expected in zip(corpus.asked[:500], nearest[:500], strict=True):
        started = time.perf_counter()
        found = await store.nearest(SCOPE, query, MODEL)
        waits.append((time.perf_counter() - started) * 1_000)
        right.append(found[0].key == key(int(expected)))
    await store.close()
    return [("nearest of a scope", f"{_quantiles(waits)}; recall@1 {np.mean(right):.4f}")]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.semantic_index")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--million", action="store_true", help="a million entries too; ten minutes")
    parser.add_argument("--questions", type=int, default=2_000)
    parser.add_argument("--only", choices=["embedders", "encoder", "index", "postgres"])
    parser.add_argument("--quick", action="store_true", help="see that it works")
    options = parser.parse_args(arguments)
    sizes = [*options.sizes, *([1_000_000] if options.million else [])]
    texts = Texts()
    if options.only in (None, "embedders"):
        embedders(texts, options.quick)
    if options.only in (None, "encoder"):
        encoder(texts, options.quick)
    for size in sizes:
        if options.only in (None, "index"):
            index(texts, size, options.questions)
    if options.only in (None, "postgres"):
        size = max(size for size in sizes if size <= 100_000)
        postgres(Corpus.make(texts, open_embedder(), size, options.questions))


if __name__ == "__main__":
    main()
