"""The lab over servers that fail in every way, in small; `python -m benchmarks.soak` is the long one."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks.soak import ours
from benchmarks.soak.servers import FAULTS, FaultyServers


def soaked(database, home, calls: int, *, rounds: int, share: float = 0.2) -> ours.Soaked:
    with (
        FaultyServers(4, share) as servers,
        ours.open_lab(servers.urls, home=home, database_url=database.conninfo) as lab,
    ):
        found = asyncio.run(ours.soak(lab, calls, 100, rounds=rounds, leaving=0.05))
        if rounds > 1:
            asyncio.run(ours.rest(lab, found))
        did = servers.did()
        assert set(did) == {*FAULTS, "none"}
        ours.check(lab, database.conninfo, found, sum(did.values()))
        return found


def test_every_call_ends_and_is_logged_once_whatever_fails(database, tmp_path):
    found = soaked(database, tmp_path, 500, rounds=1, share=0.3)
    assert found.wrong == []
    assert found.left > 0
    # What can't be mended is a stream that breaks off after it has begun.
    assert found.errors.total() - found.broken_off <= 10


@pytest.mark.long
@pytest.mark.timeout(300)
def test_nothing_is_left_behind(database, tmp_path):
    found = soaked(database, tmp_path, 10_000, rounds=5)
    assert found.wrong == []
    assert ours.leaks(found.held) == []
    assert found.share_answered > 0.97
