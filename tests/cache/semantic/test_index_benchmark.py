"""The documented command runs; its figures mean nothing here."""

from __future__ import annotations

from benchmarks.semantic_index import main


def test_the_index_is_measured(capsys):
    main(["--only", "index", "--sizes", "400", "--questions", "40"])
    printed = capsys.readouterr().out
    assert "Index of 400 entries" in printed
    assert "numpy brute force" in printed


def test_postgresql_is_measured(capsys):
    main(["--only", "postgres", "--sizes", "200", "--questions", "20"])
    printed = capsys.readouterr().out
    assert "bare query of pgvector's" in printed
    assert "recall@1" in printed
