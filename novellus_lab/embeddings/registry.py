"""The offline embedders, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from novellus_lab.errors import ConfigurationError, MissingDependencyError, did_you_mean

if TYPE_CHECKING:
    from novellus_lab.embeddings.base import TextEmbedder

NAMES = ("static", "minilm")


def open_embedder(name: str = "static") -> TextEmbedder:
    """Open an embedder: "static" in 0.2 s, "minilm" in a second. Keep it; each call opens anew.

    Raises:
        ConfigurationError: there is none of that name, or its files can't be read.
        MissingDependencyError: what it needs is not installed; the message says how to.
    """
    try:
        if name == "static":
            from novellus_lab.embeddings.static import StaticEmbedder

            return StaticEmbedder()
        if name == "minilm":
            from novellus_lab.embeddings.minilm import MiniLmEmbedder

            return MiniLmEmbedder()
    except ImportError as error:
        raise MissingDependencyError(
            f"the embedder {name!r} needs {error.name}: pip install 'novellus_lab[semantic]'"
        ) from None
    raise ConfigurationError(f"no offline embedder is named {name!r}. {did_you_mean(name, NAMES)}")
