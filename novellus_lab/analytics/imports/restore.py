"""What `novellus export` wrote, back into the log: every row as it was, once."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from novellus_lab.analytics.exported_files import TABLES, day_files
from novellus_lab.analytics.imports.call_writer import analyze, ensure_month
from novellus_lab.analytics.imports.report import ModelCalls
from novellus_lab.errors import InvalidRequestError, MissingDependencyError, StoreUnavailableError
from novellus_lab.store.database import cause
from novellus_lab.store.storable import storable_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from novellus_lab.analytics.exported_files import ExportedTable
    from novellus_lab.analytics.imports.report import ImportReport

_BATCH = 5_000


def is_export(path: str | Path) -> bool:
    """Whether a directory is one that `novellus export` filled."""
    return any(day_files(Path(path).expanduser(), table) for table in TABLES)


def restore(
    path: str | Path,
    conninfo: str | None,
    report: ImportReport,
    told: Callable[[int], None] | None = None,
) -> None:
    """Copy an export's rows in; add what was done to a report.

    Args:
        conninfo: None: only look.

    Raises:
        InvalidRequestError: a file is damaged, or has columns that this version does not know.
        StoreUnavailableError: the database does not answer.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingDependencyError(
            f"reading Parquet needs {error.name}: pip install 'novellus_lab[analytics]'"
        ) from None
    place = Path(path).expanduser()
    connection = None
    try:
        if conninfo is not None:
            connection = psycopg.connect(conninfo, autocommit=True)
            report.new = report.new or 0
        for table in TABLES:
            for file in day_files(place, table):
                report.files[str(file)] = "parquet"
                with pq.ParquetFile(file) as parquet:
                    names = _columns(file, table, parquet.schema_arrow.names)
                    for batch in parquet.iter_batches(_BATCH):
                        rows = batch.to_pylist()
                        if table.name == "ai_requests":
                            _count(report, rows)
                        if connection is not None:
                            new = _write(connection, table, names, rows)
                            if table.name == "ai_requests":
                                report.new = (report.new or 0) + new
                        if told is not None:
                            told(report.rows)
        if connection is not None and (report.new or 0) > 50_000:
            analyze(connection, [table.name for table in TABLES])
    except psycopg.Error as error:
        raise StoreUnavailableError(
            f"the import stopped: {cause(error)}. Import again when the database is back: no row goes "
            f"in twice"
        ) from None
    except (pa.ArrowException, OSError) as error:
        raise InvalidRequestError(f"{path} can't be read: {error}") from None
    finally:
        if connection is not None:
            connection.close()


def _columns(file: Path, table: ExportedTable, names: list[str]) -> list[str]:
    ours = set(table.columns)
    wide = {f"{name}_wide" for name in table.money}
    unknown = [name for name in names if name not in ours | wide and name != "day"]
    if unknown:
        raise InvalidRequestError(
            f"{file} has columns that this novellus_lab does not know: {', '.join(unknown)}. It is of "
            f"a newer version, or no export of ours"
        )
    for needed in ("id", table.time):
        if needed not in names:
            raise InvalidRequestError(f"{file} has no column {needed}: it is no export of ours")
    return [name for name in table.columns if name in names]


def _write(
    connection: psycopg.Connection[Any],
    table: ExportedTable,
    names: list[str],
    rows: list[dict[str, Any]],
) -> int:
    columns = ", ".join(names)
    for month in {
        (row[table.time].year, row[table.time].month): row[table.time] for row in rows
    }.values():
        ensure_month(connection, month)
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute(
            f"CREATE TEMP TABLE restored ON COMMIT DROP AS SELECT {columns} FROM public.{table.name} "  # noqa: S608
            f"WITH NO DATA".encode()
        )
        with cursor.copy(f"COPY pg_temp.restored ({columns}) FROM STDIN".encode()) as copy:
            for row in rows:
                copy.write_row([_value(row, name) for name in names])
        return cursor.execute(
            f"INSERT INTO public.{table.name} ({columns}) SELECT {columns} FROM pg_temp.restored "  # noqa: S608
            f"ON CONFLICT DO NOTHING".encode()
        ).rowcount


def _value(row: dict[str, Any], name: str) -> Any:
    value = row[name]
    if value is None and row.get(f"{name}_wide") is not None:
        return Decimal(row[f"{name}_wide"])
    if isinstance(value, Decimal):
        # The file has as many digits for all; what was written has as many as it needs.
        return f"{value.normalize():f}"
    return storable_text(value) if isinstance(value, str) else value


def _count(report: ImportReport, rows: list[dict[str, Any]]) -> None:
    report.rows += len(rows)
    report.calls += len(rows)
    for row in rows:
        moment = row["created_at"]
        report.first = moment if report.first is None else min(report.first, moment)
        report.last = moment if report.last is None else max(report.last, moment)
        counted = report.models.setdefault(row.get("model") or "unknown", ModelCalls())
        counted.calls += 1
        cost = row.get("cost_usd")
        if cost is None and row.get("cost_usd_wide") is None:
            counted.unpriced += 1
        else:
            counted.cost_usd += Decimal(row.get("cost_usd_wide") or 0) if cost is None else cost
