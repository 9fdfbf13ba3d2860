"""Labelled pairs of questions, from eight sources; what their labels mean, and what they don't.

| source | same | not the same |
| --- | --- | --- |
| questions | written for this project, in groups | near questions of a group, written to be confused |
| near | written for this project, paraphrases | the same, made to be mistaken |
| unseen | as questions and near, written last, and nothing chosen by them | the same |
| swaps | templates: asked in two ways | templates: one thing swapped |
| gptcache | GPTCache's 999 paraphrases | the same with the nearest of another record, if far enough |
| clinc, banking | - | nearest question of another intent |
| semeval | gold score 4 and 5 | 3 and less |

The same intent is not the same question ("what's the weather in Oslo", "… in Lima"), so pairs of one
intent are no positives. Another intent is another question, but for errors in those data: pairs that
were read and found to ask the same are listed in `datasets/semantic_pairs/same_after_all.tsv` and
left out, for all contenders alike. GPTCache's records repeat one another, so only pairs of records
whose static vectors are below 0.6 are taken as different.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import random
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.semantic_pairs import swaps

if TYPE_CHECKING:
    from collections.abc import Iterator

    from novellus_lab.cache.semantic.alignment import Encoder

ROOT = Path(__file__).parents[2]
OWN = ROOT / "datasets" / "semantic_pairs"
SHARED = ROOT.parent / "shared" / "data" / "semcache"
_NEAR = 1_500
_UNRELATED_BELOW = 0.6


@dataclass(frozen=True, slots=True)
class LabelledPair:
    """Two questions, and whether one answer serves both."""

    source: str
    group: str
    """Pairs of a group are not independent: a group is never split."""
    question: str
    other: str
    same: bool

    @property
    def part(self) -> str:
        """fit, calibrate or report: by the group, so that no question is in two of them."""
        draw = blake2b(f"{self.source}\0{self.group}".encode(), digest_size=2).digest()[0]
        if self.source == "unseen":
            return "report"
        if self.source in ("near", "swaps", "semeval"):  # nothing is ever fitted to these
            return "calibrate" if draw < 128 else "report"
        return "fit" if draw < 90 else "calibrate" if draw < 173 else "report"


def load(folder: Path, embed: Encoder) -> list[LabelledPair]:
    """Read all sources; `embed` gives the static vectors that find the nearest questions."""
    found = [
        *_questions("questions", "questions.txt"),
        *_questions("unseen", "questions_unseen.txt"),
        *_tabled("near", "pairs.tsv"),
        *_tabled("unseen", "pairs_unseen.tsv"),
        *_swaps(),
    ]
    if folder.is_dir():
        found += _gptcache(folder / "mock_data.json", embed)
        with gzip.open(folder / "clinc150_train_val.json.gz", "rt", encoding="utf-8") as file:
            found += _near("clinc", [(t, i) for t, i in json.load(file)["train"]], embed)
        with gzip.open(folder / "banking77_train.csv.gz", "rt", encoding="utf-8") as file:
            rows = [(row["text"].strip(), row["category"]) for row in csv.DictReader(file)]
            found += _near("banking", rows, embed)
        found += _semeval(folder / "semeval2016_qq_209.tsv")
    same_after_all = _same_after_all()
    return [pair for pair in found if (pair.question, pair.other) not in same_after_all]


def _tabled(source: str, name: str) -> Iterator[LabelledPair]:
    for line in (OWN / name).read_text(encoding="utf-8").splitlines():
        same, one, other = line.split("\t")
        yield LabelledPair(source, one, one, other, same == "1")


def _questions(source: str, name: str) -> Iterator[LabelledPair]:
    groups: list[tuple[list[str], list[str]]] = []
    for line in (OWN / name).read_text(encoding="utf-8").splitlines():
        mark, _, text = line.partition(" ")
        if mark == "=":
            groups.append(([text], []))
        elif mark == "~":
            groups[-1][0].append(text)
        elif mark == "!":
            groups[-1][1].append(text)
    for same, near in groups:
        for one, other in itertools.combinations(same, 2):
            yield LabelledPair(source, same[0], one, other, True)
        for one, other in itertools.product(same, near):
            yield LabelledPair(source, same[0], one, other, False)


def _swaps() -> Iterator[LabelledPair]:
    for group, one, other, same in dict.fromkeys(swaps.pairs()):
        if one != other:
            yield LabelledPair("swaps", group, one, other, same)


def _gptcache(path: Path, embed: Encoder) -> Iterator[LabelledPair]:
    records = json.loads(path.read_text(encoding="utf-8"))
    vectors = embed([record["origin"] for record in records])
    likeness = vectors @ vectors.T
    for i, record in enumerate(records):
        yield LabelledPair("gptcache", record["origin"], record["origin"], record["similar"], True)
        row = likeness[i]
        row[row >= _UNRELATED_BELOW] = -1
        nearest = records[int(row.argmax())]
        yield LabelledPair(
            "gptcache", record["origin"], record["origin"], nearest["similar"], False
        )


def _near(name: str, rows: list[tuple[str, str]], embed: Encoder) -> Iterator[LabelledPair]:
    import numpy as np

    texts = [text for text, _ in rows]
    intents = np.array([intent for _, intent in rows])
    vectors = embed(texts)
    chosen = random.Random(77).sample(range(len(rows)), _NEAR)
    for start in range(0, len(chosen), 250):
        block = chosen[start : start + 250]
        likeness = vectors[block] @ vectors.T
        for row, i in zip(likeness, block, strict=True):
            row[intents == intents[i]] = -1
            yield LabelledPair(name, texts[i], texts[i], texts[int(row.argmax())], False)


def _semeval(path: Path) -> Iterator[LabelledPair]:
    for line in path.read_text(encoding="utf-8").splitlines():
        gold, one, other = line.split("\t")
        yield LabelledPair("semeval", one, one, other, float(gold) >= 4)


def _same_after_all() -> set[tuple[str, str]]:
    path = OWN / "same_after_all.tsv"
    rows = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {(one, other) for one, _, other in (row.partition("\t") for row in rows)}
