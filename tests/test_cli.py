"""`novellus`: what it prints, what it changes, and how it ends."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from typer.testing import CliRunner

import novellus_lab
from novellus_lab.cli import app
from novellus_lab.store import spool
from novellus_lab.store.copy_text import record_lines
from novellus_lab.store.migrate import latest_version
from novellus_lab.store.request_log import RequestLog
from tests.store.sample_records import attempt, logged_ids, read, record

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

    from novellus_lab.store.database import Database

SECRET = "sk-do-not-show-me"


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")


def run(*arguments: Any, **options: Any) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], **options)


def succeed(*arguments: Any, **options: Any) -> str:
    result = run(*arguments, **options)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def fail(*arguments: Any, **options: Any) -> str:
    """Return what a command says that ends with 1: a message for people, no traceback."""
    result = run(*arguments, **options)
    assert result.exit_code == 1
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    return result.stderr


# --- models --------------------------------------------------------------------------------------


MODELS = """
models:
  - {provider: anthropic, model_name: claude-a}
  - {provider: anthropic, model_name: claude-b}
  - {provider: openai, model_name: gpt-a, context_window: 128000, weight: 3}
  - {provider: openai, model_name: gpt-b, weight: 0}
  - {provider: openai, model_name: gpt-c, enabled: false}
  - {provider: openai, model_name: vectors, capabilities: [embedding]}
