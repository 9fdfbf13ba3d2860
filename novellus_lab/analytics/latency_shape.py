"""Distributions of latencies: the whole curve, and where it lies over time."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from novellus_lab.analytics.grouping import TIME, Grouped, Question
from novellus_lab.analytics.intervals import LEVEL
from novellus_lab.analytics.latency import MEASURES, SOURCE
from novellus_lab.analytics.selection import quoted
from novellus_lab.errors import InvalidRequestError

if TYPE_CHECKING:
    import polars as pl

    from novellus_lab.analytics.log_mirror import LogMirror

_POINTS = 400
_STEPS = 8
"""Bins of a heatmap in a factor of ten."""


def latency_ecdf(mirror: LogMirror, question: Question, of: str) -> pl.DataFrame:
    """Return the empirical distribution of each group and source: `ms`, the `share` that took no longer.

    `share_low` and `share_high` hold the whole curve with 95% (Massart 1990). A curve has at most 400
    points, evenly spread, and its first and last; each is exact.
    """
    import numpy as np
    import polars as pl

    grouped = _grouped(mirror, question, of)
    keys = ", ".join(f"{sql} AS {quoted(name)}" for name, sql in grouped.keys.items())
    groups = ", ".join(str(n + 1) for n in range(len(grouped.keys)))
    table = grouped.run(
        f"SELECT {keys}, list({of}) AS each_ms", f"AND {of} IS NOT NULL GROUP BY {groups}"
    )
    schema: dict[str, Any] = dict.fromkeys(grouped.keys, pl.String)
    for name in ("ms", "share", "share_low", "share_high"):
        schema[name] = pl.Float64
    schema["requests"] = pl.Int64
    parts = [pl.DataFrame(schema=schema)]
    labels = table.drop_columns(["each_ms"]).to_pylist()
    for labelled, values in zip(labels, table["each_ms"], strict=True):
        each = np.sort(values.values.to_numpy(zero_copy_only=False))
        n = len(each)
        ranks = np.unique(np.linspace(1, n, min(n, _POINTS)).round().astype(int))
        share = ranks / n
        reach = math.sqrt(math.log(2 / (1 - LEVEL)) / (2 * n))
        columns = {
            "ms": each[ranks - 1],
            "share": share,
            "share_low": np.maximum(share - reach, 0),
            "share_high": np.minimum(share + reach, 1),
        }
        part = pl.DataFrame(columns).with_columns(
            pl.lit(n, pl.Int64).alias("requests"),
            *(
                pl.lit(None if v is None else str(v), pl.String).alias(k)
                for k, v in labelled.items()
            ),
        )
        parts.append(part.select(list(schema)))
    return pl.concat(parts).sort([*grouped.keys, "ms"], nulls_last=True)


def latency_bins(mirror: LogMirror, question: Question, of: str, source: str) -> pl.DataFrame:
    """Return how many answers of a source took how long, by bucket of time: eight bins in a factor of ten.

    `share` is of all answers in the bucket of time.
    """
    import polars as pl

    grouped = _grouped(mirror, question, of)
    del grouped.keys["source"]
    grouped.keys["bin"] = f"floor(log10(greatest({of}, 0.001)) * {_STEPS})::INTEGER"
    keys = ", ".join(f"{sql} AS {quoted(name)}" for name, sql in grouped.keys.items())
    groups = ", ".join(str(n + 1) for n in range(len(grouped.keys)))
    rest = f"AND {of} IS NOT NULL AND {SOURCE} = '{source}' GROUP BY {groups}"
    frame = grouped.finish(grouped.run(f"SELECT {keys}, count(*) AS requests", rest))
    others = [name for name in grouped.keys if name != "bin"]
    total = pl.col("requests").sum()
    bounds = {"low_ms": 0.0, "middle_ms": 0.5, "high_ms": 1.0}
    return frame.with_columns(
        (pl.col("requests") / (total.over(others) if others else total)).alias("share"),
        *(
            (10 ** ((pl.col("bin").cast(pl.Float64) + step) / _STEPS)).alias(name)
            for name, step in bounds.items()
        ),
    ).sort([TIME, "bin"] if TIME in frame.columns else ["bin"])


def _grouped(mirror: LogMirror, question: Question, of: str) -> Grouped:
    if of not in MEASURES:
        raise InvalidRequestError(f"of must be one of {', '.join(MEASURES)}, not {of!r:.80}")
    grouped = Grouped(
        mirror, replace(question, filters={"status": "ok", **(question.filters or {})})
    )
    grouped.keys["source"] = SOURCE
    return grouped
