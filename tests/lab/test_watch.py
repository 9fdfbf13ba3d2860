"""`lab.monitor.watch` and `novellus watch`: anomalies are told once, and nothing is held up."""

from __future__ import annotations

import json
import logging
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from novellus_lab.cli import app
from novellus_lab.errors import InvalidRequestError
from tests.lab.test_anomalies import latency, minutes
from tests.loopback import Scripted, ScriptedServer
from tests.monitoring.made_up_log import Row, write
from tests.store.database_proxy import DatabaseProxy

if TYPE_CHECKING:
    from collections.abc import Callable

pytest.importorskip("numpy")

MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)
TOKEN = "T0P-s3cret"
RULES: dict[str, Any] = {"false_alarms": 0, "bucket": "1m", "settle": 0}


def until(true: Callable[[], object], at_most_s: float = 40) -> None:
    end = time.monotonic() + at_most_s
    while not true():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


@pytest.fixture
def lab(make_lab: Any) -> Any:
    return make_lab()


@pytest.fixture
def slow_log(database: Any) -> None:
    write(database.conninfo, minutes(60, 3, latency(3000.0)))


@pytest.mark.usefixtures("slow_log")
def test_an_anomaly_is_told_by_log_callback_and_webhook_once(
    lab: Any, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[Any] = []
    script = [Scripted(503), Scripted(200)]
    with ScriptedServer(script) as server, caplog.at_level(logging.WARNING, "novellus_lab"):
        url = f"{server.url}/hooks/{TOKEN}?key={TOKEN}"
        with lab.monitor.watch(heard.append, every=0.1, webhook=url, **RULES) as watch:
            until(lambda: heard and len(server.requests) == 2 and watch.looks > 2)
        assert not watch.running
        assert repr(watch).startswith("Watch(stopped")
    (anomaly,) = heard
    assert (anomaly.kind, anomaly.model, watch.told) == ("latency", "m", 1)
    assert len(anomaly.example_ids) == 5
    sent = server.requests[1]
    assert (sent.method, sent.path) == ("POST", f"/hooks/{TOKEN}")
    assert sent.json["id"] == str(anomaly.id)
    assert sent.json["text"].startswith("low latency of m: mean latency 3.0 s, usual 1.0 s, since")
    lines = [record.getMessage() for record in caplog.records]
    assert sum(line.startswith("anomaly: ") for line in lines) == 1
    assert TOKEN not in "\n".join(lines)

    # Another watcher of that name, as in another process, has nothing left to tell; one of another has.
    with lab.monitor.watch(heard.append, every=0.1, **RULES) as second:
        until(lambda: second.looks > 1)
    assert len(heard) == 1
    with lab.monitor.watch(heard.append, every=0.1, name="pager", **RULES) as third:
        until(lambda: third.told)
    assert len(heard) == 2


def seconds(first: datetime, count: int, ms: float) -> list[Row]:
    """Twelve equal requests in each second."""
    return [
        {
            "created_at": first + n * SECOND + k * timedelta(milliseconds=50), "model": "m",
            "status": "ok", "cache": "miss", "latency_ms": ms, "output_tokens": 10, "cost_usd": 0,
        }
        for n in range(count)
        for k in range(12)
    ]  # fmt: skip


def test_what_comes_while_it_watches_is_found(lab: Any, database: Any) -> None:
    write(database.conninfo, seconds(now_s() - 60 * SECOND, 60, 1000.0))
    heard: list[Any] = []
    options = {**RULES, "bucket": "1s", "metrics": "latency_ms"}
    with lab.monitor.watch(heard.append, every=0.2, **options) as watch:
        until(lambda: watch.looks > 1)
        assert heard == []
        start = (
            now_s() + 3 * SECOND
        )  # no bucket of it was looked at yet, however slow this machine is
        write(database.conninfo, seconds(start, 4, 5000.0))
        until(lambda: heard, 60)
    assert heard[0].start == start
    assert heard[0].kind == "latency"


def now_s() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


@pytest.mark.usefixtures("slow_log")
def test_a_webhook_that_never_answers_holds_up_nothing_and_a_lab_closes(
    lab: Any, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[Any] = []
    with ScriptedServer(Scripted(end="hang")) as server:
        watch = lab.monitor.watch(heard.append, every=0.1, webhook=server.url, **RULES)
        until(lambda: server.requests and watch.looks > 3)
        assert len(heard) == 1
        lab.close()
    assert not watch.running
    assert "novellus-watch" not in {thread.name for thread in threading.enumerate()}
    assert "Traceback" not in caplog.text


def test_an_outage_of_the_database_is_lived_through(
    make_lab: Any, database: Any, caplog: pytest.LogCaptureFixture
) -> None:
    write(database.conninfo, minutes(60, 0, latency(1000.0)))
    heard: list[Any] = []
    with DatabaseProxy(database) as proxy:
        lab = make_lab(database_url=proxy.conninfo)
        with lab.monitor.watch(heard.append, every=0.1, **RULES) as watch:
            until(lambda: watch.looks)
            proxy.cut()
            until(lambda: "watch: the log can't be read" in caplog.text)
            proxy.mend()
            looks = watch.looks
            until(lambda: watch.looks > looks)
            assert watch.running
        lab.close()
    assert heard == []
    assert "Traceback" not in caplog.text


@pytest.mark.usefixtures("slow_log")
def test_a_callback_that_fails_ends_nothing(lab: Any, caplog: pytest.LogCaptureFixture) -> None:
    def broken(anomaly: Any) -> None:
        raise RuntimeError("mine")

    with lab.monitor.watch(broken, every=0.1, **RULES) as watch:
        until(lambda: watch.looks > 2)
        assert watch.running
    assert "the callback failed" in caplog.text


@pytest.mark.usefixtures("slow_log")
def test_severity_and_kind_choose_what_is_told(lab: Any) -> None:
    heard: list[Any] = []
    with lab.monitor.watch(heard.append, every=0.1, kinds="traffic", **RULES) as watch:
        until(lambda: watch.looks > 1)
    assert heard == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"webhook": f"file:///etc/{TOKEN}"}, "webhook must be a URL"),
        ({"webhook": f"https://{TOKEN}\nx"}, "webhook must be a URL"),
        ({"every": -1}, "every must be"),
        ({"every": 0}, "every and since must be above 0"),
        ({"since": "soon"}, "since must be a duration"),
        ({"kinds": ["strange"]}, "kinds must be one of"),
        ({"severity": "fatal"}, "severity must be one of"),
        ({"callback": 3}, "callback must be a function"),
        ({"name": ""}, "name must be"),
    ],
)
def test_bad_arguments_are_named(lab: Any, arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidRequestError, match=told) as raised:
        lab.monitor.watch(**arguments)
    assert TOKEN not in str(raised.value)


