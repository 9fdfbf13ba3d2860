"""A columnar copy of the log's narrow columns, in Parquet files that only grow at their end.

PostgreSQL keeps rows; a question about a million of them wants columns. The first question about a
month copies it, each later one reads only the rows that were written since, however late or out of order
they came: a row carries the transaction that wrote it, and all transactions below a snapshot's
xmin have ended, so that nobody who goes on from there misses one. What is at or above it (mostly
nothing) is read anew each time and never kept.

Files are never changed, and a manifest that is replaced as a whole names those that count: any number of
processes read while one writes. A partition that was dropped, emptied, or had rows changed or deleted is
copied again. The directory can be removed at any time.
"""

from __future__ import annotations

# ruff: noqa: S608 - names of tables and columns are our own or come from the catalogue, quoted by it
import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import threading
import time
import uuid
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from novellus_lab.analytics.log_columns import ATTEMPTS, REQUESTS, LogTable
from novellus_lab.analytics.postgres_arrow import PostgresArrow, PostgresError, PostgresRows
from novellus_lab.errors import (
    HomeNotWritableError,
    MissingDependencyError,
    StoreUnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    import pyarrow as pa
    from duckdb import DuckDBPyConnection

T = TypeVar("T")

logger = logging.getLogger("novellus_lab.analytics")

_FORMAT = hashlib.blake2b(
    repr([(t.read, t.kept) for t in (REQUESTS, ATTEMPTS)]).encode(), digest_size=8
).hexdigest()
"""Files of other columns are of no use."""
_KEEP_ROWS = 5_000
"""So many new rows become a file; fewer are read again by the next question, in milliseconds."""
_MEMORY_ROWS = 50_000
"""More than this is streamed to a file and never held."""
_FULL_ROWS = 4_000_000
_RETIRED_S = 3600.0
"""How long a file that no longer counts may still be read by whoever began before."""
_MEMORY_LIMIT = "1GB"

_BOUND = re.compile(r"FROM \((.+?)\) TO \((.+?)\)")
_LOOK = """
SELECT c.oid::bigint, c.oid::regclass::text, pg_get_expr(c.relpartbound, c.oid),
    pg_relation_filenode(c.oid)::bigint,
    pg_stat_get_tuples_updated(c.oid) + pg_stat_get_tuples_deleted(c.oid)
FROM pg_partition_tree('public.{table}'::regclass) AS t JOIN pg_class AS c ON c.oid = t.relid
WHERE t.isleaf
"""
_WHERE = """
SELECT (pg_control_system()).system_identifier::text || '/' || d.oid::text || '/'
        || 'public.ai_requests'::regclass::oid::text,
    pg_snapshot_xmin(pg_current_snapshot())::text::bigint,
    pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
    ARRAY(SELECT attrelid::regclass::text || '.' || attname FROM pg_attribute
          WHERE attrelid IN ('public.ai_requests'::regclass, 'public.ai_request_attempts'::regclass)
          AND attname = 'written_in')::text
FROM pg_database AS d WHERE datname = current_database()
"""

_COLUMNS = """
SELECT a.attname::text AS name, t.typname::text AS type FROM pg_attribute AS a
JOIN pg_type AS t ON t.oid = a.atttypid
WHERE a.attrelid = to_regclass('public.{table}') AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum
"""


@dataclass(frozen=True, slots=True)
class _Partition:
    """A partition as PostgreSQL has it now."""

    oid: str
    name: str
    low: datetime | None
    high: datetime | None
    filenode: int
    changes: int
    """Rows updated and deleted, ever."""

    def overlaps(self, since: datetime | None, until: datetime | None) -> bool:
        if since is not None and self.high is not None and self.high <= since:
            return False
        return until is None or self.low is None or self.low < until


@dataclass(slots=True)
class _Copy:
    """A partition as far as it was copied."""

    table: str
    filenode: int
    changes: int
    watermark: int
    """Rows of transactions below it are in the files."""
    stamped: bool
    """Whether the rows told their transactions themselves: a column that comes later tells its own."""
    files: list[tuple[str, int]] = field(default_factory=list)
    """Names and numbers of rows."""


@dataclass(slots=True)
class _Manifest:
    database: str
    copies: dict[str, _Copy] = field(default_factory=dict)
    retired: list[tuple[str, float]] = field(default_factory=list)
    format: str = _FORMAT


@dataclass(frozen=True, slots=True)
class _Look:
    database: str
    settled: int
    """Transactions below it have ended."""
    newest: int
    stamped: bool
    partitions: tuple[_Partition, ...]


@dataclass(frozen=True, slots=True)
class LogRows:
    """The rows of one table, as of the moment when they were asked for."""

    table: LogTable
    files: tuple[str, ...]
    tail: pa.Table
    """What is in no file yet, as PostgreSQL sent it."""

    def attach(self, connection: DuckDBPyConnection, name: str) -> None:
        """Make the rows a view of a connection. Amounts have a second column; see `log_columns`."""
        connection.register(f"{name}_tail", self.tail)
        parts = [f"SELECT {self.table.kept} FROM {name}_tail"]
        if self.files:
            names = ", ".join("'" + path.replace("'", "''") + "'" for path in self.files)
            parts.append(f"SELECT * FROM read_parquet([{names}])")
        connection.execute(
            f"CREATE OR REPLACE TEMP VIEW {name} AS {' UNION ALL BY NAME '.join(parts)}"
        )


class LogMirror:
    """The copy of one database's log, for one process. Threads may share it.

    Args:
        conninfo: the database.
        directory: of this database's copy alone; made with mode 700.

    Raises:
        MissingDependencyError: DuckDB, Arrow or the driver between them is not installed.
    """

    def __init__(self, conninfo: str, directory: Path) -> None:
        try:
            import adbc_driver_postgresql  # noqa: F401 - said here, not in the middle
            import duckdb
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise MissingDependencyError(
                f"analytics needs {error.name}: pip install 'novellus_lab[analytics]'"
            ) from None
        self._duckdb = duckdb
        self._conninfo = conninfo
        self._postgres = PostgresArrow(conninfo)
        self._directory = directory
        self._lock = threading.RLock()
        self._engine: DuckDBPyConnection | None = None
        self.pid = os.getpid()

    def connection(self) -> DuckDBPyConnection:
        """Return a connection of one's own to DuckDB, in memory; large sorts spill into the home."""
        with self._lock:
            if self._engine is None:
                self._make_directory()
                self._engine = self._duckdb.connect(
                    config={
                        "memory_limit": _MEMORY_LIMIT,
                        "temp_directory": str(self._directory / f"spill-{os.getpid()}"),
                        "autoinstall_known_extensions": "false",
                        "python_enable_replacements": "false",
                        "TimeZone": "UTC",
                    }
                )
            return self._engine.cursor()

    def rows(
        self, table: LogTable, since: datetime | None = None, until: datetime | None = None
    ) -> LogRows:
        """Return the rows of a table, at least all those of a window of time.

        Raises:
            StoreUnavailableError: the database does not answer.
            HomeNotWritableError: the copy can't be kept.
        """
        try:
            return self._guarded(lambda: self._rows(table, since, until))
        except OSError as error:
            raise HomeNotWritableError(
                f"{self._directory} can't be used for the log's columns "
                f"({error.strerror or error}): give Lab(home=…) a directory that can be written"
            ) from None

    def columns(self, table: str) -> dict[str, str]:
        """Return the columns of any table and their types; none if there is no such table."""
        return dict(
            _rows_of(self._guarded(lambda: self._postgres.table(_COLUMNS.format(table=table))))
        )

    def stream(self, query: str) -> PostgresRows:
        """Return what Arrow reads as a table, asking PostgreSQL each time anew."""
        return PostgresRows(self._conninfo, query)

    def batches(self, query: str) -> Iterator[pa.RecordBatch]:
        """Read a query of any size, a batch at a time.

        Raises:
            StoreUnavailableError: the database does not answer, or not to the end.
        """
        connection = PostgresArrow(self._conninfo)
        try:
            with connection.reader(query) as reader:
                yield from reader
        except (PostgresError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise StoreUnavailableError(f"the log can't be read: {reason}") from None
        finally:
            connection.close()

    def forget(self) -> None:
        """Copy everything again with the next question."""
        with self._lock, self._alone():
            manifest = self._load(None)
            for oid in list(manifest.copies):
                self._retire(manifest, oid)
            self._save(manifest)

    def close(self) -> None:
        """Let the connections go; the files stay."""
        with self._lock:
            self._postgres.close()
            if self._engine is not None:
                self._engine.close()
                self._engine = None

    # --- reading -----------------------------------------------------------------------------

    def _rows(self, table: LogTable, since: datetime | None, until: datetime | None) -> LogRows:
        look = self._look(table)
        wanted = [p for p in look.partitions if p.overlaps(since, until)]
        manifest = self._load(look.database)
        if any(not _valid(manifest, p, look) for p in wanted):
            manifest = self._copy(table, look, wanted)
        tail = self._tail(table, look, wanted, manifest, _MEMORY_ROWS)
        if tail.num_rows >= _MEMORY_ROWS:
            manifest = self._copy(table, look, wanted)
            tail = self._tail(table, look, wanted, manifest, None)
        rows = LogRows(
            table,
            tuple(
                str(self._directory / name)
                for partition in wanted
                if partition.oid in manifest.copies
                for name, _ in manifest.copies[partition.oid].files
            ),
            tail,
        )
        if tail.num_rows >= _KEEP_ROWS:
            self._keep(table, look, wanted, manifest, tail)
        return rows

    def _look(self, table: LogTable) -> _Look:
        # Counters first: a change that the snapshot below does not see yet is seen next time.
        found = self._postgres.table(_LOOK.format(table=table.name))
        partitions = [_partition(*row) for row in _rows_of(found)]
        [(database, settled, newest, stamped)] = _rows_of(self._postgres.table(_WHERE))
        has_stamp = f"{table.name}.{table.stamp}" in stamped
        return _Look(database, settled, newest, has_stamp, tuple(partitions))

    def _tail(
        self,
        table: LogTable,
        look: _Look,
        wanted: Iterable[_Partition],
        manifest: _Manifest,
        limit: int | None,
    ) -> pa.Table:
        """Read what is in no file, with the partition of each row and whether it may be kept."""
        stamp = _stamp(table, look)
        parts = [
            f"SELECT {partition.oid}::bigint AS part_, {stamp} < '{look.settled}'::xid8 AS settled_, "
            f"{table.read} FROM ONLY {partition.name} "
            f"WHERE {stamp} >= '{manifest.copies[partition.oid].watermark}'::xid8"
            for partition in wanted
            if partition.oid in manifest.copies
        ]
        if not parts:
            parts = [
                f"SELECT 0::bigint AS part_, false AS settled_, {table.read} "
                f"FROM public.{table.name} WHERE false"
            ]
        query = " UNION ALL ".join(parts)
        # New rows are few, and the planner can't know it: its statistics are of the past.
        self._postgres.run(f"SET enable_seqscan = {'off' if look.stamped else 'on'}")
        try:
            return self._postgres.table(query if limit is None else f"{query} LIMIT {limit}")
        finally:
            self._postgres.run("SET enable_seqscan = on")

    # --- copying -----------------------------------------------------------------------------

    def _copy(self, table: LogTable, look: _Look, wanted: Iterable[_Partition]) -> _Manifest:
        """Bring the files of some partitions up to now, streaming."""
        with self._alone():
            manifest = self._load(look.database)
            for partition in wanted:
                if not _valid(manifest, partition, look):
                    self._retire(manifest, partition.oid)
                copy = manifest.copies.get(partition.oid)
                if copy is not None and copy.watermark >= look.settled:
                    continue
                stamp = _stamp(table, look)
                where = f"{stamp} < '{look.settled}'::xid8"
                if copy is None:
                    copy = _Copy(table.name, partition.filenode, partition.changes, 0, look.stamped)
                    manifest.copies[partition.oid] = copy
                else:
                    where += f" AND {stamp} >= '{copy.watermark}'::xid8"
                query = f"SELECT {table.read} FROM ONLY {partition.name} WHERE {where}"
                began = time.monotonic()
                with self._postgres.reader(query) as reader:
                    rows = self._write(copy, table, "arriving", reader)
                copy.watermark = look.settled
                if rows >= _MEMORY_ROWS:
                    taken = time.monotonic() - began
                    logger.info("copied %d rows of %s in %.1f s", rows, partition.name, taken)
                self._save(manifest)
            self._sweep(manifest, table, look)
            self._save(manifest)
            return manifest

    def _keep(
        self,
        table: LogTable,
        look: _Look,
        wanted: Iterable[_Partition],
        seen: _Manifest,
        tail: pa.Table,
    ) -> None:
        """Make a file of new rows, unless somebody else is at it or did it already."""
        import pyarrow.compute as pc

        with self._alone(wait=False) as alone:
            if not alone:
                return
            manifest = self._load(look.database)
            for partition in wanted:
                copy, before = manifest.copies.get(partition.oid), seen.copies.get(partition.oid)
                if copy is None or before is None or copy != before:
                    continue
                mine = pc.and_(pc.equal(tail["part_"], int(partition.oid)), tail["settled_"])
                new = tail.filter(mine)
                if new.num_rows:
                    small: list[tuple[str, int]] = []
                    total = new.num_rows
                    for name, rows in sorted(copy.files, key=lambda file: file[1]):
                        # Each file at least twice as big as all smaller ones: few files, and each row
                        # is written again only a few times.
                        if rows > 2 * total or total + rows > _FULL_ROWS:
                            break
                        small.append((name, rows))
                        total += rows
                    copy.files = [file for file in copy.files if file not in small]
                    self._write(copy, table, "arriving", new, [name for name, _ in small])
                    manifest.retired += [(name, time.time()) for name, _ in small]
                copy.watermark = max(copy.watermark, look.settled)
            self._sweep(manifest, table, look)
            self._save(manifest)

    def _write(
        self, copy: _Copy, table: LogTable, name: str, rows: Any, others: Iterable[str] = ()
    ) -> int:
        """Write rows as PostgreSQL sent them, and whole other files, to one new file."""
        file = f"{table.name}-{uuid.uuid4().hex}.parquet"
        path = self._directory / file
        query = f"SELECT {table.kept} FROM {name}"
        names = ", ".join("'" + str(self._directory / o).replace("'", "''") + "'" for o in others)
        if names:
            query = f"SELECT * FROM read_parquet([{names}]) UNION ALL BY NAME {query}"
        target = str(path).replace("'", "''")
        with self.connection() as engine:
            engine.register(name, rows)
            try:
                copied = engine.execute(
                    f"COPY ({query}) TO '{target}' (FORMAT parquet, COMPRESSION zstd)"
                ).fetchall()
            except self._duckdb.Error as error:
                path.unlink(missing_ok=True)
                reason = str(error).strip().splitlines()[0]
                raise StoreUnavailableError(f"the log can't be copied: {reason}") from None
        count = int(copied[0][0])
        if count:
            copy.files.append((file, count))
        else:
            path.unlink(missing_ok=True)
        return count

    # --- files -------------------------------------------------------------------------------

    def _make_directory(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    @contextlib.contextmanager
    def _alone(self, *, wait: bool = True) -> Iterator[bool]:
        """Hold the right to write. Yield whether we have it."""
        self._make_directory()
        with (self._directory / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            yield True

    def _load(self, database: str | None) -> _Manifest:
        """Read the manifest; an empty one if it is another database's, or can't be read."""
        with contextlib.suppress(FileNotFoundError, ValueError, TypeError, KeyError):
            read = json.loads((self._directory / "manifest.json").read_bytes())
            if read["format"] == _FORMAT and database in (None, read["database"]):
                copies = {
                    oid: _Copy(**{**copy, "files": [(n, r) for n, r in copy["files"]]})
                    for oid, copy in read["copies"].items()
                    if all((self._directory / name).exists() for name, _ in copy["files"])
                }
                retired = [(name, when) for name, when in read["retired"]]
                return _Manifest(read["database"], copies, retired)
        return _Manifest(database or "")

    def _save(self, manifest: _Manifest) -> None:
        path = self._directory / "manifest.json"
        new = path.with_suffix(".new")
        new.write_text(json.dumps(asdict(manifest)))
        new.replace(path)

    def _retire(self, manifest: _Manifest, oid: str) -> None:
        copy = manifest.copies.pop(oid, None)
        if copy is not None:
            manifest.retired += [(name, time.time()) for name, _ in copy.files]

    def _sweep(self, manifest: _Manifest, table: LogTable, look: _Look) -> None:
        """Remove what nobody can be reading any more."""
        there = {partition.oid for partition in look.partitions}
        for oid, copy in list(manifest.copies.items()):
            if copy.table == table.name and oid not in there:
                self._retire(manifest, oid)
        old = time.time() - _RETIRED_S
        gone = {name for name, when in manifest.retired if when < old}
        manifest.retired = [(name, when) for name, when in manifest.retired if name not in gone]
        known = {name for copy in manifest.copies.values() for name, _ in copy.files}
        known |= {name for name, _ in manifest.retired}
        for path in self._directory.glob("*.parquet"):
            # Left by whoever was killed at it, or of an earlier database.
            if path.name in gone or (path.name not in known and path.stat().st_mtime < old):
                path.unlink(missing_ok=True)

    # --- PostgreSQL --------------------------------------------------------------------------

    def _guarded(self, ask: Callable[[], T]) -> T:
        with self._lock:
            try:
                try:
                    return ask()
                except PostgresError:
                    if not self._postgres.is_open:
                        raise
                    # The server was restarted since, or a partition went as we looked at it.
                    self._postgres.close()
                    return ask()
            except PostgresError as error:
                self._postgres.close()
                reason = str(error).strip().splitlines()[0]
                raise StoreUnavailableError(f"the log can't be read: {reason}") from None


def _valid(manifest: _Manifest, partition: _Partition, look: _Look) -> bool:
    """Whether a partition's files hold what it held when they were written."""
    copy = manifest.copies.get(partition.oid)
    return (
        copy is not None
        and (copy.filenode, copy.changes) == (partition.filenode, partition.changes)
        and copy.watermark <= look.newest
        and copy.stamped == look.stamped
    )


def _stamp(table: LogTable, look: _Look) -> str:
    """The transaction that wrote a row, as SQL."""
    if look.stamped:
        return table.stamp
    # xmin has 32 bits: of all transactions that it may be, the one nearest to now.
    nearest = look.newest + 2**31
    return f"({nearest} - (({nearest} - xmin::text::bigint) & 4294967295))::text::xid8"


def _partition(oid: int, name: str, bound: str | None, filenode: int, changes: int) -> _Partition:
    found = _BOUND.search(bound or "")
    low, high = (_bound(found[1]), _bound(found[2])) if found else (None, None)
    return _Partition(str(oid), name, low, high, filenode, changes)


def _bound(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text.strip("'"))
    except ValueError:  # MINVALUE, MAXVALUE
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _rows_of(table: pa.Table) -> list[tuple[Any, ...]]:
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))
