"""What comes of other tools' files: rows of the log, or sums, each once."""

from __future__ import annotations

import csv
import gzip
import io
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row

from novellus_lab.analytics import frames
from novellus_lab.analytics.imports.importing import import_files
from novellus_lab.errors import InvalidRequestError, StoreUnavailableError
from novellus_lab.monitoring import rollups
from novellus_lab.pipeline.recording import ContentPolicy
from novellus_lab.pricing import PriceBook
from tests.analytics.conftest import asked

DATA = Path(__file__).parents[2] / "data"
SAMPLES = DATA / "imports"
BOOK = PriceBook()


@pytest.fixture
def imported(database):
    def run(
        *paths: Path, dry_run: bool = False, content: bool = True, known: Any = None, **options
    ):
        options.setdefault("prices", BOOK)
        return import_files(
            paths,
            conninfo=None if dry_run else database.conninfo,
            known=known or {},
            content=ContentPolicy(content, None, ("sk-a-key-in-use",)),
            **options,
        )

    return run


@pytest.fixture
def read(database):
    def rows(table: str = "ai_requests", order: str = "created_at, id") -> list[dict[str, Any]]:
        with psycopg.connect(database.conninfo, row_factory=dict_row) as connection:
            return connection.execute(f"SELECT * FROM {table} ORDER BY {order}").fetchall()

    return rows


@pytest.fixture
def file(tmp_path):
    def write(text: str | list[dict[str, Any]], name: str = "rows.jsonl") -> Path:
        if not isinstance(text, str):
            text = "".join(json.dumps(row) + "\n" for row in text)
        path = tmp_path / name
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        return path

    return write


def spend(**changes: Any) -> dict[str, Any]:
    """A row of LiteLLM's spend logs."""
    row = json.loads((SAMPLES / "litellm_spend_log.json").read_text())
    return {**row, "cache_key": "7f", **changes}


# --- LiteLLM ---------------------------------------------------------------------------------


def test_a_row_of_litellms_spend_logs_is_a_request_with_one_attempt(imported, read):
    report = imported(SAMPLES / "litellm_spend_log.json")
    assert (report.calls, report.new, report.bad, report.unpriced) == (1, 1, 0, 0)
    [row] = read()
    assert row["created_at"] == datetime(2025, 1, 24, 9, 20, 46, 847000, UTC)
    assert row["id"].version == 7
    assert (row["model"], row["provider"], row["kind"]) == ("gpt-4o", "openai", "chat")
    assert (row["status"], row["cache"], row["stream"]) == ("ok", "off", False)
    assert (row["input_tokens"], row["output_tokens"]) == (10, 20)
    assert row["cost_usd"] == row["uncached_cost_usd"] == Decimal("0.00022500000000000002")
    assert row["price_version"] == "litellm"
    assert row["latency_ms"] == pytest.approx(4.583)
    assert row["session_id"] == "1234567890"
    assert row["tags"] == {"imported_from": "litellm"}
    assert row["propensity"] is None
    [attempt] = read("ai_request_attempts", "id")
    assert attempt["request_id"] == row["id"]
    assert attempt["response_id"] == "chatcmpl-2283081b-dc89-41f6-93e6-d4f914774027"
    assert attempt["cost_usd"] == row["cost_usd"]


def test_importing_again_adds_nothing_whatever_form_the_rows_come_in(
    imported, read, file, tmp_path
):
    rows = [spend(request_id=f"r{i}", startTime=f"2025-01-24 09:20:{i:02}") for i in range(40)]
    first = imported(file(rows))
    assert first.new == 40
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    zipped = tmp_path / "rows.csv.gz"
    zipped.write_bytes(gzip.compress(text.getvalue().encode()))
    before = read()
    for path in (file(rows), zipped, file(json.dumps(rows, indent=1), "rows.json")):
        report = imported(path)
        assert (report.calls, report.new, report.already_there) == (40, 0, 40)
    assert read() == before
    assert len(read("ai_request_attempts", "id")) == 40


def test_a_row_of_its_database_is_the_same_call_as_in_its_logs(imported, file):
    logged, kept = spend(), spend(startTime="2025-01-24T09:20:46.847Z")
    assert imported(file([logged, kept])).new == 1


