"""The vector index: what is nearest in a scope, whatever its size and whatever happens meanwhile."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from novellus_lab.cache.semantic import index as index_module
from novellus_lab.cache.semantic.index import VectorIndex
from novellus_lab.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

SCOPE = b"s" * 16
OTHER = b"o" * 16
LONG_S = 60


def key(number: int) -> bytes:
    return int(number).to_bytes(32, "big")


def clustered(count: int, dimensions: int, seed: int = 0) -> NDArray[np.float32]:
    """Vectors in heaps, as those of questions are."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(2, count // 50), dimensions))
    noise = rng.standard_normal((count, dimensions))
    vectors = centres[rng.integers(0, len(centres), count)] + 0.6 * noise
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32)


def filled(vectors: NDArray[np.float32], **options: Any) -> VectorIndex:
    index = VectorIndex(vectors.shape[1], **options)
    index.add_many([key(n) for n in range(len(vectors))], [SCOPE] * len(vectors), vectors)
    return index


@pytest.fixture
def grown() -> Iterator[tuple[VectorIndex, NDArray[np.float32]]]:
    """An index whose only scope has outgrown its rows."""
    vectors = clustered(3_000, 32)
    index = filled(vectors, exact_rows=100)
    assert index.settle(LONG_S)
    yield index, vectors
    index.close()


def test_the_nearest_come_first_with_their_cosines():
    index = VectorIndex(2)
    for number, vector in enumerate([(1, 0), (0.6, 0.8), (0, 5), (-1, 0)]):
        index.add(key(number), SCOPE, vector)
    found = index.search(SCOPE, (3, 0.3), k=3)
    assert [k for k, _ in found] == [key(0), key(1), key(2)]
    assert [c for _, c in found] == pytest.approx([0.995, 0.677, 0.0995], abs=1e-3)
    assert len(index) == 4
    assert key(3) in index


def test_scopes_are_apart():
    index = VectorIndex(2)
    index.add(key(1), SCOPE, (1, 0))
    index.add(key(2), OTHER, (0, 1))
    assert index.search(SCOPE, (0, 1), k=5) == [(key(1), 0.0)]
    assert index.search(OTHER, (0, 1), k=5) == [(key(2), 1.0)]
    assert index.search(b"never seen", (0, 1), k=5) == []
    assert index.scopes == 2


def test_a_key_that_is_added_again_has_the_new_vector_and_scope():
    index = VectorIndex(2)
    index.add(key(1), SCOPE, (1, 0))
    index.add(key(1), SCOPE, (0, 1))
    assert index.search(SCOPE, (0, 1), k=5) == [(key(1), 1.0)]
    index.add(key(1), OTHER, (0, 1))
    assert index.search(SCOPE, (0, 1), k=5) == []
    assert len(index) == 1


def test_equal_vectors_are_all_found_the_last_first():
    index = VectorIndex(3)
    for number in range(5):
        index.add(key(number), SCOPE, (1, 2, 3))
    index.add(key(9), SCOPE, (3, 2, 1))
    found = index.search(SCOPE, (1, 2, 3), k=6)
    assert [k for k, _ in found] == [key(n) for n in (4, 3, 2, 1, 0, 9)]
    index.remove(key(4))
    assert index.search(SCOPE, (1, 2, 3)) == [(key(3), 1.0)]


def test_a_vector_of_zeros_is_near_nothing():
    index = VectorIndex(2)
    index.add(key(1), SCOPE, (0, 0))
    assert len(index) == 0
    index.add(key(1), SCOPE, (1, 0))
    assert index.search(SCOPE, (0, 0), k=3) == []
    index.add(key(1), SCOPE, (0, 0))
    assert len(index) == 0


@pytest.mark.parametrize(
    "vector", [(1,), (1, 2, 3), (1, float("nan")), (1, float("inf")), "ab", [[1, 2], [3, 4, 5]]]
)
def test_what_is_no_vector_of_its_dimensions_is_refused(vector):
    index = VectorIndex(2)
    with pytest.raises(InvalidRequestError):
        index.add(key(1), SCOPE, vector)
    with pytest.raises(InvalidRequestError):
        index.search(SCOPE, vector)
    assert len(index) == 0


def test_vectors_of_another_model_are_refused_by_name():
    with pytest.raises(InvalidRequestError, match=r"384 dimensions .* 256: .* one embedding model"):
        VectorIndex(256).add(key(1), SCOPE, np.ones(384))


def test_keys_and_vectors_must_be_as_many():
    with pytest.raises(InvalidRequestError, match="don't match"):
        VectorIndex(2).add_many([key(1)], [SCOPE], [(1, 0), (0, 1)])


def test_it_holds_no_more_than_it_may():
    index = VectorIndex(2, max_entries=3)
    for number in range(5):
        index.add(key(number), SCOPE if number % 2 else OTHER, (number, 1))
    assert len(index) == 3
    assert [key(n) in index for n in range(5)] == [False, False, True, True, True]


