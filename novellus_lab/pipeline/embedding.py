"""Texts to vectors: cached text by text, the rest in batches, one log row a call."""

from __future__ import annotations

import time
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import orjson

from novellus_lab.cache.entry import CacheEntry
from novellus_lab.cache.key import cache_key
from novellus_lab.cache.policy import CachePolicy
from novellus_lab.errors import InvalidRequestError
from novellus_lab.pipeline.asking import AskForVectors
from novellus_lab.pipeline.question import (
    PURPOSE_TAG,
    Question,
    canonical_json,
    checked_label,
    checked_tags,
    checked_timeout_s,
)
from novellus_lab.pipeline.recording import answered_embedding, failed_record
from novellus_lab.pipeline.request import Request
from novellus_lab.pipeline.trace import Trace
from novellus_lab.tokens import estimate_tokens
from novellus_lab.types import EMPTY, CacheOutcome, Candidate, Route, Usage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from novellus_lab.cache.manager import ResponseCache
    from novellus_lab.embeddings.base import Vectors
    from novellus_lab.pipeline.attempts import Attempts
    from novellus_lab.pipeline.catalog import Catalog, Model
    from novellus_lab.pipeline.recording import ContentPolicy
    from novellus_lab.store.request_log import RequestLog

BATCH_TEXTS = 256
"""Texts a provider call; OpenAI takes 2,048, Gemini 100 (its adapter splits further)."""

_FINEST_USD = Decimal("1e-15")

Vector = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """A checked `lab.embed` call."""

    request: Request
    texts: tuple[str, ...]
    dimensions: int | None


def build_embedding_request(
    texts: Sequence[str],
    *,
    model_id: str | None,
    dimensions: int | None,
    use_cache: bool,
    timeout: float | None,
    default_timeout_s: float | None,
    tags: Mapping[str, Any] | None,
    session_id: str | None,
) -> EmbeddingRequest:
    """Check a call's arguments.

    Raises:
        InvalidRequestError: naming the argument, and the text by its index.
    """
    started = time.perf_counter()
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InvalidRequestError(f"text[{index}] must be a string, not {type(text).__name__}")
        if not text or text.isspace():
            raise InvalidRequestError(f"text[{index}] is empty: there is nothing to embed")
    if dimensions is not None and (
        isinstance(dimensions, bool) or not isinstance(dimensions, int) or dimensions < 1
    ):
        raise InvalidRequestError(f"dimensions must be a whole number above 0, not {dimensions!r}")
    if type(use_cache) is not bool:
        raise InvalidRequestError(f"use_cache must be True or False, not {use_cache!r:.80}")
    for name, label in (("model", model_id), ("session_id", session_id)):
        if label is not None:
            checked_label(name, label)
    timeout_s = default_timeout_s if timeout is None else checked_timeout_s(timeout)
    params = {} if dimensions is None else {"dimensions": dimensions}
    question = Question(
        messages_json=canonical_json("text", list(texts)),
        params_json=canonical_json("dimensions", params),
        params=params,
        model_id=model_id,
        use_cache=use_cache,
        tags=EMPTY if tags is None else checked_tags(tags),
        session_id=session_id,
        timeout_s=timeout_s,
    )
    return EmbeddingRequest(Request.of(question, started), tuple(texts), dimensions)


