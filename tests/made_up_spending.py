"""A seeded history of requests that were never made: prices, lengths, traffic and the cache change in it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import blake2b
from typing import Any

import numpy as np
import psycopg

from novellus_lab.ids import uuid7

COLUMNS = (
    *("id", "created_at", "kind", "stream", "status", "error_class", "model", "provider"),
    *("strategy", "cache", "cache_key", "input_tokens", "cached_input_tokens"),
    *("cache_write_tokens", "output_tokens", "reasoning_tokens", "cost_usd", "uncached_cost_usd"),
    *("latency_ms", "ttft_ms", "original_latency_ms", "tags", "session_id", "prompt_hash"),
    *("messages", "attempts"),
)
EVIL = "<script>alert(1)</script>"
LONG_SYSTEM = "You are the support desk of a shop. " + "Be kind, be exact, cite the policy. " * 260


@dataclass(frozen=True)
class Model:
    name: str
    input_usd: Decimal
    """Per token; None: nobody knows."""
    output_usd: Decimal
    share: float
    ms: float
    priced: bool = True
    cached_share: float = 0.0
    reasoning: float = 0.0


def usd(per_million: str) -> Decimal:
    return Decimal(per_million) / 1_000_000


MODELS = (
    Model("gpt-4o", usd("2.5"), usd("10"), 0.34, 900, cached_share=0.3),
    Model("claude-3-5-sonnet", usd("3"), usd("15"), 0.2, 1200, reasoning=0.3),
    Model("gpt-4o-mini", usd("0.15"), usd("0.6"), 0.36, 450),
    Model("house-llm", usd("0"), usd("0"), 0.1, 300, priced=False),
)
TEAMS = ("search", "support", "ads")


@dataclass(frozen=True)
class History:
    """`days` up to `end`; in the second half traffic, lengths and a price are what `change` says."""

    end: datetime = field(
        default_factory=lambda: datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    )
    days: int = 60
    a_day: float = 150
    change: float = 1.35
    price_change: Decimal = Decimal("0.8")
    models: tuple[Model, ...] = MODELS
    teams: tuple[str, ...] = TEAMS
    evil: bool = False
    seed: int = 7


def rows(history: History) -> list[dict[str, Any]]:
    rng = np.random.default_rng(history.seed)
    shares = np.array([m.share for m in history.models])
    made = []
    start = history.end - timedelta(days=history.days)
    prompts = [f"Where is order {n}? It was due on day {n % 9}." for n in range(400)]
    if history.evil:
        prompts += [f"{EVIL} =1+1 order"] * 60
    for day in range(history.days):
        late = day >= history.days / 2
        begins = start + timedelta(days=day)
        weekend = 0.55 if begins.weekday() >= 5 else 1.0
        n = rng.poisson(history.a_day * weekend * (history.change if late else 1))
        mix = shares * np.array(
            [(1.3, 1, 0.8)[i] if late and i < 3 else 1 for i in range(len(shares))]
        )
        for _ in range(n):
            model = history.models[rng.choice(len(shares), p=mix / mix.sum())]
            number = min(int(rng.pareto(0.8) * 4), len(prompts) - 1)
            prompt = prompts[number]
            team = history.teams[rng.choice(len(history.teams))]
            system = LONG_SYSTEM if team == history.teams[1 % len(history.teams)] else "Be brief."
            hours = rng.triangular(6, 14, 22)
            hit = rng.random() < (0.22 if late else 0.12)
            failed = not hit and rng.random() < 0.02
            tokens_in = len(system) // 4 + int(rng.lognormal(5.2, 0.7))
            if rng.random() < 0.01:
                tokens_in += 24_000
            tokens_out = int(rng.lognormal(5.0 + (0.12 if late else 0), 0.6))
            cached = int(tokens_in * 0.8) if rng.random() < model.cached_share else 0
            price = (
                history.price_change if late and model.name == "claude-3-5-sonnet" else Decimal(1)
            )
            full = price * (
                (tokens_in - cached) * model.input_usd
                + cached * model.input_usd / 2
                + tokens_out * model.output_usd
            )
            cost = Decimal(0) if hit else full
            ms = float(model.ms + 6 * tokens_out * rng.lognormal(0, 0.25))
            key = blake2b(f"{model.name}{system}{prompt}".encode(), digest_size=16).digest()
            made.append({
                "id": uuid7(int((begins + timedelta(hours=hours)).timestamp() * 1e9)),
                "created_at": begins + timedelta(hours=hours), "kind": "chat", "stream": False,
                "status": "error" if failed else "ok",
                "error_class": "RateLimitError" if failed and rng.random() < 0.6
                else "ProviderTimeoutError" if failed else None,
                "model": model.name, "provider": "made-up",
                "strategy": "weighted" if rng.random() < 0.7 else "cost_optimized",
                "cache": rng.choice(["memory", "redis", "postgres", "semantic"]) if hit
                else "off" if team == history.teams[-1] else "miss",
                "cache_key": key,
                "input_tokens": None if failed else tokens_in,
                "cached_input_tokens": None if failed else cached,
                "cache_write_tokens": None if failed else 0,
                "output_tokens": None if failed else tokens_out,
                "reasoning_tokens": None if failed else int(tokens_out * model.reasoning),
                "cost_usd": Decimal(0) if failed else (cost if model.priced else None),
                "uncached_cost_usd": None if failed or not model.priced else full,
                "latency_ms": float(1 + rng.random()) if hit else ms, "ttft_ms": None,
                "original_latency_ms": ms if hit else None,
                "tags": {"team": team}, "session_id": f"s-{int(rng.pareto(1.2) * 20)}",
                "prompt_hash": blake2b(f"{system}{prompt}".encode(), digest_size=16).digest(),
                "messages": [{"role": "system", "content": system},
                             {"role": "user", "content": prompt}],
                "attempts": 0 if hit else 1,
            })  # fmt: skip
    return [row for row in made if row["created_at"] < history.end]


def write(conninfo: str, made: list[dict[str, Any]], *, scored: float = 0.0, seed: int = 7) -> None:
    """Enter rows into the log, and scores for a share of the answers."""
    rng = np.random.default_rng(seed)
    with psycopg.connect(conninfo) as connection, connection.cursor() as cursor:
        with cursor.copy(f"COPY ai_requests ({', '.join(COLUMNS)}) FROM STDIN".encode()) as copy:
            for row in made:
                copy.write_row([
                    json.dumps(row[name]) if name in ("tags", "messages")
                    else str(row[name]) if name == "cache" else row[name]
                    for name in COLUMNS
                ])  # fmt: skip
        good = {"gpt-4o": 0.9, "claude-3-5-sonnet": 0.93, "gpt-4o-mini": 0.82}
        for row in made:
            if row["cache"] == "miss" and row["status"] == "ok" and rng.random() < scored:
                value = float(rng.random() < good.get(row["model"], 0.7))
                cursor.execute(
                    "INSERT INTO ai_scores (request_id, scorer, value) VALUES (%s, 'exact', %s)",
                    [row["id"], value],
                )
