"""`lab.benchmark`: runs that go on, come again, and are compared."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from decimal import Decimal
from typing import Any
from xml.etree import ElementTree as Xml

import pytest
from typer.testing import CliRunner

from novellus_lab.cli import app
from novellus_lab.errors import InvalidRequestError
from novellus_lab.providers.replay_data import recordings
from tests.experiments.conftest import STRONG, WEAK, replay_model
from tests.lab.conftest import openai_model
from tests.loopback import ScriptedServer, openai_chat_reply, openai_error

SUMS = [{"id": f"s{i}", "prompt": f"{i} + {i}?", "expected": 2 * i} for i in range(20)]


def last_line(request: Any) -> str:
    return str(request.json["messages"][-1]["content"])


def adder(request: Any) -> Any:
    """Adds right."""
    i = int(last_line(request).split()[0])
    return openai_chat_reply(f"#### {2 * i}")


def test_a_run_tells_how_each_model_did(replay_lab, rows):
    run = replay_lab.benchmark("gsm8k").run(n=300, progress=False)
    assert run.complete
    best, other = run.standings
    assert (best.arm, other.arm) == (STRONG, WEAK)
    right = sum(a[STRONG.removeprefix("replay/")].correct for a in recordings().values()) / 1307
    assert best.quality.low < right < best.quality.high + 0.02
    replay_lab.flush()
    assert sum(row["cost_usd"] for row in rows()) == run.cost_usd[0]
    assert run.against().effect().direction == "worse"
    page = run._repr_html_()
    assert "REPLAY" in page
    assert STRONG in page


def test_what_a_benchmark_is_decides_its_hash(replay_lab):
    def mine(item: Any, answer: Any) -> bool:
        return True

    def other(item: Any, answer: Any) -> bool:
        return False

    def hash_of(workload: Any = SUMS, scorer: Any = "numeric", **more: Any) -> str:
        return replay_lab.benchmark("sums", workload, scorer=scorer, **more).benchmark.content_hash

    hashes = [
        hash_of(),
        hash_of(SUMS[:-1]),
        hash_of(scorer="exact"),
        hash_of(scorer=mine),
        hash_of(scorer=other),
        hash_of(version="2"),
        hash_of(temperature=0.0),
    ]
    assert len(set(hashes)) == len(hashes)
    assert hash_of() == hash_of()


def test_a_run_goes_on_where_the_money_ended(make_lab, rows):
    with ScriptedServer(adder) as llm:
        lab = make_lab(openai_model("m", llm.url))
        sums = lab.benchmark("sums", SUMS, scorer="numeric", max_tokens=5)
        first = sums.run(max_usd="0.2", max_concurrency=1, progress=False)
        assert first.ending == "the money was spent"
        asked = len(llm.requests)
        assert 0 < asked < 20
        second = sums.run(max_concurrency=2, progress=False)
        assert second.complete
        assert len(llm.requests) == 20, "nothing was asked twice"
    assert second.id == first.id
    assert second.standings[0].quality.value == 1.0
    assert sums.runs()[0].status == "done"
    lab.flush()
    assert len(rows()) - sum(row["status"] != "ok" for row in rows()) == 20


def test_what_failed_is_asked_again_when_a_run_goes_on(make_lab):
    down = True

    def sometimes(request: Any) -> Any:
        i = int(last_line(request).split()[0])
        return openai_error(500, "down") if down and i >= 15 else adder(request)

    with ScriptedServer(sometimes) as llm:
        lab = make_lab(openai_model("m", llm.url))
        sums = lab.benchmark("sums", SUMS, scorer="numeric", max_tokens=5)
        first = sums.run(max_usd="100", progress=False)
        assert first.standings[0].quality.value == 0.75
        down = False
        again = sums.run(progress=False)
    assert again.id != first.id, "it was complete, with its failures: this is another run"


_RUN = """
import sys
from novellus_lab import Lab
lab = Lab(home=sys.argv[1], database_url=sys.argv[2], config={"models": [
    {"provider": "openai", "model_name": "m", "base_url": sys.argv[3], "input_token_cost": 1,
     "output_token_cost": 2}]})
