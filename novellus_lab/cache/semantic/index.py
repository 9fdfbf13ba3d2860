"""Nearest vectors within a scope, in this process's memory.

A scope (system prompt, earlier turns, pool, parameters) has rows of its own, and only those are
compared. New vectors go to rows that numpy searches exactly. Where a scope outgrows that, a thread
in the background moves its rows into an HNSW graph (Malkov & Yashunin 2018; `usearch`, in half
precision): adding stays a copy of one row, and a search asks both.

Equal vectors are one row with several keys: their keys are found by a dictionary as well, so that
no approximation can miss them, and a thousand copies can't clog the graph.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from mmap import mmap
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, TypeAlias

from novellus_lab.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    Vectors: TypeAlias = NDArray[np.float32]

logger = logging.getLogger("novellus_lab.cache")

_FIRST_ROWS = 16
_BLOCK_ROWS = 1_024
_REST_ROWS = 1_024
"""Rows beside a graph above which they are moved into it."""
_STEP = 2
"""Vectors put into a graph while searches wait: half a millisecond."""
_PAUSE_S = 5e-5
"""Between steps, so that a search that waits comes first: locks are not fair."""
_MIN_DEAD = 1_024
_MAX_DEAD_SHARE = 0.25
_BYTES_PER_KEY = 525
"""Python's own, measured: the key, four entries of dictionaries, one of a list."""
_TINY = 1e-12
_NEAR = 0.85
_NARROW, _WIDE = 64, 160
"""A graph is searched narrowly first (HNSW's ef). Near neighbours are easy to find: of those above
0.85 it missed 0.1% among 100,000, and 9% of the others. Where none is near a wide search follows
(2% of those), for twice the time: then a provider is asked anyway."""