def test_a_hit_of_litellms_cache_cost_nothing_and_was_no_call(imported, read, file):
    hit = spend(cache_hit="True", spend=0.0)
    imported(file([hit]), price=True)
    [row] = read()
    assert (row["cache"], row["cost_usd"], row["attempts"]) == ("redis", 0, 0)
    assert row["uncached_cost_usd"] == Decimal("0.000225")  # 10 * 2.50 + 20 * 10 per million
    assert read("ai_request_attempts", "id") == []


def test_a_spend_of_zero_for_tokens_is_unknown_until_it_is_priced(imported, read, file):
    path = file([spend(spend=0.0)])
    report = imported(path)
    assert (report.unpriced, report.models["gpt-4o"].could_be_priced) == (1, 1)
    assert any("--price would price 1" in line for line in report.sentences())
    assert [r["cost_usd"] for r in read()] == [None]
    [attempt] = read("ai_request_attempts", "id")
    assert "--price" in attempt["unpriced_reason"]


def test_price_asks_the_book_for_the_price_of_the_day(imported, read, file):
    """gpt-4o cost 5 and 15 dollars a million until October 2024, 2.50 and 10 since."""
    old = spend(request_id="old", spend=0.0, startTime="2024-06-01 00:00:00", endTime=None)
    new = spend(request_id="new", spend=0.0)
    imported(file([old, new]), price=True)
    by_book = [
        BOOK.price(
            usage=_usage(10, 20), provider="openai", model="gpt-4o", at=row["created_at"]
        ).cost_usd
        for row in read()
    ]
    assert [row["cost_usd"] for row in read()] == by_book
    assert all(cost is not None for cost in by_book)
    assert all(row["price_version"].startswith("genai-prices") for row in read())


def _usage(received: int, produced: int) -> Any:
    from novellus_lab.types import Usage

    return Usage(input_tokens=received, output_tokens=produced)


def test_a_failure_says_which(imported, read, file):
    error = {"error_class": "RateLimitError", "error_message": "slow down", "error_code": "429"}
    failed = spend(status="failure", spend=0.0, prompt_tokens=0, completion_tokens=0, total_tokens=0,
                   metadata={"status": "failure", "error_information": error})  # fmt: skip
    imported(file([failed]))
    [row] = read()
    assert (row["status"], row["error_class"]) == ("error", "RateLimitError")
    assert row["error_message"] == "slow down"
    assert row["cost_usd"] == 0
    assert read("ai_request_attempts", "id")[0]["status_code"] == 429


def test_litellms_labels_times_and_cached_tokens_are_kept(imported, read, file):
    usage = {"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 105,
             "cache_read_input_tokens": 60, "prompt_tokens_details": {"cached_tokens": 60}}  # fmt: skip
    row = spend(
        request_tags='["jobID:214590", "nightly"]', end_user="ada", team_id="t1", model_group="fast",
        model="vertex_ai/gemini-2.5-pro", custom_llm_provider="vertex_ai",
        startTime="2025-01-24T10:00:00+01:00", endTime="2025-01-24T10:00:02+01:00",
        completionStartTime="2025-01-24T10:00:00.500+01:00", prompt_tokens=100, completion_tokens=5,
        total_tokens=105, metadata=json.dumps({"usage_object": usage, "user_api_key_alias": "web"}),
        messages=[{"role": "user", "content": "sk-a-key-in-use \x00 \ud800"}],
        response={"choices": [{"message": {"content": "Hi\x00"}}]},
    )  # fmt: skip
    imported(file([row]))
    [row] = read()
    assert row["created_at"] == datetime(2025, 1, 24, 9, tzinfo=UTC)
    assert (row["stream"], row["ttft_ms"], row["latency_ms"]) == (True, 500, 2000)
    assert (row["model"], row["provider"]) == ("gemini-2.5-pro", "google")
    assert row["requested_model"] == "fast"
    assert (row["input_tokens"], row["cached_input_tokens"]) == (100, 60)
    assert row["tags"] == {"jobID": "214590", "nightly": True, "end_user": "ada", "team_id": "t1",
                           "key_alias": "web", "imported_from": "litellm"}  # fmt: skip
    assert row["messages"] == [{"role": "user", "content": "[redacted] � �"}]
    assert row["response"] == "Hi�"


