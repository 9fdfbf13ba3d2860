"""`ai_models` and `load_balancing_rules` tell what meant what, when."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import pytest

from novellus_lab.store.mirror import sync_models, sync_rules
from tests.store.sample_records import read

MODELS = "ai_models"
RULES = "load_balancing_rules"


def model(name: str, **config: Any) -> dict[str, Any]:
    return {
        "model_id": name,
        "provider": "openai",
        "model_name": name,
        "config": {"provider": "openai", "model_name": name, **config},
    }


def rule(name: str, **config: Any) -> dict[str, Any]:
    return {"name": name, "config": {"name": name, **config}}


@pytest.fixture
def connection(database):
    with psycopg.connect(database.conninfo, autocommit=True) as connection:
        yield connection


def test_a_model_is_recorded_with_its_configuration(database, connection):
    sync_models(connection, [model("gpt-4o", weight=2)])
    [row] = read(database, MODELS)
    assert (row["model_id"], row["provider"], row["model_name"]) == ("gpt-4o", "openai", "gpt-4o")
    assert row["config"]["weight"] == 2
    assert row["valid_to"] is None


def test_no_change_makes_no_new_version(database, connection):
    for weights in ({"a": 1, "b": 2}, {"b": 2, "a": 1}):
        sync_models(connection, [model("gpt-4o", weights=weights), model("gpt-4")])
        sync_rules(connection, [rule("r", models=["gpt-4"])])
    assert len(read(database, MODELS)) == 2
    assert len(read(database, RULES)) == 1


def test_a_change_ends_one_version_where_the_next_begins(database, connection):
    for weight in (1, 2, 3):
        sync_models(connection, [model("gpt-4o", weight=weight), model("other")])
    rows = [row for row in read(database, MODELS) if row["model_id"] == "gpt-4o"]
    assert [row["config"]["weight"] for row in rows] == [1, 2, 3]
    assert [row["valid_to"] for row in rows] == [rows[1]["valid_from"], rows[2]["valid_from"], None]
    assert rows[0]["valid_from"] < rows[1]["valid_from"] < rows[2]["valid_from"]
    assert len(read(database, MODELS)) == 4


def test_models_of_another_yaml_stay(database, connection):
    sync_models(connection, [model("gpt-4o")])
    sync_models(connection, [model("claude")])
    assert [row["valid_to"] for row in read(database, MODELS)] == [None, None]


def test_a_rule_that_moves_is_a_new_version(database, connection):
    sync_rules(connection, [rule("first"), rule("second")])
    sync_rules(connection, [rule("second"), rule("first")])
    current = [row for row in read(database, RULES, "position") if row["valid_to"] is None]
    assert [(row["name"], row["position"]) for row in current] == [("second", 0), ("first", 1)]
    assert len(read(database, RULES)) == 4


def test_what_jsonb_can_not_hold_is_replaced_and_compared_alike(database, connection):
    for _ in range(2):
        sync_models(connection, [model("m", note="a\x00\ud800b", price=10**30)])
    [row] = read(database, MODELS)
    assert row["config"]["note"] == "a\ufffd\ufffdb"


def test_processes_that_start_together_record_one_version(database):
    errors: list[BaseException] = []
    start = threading.Barrier(6)

    def work(weight: int) -> None:
        try:
            with psycopg.connect(database.conninfo, autocommit=True) as own:
                start.wait()
                for _ in range(5):
                    sync_models(own, [model(f"m{n}", weight=weight) for n in range(5)])
        except BaseException as error:
            errors.append(error)

    for weights in ([1] * 6, [1, 2, 1, 2, 1, 2]):
        threads = [threading.Thread(target=work, args=(weight,)) for weight in weights]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        if weights == [1] * 6:
            assert len(read(database, MODELS)) == 5
    history: dict[str, list[dict[str, Any]]] = {}
    for row in read(database, MODELS):
        history.setdefault(row["model_id"], []).append(row)
    for versions in history.values():
        ends = [row["valid_to"] for row in versions]
        assert ends == [*(row["valid_from"] for row in versions[1:]), None]


def test_a_user_who_may_not_write_is_told_and_goes_on(database, connection, caplog):
    connection.execute("SET default_transaction_read_only = on")
    sync_models(connection, [model("gpt-4o")])
    connection.execute("SET default_transaction_read_only = off")
    assert "the configuration is not recorded in ai_models" in caplog.text
    assert read(database, MODELS) == []


def test_a_version_recorded_by_one_who_waited_begins_after_the_one_before_it(database, connection):
    with psycopg.connect(database.conninfo) as waited:
        waited.execute("SELECT now()")  # its transaction began first, and writes last
        sync_models(connection, [model("m", weight=1)])
        sync_models(waited, [model("m", weight=2)])
    first, second = read(database, MODELS)
    assert first["valid_from"] < first["valid_to"] == second["valid_from"]
