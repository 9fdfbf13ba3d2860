"""From the log to stored anomalies, once over a range."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg

from novellus_lab.errors import SchemaVersionError, StoreUnavailableError
from novellus_lab.monitoring.anomaly_table import save
from novellus_lab.monitoring.causes import explained
from novellus_lab.monitoring.log_buckets import floor, learnt_width, rules_width
from novellus_lab.monitoring.scan import Scan, Watching, prepared, together
from novellus_lab.store.migrate import check_schema

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime, timedelta
    from uuid import UUID

    from novellus_lab.monitoring.anomaly import Anomaly


@contextmanager
def connected(conninfo: str) -> Iterator[psycopg.Connection]:
    """Connect, and say of every failure of the database that it was one.

    Raises:
        StoreUnavailableError: the database does not answer.
    """
    try:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            yield connection
    except psycopg.OperationalError as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise StoreUnavailableError(f"the log can't be read: {reason}") from None


def check_readable(conninfo: str) -> None:
    """Refuse a database of another schema version.

    Raises:
        SchemaVersionError: it is older or newer than this package.
        StoreUnavailableError: the database does not answer.
    """
    with connected(conninfo) as connection:
        if behind := check_schema(connection):
            raise SchemaVersionError(
                f"the schema of this database is {behind} versions old: run `novellus db migrate`"
            )


def plans(
    connection: psycopg.Connection,
    since: datetime,
    until: datetime,
    bucket: timedelta | None,
    asked: Watching,
) -> list[Watching]:
    """Return what to do: with a width that was given all at once, else each at what suits it.

    Rules need enough requests in a bucket, what learns not too many buckets.
    """
    if bucket is not None:
        return [replace(asked, width=bucket)]
    by_rules = rules_width(connection, since, until, asked.model)
    found = [replace(asked, width=by_rules, false_alarms=0.0)]
    if asked.false_alarms:
        found.append(replace(asked, width=learnt_width(until - since), rules=False))
    return found


def detect(
    conninfo: str, asked: Watching, bucket: timedelta | None, since: datetime, until: datetime
) -> list[Watching]:
    """Look for anomalies between two times and store them; return how they were looked for.

    Raises:
        InvalidRequestError: too many buckets.
        StoreUnavailableError: the database does not answer.
    """
    with connected(conninfo) as connection:
        watchings = plans(connection, since, until, bucket, asked)
        scans = [prepared(connection, watching, since, until) for watching in watchings]
        store(connection, scans, watchings, since, until)
    return watchings


def store(
    connection: psycopg.Connection,
    scans: Sequence[Scan],
    watchings: Sequence[Watching],
    since: datetime,
    until: datetime,
) -> dict[UUID, Anomaly]:
    """Explain and store what scans found; return what is new."""
    end = floor(until, min(watching.width for watching in watchings))
    found = [explained(connection, one, end) for one in together(scans, since)]
    first = max(since - watching.learnt_before for watching in watchings)
    return save(
        connection,
        found,
        scanned=(first, end),
        metrics=[metric.name for metric in watchings[0].metrics],
        model=watchings[0].model,
    )