def test_content_stays_out_where_it_is_not_logged(imported, read, file):
    row = spend(messages=[{"role": "user", "content": "private"}], response='"private"')
    imported(file([row]), content=False)
    assert (read()[0]["messages"], read()[0]["response"]) == (None, None)


def test_what_is_no_call_of_a_language_model_is_left_out_and_counted(imported, read, file):
    report = imported(file([spend(), spend(request_id="b", call_type="aimage_generation")]))
    assert report.skipped == {"call_type aimage_generation": 1}
    assert len(read()) == 1


def test_what_a_file_says_can_do_nothing_to_a_terminal_or_a_page(imported, file):
    evil = "\x1b[2J<script>"
    rows = [spend(request_id=str(i), call_type=f"{evil}{i}") for i in range(60)]
    report = imported(file([*rows, spend(model=evil, spend=0.0)]), dry_run=True)
    assert len(report.skipped) == 51
    assert report.skipped["other"] == 10
    assert "\x1b" not in "".join([*report.sentences(), *report.left_out()])
    assert "<script>" not in report._repr_html_()


# --- Langfuse --------------------------------------------------------------------------------


def test_langfuses_own_exports_of_real_traces(imported, read):
    report = imported(
        SAMPLES / "langfuse_trace_pydantic_ai.json", SAMPLES / "langfuse_trace_assistants.json"
    )
    assert (report.calls, report.skipped, report.bad) == (2, {"span": 2}, 0)
    math, qa = read()
    assert qa["created_at"] == datetime(2025, 6, 6, 14, 40, 28, 562000, UTC)
    assert (qa["model"], qa["provider"]) == ("gpt-4o", "openai")
    assert qa["response_model"] == "gpt-4o-2024-08-06"
    assert (qa["input_tokens"], qa["output_tokens"]) == (31, 96)
    assert (qa["cost_usd"], qa["price_version"]) == (Decimal("0.0010375"), "langfuse")
    assert qa["latency_ms"] == 4794
    assert qa["session_id"] == "session_abc"
    assert qa["tags"] == {"dev": True, "pydantic-ai": True, "name": "chat gpt-4o",
        "trace": "pydantic-ai-qa-trace", "user": "user_123", "environment": "default",
        "imported_from": "langfuse"}  # fmt: skip
    assert qa["messages"][1]["content"] == "What is Langfuse?"
    assert qa["response"].startswith("Langfuse is a tool")
    # Nobody noted when it ended, nor whose model it is; the name tells.
    assert (math["latency_ms"], math["provider"]) == (None, "openai")
    assert math["cost_usd"] == Decimal("0.00387")
    slow = {a["request_id"]: a["latency_ms"] for a in read("ai_request_attempts", "id")}
    assert slow == {qa["id"]: 4794, math["id"]: None}


def test_langfuses_blob_export_is_the_same_call_as_its_ui_export(imported, read, file):
    imported(SAMPLES / "langfuse_trace_pydantic_ai.json")
    blob = {
        "id": "5cb389a3bdd21a6e", "trace_id": "25f4bdeebaab60e6e1bee7e8469554bc", "type": "GENERATION",
        "start_time": "2025-06-06 14:40:28.562000", "end_time": "2025-06-06 14:40:33.356000",
        "provided_model_name": "gpt-4o", "usage_details": '{"input":31,"output":96,"total":127}',
        "cost_details": '{"total":0.0010375}', "total_cost": "0.0010375", "latency": "4.794",
        "level": "DEFAULT", "metadata": "{}", "tags": '["dev"]', "completion_start_time": "",
    }  # fmt: skip
    text = io.StringIO()
    writer = csv.DictWriter(text, list(blob))
    writer.writeheader()
    writer.writerow(blob)
    report = imported(file(text.getvalue(), "observations.csv"))
    assert (report.calls, report.new, report.bad) == (1, 0, 0)
    assert len(read()) == 1


