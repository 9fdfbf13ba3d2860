"""How good answers were, beside what they cost and how long they took: of those that were scored."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from novellus_lab.analytics.frames import HIT
from novellus_lab.analytics.grouping import Grouped, Question
from novellus_lab.analytics.intervals import Z, share_bounds

if TYPE_CHECKING:
    import polars as pl

    from novellus_lab.analytics.log_mirror import LogMirror

_SCORED = f"""
CREATE OR REPLACE TEMP VIEW log AS
SELECT rows.*, scores.scorer, scores.score
FROM rows JOIN scores ON scores.request_id::UUID = rows.id
WHERE NOT {HIT} AND rows.cache <> 'coalesced'
"""  # noqa: S608 - a constant


class _Scored(Grouped):
    """Provider calls that have a score."""

    def attach(self, mirror: LogMirror, question: Question) -> None:
        selection = self.selection
        mirror.rows(question.table, selection.since, selection.until).attach(
            self.connection, "rows"
        )
        if mirror.columns("ai_scores"):
            scores = mirror.stream(
                "SELECT request_id::text AS request_id, scorer, value AS score FROM public.ai_scores"
            )
            self.connection.register("scores", scores)
        else:
            self.connection.execute(
                "CREATE TEMP VIEW scores AS SELECT '' AS request_id, '' AS scorer, 0.0 AS score "
                "WHERE false"
            )
        self.connection.execute(_SCORED)


def quality(mirror: LogMirror, question: Question) -> pl.DataFrame:
    """Return `score`, `cost_usd` and latency of an answer by group and scorer, with 95% intervals.

    Of answers that a provider gave and somebody scored (experiments, judges, thumbs). `score` is from 0
    to 1; its interval is Wilson's, which is wide enough for scores between. `cost_usd` is the mean of
    those with a price; NULL where none has one.
    """
    import polars as pl

    scored = _Scored(mirror, question)
    scored.keys["scorer"] = "scorer"
    frame = scored.sums(
        {
            "requests": "count(*)",
            "score": "avg(score)",
            "priced": "count(cost_usd)",
            "cost_usd": "avg(cost_usd::DOUBLE)",
            "cost_sd": "stddev_samp(cost_usd::DOUBLE)",
            "p50_ms": "quantile_cont(latency_ms, 0.5)",
            "p95_ms": "quantile_cont(latency_ms, 0.95)",
        }
    )
    bounds = [
        share_bounds(score * n, n)
        for score, n in zip(frame["score"], frame["requests"], strict=True)
        if score is not None
    ]
    reach = [
        None if sd is None or n < 2 else Z * sd / math.sqrt(n)
        for sd, n in zip(frame["cost_sd"], frame["priced"], strict=True)
    ]
    if len(bounds) != frame.height:  # no row at all is one row of nothing without groups
        frame, bounds, reach = frame.clear(), [], []
    margin = pl.Series("reach_", reach, dtype=pl.Float64)
    return frame.with_columns(
        pl.Series("score_low", [low for low, _ in bounds], dtype=pl.Float64),
        pl.Series("score_high", [high for _, high in bounds], dtype=pl.Float64),
        (pl.col("cost_usd") - margin).clip(0).alias("cost_low_usd"),
        (pl.col("cost_usd") + margin).alias("cost_high_usd"),
    ).select(
        *scored.keys, "requests", "score", "score_low", "score_high", "priced",
        "cost_usd", "cost_low_usd", "cost_high_usd", "p50_ms", "p95_ms",
    )  # fmt: skip
