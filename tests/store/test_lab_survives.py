"""A lab whose server goes away, and a lab that goes away itself."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from novellus_lab import Lab
from novellus_lab.errors import StoreUnavailableError
from tests.embedded_homes import kill_postmaster
from tests.lab.conftest import openai_model
from tests.loopback import ScriptedServer, openai_chat_reply
from tests.store.database_proxy import DatabaseProxy
from tests.store.sample_records import read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LONG_S = 60
GOOD = openai_chat_reply("Good.")


@pytest.fixture
def provider() -> Iterator[ScriptedServer]:
    with ScriptedServer(GOOD) as server:
        yield server


@pytest.fixture
def proxy(database) -> Iterator[DatabaseProxy]:
    with DatabaseProxy(database) as proxy:
        yield proxy


@pytest.fixture
def open_lab(provider, tmp_path) -> Callable[..., Lab]:
    def make(**options: Any) -> Lab:
        config = {"models": [openai_model("gpt-4o", provider.url)]}
        return Lab(**{"home": tmp_path / "home", "config": config, **options})

    return make


def ids(lab: Lab) -> list[str]:
    return lab.requests()["id"].to_list()


def test_an_embedded_server_that_was_killed_is_started_again_by_the_next_call(open_lab, home):
    with open_lab(home=home) as lab:
        first = lab.complete("Hi")
        lab.flush(LONG_S)
        kill_postmaster(home)
        second = lab.complete("Hi again")
        hit = lab.complete("Hi")
        lab.flush(LONG_S)
        assert hit.cache.hit
        assert set(ids(lab)) == {str(r.request_id) for r in (first, second, hit)}


def test_an_embedded_server_that_was_killed_is_started_again_to_read_the_log(open_lab, home):
    with open_lab(home=home) as lab:
        one = lab.complete("Hi")
        lab.flush(LONG_S)
        kill_postmaster(home)
        assert ids(lab) == [str(one.request_id)]


def test_the_shared_cache_of_a_server_that_was_killed_comes_back(open_lab, home):
    with open_lab(home=home) as lab:
        lab.complete("Hi")
        lab.flush(LONG_S)
        kill_postmaster(home)
        lab.complete("Hi again")
        lab.flush(LONG_S)
    with open_lab(home=home) as lab:
        assert lab.complete("Hi").cache == "postgres"


def test_calls_go_on_without_a_server_by_url_and_are_logged_when_it_is_back(
    open_lab, proxy, database, provider
):
    with open_lab(database_url=proxy.conninfo) as lab:
        answers = [lab.complete("Hi")]
        lab.flush(LONG_S)
        proxy.cut()
        with pytest.raises(StoreUnavailableError, match="can't be read"):
            lab.requests()
        answers += [lab.complete(f"Hi {n}") for n in range(5)]
        assert [r.content for r in answers] == ["Good."] * 6
        assert lab.complete("Hi").cache == "memory"
        with pytest.raises(StoreUnavailableError, match="nothing is lost"):
            lab.flush(0.2)
        assert len(read(database)) == 1
        proxy.mend()
        lab.flush(LONG_S)
        assert len(read(database)) == 7
        assert len(lab.requests()) == 7
    assert len(provider.requests) == 6


def test_what_a_lab_leaves_when_its_database_is_down_the_next_lab_brings(open_lab, proxy, database):
    lab = open_lab(database_url=proxy.conninfo)
    lab.flush(LONG_S)
    proxy.cut()
    one = lab.complete("Hi")
    lab.close()
    proxy.mend()
    assert read(database) == []
    with open_lab(database_url=proxy.conninfo) as lab:
        end = time.monotonic() + LONG_S
        while not read(database):
            assert time.monotonic() < end
            time.sleep(0.02)
        assert ids(lab) == [str(one.request_id)]


CALLING = """
import sys
from novellus_lab import Lab

lab = Lab(home=sys.argv[1], config={"models": [{
    "provider": "openai", "model_name": "gpt-4o", "base_url": sys.argv[2] + "/v1",
    "capabilities": ["chat"], "input_token_cost": 1, "output_token_cost": 2}]})
n = 0
while True:
    n += 1
    print(lab.complete(f"Hi {n}").request_id, flush=True)
"""


def test_after_kill_9_every_call_that_had_returned_is_in_the_next_labs_log(
    open_lab, home, provider, tmp_path
):
    said: Path = tmp_path / "said"
    with said.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", CALLING, str(home), provider.url], stdout=output
        )
    end = time.monotonic() + LONG_S
    while len(said.read_text().splitlines()) < 30:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)
    process.kill()
    process.wait(LONG_S)
    returned = {line.strip() for line in said.read_text().splitlines(keepends=True) if "\n" in line}
    with open_lab(home=home) as lab:
        end = time.monotonic() + LONG_S
        while not returned <= set(found := ids(lab)):
            assert time.monotonic() < end
            time.sleep(0.02)
        assert len(found) == len(set(found))
        assert len(lab.requests()) <= len(returned) + 1
        assert set(lab.requests()["cost_usd"].is_null()) == {False}