class Embedder:
    """Runs embedding requests on the lab's loop."""

    def __init__(
        self,
        catalog: Catalog,
        cache: ResponseCache,
        attempts: Attempts,
        log: RequestLog,
        content: ContentPolicy,
        *,
        caching: bool,
    ) -> None:
        self._catalog = catalog
        self._cache = cache
        self._attempts = attempts
        self._log = log
        self._content = content
        self._caching = caching

    def refuse(self, asked: EmbeddingRequest, error: BaseException) -> None:
        """Log a request that could not be begun."""
        record = failed_record(asked.request, None, Trace(), error, self._content, "embedding")
        self._log.append(record)

    async def embed(self, asked: EmbeddingRequest) -> list[Vector]:
        """Return one vector a text, in order.

        Raises:
            UnknownModelError, NoModelAvailableError, ProviderError, DeadlineExceededError
        """
        if not self._log.listeners.around:
            return await self._embed(asked)
        with self._log.listeners.surround(asked.request.begun("embedding")):
            return await self._embed(asked)

    async def _embed(self, asked: EmbeddingRequest) -> list[Vector]:
        request, trace = asked.request, Trace()
        try:
            model = self._catalog.embedding_model(request.question.model_id)
            trace.route = Route(
                "explicit" if request.question.model_id else "first_available",
                (Candidate(model.id, 1.0),),
                model.id,
                1.0,
            )
            vectors, usage, saved = await self._vectors(asked, model, trace)
        except BaseException as error:
            self._log.append(failed_record(request, None, trace, error, self._content, "embedding"))
            raise
        self._log.append(answered_embedding(request, model, trace, usage, saved, self._content))
        return vectors

    async def _vectors(
        self, asked: EmbeddingRequest, model: Model, trace: Trace
    ) -> tuple[list[Vector], Usage, Decimal | None]:
        use_cache = self._caching and asked.request.question.use_cache
        scope = self._catalog.scope((model,))
        keys = [
            cache_key(scope, orjson.dumps(text), asked.request.question.params_json)
            for text in asked.texts
        ]
        known: dict[bytes, Vector] = {}
        saved: Decimal | None = Decimal(0)
        if use_cache:
            trace.cache = CacheOutcome.MISS
            for key, (entry, outcome) in (await self._cache.get_many(keys, _READ_WRITE)).items():
                known[key] = entry.vector or ()
                saved = _plus(saved, entry.cost_usd)
                trace.cache = outcome
        missing = {
            key: text for key, text in zip(keys, asked.texts, strict=True) if key not in known
        }
        usage = Usage()
        if missing:
            if use_cache:
                trace.cache = CacheOutcome.MISS  # a call that costs money is no hit
            todo = list(missing.items())
            for start in range(0, len(todo), BATCH_TEXTS):
                batch = todo[start : start + BATCH_TEXTS]
                texts = [text for _, text in batch]
                ask = AskForVectors(texts, asked.dimensions)
                reply = await self._attempts.run(asked.request, (model,), trace, ask)
                usage = Usage(
                    input_tokens=usage.input_tokens + reply.usage.input_tokens,
                    estimated=usage.estimated or reply.usage.estimated,
                )
                shares = _shares(trace.attempts[-1].price.cost_usd, texts)
                for (key, _), vector, share in zip(batch, reply.vectors, shares, strict=True):
                    known[key] = vector
                    if use_cache:
                        self._keep(key, vector, share, model, asked, trace)
        return [known[key] for key in keys], usage, saved

    def _keep(
        self,
        key: bytes,
        vector: Vector,
        cost_usd: Decimal | None,
        model: Model,
        asked: EmbeddingRequest,
        trace: Trace,
    ) -> None:
        attempt = trace.attempts[-1]
        now = time.time()
        self._cache.put(
            CacheEntry(
                key=key,
                content="",
                model=model.id,
                provider=model.provider,
                response_model=attempt.response_model,
                finish_reason="stop",
                usage=Usage(),
                cost_usd=cost_usd,
                price_version=attempt.price.version,
                original_latency_ms=attempt.latency_ms,
                source_request_id=asked.request.id,
                created_at=now,
                expires_at=None,  # the same text has the same vector for as long as the model lives
                vector=vector,
            ),
            None,
        )


class ModelEmbedder:
    """An embedding model of the configuration, as the semantic cache uses one: each text it embeds is
    an embedding call like any other, cached, priced and logged.
    """

    def __init__(self, model_id: str, embedder: Embedder) -> None:
        self._model_id = model_id
        self._embedder = embedder
        self._dimensions: int | None = None

    @property
    def name(self) -> str:
        return self._model_id

    @property
    def dimensions(self) -> int:
        """Known once `probe` has asked."""
        assert self._dimensions is not None  # noqa: S101
        return self._dimensions

    async def probe(self) -> None:
        """Learn how many dimensions its vectors have.

        Raises:
            UnknownModelError, NoModelAvailableError, ProviderError
        """
        self._dimensions = len((await self._ask(["dimensions"]))[0])

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Return unit vectors of shape (len(texts), dimensions); an empty text's is of zeros."""
        import numpy as np

        from novellus_lab.embeddings.base import unit_rows

        vectors = np.zeros((len(texts), self.dimensions), dtype=np.float32)
        said = [index for index, text in enumerate(texts) if text.strip()]
        if said:
            vectors[said] = await self._ask([texts[index] for index in said])
        return unit_rows(vectors)

    async def _ask(self, texts: Sequence[str]) -> list[Vector]:
        asked = build_embedding_request(
            texts,
            model_id=self._model_id,
            dimensions=None,
            use_cache=True,
            timeout=None,
            default_timeout_s=_EMBED_TIMEOUT_S,
            tags={PURPOSE_TAG: "semantic cache"},
            session_id=None,
        )
        return await self._embedder.embed(asked)


_EMBED_TIMEOUT_S = 10.0

_READ_WRITE = CachePolicy()


def _plus(a: Decimal | None, b: Decimal | None) -> Decimal | None:
    return None if a is None or b is None else a + b


def _shares(cost_usd: Decimal | None, texts: list[str]) -> list[Decimal | None]:
    """Split a batch's cost over its texts by their estimated tokens."""
    if cost_usd is None:
        return [None] * len(texts)
    tokens = [estimate_tokens(text) for text in texts]
    total = sum(tokens) or 1
    shares: list[Decimal | None] = []
    given, reached = Decimal(0), 0
    for count in tokens:
        # Rounded sums, not sums of rounded shares: together they are the cost to the last digit.
        reached += count
        upto = cost_usd if reached == total else (cost_usd * reached / total).quantize(_FINEST_USD)
        shares.append(upto - given)
        given = upto
    return shares
