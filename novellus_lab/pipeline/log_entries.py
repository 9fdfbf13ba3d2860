"""Cache entries made from the log: answers that were given before, to be given again."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import dict_row

from novellus_lab.cache.entry import CacheEntry
from novellus_lab.cache.manager import expiry
from novellus_lab.errors import StoreUnavailableError
from novellus_lab.store.database import cause
from novellus_lab.types import Usage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime

# The latest answer to each question, unless the cache has it. A NUL was stored as U+FFFD: such an
# answer may not be what was given.
_ANSWERS = """
SELECT DISTINCT ON (r.cache_key) r.*
FROM public.ai_requests AS r
WHERE r.created_at >= %s AND r.kind = 'chat' AND r.status = 'ok' AND r.cache = 'miss'
  AND r.finish_reason = 'stop' AND r.cache_key IS NOT NULL AND r.tool_calls IS NULL
  AND r.response <> '' AND strpos(r.response, U&'\\FFFD') = 0
  AND strpos(r.response, '[redacted]') = 0
  AND NOT EXISTS (SELECT FROM public.ai_response_cache AS c
                  WHERE c.cache_key = r.cache_key AND (c.expires_at IS NULL OR c.expires_at > now()))
ORDER BY r.cache_key, r.created_at DESC
"""


async def entries_from_log(
    conninfo: str, since: datetime, ttl_s: float | None, configured_ttl_s: float | None
) -> AsyncIterator[CacheEntry]:
    """Yield an entry for each question since then whose answer the shared cache does not hold.

    Args:
        ttl_s: seconds from now; None: `configured_ttl_s` from when the answer was made, and those
            that would be expired are left out.

    Raises:
        StoreUnavailableError: the database does not answer.
    """
    now = time.time()
    try:
        async with (
            await psycopg.AsyncConnection.connect(conninfo, row_factory=dict_row) as connection,
            connection.cursor("answers") as cursor,
        ):
            await cursor.execute(_ANSWERS, [since])
            async for row in cursor:
                made_at = row["created_at"].timestamp()
                expires_at = (
                    expiry(made_at, configured_ttl_s) if ttl_s is None else expiry(now, ttl_s)
                )
                if expires_at is None or now < expires_at:
                    yield _entry(row, made_at, expires_at)
    except psycopg.Error as error:
        raise StoreUnavailableError(f"the log can't be read: {cause(error)}") from None


def _entry(row: dict[str, Any], made_at: float, expires_at: float | None) -> CacheEntry:
    return CacheEntry(
        key=bytes(row["cache_key"]),
        content=row["response"],
        model=row["model"],
        provider=row["provider"],
        response_model=row["response_model"],
        finish_reason="stop",
        usage=Usage(
            **{name: row[name] or 0 for name in _COUNTS}, estimated=bool(row["usage_estimated"])
        ),
        raw_usage=row["raw_usage"] or {},
        cost_usd=row["cost_usd"],
        price_version=row["price_version"] or "",
        original_latency_ms=row["provider_ms"],
        source_request_id=row["id"],
        created_at=made_at,
        expires_at=expires_at,
        dropped_params=tuple(row["dropped_params"] or ()),
        tags=row["tags"] or {},
    )


_COUNTS = tuple(name for name in Usage.__dataclass_fields__ if name != "estimated")
