"""What providers stated in sums, as a frame."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from novellus_lab.analytics.imports.calls import COUNTS
from novellus_lab.analytics.requests import moment
from novellus_lab.errors import InvalidRequestError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

    from novellus_lab.analytics.log_mirror import LogMirror

_KEYS = {
    "day": "(bucket_start AT TIME ZONE 'UTC')::date",
    "month": "date_trunc('month', bucket_start AT TIME ZONE 'UTC')::date",
    "source": "source",
    "provider": "provider",
    "model": "model",
}
_DIMENSION = "dimension:"
_DIGITS = 15


def imported_frame(
    mirror: LogMirror, since: str | datetime | timedelta | None, by: str | Sequence[str]
) -> pl.DataFrame:
    """Return tokens and requests of providers' usage exports, and dollars of their cost exports, summed.

    NULL where no export states it. Nothing in it is in the log, and the other way round: never add the two.

    Args:
        since: of buckets that begin then or later; None: all.
        by: day, month (UTC), source, provider, model, or `dimension:project_id` and the like.

    Raises:
        InvalidRequestError: an argument is wrong.
        StoreUnavailableError: the database does not answer.
    """
    import polars as pl

    names = [by] if isinstance(by, str) else list(by)
    keys = [_key(name) for name in names]
    start = moment("since", since)
    where = ""
    if start is not None:
        where = f"WHERE bucket_start >= '{start.astimezone(UTC).isoformat()}'"
    columns = [f'{sql} AS "k{i}"' for i, sql in enumerate(keys)]
    columns += [f"sum({name})::bigint AS {name}" for name in COUNTS]
    columns.append("sum(cost_usd)::text AS cost_usd")
    groups = ", ".join(str(i + 1) for i in range(len(keys)))
    query = f"SELECT {', '.join(columns)} FROM public.ai_imported_usage {where}"  # noqa: S608
    query += f" GROUP BY {groups} ORDER BY {groups}" if keys else ""
    rows = [row for batch in mirror.batches(query) for row in batch.to_pylist()]
    schema = {
        f"k{i}": pl.Date if name in ("day", "month") else pl.String for i, name in enumerate(names)
    }
    counted = dict.fromkeys(COUNTS, pl.Int64)
    frame = pl.DataFrame(rows, schema={**schema, **counted, "cost_usd": pl.String})
    return frame.with_columns(pl.col("cost_usd").cast(pl.Decimal(38, _DIGITS))).rename(
        {f"k{i}": name for i, name in enumerate(names)}
    )


def _key(name: str) -> str:
    if isinstance(name, str) and name in _KEYS:
        return _KEYS[name]
    if isinstance(name, str) and name.startswith(_DIMENSION):
        quoted = name.removeprefix(_DIMENSION).replace("'", "''")
        return f"dimensions ->> '{quoted}'"
    raise InvalidRequestError(
        f"imported usage can't be grouped by {name!r:.60}. {did_you_mean(str(name), list(_KEYS))} "
        f"Or dimension:project_id and the like"
    )
