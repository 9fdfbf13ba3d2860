"""Who carries an anomaly: contributions by dimension, and requests that show it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from novellus_lab.errors import InvalidRequestError
from novellus_lab.monitoring.contributions import Contribution, contributions
from novellus_lab.monitoring.log_buckets import EXPRESSIONS
from novellus_lab.monitoring.watched import METRICS, Metric

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    import psycopg

    from novellus_lab.monitoring.anomaly import Anomaly

COLUMNS = {
    "model": "model",
    "provider": "provider",
    "route": "rule",
    "error class": "error_class",
    "session": "session_id",
    "experiment arm": "arm",
}
"""Dimensions and their columns; each key of `tags` is one more."""

EXAMPLES = 5
_OF_A_DIMENSION = 5
_LEAST_SHARE = 0.05
_CARRIES = 0.5
_ABOVE_ITS_DUE = 0.25
_AT_LEAST = timedelta(minutes=30)
_AT_MOST = timedelta(days=1)


def explained(connection: psycopg.Connection, anomaly: Anomaly, until: datetime) -> Anomaly:
    """Return an anomaly with what carries it and its examples.

    What came before is a time as long, right before it, of half an hour to a day. Sums (requests,
    spend) are scaled to the anomaly's length.

    Args:
        until: where an anomaly that goes on is cut.
    """
    metric = METRICS[anomaly.metric]
    end = max(anomaly.end or until, anomaly.start + anomaly.bucket)
    length = min(max(end - anomaly.start, _AT_LEAST), _AT_MOST)
    within = {
        "before": anomaly.start - length,
        "start": anomaly.start,
        "end": end,
        "model": anomaly.model,
    }
    parts = _contributions(connection, metric, within)
    examples = _examples(connection, metric, within, headline(parts))
    return replace(anomaly, contributions=tuple(parts), example_ids=tuple(examples))


def headline(parts: Sequence[Contribution]) -> Contribution | None:
    """The one value that says most: half of the change or more, and far more than is its due.

    What has all requests carries all of the change and says nothing; None where all changed alike.
    """
    telling = [
        part
        for part in parts
        if part.value != "(none)"
        and part.share is not None
        and part.share >= _CARRIES
        and part.share - part.weight >= _ABOVE_ITS_DUE
    ]
    # Of equals, the dimension that was named first: a model before a session.
    return max(telling, key=lambda part: min(part.share or 0.0, 1.0) - part.weight, default=None)


def _contributions(
    connection: psycopg.Connection, metric: Metric, within: dict[str, Any]
) -> list[Contribution]:
    keys = [
        key
        for (key,) in connection.execute(
            "SELECT key FROM public.ai_requests, LATERAL jsonb_object_keys("
            "CASE jsonb_typeof(tags) WHEN 'object' THEN tags ELSE '{}' END) key "
            "WHERE created_at >= %(before)s AND created_at < %(end)s AND status <> 'refused' "
            "AND (%(model)s::text IS NULL OR model = %(model)s) "
            "GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 20",
            within,
        )
    ]
    values = [f"('{name}', {column})" for name, column in COLUMNS.items()]
    values += [f"(%(name{n})s, tags ->> %(key{n})s)" for n in range(len(keys))]
    arguments = dict(within)
    for n, key in enumerate(keys):
        arguments |= {f"name{n}": f"tag {key}", f"key{n}": key}
    chats = "AND (%(model)s::text IS NOT NULL OR kind = 'chat')" if metric.per in _OF_CHATS else ""
    query = (
        "SELECT created_at >= %(start)s, d.dimension, d.value, "  # noqa: S608
        f"{EXPRESSIONS[metric.measure]}, {EXPRESSIONS[metric.per] if metric.per else '0'} "
        f"FROM public.ai_requests CROSS JOIN LATERAL (VALUES {', '.join(values)}) d(dimension, value) "
        "WHERE created_at >= %(before)s AND created_at < %(end)s AND status <> 'refused' "
        f"AND (%(model)s::text IS NULL OR model = %(model)s) {chats} GROUP BY 1, 2, 3"
    )
    scale = 1.0
    if metric.per is None:
        scale = (within["end"] - within["start"]) / (within["start"] - within["before"])
    sides: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {}
    for after, dimension, value, measure, per in connection.execute(query.encode(), arguments):
        rows = sides.setdefault(dimension, ([], []))[after]
        amount = float(measure) * (1.0 if after else scale)
        rows.append({dimension: value, "measure": amount, "per": float(per)})
    found: list[Contribution] = []
    for dimension in [*COLUMNS, *(f"tag {key}" for key in keys)]:
        before, after = sides.get(dimension, ([], []))
        if not any(row[dimension] is not None for row in (*before, *after)):
            continue
        try:
            parts = contributions(
                before, after, [dimension], measure="measure", per="per" if metric.per else None
            )
        except InvalidRequestError:
            continue  # nothing on one side: there is no change to divide
        # Two at least: what carries nothing shows what carries all.
        telling = (p for p in parts[2:] if abs(p.share or 0.0) >= _LEAST_SHARE)
        found += [*parts[:2], *telling][:_OF_A_DIMENSION]
    return found


_OF_CHATS = ("answered", "outputs")


def _examples(
    connection: psycopg.Connection,
    metric: Metric,
    within: dict[str, Any],
    carrier: Contribution | None,
) -> list[UUID]:
    """The requests that show it best; those of the value that carries it first."""
    arguments = dict(within)
    carried = "false"
    if carrier is not None and carrier.dimension in COLUMNS:
        carried, arguments["value"] = f"{COLUMNS[carrier.dimension]} = %(value)s", carrier.value
    elif carrier is not None:
        carried = "tags ->> %(key)s = %(value)s"
        arguments |= {"key": carrier.dimension.removeprefix("tag "), "value": carrier.value}
    query = (
        "SELECT id FROM public.ai_requests "  # noqa: S608
        "WHERE created_at >= %(start)s AND created_at < %(end)s AND status <> 'refused' "
        "AND (%(model)s::text IS NULL OR model = %(model)s) "
        f"ORDER BY coalesce({carried}, false) DESC, {metric.worst}, id DESC LIMIT {EXAMPLES}"
    )
    return [id for (id,) in connection.execute(query.encode(), arguments)]
