"""What an embedder is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    Vectors: TypeAlias = NDArray[np.float32]
else:
    Vectors: TypeAlias = Any  # numpy is imported when an embedder is opened, not before


class TextEmbedder(Protocol):
    """Turns texts into unit vectors; thread-safe.

    The same text gets the same vector in every process and in every batch (up to the last bits of
    a float): vectors are stored, and compared with those of other days.
    """

    @property
    def name(self) -> str:
        """Unique, and another one whenever the vectors would be others: it is stored with them."""
        ...

    @property
    def dimensions(self) -> int: ...

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return an array of shape (len(texts), dimensions).

        Rows are of unit length, so that a dot product is a cosine; a text without anything to
        embed (empty, white space) is a row of zeros.
        """
        ...


class AsyncTextEmbedder(Protocol):
    """The same, awaited: an embedder in a worker thread, a provider's, or Ollama's.

    A provider's model fits by a class of three members: `name` from its model id and the dimensions
    (`openai/text-embedding-3-small-512`), `dimensions`, and an `embed` that awaits the provider,
    makes an array of the answer and hands it to `unit_rows`.
    """

    @property
    def name(self) -> str: ...

    @property
    def dimensions(self) -> int: ...

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """See `TextEmbedder.embed`."""
        ...


def unit_rows(vectors: Vectors) -> Vectors:
    """Scale rows to unit length, in place; rows of zeros stay."""
    import numpy as np

    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    lengths[lengths == 0] = 1
    vectors /= lengths[:, None]
    return vectors
