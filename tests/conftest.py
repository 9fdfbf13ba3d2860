"""One embedded PostgreSQL for the whole run, a fresh database for each test that asks."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import psycopg
import pytest

from novellus_lab.store.database import Database, open_database, resolve_home

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_numbers = itertools.count(1)


@pytest.fixture(autouse=True)
def _no_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keys, URLs and files of whoever runs the tests must not reach them."""
    for name in (
        "OPENAI_API_KEY CLAUDE_API_KEY ANTHROPIC_API_KEY GOOGLE_API_KEY GEMINI_API_KEY "
        "AZURE_OPENAI_API_KEY AZURE_OPENAI_ENDPOINT OLLAMA_HOST DATABASE_URL REDIS_URL POSTGRES_HOST "
        "POSTGRES_DB NOVELLUS_HOME NOVELLUS_CONFIG"
    ).split():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """An embedded server that lasts as long as the run."""
    database = open_database(resolve_home(tmp_path_factory.mktemp("server") / "home"), None)
    yield database
    database.close()


@pytest.fixture(scope="session")
def template(server: Database) -> str:
    """The name of a migrated database to copy: ten times as fast as migrating one."""
    with psycopg.connect(server.conninfo, autocommit=True, dbname="postgres") as connection:
        connection.execute("CREATE DATABASE migrated TEMPLATE novellus")
    return "migrated"


@pytest.fixture
def database(server: Database, template: str) -> Iterator[Database]:
    """A migrated database with nothing in it."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(server.conninfo, autocommit=True, dbname="postgres") as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())
    yield Database(
        server.conninfo.replace("dbname=novellus", f"dbname={name}"), name, name, False, server.home
    )
    with psycopg.connect(server.conninfo, autocommit=True, dbname="postgres") as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
