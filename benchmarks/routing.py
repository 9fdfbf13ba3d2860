"""What choosing a model costs: rules, strategy, and letting the call in, in processor time.

    python -m benchmarks.routing [--models 20] [--rules 10] [--calls 3000]

Time of the lab's own thread alone, so that another's work on the machine does not count. Every call is
another question; no rule but the last matches. Each model has limits of requests, tokens and
calls at once, and a budget of a block holds, all in this process's memory. The figure is the median of
several rounds, and beside it stands what one hop of the event loop takes in the same run: on another
machine, or a busy one, both are more. `share` is the probability of the likeliest model, so that it shows what was chosen.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
import tempfile
import time
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from novellus_lab import Lab
from novellus_lab.ids import uuid7
from novellus_lab.pipeline.question import Question, build_question
from novellus_lab.pipeline.request import Request
from novellus_lab.pipeline.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from novellus_lab.pipeline.runtime import Runtime

ROUNDS = 7
PLENTY = 10**9
STRATEGIES = (
    "weighted",
    "round_robin",
    "priority",
    "least_busy",
    "health_weighted",
    "cost_optimized",
    "least_latency",
)


def configuration(models: int, rules: int) -> dict[str, Any]:
    limits = {"rpm": PLENTY, "tpm": PLENTY, "concurrent": 10_000}
    pool = [f"model-{n}" for n in range(models)]
    return {
        "models": [
            {
                "provider": "openai",
                "model_name": name,
                "base_url": "http://127.0.0.1:9/v1",
                "input_token_cost": f"0.00{n + 1}",
                "output_token_cost": f"0.00{n + 2}",
                "context_window": 100_000,
                "capabilities": ["chat", "function_calling"],
                **limits,
            }
            for n, name in enumerate(pool)
        ],
        "load_balancing": {
            "rules": [
                {
                    "name": f"rule-{n}",
                    "model_pool": pool[n:],
                    "conditions": {"priority": f"p{n}", "tags": {"team": "x"}},
                }
                for n in range(rules - 1)
            ]
            + [{"name": "last", "model_pool": pool, "conditions": {"max_input_tokens": 100_000}}]
        },
    }


async def choose(runtime: Runtime, questions: Sequence[Question]) -> dict[str, float]:
    """Return microseconds a question for each step, on the lab's own thread."""
    pipeline, admission, clock = runtime.pipeline, runtime.admission, time.thread_time
    requests = [Request.of(question, time.perf_counter()) for question in questions]
    began = clock()
    plans = [pipeline.plan(question) for question in questions]
    planned = clock()
    orders = [
        await pipeline._route(request, plan, Trace())
        for request, plan in zip(requests, plans, strict=True)
    ]
    routed = clock()
    for request, order in zip(requests, orders, strict=True):
        place = await admission.enter(request, order[0], uuid7(), forced=False)
        place.answered(30, None)
    entered = clock()
    each = 1e6 / len(questions)
    return {
        "rules": (planned - began) * each,
        "choice": (routed - planned) * each,
        "entry": (entered - routed) * each,
    }


async def hop(times: int) -> float:
    """Return microseconds that a coroutine takes to let the loop go round once."""
    began = time.thread_time()
    for _ in range(times):
        await asyncio.sleep(0)
    return (time.thread_time() - began) / times * 1e6


def teach(runtime: Runtime, models: int) -> None:
    """Let the router have seen each model."""
    observed = runtime.pipeline._observed
    for n in range(models):
        for k in range(20):
            ms = 400 * (1 + n % 5) * (0.8 + 0.02 * k)
            observed.latencies.observe(f"model-{n}", ms, input_tokens=20, output_tokens=100)
            observed.lengths.observe(f"model-{n}", input_tokens=20, output_tokens=100)
            observed.traffic.begin(f"model-{n}")
            observed.traffic.end(f"model-{n}", True)


def measure(models: int, rules: int, calls: int) -> tuple[Table, float]:
    """Return the figures, and the floor: microseconds a hop."""
    hops = []
    table = Table(title=f"Choosing among {models} models by {rules} rules")
    table.add_column("strategy")
    for name in (
        "rules",
        "candidates and choice",
        "letting it in",
        "all",
        "with a budget",
        "share",
    ):
        table.add_column(name, justify="right")
    with (
        tempfile.TemporaryDirectory() as home,
        Lab(home=home, config=configuration(models, rules)) as lab,
    ):
        runtime = lab._live()
        teach(runtime, models)
        for strategy in STRATEGIES:
            without = one(runtime, strategy, calls)
            with lab.budget(usd=1000):
                budgeted = one(runtime, strategy, calls)
            hops.append(runtime.thread.run(hop, 20_000))
            explained = lab.router.explain("Hi there", model_selection_strategy=strategy)
            table.add_row(
                strategy,
                *(f"{without[step]:.1f}" for step in ("rules", "choice", "entry")),
                f"{sum(without.values()):.0f}",
                f"{sum(budgeted.values()):.0f}",
                f"{explained.candidates[0].probability:.2f}",
            )
    return table, statistics.median(hops)


def one(runtime: Runtime, strategy: str, calls: int) -> dict[str, float]:
    rounds = []
    for _ in range(ROUNDS):
        questions = [
            build_question(f"What is {n} and {n}?", model_selection_strategy=strategy)
            for n in range(calls)
        ]
        for question in questions:
            _ = question.input_tokens  # counted once for all, and not what is measured here
        gc.collect()
        rounds.append(runtime.thread.run(choose, runtime, questions))
    return {step: statistics.median(r[step] for r in rounds) for step in rounds[0]}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--models", type=int, default=20)
    parser.add_argument("--rules", type=int, default=10)
    parser.add_argument("--calls", type=int, default=3000)
    chosen = parser.parse_args(arguments)
    console = Console()
    table, hop_us = measure(chosen.models, chosen.rules, chosen.calls)
    console.print(table)
    console.print(f"µs of processor time a call; one hop of the event loop: {hop_us:.1f} µs")


if __name__ == "__main__":
    main()
