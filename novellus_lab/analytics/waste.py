"""What provider calls cost that gave no answer."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from novellus_lab.analytics.frames import UNPRICED
from novellus_lab.analytics.grouping import Grouped, Question, Usd
from novellus_lab.analytics.log_columns import REQUESTS

if TYPE_CHECKING:
    import polars as pl

    from novellus_lab.analytics.log_mirror import LogMirror

_OF_REQUEST = (
    *("kind", "stream", "requested_model", "strategy", "rule", "cache", "tags"),
    *("session_id", "experiment", "arm", "priority"),
)
_MARGIN = timedelta(days=2)
"""A call begins so much after its request at most."""

# Requests with one call alone need no look at the others.
_TOLD = """
CREATE TEMP VIEW log AS
WITH several AS (
    SELECT request_id, bool_or(role = 'hedge') AS hedged,
        max(number) FILTER (WHERE role NOT IN ('shadow', 'judge')) AS last,
        max(number) FILTER (WHERE status = 'ok' AND role NOT IN ('shadow', 'judge')) AS answer
    FROM calls WHERE request_id IN (SELECT request_id FROM calls WHERE number > 1)
    GROUP BY request_id
)
SELECT calls.* EXCLUDE (model_id), calls.model_id AS model, {labels}
    CASE
        WHEN role IN ('shadow', 'judge') THEN role
        WHEN calls.status = 'ok' AND number < several.answer
            THEN CASE WHEN hedged THEN 'hedged' ELSE 'escalated' END
        WHEN calls.status = 'ok' THEN 'answer'
        WHEN calls.status = 'cancelled' AND hedged AND several.answer IS NOT NULL THEN 'hedged'
        WHEN calls.status = 'cancelled' THEN 'cancelled'
        WHEN number < several.last THEN 'retried'
        ELSE 'failed'
    END AS went
FROM calls LEFT JOIN several USING (request_id) {requests}
"""


class _Calls(Grouped):
    """Provider calls, each with what became of it, and the labels of its request where they are asked."""

    def attach(self, mirror: LogMirror, question: Question) -> None:
        since, until = self.selection.since, self.selection.until
        mirror.rows(question.table, since, until).attach(self.connection, "calls")
        asked = f"{self.selection.where} {' '.join(self.dimensions.values())}"
        wanted = [name for name in _OF_REQUEST if name in asked]
        labels = requests = ""
        if wanted:
            earlier = None if since is None else since - _MARGIN
            mirror.rows(REQUESTS, earlier, until).attach(self.connection, "requests")
            labels = "".join(f"requests.{name}, " for name in wanted)
            requests = "LEFT JOIN requests ON requests.id = calls.request_id"
        self.connection.execute(_TOLD.format(labels=labels, requests=requests))


def waste(mirror: LogMirror, question: Question) -> pl.DataFrame:
    """Return what each kind of provider call cost, `went` says which, and its share of all spend.

    `answer` gave the answer; `retried` failed, and another call took its place; `failed` was the last
    one; `cancelled` was broken off by the caller; `hedged` lost the race; `escalated` was not good
    enough; `shadow` and `judge` were for evaluation. The kinds add up to all that was spent.
    """
    import polars as pl

    calls = _Calls(mirror, question)
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
