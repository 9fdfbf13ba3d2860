"""Measure the learned router as RouteLLM was measured: `python -m benchmarks.learned_router`.

GSM8K: cross-validated, repeated with several seeds. MMLU: nine folds of whole domains; the router
that answers for a domain, and the choice of its learner, never saw a question of it. Beside them:
the paper's figures, a coin, prompt length alone and the oracle. Then what transfers from one set to
the other. `--mmlu FILE` measures another file of the same columns.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from novellus_lab.embeddings.minilm import MiniLmEmbedder
from novellus_lab.embeddings.static import StaticEmbedder
from novellus_lab.routing.learned import Outcome, TrainedRouter, train
from novellus_lab.routing.learned.metrics import RouterMetrics, measure, measure_routellm

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from novellus_lab.embeddings.base import TextEmbedder

ROOT = Path(__file__).parent.parent
GSM8K = ROOT / "datasets" / "gsm8k_replay.jsonl.gz"
MMLU = ROOT / "tests" / "data" / "routing" / "routellm_mmlu_given.parquet"
WEAK, STRONG = "mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview"
COINS = 50
PAPER = {
    # arXiv 2406.18665, tables 1 to 3; its MMLU is that of all 57 domains.
    "GSM8K": [
        ("paper: random", RouterMetrics(0.497, 0.5000, 0.8008)),
        ("paper: BERT, arena + judge", RouterMetrics(0.531, 0.4476, 0.7909)),
        ("paper: causal LLM, arena + judge (its best)", RouterMetrics(0.622, 0.3364, 0.6326)),
        ("paper: matrix factorisation, arena + judge", RouterMetrics(0.565, 0.3882, 0.7262)),
        ("paper: similarity-weighted, arena + judge", RouterMetrics(0.568, 0.4121, 0.7220)),
    ],
    "MMLU": [
        ("paper: random (57 domains)", RouterMetrics(0.500, 0.5007, 0.7993)),
        ("paper: BERT, arena + gold (57)", RouterMetrics(0.572, 0.4130, 0.7220)),
        ("paper: causal LLM, arena + gold (57)", RouterMetrics(0.600, 0.3549, 0.7031)),
        ("paper: matrix factorisation, arena + gold (57)", RouterMetrics(0.597, 0.3546, 0.7140)),
        ("paper: similarity-weighted, arena + gold (57, its best)", RouterMetrics(0.603, 0.354, 0.7155)),
    ],
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table: means over seeds, and the bootstrap interval of the first."""

    name: str
    metrics: RouterMetrics
    spread: float | None = None
    """Standard deviation of APGR over seeds."""
    interval: tuple[float, float] | None = None
    routellm_apgr: float | None = None
    note: str = ""


class Remembered:
    """An embedder that makes each vector once: the same prompts are asked for many times."""

    def __init__(self, embedder: TextEmbedder) -> None:
        self.name = embedder.name
        self._embedder = embedder
        self._vectors: dict[str, NDArray[np.float32]] = {}

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        new = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        if new:
            self._vectors.update(zip(new, self._embedder.embed(new), strict=True))
        return np.stack([self._vectors[text] for text in texts])


def gsm8k() -> list[Outcome]:
    with gzip.open(GSM8K) as lines:
        rows = [json.loads(line) for line in lines]
    return [
        Outcome(
            row["prompt"],
            float(row["answers"]["mixtral-8x7b-instruct"]["correct"]),
            float(row["answers"]["gpt-4-1106-preview"]["correct"]),
        )
        for row in rows
    ]


def mmlu(path: Path) -> list[Outcome]:
    return [
        Outcome(row["prompt"], float(row[WEAK]), float(row[STRONG]), group=row["domain"])
        for row in pl.read_parquet(path).iter_rows(named=True)
    ]


def baselines(outcomes: Sequence[Outcome]) -> Iterator[Row]:
    weak, strong = _qualities(outcomes)
    random = np.random.default_rng(0)
    coins = [measure(random.random(len(weak)), weak, strong) for _ in range(COINS)]
    yield Row("random", _mean(coins), statistics.stdev(coin.apgr for coin in coins))
    lengths = np.array([len(outcome.prompt) for outcome in outcomes])
    exact = measure(lengths, weak, strong)
    yield Row(
        "prompt length alone",
        exact,
        routellm_apgr=measure_routellm(lengths, weak, strong).apgr,
    )
    yield Row("oracle", measure(strong - weak, weak, strong))


def ours(outcomes: Sequence[Outcome], embedder: Remembered | None, folds: int, seeds: int) -> Row:
    """Train with each seed; metrics are those of the nested cross-validation."""
    routers = [train(outcomes, embedder=embedder, folds=folds, seed=seed) for seed in range(seeds)]
    learners = sorted({router.summary.learner for router in routers})
    by_deciles = [
        measure_routellm(router.evidence.scores, router.evidence.weak, router.evidence.strong)
        for router in routers
    ]
    return Row(
        f"ours, {'surface features' if embedder is None else f'+ {embedder.name}'}",
        _mean([router.summary.metrics for router in routers]),
        statistics.stdev(r.summary.metrics.apgr for r in routers) if seeds > 1 else None,
        (routers[0].summary.apgr_low, routers[0].summary.apgr_high),
        statistics.fmean(metrics.apgr for metrics in by_deciles),
        ", ".join(learners),
    )


