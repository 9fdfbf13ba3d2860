"""The response cache as a Parquet file: to keep, to look into, to take elsewhere."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson

from novellus_lab.cache.entry import CacheEntry
from novellus_lab.errors import InvalidRequestError, MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

FORMAT = b"novellus-cache-1"
"""In the file's metadata. Keys of another version never match, so such a file is refused."""
_FORMAT_NAME = b"novellus_lab.format"
_ROWS = 10_000


def write_entries(entries: Sequence[CacheEntry], path: str | Path) -> int:
    """Write entries to a Parquet file; return how many.

    Columns for people are `kind`, `model`, `provider`, `content`, `cost_usd` (decimal text),
    `created_at`, `expires_at` (UTC) and `tags` (JSON); `key` and `entry` (JSON) are what
    `read_entries` reads.

    Raises:
        MissingDependencyError: pyarrow is not installed.
    """
    pa, pq = _pyarrow()
    schema = pa.schema(
        [
            ("key", pa.binary(32)),
            ("kind", pa.string()),
            ("model", pa.string()),
            ("provider", pa.string()),
            ("content", pa.string()),
            ("cost_usd", pa.string()),
            ("created_at", pa.timestamp("us", "UTC")),
            ("expires_at", pa.timestamp("us", "UTC")),
            ("tags", pa.string()),
            ("entry", pa.binary()),
        ],
        metadata={_FORMAT_NAME: FORMAT},
    )
    with pq.ParquetWriter(str(path), schema, compression="zstd") as writer:
        for start in range(0, max(len(entries), 1), _ROWS):
            rows = [_row(entry) for entry in entries[start : start + _ROWS]]
            writer.write_table(pa.Table.from_pylist(rows, schema))
    return len(entries)


def read_entries(path: str | Path) -> list[CacheEntry]:
    """Read what `write_entries` wrote.

    Raises:
        MissingDependencyError: pyarrow is not installed.
        InvalidRequestError: the file is none of ours, of another version, or broken.
    """
    pa, pq = _pyarrow()
    try:
        table = pq.read_table(str(path))
        if (table.schema.metadata or {}).get(_FORMAT_NAME) != FORMAT:
            raise InvalidRequestError(f"{path} is no file that lab.cache.export wrote")
        keys, entries = table.column("key").to_pylist(), table.column("entry").to_pylist()
        return [CacheEntry.from_json(k, e) for k, e in zip(keys, entries, strict=True)]
    except (OSError, pa.ArrowException, KeyError, ValueError, TypeError) as error:
        if isinstance(error, InvalidRequestError):
            raise
        raise InvalidRequestError(f"{path} can't be read as a cache file: {error}") from None


def _row(entry: CacheEntry) -> dict[str, Any]:
    return {
        "key": entry.key,
        "kind": entry.kind,
        "model": entry.model or None,
        "provider": entry.provider or None,
        "content": entry.content,
        "cost_usd": None if entry.cost_usd is None else str(entry.cost_usd),
        "created_at": datetime.fromtimestamp(entry.created_at, UTC),
        "expires_at": _time(entry.expires_at),
        "tags": orjson.dumps(dict(entry.tags), default=str).decode(),
        "entry": entry.to_json(),
    }


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingDependencyError(
            f"cache files need {error.name}: pip install 'novellus_lab[analytics]'"
        ) from None
    return pa, pq