class VectorIndex:
    """Keys by the cosine of their vectors. Thread-safe; searches run one at a time.

    Args:
        dimensions: of every vector; an index is for the vectors of one embedding model.
        max_entries: keys held; beyond it those that were added first go.
        exact_rows: rows of a scope up to which searches are exact: 0.2 ms at 8,192.
        connectivity, expansion_add: the graph's M and efConstruction.

    Raises:
        ImportError: numpy or usearch is not installed.
    """

    def __init__(
        self,
        dimensions: int,
        *,
        max_entries: int = 1_000_000,
        exact_rows: int = 8_192,
        connectivity: int = 16,
        expansion_add: int = 128,
    ) -> None:
        import usearch.index  # noqa: F401  now, not when a scope has grown in a year's time

        self.dimensions = dimensions
        self._max_entries = max_entries
        self._exact_rows = exact_rows
        self._graph_options: dict[str, Any] = {
            "connectivity": connectivity,
            "expansion_add": expansion_add,
        }
        self._scopes: dict[bytes, _Scope] = {}
        self._scope_of: OrderedDict[bytes, bytes] = OrderedDict()
        self._lock = Lock()
        self._grown: dict[bytes, None] = {}
        self._thread: Thread | None = None
        self._closed = False

    def __len__(self) -> int:
        return len(self._scope_of)

    def __contains__(self, key: bytes) -> bool:
        return key in self._scope_of

    @property
    def scopes(self) -> int:
        """How many scopes have entries."""
        return len(self._scopes)

    @property
    def size_bytes(self) -> int:
        """Roughly what the index occupies in memory."""
        with self._lock:
            vectors = sum(scope.size_bytes for scope in self._scopes.values())
            return vectors + _BYTES_PER_KEY * len(self._scope_of)

    def add(self, key: bytes, scope: bytes, vector: ArrayLike) -> None:
        """Add a key, or give it another vector. A vector of zeros is near nothing, and not kept.

        Raises:
            InvalidRequestError: the vector is not one of `dimensions` finite numbers.
        """
        unit = _unit(vector, self.dimensions)
        with self._lock:
            self._add(key, scope, unit[0])

    def add_many(self, keys: Sequence[bytes], scopes: Sequence[bytes], vectors: ArrayLike) -> None:
        """Add keys with their scopes and vectors, the latter of shape (len(keys), dimensions).

        Raises:
            InvalidRequestError: as for `add`; nothing was added.
        """
        units = _unit(vectors, self.dimensions)
        if not len(keys) == len(scopes) == len(units):
            raise InvalidRequestError(
                f"{len(keys)} keys, {len(scopes)} scopes and {len(units)} vectors don't match"
            )
        for key, scope, unit in zip(keys, scopes, units, strict=True):
            with self._lock:
                self._add(key, scope, unit)

    def remove(self, key: bytes) -> bool:
        """Remove a key; return whether it was there."""
        with self._lock:
            return self._discard(key)

    def clear(self) -> None:
        """Remove all keys."""
        with self._lock:
            self._scopes.clear()
            self._scope_of.clear()
            self._grown.clear()

    def search(self, scope: bytes, vector: ArrayLike, k: int = 1) -> list[tuple[bytes, float]]:
        """Return up to `k` keys of a scope with their cosines, the nearest first.

        Of keys with equal vectors the one that was added last comes first.

        Raises:
            InvalidRequestError: as for `add`.
        """
        unit = _unit(vector, self.dimensions)[0]
        with self._lock:
            rows = self._scopes.get(scope)
            return [] if rows is None or not unit.any() else rows.search(unit, k)

    def settle(self, timeout_s: float | None = None) -> bool:
        """Wait until nothing is moved in the background any more; return whether that is so."""
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while (thread := self._thread) is not None:
            thread.join(None if end is None else max(0.0, end - time.monotonic()))
            if thread.is_alive():
                return False
        return True

    def close(self) -> None:
        """Stop what runs in the background. Searches stay possible. Idempotent."""
        self._closed = True
        self.settle()

    # --- under the lock ----------------------------------------------------------------------

    def _add(self, key: bytes, scope: bytes, unit: Vectors) -> None:
        if self._scope_of.get(key) == scope and self._scopes[scope].has(key, unit):
            return
        self._discard(key)
        if not unit.any():
            return
        rows = self._scopes.get(scope)
        if rows is None:
            rows = self._scopes[scope] = _Scope(self.dimensions)
        rows.add(key, unit)
        self._scope_of[key] = scope
        while len(self._scope_of) > self._max_entries:
            self._discard(next(iter(self._scope_of)))
        self._tend(scope, rows)

    def _discard(self, key: bytes) -> bool:
        scope = self._scope_of.pop(key, None)
        if scope is None:
            return False
        rows = self._scopes[scope]
        rows.remove(key)
        if not rows.slot_of_key:
            del self._scopes[scope]
        else:
            self._tend(scope, rows)
        return True

    def _tend(self, scope: bytes, rows: _Scope) -> None:
        most = self._exact_rows if rows.graph is None else _REST_ROWS
        if (len(rows.flat) <= most and not rows.worn) or scope in self._grown or self._closed:
            return
        self._grown[scope] = None
        if self._thread is None:
            self._thread = Thread(target=self._work, name="novellus-vector-index", daemon=True)
            self._thread.start()

    # --- in the background -------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while True:
                with self._lock:
                    if self._closed or not self._grown:
                        self._thread = None
                        return
                    scope = next(iter(self._grown))
                    rows = self._scopes.get(scope)
                if rows is not None:
                    if rows.worn:
                        self._renew(scope, rows)
                    self._move(scope, rows)
                with self._lock:
                    self._grown.pop(scope, None)
        except Exception:
            # What is not in a graph yet is found all the same, by numpy.
            logger.exception("the vector index is not tended any more: searches will be slower")
            self._closed = True
            self._thread = None

    def _alive(self, scope: bytes, rows: _Scope) -> bool:
        return not self._closed and self._scopes.get(scope) is rows

    def _move(self, scope: bytes, rows: _Scope) -> None:
        """Move a scope's rows into its graph."""
        if rows.graph is None:
            rows.graph = self._new_graph()
        while True:
            with self._lock:
                if not self._alive(scope, rows) or not rows.move(_STEP):
                    return
            time.sleep(_PAUSE_S)

    def _renew(self, scope: bytes, rows: _Scope) -> None:
        """Build a graph without dead slots beside the old one, and put it in its place."""
        new = self._new_graph()
        with self._lock:
            slots = rows.graph.keys[:]
        gone: list[int] = []
        for start in range(0, len(slots), _BLOCK_ROWS):
            with self._lock:
                if not self._alive(scope, rows):
                    return
                some = slots[start : start + _BLOCK_ROWS].tolist()
                gone += [slot for slot in some if not rows.keys_of[slot]]
                live = [slot for slot in some if rows.keys_of[slot]]
                vectors = rows.graph.get(live) if live else ()
            for slot, vector in zip(live, vectors, strict=True):
                new.add(slot, vector, threads=1)
        with self._lock:
            rows.graph = new
            rows.dead -= len(gone)  # those that died meanwhile are in the new one
            rows.free += gone

    def _new_graph(self) -> Any:
        from usearch.index import Index

        return Index(ndim=self.dimensions, metric="ip", dtype="f16", **self._graph_options)


