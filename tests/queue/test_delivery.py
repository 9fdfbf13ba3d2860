"""The schema of the queue: made once, upgraded, removed, and nobody else's."""

from __future__ import annotations

import re
import subprocess
import sys

import psycopg
import pytest
from procrastinate.schema import SchemaManager

from novellus_lab.errors import MissingDependencyError, StoreError
from novellus_lab.store.admin import reset
from tests.lab.conftest import openai_model

PUT = """
import sys
from novellus_lab import Lab
models = [{"provider": "replay", "model_name": "gpt-4-1106-preview"}]
with Lab(home=sys.argv[1], database_url=sys.argv[2], config={"models": models}) as lab:
    print(lab.queue_request({"prompt": "x"}).status())
"""


def value(database, query):
    with psycopg.connect(database.conninfo) as connection:
        return connection.execute(query).fetchone()[0]


def test_processes_that_use_the_queue_first_make_it_together(empty_database, tmp_path):
    putting = [
        subprocess.Popen(
            [sys.executable, "-c", PUT, tmp_path / f"home{n}", empty_database.conninfo],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(3)
    ]
    assert [process.communicate(timeout=120)[0] for process in putting] == ["queued\n"] * 3
    assert value(empty_database, "SELECT count(*) FROM novellus_queue.procrastinate_jobs") == 3


def test_the_procrastinate_of_another_application_is_left_alone(make_lab, database):
    with psycopg.connect(database.conninfo) as connection:
        connection.execute(SchemaManager.get_schema())
    lab = make_lab(openai_model("gpt-4o", "http://127.0.0.1:9"))
    lab.queue_request({"prompt": "x"})
    assert value(database, "SELECT count(*) FROM public.procrastinate_jobs") == 0
    lab.close()
    reset(database)
    assert value(database, "SELECT count(*) FROM public.procrastinate_jobs") == 0
    assert value(database, "SELECT to_regnamespace('novellus_queue')") is None
    assert value(database, "SELECT count(*) FROM ai_jobs") == 0


def test_an_older_schema_gets_what_came_since(make_lab, database):
    with psycopg.connect(database.conninfo, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA novellus_queue")
        connection.execute("SET search_path = novellus_queue")
        # What 3.4 brought is taken away again.
        today = SchemaManager.get_schema()
        connection.execute(re.sub(r"'scheduled', (--.*)\n\s*'retried'.*", r"'scheduled' \1", today))
        connection.execute("DROP FUNCTION procrastinate_retry_job_v2")
        connection.execute("COMMENT ON SCHEMA novellus_queue IS 'procrastinate 3.3.0'")
    make_lab(openai_model("gpt-4o", "http://127.0.0.1:9")).queue_request({"prompt": "y"})
    assert value(database, "SELECT count(*) FROM novellus_queue.procrastinate_jobs") == 1
    assert value(
        database, "SELECT to_regproc('novellus_queue.procrastinate_retry_job_v2') IS NOT NULL"
    )


def test_who_may_not_make_the_schema_is_told_who_can(make_lab, database):
    with psycopg.connect(database.conninfo, autocommit=True) as connection:
        connection.execute("CREATE ROLE no_maker LOGIN")
        connection.execute("GRANT pg_read_all_data, pg_write_all_data TO no_maker")
        connection.execute("GRANT ALL ON SCHEMA public TO no_maker")
    login = psycopg.conninfo.make_conninfo(database.conninfo, user="no_maker")
    try:
        lab = make_lab(openai_model("gpt-4o", "http://127.0.0.1:9"), database_url=login)
        with pytest.raises(StoreError, match=r"CREATE SCHEMA novellus_queue AUTHORIZATION"):
            lab.queue_request({"prompt": "x"})
        lab.close()
    finally:
        with psycopg.connect(database.conninfo, autocommit=True) as connection:
            connection.execute("DROP OWNED BY no_maker CASCADE")
            connection.execute("DROP ROLE no_maker")


def test_without_its_library_the_queue_says_what_to_install(make_lab, monkeypatch):
    monkeypatch.setitem(sys.modules, "procrastinate", None)
    lab = make_lab(openai_model("gpt-4o", "http://127.0.0.1:9"))
    with pytest.raises(MissingDependencyError, match=r"novellus_lab\[queue\]"):
        lab.queue_request({"prompt": "x"})
