"""Embeddings in PostgreSQL: the truth that every process's index follows.

An entry's embedding stands in its row of `ai_response_cache`, with the name of the model that made
it and its scope. A process loads all of one model's at its start (`load`), then asks for what
changed (`follow`); it can also ask for the nearest (`nearest`) without an index of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

import orjson
import psycopg
from psycopg import IsolationLevel, sql

from novellus_lab.errors import InvalidRequestError, StoreUnavailableError
from novellus_lab.store.database import cause

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    Vectors: TypeAlias = NDArray[np.float32]

KEEP_REMOVALS = timedelta(days=1)
_BATCH_ROWS = 2_000
_PURGE_EVERY_S = 600.0
_VECTOR_DIMENSIONS, _HALFVEC_DIMENSIONS = 2_000, 4_000
"""The most that HNSW takes of each type."""
_BUILD_LOCK = 0x4E4F5648  # "NOVH": one index is built at a time

# pgvector may live in a schema of its own; and a scope must not starve behind a filter.
_PREPARE = """
SELECT set_config('search_path',
                  current_setting('search_path') || ', ' || quote_ident(n.nspname), false),
       set_config('hnsw.iterative_scan', 'strict_order', false),
       set_config('hnsw.ef_search', '100', false)
FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
WHERE e.extname = 'vector'
"""

_NOW = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint, now()"

# Below xmax: in a restored database there are numbers of transactions that have yet to come.
_EMBEDDED = """
COPY (SELECT cache_key, semantic_scope, embedding, prompt FROM public.ai_response_cache
      WHERE embedding_changed >= ({since}::bigint)::text::xid8
        AND embedding_changed < pg_snapshot_xmax(pg_current_snapshot())
        AND {wanted})
TO STDOUT (FORMAT BINARY)
"""
_ALL = """
COPY (SELECT cache_key, semantic_scope, embedding, prompt FROM public.ai_response_cache
      WHERE {wanted})
TO STDOUT (FORMAT BINARY)
"""
_WANTED = """
embedding_model = {model} AND vector_dims(embedding) = {dimensions}
AND semantic_scope IS NOT NULL AND (expires_at IS NULL OR expires_at > now())
"""

_REMOVED = """
SELECT DISTINCT cache_key FROM public.ai_response_cache_removals AS r
WHERE removed_in >= (%s::bigint)::text::xid8
  AND removed_in < pg_snapshot_xmax(pg_current_snapshot())
  AND NOT EXISTS (SELECT FROM public.ai_response_cache AS c
                  WHERE c.cache_key = r.cache_key AND c.embedding IS NOT NULL)
"""
_PURGE = "DELETE FROM public.ai_response_cache_removals WHERE removed_at < now() - %s"

# The model as a literal: only so does a prepared statement use its partial index.
_NEAREST = """
SELECT cache_key, 1 - ({indexed} <=> {query}), prompt FROM public.ai_response_cache
WHERE embedding_model = {model} AND vector_dims(embedding) = {dimensions}
  AND {scoped}
  AND (expires_at IS NULL OR expires_at > now())
ORDER BY {indexed} <=> {query} LIMIT %(k)s
"""

_STORE = """
UPDATE public.ai_response_cache
SET embedding = %(vector)s, embedding_model = %(model)s, semantic_scope = %(scope)s
WHERE cache_key = %(key)s
  AND (embedding_model IS DISTINCT FROM %(model)s OR semantic_scope IS DISTINCT FROM %(scope)s)
"""
_THERE = "SELECT cache_key FROM public.ai_response_cache WHERE cache_key = ANY(%s)"

_TO_REEMBED = """
SELECT cache_key, semantic_scope, prompt FROM public.ai_response_cache
WHERE semantic_scope IS NOT NULL AND prompt IS NOT NULL
  AND embedding_model IS DISTINCT FROM %(model)s
  AND (expires_at IS NULL OR expires_at > now())