class _Scope:
    """The vectors of one scope.

    A slot is the number of a distinct vector. Its vector is a row, and later in the graph. There,
    one whose keys are gone is dead: passed through, and never an answer, until the graph is renewed.
    """

    __slots__ = ("dead", "flat", "free", "graph", "keys_of", "slot_of_key", "slot_of_vector")

    def __init__(self, dimensions: int) -> None:
        self.keys_of: list[tuple[bytes, ...]] = []
        self.free: list[int] = []
        self.slot_of_key: dict[bytes, int] = {}
        self.slot_of_vector: dict[int, int] = {}
        self.flat = _Rows(dimensions)
        self.graph: Any = None
        self.dead = 0

    @property
    def size_bytes(self) -> int:
        return self.flat.size_bytes + (0 if self.graph is None else int(self.graph.memory_usage))

    @property
    def worn(self) -> bool:
        """Whether so much of the graph is dead that it should be built anew."""
        return self.dead > _MIN_DEAD and self.dead > _MAX_DEAD_SHARE * len(self.graph)

    def has(self, key: bytes, unit: Vectors) -> bool:
        return self.slot_of_key[key] == self.slot_of_vector.get(_fingerprint(unit))

    def add(self, key: bytes, unit: Vectors) -> None:
        """Add a key that is not there."""
        fingerprint = _fingerprint(unit)
        slot = self.slot_of_vector.get(fingerprint)
        if slot is not None:
            self.keys_of[slot] = (key, *self.keys_of[slot])
        else:
            if self.free:
                slot = self.free.pop()
                self.keys_of[slot] = (key,)
            else:
                slot = len(self.keys_of)
                self.keys_of.append((key,))
            self.slot_of_vector[fingerprint] = slot
            self.flat.add(slot, unit)
        self.slot_of_key[key] = slot

    def remove(self, key: bytes) -> None:
        slot = self.slot_of_key.pop(key)
        self.keys_of[slot] = tuple(other for other in self.keys_of[slot] if other != key)
        if self.keys_of[slot]:
            return
        unit = self.flat.get(slot)
        if unit is not None:
            del self.slot_of_vector[_fingerprint(unit)]
            self.flat.remove(slot)
            self.free.append(slot)
        else:
            del self.slot_of_vector[_fingerprint(self.graph.get(slot))]
            self.dead += 1

    def move(self, count: int) -> bool:
        """Move some rows into the graph; return whether there are more."""
        for slot, unit in self.flat.last(count):
            self.graph.add(slot, unit.astype("f2"), threads=1)
            self.flat.remove(slot)
        return len(self.flat) > 0

    def search(self, unit: Vectors, k: int) -> list[tuple[bytes, float]]:
        near = self.flat.nearest(unit, k)
        if self.graph is not None:
            near += self._nearest_in_graph(unit, k)
        equal = self.slot_of_vector.get(_fingerprint(unit))
        if equal is not None:
            near = [(1.0, equal), *((cosine, slot) for cosine, slot in near if slot != equal)]
        near.sort(reverse=True)
        found = [(key, cosine) for cosine, slot in near[:k] for key in self.keys_of[slot]]
        return found[:k]

    def _nearest_in_graph(self, unit: Vectors, k: int) -> list[tuple[float, int]]:
        near = self._ask_graph(unit, k, _NARROW)
        if not near or near[0][0] < _NEAR:
            near = self._ask_graph(unit, k, _WIDE)
        return near

    def _ask_graph(self, unit: Vectors, k: int, expansion: int) -> list[tuple[float, int]]:
        wanted = k + min(self.dead, k)
        self.graph.expansion_search = expansion
        while True:
            matches = self.graph.search(unit, wanted, threads=1)
            near = [
                (min(1.0, 1.0 - distance), slot)
                for slot, distance in zip(
                    matches.keys.tolist(), matches.distances.tolist(), strict=True
                )
                if self.keys_of[slot]
            ]
            if len(near) >= k or wanted >= len(self.graph):
                return near
            wanted *= 4