# --- novellus watch ------------------------------------------------------------------------------


def watch(database: Any, *more: str) -> Any:
    options = ["--once", "--bucket", "1m", "--false-alarms", "0", "--settle", "0"]
    where = ["--database-url", database.conninfo]
    return CliRunner().invoke(app, ["watch", *options, *where, *more])


def test_once_ends_with_3_where_there_is_something_new(database: Any) -> None:
    assert watch(database).exit_code == 0
    made = minutes(60, 3, latency(3000.0))
    for row in made:
        row["model"] = "m\x1b[31m"
    write(database.conninfo, made)
    first = watch(database)
    assert first.exit_code == 3, first.output
    assert "low    latency of m" in first.stdout
    assert "mean latency 3.0 s, usual 1.0 s, since" in first.stdout
    assert "such as 0" in first.stdout
    assert "\x1b[31m" not in first.stdout
    again = watch(database)
    assert (again.exit_code, again.stdout) == (0, "")
    as_json = watch(database, "--name", "other", "--json")
    assert as_json.exit_code == 3
    (line,) = as_json.stdout.splitlines()
    assert json.loads(line)["kind"] == "latency"


@pytest.mark.usefixtures("slow_log")
def test_once_sends_to_a_webhook_and_says_when_nobody_takes_it(database: Any) -> None:
    with ScriptedServer(Scripted(200)) as server:
        assert watch(database, "--webhook", f"{server.url}/{TOKEN}").exit_code == 3
        assert [request.json["kind"] for request in server.requests] == ["latency"]
    with ScriptedServer(Scripted(404)) as server:
        refused = watch(database, "--name", "two", "--webhook", f"{server.url}/{TOKEN}")
    assert refused.exit_code == 1
    assert "did not take it: HTTP 404" in refused.stderr
    assert TOKEN not in refused.output


def test_it_does_not_make_a_lab(tmp_path: Any) -> None:
    result = CliRunner().invoke(app, ["watch", "--once", "--home", str(tmp_path / "none")])
    assert result.exit_code == 1
    assert "there is no lab in" in result.stderr
    assert not (tmp_path / "none").exists()
