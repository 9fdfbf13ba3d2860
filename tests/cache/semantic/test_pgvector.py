"""Embeddings in a real PostgreSQL: stored by one process, followed and found by others."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import psycopg
import pytest

from novellus_lab.cache.semantic.pgvector import Embedding, SemanticStore
from novellus_lab.errors import InvalidRequestError, StoreUnavailableError
from tests.store.database_proxy import DatabaseProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from numpy.typing import NDArray

    from novellus_lab.cache.semantic.pgvector import Changes, EmbeddedBatch

MODEL = "wordllama-256"
SCOPE = b"s" * 16
OTHER = b"o" * 16


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def vectors(count: int, dimensions: int = 256, seed: int = 0) -> NDArray[np.float32]:
    drawn = np.random.default_rng(seed).standard_normal((count, dimensions))
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    return drawn.astype(np.float32)


def insert(database: Any, numbers: Sequence[int], ttl: str | None = None) -> None:
    """Put entries there, as the exact cache does."""
    with psycopg.connect(database.conninfo, autocommit=True) as connection:
        connection.cursor().executemany(
            "INSERT INTO ai_response_cache (cache_key, kind, model, provider, prompt, response, "
            "created_at, expires_at) "
            "VALUES (%s, 'chat', 'm', 'p', %s, '{}', now(), now() + %s::interval)",
            [(key(n), f"prompt {n}", ttl) for n in numbers],
        )


def execute(database: Any, statement: str, *parameters: Any) -> list[Any]:
    with psycopg.connect(database.conninfo, autocommit=True) as connection:
        cursor = connection.execute(statement.encode(), parameters)
        return cursor.fetchall() if cursor.description else []


@pytest.fixture
async def store(database) -> AsyncIterator[SemanticStore]:
    store = SemanticStore(database.conninfo)
    yield store
    await store.close()


async def filled(
    store: SemanticStore, database: Any, count: int, scope: bytes = SCOPE
) -> NDArray[np.float32]:
    drawn = vectors(count)
    insert(database, range(count))
    missing = await store.store_embeddings(
        MODEL, [Embedding(key(n), scope, drawn[n]) for n in range(count)]
    )
    assert missing == []
    return drawn


async def loaded(store: SemanticStore, model: str = MODEL, dimensions: int = 256) -> Any:
    batches: list[EmbeddedBatch] = [batch async for batch in store.load(model, dimensions)]
    return batches


def told(changes: Changes) -> set[bytes]:
    return {k for batch in changes.embedded for k in batch.keys}


async def test_what_is_stored_is_loaded_to_the_bit(store, database):
    drawn = await filled(store, database, 2_500)
    batches = await loaded(store)
    assert [len(batch.keys) for batch in batches] == [2_000, 500]
    by_key = {
        k: (scope, prompt, vector)
        for batch in batches
        for k, scope, prompt, vector in zip(
            batch.keys, batch.scopes, batch.prompts, batch.vectors, strict=True
        )
    }
    assert len(by_key) == 2_500
    for number in range(2_500):
        scope, prompt, vector = by_key[key(number)]
        assert (scope, prompt) == (SCOPE, f"prompt {number}")
        assert vector.dtype == np.float32
        assert (vector == drawn[number]).all()


async def test_only_what_can_be_served_is_loaded(store, database):
    await filled(store, database, 3)
    execute(
        database, "UPDATE ai_response_cache SET expires_at = now() WHERE cache_key = %s", key(0)
    )
    insert(database, [7])
    assert [batch.keys for batch in await loaded(store)] == [[key(1), key(2)]]
    assert await loaded(store, "another-model-256") == []
    assert await loaded(store, MODEL, 384) == []


async def test_prompts_that_are_not_kept_are_none(store, database):
    await filled(store, database, 1)
    execute(database, "UPDATE ai_response_cache SET prompt = NULL")
    [batch] = await loaded(store)
    assert batch.prompts == [None]


async def test_keys_without_an_entry_are_told(store, database):
    insert(database, [1])
    rows = [Embedding(key(n), SCOPE, vector) for n, vector in enumerate(vectors(3))]
    assert await store.store_embeddings(MODEL, rows) == [key(0), key(2)]
    assert await store.store_embeddings(MODEL, []) == []


async def test_the_nearest_of_a_scope_come_first(store, database):
    drawn = await filled(store, database, 50)
    insert(database, [99])
    await store.store_embeddings(MODEL, [Embedding(key(99), OTHER, drawn[0])])
    query = drawn[0] + 0.2 * drawn[1]
    found = await store.nearest(SCOPE, query, MODEL, k=3)
    cosines = drawn @ (query / np.linalg.norm(query))
    order = np.argsort(-cosines)[:3]
    assert [n.key for n in found] == [key(int(n)) for n in order]
    assert [n.cosine for n in found] == pytest.approx(cosines[order], abs=1e-5)
    assert found[0].prompt == "prompt 0"
    assert [n.key for n in await store.nearest(OTHER, query, MODEL, k=3)] == [key(99)]
    assert await store.nearest(b"none", query, MODEL, k=3) == []
    execute(
        database, "UPDATE ai_response_cache SET expires_at = now() WHERE cache_key = %s", key(0)
    )
    assert (await store.nearest(SCOPE, query, MODEL))[0].key != key(0)


async def test_a_scope_does_not_starve_behind_nearer_ones_of_others(store, database):
    """A thousand others are nearer; a plain HNSW scan would stop at those, and find nothing."""
    drawn = vectors(1_020)
    heap = drawn[0] + 0.05 * drawn[:1_000]
    insert(database, range(1_020))
    rows = [Embedding(key(n), OTHER, heap[n]) for n in range(1_000)]
    rows += [Embedding(key(n), SCOPE, drawn[n]) for n in range(1_000, 1_020)]
    await store.store_embeddings(MODEL, rows)
    execute(database, "DROP INDEX ai_response_cache_scope")  # or it would never be asked by HNSW
    execute(database, "ALTER ROLE CURRENT_USER SET enable_seqscan = off")
    try:
        await store.close()
        found = await store.nearest(SCOPE, drawn[0], MODEL, k=5)
    finally:
        execute(database, "ALTER ROLE CURRENT_USER RESET enable_seqscan")
    expected = np.argsort(-(drawn[1_000:] @ drawn[0]))[:5] + 1_000
    assert [n.key for n in found] == [key(int(n)) for n in expected]


@pytest.mark.parametrize("dimensions", [3, 384, 3_072])
async def test_any_model_gets_an_index_of_its_own(store, database, dimensions):
    model = f'it\'s "some" model-{dimensions}'
    drawn = vectors(20, dimensions)
    insert(database, range(20))
    rows = [Embedding(key(n), SCOPE, drawn[n]) for n in range(20)]
    await store.store_embeddings(model, rows)
    assert (await store.nearest(SCOPE, drawn[4], model))[0].key == key(4)  # before there is one
    assert await store.ensure_index(model, dimensions)
    assert await store.ensure_index(model, dimensions)
    assert (await store.nearest(SCOPE, drawn[5], model))[0].key == key(5)
    [[plan]] = execute(
        database,
        "SELECT indexdef FROM pg_indexes WHERE tablename = 'ai_response_cache' AND indexdef LIKE %s",
        f"%{dimensions})%",
    )
    assert "hnsw" in plan
    assert ("halfvec" in plan) == (dimensions > 2_000)


async def test_an_index_that_broke_off_is_built_again(store, database):
    assert await store.ensure_index("m", 4)
    [[name]] = execute(
        database,
        "SELECT indexname FROM pg_indexes WHERE indexdef LIKE '%%embedding_model = ''m''%%'",
    )
    execute(
        database,
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = %s::regclass",
        f"public.{name}",
    )
    assert await store.ensure_index("m", 4)
    [[valid]] = execute(
        database,
        "SELECT indisvalid FROM pg_index WHERE indexrelid = %s::regclass",
        f"public.{name}",
    )
    assert valid


async def test_too_many_dimensions_are_refused_with_the_way_out(store):
    with pytest.raises(InvalidRequestError, match=r"4096 dimensions .* at most 4000"):
        await store.ensure_index("m", 4_096)


# --- following ---------------------------------------------------------------------------------


async def test_a_follower_learns_what_others_store(store, database):
    await filled(store, database, 3)
    mark = await store.now()
    assert told(await store.follow(MODEL, 256, mark)) == set()
    insert(database, range(10, 13))
    other = SemanticStore(database.conninfo)
    await other.store_embeddings(
        MODEL, [Embedding(key(n), OTHER, vector) for n, vector in enumerate(vectors(3), 10)]
    )
    await other.close()
    changes = await store.follow(MODEL, 256, mark)
    assert told(changes) == {key(10), key(11), key(12)}
    [batch] = changes.embedded
    assert batch.scopes == [OTHER] * 3
    assert set(batch.prompts) == {"prompt 10", "prompt 11", "prompt 12"}
    assert told(await store.follow(MODEL, 256, changes.mark)) == set()


async def test_nothing_is_lost_when_transactions_commit_out_of_order(store, database):
    insert(database, [1, 2])
    statement = (
        "UPDATE ai_response_cache SET embedding = %s, embedding_model = %s, semantic_scope = %s "
        "WHERE cache_key = %s"
    )
    zero = "[" + ",".join(["0"] * 255) + ",1]"
    with psycopg.connect(database.conninfo) as early:
        early.execute(statement, [zero, MODEL, SCOPE, key(1)])  # begins first …
        mark = await store.now()
        execute(database, statement, zero, MODEL, SCOPE, key(2))
        first = await store.follow(MODEL, 256, mark)
        assert told(first) == {key(2)}
        early.commit()  # … and ends last
    assert key(1) in told(await store.follow(MODEL, 256, first.mark))


async def test_a_follower_learns_what_was_removed(store, database):
    await filled(store, database, 4)
    insert(database, [9])  # without an embedding: nobody's index has it
    mark = await store.now()
    execute(database, "DELETE FROM ai_response_cache WHERE cache_key = ANY(%s)", [key(0), key(9)])
    changes = await store.follow(MODEL, 256, mark)
    assert (changes.removed, changes.lost) == ([key(0)], False)
    assert (await store.follow(MODEL, 256, changes.mark)).removed == []


async def test_what_came_back_is_not_removed(store, database):
    drawn = await filled(store, database, 2)
    mark = await store.now()
    execute(database, "DELETE FROM ai_response_cache WHERE cache_key = %s", key(1))
    insert(database, [1])
    await store.store_embeddings(MODEL, [Embedding(key(1), SCOPE, drawn[1])])
    changes = await store.follow(MODEL, 256, mark)
    assert changes.removed == []
    assert told(changes) == {key(1)}


async def test_an_entry_that_is_counted_or_renewed_is_not_told_again(store, database):
    drawn = await filled(store, database, 2)
    mark = await store.now()
    execute(database, "UPDATE ai_response_cache SET hits = hits + 1, response = '{\"a\": 1}'")
    await store.store_embeddings(MODEL, [Embedding(key(1), SCOPE, drawn[1])])
    assert told(await store.follow(MODEL, 256, mark)) == set()


async def test_an_embedding_that_comes_with_its_row_is_told(store, database):
    mark = await store.now()
    vector = "[" + ",".join(["0.5"] * 4) + "]"
    execute(
        database,
        "INSERT INTO ai_response_cache (cache_key, kind, model, provider, response, created_at, "
        "embedding, embedding_model, semantic_scope) "
        "VALUES (%s, 'chat', 'm', 'p', '{}', now(), %s, 'four', %s)",
        key(1),
        vector,
        SCOPE,
    )
    assert told(await store.follow("four", 4, mark)) == {key(1)}


async def test_after_too_long_an_absence_the_index_is_to_be_loaded_again(store, database):
    from dataclasses import replace

    mark = await store.now()
    changes = await store.follow(MODEL, 256, replace(mark, at=mark.at - timedelta(hours=13)))
    assert changes.lost
    assert not (await store.follow(MODEL, 256, changes.mark)).lost


async def test_old_removals_are_forgotten(store, database):
    await filled(store, database, 2)
    execute(database, "DELETE FROM ai_response_cache WHERE cache_key = %s", key(0))
    execute(
        database,
        "UPDATE ai_response_cache_removals SET removed_at = now() - interval '25 hours'",
    )
    execute(database, "DELETE FROM ai_response_cache WHERE cache_key = %s", key(1))
    store._purge_at = 0.0  # ten minutes later
    mark = await store.now()
    await store.follow(MODEL, 256, mark)
    assert execute(database, "SELECT cache_key FROM ai_response_cache_removals") == [(key(1),)]


async def test_rows_of_a_restored_database_do_not_flood_followers(store, database):
    """Their transactions' numbers are another server's, and may lie far ahead."""
    await filled(store, database, 2)
    execute(database, "ALTER TABLE ai_response_cache DISABLE TRIGGER embedding_changed")
    execute(database, "UPDATE ai_response_cache SET embedding_changed = '99999999999'::xid8")
    execute(database, "ALTER TABLE ai_response_cache ENABLE TRIGGER embedding_changed")
    mark = await store.now()
    assert told(await store.follow(MODEL, 256, mark)) == set()
    assert sum(len(batch.keys) for batch in await loaded(store)) == 2


# --- another model -----------------------------------------------------------------------------


async def test_going_over_to_another_model_embeds_all_again(store, database):
    await filled(store, database, 10)
    insert(database, [50])  # not for the semantic cache: it has no scope
    execute(database, "UPDATE ai_response_cache SET prompt = NULL WHERE cache_key = %s", key(3))
    execute(
        database,
        "UPDATE ai_response_cache SET last_hit_at = now() + interval '1 day' WHERE cache_key = %s",
        key(7),
    )
    mark = await store.now()
    drawn = vectors(10, 384, seed=1)
    seen: list[bytes] = []
    while todo := await store.to_reembed("minilm", limit=4):
        seen += [u.key for u in todo]
        assert all(u.prompt == f"prompt {int.from_bytes(u.key, 'big')}" for u in todo)
        rows = [Embedding(u.key, u.scope, drawn[int.from_bytes(u.key, "big")]) for u in todo]
        assert await store.store_embeddings("minilm", rows) == []
    assert seen[0] == key(7)
    assert set(seen) == {key(n) for n in range(10) if n != 3}
    assert told(await store.follow("minilm", 384, mark)) == set(seen)
    assert (await store.nearest(SCOPE, drawn[5], "minilm"))[0].key == key(5)
    [batch] = await loaded(store)
    assert batch.keys == [key(3)]  # vectors of two models are never together


async def test_two_stores_of_the_same_rows_do_not_block_each_other(store, database):
    insert(database, range(300))
    drawn = vectors(300)
    rows = [Embedding(key(n), SCOPE, drawn[n]) for n in range(300)]
    others = [SemanticStore(database.conninfo) for _ in range(3)]
    results = await asyncio.gather(
        store.store_embeddings(MODEL, rows),
        *[other.store_embeddings(MODEL, rows[::-1]) for other in others],
    )
    assert results == [[], [], [], []]
    for other in others:
        await other.close()


# --- faults ------------------------------------------------------------------------------------


async def test_an_outage_is_an_error_of_ours_and_ends(database):
    with DatabaseProxy(database) as proxy:
        store = SemanticStore(proxy.conninfo)
        mark = await store.now()
        proxy.cut()
        for ask in (
            lambda: store.follow(MODEL, 256, mark),
            lambda: store.nearest(SCOPE, vectors(1)[0], MODEL),
            lambda: store.store_embeddings(MODEL, [Embedding(key(1), SCOPE, vectors(1)[0])]),
            lambda: store.to_reembed(MODEL),
            lambda: loaded(store),
        ):
            with pytest.raises(StoreUnavailableError, match="semantic cache can't be asked"):
                await ask()
        proxy.mend()
        assert not (await store.follow(MODEL, 256, mark)).lost
        await store.close()


async def test_a_cancelled_call_leaves_the_store_usable(store, database):
    await filled(store, database, 500)
    task = asyncio.create_task(loaded(store))
    await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    mark = await store.now()
    task = asyncio.create_task(store.follow(MODEL, 256, mark))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert len(await loaded(store)) == 1
    assert not (await store.follow(MODEL, 256, mark)).lost


async def test_pgvector_may_live_in_a_schema_of_its_own(store, database):
    execute(database, "CREATE SCHEMA extensions")
    execute(database, "ALTER EXTENSION vector SET SCHEMA extensions")
    drawn = await filled(store, database, 5)
    assert (await store.nearest(SCOPE, drawn[2], MODEL))[0].key == key(2)
    assert await store.ensure_index("other", 8)
    assert len(await loaded(store)) == 1


async def test_who_may_only_delete_entries_can(store, database):
    await filled(store, database, 1)
    execute(database, "CREATE ROLE cleaner")
    try:
        execute(database, "GRANT SELECT, DELETE ON ai_response_cache TO cleaner")
        mark = await store.now()
        with psycopg.connect(database.conninfo, autocommit=True) as connection:
            connection.execute("SET ROLE cleaner")
            connection.execute("DELETE FROM ai_response_cache")
        assert (await store.follow(MODEL, 256, mark)).removed == [key(0)]
    finally:
        execute(database, "DROP OWNED BY cleaner")
        execute(database, "DROP ROLE cleaner")