def transfers(
    math: Sequence[Outcome], knowledge: Sequence[Outcome], embedder: Remembered | None
) -> Iterator[Row]:
    """Train on one set, test on another; halves of GSM8K by question, of MMLU by domain."""
    domains = sorted({str(outcome.group) for outcome in knowledge})
    first = set(domains[::2])
    halves = [
        ([o for o in knowledge if (o.group in first) == side], list(math[side::2]))
        for side in (True, False)
    ]
    name = "surface features" if embedder is None else f"+ {embedder.name}"
    yield _tested(f"GSM8K -> MMLU ({name})", math, knowledge, embedder)
    yield _tested(f"MMLU -> GSM8K ({name})", knowledge, math, embedder)
    for side, other in ((0, 1), (1, 0)):
        trained_on = [*halves[side][0], *halves[side][1]]
        router = _trained(trained_on, embedder)
        for kind, what in ((0, "MMLU, other domains"), (1, "GSM8K, other questions")):
            label = f"half {side + 1} of both -> {what} ({name})"
            yield _row(label, router, halves[other][kind])
        mixed = [*halves[other][0], *halves[other][1]]
        yield _row(f"half {side + 1} of both -> other half of both ({name})", router, mixed)
        only = _trained(halves[side][1], embedder)
        yield _row(f"half {side + 1} of GSM8K -> other half of both ({name})", only, mixed)


def _tested(
    label: str, trained_on: Sequence[Outcome], on: Sequence[Outcome], embedder: Remembered | None
) -> Row:
    return _row(label, _trained(trained_on, embedder), on)


def _trained(outcomes: Sequence[Outcome], embedder: Remembered | None) -> TrainedRouter:
    return train(outcomes, embedder=embedder, folds=3)


def _row(label: str, router: TrainedRouter, on: Sequence[Outcome]) -> Row:
    weak, strong = _qualities(on)
    scores = router.win_probabilities([outcome.prompt for outcome in on])
    return Row(label, measure(scores, weak, strong), note=router.summary.learner)


def prediction_us(router: TrainedRouter, prompts: Sequence[str]) -> float:
    """Return the processor time of one prediction, as the best of some rounds' means."""
    rounds = []
    for _ in range(7):
        started = time.process_time()
        router.win_probabilities(prompts)
        rounds.append((time.process_time() - started) / len(prompts) * 1e6)
    return min(rounds)


def _qualities(outcomes: Sequence[Outcome]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return (
        np.array([outcome.weak for outcome in outcomes], dtype=np.float64),
        np.array([outcome.strong for outcome in outcomes], dtype=np.float64),
    )


def _mean(metrics: Sequence[RouterMetrics]) -> RouterMetrics:
    return RouterMetrics(
        *(
            statistics.fmean(getattr(one, name) for one in metrics)
            for name in ("apgr", "cpt50", "cpt80")
        )
    )


def show(title: str, rows: Iterator[Row] | Sequence[Row]) -> None:
    """Print a table as it grows: the whole takes minutes."""
    print(f"\n## {title}\n")
    print("| router | APGR | over seeds | 95% interval | APGR by deciles | CPT(50%) | CPT(80%) | |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        spread = "" if row.spread is None else f"±{row.spread:.3f}"
        interval = "" if row.interval is None else f"{row.interval[0]:.3f} to {row.interval[1]:.3f}"
        deciles = "" if row.routellm_apgr is None else f"{row.routellm_apgr:.3f}"
        got = row.metrics
        print(
            f"| {row.name} | {got.apgr:.3f} | {spread} | {interval} | {deciles} "
            f"| {got.cpt50:.1%} | {got.cpt80:.1%} | {row.note} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mmlu", type=Path, default=MMLU, help="a parquet of MMLU outcomes")
    parser.add_argument("--seeds", type=int, default=5, help="repetitions on GSM8K")
    parser.add_argument("--mmlu-seeds", type=int, default=3)
    parser.add_argument("--no-minilm", action="store_true", help="spare the minutes it takes")
    asked = parser.parse_args()
    embedders: list[Remembered | None] = [None, Remembered(StaticEmbedder())]
    if not asked.no_minilm:
        embedders.append(Remembered(MiniLmEmbedder()))
    math, knowledge = gsm8k(), mmlu(asked.mmlu)
    domains = len({outcome.group for outcome in knowledge})

    def rows(name: str, outcomes: list[Outcome], folds: int, seeds: int) -> Iterator[Row]:
        yield from (Row(label, metrics) for label, metrics in PAPER[name])
        yield from baselines(outcomes)
        for embedder in embedders:
            yield ours(outcomes, embedder, folds, seeds)

    show(f"GSM8K: {len(math)} questions, ten folds", rows("GSM8K", math, 10, asked.seeds))
    show(
        f"MMLU: {len(knowledge)} questions, of {domains} domains, nine folds of whole domains",
        rows("MMLU", knowledge, 9, asked.mmlu_seeds),
    )
    for embedder in (embedders[0], embedders[-1]):
        show("What transfers", transfers(math, knowledge, embedder))
    router = _trained(math, None)
    prompts = [outcome.prompt for outcome in math[:300]]
    print(
        f"\nA prediction without an encoder: {prediction_us(router, prompts):.0f} µs of processor"
    )


if __name__ == "__main__":
    main()
