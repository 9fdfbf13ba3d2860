"""Where the log and the shared cache live: an embedded server, or one given by URL."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from novellus_lab.errors import (
    ConfigurationError,
    HomeNotWritableError,
    SchemaVersionError,
    StoreError,
    StoreUnavailableError,
)
from novellus_lab.store.embedded import EmbeddedServer, start_embedded
from novellus_lab.store.migrate import check_schema, migrate

_CONNECT_TIMEOUT_S = 10
# A server that vanishes in the middle of a session says nothing: without these, minutes pass.
_NOTICE_SILENCE = {
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}


@dataclass(frozen=True)
class Database:
    """A database that was reached, checked and migrated."""

    conninfo: str = field(repr=False)
    """For libpq. May hold a password: never shown."""
    identity: str
    """Names the database without its password; the spool keeps records for each apart."""
    where: str
    """For people: `host:port/name`, or the embedded server's directory."""
    embedded: bool
    home: Path
    server: EmbeddedServer | None = field(default=None, repr=False)

    def close(self) -> None:
        """Leave the embedded server; the last to leave stops it. Idempotent."""
        if self.server is not None:
            self.server.leave()

    def revive(self) -> bool:
        """Start the embedded server again if it was killed; return whether it had to be started.

        A server that was given by URL is not ours to start.

        Raises:
            StoreUnavailableError: it does not start.
        """
        return self.server is not None and self.server.revive()


def find_home(home: str | Path | None = None) -> Path:
    """Return where the home directory is, or would be."""
    return Path(home or os.environ.get("NOVELLUS_HOME") or ".novellus").expanduser().absolute()


def resolve_home(home: str | Path | None = None) -> Path:
    """Return the home directory, made if need be with mode 700.

    Args:
        home: default `$NOVELLUS_HOME`, else `./.novellus`.

    Raises:
        HomeNotWritableError
    """
    path = find_home(home)
    try:
        if not path.exists():
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = path / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise HomeNotWritableError(
            f"{path} can't be used as home ({error.strerror or error}): give Lab(home=…) or "
            f"$NOVELLUS_HOME a directory that can be written"
        ) from None
    return path


def open_database(home: Path, database_url: str | None, *, may_migrate: bool = True) -> Database:
    """Reach the database and bring its schema up to date.

    Args:
        home: from `resolve_home`.
        database_url: a PostgreSQL URL (or libpq key=value string); None starts the embedded server.
        may_migrate: otherwise an older schema is an error.

    Raises:
        StoreUnavailableError: it can't be started or reached, or not by this user.
        StoreError: its encoding is not UTF8.
        ExtensionMissingError: it lacks pgvector.
        SchemaVersionError: its schema is newer, or older and may not be migrated.
    """
    database = reach_database(home, database_url)
    try:
        with _connect(database) as connection:
            _refuse_other_encodings(connection, database)
            behind = check_schema(connection)
        if behind and not may_migrate:
            raise SchemaVersionError(
                f"the schema in {database.where} is {behind} versions old: run `novellus db migrate`"
            )
        if behind:
            migrate(database.conninfo)
    except psycopg.Error as error:
        database.close()
        raise StoreUnavailableError(
            f"PostgreSQL at {database.where} can't be used: {cause(error)}"
        ) from None
    except BaseException:
        database.close()
        raise
    return database


def reach_database(home: Path, database_url: str | None) -> Database:
    """Reach the database, whatever its schema.

    Raises:
        StoreUnavailableError: it can't be started or reached.
    """
    if database_url is None:
        server = start_embedded(home)
        where = f"embedded PostgreSQL in {home}"
        return Database(server.conninfo, "embedded", where, True, home, server)
    database = _given(home, database_url)
    _connect(database).close()
    return database


def _refuse_other_encodings(connection: psycopg.Connection, database: Database) -> None:
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise StoreError(
            f"the database {database.where} has the encoding {encoding}, which can't hold every "
            f"text: create one with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
        )


def _given(home: Path, url: str) -> Database:
    try:
        parts = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        # libpq's own message repeats the URL, and with it the password.
        raise ConfigurationError(
            "database_url is no PostgreSQL URL: it must look like "
            "postgresql://user:password@host:5432/database"
        ) from None
    if any("@" in str(parts.get(name, "")) for name in ("host", "port", "dbname")):
        # Parts of a password would be taken for a host, and shown as one.
        raise ConfigurationError(
            "database_url can't be read: signs such as / @ : ? in user or password must be written "
            "percent-encoded (urllib.parse.quote(password, safe=''))"
        )
    host = str(
        parts.get("host") or parts.get("hostaddr") or os.environ.get("PGHOST") or "localhost"
    )
    port = str(parts.get("port") or os.environ.get("PGPORT") or "5432")
    name = str(parts.get("dbname") or os.environ.get("PGDATABASE") or parts.get("user") or "")
    where = f"{host}:{port}/{name}"
    conninfo = make_conninfo(
        url,
        **{name: value for name, value in _NOTICE_SILENCE.items() if name not in parts},
        client_encoding="UTF8",
        application_name=parts.get("application_name") or "novellus_lab",
        connect_timeout=parts.get("connect_timeout") or _CONNECT_TIMEOUT_S,
    )
    identity = hashlib.blake2b(where.encode(), digest_size=6).hexdigest()
    return Database(conninfo, identity, where, False, home)


def _connect(database: Database) -> psycopg.Connection:
    try:
        return psycopg.connect(database.conninfo, autocommit=True)
    except psycopg.OperationalError as error:
        why = cause(error)
        raise StoreUnavailableError(
            f"PostgreSQL at {database.where} can't be used: {why}. {_advice(why)}, or leave "
            f"database_url out to use the embedded server."
        ) from None


def cause(error: BaseException) -> str:
    """Return what matters in an error of libpq: what the server said, or why it was not reached."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # One attempt an address, the last one last; behind it stand questions and tab-indented hints.
    for line in reversed(lines):
        for mark in ("FATAL:", "failed: ", "error: "):
            if mark in line:
                return line.rsplit(mark, 1)[-1].strip().rstrip(".")
    return lines[0].rstrip(".") if lines else type(error).__name__


def _advice(cause: str) -> str:
    if "does not exist" in cause and "database" in cause:
        return "Create it (CREATE DATABASE …) or correct the URL"
    if "password" in cause or "authentication" in cause or "role" in cause:
        return "Check user and password in database_url or POSTGRES_USER and POSTGRES_PASSWORD"
    return "Check that it runs and that host and port in database_url are right"