class _Rows:
    """Vectors side by side in blocks, so that growing copies little, by slot."""

    __slots__ = ("_blocks", "_dimensions", "_row_of", "_slots")

    def __init__(self, dimensions: int) -> None:
        self._dimensions = dimensions
        self._blocks: list[Vectors] = []
        self._slots: list[int] = []
        self._row_of: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def size_bytes(self) -> int:
        return sum(block.nbytes for block in self._blocks)

    def get(self, slot: int) -> Vectors | None:
        row = self._row_of.get(slot)
        return None if row is None else self._at(row)

    def last(self, count: int) -> list[tuple[int, Vectors]]:
        """Return the rows that are cheapest to remove."""
        return [(slot, self._at(self._row_of[slot])) for slot in self._slots[: -count - 1 : -1]]

    def add(self, slot: int, unit: Vectors) -> None:
        row = len(self._slots)
        if row == len(self._blocks) * _BLOCK_ROWS:
            self._blocks.append(self._block(_BLOCK_ROWS if self._blocks else _FIRST_ROWS))
        elif row == len(self._blocks[0]):  # the first is not a whole block yet: most are small
            block = self._block(2 * row)
            block[:row] = self._blocks[0]
            self._blocks[0] = block
        self._at(row)[:] = unit
        self._slots.append(slot)
        self._row_of[slot] = row

    def remove(self, slot: int) -> None:
        row = self._row_of.pop(slot)
        last = self._slots.pop()
        if last != slot:
            self._at(row)[:] = self._at(len(self._slots))
            self._slots[row] = last
            self._row_of[last] = row
        if len(self._blocks) * _BLOCK_ROWS - len(self._slots) >= _BLOCK_ROWS:
            self._blocks.pop()

    def nearest(self, unit: Vectors, k: int) -> list[tuple[float, int]]:
        """Return up to k cosines with their slots, in no order."""
        import numpy as np

        rows = len(self._slots)
        if not rows:
            return []
        cosines = np.empty(rows, dtype=np.float32)
        for start, block in zip(range(0, rows, _BLOCK_ROWS), self._blocks, strict=True):
            here = cosines[start : start + _BLOCK_ROWS]
            np.matmul(block[: len(here)], unit, out=here)
        if k == 1:
            best = [int(cosines.argmax())]
        elif k < rows:
            best = np.argpartition(cosines, rows - k)[rows - k :].tolist()
        else:
            best = list(range(rows))
        return [(min(1.0, float(cosines[row])), self._slots[row]) for row in best]

    def _at(self, row: int) -> Vectors:
        vector: Vectors = self._blocks[row // _BLOCK_ROWS][row % _BLOCK_ROWS]
        return vector

    def _block(self, rows: int) -> Vectors:
        import numpy as np

        shape = (rows, self._dimensions)
        if rows < _BLOCK_ROWS:
            return np.empty(shape, dtype=np.float32)
        # Straight from the system, and back to it when the rows have moved into the graph.
        memory = mmap(-1, 4 * rows * self._dimensions)
        return np.frombuffer(memory, dtype=np.float32).reshape(shape)


def _fingerprint(unit: Vectors) -> int:
    """Equal for vectors that are equal in half precision, which is what a graph keeps of them.

    64 bits: among a million vectors two of equal fingerprint are a matter of one in 10^7.
    """
    return hash(unit.astype("f2").tobytes())


def _unit(vectors: ArrayLike, dimensions: int) -> Vectors:
    """Return rows of unit length, and zeros where they were zeros."""
    import numpy as np

    try:
        rows = np.array(vectors, dtype=np.float32, ndmin=2)
    except (ValueError, TypeError) as error:
        raise InvalidRequestError(f"these are no vectors of numbers: {error}") from None
    if rows.ndim != 2 or rows.shape[1] != dimensions:
        raise InvalidRequestError(
            f"vectors of {rows.shape[-1]} dimensions don't fit an index of "
            f"{dimensions}: an index is for one embedding model"
        )
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    if not np.isfinite(lengths).all():
        raise InvalidRequestError("a vector has numbers that are not finite, or too large")
    lengths[lengths < _TINY] = np.inf  # to zeros
    rows /= lengths[:, None]
    return rows
