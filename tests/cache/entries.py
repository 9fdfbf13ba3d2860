"""Entries to store."""

from __future__ import annotations

import time
from decimal import Decimal
from typing import Any
from uuid import UUID

from novellus_lab.cache.entry import CacheEntry
from novellus_lab.types import ToolCall, Usage


def entry(key: bytes = b"k" * 32, **fields: Any) -> CacheEntry:
    return CacheEntry(**{
        "key": key,
        "content": "An answer.",
        "model": "gpt-4o",
        "provider": "openai",
        "response_model": "gpt-4o-2024-08-06",
        "finish_reason": "stop",
        "usage": Usage(3, 4),
        "created_at": time.time(),
        **fields,
    })  # fmt: skip


def full_entry() -> CacheEntry:
    """One that has something in each field."""
    return entry(
        usage=Usage(*range(1, 12), estimated=True),
        raw_usage={"prompt_tokens": 1},
        tool_calls=(ToolCall("c1", "f", '{"a": 1}'),),
        reasoning="because",
        cost_usd=Decimal("0.000000000123"),
        price_version="config",
        original_latency_ms=12.5,
        source_request_id=UUID(int=7),
        expires_at=time.time() + 1_000,
        dropped_params=("seed",),
        vector=(0.1, -2.5e-8),
    )
