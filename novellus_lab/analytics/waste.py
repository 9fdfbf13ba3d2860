"""What provider calls cost that gave no answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from novellus_lab.analytics.frames import UNPRICED
from novellus_lab.analytics.grouping import Question, Usd
from novellus_lab.analytics.provider_calls import ProviderCalls

if TYPE_CHECKING:
    import polars as pl

    from novellus_lab.analytics.log_mirror import LogMirror


def waste(mirror: LogMirror, question: Question) -> pl.DataFrame:
    """Return what each kind of provider call cost, `went` says which, and its share of all spend.

    `answer` gave the answer; `retried` failed, and another call took its place; `failed` was the last
    one; `cancelled` was broken off by the caller; `hedged` lost the race; `escalated` was not good
    enough; `shadow` and `judge` were for evaluation. The kinds add up to all that was spent.
    """
    import polars as pl

    calls = ProviderCalls(mirror, question)
    calls.keys["went"] = "went"
    frame = calls.sums(
        {"calls": "count(*)", "unpriced": f"count(*) FILTER (WHERE {UNPRICED})"},
        {"cost_usd": Usd("cost_usd")},
    )
    others = [name for name in calls.keys if name != "went"]
    total = pl.col("cost_usd").cast(pl.Float64).sum()
    whole = total.over(others) if others else total
    return frame.with_columns(
        (pl.col("unpriced") / pl.col("calls")).alias("unpriced_share"),
        pl.when(whole > 0)
        .then(pl.col("cost_usd").cast(pl.Float64).fill_null(0) / whole)
        .alias("share_of_cost"),
    ).select(*calls.keys, "calls", "unpriced", "unpriced_share", "cost_usd", "share_of_cost")
