"""Provider calls, each with what became of it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from novellus_lab.analytics.grouping import Grouped
from novellus_lab.analytics.log_columns import REQUESTS

if TYPE_CHECKING:
    from novellus_lab.analytics.grouping import Question
    from novellus_lab.analytics.log_mirror import LogMirror

_OF_REQUEST = (
    *("kind", "stream", "requested_model", "strategy", "rule", "cache", "tags"),
    *("session_id", "experiment", "arm", "priority"),
)
_MARGIN = timedelta(days=2)
"""A call begins so much after its request at most."""

# Requests with one call alone need no look at the others.
_TOLD = """
CREATE TEMP VIEW told AS
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


class ProviderCalls(Grouped):
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
        self.connection.execute("CREATE TEMP VIEW log AS FROM told")