@pytest.mark.parametrize(
    ("details", "counts"),
    [
        # Parts that add up to the total …
        ({"input": 70, "input_cached_tokens": 30, "output": 5, "output_reasoning_tokens": 15,
          "total": 120}, (100, 20, 30, 0, 15)),
        # … or details of input and output.
        ({"input": 100, "input_cached_tokens": 30, "output": 20, "output_reasoning_tokens": 15,
          "total": 120}, (100, 20, 30, 0, 15)),
        ({"input": 10, "cache_read_input_tokens": 80, "cache_creation_input_tokens": 10, "output": 7,
          "total": 107}, (100, 7, 80, 10, 0)),
    ],
)  # fmt: skip
def test_kinds_of_tokens_are_told_apart_by_the_total(imported, read, file, details, counts):
    row = {"id": "a", "traceId": "t", "type": "GENERATION", "startTime": "2025-06-06T00:00:00Z",
           "model": "gpt-4o", "usageDetails": details}  # fmt: skip
    imported(file([row]))
    [row] = read()
    names = ("input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens",
             "reasoning_tokens")  # fmt: skip
    assert tuple(row[name] for name in names) == counts


def test_an_error_of_langfuse_and_a_cost_that_it_does_not_know(imported, read, file):
    row = {"id": "a", "traceId": "t", "type": "GENERATION", "startTime": "2025-06-06T00:00:00Z",
           "model": "house-model", "usageDetails": {"input": 3, "output": 1, "total": 4},
           "costDetails": {}, "totalCost": 0, "level": "ERROR", "statusMessage": "boom"}  # fmt: skip
    report = imported(file([row]), price=True)
    assert report.unknown_models == ["house-model"]
    [row] = read()
    assert (row["status"], row["error_class"], row["error_message"]) == (
        "error", "ProviderError", "boom",
    )  # fmt: skip
    assert row["cost_usd"] is None