def test_many_small_scopes_stay_small():
    index = VectorIndex(256)
    for number in range(1_000):
        index.add(key(number), number.to_bytes(16, "big"), clustered(2, 256, number)[0])
    assert index.scopes == 1_000
    assert index.size_bytes < 20_000_000
    for number in range(1_000):
        index.remove(key(number))
    assert (index.scopes, index.size_bytes) == (0, 0)


def test_a_grown_scope_finds_as_an_exact_one_does(grown):
    index, vectors = grown
    rng = np.random.default_rng(1)
    queries = vectors[:400] + 0.1 * rng.standard_normal((400, 32)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    cosines = queries @ vectors.T
    found = [index.search(SCOPE, query)[0] for query in queries]
    exact = [key(n) for n in cosines.argmax(axis=1)]
    assert np.mean([k == e for (k, _), e in zip(found, exact, strict=True)]) >= 0.99
    assert [c for _, c in found] == pytest.approx(cosines.max(axis=1), abs=2e-3)


def test_a_grown_scope_finds_every_equal_vector(grown):
    index, vectors = grown
    for number, vector in enumerate(vectors):
        assert index.search(SCOPE, vector) == [(key(number), 1.0)]


def test_a_thousand_copies_hide_nothing(grown):
    index, vectors = grown
    copies = [key(10_000 + n) for n in range(2_000)]
    index.add_many(copies, [SCOPE] * 2_000, [vectors[0]] * 2_000)
    assert index.settle(LONG_S)
    assert index.search(SCOPE, vectors[0])[0] == (copies[-1], 1.0)
    assert index.search(SCOPE, vectors[7]) == [(key(7), 1.0)]
    for copy in copies:
        assert index.remove(copy)
    assert index.search(SCOPE, vectors[0]) == [(key(0), 1.0)]


def test_it_is_searched_while_it_grows():
    vectors = clustered(3_000, 32)
    index = VectorIndex(32, exact_rows=100)
    missed = []
    for number, vector in enumerate(vectors):
        index.add(key(number), SCOPE, vector)
        if number % 10 == 0 and index.search(SCOPE, vectors[number // 2]) != [
            (key(number // 2), 1.0)
        ]:
            missed.append(number)
    assert missed == []
    assert index.settle(LONG_S)
    index.close()


def test_what_is_removed_is_not_found_again(grown):
    index, vectors = grown
    for number in range(0, 3_000, 2):
        assert index.remove(key(number))
    assert not index.remove(key(0))
    for number in range(200):
        found = index.search(SCOPE, vectors[number], k=5)
        assert len(found) == 5
        assert all(int.from_bytes(k, "big") % 2 for k, _ in found)
        assert found[0][0] == key(number) or number % 2 == 0


def test_a_worn_graph_is_renewed_and_answers_as_before(grown):
    index, vectors = grown
    for number in range(2_500):
        index.remove(key(number))
    assert index.settle(LONG_S)
    assert len(index._scopes[SCOPE].graph) < 1_700
    for number in range(2_500, 3_000):
        assert index.search(SCOPE, vectors[number]) == [(key(number), 1.0)]
    index.add_many([key(n) for n in range(2_500)], [SCOPE] * 2_500, vectors[:2_500])
    assert index.settle(LONG_S)
    for number in range(3_000):
        assert index.search(SCOPE, vectors[number]) == [(key(number), 1.0)]


def test_removing_and_adding_during_a_renewal_loses_nothing(grown, monkeypatch):
    """The copy of the graph is held up half-way; what happens meanwhile must be in the new one."""
    index, vectors = grown
    begun, go = threading.Event(), threading.Event()
    real = index._new_graph

    class Slow:
        def __init__(self) -> None:
            self.graph = real()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.graph, name)

        def __len__(self) -> int:
            return len(self.graph)

        def add(self, *args: Any, **kwargs: Any) -> Any:
            begun.set()
            assert go.wait(LONG_S)
            return self.graph.add(*args, **kwargs)

    monkeypatch.setattr(index, "_new_graph", Slow)
    for number in range(1_200):
        index.remove(key(number))
    assert begun.wait(LONG_S)
    for number in range(1_200, 1_300):
        index.remove(key(number))
    for number in range(1_250):  # of those before and of those during it
        index.add(key(number), SCOPE, vectors[number])
    go.set()
    assert index.settle(LONG_S)
    assert len(index) == 2_950
    for number in range(3_000):
        found = index.search(SCOPE, vectors[number], k=3)
        assert len({k for k, _ in found}) == 3
        assert (found[0] == (key(number), 1.0)) == (number < 1_250 or number >= 1_300)


def test_threads_add_search_and_remove_together():
    vectors = clustered(4_000, 16)
    index = VectorIndex(16, exact_rows=200)
    faults: list[Any] = []

    def work(first: int) -> None:
        try:
            for number in range(first, 4_000, 4):
                index.add(key(number), SCOPE, vectors[number])
                if index.search(SCOPE, vectors[number]) != [(key(number), 1.0)]:
                    faults.append(number)
                if number % 3 == 0:
                    index.remove(key(number))
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert index.settle(LONG_S)
    assert faults == []
    for number in range(4_000):
        assert (index.search(SCOPE, vectors[number])[0][0] == key(number)) == (number % 3 != 0)
    index.close()


def test_closing_stops_the_work_and_loses_nothing():
    vectors = clustered(3_000, 64)
    index = filled(vectors, exact_rows=10)
    index.close()
    index.close()
    assert not [t for t in threading.enumerate() if t.name == "novellus-vector-index"]
    index.add(key(9_999), SCOPE, -vectors[0])
    assert index.search(SCOPE, -vectors[0]) == [(key(9_999), 1.0)]
    assert index.search(SCOPE, vectors[5]) == [(key(5), 1.0)]


def test_a_fault_in_the_background_costs_speed_and_no_answer(monkeypatch, caplog):
    index = VectorIndex(16, exact_rows=100)

    def broken() -> Any:
        raise MemoryError("no room")

    monkeypatch.setattr(index, "_new_graph", broken)
    vectors = clustered(500, 16)
    index.add_many([key(n) for n in range(500)], [SCOPE] * 500, vectors)
    assert index.settle(LONG_S)
    assert "is not tended any more" in caplog.text
    for number in range(500):
        assert index.search(SCOPE, vectors[number]) == [(key(number), 1.0)]


def test_clearing_removes_all(grown):
    index, vectors = grown
    index.clear()
    assert len(index) == 0
    assert index.search(SCOPE, vectors[0]) == []
    index.add(key(1), SCOPE, vectors[1])
    assert index.search(SCOPE, vectors[1]) == [(key(1), 1.0)]


def test_a_graph_keeps_half_precision_to_the_bit():
    """Removing from a graph finds the vector's fingerprint again: signs of zero, tiny numbers too."""
    rng = np.random.default_rng(3)
    vectors = clustered(1_500, 8)
    vectors[:, 0] = -0.0
    vectors[:, 1] = rng.uniform(-1e-6, 1e-6, 1_500)
    index = filled(vectors, exact_rows=10)
    assert index.settle(LONG_S)
    for number in range(1_500):
        assert index.remove(key(number))
    assert (len(index), index.scopes) == (0, 0)


SMALL = st.lists(st.integers(-3, 3), min_size=3, max_size=3)


class LikeADictionary(RuleBasedStateMachine):
    """Whatever is done in whatever order: the answers are those of comparing with everything."""

    @initialize(exact_rows=st.sampled_from([1, 4, 1_000]))
    def start(self, exact_rows: int) -> None:
        self.rest, self.dead = index_module._REST_ROWS, index_module._MIN_DEAD
        index_module._REST_ROWS, index_module._MIN_DEAD = 2, 3
        self.index = VectorIndex(3, exact_rows=exact_rows)
        self.known: dict[bytes, tuple[bytes, list[int]]] = {}

    @rule(number=st.integers(0, 40), scope=st.sampled_from([SCOPE, OTHER]), vector=SMALL)
    def add(self, number: int, scope: bytes, vector: list[int]) -> None:
        self.index.add(key(number), scope, vector)
        self.known.pop(key(number), None)
        if any(vector):
            self.known[key(number)] = (scope, vector)

    @rule(number=st.integers(0, 40))
    def remove(self, number: int) -> None:
        assert self.index.remove(key(number)) == (self.known.pop(key(number), None) is not None)

    @rule()
    def settle(self) -> None:
        assert self.index.settle(LONG_S)

    @rule(scope=st.sampled_from([SCOPE, OTHER]), vector=SMALL.filter(any), k=st.integers(1, 5))
    def search(self, scope: bytes, vector: list[int], k: int) -> None:
        query = np.array(vector) / np.linalg.norm(vector)
        cosines = {
            known: float(query @ v / np.linalg.norm(v))
            for known, (s, v) in self.known.items()
            if s == scope
        }
        found = self.index.search(scope, vector, k)
        assert len({k for k, _ in found}) == len(found) == min(k, len(cosines))
        assert [c for _, c in found] == pytest.approx(
            sorted(cosines.values(), reverse=True)[:k], abs=2e-3
        )
        assert [c for _, c in found] == pytest.approx([cosines[k] for k, _ in found], abs=2e-3)

    @invariant()
    def as_many(self) -> None:
        if hasattr(self, "known"):
            assert len(self.index) == len(self.known)

    def teardown(self) -> None:
        if hasattr(self, "index"):
            self.index.close()
            index_module._REST_ROWS, index_module._MIN_DEAD = self.rest, self.dead


TestLikeADictionary = LikeADictionary.TestCase
TestLikeADictionary.settings = settings(max_examples=40, stateful_step_count=60, deadline=None)


def test_waiting_has_an_end():
    index = filled(clustered(3_000, 64), exact_rows=10)
    started = time.monotonic()
    settled = index.settle(0.0)
    assert settled or time.monotonic() - started < LONG_S
    index.close()
