"""`ai_anomalies`: what was found, kept; and who told of it."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from novellus_lab.errors import InvalidRequestError
from novellus_lab.ids import uuid7
from novellus_lab.monitoring.anomaly import (
    Anomaly,
    AnomalyKind,
    DetectorName,
    Evidence,
    Severity,
)
from novellus_lab.monitoring.contributions import Contribution

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    import psycopg

_LOCK = 0x414E4F4D  # "ANOM": one process stores at a time, so that two don't enter the same twice
_RECLAIM = timedelta(minutes=2)
"""So long after it was claimed and not sent, a notice may be sent by somebody else."""

_SAME = """
SELECT id FROM public.ai_anomalies
WHERE model_id IS NOT DISTINCT FROM %(model)s AND metric = %(metric)s
    AND (kind = %(kind)s OR kind IN ('drift', 'unusual') OR %(kind)s IN ('drift', 'unusual'))
    AND started_at <= coalesce(%(end)s::timestamptz, 'infinity') + %(apart)s
    AND coalesce(ended_at, greatest(updated_at, started_at)) >= %(start)s - %(apart)s
ORDER BY acknowledged_at IS NULL, detected_at, id
"""
_INSERT = """
INSERT INTO public.ai_anomalies (id, model_id, kind, metric, severity, score, started_at, ended_at,
    observed, expected, detector, bucket_s, evidence, contributions, example_ids)
VALUES (%(id)s, %(model)s, %(kind)s, %(metric)s, %(severity)s, %(score)s, %(start)s, %(end)s,
    %(observed)s, %(expected)s, %(detector)s, %(bucket_s)s, %(evidence)s, %(contributions)s,
    %(examples)s)
"""
_UPDATE = """
UPDATE public.ai_anomalies SET kind = %(kind)s, severity = %(severity)s, score = %(score)s,
    started_at = %(start)s,
    ended_at = coalesce(%(end)s, CASE WHEN NOT %(current)s THEN ended_at END), observed = %(observed)s, expected = %(expected)s,
    detector = %(detector)s, bucket_s = %(bucket_s)s, evidence = %(evidence)s,
    contributions = %(contributions)s, example_ids = %(examples)s, updated_at = now()