def test_langfuses_parquet_files(imported, read, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    counts, costs = pa.map_(pa.string(), pa.int64()), pa.map_(pa.string(), pa.float64())
    time = pa.timestamp("us")
    start = datetime(2026, 5, 1, 12)
    table = pa.table(
        {
            "id": ["a", "b"],
            "trace_id": ["t", "t"],
            "type": ["GENERATION", "SPAN"],
            "start_time": pa.array([start, start], time),
            "end_time": pa.array([start + timedelta(seconds=2), None], time),
            "provided_model_name": ["gpt-4o", ""],
            "model_parameters": ['{"temperature": 0.5}', ""],
            "usage_details": pa.array([[("input", 3), ("output", 4), ("total", 7)], []], counts),
            "cost_details": pa.array([[("total", 0.25)], []], costs),
            "total_cost": [0.25, None],
            "tags": [["x"], []],
        }
    )
    pq.write_table(table, tmp_path / "observations.parquet")
    report = imported(tmp_path / "observations.parquet")
    assert (report.new, report.skipped, report.bad) == (1, {"span": 1}, 0)
    [row] = read()
    assert row["created_at"] == start.replace(tzinfo=UTC)
    assert (row["input_tokens"], row["output_tokens"], row["latency_ms"]) == (3, 4, 2000)
    assert (row["cost_usd"], row["params"]) == (Decimal("0.25"), {"temperature": 0.5})


# --- our own rows ----------------------------------------------------------------------------


class Figure(float):
    """A number that says how it was written."""

    def __new__(cls, text: str) -> Figure:
        figure = super().__new__(cls, text)
        figure.text = text
        return figure


def test_real_usage_of_providers_that_said_what_they_charged_adds_up(imported, read, file):
    """25 recorded responses of pydantic-ai's tests, each with the provider's own bill."""
    billed = json.loads(
        (DATA / "prices" / "provider_billed_usage_rows.json").read_text(), parse_float=Figure
    )
    lines = "".join(
        json.dumps(
            {
                "created_at": f"2026-01-05T12:00:{i:02}Z", "model": row["model"],
                "provider": "openrouter", "input_tokens": row["input_tokens"],
                "output_tokens": row["output_tokens"], "cached_input_tokens": row["cached_tokens"],
                "cost_usd": row["billed_usd"].text, "price_version": "provider", "raw_usage": row["usage"],
            }
        ) + "\n"
        for i, row in enumerate(billed)
    )  # fmt: skip
    report = imported(file(lines))
    assert (report.new, report.bad) == (len(billed), 0)
    total = sum(Decimal(row["billed_usd"].text) for row in billed)
    assert sum(row["cost_usd"] for row in read()) == report.cost_usd == total
    assert {row["price_version"] for row in read()} == {"provider"}
    kept = [row["raw_usage"] for row in read()]
    assert kept == [
        row["usage"] for row in json.loads(
            (DATA / "prices" / "provider_billed_usage_rows.json").read_text()
        )
    ]  # fmt: skip


def test_naive_times_are_of_the_zone_that_is_named(imported, read, file):
    row = {"created_at": "2026-07-01 12:00:00", "model": "m"}
    imported(file([row]), tz="Europe/Berlin")
    assert read()[0]["created_at"] == datetime(2026, 7, 1, 10, tzinfo=UTC)
    with pytest.raises(InvalidRequestError, match="time zone"):
        imported(file([row]), tz="Mars")


def test_an_id_of_ours_is_kept_and_equal_lines_are_one_call(imported, read, file):
    given = "0190f6a0-0000-7000-8000-000000000001"
    row = {"created_at": "2026-07-01T12:00:00Z", "model": "m"}
    report = imported(file([{**row, "id": given}, row, row, {**row, "output_tokens": 1}]))
    assert (report.calls, report.new, report.already_there) == (4, 3, 1)
    assert UUID(given) in {r["id"] for r in read()}


def test_rows_that_postgresql_wrote_as_json_come_back(imported, read, file, database, tmp_path):
    from novellus_lab.store.request_log import RequestLog
    from tests.store.sample_records import full_attempt, full_record

    log = RequestLog(database.conninfo, tmp_path / "spool")
    whole = full_record()
    whole.attempts = (full_attempt(),)
    log.append(whole)
    log.close()
    [before] = read()
    with psycopg.connect(database.conninfo) as connection:
        query = "SELECT row_to_json(r)::text FROM ai_requests AS r"
        lines = "".join(f"{line}\n" for (line,) in connection.execute(query).fetchall())
        connection.execute("TRUNCATE ai_requests, ai_request_attempts")
    report = imported(file(lines))
    assert (report.new, report.bad_rows) == (1, [])
    [after] = read()
    assert after["tags"].pop("imported_from") == "jsonl"
    # The sample is a cache's answer, and had an attempt nevertheless.
    differing = {name for name, value in after.items() if before[name] != value}
    assert differing <= {"written_in", "attempts"}


# --- bad rows --------------------------------------------------------------------------------

BAD = [
    ('{"created_at": "2026-01-01T00:00:00Z", "model": "m", "input_tokens": -1}', "input_tokens"),
    ('{"created_at": "yesterday", "model": "m"}', "created_at is no time"),
    ('{"created_at": "0001-01-01", "model": "m"}', "can't be"),
    ('{"created_at": "2026-01-01T00:00:00Z", "model": ""}', "model or requested_model is missing"),
    ('{"created_at": "2026-01-01T00:00:00Z", "model": "m", "cost": 1}', "Did you mean 'cost_usd'"),
    ('{"created_at": "2026-01-01T00:00:00Z", "model": "m", "cost_usd": "a lot"}', "no amount"),
    ('{"created_at": "2026-01-01T00:00:00Z", "model": "m", "cost_usd": NaN}', "no JSON"),
    ('{"created_at": "2026-01-01T00:00:00Z", "model": "m", "status": "fine"}', "status must be"),
    ('{"created_at": "2026-01-01T00:00:00Z", "model": {"a": 1}}', "must be a text"),
    ('{"created_at": "2026-01-01T00:', "no JSON"),
    ("[1, 2]", "expected an object"),
    ('{"created_at": "2026-01-01", "model": "m", "cache_key": "xyz"}', "cache_key is no hex"),
    ('{"created_at": "2026-01-01", "model": "m", "candidates": [1]}', "candidates must be a list"),
    ('{"created_at": "2026-01-01", "model": "m", "cache_source_id": "7"}', "is no UUID"),
]
GOOD = '{"created_at": "2026-01-01T00:00:00Z", "model": "m"}'


def test_bad_rows_are_left_out_with_file_line_and_reason(imported, read, file):
    path = file("\n".join([GOOD, *(line for line, _ in BAD)]))
    report = imported(path)
    assert (report.new, report.bad, report.rows) == (1, len(BAD), len(BAD) + 1)
    for number, ((_, reason), bad) in enumerate(zip(BAD, report.bad_rows, strict=True), 2):
        assert (bad.file, bad.line) == (path, number)
        assert reason in bad.reason
    assert report.left_out() == ["14 bad rows left out"]


@pytest.mark.parametrize(("line", "reason"), BAD)
def test_strict_refuses_them_all_and_writes_nothing(imported, read, file, line, reason):
    path = file(f"{GOOD}\n{line}\n")
    with pytest.raises(InvalidRequestError) as error:
        imported(path, strict=True)
    assert f"{path}:2:" in str(error.value)
    assert reason in str(error.value)
    assert read() == []


def test_cells_that_are_too_many_or_too_few_are_bad(imported, file):
    path = file("created_at,model\n2026-01-01T00:00:00Z,m\n2026-01-01T00:00:00Z\n1,2,3\n", "a.csv")
    report = imported(path)
    assert (report.new, [b.line for b in report.bad_rows]) == (1, [3, 4])


def test_a_json_document_that_breaks_off_gives_what_it_had(imported, file):
    report = imported(file(f"[{GOOD},\n{GOOD[:-1]}", "a.json"))
    assert (report.new, report.bad) == (1, 1)
    assert "the rest is not read" in report.bad_rows[0].reason


def test_files_that_are_not_there_or_of_no_format_are_refused(imported, file, tmp_path):
    with pytest.raises(InvalidRequestError, match="there is no file"):
        imported(tmp_path / "nowhere.csv")
    with pytest.raises(InvalidRequestError, match=r"a\.csv:2: of no known format .*a, b"):
        imported(file("a,b\n1,2\n", "a.csv"))
    with pytest.raises(InvalidRequestError, match="Did you mean 'langfuse'"):
        imported(file([spend()]), format="langfus")
    with pytest.raises(InvalidRequestError, match="name a file"):
        imported()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidRequestError, match="holds no file"):
        imported(tmp_path / "empty")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip
