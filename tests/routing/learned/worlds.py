"""A made-up world in which it is known how good both models are at every prompt."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

import numpy as np

from novellus_lab.routing.learned import Outcome


@dataclass(frozen=True)
class Question:
    prompt: str
    weak: float
    """Probability that the weak model is right."""
    strong: float


def question(random: Random) -> Question:
    """A sum of some numbers: the more, the harder, above all for the weak model."""
    count = random.randint(2, 14)
    numbers = ", ".join(str(random.randint(10, 99)) for _ in range(count))
    tail = " ".join(random.choices(("please", "now", "carefully", "again", "quickly"), k=12))
    return Question(
        f"What is the sum of {numbers}? Answer {tail}.",
        1 / (1 + math.exp(0.6 * (count - 7))),
        1 / (1 + math.exp(0.4 * (count - 14))),
    )


def questions(n: int, seed: int = 0) -> list[Question]:
    random = Random(seed)
    return [question(random) for _ in range(n)]


def asked(made: list[Question], seed: int = 0) -> list[Outcome]:
    """Ask both models everything."""
    random = Random(seed)
    return [
        Outcome(q.prompt, float(random.random() < q.weak), float(random.random() < q.strong))
        for q in made
    ]


class LetterEmbedder:
    """Counts letters: 26 dimensions, deterministic, ours alone."""

    name = "letters-26"

    def embed(self, texts):
        out = np.zeros((len(texts), 26), dtype=np.float32)
        for row, text in enumerate(texts):
            for char in text.lower():
                if "a" <= char <= "z":
                    out[row, ord(char) - 97] += 1
        return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1)
