"""Opening a database: fresh, old, new, foreign, out of reach; and its monthly partitions."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from novellus_lab import Lab
from novellus_lab.errors import (
    ConfigurationError,
    ExtensionMissingError,
    HomeNotWritableError,
    SchemaVersionError,
    StoreError,
    StoreUnavailableError,
)
from novellus_lab.store import migrate as migrating
from novellus_lab.store.database import open_database, resolve_home
from novellus_lab.store.migrate import Migration, latest_version, migrate, migrations
from novellus_lab.store.request_log import RequestLog
from tests.store.sample_records import attempt, read, record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from novellus_lab.store.database import Database

TABLES = {
    "ai_models", "load_balancing_rules", "ai_requests", "ai_request_attempts", "ai_response_cache",
    "ai_response_cache_removals", "ai_call_leases", "ai_call_lease_holders",
    "ai_budgets", "ai_budget_periods", "ai_budget_reservations",
    "ai_cache_calibrations", "ai_cache_judgements", "ai_routers",
    "model_performance_metrics", "ai_rollup_progress",
    "ai_jobs", "ai_queue_workers", "ai_sessions", "ai_session_turns",
    "ai_anomalies", "ai_anomaly_notices",
    "ai_experiments", "ai_experiment_observations", "ai_scores",
    "ai_provider_batches", "ai_provider_batch_parts", "ai_provider_batch_items",
    "ai_imported_usage", "ai_log_segments", "novellus_schema_migrations",
}  # fmt: skip
SECRET = "s3cr-t/pass"


def execute(database: Database, *statements: str) -> None:
    with psycopg.connect(database.conninfo, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def value(database: Database, query: str) -> Any:
    with psycopg.connect(database.conninfo) as connection:
        row = connection.execute(query.encode()).fetchone()
        return None if row is None else row[0]


def tables(database: Database) -> set[str]:
    return set(value(database, "SELECT array_agg(relname::text) FROM pg_class "
                               "WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') "
                               "AND NOT relispartition") or ())  # fmt: skip


def version(database: Database) -> int:
    return int(value(database, "SELECT max(version) FROM novellus_schema_migrations"))


def migrated_to(database: Database, number: int) -> None:
    """Bring an empty database to a version, as an older package would have."""
    execute(database, "CREATE EXTENSION vector", migrating._TABLE)
    for one in migrations()[:number]:
        execute(
            database,
            one.sql,
            "INSERT INTO novellus_schema_migrations (version, name, checksum) "
            f"VALUES ({one.version}, '{one.name}', '{one.checksum}')",
        )


@pytest.fixture
def open_(tmp_path: Path) -> Callable[..., Database]:
    def open_it(database: Database | str, **options: Any) -> Database:
        url = database if isinstance(database, str) else database.conninfo
        return open_database(resolve_home(tmp_path / "home"), url, **options)

    return open_it


@pytest.fixture
def role(server: Database) -> Iterator[Callable[..., str]]:
    """Make users without any right; return how to log in as one."""
    made: list[tuple[str, Database]] = []

    def make(database: Database, *statements: str) -> str:
        name = f"user_{len(made)}"
        made.append((name, database))
        execute(
            database,
            f"DROP ROLE IF EXISTS {name}",
            f"CREATE ROLE {name} LOGIN",
            *(statement.format(role=name) for statement in statements),
        )
        return make_conninfo(database.conninfo, user=name)

    yield make
    for name, database in made:
        execute(database, f"DROP OWNED BY {name} CASCADE", f"DROP ROLE {name}")


# --- fresh, old, new -----------------------------------------------------------------------------


def test_a_fresh_database_gets_the_whole_schema(empty_database, open_):
    open_(empty_database)
    assert tables(empty_database) == TABLES
    assert version(empty_database) == latest_version()


def test_opening_it_again_changes_nothing(empty_database, open_):
    open_(empty_database)
    before = value(empty_database, "SELECT array_agg(applied_at) FROM novellus_schema_migrations")
    open_(empty_database)
    assert migrate(empty_database.conninfo) == []
    after = value(empty_database, "SELECT array_agg(applied_at) FROM novellus_schema_migrations")
    assert before == after


def test_each_table_and_its_columns_that_need_it_are_explained(database):
    explained = value(
        database,
        "SELECT array_agg(relname::text) FROM pg_class WHERE obj_description(oid) IS NOT NULL "
        "AND relnamespace = 'public'::regnamespace",
    )
    assert set(explained) >= TABLES - {"novellus_schema_migrations"}


def test_processes_that_start_together_migrate_once(empty_database, tmp_path):
    program = (
        "import sys; from pathlib import Path\n"
        "from novellus_lab.store.database import open_database, resolve_home\n"
        "open_database(resolve_home(sys.argv[1]), sys.argv[2])"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, tmp_path / f"home{n}", empty_database.conninfo],
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(3)
    ]
    assert [process.communicate(timeout=120)[1] for process in processes] == [""] * 3
    assert [process.returncode for process in processes] == [0] * 3
    assert tables(empty_database) == TABLES


@pytest.mark.parametrize("have", range(1, latest_version()))
def test_an_older_schema_is_brought_up_to_date_with_its_rows(empty_database, open_, have):
    migrated_to(empty_database, have)
    execute(
        empty_database,
        "INSERT INTO ai_models (model_id, provider, model_name, config, config_hash) "
        "VALUES ('gpt-4o', 'openai', 'gpt-4o', '{}', '')",
    )
    open_(empty_database)
    assert version(empty_database) == latest_version()
    assert value(empty_database, "SELECT model_id FROM ai_models") == "gpt-4o"


def test_an_older_schema_is_an_error_where_it_may_not_be_migrated(empty_database, open_):
    migrated_to(empty_database, 1)
    with pytest.raises(
        SchemaVersionError, match=rf"{latest_version() - 1} versions old: run `novellus"
    ):
        open_(empty_database, may_migrate=False)
    assert version(empty_database) == 1


def test_a_newer_schema_is_refused_and_left_alone(database, open_):
    execute(
        database,
        "INSERT INTO novellus_schema_migrations (version, name, checksum) VALUES (999, 'x', 'x')",
    )
    with pytest.raises(SchemaVersionError, match=r"is version 999.*upgrade novellus_lab"):
        open_(database)
    with pytest.raises(SchemaVersionError, match="999"):
        migrate(database.conninfo)


def test_a_schema_of_another_build_is_refused(database, open_):
    execute(database, "UPDATE novellus_schema_migrations SET checksum = 'x' WHERE version = 2")
    with pytest.raises(SchemaVersionError, match=r"migration 0002 \(request_log\) differs"):
        open_(database)


def test_a_migration_that_fails_leaves_the_version_before_it(empty_database, open_, monkeypatch):
    broken = Migration(
        latest_version() + 1, "broken", "CREATE TABLE half (id int); CREATE TABLE half (id int);"
    )
    known = (*migrations(), broken)
    monkeypatch.setattr(migrating, "migrations", lambda: known)
    with pytest.raises(StoreError, match=r"broken failed .*already exists.*Nothing of it"):
        open_(empty_database)
    assert version(empty_database) == latest_version() - 1
    assert "half" not in tables(empty_database)


def test_the_schema_is_public_whatever_the_users_search_path(empty_database, open_, role, tmp_path):
    execute(empty_database, "CREATE EXTENSION vector")
    login = role(
        empty_database,
        "GRANT CREATE, USAGE ON SCHEMA public TO {role}",
        "CREATE SCHEMA own AUTHORIZATION {role}",
        "ALTER ROLE {role} SET search_path = own",
    )
    database = open_(login)
    assert tables(empty_database) == TABLES
    with Lab(home=tmp_path / "home", database_url=login, config=REPLAY) as lab:
        lab.complete("Hi", timeout=60)
        assert len(lab.requests()) == 1
    assert migrate(database.conninfo) == []


REPLAY = {"models": [{"provider": "replay", "model_name": "gpt-4-1106-preview"}]}
"""Answers that were recorded."""


# --- what a server may lack ----------------------------------------------------------------------


def test_a_server_without_pgvector_is_told_apart_and_left_alone(empty_database, open_):
    execute(
        empty_database,
        f"ALTER DATABASE {empty_database.identity} SET extension_control_path = '/nowhere'",
    )
    with pytest.raises(ExtensionMissingError, match=r"has no pgvector.*docker/postgres"):
        open_(empty_database)
    assert tables(empty_database) == set()


def test_a_user_who_may_not_enable_pgvector_is_told_who_can(empty_database, open_, role):
    login = role(empty_database, "GRANT CREATE, USAGE ON SCHEMA public TO {role}")
    with pytest.raises(
        ExtensionMissingError, match=r"'user_0' may not enable it.*CREATE EXTENSION"
    ):
        open_(login)


def test_pgvector_may_live_in_another_schema(empty_database, open_):
    execute(
        empty_database,
        "CREATE SCHEMA extensions",
        "CREATE EXTENSION vector SCHEMA extensions",
        f"ALTER DATABASE {empty_database.identity} SET search_path = public, extensions",
    )
    open_(empty_database)
    assert tables(empty_database) == TABLES


def test_a_user_who_may_not_migrate_is_told_who_can(empty_database, open_, role):
    migrated_to(empty_database, 1)
    login = role(
        empty_database,
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}",
    )
    with pytest.raises(SchemaVersionError, match=r"'user_0' may not migrate.*novellus db migrate"):
        open_(login)


def test_a_user_who_may_not_even_read_is_told_so(database, open_, role):
    login = role(database)
    with pytest.raises(StoreUnavailableError, match=r"permission denied for table"):
        open_(login)


def test_an_analyst_may_look_at_a_database_that_he_may_not_write(
    database, open_, role, tmp_path, caplog
):
    log = RequestLog(database.conninfo, tmp_path / "spool")
    log.append(one := record(created_at=datetime.now(UTC)))
    log.close()
    login = role(database, "GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
    with Lab(home=tmp_path / "home", database_url=login, config=REPLAY) as lab:
        assert lab.requests()["id"].to_list() == [str(one.id)]
        assert lab.complete("Hi", timeout=60).content
        with pytest.raises(StoreUnavailableError, match="permission denied"):
            lab.flush(0.5)
    assert "the configuration is not recorded in ai_models" in caplog.text


def test_a_standby_can_not_be_migrated(empty_database, open_):
    execute(empty_database, "CREATE EXTENSION vector")
    url = make_conninfo(empty_database.conninfo, options="-c default_transaction_read_only=on")
    with pytest.raises(StoreUnavailableError, match=r"is read-only.*primary"):
        open_(url)


def test_a_database_of_another_encoding_is_refused(server, open_):
    with psycopg.connect(server.conninfo, autocommit=True, dbname="postgres") as connection:
        connection.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
        try:
            with pytest.raises(StoreError, match=r"encoding LATIN1.*ENCODING 'UTF8'"):
                open_(make_conninfo(server.conninfo, dbname="latin"))
        finally:
            connection.execute("DROP DATABASE latin WITH (FORCE)")


# --- out of reach --------------------------------------------------------------------------------


@pytest.fixture
def locked_out(server: Database) -> Iterator[str]:
    """A user whom the server asks for a password; return the URL of another password."""
    assert server.server is not None
    rules = server.server.data / "pg_hba.conf"
    before = rules.read_text()
    execute(server, "CREATE ROLE locked LOGIN PASSWORD 'right'")
    rules.write_text(f"local all locked scram-sha-256\n{before}")
    execute(server, "SELECT pg_reload_conf()")
    yield make_conninfo(server.conninfo, user="locked", password=SECRET)
    rules.write_text(before)
    execute(server, "SELECT pg_reload_conf()", "DROP ROLE locked")


def test_a_wrong_password_is_not_shown(locked_out, open_):
    with pytest.raises(
        StoreUnavailableError, match=r"password authentication failed.*Check user"
    ) as e:
        open_(locked_out)
    assert SECRET not in repr(e.value)
    assert e.value.__suppress_context__


@pytest.mark.parametrize(
    ("url", "error", "said"),
    [
        (f"postgresql://u:{SECRET.replace('/', '%2F')}@127.0.0.1:1/d", StoreUnavailableError,
         r"at 127.0.0.1:1/d can't be used: Connection refused"),
        (f"postgresql://u:{SECRET.replace('/', '%2F')}@no-such-host.invalid/d",
         StoreUnavailableError, r"no-such-host.invalid:5432/d can't be used"),
        (f"host=/nowhere user=u password={SECRET}", StoreUnavailableError, "No such file"),
        (f"mysql://u:{SECRET}@host/d", ConfigurationError, "no PostgreSQL URL"),
        (f"u:{SECRET}@host", ConfigurationError, "no PostgreSQL URL"),
        (f"postgresql://u:{SECRET}@host:5432/d", ConfigurationError, "percent-encoded"),
        (f"postgresql://u:p@{SECRET}@host/d", ConfigurationError, "percent-encoded"),
        (f"postgresql://u:p@{SECRET.replace('/', '')}@host/d", ConfigurationError, "percent-enc"),
        (f"postgresql://u:{SECRET.replace('/', '%2F')}@host/d?nonsense=1", ConfigurationError,
         "no PostgreSQL URL"),
    ],
)  # fmt: skip
def test_what_can_not_be_reached_is_named_without_its_password(open_, url, error, said):
    with pytest.raises(error, match=said) as caught:
        open_(url)
    shown = f"{caught.value!r} {caught.value.__cause__!r}"
    assert SECRET not in shown
    assert SECRET.replace("/", "%2F") not in shown


def test_a_database_that_does_not_exist_is_to_be_created(server, open_):
    url = make_conninfo(server.conninfo, dbname="absent")
    with pytest.raises(StoreUnavailableError, match=r'"absent" does not exist\. Create it'):
        open_(url)


def test_the_password_is_not_in_a_databases_repr(database, open_):
    opened = open_(make_conninfo(database.conninfo, password=SECRET))
    assert SECRET not in repr(opened)
    assert SECRET not in opened.where


def test_a_home_that_can_not_be_used_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HomeNotWritableError, match=r"file/home can't be used as home"):
        resolve_home(tmp_path / "file" / "home")


def test_databases_have_spools_of_their_own(database, empty_database, open_):
    first, again, second = open_(database), open_(database), open_(empty_database)
    assert first.identity == again.identity != second.identity


# --- partitions ----------------------------------------------------------------------------------


def partition_of(database: Database, table: str, column: str, moment: datetime) -> str:
    return str(
        value(database, f"SELECT tableoid::regclass::text FROM {table} WHERE {column} = '{moment}'")
    )


def month_after(moment: datetime, months: int) -> datetime:
    index = moment.year * 12 + moment.month - 1 + months
    return moment.replace(year=index // 12, month=index % 12 + 1, day=15)


@pytest.mark.parametrize("months", [0, 1, 2])
def test_this_month_and_the_next_ones_have_partitions(database, tmp_path, months):
    moment = month_after(datetime.now(UTC), months)
    log = RequestLog(database.conninfo, tmp_path / "spool")
    log.append(record(created_at=moment, attempts=(attempt(started_at=moment),)))
    log.close()
    name = f"{moment:%Y_%m}"
    assert partition_of(database, "ai_requests", "created_at", moment) == f"ai_requests_{name}"
    assert (
        partition_of(database, "ai_request_attempts", "started_at", moment)
        == f"ai_request_attempts_{name}"
    )


@pytest.mark.parametrize("days", [-400, 4_000])
def test_rows_of_other_months_are_kept_all_the_same(database, tmp_path, days):
    moment = datetime.now(UTC) + timedelta(days=days)
    log = RequestLog(database.conninfo, tmp_path / "spool")
    log.append(record(created_at=moment, attempts=(attempt(started_at=moment),)))
    log.close()
    assert partition_of(database, "ai_requests", "created_at", moment) == "ai_requests_default"
    assert len(read(database)) == len(read(database, "ai_request_attempts")) == 1


def test_the_log_makes_the_partitions_that_are_missing(database, tmp_path):
    moment = month_after(datetime.now(UTC), 2)
    execute(database, f"DROP TABLE ai_requests_{moment:%Y_%m}")
    log = RequestLog(database.conninfo, tmp_path / "spool")
    log.append(record(created_at=moment))
    log.close()
    name = partition_of(database, "ai_requests", "created_at", moment)
    assert name == f"ai_requests_{moment:%Y_%m}"


def test_migrating_makes_them_too(database):
    moment = month_after(datetime.now(UTC), 2)
    execute(database, f"DROP TABLE ai_requests_{moment:%Y_%m}")
    assert migrate(database.conninfo) == []
    assert value(database, f"SELECT to_regclass('ai_requests_{moment:%Y_%m}') IS NOT NULL")


def test_a_month_whose_rows_are_in_the_default_partition_stays_there(database, tmp_path):
    moment = month_after(datetime.now(UTC), 2)
    execute(database, f"DROP TABLE ai_requests_{moment:%Y_%m}")
    execute(
        database,
        "INSERT INTO ai_requests (id, created_at, kind, stream, status, cache, attempts) "
        f"VALUES (gen_random_uuid(), '{moment}', 'chat', false, 'ok', 'off', 0)",
    )
    execute(database, "SELECT novellus_ensure_partitions(3)")
    assert partition_of(database, "ai_requests", "created_at", moment) == "ai_requests_default"
    later = month_after(datetime.now(UTC), 3)
    assert value(database, f"SELECT to_regclass('ai_requests_{later:%Y_%m}') IS NOT NULL")


def test_a_long_query_holds_neither_the_partitions_nor_the_log_up(database, tmp_path):
    moment = month_after(datetime.now(UTC), 2)
    execute(database, f"DROP TABLE ai_requests_{moment:%Y_%m}")
    log = RequestLog(database.conninfo, tmp_path / "spool")
    with psycopg.connect(database.conninfo) as reading:
        reading.execute("SELECT count(*) FROM ai_requests")
        log.append(record())
        log.flush(60)
    log.close()
    assert len(read(database)) == 1