COLUMNS = ["request_id", "spend", "startTime", "endTime", "metadata", "cache_hit", "messages", "id",
    "request_tags", "traceId", "type", "usageDetails", "costDetails", "totalCost", "input", "output",
    "observations", "created_at", "model", "tags", "raw_usage", "results", "start_time", "starting_at",
    "amount", "usage_date_utc", "cost_usd", "input_tokens", "num_model_requests", "response", "level",
    "dimensions", "status", "provider", "date", "api_requests"]  # fmt: skip
FORMATS = ["litellm", "langfuse", "openai", "anthropic", "jsonl"]


@given(
    st.lists(st.dictionaries(st.sampled_from(COLUMNS), anything, max_size=12), max_size=3),
    st.sampled_from(FORMATS),
    st.booleans(),
)
@settings(
    max_examples=250, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
def test_no_row_however_odd_stops_an_import(tmp_path, rows, format, price):
    path = tmp_path / "odd.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = import_files(
        [path], conninfo=None, prices=BOOK, known={}, content=ContentPolicy(), format=format,
        price=price,
    )  # fmt: skip
    assert report.rows == len(rows)


# --- sums ------------------------------------------------------------------------------------


def sums(read, **like: Any) -> list[tuple[Any, ...]]:
    names = ("kind", "model", "requests", "input_tokens", "output_tokens", "cached_input_tokens",
             "cost_usd")  # fmt: skip
    return [
        tuple(row[name] for name in names)
        for row in read("ai_imported_usage", "bucket_start, kind, model, cost_usd")
        if all(row[name] == value for name, value in like.items())
    ]


