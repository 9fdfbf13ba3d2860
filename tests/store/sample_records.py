"""Records for the log, and a table to read them back from."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import dict_row

from novellus_lab.ids import uuid7
from novellus_lab.records import RequestRecord
from novellus_lab.types import (
    Attempt,
    CacheOutcome,
    Candidate,
    Price,
    PriceLine,
    Status,
    Usage,
)

if TYPE_CHECKING:
    from uuid import UUID

    from novellus_lab.store.database import Database

NOW = datetime(2026, 11, 24, 12, 30, 1, 250_000, tzinfo=UTC)

USAGE = Usage(
    input_tokens=101,
    output_tokens=102,
    cached_input_tokens=31,
    cache_write_tokens=32,
    cache_write_1h_tokens=33,
    reasoning_tokens=34,
    input_audio_tokens=35,
    cached_audio_tokens=36,
    output_audio_tokens=37,
    output_image_tokens=38,
    web_searches=39,
    estimated=True,
)


def record(**fields: Any) -> RequestRecord:
    """A record with nothing in it but what must be, and what is given."""
    return RequestRecord(**{"id": uuid7(), "created_at": NOW, **fields})


def attempt(**fields: Any) -> Attempt:
    given: dict[str, Any] = {
        "id": uuid7(),
        "number": 1,
        "role": "primary",
        "model_id": "gpt-4o",
        "provider": "openai",
        "started_at": NOW,
        "status": Status.OK,
        "latency_ms": 12.5,
        "price": Price(Decimal("0.01"), version="config"),
        **fields,
    }
    return Attempt(**given)


def full_attempt() -> Attempt:
    """An attempt whose fields all differ from their defaults, and from each other."""
    return Attempt(
        id=uuid7(),
        number=3,
        role="failover",
        model_id="attempt model",
        provider="attempt provider",
        started_at=NOW,
        status=Status.ERROR,
        latency_ms=21.25,
        price=Price(
            Decimal("0.0123"),
            (PriceLine("input", 101, Decimal("2.50"), Decimal("0.0002525")),),
            Decimal("0.01"),
            "attempt price version",
            "attempt reason",
        ),
        usage=USAGE,
        raw_usage={"attempt": 1},
        response_model="attempt response model",
        ttft_ms=22.5,
        error_class="attempt error",
        error_message="attempt message",
        status_code=503,
        retry_after_s=1.5,
        response_id="attempt response id",
    )


def full_record() -> RequestRecord:
    """A record whose fields all differ from their defaults, and from each other."""
    return RequestRecord(
        id=uuid7(),
        created_at=NOW,
        kind="embedding",
        stream=True,
        status=Status.CANCELLED,
        error_class="error class",
        error_message="error message",
        requested_model="requested model",
        picked_model="picked model",
        model="model",
        provider="provider",
        response_model="response model",
        strategy="strategy",
        rule="rule",
        candidates=(Candidate("candidate", 0.25, 2.5, "dropped because"),),
        propensity=0.75,
        route_reason="budget 'lab' is spent\tand \\ so on",
        cache=CacheOutcome.SEMANTIC,
        cache_key=b"\x00key\\\xff",
        cache_similarity=0.875,
        cache_source_id=uuid7(),
        usage=USAGE,
        raw_usage={"raw": 1},
        price_version="price version",
        cost_usd=Decimal("1.000000001"),
        fees_usd=Decimal("0.25"),
        uncached_cost_usd=Decimal("2.50"),
        latency_ms=1.5,
        ttft_ms=2.5,
        queue_ms=3.5,
        route_ms=4.5,
        provider_ms=5.5,
        overhead_ms=6.5,
        original_latency_ms=7.5,
        tags={"team": "search"},
        session_id="session",
        experiment="experiment",
        arm="arm",
        priority="priority",
        prompt_hash=b"\x01hash",
        params={"temperature": 0.5},
        dropped_params=("seed", 'top"p\\'),
        finish_reason="length",
        messages=[{"role": "user", "content": "Hi"}],
        response="response",
        tool_calls=[{"id": "call", "name": "f", "arguments": "{}"}],
        attempts=(full_attempt(),),
    )


def read(database: Database, table: str = "ai_requests", order: str = "id") -> list[dict[str, Any]]:
    with psycopg.connect(database.conninfo, row_factory=dict_row) as connection:
        return connection.execute(f"SELECT * FROM {table} ORDER BY {order}").fetchall()


def logged_ids(database: Database) -> list[UUID]:
    return [row["id"] for row in read(database)]
