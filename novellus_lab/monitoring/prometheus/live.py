"""Metrics of this process, counted as its requests end."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from novellus_lab.monitoring.prometheus.metrics import DURATION, OVERHEAD, TTFT
from novellus_lab.monitoring.prometheus.totals import CallGroup, RequestGroup, Totals, measured

if TYPE_CHECKING:
    from novellus_lab.records import RequestRecord
    from novellus_lab.types import Attempt


class LiveTotals:
    """A listener: give `ended` to the lab's listeners."""

    def __init__(self) -> None:
        self.totals = Totals()

    def ended(self, record: RequestRecord) -> None:
        """Count a request and its provider calls."""
        saved = None
        if record.cache.hit and record.uncached_cost_usd is not None:
            saved = record.uncached_cost_usd - (record.cost_usd or Decimal(0))
        self.totals.add_requests(
            RequestGroup(
                count=1,
                model=record.model,
                status=record.status,
                outcome=record.cache,
                error=record.error_class,
                duration=measured(DURATION, record.latency_ms if record.attempts else None),
                ttft=measured(TTFT, record.ttft_ms),
                overhead=measured(OVERHEAD, record.overhead_ms),
                saved_usd=saved,
                minute=int(record.created_at.timestamp() // 60),
            )
        )
        for attempt in record.attempts:
            self.totals.add_calls(_call(attempt))


def _call(attempt: Attempt) -> CallGroup:
    usage, cost_usd = attempt.usage, attempt.price.cost_usd
    read, written = usage.cached_input_tokens, usage.cache_write_tokens
    return CallGroup(
        count=1,
        model=attempt.model_id,
        role=attempt.role,
        status=attempt.status,
        unpriced=int(cost_usd is None),
        cost_usd=Decimal(0) if cost_usd is None else cost_usd,
        tokens={
            "input": max(0, usage.input_tokens - read - written),
            "cached_input": read,
            "cache_write": written,
            "output": max(0, usage.output_tokens - usage.reasoning_tokens),
            "reasoning": usage.reasoning_tokens,
        },
    )
