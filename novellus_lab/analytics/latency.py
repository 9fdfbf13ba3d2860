"""How long answers took: exact quantiles, and how sure they are."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from novellus_lab.analytics.frames import HIT
from novellus_lab.analytics.grouping import Grouped, Question
from novellus_lab.analytics.intervals import quantile_ranks
from novellus_lab.analytics.selection import quoted
from novellus_lab.errors import InvalidRequestError

if TYPE_CHECKING:
    import polars as pl

    from novellus_lab.analytics.log_mirror import LogMirror

MEASURES = ("latency_ms", "provider_ms", "ttft_ms", "queue_ms", "overhead_ms")
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}

SOURCE = (
    f"CASE WHEN {HIT} THEN 'cache' WHEN cache = 'coalesced' THEN 'coalesced' ELSE 'provider' END"
)


def latency(mirror: LogMirror, question: Question, of: str) -> pl.DataFrame:
    """Return `requests`, `p50_ms`, `p95_ms`, `p99_ms` each with a 95% interval, mean and maximum.

    Quantiles are PostgreSQL's `percentile_cont`. Intervals are order statistics, whatever the
    distribution; NULL where there are too few values for a bound. What providers, the cache and equal
    calls answered stands apart, as `source`: the three have nothing to do with each other.

    Raises:
        InvalidRequestError: `of` is no latency of the log.
    """
    import pyarrow as pa

    if of not in MEASURES:
        raise InvalidRequestError(f"of must be one of {', '.join(MEASURES)}, not {of!r:.80}")
    filters = {"status": "ok", **(question.filters or {})}
    grouped = Grouped(mirror, replace(question, filters=filters))
    grouped.keys["source"] = SOURCE
    keys = ", ".join(f"{sql} AS {quoted(name)}" for name, sql in grouped.keys.items())
    groups = ", ".join(str(n + 1) for n in range(len(grouped.keys)))
    table = grouped.run(
        f"SELECT {keys}, count(*) AS requests, avg({of}) AS mean_ms, max({of}) AS max_ms, "
        f"list({of}) AS each_ms",
        f"AND {of} IS NOT NULL GROUP BY {groups}",
    )
    found = _quantiles(table["each_ms"])
    table = table.drop_columns(["each_ms"])
    place = table.column_names.index("mean_ms")
    for name, column in reversed(found.items()):
        table = table.add_column(place, name, pa.array(column, pa.float64()))
    return grouped.finish(table)


def _quantiles(groups: Any) -> dict[str, list[float | None]]:
    """Find the quantiles of lists, and their bounds."""
    columns: dict[str, list[float | None]] = {
        f"{name}{end}_ms": [] for name in QUANTILES for end in ("", "_low", "_high")
    }
    for chunk in groups.chunks:
        ends = chunk.offsets.to_numpy()
        every = chunk.values.to_numpy(zero_copy_only=False).copy()
        for begin, end in pairwise(ends):
            values = every[begin:end]
            last = len(values) - 1
            positions = {name: last * q for name, q in QUANTILES.items()}
            bounds = {name: quantile_ranks(len(values), q) for name, q in QUANTILES.items()}
            places = {math.floor(p) for p in positions.values()}
            places |= {math.ceil(p) for p in positions.values()}
            places |= {rank - 1 for pair in bounds.values() for rank in pair if rank is not None}
            values.partition(sorted(places))
            for name, position in positions.items():
                below = float(values[math.floor(position)])
                above = float(values[math.ceil(position)])
                columns[f"{name}_ms"].append(below + (position % 1) * (above - below))
                for bound, rank in zip(("low", "high"), bounds[name], strict=True):
                    columns[f"{name}_{bound}_ms"].append(
                        None if rank is None else float(values[rank - 1])
                    )
    return columns
