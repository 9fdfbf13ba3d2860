"""`novellus metrics` and `novellus health`: what the log says, in a terminal."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from typer.testing import CliRunner

from novellus_lab.cli import app
from novellus_lab.store.request_log import RequestLog
from novellus_lab.types import CacheOutcome, Status
from tests.store.sample_records import attempt, record

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = """
models:
  - {provider: openai, model_name: gpt-4o, base_url: "http://127.0.0.1:9/v1"}
  - {provider: openai, model_name: idle, base_url: "http://127.0.0.1:9/v1"}
"""


@pytest.fixture
def at(database: Any, tmp_path: Path) -> list[str]:
    """Options that name a log with 15 answers and 5 failures in it."""
    (tmp_path / "models.yaml").write_text(CONFIG)
    log = RequestLog(database.conninfo, tmp_path / "spool")
    now = datetime.now(UTC) - timedelta(minutes=3)
    for i in range(20):
        failed = i < 5
        log.append(
            record(
                created_at=now,
                model="gpt-4o",
                provider="openai",
                cache=CacheOutcome.MISS,
                status=Status.ERROR if failed else Status.OK,
                error_class="ProviderTimeoutError" if failed else None,
                latency_ms=120.0,
                provider_ms=118.0,
                cost_usd=Decimal("0.25"),
                attempts=(attempt(started_at=now),),
            )
        )
    log.close()
    return ["--database-url", database.conninfo, "--config", str(tmp_path / "models.yaml")]


def succeed(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "300"})
    assert result.exit_code == 0, result.output
    return result.stdout


def test_metrics_are_shown_for_a_model_and_for_all(at) -> None:
    for who in (["gpt-4o"], []):
        shown = succeed("metrics", "show", *who, *at)
        assert "20 (5 errors)" in shown
        assert "75 %" in shown
        assert "ProviderTimeoutError 5" in shown
        assert "$5.00" in shown
        assert "the last 24h" in shown


def test_metrics_are_there_for_programs_too(at) -> None:
    found = json.loads(succeed("metrics", "show", "gpt-4o", "--json", "-t", "1h", *at))
    assert found["success_rate"] == 75
    assert found["cost"]["total"] == "5.00"


def test_health_is_shown_for_all_and_explained_for_one(at) -> None:
    shown = succeed("health", *at)
    assert "60" in shown
    assert "5 of 20 requests failed" in shown
    assert "unknown: 0 requests were put to it" in shown
    assert json.loads(succeed("health", "--json", *at)) == {"gpt-4o": 60, "idle": None}
    one = succeed("health", "gpt-4o", *at)
    assert "-40 of -40" in one
    assert "gpt-4o: 60 of 100" in one
    assert json.loads(succeed("health", "gpt-4o", "--json", *at))["score"] == 60


def test_a_rebuild_counts_the_log_anew(at, database) -> None:
    succeed("metrics", "show", *at)
    with psycopg.connect(database.conninfo) as connection:
        connection.execute("DELETE FROM ai_requests WHERE status = 'error'")
    assert "20 (5 errors)" in succeed("metrics", "show", *at)
    assert "1 days of the log were counted" in succeed("metrics", "rebuild", *at[:2])
    assert "100 %" in succeed("metrics", "show", *at)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["metrics", "show", "-t", "tomorrow"], "time_range must be a duration"),
        (["metrics", "show", "gpt-5"], "no model 'gpt-5'"),
        (["health", "gpt-5"], "no model 'gpt-5'"),
    ],
)
def test_mistakes_are_named_without_a_traceback(at, arguments, told) -> None:
    result = CliRunner().invoke(app, [*arguments, *at])
    assert result.exit_code == 1
    assert told in result.stderr
    assert "Traceback" not in result.output


def test_an_older_schema_is_named(empty_database) -> None:
    for command in (["metrics", "show"], ["metrics", "rebuild"], ["health"]):
        result = CliRunner().invoke(app, [*command, "--database-url", empty_database.conninfo])
        assert result.exit_code == 1
        assert "novellus db migrate" in result.stderr
