"""From a prompt to the numbers that the heads read: surface features and, by option, an embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from novellus_lab.errors import ConfigurationError
from novellus_lab.routing.learned.features import FEATURES, VERSION, surface_features

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Matrix = NDArray[np.float64]

COMPONENTS = 32
"""How many principal components of an embedding the heads see. The rest is detail of topics, which
some hundreds of outcomes can't teach and an unseen topic doesn't share."""


class Embedder(Protocol):
    """What turns texts into vectors: all of `novellus_lab.embeddings`, or your own."""

    @property
    def name(self) -> str: ...

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return an array of shape (len(texts), dimensions)."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """Principal components of an embedding, each scaled to unit variance."""

    embedder: str
    mean: Matrix
    axes: Matrix
    """Of shape (dimensions, components)."""

    def __call__(self, vectors: NDArray[np.float32]) -> Matrix:
        return np.asarray((vectors - self.mean) @ self.axes)

    @classmethod
    def fit(cls, embedder: str, vectors: NDArray[np.float32], weights: Matrix) -> Projection:
        """Find the components of most variance; at most `COMPONENTS`, and none that is all noise."""
        mean = np.average(vectors.astype(np.float64), axis=0, weights=weights)
        centred = vectors - mean
        covariance = (centred * weights[:, None]).T @ centred / weights.sum()
        variances, axes = np.linalg.eigh(covariance)
        kept = np.argsort(variances)[::-1][: min(COMPONENTS, len(vectors) // 10)]
        kept = kept[variances[kept] > 1e-9]
        axes = axes[:, kept]
        # An eigenvector has no sign of its own: fix one, so that the same data give the same router.
        axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
        # As many digits as vectors of single precision bear, and JSON keeps.
        return cls(embedder, np.round(mean, 7), np.round(axes / np.sqrt(variances[kept]), 6))

    def to_dict(self) -> dict[str, Any]:
        return {
            "embedder": self.embedder,
            "mean": self.mean.tolist(),
            "axes": self.axes.tolist(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Projection:
        return cls(data["embedder"], np.array(data["mean"]), np.array(data["axes"]))


@dataclass(frozen=True, slots=True, eq=False)
class Encoder:
    """Standardised surface features, then the components of the embedding where one is used."""

    mean: Matrix
    scale: Matrix
    projection: Projection | None

    def encode(self, surface: Matrix, vectors: NDArray[np.float32] | None) -> Matrix:
        """Return an array of shape (rows, numbers). `vectors` is needed if `projection` is set."""
        standard = _bounded((surface - self.mean) / self.scale)
        if self.projection is None or vectors is None:
            return standard
        return np.hstack([standard, _bounded(self.projection(vectors))])

    def encode_prompt(self, prompt: str, vector: NDArray[np.float32] | None) -> Matrix:
        """Return one row of numbers; `vector` (one dimension) is needed if `projection` is set."""
        surface = np.array(surface_features(prompt))[None, :]
        return self.encode(surface, None if vector is None else vector[None, :])

    @classmethod
    def fit(
        cls,
        surface: Matrix,
        vectors: NDArray[np.float32] | None,
        embedder: str | None,
        weights: Matrix,
    ) -> Encoder:
        mean = np.average(surface, axis=0, weights=weights)
        scale = np.sqrt(np.average((surface - mean) ** 2, axis=0, weights=weights))
        projection = None
        if vectors is not None and embedder is not None:
            projection = Projection.fit(embedder, vectors, weights)
        # What never varies in training says nothing; a tiny scale would make it shout later.
        return cls(mean, np.where(scale < 1e-6, np.inf, scale), projection)

    def to_dict(self) -> dict[str, Any]:
        return {
            "features_version": VERSION,
            "features": list(FEATURES),
            "mean": self.mean.tolist(),
            "scale": [None if np.isinf(v) else float(v) for v in self.scale],
            "projection": None if self.projection is None else self.projection.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Encoder:
        """Read what `to_dict` wrote.

        Raises:
            ConfigurationError: the router was trained on other features than this version computes.
        """
        if data["features_version"] != VERSION or list(data["features"]) != list(FEATURES):
            raise ConfigurationError(
                f"this router reads prompt features of version {data['features_version']}, this "
                f"package computes version {VERSION}: train it anew."
            )
        return cls(
            np.array(data["mean"]),
            np.array([np.inf if v is None else v for v in data["scale"]]),
            None if data["projection"] is None else Projection.from_dict(data["projection"]),
        )


def _bounded(numbers: Matrix) -> Matrix:
    """A value far beyond what training saw says "much" and no more."""
    return np.minimum(np.maximum(numbers, -4), 4)  # in a third of the time that clip takes
