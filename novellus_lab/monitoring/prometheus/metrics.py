"""Names, labels and buckets of everything that is exported: stated here, and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LATENCY_BUCKETS_S = (
    *(0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0),
    *(5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0),
)
"""An answer takes from the time of a small local model to that of a long chain of thought."""
OVERHEAD_BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. Names of counters end in `_total`; units are seconds, bytes, tokens and dollars."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def series(self) -> tuple[str, ...]:
        """The names under which its samples stand."""
        if self.kind == "histogram":
            return tuple(f"{self.name}_{part}" for part in ("bucket", "sum", "count"))
        return (self.name,)


REQUESTS = Metric(
    "ai_model_requests_total",
    "counter",
    "Requests by the model that answered or failed last, and how they ended; hits included.",
    ("model", "status"),
)
DURATION = Metric(
    "ai_model_request_duration_seconds",
    "histogram",
    "Time from the call to the answer of requests that a provider was called for, retries and "
    "failovers included. Cache hits are not among them.",
    ("model",),
    LATENCY_BUCKETS_S,
)
TTFT = Metric(
    "ai_model_time_to_first_token_seconds",
    "histogram",
    "Time from the provider call to its first token; streams only.",
    ("model",),
    LATENCY_BUCKETS_S,
)
TOKENS = Metric(
    "ai_model_tokens_total",
    "counter",
    "Tokens of provider calls, by kinds that do not overlap: input, cached_input, cache_write, "
    "output, reasoning.",
    ("model", "kind"),
)
COST = Metric(
    "ai_model_cost_total",
    "counter",
    "US dollars of provider calls, failed ones included, as far as their price is known.",
    ("model",),
)
UNPRICED = Metric(
    "ai_model_unpriced_calls_total",
    "counter",
    "Provider calls of which nobody knows what they cost; they are not in ai_model_cost_total.",
    ("model",),
)
CALLS = Metric(
    "ai_model_calls_total",
    "counter",
    "Provider calls by their role (primary, retry, failover, ...) and how they ended.",
    ("model", "role", "status"),
)
ERRORS = Metric(
    "ai_model_errors_total",
    "counter",
    "Requests that ended without an answer, by the class of the error.",
    ("model", "error"),
)
HEALTH = Metric(
    "ai_model_health_score",
    "gauge",
    "0 to 100; no sample where there is too little traffic to tell.",
    ("model",),
)
HIT_RATE = Metric(
    "ai_cache_hit_rate",
    "gauge",
    "Share of hits among the last hour's look-ups in the cache; no sample where there were none. "
    "Who shared the call of an equal request is in neither.",
)
CACHE = Metric(
    "ai_cache_requests_total",
    "counter",
    "Requests by where their answer came from: off, miss, memory, redis, postgres, semantic, "
    "coalesced.",
    ("outcome",),
)
SAVED = Metric(
    "ai_cache_saved_cost_total",
    "counter",
    "US dollars that requests would have cost without the cache, as far as it is known.",
)
OVERHEAD = Metric(
    "ai_lab_overhead_seconds",
    "histogram",
    "What this package itself added to a request: all of a hit, and of other requests what was "
    "neither a provider call nor a wait for a limit.",
    ("outcome",),
    OVERHEAD_BUCKETS_S,
)
BACKLOG = Metric(
    "ai_log_backlog_bytes", "gauge", "Log records in the spool that are not in PostgreSQL yet."
)
REJECTED = Metric(
    "ai_log_rejected_total",
    "counter",
    "Log records of this process that PostgreSQL refused; they are in files beside the spool.",
)
LOST = Metric(
    "ai_log_lost_total",
    "counter",
    "Log records of this process that neither disk nor memory could take.",
)
DATABASE_UP = Metric(
    "ai_log_database_up",
    "gauge",
    "Whether the log could be read at the last look (1) or not (0): then counters stand still.",
)

METRICS = (
    *(REQUESTS, DURATION, TTFT, TOKENS, COST, UNPRICED, CALLS, ERRORS, HEALTH),
    *(HIT_RATE, CACHE, SAVED, OVERHEAD, BACKLOG, REJECTED, LOST, DATABASE_UP),
)