def test_openais_sums_become_no_requests(imported, read):
    report = imported(SAMPLES / "openai_usage.csv", SAMPLES / "openai_costs.csv")
    assert (report.calls, report.buckets, report.new_buckets) == (0, 4, 4)
    assert report.skipped == {"days without usage": 1, "days without costs": 1}
    assert read() == []
    assert sums(read) == [
        ("cost", "gpt-4o-2024-08-06", None, None, None, None, Decimal("0.895874")),
        ("usage", "gpt-4o-2024-08-06", 10, 59200, 10646, 5760, None),
        ("cost", "gpt-5-2025-08-07", None, None, None, None, Decimal("0.56177125")),
        ("usage", "gpt-5-2025-08-07", 9, 52047, 76000, 8192, None),
    ]


def test_pages_of_openais_api(imported, read):
    imported(SAMPLES / "openai_usage_page.json", SAMPLES / "openai_costs_page.json")
    assert sums(read) == [
        ("cost", None, None, None, None, None, Decimal("0.06")),
        ("usage", "gpt-4o-mini-2024-07-18", 5, 1000, 500, 800, None),
    ]
    start = read("ai_imported_usage", "kind")[0]["bucket_start"]
    assert start == datetime(2024, 11, 1, tzinfo=UTC)


def test_anthropics_console_files(imported, read):
    imported(SAMPLES / "anthropic_tokens.csv", SAMPLES / "anthropic_cost.csv")
    opus = [row for row in read("ai_imported_usage", "id") if row["model"] == "claude-opus-5"]
    [usage] = [row for row in opus if row["kind"] == "usage"]
    assert usage["input_tokens"] == 46981 + 15969 + 7 + 100
    assert (usage["cache_write_tokens"], usage["cache_write_1h_tokens"]) == (15976, 7)
    assert (usage["cached_input_tokens"], usage["web_searches"]) == (100, 3)
    assert sorted(row["cost_usd"] for row in opus if row["kind"] == "cost") == [
        Decimal("0.23"), Decimal("0.42"),
    ]  # fmt: skip
    assert sums(read, model="claude-haiku-4-5") == [
        ("cost", "claude-haiku-4-5", None, None, None, None, Decimal("0.01"))
    ]


def test_anthropics_reports_and_their_cents(imported, read):
    imported(SAMPLES / "anthropic_usage_report.json", SAMPLES / "anthropic_cost_report.json")
    assert sums(read) == [
        ("cost", "claude-opus-5", None, None, None, None, Decimal("1.2378912")),
        ("usage", "claude-opus-5", None, 3200, 500, 200, None),
    ]


def test_sums_that_come_again_are_replaced_and_other_groupings_give_way(imported, read, file):
    path = SAMPLES / "openai_usage.csv"
    assert imported(path).new_buckets == 2
    again = imported(path)
    assert (again.new_buckets, again.changed_buckets, again.replaced_buckets) == (0, 0, 0)
    later = file(path.read_text().replace("59200.0", "60000.0"), "later.csv")
    assert imported(later).changed_buckets == 1
    assert [row[3] for row in sums(read)] == [60000, 52047]
    # The same days, not grouped by model: to add both up would count each dollar twice.
    by_day = {"object": "page", "data": [
        {"object": "bucket", "start_time": 1759622400, "end_time": 1759708800, "results": [
            {"object": "organization.usage.completions.result", "input_tokens": 60000,
             "output_tokens": 10646, "num_model_requests": 10}]}]}  # fmt: skip
    report = imported(file(json.dumps(by_day), "by_day.json"))
    assert report.replaced_buckets == 1
    assert [row[1] for row in sums(read)] == [None, "gpt-5-2025-08-07"]


def test_litellms_daily_sums_are_sums(imported, read, file):
    daily = {"date": "2026-01-05", "model": "gpt-4o", "custom_llm_provider": "openai",
             "prompt_tokens": 10, "completion_tokens": 5, "spend": 0.25, "api_requests": 3,
             "api_key": "sk-oops"}  # fmt: skip
    imported(file([daily]))
    assert sums(read) == [("usage", "gpt-4o", 3, 10, 5, None, Decimal("0.25"))]
    assert "sk-oops" not in str(read("ai_imported_usage", "id"))