ORDER BY coalesce(last_hit_at, created_at) DESC LIMIT %(limit)s
"""

_CREATE_INDEX = """
CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON public.ai_response_cache
USING hnsw (({indexed}) {operators}) WHERE embedding_model = {model}
"""


@dataclass(frozen=True, slots=True)
class Embedding:
    """What is stored with an entry."""

    key: bytes
    scope: bytes
    vector: Vectors


@dataclass(frozen=True, slots=True)
class EmbeddedBatch:
    """Some entries, side by side; `vectors` is of shape (entries, dimensions).

    `prompts` are those of the last user turn; None where contents are not kept.
    """

    keys: list[bytes]
    scopes: list[bytes]
    prompts: list[str | None]
    vectors: Vectors


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment of the database's: all that ended before it was seen."""

    xmin: int
    at: datetime


@dataclass(frozen=True, slots=True)
class Changes:
    """What happened since a mark: remove first, then add. All of it may be told more than once."""

    removed: list[bytes]
    embedded: list[EmbeddedBatch]
    mark: Mark
    """Where to go on from."""
    lost: bool = False
    """The mark was too old to know what was removed since: clear the index, and load it again."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An entry near a question."""

    key: bytes
    cosine: float
    prompt: str | None


@dataclass(frozen=True, slots=True)
class Unembedded:
    """An entry whose embedding is another model's, or missing."""

    key: bytes
    scope: bytes
    prompt: str


