"""`novellus import` and `novellus export`, as people type them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg
from typer.testing import CliRunner

from novellus_lab.cli import app

SAMPLES = Path(__file__).parent / "data" / "imports"


def invoke(*arguments: Any, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "300"})
    assert result.exit_code == code, result.output
    return result


def count(database: Any, table: str) -> int:
    with psycopg.connect(database.conninfo) as connection:
        row = connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
        return row[0] if row else 0


def test_import_look_import_again_export_and_back(database, tmp_path):
    at = ["--database-url", database.conninfo, "--home", tmp_path / "home"]
    dry = invoke("import", SAMPLES, "--dry-run", *at).stdout
    assert "dry run: nothing is written" in dry
    assert "3 calls" in dry
    assert count(database, "ai_requests") == 0
    told = invoke("import", SAMPLES, *at).stdout
    assert "3 calls: 3 new, 0 were in the log already" in told
    assert "kept apart in ai_imported_usage: 13 new, 0 changed" in told
    assert "gpt-4o" in told
    facts = json.loads(invoke("import", SAMPLES, "--json", *at).stdout)
    assert (facts["new"], facts["already_there"], facts["new_buckets"]) == (0, 3, 0)
    assert count(database, "ai_requests") == 3
    out = tmp_path / "out"
    told = invoke("export", "--since", "2024-01-01", "--to", out, *at).stdout
    assert "3 requests and 3 attempts of 3 days" in told
    with psycopg.connect(database.conninfo) as connection:
        connection.execute("TRUNCATE ai_requests, ai_request_attempts")
    assert "3 calls: 3 new" in invoke("import", out, *at).stdout


def test_bad_rows_are_told_and_strict_is_an_error(database, tmp_path):
    at = ["--database-url", database.conninfo, "--home", tmp_path / "home"]
    path = tmp_path / "rows.jsonl"
    path.write_text(
        '{"created_at": "2026-01-01", "model": "m"}\n{"created_at": "x", "model": "m"}\n'
    )
    result = invoke("import", path, *at)
    assert f"{path}:2: created_at is no time: 'x'" in result.stderr
    assert "strict" in invoke("import", path, "--strict", *at, code=1).stderr
    assert "there is no file" in invoke("import", tmp_path / "none.csv", *at, code=1).stderr


def test_the_first_day_needs_no_lab_before(new_home):
    home = new_home("first")
    told = invoke("import", SAMPLES / "litellm_spend_log.json", "--home", home).stdout
    assert "1 call: 1 new" in told
    assert json.loads(invoke("metrics", "show", "--json", "--home", home).stdout) is not None