sums = [{"id": f"s{i}", "prompt": f"{i} + {i}?", "expected": 2 * i} for i in range(40)]
run = lab.benchmark("sums", sums, scorer="numeric").run(max_concurrency=2, progress=False)
print(run.id)
lab.close()
"""


def test_a_run_survives_kill_9_and_pays_nothing_twice(make_lab, rows, database, tmp_path):
    def slowly(request: Any) -> Any:
        time.sleep(0.02)
        return adder(request)

    with ScriptedServer(slowly) as llm:
        command = [
            sys.executable,
            "-c",
            _RUN,
            str(tmp_path / "home"),
            database.conninfo,
            f"{llm.url}/v1",
        ]
        environment = {**os.environ, "OPENAI_API_KEY": "k"}
        process = subprocess.Popen(command, env=environment)
        deadline = time.monotonic() + 60
        while len(llm.requests) < 15 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed_at = len(llm.requests)
        assert 15 <= killed_at < 40
        subprocess.run(command, env=environment, check=True, timeout=60, capture_output=True)
        asked = Counter(map(last_line, llm.requests))
    assert len(asked) == 40
    # Only what was in the air when it died may have been asked again.
    assert sum(asked.values()) <= 40 + 2
    answered = Counter(row["tags"]["item"] for row in rows() if row["status"] == "ok")
    assert set(answered.values()) == {1}


def test_from_the_log_a_run_is_the_same_to_the_last_bit(replay_lab):
    gsm8k = replay_lab.benchmark("gsm8k")
    run = gsm8k.run(n=60, progress=False)
    again = gsm8k.rerun(run, progress=False)
    assert again.design.rerun_of == run.id
    assert again.standings == run.standings
    assert again.frame.drop("score_reason").equals(gsm8k.load(run.id).frame.drop("score_reason"))
    assert gsm8k.rerun(again, progress=False).standings == run.standings
    diff = gsm8k.diff(run, again)
    assert len(diff.changed) == 0
    assert diff.regressions == ()
    # Another scorer tells what it would have been.
    strict = replay_lab.benchmark("gsm8k", "gsm8k", scorer="recorded").rerun(run, progress=False)
    assert strict.standing(STRONG).quality.value < run.standing(STRONG).quality.value + 1e-9
    assert "The benchmark itself changed" in gsm8k.diff(run, strict).verdict


def test_fresh_calls_show_what_changed_and_a_regression_is_one(make_lab):
    worse = False

    def server(request: Any) -> Any:
        i = int(last_line(request).split()[0])
        return openai_chat_reply("#### -1") if worse and i % 2 else adder(request)

    with ScriptedServer(server) as llm:
        lab = make_lab(openai_model("m", llm.url))
        sums = lab.benchmark("sums", SUMS, scorer="numeric")
        run = sums.run(progress=False)
        same = sums.rerun(run, fresh=True, progress=False)
        assert sums.diff(run, same).regressions == ()
        worse = True
        after = sums.rerun(run, fresh=True, progress=False)
    diff = sums.diff(run, after)
    assert diff.regressions == ("m",)
    assert len(diff.changed) == 10
    assert set(diff.changed["answer_after"]) == {"#### -1"}
    assert sums.diff(run, after, margin=0.9).regressions == ()
    assert "m: after is worse than before by 50.0 points" in diff.verdict


def test_without_content_in_the_log_it_says_that_it_can_t(make_lab):
    with ScriptedServer(adder) as llm:
        lab = make_lab(openai_model("m", llm.url), logging={"content": False})
        sums = lab.benchmark("sums", SUMS, scorer="numeric")
        run = sums.run(progress=False)
        with pytest.raises(InvalidRequestError, match="fresh=True"):
            sums.rerun(run, progress=False)
        assert sums.rerun(run, fresh=True, progress=False).standings[0].quality.value == 1.0


def test_mistakes_are_told(replay_lab):
    for wrong, says in (
        (lambda: replay_lab.benchmark("gsm9k"), "no benchmark 'gsm9k'"),
        (lambda: replay_lab.benchmark("mine", SUMS), "needs a scorer"),
        (lambda: replay_lab.benchmark("gsm8k", tempratur=1), "no argument 'tempratur'"),
        (lambda: replay_lab.benchmark("gsm8k").run(["nobody"]), "neither a strategy nor a model"),
        (lambda: replay_lab.benchmark("gsm8k").load("nothing"), "no experiment"),
    ):
        with pytest.raises(InvalidRequestError, match=says):
            wrong()


# --- the command line ----------------------------------------------------------------------------


def test_from_the_command_line(database, tmp_path, server):
    config = tmp_path / "models.yaml"
    config.write_text(json.dumps({"models": [replay_model(STRONG), replay_model(WEAK)]}))
    common = [
        "--config",
        str(config),
        "--home",
        str(tmp_path / "h"),
        "--database-url",
        database.conninfo,
    ]

    def call(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["bench", *arguments, *common])

    first = call(
        "run", "gsm8k", "-m", WEAK, "-n", "40", "--json", "--junit", str(tmp_path / "o/j.xml")
    )
    assert first.exit_code == 0, first.output
    told = json.loads(first.stdout)
    assert told["arms"][0]["asked"] == 40
    suite = Xml.parse(tmp_path / "o/j.xml").getroot()[0]
    failures = int(suite.get("failures") or 0)
    assert failures == 40 - round(told["arms"][0]["quality"] * 40)
    below = call("run", "gsm8k", "-m", WEAK, "-n", "40", "--fail-under", "0.99", "--anew")
    assert below.exit_code == 3
    again = call("rerun", "gsm8k", told["run"], "--json")
    assert json.loads(again.stdout)["arms"] == told["arms"]
    same = call("diff", told["run"], json.loads(again.stdout)["run"], "--fail-on-regression")
    assert same.exit_code == 0
    assert json.loads(call("list", "--json").stdout)[0]["benchmark"] == "gsm8k"
    assert call("run", "gsm9k").exit_code == 1


def test_junit_holds_whatever_an_item_is_called(make_lab):
    with ScriptedServer(openai_chat_reply("x\x00<b>")) as llm:
        lab = make_lab(openai_model("m", llm.url))
        items = [{"id": "a\x01<&\ud800", "prompt": "?", "expected": "y"}]
        run = lab.benchmark("odd", items, scorer="exact").run(progress=False)
    assert Xml.fromstring(run.to_junit()).find(".//failure") is not None
    assert Decimal(json.loads(run.to_json())["arms"][0]["cost_usd"]) > 0