"""


@pytest.fixture
def config(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    path = tmp_path / "models.yaml"
    path.write_text(MODELS)
    return path


def test_models_come_by_provider_the_callable_first_with_each_reason_once(config):
    shown = succeed("models", "--config", config)
    blocks = [block.splitlines() for block in shown.strip().split("\n\n")]
    assert [block[0] for block in blocks[:-1]] == [
        "● openai",
        "○ anthropic  CLAUDE_API_KEY or ANTHROPIC_API_KEY is not set",
        "○ openai  enabled is false in the configuration",
    ]
    assert [re.split(r"\s{2,}", line.strip()) for line in blocks[0][1:]] == [
        ["gpt-a", "128,000", "routed, weight 3"],
        ["gpt-b", "by name only"],
        ["vectors", "embeddings"],
    ]
    assert [line.strip() for line in blocks[1][1:]] == ["claude-a", "claude-b"]
    assert "models.yaml; 1 routed automatically" in blocks[-1][-1]


def test_models_fit_a_narrow_terminal():
    shown = succeed("models")
    long = [line for line in shown.splitlines() if len(line) > 80]
    assert all(line.startswith("○") for line in long)  # only a reason may be longer
    assert "replay/mixtral-8x7b-instruct" in shown
    assert "recorded answers stand in" in shown


def test_models_are_there_for_programs_too(config):
    listed = {
        one["model_id"]: one for one in json.loads(succeed("models", "--config", config, "--json"))
    }
    assert listed["gpt-a"] == {
        "model_id": "gpt-a",
        "provider": "openai",
        "model_name": "gpt-a",
        "available": True,
        "unavailable_because": None,
        "routed": True,
        "capabilities": listed["gpt-a"]["capabilities"],
        "weight": 3.0,
        "context_window": 128_000,
    }
    assert listed["claude-a"]["available"] is False
    assert "ANTHROPIC_API_KEY" in listed["claude-a"]["unavailable_because"]
    assert listed["vectors"]["weight"] is None
    assert (listed["gpt-b"]["routed"], listed["gpt-b"]["available"]) == (False, True)


def test_models_show_no_key(config):
    for more in ((), ("--json",)):
        assert SECRET not in succeed("models", "--config", config, *more)


def test_a_mistake_in_the_yaml_is_named(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("models:\n  - {provider: openai}\n")
    assert "bad.yaml, line 2: models[0]" in fail("models", "--config", path)
    assert "absent.yaml" in fail("models", "--config", tmp_path / "absent.yaml")


# --- the command itself --------------------------------------------------------------------------


def test_the_version_is_the_packages():
    assert succeed("--version") == f"novellus_lab {novellus_lab.__version__}\n"


@pytest.mark.parametrize(
    "command",
    [
        "",
        "models",
        "migrate",
        "db",
        "db status",
        "db migrate",
        "db reset",
        "db psql",
        "health",
        "metrics show",
    ],
)
def test_each_command_says_what_it_does(command):
    shown = succeed(*command.split(), "--help")
    assert "Usage:" in shown
    assert len(shown.split("\n\n")) > 1


@pytest.mark.parametrize("wrong", ["nonsense", "db nonsense", "models --nonsense", "db status x"])
def test_a_wrong_command_ends_with_2(wrong):
    assert run(*wrong.split()).exit_code == 2


def test_it_runs_as_a_program_and_as_a_module():
    for command in (["-m", "novellus_lab.cli", "--version"],):
        done = subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, check=True
        )
        assert done.stdout == f"novellus_lab {novellus_lab.__version__}\n"


# --- db ------------------------------------------------------------------------------------------


def at(database: Database) -> list[str]:
    return ["--database-url", database.conninfo]


def log_some(database: Database, tmp_path: Path, count: int = 3) -> None:
    log = RequestLog(database.conninfo, tmp_path / "log spool")
    for _ in range(count):
        log.append(record(attempts=(attempt(),)))
    log.close()


@pytest.mark.parametrize("command", [["migrate"], ["db", "migrate"]])
def test_migrate_brings_the_schema_up_to_date_and_says_so(empty_database, command):
    first = succeed(*command, *at(empty_database))
    assert first.count("applied ") == latest_version()
    assert f"schema version {latest_version()}" in first
    again = succeed(*command, *at(empty_database))
    assert "applied" not in again


def test_status_of_an_older_schema_says_what_to_do(empty_database):
    shown = succeed("db", "status", *at(empty_database))
    assert "version 0" in shown
    assert "run `novellus db migrate`" in shown
    with psycopg.connect(empty_database.conninfo) as connection:
        [found] = connection.execute("SELECT to_regclass('novellus_schema_migrations')").fetchall()
    assert found == (None,)


def test_status_says_what_is_in_the_database(database, tmp_path):
    log_some(database, tmp_path)
    shown = succeed("db", "status", *at(database), "--home", tmp_path / "home")
    facts = dict(
        re.split(r"\s{2,}", line, maxsplit=1) for line in shown.splitlines() if "  " in line
    )
    assert facts["schema"] == f"version {latest_version()} up to date"
    assert facts["ai_requests"].strip() == facts["ai_request_attempts"].strip() == "3"
    assert facts["ai_models"].strip() == "0"
    assert facts["spool"] == "empty"
    assert facts["server"].startswith("PostgreSQL 1")
    assert facts["pgvector"][0].isdigit()
    assert not (tmp_path / "home").exists()  # looking makes nothing


def test_status_tells_of_records_that_wait(database, tmp_path):
    from novellus_lab.store.database import reach_database

    home = tmp_path / "home"
    identity = reach_database(home, database.conninfo).identity
    segment = spool.create_segment(home / "spool" / identity)
    segment.append(record_lines(record(response="x" * 5_000)))
    shown = succeed("db", "status", *at(database), "--home", home)
    assert re.search(r"spool +5\.\d kB wait", shown)
    segment.close()


def test_status_of_a_newer_schema_says_to_upgrade(database):
    with psycopg.connect(database.conninfo) as connection:
        connection.execute("INSERT INTO novellus_schema_migrations VALUES (999, 'x', 'x')")
    assert "upgrade novellus_lab" in succeed("db", "status", *at(database))
    assert "upgrade novellus_lab" in fail("db", "migrate", *at(database))
    assert "upgrade novellus_lab" in fail("db", "reset", "--yes", *at(database))


def test_reset_asks_and_a_no_changes_nothing(database, tmp_path):
    log_some(database, tmp_path)
    result = run("db", "reset", *at(database), input="n\n")
    assert result.exit_code == 1
    assert "Delete 3 logged requests and all else" in result.output
    assert len(logged_ids(database)) == 3


@pytest.mark.parametrize(("arguments", "answer"), [([], "y\n"), (["--yes"], None), (["-y"], None)])
def test_reset_empties_what_is_ours_and_nothing_else(database, tmp_path, arguments, answer):
    log_some(database, tmp_path)
    with psycopg.connect(database.conninfo) as connection:
        connection.execute("CREATE TABLE theirs AS SELECT 1 AS one")
    shown = succeed("db", "reset", *at(database), *arguments, input=answer)
    assert "is empty and up to date" in shown
    assert logged_ids(database) == []
    assert len(read(database, "theirs", "one")) == 1


def test_a_lab_that_was_never_opened_is_not_made_by_looking(tmp_path):
    home = tmp_path / "nowhere"
    for command in ("status", "reset", "psql"):
        said = fail("db", command, "--home", home)
        assert f"there is no lab in {home}" in said
        assert "novellus db migrate" in said
    assert not home.exists()


def test_an_embedded_lab_is_made_shown_asked_and_emptied(home):
    assert f"schema version {latest_version()}" in succeed("migrate", "--home", home)
    shown = succeed("db", "status", "--home", home)
    assert f"embedded PostgreSQL in {home}" in shown
    assert "(this command)" in shown
    asked = subprocess.run(
        [sys.executable, "-m", "novellus_lab.cli", "db", "psql", "--home", str(home)],
        input="SELECT 'found ' || count(*) FROM ai_requests;\n\\q\n",
        capture_output=True,
        text=True,
        check=True,
    )
    assert "found 0" in asked.stdout
    assert "is empty and up to date" in succeed("db", "reset", "--yes", "--home", home)


def test_psql_opens_a_database_by_url_whose_password_no_list_of_processes_shows(database):
    url = make_conninfo(database.conninfo, password=SECRET)
    query = r"SELECT current_database() || ' has no ' || count(*) FROM pg_stat_activity WHERE query ~ 'sk-';"
    done = subprocess.run(
        [sys.executable, "-m", "novellus_lab.cli", "db", "psql", "--database-url", url],
        input=f"{query}\n\\! tr '\\0' ' ' < /proc/$PPID/cmdline\n",
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"{database.identity} has no" in done.stdout
    assert SECRET not in done.stdout + done.stderr
    assert "psql" in done.stdout


@pytest.mark.parametrize("command", ["status", "migrate", "reset", "psql"])
def test_a_database_out_of_reach_is_an_error_without_its_password(command):
    said = fail("db", command, "--database-url", f"postgresql://u:{SECRET}@127.0.0.1:1/d")
    assert "127.0.0.1:1/d can't be used: Connection refused" in said
    assert SECRET not in said
    assert SECRET not in fail("db", command, "--database-url", f"nonsense:{SECRET}@x/y")


def test_the_url_may_come_from_the_environment(database, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", database.conninfo)
    assert "up to date" in succeed("db", "status")


def test_a_home_that_can_not_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    assert "can't be used as home" in fail("migrate", "--home", tmp_path / "file" / "home")