class SemanticStore:
    """The embeddings of one database. Runs on one event loop.

    Each method raises StoreUnavailableError when the database can't be asked; the next call tries
    again.

    Args:
        conninfo: the database, migrated.
    """

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._follower = _Line(conninfo, snapshots=True)
        self._asker = _Line(conninfo)
        self._writer = _Line(conninfo)
        self._purge_at = time.monotonic() + _PURGE_EVERY_S

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        for line in (self._follower, self._asker, self._writer):
            await line.close()

    # --- following ---------------------------------------------------------------------------

    async def now(self) -> Mark:
        """Return a mark to follow from: take it before `load`."""
        async with self._follower.use() as connection:
            return await _mark(connection)

    async def load(self, embedding_model: str, dimensions: int) -> AsyncIterator[EmbeddedBatch]:
        """Yield all unexpired entries that this model embedded, 2,000 at a time."""
        line = _Line(self._conninfo, snapshots=True)  # it may take long
        try:
            async with line.use() as connection:
                wanted = _wanted(embedding_model, dimensions)
                statement = sql.SQL(_ALL).format(wanted=wanted)
                async for batch in _copy(connection, statement, dimensions):
                    yield batch
        finally:
            await line.close()

    async def follow(self, embedding_model: str, dimensions: int, since: Mark) -> Changes:
        """Return what changed since a mark, by whichever process.

        Nothing is left out, whatever order transactions commit in: what was still open at the time
        of the mark is asked for again. For that, entries near the mark are told twice.
        """
        async with self._follower.use() as connection:
            mark = await _mark(connection)
            if mark.at - since.at > KEEP_REMOVALS / 2:
                return Changes([], [], mark, lost=True)
            cursor = await connection.execute(_REMOVED, [since.xmin], binary=True)
            removed = [bytes(row[0]) for row in await cursor.fetchall()]
            statement = sql.SQL(_EMBEDDED).format(
                since=sql.Literal(since.xmin), wanted=_wanted(embedding_model, dimensions)
            )
            embedded = [batch async for batch in _copy(connection, statement, dimensions)]
        if time.monotonic() > self._purge_at:
            self._purge_at = time.monotonic() + _PURGE_EVERY_S
            async with self._writer.use() as connection:
                await connection.execute(_PURGE, [KEEP_REMOVALS])
        return Changes(removed, embedded, mark)

    # --- searching ---------------------------------------------------------------------------

    async def nearest(
        self, scope: bytes | None, vector: Vectors, embedding_model: str, k: int = 1
    ) -> list[Neighbour]:
        """Return up to `k` unexpired entries of a scope, the nearest first; milliseconds.

        Without a scope, of all of them: to look around, not to answer by.

        Raises:
            InvalidRequestError: the vector has more than 4,000 dimensions.
        """
        dimensions = len(vector)
        indexed, _, type_ = _indexed(dimensions)
        query = sql.SQL("%(vector)s::{}").format(type_)
        statement = sql.SQL(_NEAREST).format(
            indexed=indexed,
            query=query,
            model=sql.Literal(embedding_model),
            dimensions=sql.Literal(dimensions),
            scoped=sql.SQL("TRUE" if scope is None else "semantic_scope = %(scope)s"),
        )
        parameters = {"scope": scope, "vector": _text(vector), "k": k}
        async with self._asker.use() as connection:
            cursor = await connection.execute(statement, parameters)
            return [
                Neighbour(bytes(key), float(cosine), prompt)
                for key, cosine, prompt in await cursor.fetchall()
            ]

    async def ensure_index(self, embedding_model: str, dimensions: int) -> bool:
        """Build the HNSW index of a model's embeddings unless it is there; it may take minutes.

        Nobody waits for it: entries are stored and found meanwhile. Returns False where another
        process is building, or this user may not.

        Raises:
            InvalidRequestError: more than 4,000 dimensions, which HNSW does not take.
        """
        if embedding_model == "wordllama-256":
            return True  # by a migration
        indexed, operators, _ = _indexed(dimensions)
        digest = hashlib.blake2b(f"{embedding_model}/{dimensions}".encode(), digest_size=6)
        name = f"ai_response_cache_nearest_{digest.hexdigest()}"
        statement = sql.SQL(_CREATE_INDEX).format(
            name=sql.Identifier(name),
            indexed=indexed,
            operators=operators,
            model=sql.Literal(embedding_model),
        )
        line = _Line(self._conninfo)
        try:
            async with line.use() as connection:
                cursor = await connection.execute("SELECT pg_try_advisory_lock(%s)", [_BUILD_LOCK])
                row = await cursor.fetchone()
                if row is None or not row[0]:
                    return False
                with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
                    await _drop_invalid(connection, name)
                    await connection.execute(statement)
                    return True
                return False
        finally:
            await line.close()

    # --- storing -----------------------------------------------------------------------------

    async def store_embeddings(
        self, embedding_model: str, embeddings: Sequence[Embedding]
    ) -> list[bytes]:
        """Set entries' embeddings; return the keys that have no entry (yet, or any more).

        An entry that has one of the same model and scope keeps it: the text is the same.
        """
        # One order for all writers, so that two of them can't wait for each other's rows.
        ordered = sorted(embeddings, key=lambda embedding: embedding.key)
        keys = [embedding.key for embedding in ordered]
        async with self._writer.use() as connection:
            # Before the update: an entry that comes in between is reported as missing, and tried again.
            found = await (await connection.execute(_THERE, [keys], binary=True)).fetchall()
            async with connection.cursor() as cursor, connection.transaction():
                await cursor.executemany(
                    _STORE,
                    [
                        {
                            "key": embedding.key,
                            "scope": embedding.scope,
                            "vector": _text(embedding.vector),
                            "model": embedding_model,
                        }
                        for embedding in ordered
                    ],
                )
        there = {bytes(row[0]) for row in found}
        return [key for key in keys if key not in there]

    async def to_reembed(self, embedding_model: str, limit: int = 256) -> list[Unembedded]:
        """Return entries that this model has not embedded, the last used first.

        To go over to another model, embed these prompts, `store_embeddings`, and come again until
        there are none. Processes of one database must agree on the model: two that differ would
        embed each other's entries again and again.
        """
        async with self._asker.use() as connection:
            cursor = await connection.execute(
                _TO_REEMBED, {"model": embedding_model, "limit": limit}
            )
            return [
                Unembedded(bytes(key), bytes(scope), prompt)
                for key, scope, prompt in await cursor.fetchall()
            ]


