"""`novellus metrics serve`: the whole log, of all processes, as Prometheus would scrape it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import psycopg
import pytest
from prometheus_client import generate_latest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families as families

from novellus_lab.errors import ConfigurationError, StoreUnavailableError
from novellus_lab.ids import uuid7
from novellus_lab.monitoring.prometheus.exposition import Exposition, registry_of
from novellus_lab.monitoring.prometheus.live import LiveTotals
from novellus_lab.monitoring.prometheus.log_reader import LogTotals
from novellus_lab.monitoring.prometheus.metrics import LATENCY_BUCKETS_S, METRICS
from novellus_lab.monitoring.prometheus.server import MetricsServer
from novellus_lab.records import RequestRecord
from novellus_lab.store.request_log import RequestLog
from novellus_lab.types import Attempt, CacheOutcome, Price, Status, Usage


def a_call(number=1, role="primary", status=Status.OK, cost="0.01", model="gpt-4o", **more):
    return Attempt(
        id=uuid7(),
        number=number,
        role=role,
        model_id=model,
        provider="openai",
        started_at=more.pop("started_at", datetime.now(UTC)),
        status=status,
        latency_ms=100.0,
        price=Price(None if cost is None else Decimal(cost)),
        usage=Usage(100, 20, cached_input_tokens=40, cache_write_tokens=10, reasoning_tokens=5),
        **more,
    )


def a_record(latency_ms=400.0, model="gpt-4o", calls=1, created_at=None, **more):
    at = created_at or datetime.now(UTC)
    attempts = more.pop("attempts", None)
    if attempts is None:
        attempts = [a_call(n + 1, model=model, started_at=at) for n in range(calls)]
    return RequestRecord(
        id=uuid7(),
        created_at=at,
        model=model,
        provider="openai",
        latency_ms=latency_ms,
        overhead_ms=1.5,
        cost_usd=Decimal("0.01"),
        uncached_cost_usd=Decimal("0.01"),
        attempts=attempts,
        **more,
    )


@pytest.fixture
def log(database, tmp_path):
    made = RequestLog(database.conninfo, tmp_path / "spool")
    yield made
    made.close()


def told(totals):
    text = generate_latest(registry_of(Exposition(totals, dict))).decode()
    return {
        (s.name, *(s.labels[name] for name in sorted(s.labels))): s.value
        for family in families(text)
        for s in family.samples
    }


SOME = (
    *(a_record(bound * 1000) for bound in LATENCY_BUCKETS_S),
    *(a_record(bound * 1000 + 0.5) for bound in LATENCY_BUCKETS_S),
    a_record(None),
    a_record(500_000, calls=3, model="claude-3-opus"),
    a_record(2.0, calls=0, cache=CacheOutcome.SEMANTIC),
    a_record(
        1.0, calls=0, cache=CacheOutcome.MISS, status=Status.REFUSED, error_class="QuotaError"
    ),
    a_record(3.0, calls=0, model=None, status=Status.REFUSED, error_class="InvalidRequestError"),
    a_record(900, ttft_ms=120.0, stream=True, cache=CacheOutcome.MISS),
    a_record(
        950,
        status=Status.ERROR,
        error_class="RateLimitError",
        attempts=[
            a_call(1, status=Status.ERROR, cost="0", error_class="RateLimitError"),
            a_call(2, "failover", Status.ERROR, None, 'strange\nmodel "x"', error_class="Boom"),
        ],
    ),
)


def test_the_log_tells_what_the_process_itself_counted(database, log):
    """Two ways to one result: record by record in Python, group by group in SQL."""
    live, read = LiveTotals(), LogTotals(database.conninfo)
    for position, record in enumerate(SOME):
        live.ended(record)
        log.append(record)
        if position % 10 == 0:
            log.flush()
            read.look()
    log.flush()
    read.look()
    expected = told(live.totals)
    assert told(read.totals) == pytest.approx(expected)
    assert read.totals.hit_rate() == live.totals.hit_rate() == pytest.approx(1 / 3)
    anew = LogTotals(database.conninfo)  # another server, that reads all at once
    anew.look()
    assert told(anew.totals) == pytest.approx(expected)


def test_what_is_late_is_counted_once_whenever_it_comes(database, log):
    read = LogTotals(database.conninfo)
    for days in (0, 400, 40, 3, 0, 3):
        log.append(a_record(created_at=datetime.now(UTC) - timedelta(days=days)))
        log.flush()
        read.look()
        read.look()
    assert told(read.totals)["ai_model_requests_total", "gpt-4o", "ok"] == 6
    assert told(read.totals)["ai_model_calls_total", "gpt-4o", "primary", "ok"] == 6


def test_a_transaction_that_ends_after_a_later_one_is_not_missed(database, log):
    read = LogTotals(database.conninfo)
    read.look()
    insert = (
        "INSERT INTO ai_requests (id, created_at, kind, stream, status, model, cache, attempts) "
        "VALUES (gen_random_uuid(), now(), 'chat', false, 'ok', %s, 'off', 0)"
    )
    with psycopg.connect(database.conninfo) as slow:
        slow.execute(insert, ["slow"])
        for _ in range(3):
            log.append(a_record())
            log.flush()
            read.look()
        assert ("ai_model_requests_total", "slow", "ok") not in told(read.totals)
        slow.commit()
    read.look()
    read.look()
    found = told(read.totals)
    assert found["ai_model_requests_total", "slow", "ok"] == 1
    assert found["ai_model_requests_total", "gpt-4o", "ok"] == 3


def test_counters_never_go_down(database, log):
    read = LogTotals(database.conninfo)
    before: dict = {}
    for record in SOME[::4]:
        log.append(record)
        log.flush()
        read.look()
        now = told(read.totals)
        assert all(now[series] >= value for series, value in before.items())
        before = now
    with psycopg.connect(database.conninfo) as connection:
        connection.execute("DELETE FROM ai_requests")
    read.look()
    assert told(read.totals) == before


def test_a_database_that_is_away_changes_nothing(database, log):
    read = LogTotals("host=127.0.0.1 port=1 dbname=none connect_timeout=1")
    with pytest.raises(StoreUnavailableError, match="the log can't be read"):
        read.look()
    assert not read.reachable


def fetch(url, accept="text/plain"):
    asked = urllib.request.Request(url, headers={"Accept": accept})
    with urllib.request.urlopen(asked, timeout=10) as answer:
        return answer.read().decode()


def test_the_server_follows_the_log(database, log):
    log.append(a_record())
    log.flush()
    with MetricsServer(
        database, port=0, every_s=60, health=lambda: {"gpt-4o": 93.0, "new": None}
    ) as server:
        assert 'ai_model_requests_total{model="gpt-4o",status="ok"} 1.0' in fetch(server.url)
        log.append(a_record())
        log.flush()
        server.refresh()
        text = fetch(server.url, "application/openmetrics-text; version=1.0.0")
        found = {family.name: family for family in openmetrics_families(text)}
        [requests] = [s.value for s in found["ai_model_requests"].samples]
        assert requests == 2
        assert [s.value for s in found["ai_log_database_up"].samples] == [1.0]
        assert [s.value for s in found["ai_log_backlog_bytes"].samples] == [0.0]
        assert [s.value for s in found["ai_model_health_score"].samples] == [93.0]
        assert set(found) == {m.name.removesuffix("_total") for m in METRICS}
    with pytest.raises(OSError, match="refused"):
        fetch(server.url)


def test_while_the_database_is_away_counters_stand_still(database, log, caplog):
    log.append(a_record())
    log.flush()
    with MetricsServer(database, port=0, every_s=60) as server:
        good = server._log._conninfo
        server._log._conninfo = "host=127.0.0.1 port=1 dbname=none connect_timeout=1"
        server.refresh()
        server.refresh()
        text = fetch(server.url)
        assert "ai_log_database_up 0.0" in text
        assert 'ai_model_requests_total{model="gpt-4o",status="ok"} 1.0' in text
        server._log._conninfo = good
        server.refresh()
        assert "ai_log_database_up 1.0" in fetch(server.url)
    assert caplog.text.count("counters stand still") == 1


def test_a_port_that_is_taken_is_named(database):
    with (
        MetricsServer(database, port=0) as server,
        pytest.raises(ConfigurationError, match="can't be served on 127.0.0.1"),
    ):
        MetricsServer(database, port=server._server.server_address[1])


def test_the_command_serves_until_it_is_stopped(database, log, tmp_path):
    for _ in range(20):
        log.append(a_record())
    log.flush()
    command = [sys.executable, "-m", "novellus_lab.cli", "metrics", "serve", "--port", "0"]
    command += ["--database-url", database.conninfo, "--home", str(tmp_path / "home")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1]
            text = fetch(url)
            assert 'ai_model_tokens_total{kind="input",model="gpt-4o"} 1000.0' in text
            assert 'ai_model_health_score{model="gpt-4o"} 100.0' in text
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
