"""The schema, as plain numbered SQL files applied in order, each once."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import psycopg

from novellus_lab.errors import ExtensionMissingError, SchemaVersionError

_LOCK = 0x4E4F5645  # "NOVE": one migration at a time, whoever starts together

_TABLE = """
CREATE TABLE IF NOT EXISTS novellus_schema_migrations (
    version    int PRIMARY KEY,
    name       text NOT NULL,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of `store/migrations`."""

    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.blake2b(self.sql.encode(), digest_size=16).hexdigest()


@cache
def migrations() -> tuple[Migration, ...]:
    """Return the migrations of this package, in order."""
    found = []
    for file in (files("novellus_lab.store") / "migrations").iterdir():
        number, _, name = file.name.removesuffix(".sql").partition("_")
        if file.name.endswith(".sql") and number.isdigit():
            found.append(Migration(int(number), name, file.read_text(encoding="utf-8")))
    return tuple(sorted(found, key=lambda m: m.version))


def latest_version() -> int:
    """Return the version that this package needs."""
    return migrations()[-1].version


def schema_version(connection: psycopg.Connection) -> int:
    """Return the version that a database has; 0 if there is nothing of ours in it."""
    row = connection.execute("SELECT to_regclass('novellus_schema_migrations')").fetchone()
    if row is None or row[0] is None:
        return 0
    row = connection.execute(
        "SELECT coalesce(max(version), 0) FROM novellus_schema_migrations"
    ).fetchone()
    return int(row[0]) if row else 0


def check_schema(connection: psycopg.Connection) -> int:
    """Return how many versions a database is behind.

    Raises:
        SchemaVersionError: it is newer than this package, or an applied migration was changed.
    """
    have = schema_version(connection)
    if have > latest_version():
        raise SchemaVersionError(
            f"the database's schema is version {have}, this novellus_lab knows {latest_version()}: "
            f"upgrade novellus_lab"
        )
    if have:
        ours = {m.version: m for m in migrations()}
        for number, checksum in connection.execute(
            "SELECT version, checksum FROM novellus_schema_migrations"
        ):
            if number in ours and ours[number].checksum != checksum:
                raise SchemaVersionError(
                    f"migration {number:04} ({ours[number].name}) differs from the one that was "
                    f"applied: this database was made by another build of novellus_lab; use that "
                    f"one, or start afresh with `novellus db reset`"
                )
    return latest_version() - have


def migrate(conninfo: str) -> list[str]:
    """Bring a database up to date; return the names of what was applied.

    Processes that start together wait for one another.

    Raises:
        SchemaVersionError: it is newer than this package, or was made by another build.
        ExtensionMissingError: pgvector is not there and can't be created.
    """
    applied = []
    with psycopg.connect(conninfo) as connection:
        connection.execute("SET client_min_messages = warning")
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        _ensure_vector(connection)
        connection.execute(_TABLE)
        check_schema(connection)
        have = schema_version(connection)
        for migration in migrations():
            if migration.version > have:
                connection.execute(migration.sql.encode())
                connection.execute(
                    "INSERT INTO novellus_schema_migrations (version, name, checksum) "
                    "VALUES (%s, %s, %s)",
                    [migration.version, migration.name, migration.checksum],
                )
                applied.append(f"{migration.version:04}_{migration.name}")
    return applied


def _ensure_vector(connection: psycopg.Connection) -> None:
    try:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    except psycopg.errors.InsufficientPrivilege:
        raise ExtensionMissingError(
            f"pgvector is not enabled in database {connection.info.dbname!r} and the user "
            f"{connection.info.user!r} may not enable it: have an administrator run "
            f"CREATE EXTENSION vector"
        ) from None
    except psycopg.Error as error:
        raise ExtensionMissingError(
            f"the server at {connection.info.host}:{connection.info.port} has no pgvector "
            f"({str(error).splitlines()[0]}): install it there (it comes with the image of "
            f"docker/postgres), or leave database_url out to use the embedded server"
        ) from None
