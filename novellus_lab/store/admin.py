"""What `novellus db` tells about the database, and how it empties it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from novellus_lab.errors import SchemaVersionError, StoreError
from novellus_lab.store.embedded import DATABASE
from novellus_lab.store.migrate import latest_version, migrate, migrations, schema_version
from novellus_lab.store.spool import SUFFIX

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import LiteralString

    from novellus_lab.store.database import Database
    from novellus_lab.store.embedded import EmbeddedServer

_COUNT_UP_TO = 1_000_000
"""Bigger tables are estimated: counting one row by row can take minutes."""

_TABLES = """
SELECT c.relname, coalesce(sum(greatest(leaf.reltuples, 0)), 0)::bigint
FROM pg_class c
LEFT JOIN LATERAL pg_partition_tree(c.oid) t ON c.relkind = 'p' AND t.isleaf
LEFT JOIN pg_class leaf ON leaf.oid = coalesce(t.relid, c.oid)
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
    AND NOT c.relispartition AND c.relname = ANY(%s)
GROUP BY 1 ORDER BY 1
"""


@dataclass(frozen=True, slots=True)
class TableSize:
    """How many rows a table has."""

    name: str
    rows: int
    exact: bool


@dataclass(frozen=True, slots=True)
class Process:
    """One that holds a lease on the embedded server."""

    pid: int
    command: str


@dataclass(frozen=True, slots=True)
class Status:
    """A database at a glance."""

    home: Path
    where: str
    data: Path | None
    """Directory of the embedded server."""
    server_version: str
    pgvector: str | None
    schema: int
    latest: int
    """The schema version that this package needs."""
    size_bytes: int
    tables: tuple[TableSize, ...]
    connections: int
    """Connections to this database, this one not counted."""
    processes: tuple[Process, ...] | None
    """Who uses the embedded server; None if this system does not tell."""
    spool_bytes: int
    """Log records that are not in the database yet."""


def read_status(database: Database) -> Status:
    """Read what there is to know, changing nothing.

    Raises:
        StoreError: the database does not answer, or not to this user.
    """
    try:
        with psycopg.connect(database.conninfo, autocommit=True) as connection:
            schema = schema_version(connection)
            server = database.server
            vector = connection.execute(
                "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
            ).fetchone()
            return Status(
                home=database.home,
                where=database.where,
                data=None if server is None else server.data,
                server_version=connection.info.parameter_status("server_version") or "",
                pgvector=vector[0] if vector else None,
                schema=schema,
                latest=latest_version(),
                size_bytes=_number(connection, "SELECT pg_database_size(current_database())"),
                tables=_table_sizes(connection),
                connections=_number(
                    connection,
                    "SELECT count(*) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()",
                ),
                processes=None if server is None else lease_holders(server),
                spool_bytes=_waiting(database, connection if schema else None),
            )
    except psycopg.Error as error:
        raise StoreError(f"{database.where} can't be read: {str(error).strip()}") from None


def reset(database: Database) -> None:
    """Delete all that is ours, and make the schema anew. Records in the spool stay, and go in.

    An embedded database is ours wholly. On another server only what the migrations make is deleted:
    the tables beside it belong to somebody else.

    Raises:
        SchemaVersionError: the schema is newer, so that this package does not know its tables.
        StoreError: it can't be done; nothing was deleted.
    """
    try:
        if database.embedded:
            admin = make_conninfo(database.conninfo, dbname="postgres")
            with psycopg.connect(admin, autocommit=True) as connection:
                name = sql.Identifier(DATABASE)
                connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))
                connection.execute(sql.SQL("CREATE DATABASE {}").format(name))
        else:
            with psycopg.connect(database.conninfo) as connection:
                _drop_ours(connection, database.where)
    except psycopg.errors.LockNotAvailable:
        raise StoreError(
            f"{database.where} is busy: others use its tables; close them and try again"
        ) from None
    except psycopg.Error as error:
        raise StoreError(f"{database.where} can't be reset: {str(error).strip()}") from None
    migrate(database.conninfo)


def _drop_ours(connection: psycopg.Connection, where: str) -> None:
    if (have := schema_version(connection)) > latest_version():
        raise SchemaVersionError(
            f"the schema in {where} is version {have}, this novellus_lab knows {latest_version()}: "
            f"upgrade novellus_lab to reset it"
        )
    connection.execute("SET LOCAL lock_timeout = '30s'")
    connection.execute("SET LOCAL client_min_messages = warning")
    for kind in ("TABLE", "FUNCTION"):
        for name in _made(kind):
            statement = "DROP {} IF EXISTS public.{} CASCADE"
            connection.execute(sql.SQL(statement).format(sql.SQL(kind), sql.Identifier(name)))
    # Made when the queue is first used, not by a migration: see novellus_lab.queue.delivery.
    connection.execute("DROP SCHEMA IF EXISTS novellus_queue CASCADE")


def _made(kind: str) -> list[str]:
    """Names of what the migrations create."""
    pattern = re.compile(
        rf"^CREATE (?:OR REPLACE |UNLOGGED )?{kind} (?:IF NOT EXISTS )?(\w+)", re.M
    )
    names = {name for migration in migrations() for name in pattern.findall(migration.sql)}
    return sorted(names | ({"novellus_schema_migrations"} if kind == "TABLE" else set()))


def _table_sizes(connection: psycopg.Connection) -> tuple[TableSize, ...]:
    found = []
    for name, estimate in connection.execute(_TABLES, [_made("TABLE")]).fetchall():
        if estimate > _COUNT_UP_TO:
            found.append(TableSize(name, estimate, exact=False))
            continue
        count = sql.SQL("SELECT count(*) FROM public.{}").format(sql.Identifier(name))
        row = connection.execute(count).fetchone()
        found.append(TableSize(name, row[0] if row else 0, exact=True))
    return tuple(found)


def lease_holders(server: EmbeddedServer) -> tuple[Process, ...] | None:
    """Return the processes that took a lease; None if this system does not tell.

    A forked child holds its parent's, and is not listed.
    """
    try:
        inode = (server.state / "pg.lease").stat().st_ino
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    # The inode alone: overlay and btrfs show another device here than `stat` does.
    pattern = re.compile(rf"FLOCK +ADVISORY +READ +(\d+) +\w+:\w+:{inode} ")
    pids = {int(match[1]) for line in lines if (match := pattern.search(line))}
    return tuple(Process(pid, _command(pid)) for pid in sorted(pids) if pid)


def _command(pid: int) -> str:
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ""
    return raw.replace(b"\0", b" ").decode(errors="replace").strip()


def waiting_bytes(database: Database) -> int:
    """Return how many bytes of log records wait in the spool.

    Raises:
        StoreError: the database does not answer.
    """
    try:
        with psycopg.connect(database.conninfo, autocommit=True, connect_timeout=5) as connection:
            return _waiting(database, connection)
    except psycopg.Error as error:
        raise StoreError(f"{database.where} can't be read: {str(error).strip()}") from None


def _waiting(database: Database, connection: psycopg.Connection | None) -> int:
    """Bytes in the spool beyond what was committed of each segment."""
    committed: Mapping[UUID, int] = {}
    if connection is not None:
        committed = dict(
            connection.execute("SELECT segment, committed_offset FROM ai_log_segments").fetchall()
        )
    waiting = 0
    for file in (database.home / "spool" / database.identity).glob(f"*{SUFFIX}"):
        try:
            size, segment = file.stat().st_size, UUID(file.stem)
            with file.open("rb") as lines:
                header = len(lines.readline())
        except (OSError, ValueError):
            continue
        waiting += max(0, size - committed.get(segment, header))
    return waiting


def _number(connection: psycopg.Connection, query: LiteralString) -> int:
    row = connection.execute(query).fetchone()
    return int(row[0]) if row else 0