WHERE id = %(id)s
"""


def save(
    connection: psycopg.Connection,
    found: Sequence[Anomaly],
    *,
    scanned: tuple[datetime, datetime],
    metrics: Sequence[str],
    model: str | None,
) -> dict[UUID, Anomaly]:
    """Store anomalies, each once: one that overlaps a stored one of its metric and model is that one.

    What was stored as going on, and was not found again in the time that was scanned, has ended.

    Args:
        scanned: from when to when the log was gone through for these metrics and this model (None:
            every one).

    Returns those that are new, by their ids.
    """
    new: dict[UUID, Anomaly] = {}
    first, last = scanned
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        seen: set[UUID] = set()
        for anomaly in found:
            current = datetime.now(UTC) - last <= 2 * anomaly.bucket
            row = {**_row(anomaly), "current": current}
            same = [id for (id,) in connection.execute(_SAME, row) if id not in seen]
            row["id"] = same[0] if same else uuid7()
            seen.add(row["id"])
            if len(same) > 1:  # it turned out to be one event
                connection.execute("DELETE FROM public.ai_anomalies WHERE id = ANY(%s)", [same[1:]])
            connection.execute(_UPDATE if same else _INSERT, row)
            if not same:
                new[row["id"]] = anomaly
        connection.execute(
            "UPDATE public.ai_anomalies SET ended_at = greatest(updated_at, started_at) "
            "WHERE ended_at IS NULL AND started_at >= %s AND updated_at <= %s AND id <> ALL(%s) "
            "AND metric = ANY(%s) AND (%s::text IS NULL OR model_id = %s)",
            [first, last, list(seen), list(metrics), model, model],
        )
    return new


def load(
    connection: psycopg.Connection,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    model: str | None = None,
    kind: AnomalyKind | None = None,
    severity: Severity | None = None,
    acknowledged: bool | None = None,
    ids: Sequence[UUID] | None = None,
) -> list[Anomaly]:
    """Read anomalies that went on between two times, newest first.

    Args:
        severity: this one and worse.
    """
    severities = [one.value for one in Severity]
    at_least = severities[severities.index(severity) :] if severity else severities
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            "SELECT * FROM public.ai_anomalies WHERE coalesce(ended_at, 'infinity') > %(since)s "
            "AND started_at < %(until)s AND severity = ANY(%(severities)s) "
            "AND (%(model)s::text IS NULL OR model_id = %(model)s) "
            "AND (%(kind)s::text IS NULL OR kind = %(kind)s) "
            "AND (%(acknowledged)s::bool IS NULL OR (acknowledged_at IS NOT NULL) = %(acknowledged)s) "
            "AND (%(ids)s::uuid[] IS NULL OR id = ANY(%(ids)s)) ORDER BY started_at DESC, id DESC",
            {
                "since": since or datetime(1, 1, 2, tzinfo=UTC),
                "until": until or datetime(9999, 1, 1, tzinfo=UTC),
                "severities": at_least,
                "model": model,
                "kind": kind,
                "acknowledged": acknowledged,
                "ids": None if ids is None else list(ids),
            },
        ).fetchall()
    return [_anomaly(row) for row in rows]


def acknowledge(connection: psycopg.Connection, id: UUID, by: str, note: str | None) -> Anomaly:
    """Mark an anomaly as seen; return it.

    Raises:
        InvalidRequestError: there is none with that id.
    """
    connection.execute(
        "UPDATE public.ai_anomalies SET acknowledged_at = now(), acknowledged_by = %s, "
        "note = coalesce(%s, note) WHERE id = %s",
        [by, note, id],
    )
    found = load(connection, ids=[id])
    if not found:
        raise InvalidRequestError(f"there is no anomaly {id}")
    return found[0]


def claim(connection: psycopg.Connection, id: UUID, watcher: str) -> bool:
    """Take it upon oneself to tell of an anomaly; False if another process of that name did.

    Who claimed it two minutes ago and has not sent it is taken to be gone.
    """
    row = connection.execute(
        "INSERT INTO public.ai_anomaly_notices AS n (anomaly_id, watcher) "
        "SELECT id, %s FROM public.ai_anomalies WHERE id = %s "
        "ON CONFLICT (anomaly_id, watcher) DO UPDATE SET claimed_at = now() "
        "WHERE n.sent_at IS NULL AND n.claimed_at < now() - %s RETURNING true",
        [watcher, id, _RECLAIM],
    ).fetchone()
    return row is not None


def sent(connection: psycopg.Connection, id: UUID, watcher: str) -> None:
    """Say that it was told."""
    connection.execute(
        "UPDATE public.ai_anomaly_notices SET sent_at = now() "
        "WHERE anomaly_id = %s AND watcher = %s",
        [id, watcher],
    )


def _row(anomaly: Anomaly) -> dict[str, Any]:
    return {
        "model": anomaly.model,
        "kind": anomaly.kind.value,
        "metric": anomaly.metric,
        "severity": anomaly.severity.value,
        "score": anomaly.score,
        "start": anomaly.start,
        "end": anomaly.end,
        "observed": anomaly.observed,
        "expected": anomaly.expected,
        "detector": anomaly.detector.value,
        "bucket_s": anomaly.bucket.total_seconds(),
        "apart": 2 * anomaly.bucket,
        "evidence": Jsonb(
            [
                {
                    **asdict(one),
                    "start": one.start.isoformat(),
                    "end": one.end and one.end.isoformat(),
                }
                for one in anomaly.evidence
            ]
        ),
        "contributions": Jsonb([asdict(part) for part in anomaly.contributions]),
        "examples": list(anomaly.example_ids),
    }


def _anomaly(row: dict[str, Any]) -> Anomaly:
    def time(value: datetime | str | None) -> datetime | None:
        if value is None:
            return None
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
        return moment.astimezone(UTC)

    return Anomaly(
        id=row["id"],
        model=row["model_id"],
        kind=AnomalyKind(row["kind"]),
        metric=row["metric"],
        severity=Severity(row["severity"]),
        score=row["score"],
        start=row["started_at"].astimezone(UTC),
        end=time(row["ended_at"]),
        observed=row["observed"],
        expected=row["expected"],
        detector=DetectorName(row["detector"]),
        bucket=timedelta(seconds=row["bucket_s"]),
        evidence=tuple(
            Evidence(
                **{
                    **one,
                    "detector": DetectorName(one["detector"]),
                    "start": time(one["start"]),
                    "end": time(one["end"]),
                }
            )
            for one in row["evidence"]
        ),
        contributions=tuple(Contribution(**part) for part in row["contributions"]),
        example_ids=tuple(row["example_ids"]),
        detected_at=time(row["detected_at"]),
        acknowledged_at=time(row["acknowledged_at"]),
        acknowledged_by=row["acknowledged_by"],
        note=row["note"],
    )
