"""The schema, as plain numbered SQL files applied in order, each once.

All of it lives in the schema `public`, whatever the search path of the user who migrates.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import psycopg

from novellus_lab.errors import (
    ExtensionMissingError,
    SchemaVersionError,
    StoreError,
    StoreUnavailableError,
)

_LOCK = 0x4E4F5645  # "NOVE": one migration at a time, whoever starts together

_TABLE = """
CREATE TABLE IF NOT EXISTS public.novellus_schema_migrations (
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

    def __str__(self) -> str:
        return f"{self.version:04}_{self.name}"

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
    row = connection.execute("SELECT to_regclass('public.novellus_schema_migrations')").fetchone()
    if row is None or row[0] is None:
        return 0
    row = connection.execute(
        "SELECT coalesce(max(version), 0) FROM public.novellus_schema_migrations"
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
            f"the schema in {_place(connection)} is version {have}, this novellus_lab knows "
            f"{latest_version()}: upgrade novellus_lab"
        )
    if have:
        ours = {m.version: m for m in migrations()}
        for number, checksum in connection.execute(
            "SELECT version, checksum FROM public.novellus_schema_migrations"
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

    Processes that start together wait for one another. Each migration is one transaction, with the
    row that says so: what fails leaves the database at the version before it.

    Raises:
        StoreUnavailableError: it can't be reached, or is read-only.
        SchemaVersionError: it is newer than this package, was made by another build, or has to be
            migrated by a user with more rights.
        ExtensionMissingError: pgvector is not there and can't be created.
        StoreError: a migration failed.
    """
    applied = []
    place = "the database"
    try:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            place = _place(connection)
            connection.execute("SET client_min_messages = warning")
            while name := _apply_next(connection):
                applied.append(name)
            connection.execute("SELECT public.novellus_ensure_partitions()")
    except psycopg.errors.ReadOnlySqlTransaction:
        raise StoreUnavailableError(
            f"{place} is read-only (a standby?), and its schema has to be migrated: "
            f"give the primary's URL"
        ) from None
    except psycopg.OperationalError as error:
        raise StoreUnavailableError(
            f"{place} went away during the migration: {_first_line(error)}"
        ) from None
    return applied


def _apply_next(connection: psycopg.Connection) -> str | None:
    """Apply the next migration and return its name; None if there is none."""
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        # First ours, then theirs: pgvector may live in a schema of its own.
        connection.execute(
            "SELECT set_config('search_path', 'public, ' || current_setting('search_path'), true)"
        )
        if not check_schema(connection):
            return None
        have = schema_version(connection)
        following = next(m for m in migrations() if m.version > have)
        if not have:
            _ensure_vector(connection)
        try:
            connection.execute(_TABLE)
            connection.execute(following.sql.encode())
            connection.execute(
                "INSERT INTO public.novellus_schema_migrations (version, name, checksum) "
                "VALUES (%s, %s, %s)",
                [following.version, following.name, following.checksum],
            )
        except psycopg.errors.InsufficientPrivilege as error:
            raise SchemaVersionError(
                f"the user {connection.info.user!r} may not migrate {_place(connection)} "
                f"({_first_line(error)}): have the owner of the database run `novellus db migrate`"
            ) from None
        except (psycopg.errors.ReadOnlySqlTransaction, psycopg.OperationalError):
            raise
        except psycopg.Error as error:
            raise StoreError(
                f"migration {following} failed on {_place(connection)}: {_first_line(error)}. "
                f"Nothing of it was applied"
            ) from None
    return str(following)


def _ensure_vector(connection: psycopg.Connection) -> None:
    try:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    except psycopg.errors.InsufficientPrivilege:
        raise ExtensionMissingError(
            f"pgvector is not enabled in {_place(connection)} and the user "
            f"{connection.info.user!r} may not enable it: have an administrator run "
            f"CREATE EXTENSION vector"
        ) from None
    except (psycopg.errors.FeatureNotSupported, psycopg.errors.UndefinedFile) as error:
        raise ExtensionMissingError(
            f"the server of {_place(connection)} has no pgvector ({_first_line(error)}): install it "
            f"there (it comes with the image of docker/postgres), or leave database_url out to use "
            f"the embedded server"
        ) from None


def _place(connection: psycopg.Connection) -> str:
    info = connection.info
    return f"{info.host}:{info.port}/{info.dbname}"


def _first_line(error: psycopg.Error) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
