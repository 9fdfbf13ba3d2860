"""Static vectors: a text is the mean of its tokens' vectors. Microseconds; word order is lost.

The vectors are those that come in the wheel of `wordllama` (WordLlama, Miller 2024: token vectors
of language models, distilled to 256 dimensions). Only its files are read: its own loader imports
much, wants to download, and is half as fast.
"""

from __future__ import annotations

import json
import unicodedata
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from tokenizers import Tokenizer

from novellus_lab.embeddings.base import unit_rows
from novellus_lab.errors import ConfigurationError, MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from novellus_lab.embeddings.base import Vectors

_WEIGHTS = Path("weights") / "l2_supercat_256.safetensors"
_TOKENIZER = Path("tokenizers") / "l2_supercat_tokenizer_config.json"
_TENSOR = "embedding.weight"
_REMEMBERED_VECTORS = 8_192  # of 1 kB each
_REMEMBERED_WORDS = 32_768
_LONG_WORD = 48


class StaticEmbedder:
    """256 dimensions, some 20 microseconds a sentence, 35 MB.

    Case and white space don't count: "what is PYTHON" is "What is Python". Texts are read to their
    end.

    Raises:
        MissingDependencyError: `wordllama` is not installed.
        ConfigurationError: it is, and its files are not those that we know.
    """

    name = "wordllama-256"
    dimensions = 256

    def __init__(self) -> None:
        spec = find_spec("wordllama")  # which imports nothing of it
        if spec is None or spec.origin is None:
            raise MissingDependencyError(
                "static embeddings need wordllama: pip install 'novellus_lab[semantic]'"
            )
        folder = Path(spec.origin).parent
        self._vectors = _read_weights(folder / _WEIGHTS, self.dimensions)
        self._tokenizer = _read_tokenizer(folder / _TOKENIZER)
        self._word_vector = lru_cache(maxsize=_REMEMBERED_VECTORS)(self._read_only_vector)
        self._word_ids = lru_cache(maxsize=_REMEMBERED_WORDS)(self._ids)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """See `TextEmbedder.embed`."""
        out = np.zeros((len(texts), self.dimensions), dtype=np.float32)
        for row, text in enumerate(texts):
            self._add_tokens(text, out[row])
        return unit_rows(out)

    def word_vectors(self, words: Iterable[str]) -> Vectors:
        """Return a unit vector for each word, of shape (words, 256); those of late are remembered.

        As `embed`, but made for the few thousand words that most questions consist of.
        """
        rows = [self._word_vector(word) for word in words]
        return np.stack(rows) if rows else np.zeros((0, self.dimensions), dtype=np.float32)

    def _add_tokens(self, text: str, out: NDArray[np.float32]) -> None:
        # No token reaches over a space: a text's tokens are its words', and most words are known.
        ids: list[int] = []
        for word in _fold(text):
            ids += self._word_ids(word) if len(word) <= _LONG_WORD else self._ids(word)
        if ids:
            np.add.reduce(self._vectors.take(ids, axis=0), axis=0, out=out)

    def _ids(self, word: str) -> list[int]:
        # One at a time: in batches the tokenizer would use every core, and warn after a fork.
        return list(self._tokenizer.encode(word, add_special_tokens=False).ids)

    def _read_only_vector(self, word: str) -> NDArray[np.float32]:
        vector = cast("NDArray[np.float32]", self.embed((word,))[0])
        vector.flags.writeable = False
        return vector


def _fold(text: str) -> list[str]:
    if not text.isascii():
        # Half a character of UTF-16 has no UTF-8, and the tokenizer wants that.
        text = unicodedata.normalize("NFKC", text.encode("utf-8", "replace").decode())
    return text.lower().split()


def _read_tokenizer(path: Path) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # a bare Exception is what it raises
        raise _unknown_files(path, error) from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _read_weights(path: Path, dimensions: int) -> NDArray[np.float32]:
    """Read the one tensor of a safetensors file: a length, a JSON header, the numbers."""
    try:
        with path.open("rb") as file:
            start = int.from_bytes(file.read(8), "little") + 8
            header = json.loads(file.read(start - 8))
        rows, columns = header[_TENSOR]["shape"]
        if header[_TENSOR]["dtype"] != "F16" or columns != dimensions:
            raise ValueError(f"{header[_TENSOR]}")
        offset = start + header[_TENSOR]["data_offsets"][0]
        stored = np.memmap(path, dtype="<f2", mode="r", offset=offset, shape=(rows, columns))
        return stored.astype(np.float32)
    except (OSError, ValueError, KeyError, TypeError, MemoryError) as error:
        raise _unknown_files(path, error) from None


def _unknown_files(path: Path, error: Exception) -> ConfigurationError:
    return ConfigurationError(
        f"the vectors of wordllama can't be read ({path}: {error}): install wordllama 0.4, "
        f"pip install --force-reinstall 'wordllama>=0.4,<0.5'"
    )
