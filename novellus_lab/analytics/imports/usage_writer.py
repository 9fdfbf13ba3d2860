"""Writes what providers state in sums into `ai_imported_usage`.

An export is the whole truth about its stretch of time in its own grouping, and the newest one counts: a
bucket that comes again (today's, which was not over) is replaced, and what was there of the same time in
another grouping or width is removed, so that nobody adds up the same dollars twice.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.types.json import Jsonb

from novellus_lab.analytics.imports.call_records import stable_id
from novellus_lab.analytics.imports.calls import COUNTS
from novellus_lab.errors import StoreUnavailableError
from novellus_lab.store.database import cause
from novellus_lab.store.storable import storable_json, storable_text

if TYPE_CHECKING:
    from collections.abc import Iterable
    from uuid import UUID

    from novellus_lab.analytics.imports.calls import UsageBucket

_VALUES = ("requests", *COUNTS[1:], "cost_usd")
_COLUMNS = (
    *("id", "source", "kind", "bucket_start", "bucket_end", "provider", "model"),
    *("dimensions", "grouping", *_VALUES),
)
_STAGE = (
    f"CREATE TEMP TABLE staged_usage ON COMMIT DROP AS SELECT {', '.join(_COLUMNS)} "  # noqa: S608
    f"FROM public.ai_imported_usage WITH NO DATA"
)
_COPY = f"COPY pg_temp.staged_usage ({', '.join(_COLUMNS)}) FROM STDIN"
_REGROUPED = """
DELETE FROM public.ai_imported_usage AS u USING (
    SELECT source, kind, grouping, min(bucket_start) AS low, max(bucket_end) AS high
    FROM pg_temp.staged_usage GROUP BY 1, 2, 3
) AS s
WHERE u.source = s.source AND u.kind = s.kind AND u.grouping <> s.grouping
    AND u.bucket_start < s.high AND u.bucket_end > s.low
"""
_TAKE = f"""
WITH taken AS (
    INSERT INTO public.ai_imported_usage AS u ({", ".join(_COLUMNS)})
    SELECT {", ".join(_COLUMNS)} FROM pg_temp.staged_usage
    ON CONFLICT (id) DO UPDATE SET imported_at = now(),
        {", ".join(f"{name} = excluded.{name}" for name in _VALUES)}
    WHERE ({", ".join(f"u.{name}" for name in _VALUES)})
        IS DISTINCT FROM ({", ".join(f"excluded.{name}" for name in _VALUES)})
    RETURNING xmax = 0
)
SELECT count(*) FILTER (WHERE fresh), count(*) FILTER (WHERE NOT fresh) FROM taken AS t (fresh)
"""  # noqa: S608 - our own columns


@dataclass(frozen=True, slots=True)
class UsageWritten:
    """What became of an export's buckets."""

    added: int
    changed: int
    replaced: int
    """Rows of the same time in another grouping, which are gone."""


class UsageSums:
    """Buckets, those of one file that are equal added up: there are few of them, by their nature."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, ...], UsageBucket] = {}

    def __len__(self) -> int:
        return len(self._sums)

    @property
    def tokens(self) -> int:
        """Input and output."""
        return sum(
            (bucket.counts.get("input_tokens") or 0) + (bucket.counts.get("output_tokens") or 0)
            for bucket in self._sums.values()
        )

    @property
    def cost_usd(self) -> Decimal:
        return sum((bucket.cost_usd or Decimal(0) for bucket in self._sums.values()), Decimal(0))

    def add(self, bucket: UsageBucket) -> None:
        key = (
            bucket.source,
            bucket.kind,
            bucket.start.isoformat(),
            bucket.end.isoformat(),
            bucket.provider,
            bucket.model or "",
            json.dumps(dict(bucket.dimensions), sort_keys=True),
        )
        before = self._sums.get(key)
        if before is None:
            self._sums[key] = bucket
            return
        counts = {
            name: _together(before.counts.get(name), bucket.counts.get(name)) for name in COUNTS
        }
        cost = _together(before.cost_usd, bucket.cost_usd)
        self._sums[key] = replace(bucket, counts=counts, cost_usd=cost)

    def take(self, later: UsageSums) -> None:
        """Take over another file's buckets; where both have one, the later file's counts."""
        self._sums.update(later._sums)

    def write(self, conninfo: str) -> UsageWritten:
        """Write them, all or none.

        Raises:
            StoreUnavailableError: the database does not answer, or refuses.
        """
        grouping = _groupings(self._sums.values())
        try:
            with psycopg.connect(conninfo) as connection, connection.cursor() as cursor:
                cursor.execute(_STAGE.encode())
                with cursor.copy(_COPY.encode()) as copy:
                    for key, bucket in self._sums.items():
                        copy.write_row(
                            (
                                _id(key, bucket),
                                bucket.source,
                                bucket.kind,
                                bucket.start,
                                bucket.end,
                                storable_text(bucket.provider),
                                None if bucket.model is None else storable_text(bucket.model),
                                Jsonb(storable_json(bucket.dimensions)),
                                grouping[bucket.source, bucket.kind],
                                *(bucket.counts.get(name) for name in COUNTS),
                                bucket.cost_usd,
                            )
                        )
                replaced = cursor.execute(_REGROUPED).rowcount
                added, changed = cursor.execute(_TAKE.encode()).fetchone() or (0, 0)
                return UsageWritten(added, changed, replaced)
        except psycopg.Error as error:
            raise StoreUnavailableError(f"no usage was imported: {cause(error)}") from None


def _groupings(buckets: Iterable[UsageBucket]) -> dict[tuple[str, str], str]:
    """Return what each export in here is grouped by, and the width of its buckets."""
    names: dict[tuple[str, str], set[str]] = {}
    widths: dict[tuple[str, str], int] = {}
    for bucket in buckets:
        key = (bucket.source, bucket.kind)
        found = names.setdefault(key, set())
        found.update(bucket.dimensions)
        if bucket.model is not None:
            found.add("model")
        width = int((bucket.end - bucket.start).total_seconds())
        widths[key] = max(widths.get(key, 0), width)
    return {key: f"{widths[key]}s:{','.join(sorted(found))}" for key, found in names.items()}


def _id(key: tuple[str, ...], bucket: UsageBucket) -> UUID:
    return stable_id(bucket.start, "usage", "\0".join(key))


def _together(a: Any, b: Any) -> Any:
    return b if a is None else a if b is None else a + b
