"""What predicts both models' qualities from an encoded prompt; numpy alone.

Both qualities are predicted, not their difference: what is easy for the weak model and what is too
hard for both have the same difference, 0, and nothing else in common.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Matrix = NDArray[np.float64]


class Head(Protocol):
    """Predicts from rows of numbers, shape (rows, numbers), an array (rows, 2): weak, strong."""

    def predict(self, encoded: Matrix) -> Matrix: ...

    def to_dict(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True, eq=False)
class LinearHead:
    """Two logistic regressions."""

    weights: Matrix
    """Of shape (numbers, 2)."""
    intercepts: Matrix

    def predict(self, encoded: Matrix) -> Matrix:
        # exp beyond 700 overflows, and sigmoid is 0 or 1 long before.
        logits = np.clip(encoded @ self.weights + self.intercepts, -50, 50)
        return np.asarray(1 / (1 + np.exp(-logits)))

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": "linear",
            "weights": self.weights.tolist(),
            "intercepts": self.intercepts.tolist(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LinearHead:
        return cls(np.array(data["weights"]), np.array(data["intercepts"]))


@dataclass(frozen=True, slots=True, eq=False)
class ForestHead:
    """The mean of many regression trees, all nodes in one table.

    Node i leads to `lefts[i]`, or to the node after that if number `columns[i]` is more than
    `cuts[i]`. A leaf leads to itself: its cut is infinite.
    """

    roots: NDArray[np.intp]
    columns: NDArray[np.intp]
    cuts: NDArray[np.float32]
    lefts: NDArray[np.intp]
    values: Matrix
    """Of shape (nodes, 2): what a leaf predicts."""
    depth: int

    def predict(self, encoded: Matrix) -> Matrix:
        # In single precision, as the trees were grown: a value on a cut must not change sides.
        single = encoded.astype(np.float32)
        out = np.empty((len(single), 2))
        # `take` on all trees at once, level by level: some 4 us a level for a row.
        columns, cuts, lefts = self.columns, self.cuts, self.lefts
        for row, numbers in enumerate(single):
            nodes = self.roots
            for _ in range(self.depth):
                right = numbers.take(columns.take(nodes)) > cuts.take(nodes)
                nodes = lefts.take(nodes) + right
            out[row] = self.values.take(nodes, axis=0).mean(axis=0)
        return out

    def to_dict(self) -> dict[str, Any]:
        # Nine significant digits are all that a float32 holds.
        return {
            "kind": "forest",
            "roots": self.roots.tolist(),
            "columns": self.columns.tolist(),
            "cuts": [None if np.isinf(v) else float(f"{v:.9g}") for v in self.cuts],
            "lefts": self.lefts.tolist(),
            "values": self.values.tolist(),
            "depth": self.depth,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ForestHead:
        return cls(
            roots=np.array(data["roots"], dtype=np.intp),
            columns=np.array(data["columns"], dtype=np.intp),
            cuts=np.array([np.inf if v is None else v for v in data["cuts"]], dtype=np.float32),
            lefts=np.array(data["lefts"], dtype=np.intp),
            values=np.array(data["values"], dtype=np.float64),
            depth=int(data["depth"]),
        )


@dataclass(frozen=True, slots=True, eq=False)
class BlendHead:
    """The mean of other heads."""

    heads: tuple[Head, ...]

    def predict(self, encoded: Matrix) -> Matrix:
        return np.asarray(sum(head.predict(encoded) for head in self.heads)) / len(self.heads)

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "blend", "heads": [head.to_dict() for head in self.heads]}


@dataclass(frozen=True, slots=True, eq=False)
class PairHead:
    """One head for the weak model's quality and one for the strong one's, each reading one column."""

    weak: Head
    strong: Head

    def predict(self, encoded: Matrix) -> Matrix:
        weak, strong = self.weak.predict(encoded), self.strong.predict(encoded)
        return np.stack([weak[:, 0], strong[:, 1]], axis=1)

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "pair", "weak": self.weak.to_dict(), "strong": self.strong.to_dict()}


def head_from_dict(data: Mapping[str, Any]) -> Head:
    """Read what any head's `to_dict` wrote."""
    match data["kind"]:
        case "linear":
            return LinearHead.from_dict(data)
        case "forest":
            return ForestHead.from_dict(data)
        case "blend":
            return BlendHead(tuple(map(head_from_dict, data["heads"])))
        case "pair":
            return PairHead(head_from_dict(data["weak"]), head_from_dict(data["strong"]))
        case kind:
            raise ValueError(f"no such head: {kind!r}")
