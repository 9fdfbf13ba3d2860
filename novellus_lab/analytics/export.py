"""`novellus export`: the log as Parquet, a file a day and table. See `exported_files`."""

from __future__ import annotations

import contextlib
import uuid
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from novellus_lab.analytics.exported_files import (
    FILE,
    TABLES,
    USD_DIGITS,
    day_files,
    day_of,
)
from novellus_lab.analytics.postgres_arrow import PostgresArrow, PostgresError
from novellus_lab.analytics.requests import moment
from novellus_lab.errors import (
    InvalidRequestError,
    MissingDependencyError,
    StoreUnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pyarrow as pa

    from novellus_lab.analytics.exported_files import ExportedTable

_DAY = timedelta(days=1)
_GROUP_ROWS, _GROUP_BYTES = 100_000, 1 << 26
"""Of a row group: no more than this is held in memory at a time."""


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export wrote."""

    place: Path
    days: int
    """Days that have rows."""
    requests: int
    attempts: int
    removed: int
    """Files of days that have no rows any more."""

    def __str__(self) -> str:
        return (
            f"{self.requests:,} requests and {self.attempts:,} attempts of {self.days:,} days in "
            f"{self.place}"
            + (f"; {self.removed:,} files of days without rows removed" if self.removed else "")
        )


def export_log(
    conninfo: str,
    to: str | Path,
    *,
    since: str | datetime | timedelta | None,
    until: str | datetime | timedelta | None = None,
    content: bool = True,
    told: Callable[[date], None] | None = None,
) -> ExportReport:
    """Write whole days (UTC) of the log; a day that was exported before is replaced, in one step.

    Requests lie at the day of `created_at`, attempts at that of `started_at`.

    Args:
        to: a directory; it is made.
        since: the first day is the one that this is in; None: the log's first.
        until: the last day is the one that this is in; None: today.
        content: whether messages, responses and tool calls come along.
        told: is called with each day that was written.

    Raises:
        InvalidRequestError: `since` or `until` is no time, or the directory can't be written.
        StoreUnavailableError: the database does not answer. Days that were written are whole.
        MissingDependencyError: Arrow is not installed.
    """
    try:
        import adbc_driver_postgresql  # noqa: F401 - said here, not in the middle
        import pyarrow as pa
    except ImportError as error:
        raise MissingDependencyError(
            f"an export needs {error.name}: pip install 'novellus_lab[analytics]'"
        ) from None
    start, end = moment("since", since), moment("until", until)
    place = Path(to).expanduser()
    postgres = PostgresArrow(conninfo)
    days: set[date] = set()
    rows = {table.directory: 0 for table in TABLES}
    removed = 0
    try:
        for day in _days(postgres, place, start, end):
            # Both tables as of one moment: no request without its attempts.
            postgres.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            try:
                for table in TABLES:
                    written, gone = _write(postgres, place, table, day, content=content)
                    rows[table.directory] += written
                    removed += gone
                    if written:
                        days.add(day)
            finally:
                with contextlib.suppress(PostgresError):
                    postgres.run("COMMIT")
            if told is not None:
                told(day)
    except PostgresError as error:
        reason = (str(error).strip().splitlines() or ["no answer"])[0]
        raise StoreUnavailableError(f"the log can't be read: {reason}") from None
    except (OSError, pa.ArrowException) as error:
        raise InvalidRequestError(f"the export to {place} failed: {error}") from None
    finally:
        postgres.close()
    return ExportReport(place, len(days), rows["requests"], rows["attempts"], removed)


def _days(
    postgres: PostgresArrow, place: Path, start: datetime | None, end: datetime | None
) -> list[date]:
    """Return the days that have rows, or a file of an earlier export."""
    first = None if start is None else start.astimezone(UTC).date()
    last = None if end is None else end.astimezone(UTC).date()
    days: set[date] = set()
    for table in TABLES:
        bounds = [
            f"{table.time} {sign} '{day.isoformat()} 00:00:00+00'"
            for sign, day in ((">=", first), ("<", None if last is None else last + _DAY))
            if day is not None
        ]
        where = f"WHERE {' AND '.join(bounds)}" if bounds else ""
        found = postgres.table(
            f"SELECT DISTINCT ({table.time} AT TIME ZONE 'UTC')::date AS day "  # noqa: S608 - our own
            f"FROM public.{table.name} {where}"
        )
        days.update(found["day"].to_pylist())
        days.update(
            day
            for file in day_files(place, table)
            if (day := day_of(file))
            and (first is None or first <= day)
            and (last is None or day <= last)
        )
    return sorted(days)


def _write(
    postgres: PostgresArrow, place: Path, table: ExportedTable, day: date, *, content: bool
) -> tuple[int, int]:
    """Write a day of a table; return its rows, and how many files of an empty day were removed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    directory = place / table.directory / f"day={day.isoformat()}"
    target = directory / FILE
    names = [name for name in table.columns if content or name not in table.content]
    schema = None
    written = 0
    new = directory / f".{uuid.uuid4().hex}.tmp"
    try:
        with contextlib.ExitStack() as stack:
            writer = None
            reader = stack.enter_context(postgres.reader(_query(table, names, day)))
            for table_part in _groups(reader):
                part = _typed(table_part, table)
                if writer is None:
                    directory.mkdir(parents=True, exist_ok=True)
                    schema = part.schema
                    writer = stack.enter_context(pq.ParquetWriter(new, schema, compression="zstd"))
                writer.write_table(part.cast(schema))
                written += part.num_rows
        if written:
            new.replace(target)
            return written, 0
    except OSError as error:
        if isinstance(error, pa.ArrowException) or error.filename is None:
            raise PostgresError(str(error)) from None
        raise
    finally:
        new.unlink(missing_ok=True)
    if target.exists():
        target.unlink()
        with contextlib.suppress(OSError):
            directory.rmdir()
        return 0, 1
    return 0, 0


def _query(table: ExportedTable, names: list[str], day: date) -> str:
    columns = [
        f"{name}::text AS {name}" if name in table.texts or name in table.money else name
        for name in names
    ]
    low, high = (f"{d.isoformat()} 00:00:00+00" for d in (day, day + _DAY))
    return (
        f"SELECT {', '.join(columns)} FROM public.{table.name} "  # noqa: S608 - our own names, and a day
        f"WHERE {table.time} >= '{low}' AND {table.time} < '{high}' ORDER BY {table.time}, id"
    )


def _groups(reader: pa.RecordBatchReader) -> Iterator[pa.Table]:
    import pyarrow as pa

    batches: list[pa.RecordBatch] = []
    rows = held = 0
    for batch in reader:
        if batch.num_rows == 0:
            continue
        batches.append(batch)
        rows += batch.num_rows
        held += batch.nbytes
        if rows >= _GROUP_ROWS or held >= _GROUP_BYTES:
            yield pa.Table.from_batches(batches)
            batches, rows, held = [], 0, 0
    if batches:
        yield pa.Table.from_batches(batches)


def _typed(rows: pa.Table, table: ExportedTable) -> pa.Table:
    """Make decimals of amounts; what does not fit goes to `…_wide`, as text."""
    import pyarrow as pa

    kind = pa.decimal128(38, USD_DIGITS)
    for name in table.money:
        at = rows.schema.get_field_index(name)
        exact, wide = _amounts(rows.column(name).to_pylist())
        rows = rows.set_column(at, name, pa.array(exact, kind))
        rows = rows.append_column(f"{name}_wide", pa.array(wide, pa.string()))
    return rows


def _amounts(texts: list[str | None]) -> tuple[list[Any], list[str | None]]:
    from decimal import Decimal

    exact: list[Any] = []
    wide: list[str | None] = []
    for text in texts:
        whole, _, fraction = (text or "").lstrip("-").partition(".")
        fits = len(whole) <= 38 - USD_DIGITS and len(fraction.rstrip("0")) <= USD_DIGITS
        fits = fits and text != "NaN" and "Inf" not in whole
        if text is None or not fits:
            exact.append(None)
            wide.append(text)
        else:
            cut = f"{whole}.{fraction[:USD_DIGITS]}" if fraction else whole
            exact.append(Decimal(f"-{cut}" if text.startswith("-") else cut))
            wide.append(None)
    return exact, wide
