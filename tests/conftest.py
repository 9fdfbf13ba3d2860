"""One embedded PostgreSQL for the whole run, a fresh database for each test that asks."""

from __future__ import annotations

import itertools
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from novellus_lab.store.database import Database, open_database, resolve_home
from tests.embedded_homes import remove_state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_numbers = itertools.count(1)


@pytest.fixture(autouse=True)
def _no_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keys, URLs and files of whoever runs the tests must not reach them."""
    for name in (
        "OPENAI_API_KEY CLAUDE_API_KEY ANTHROPIC_API_KEY GOOGLE_API_KEY GEMINI_API_KEY "
        "AZURE_OPENAI_API_KEY AZURE_OPENAI_ENDPOINT OLLAMA_HOST DATABASE_URL REDIS_URL POSTGRES_HOST "
        "POSTGRES_DB PGPORT PGHOST PGUSER PGPASSWORD PGDATABASE PGSERVICE NOVELLUS_HOME NOVELLUS_CONFIG"
    ).split():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """An embedded server that lasts as long as the run."""
    home = resolve_home(tmp_path_factory.mktemp("server") / "home")
    database = open_database(home, None)
    # Nobody needs these rows after a power cut; a test that kills a server has one of its own.
    with psycopg.connect(database.conninfo, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("SELECT pg_reload_conf()")
    yield database
    database.close()
    remove_state(home)


@pytest.fixture
def new_home(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Make homes for servers of a test's own; each is waited for and removed at the end."""
    homes: list[Path] = []

    def make(name: str = "home") -> Path:
        homes.append(resolve_home(tmp_path / name))
        return homes[-1]

    yield make
    for home in homes:
        remove_state(home)


@pytest.fixture
def home(new_home: Callable[..., Path]) -> Path:
    """A home that no server was started in yet."""
    return new_home()


@pytest.fixture(scope="session")
def template(server: Database) -> str:
    """The name of a migrated database to copy: ten times as fast as migrating one."""
    with psycopg.connect(server.conninfo, autocommit=True, dbname="postgres") as connection:
        connection.execute("CREATE DATABASE migrated TEMPLATE novellus")
    return "migrated"


@contextmanager
def _fresh_database(server: Database, template: str) -> Iterator[Database]:
    name = f"test_{next(_numbers)}"
    with psycopg.connect(server.conninfo, autocommit=True, dbname="postgres") as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())
    yield Database(make_conninfo(server.conninfo, dbname=name), name, name, False, server.home)
    with psycopg.connect(server.conninfo, autocommit=True, dbname="postgres") as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture
def database(server: Database, template: str) -> Iterator[Database]:
    """A migrated database with nothing in it."""
    with _fresh_database(server, template) as fresh:
        yield fresh


@pytest.fixture
def empty_database(server: Database) -> Iterator[Database]:
    """A database without our schema."""
    with _fresh_database(server, "template0") as fresh:
        yield fresh
