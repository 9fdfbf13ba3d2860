"""`lab.health` and `lab.monitor.explain_health`, from what the log holds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from novellus_lab import MetricsCollector
from novellus_lab.errors import ConfigurationError, InvalidRequestError, UnknownModelError
from tests.lab.conftest import openai_model
from tests.loopback import ScriptedServer, openai_chat_reply, openai_error

NOW = datetime.now(UTC)

_ROWS = """
INSERT INTO ai_requests
    (id, created_at, kind, stream, status, error_class, model, provider, cache, attempts, latency_ms,
     provider_ms, cost_usd)
SELECT gen_random_uuid(), %(at)s, 'chat', false, %(status)s, %(error)s, %(model)s, 'openai', %(cache)s, 1,
    %(ms)s, %(ms)s, 0
FROM generate_series(1, %(count)s)
"""


@pytest.fixture
def logged(database: Any) -> Any:
    def log(count: int, ago: timedelta = timedelta(minutes=5), **fields: Any) -> None:
        row = {
            "status": "ok",
            "error": None,
            "model": "gpt-4o",
            "cache": "off",
            "ms": 100.0,
            **fields,
        }
        with psycopg.connect(database.conninfo) as connection:
            connection.execute(_ROWS, {"count": count, "at": NOW - ago, **row})

    return log


@pytest.fixture
def lab(make_lab: Any) -> Any:
    with ScriptedServer(lambda request: openai_chat_reply("Yes.")) as llm:
        yield make_lab(openai_model("gpt-4o", llm.url), openai_model("idle", llm.url))


def lost(lab: Any, model: str = "gpt-4o") -> dict[str, float]:
    return {d.cause: d.points for d in lab.monitor.explain_health(model).deductions if d.points}


def test_models_that_answer_are_healthy_and_idle_ones_unknown(lab, logged) -> None:
    logged(20)
    health = lab.health()
    assert dict(health) == {"gpt-4o": 100.0, "idle": None}
    assert health["gpt-4o"] == 100
    assert "0 requests" in lab.monitor.explain_health("idle").note


def test_failures_cost_points_but_not_those_of_callers(lab, logged) -> None:
    logged(80)
    logged(20, status="error", error="BadRequestError")
    assert lost(lab) == {}
    logged(25, status="error", error="ProviderTimeoutError")
    assert lost(lab) == {"errors": 40}
    assert "mostly ProviderTimeoutError" in lab.monitor.explain_health("gpt-4o").deductions[0].why


def test_a_failure_that_a_failover_hid_counts(make_lab) -> None:
    def reply(request: Any) -> Any:
        if request.json["model"] == "bad":
            return openai_error(503)
        return openai_chat_reply("Yes.")

    with ScriptedServer(reply) as llm:
        lab = make_lab(
            openai_model("bad", llm.url, weight=1_000_000),
            openai_model("good", llm.url, weight=0.000001),
            retries={"max_attempts": 1},
            breaker={"enabled": False},
        )
        for i in range(12):
            assert lab.complete(f"{i}", use_cache=False).model == "good"
        health = lab.health()
        assert (health["bad"], health["good"]) == (60.0, 100.0)
        assert lab.metrics("good").calls.taken_over_share == 1


def test_slowness_is_measured_against_the_week_before(lab, logged) -> None:
    logged(60, timedelta(days=2), ms=100.0)
    logged(20, ms=225.0)
    assert lost(lab)["latency"] == pytest.approx(15, abs=1)
    logged(200, timedelta(days=9), ms=1_000.0)  # before the baseline
    assert lost(lab)["latency"] == pytest.approx(15, abs=1)


def test_cache_hits_make_nothing_fast_and_no_error_rare(lab, logged) -> None:
    logged(60, timedelta(days=2), ms=100.0)
    logged(500, cache="memory", ms=0.01)
    logged(18, ms=300.0, cache="miss")
    logged(2, status="error", error="ProviderTimeoutError", cache="miss")
    found = lost(lab)
    assert found["latency"] == 30
    assert found["errors"] == pytest.approx(18.9)
    assert "cache" not in found


def test_a_cache_that_is_asked_in_vain_costs_points_if_it_is_on(make_lab, logged) -> None:
    logged(60, cache="miss")
    with ScriptedServer(lambda request: openai_chat_reply("Yes.")) as llm:
        on = make_lab(openai_model("gpt-4o", llm.url))
        off = make_lab(openai_model("gpt-4o", llm.url), cache={"enabled": False})
        assert lost(on) == {"cache": 10}
        assert lost(off) == {}


def test_where_an_hour_holds_too_little_a_day_is_judged(lab, logged) -> None:
    logged(9)
    assert lab.health()["gpt-4o"] is None
    logged(5, timedelta(hours=5), status="error", error="ProviderTimeoutError")
    score = lab.monitor.explain_health("gpt-4o")
    assert (score.score, score.window, score.requests) == (60, "the last 24 h", 14)


def anomaly(database: Any, **fields: Any) -> None:
    row = {
        "model_id": "gpt-4o", "kind": "latency", "metric": "latency", "severity": "high", "score": 0.8,
        "started_at": NOW - timedelta(hours=2), "ended_at": NOW - timedelta(hours=1), "observed": 2.0,
        "expected": 1.0, "detector": "rules", "bucket_s": 60.0, "acknowledged_at": None, **fields,
    }  # fmt: skip
    columns = ", ".join(row)
    values = ", ".join(f"%({name})s" for name in row)
    with psycopg.connect(database.conninfo) as connection:
        connection.execute(
            f"INSERT INTO ai_anomalies (id, {columns}) VALUES (gen_random_uuid(), {values})".encode(),
            row,
        )


def test_anomalies_of_late_that_nobody_acknowledged_cost_points(lab, logged, database) -> None:
    logged(20)
    anomaly(database, model_id="another")
    anomaly(database, model_id=None)
    anomaly(database, acknowledged_at=NOW)
    anomaly(
        database,
        started_at=NOW - timedelta(hours=30),
        ended_at=NOW - timedelta(hours=25),
        metric="old",
    )
    assert lost(lab) == {}
    anomaly(database, severity="low", metric="cost")
    assert lost(lab) == {"anomalies": 2}
    anomaly(database, severity="medium", started_at=NOW - timedelta(days=2), ended_at=None)
    assert lost(lab) == {"anomalies": 7}
    anomaly(database, started_at=NOW - timedelta(hours=30), ended_at=NOW - timedelta(hours=23))
    assert lost(lab) == {"anomalies": 17}
    assert "latency since" in lab.monitor.explain_health("gpt-4o").deductions[3].why


def test_the_thresholds_are_the_configurations(make_lab, logged) -> None:
    logged(60, ms=400.0)
    rules = {"max_latency_ms": 200.0, "min_requests": 61}
    with ScriptedServer(lambda request: openai_chat_reply("Yes.")) as llm:
        model = openai_model("gpt-4o", llm.url)
        lab = make_lab(model, monitoring={"health": {"max_latency_ms": 200.0}})
        assert lost(lab) == {"latency": 30}
        strict = make_lab(model, monitoring={"health": rules})
        assert strict.health()["gpt-4o"] is None
        with pytest.raises(ConfigurationError, match="error_rate_from"):
            make_lab(model, monitoring={"health": {"error_rate_from": 0.3}})


def test_a_model_must_be_named_and_known(lab) -> None:
    with pytest.raises(InvalidRequestError, match="model_id"):
        lab.monitor.explain_health(None)
    with pytest.raises(UnknownModelError, match="gpt-4o"):
        lab.monitor.explain_health("gpt-4")


async def test_the_production_systems_collector_gives_the_score(lab, logged) -> None:
    logged(80)
    logged(20, status="error", error="ProviderTimeoutError")
    assert await MetricsCollector(lab).calculate_health_score("gpt-4o") == 60
    assert await MetricsCollector(lab).calculate_health_score("idle") is None
    assert dict(await lab.monitor.ahealth()) == {"gpt-4o": 60, "idle": None}
    assert (await lab.monitor.aexplain_health("gpt-4o")).deductions[0].points == 40


def test_prometheus_is_told_the_scores_that_are_known(lab, logged) -> None:
    logged(80)
    logged(20, status="error", error="ProviderTimeoutError")
    registry = lab.monitor.prometheus()
    assert registry.get_sample_value("ai_model_health_score", {"model": "gpt-4o"}) == 60
    assert registry.get_sample_value("ai_model_health_score", {"model": "idle"}) is None