# --- the whole -------------------------------------------------------------------------------


def test_a_dry_run_says_what_would_come_and_writes_nothing(imported, read, file):
    rows = [spend(request_id=str(i), startTime=f"2025-01-2{i} 00:00:00") for i in range(3)]
    rows.append(spend(request_id="x", model="nobody-knows-it", spend=0.0))
    report = imported(file(rows), dry_run=True)
    assert (report.calls, report.new, report.unpriced_share) == (4, None, 0.25)
    assert report.unknown_models == ["nobody-knows-it"]
    assert (report.first, report.last) == (
        datetime(2025, 1, 20, tzinfo=UTC), datetime(2025, 1, 24, 9, 20, 46, 847000, UTC),
    )  # fmt: skip
    assert "dry run" in report.sentences()[0]
    assert json.loads(json.dumps(report.to_dict()))["models"]["gpt-4o"]["calls"] == 3
    assert "nobody-knows-it" in report._repr_html_()
    assert read() == []


def test_configured_models_go_by_our_ids_and_prices(imported, read, file):
    from novellus_lab.pipeline.catalog import Catalog
    from novellus_lab.settings import load_settings

    model = {"provider": "openai", "model_name": "gpt-4o", "input_token_cost": 1,
             "output_token_cost": 2, "base_url": "http://127.0.0.1:9/v1"}  # fmt: skip
    catalog = Catalog(load_settings({"models": [model]}))
    known = {m.id: m.priced_as for m in catalog}
    imported(file([spend(spend=0.0)]), price=True, known=known)
    [row] = read()
    assert (row["cost_usd"], row["price_version"]) == (Decimal("0.05"), "config")


def test_old_rows_that_come_late_are_in_frames_and_rollups(imported, mirror, database, file):
    import asyncio

    async def rolled() -> Any:
        async with rollups.connected(database.conninfo) as connection:
            await rollups.catch_up(connection)
            cursor = await connection.execute(
                "SELECT sum(requests), sum(cost_usd) FROM model_performance_metrics "
                "WHERE grain = 'day'"
            )
            return await cursor.fetchone()

    start = datetime(2025, 3, 1, tzinfo=UTC)
    first = [
        spend(request_id=f"a{i}", startTime=str(start + timedelta(hours=i))) for i in range(50)
    ]
    imported(file(first))
    assert frames.costs(mirror, asked())["requests"].to_list() == [50]
    assert asyncio.run(rolled())[0] == 50
    older = [spend(request_id=f"b{i}", startTime=str(start - timedelta(days=i))) for i in range(50)]
    imported(file(older))
    [costs] = frames.costs(mirror, asked()).to_dicts()
    assert costs["requests"] == 100
    assert costs["cost_usd"] == 100 * Decimal("0.00022500000000000002")
    assert asyncio.run(rolled()) == (100, 100 * Decimal("0.00022500000000000002"))


def test_old_months_get_partitions_of_their_own(imported, database, file):
    imported(file([spend()]))
    with psycopg.connect(database.conninfo) as connection:
        found = connection.execute("SELECT tableoid::regclass::text FROM ai_requests").fetchone()
    assert found == ("ai_requests_2025_01",)


def test_two_imports_of_the_same_at_once_bring_each_row_once(imported, read, file):
    from concurrent.futures import ThreadPoolExecutor

    rows = [
        spend(request_id=f"r{i}", startTime=f"2025-01-24 09:20:{i % 60:02}") for i in range(3000)
    ]
    paths = [file(rows, "a.jsonl"), file(rows[::-1], "b.jsonl")]
    with ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(imported, paths))
    assert sum(report.new for report in reports) == len(read()) == 3000
    assert len(read("ai_request_attempts", "id")) == 3000


def test_a_database_that_goes_says_so(file):
    with pytest.raises(StoreUnavailableError, match="nothing can be imported"):
        import_files(
            [file([spend()])], conninfo="host=127.0.0.1 port=9 dbname=none", prices=BOOK, known={},
            content=ContentPolicy(),
        )  # fmt: skip
