"""How well the log alone foretells a strategy: `python -m benchmarks.off_policy` (about 5 minutes).

The recorded answers of two models to GSM8K stand for live models. Each strategy is run *live* on all
questions (through the lab and its replay provider): that is the truth. Then, a hundred times, a router that
tosses a coin is run on a sample of questions, and every strategy is judged from that log alone. Printed: how
often the truth was within the interval, how wide the interval was, and how many live calls it saved.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import dataclass, field
from typing import Any

from novellus_lab import Lab, ModelLoadBalancer

STRONG, WEAK = "replay/gpt-4-1106-preview", "replay/mixtral-8x7b-instruct"
METRICS = ("score", "cost_usd", "latency_ms")
TITLES = {"score": "quality", "cost_usd": "cost", "latency_ms": "latency"}


class ShortToWeak(ModelLoadBalancer):
    """The cheap model for questions below the median length."""

    def select_model(self, **kwargs: Any) -> str:
        return WEAK if len(kwargs["prompt"]) < 215 else STRONG


class MostlyWeak(ModelLoadBalancer):
    """The cheap model four times in five."""

    def select_model(self, **kwargs: Any) -> dict[str, float]:
        return {WEAK: 0.8, STRONG: 0.2}


MIXED = "the weak model 4 times in 5"
"""Tosses a coin itself: its truth is what the two models alone come to, not one run's luck."""

STRATEGIES: dict[str, Any] = {
    "always the strong model": {"model": STRONG},
    "cost_optimized": "cost_optimized",
    "short questions to the weak model": ShortToWeak,
    MIXED: MostlyWeak,
}


@dataclass
class Tally:
    """What became of one strategy's estimates of one metric."""

    truth: float
    within: int = 0
    refused: int = 0
    errors: list[float] = field(default_factory=list)
    widths: list[float] = field(default_factory=list)
    saved: list[int] = field(default_factory=list)


def live_values(lab: Lab) -> dict[tuple[str, str], float]:
    """Run every strategy on all questions."""
    run = lab.benchmark("gsm8k", scorer="recorded").run(STRATEGIES, progress=False)
    found = {}
    for name in STRATEGIES:
        seen = run.frame.filter(arm=name)
        for metric in METRICS:
            found[name, metric] = float(statistics.fmean(map(float, seen[metric])))
    for metric in METRICS:
        found[MIXED, metric] = (
            0.2 * found["always the strong model", metric] + 0.8 * found["cost_optimized", metric]
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--calls", type=int, default=400, help="of each logged exploration run")
    asked = parser.parse_args()
    models = [
        {
            "provider": "replay",
            "model_name": id.removeprefix("replay/"),
            "params": {"time_scale": 0},
        }
        for id in (STRONG, WEAK)
    ]
    with (
        tempfile.TemporaryDirectory(prefix="novellus-off-policy-") as home,
        Lab(home=home, config={"models": models, "cache": {"enabled": False}}, seed=7) as lab,
    ):
        truths = live_values(lab)
        tallies = {key: Tally(truth) for key, truth in truths.items()}
        benchmark = lab.benchmark("gsm8k", scorer="recorded")
        for repeat in range(asked.repeats):
            run = benchmark.run(["weighted"], n=asked.calls, seed=repeat, progress=False)
            for name, strategy in STRATEGIES.items():
                found = lab.experiments.evaluate_offline(strategy, experiment=run.design.label)
                for metric in METRICS:
                    tally, one = tallies[name, metric], found[metric]
                    if one.value is None or one.value.value is None:
                        tally.refused += 1
                        continue
                    tally.within += one.value.low <= tally.truth <= one.value.high
                    tally.errors.append(abs(one.value.value - tally.truth) / abs(tally.truth))
                    tally.widths.append((one.value.high - one.value.low) / 2 / abs(tally.truth))
                    tally.saved.append(one.live_calls or 0)
    print(
        f"{asked.repeats} logs of {asked.calls} calls that a coin chose for; 95% intervals; the truth "
        f"is the strategy live on all 1,307 questions\n"
    )
    header = ("strategy", "metric", "live", "within", "error", "half width", "live calls saved")
    print("| " + " | ".join(header) + " |\n|" + " --- |" * len(header))
    within = total = 0
    for (name, metric), tally in tallies.items():
        done = len(tally.errors)
        within, total = within + tally.within, total + done
        shown = {"score": f"{tally.truth:.1%}", "cost_usd": f"${tally.truth:.6f}"}
        print(
            f"| {name} | {TITLES[metric]} | {shown.get(metric, f'{tally.truth:,.0f} ms')} | "
            f"{tally.within} of {done} | {statistics.fmean(tally.errors):.1%} | "
            f"{statistics.fmean(tally.widths):.1%} | {statistics.fmean(tally.saved):,.0f} |"
        )
    print(f"\nwithin: {within} of {total} ({within / total:.1%})")


if __name__ == "__main__":
    main()