class _Line:
    """A connection that is opened when it is needed, used by one at a time, and opened again."""

    def __init__(self, conninfo: str, *, snapshots: bool = False) -> None:
        self._conninfo = conninfo
        self._snapshots = snapshots
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._lock = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def use(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """Lend the connection; one of snapshots shows all statements the same state, to read.

        Raises:
            StoreUnavailableError: whatever went wrong with it.
        """
        async with self._lock:
            try:
                connection = await self._open()
                if self._snapshots:
                    async with connection.transaction():
                        yield connection
                else:
                    yield connection
            except (psycopg.Error, OSError, TimeoutError) as error:
                await self._end()
                raise StoreUnavailableError(
                    f"the shared semantic cache can't be asked: {cause(error)}"
                ) from None
            except BaseException:  # cancelled in the middle of an answer
                await self._end()
                raise

    async def close(self) -> None:
        async with self._lock:
            await self._end()

    async def _open(self) -> psycopg.AsyncConnection[Any]:
        if self._connection is None or self._connection.closed:
            connection = await psycopg.AsyncConnection.connect(
                self._conninfo, autocommit=True, connect_timeout=5
            )
            self._connection = connection
            await connection.execute(_PREPARE)
            if self._snapshots:
                await connection.set_isolation_level(IsolationLevel.REPEATABLE_READ)
                await connection.set_read_only(True)
        return self._connection

    async def _end(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error, OSError):
                await connection.close()


async def _mark(connection: psycopg.AsyncConnection[Any]) -> Mark:
    row = await (await connection.execute(_NOW)).fetchone()
    assert row is not None  # noqa: S101  a SELECT without FROM
    return Mark(row[0], row[1])


async def _copy(
    connection: psycopg.AsyncConnection[Any], statement: sql.Composed, dimensions: int
) -> AsyncIterator[EmbeddedBatch]:
    batch: list[tuple[Any, ...]] = []
    async with connection.cursor() as cursor, cursor.copy(statement) as copy:
        # A vector as bytes: what the server sends is read by numpy, a batch at once.
        copy.set_types(["bytea", "bytea", "bytea", "text"])
        async for row in copy.rows():
            batch.append(row)
            if len(batch) == _BATCH_ROWS:
                yield _batch(batch, dimensions)
                batch = []
    if batch:
        yield _batch(batch, dimensions)


def _batch(rows: list[tuple[Any, ...]], dimensions: int) -> EmbeddedBatch:
    import numpy as np

    # pgvector's binary format: two numbers of 16 bits (dimensions, unused), then big-endian floats.
    packed = b"".join(bytes(row[2])[4:] for row in rows)
    vectors = np.frombuffer(packed, dtype=">f4").reshape(len(rows), dimensions)
    return EmbeddedBatch(
        [bytes(row[0]) for row in rows],
        [bytes(row[1]) for row in rows],
        [row[3] for row in rows],
        vectors.astype(np.float32),
    )


def _wanted(embedding_model: str, dimensions: int) -> sql.Composed:
    return sql.SQL(_WANTED).format(
        model=sql.Literal(embedding_model), dimensions=sql.Literal(dimensions)
    )


def _indexed(dimensions: int) -> tuple[sql.Composable, sql.Composable, sql.Composable]:
    """Return the expression that an HNSW index is on, its operators, and its type."""
    if dimensions > _HALFVEC_DIMENSIONS:
        raise InvalidRequestError(
            f"embeddings of {dimensions} dimensions can't be searched in PostgreSQL: at most "
            f"{_HALFVEC_DIMENSIONS}; ask the model for fewer (dimensions=…)"
        )
    kind = "vector" if dimensions <= _VECTOR_DIMENSIONS else "halfvec"
    type_ = sql.SQL("{}({})").format(sql.SQL(kind), sql.Literal(dimensions))
    return sql.SQL("embedding::{}").format(type_), sql.SQL(f"{kind}_cosine_ops"), type_


async def _drop_invalid(connection: psycopg.AsyncConnection[Any], name: str) -> None:
    """Remove what a build left behind that was broken off: it would be kept up, and never used."""
    cursor = await connection.execute(
        "SELECT indexrelid FROM pg_index WHERE indexrelid = to_regclass(%s) AND NOT indisvalid",
        [f"public.{name}"],
    )
    if await cursor.fetchone():
        await connection.execute(
            sql.SQL("DROP INDEX CONCURRENTLY {}").format(sql.Identifier("public", name))
        )


def _text(vector: Vectors) -> str:
    """Write a vector as pgvector reads it: the shortest text that gives the same floats."""
    import numpy as np

    array = np.ascontiguousarray(vector, dtype=np.float32)
    return orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY).decode()
