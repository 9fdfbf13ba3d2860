"""The recorded answers of the replay provider: GSM8K questions, as two models really answered them.

Source: RouteLLM (lm-sys/RouteLLM, Apache-2.0); see `datasets/README.md`.
"""

from __future__ import annotations

import gzip
import random
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import orjson

from novellus_lab.errors import ConfigurationError

MODELS = ("gpt-4-1106-preview", "mixtral-8x7b-instruct")
FILE = "gsm8k_replay.jsonl.gz"


@dataclass(frozen=True, slots=True)
class Recording:
    """One recorded answer."""

    content: str
    correct: bool
    """Whether its final number is the right one, as RouteLLM judged it."""
    input_tokens: int
    output_tokens: int


@cache
def recordings() -> dict[str, dict[str, Recording]]:
    """Return the answers by question (white space folded), then by model."""
    with gzip.open(_path()) as lines:
        return {
            folded(row["prompt"]): {
                model: Recording(**answer) for model, answer in row["answers"].items()
            }
            for row in map(orjson.loads, lines)
        }


def recorded_prompts(n: int | None = None, *, seed: int = 0) -> list[str]:
    """Return recorded questions: all in their order, or `n` drawn at random.

    The same seed draws the same questions.
    """
    prompts = list(recordings())
    return prompts if n is None else random.Random(seed).sample(prompts, n)


def folded(text: str) -> str:
    """Fold white space: a question is the same however it was wrapped."""
    return " ".join(text.split())


def _path() -> Path:
    packaged = Path(str(files("novellus_lab") / "_data" / FILE))
    for path in (packaged, Path(__file__).parents[2] / "datasets" / FILE):
        if path.is_file() and path.stat().st_size:
            return path
    raise ConfigurationError(f"this installation lacks its {FILE}: reinstall novellus_lab")
