"""One Valkey for the whole run, emptied for each test that asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from psycopg.conninfo import make_conninfo

from novellus_lab.store.database import Database
from tests.cache.valkey import Proxy, Valkey

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def plain_database(server: Database) -> Database:
    """One database without our schema, for all: a fresh one takes seconds on a busy machine."""
    conninfo = make_conninfo(server.conninfo, dbname="postgres")
    return Database(conninfo, "postgres", "postgres", False, server.home)


@pytest.fixture(scope="session")
def _running_valkey() -> Iterator[Valkey]:
    server = Valkey()
    yield server
    server.close()


@pytest.fixture
def valkey_server(_running_valkey: Valkey) -> Valkey:
    """A server with nothing in it."""
    with _running_valkey.client() as client:
        client.flushall()
    return _running_valkey


@pytest.fixture
def own_valkey() -> Iterator[Valkey]:
    """A server of the test's own, to be killed."""
    server = Valkey()
    yield server
    server.close()


@pytest.fixture
def valkey_proxy(valkey_server: Valkey) -> Iterator[Proxy]:
    """A way to the server that can be cut."""
    with valkey_server.proxy() as proxy:
        yield proxy
