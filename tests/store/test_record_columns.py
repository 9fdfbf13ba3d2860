"""Every field reaches its column, and no text, number or JSON is refused."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row

from novellus_lab.records import RequestRecord
from novellus_lab.store.copy_text import ATTEMPT_COLUMNS, REQUEST_COLUMNS
from novellus_lab.store.request_log import RequestLog
from novellus_lab.types import Attempt, Candidate, Price, Usage
from tests.store.sample_records import (
    NOW,
    USAGE,
    attempt,
    full_attempt,
    full_record,
    read,
    record,
)

# What PostgreSQL's text can't hold, COPY's own signs, and what looks like nothing.
NASTY = [
    "", "\\N", "\\.", "\\", "\\\\", "\\n", "\t", "\r", "\n", "\r\n", "\\\t", "a\x00b", "\ud800",
    "\udfff", "\ud83d\ude00", "\x7f", "\u2028", "\u0085", "\ufeff", "NULL", "R", "A\tR", "{}", '"',
    "'", "\\u0000", "\\ud800", "x\\u0000\x00", "\U0010ffff", "\v\f\b\x1b",
]  # fmt: skip
TEXT = st.one_of(
    st.sampled_from(NASTY),
    st.lists(st.sampled_from([*NASTY, "a", "é", "😀"]), max_size=6).map("".join),
    st.text(st.characters(codec=None), max_size=40),
)
NUMBER = st.one_of(
    st.integers(),
    st.sampled_from([2**63, -(2**63), 2**64, -(2**63) - 1, 10**400]),
    st.floats(),
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBER, TEXT, st.decimals()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4)),
    max_leaves=12,
)
MONEY = st.one_of(st.none(), st.decimals(), st.sampled_from(
    [Decimal(text) for text in ("0", "-0", "1E+3", "1E-20", "1E+999999", "1E-999999", "sNaN", "NaN",
                                "-Infinity", "0E-7", "9" * 5_000, "0.1234567890123456789")]
))  # fmt: skip
COUNT = st.one_of(
    st.integers(0, 10_000), st.sampled_from([2**63 - 1, 2**63, 10**30, -1, -(10**30)])
)
QUICKLY = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
def log(database, tmp_path):
    log = RequestLog(database.conninfo, tmp_path / "spool", linger_s=0)
    yield log
    log.close()


def storable(text: str | None) -> str | None:
    """What PostgreSQL is to give back of a text."""
    if text is None:
        return None
    return (
        text.replace("\x00", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    )


def written(log: RequestLog, one: RequestRecord, database: Any) -> tuple[dict[str, Any], list[Any]]:
    """Log a record and return its row, and its attempts' rows."""
    log.append(one)
    log.flush(60)
    assert (log.stats().rejected, log.stats().lost) == (0, 0)
    with psycopg.connect(database.conninfo, row_factory=dict_row) as connection:
        [row] = connection.execute("SELECT * FROM ai_requests WHERE id = %s", [one.id]).fetchall()
        attempts = connection.execute(
            "SELECT * FROM ai_request_attempts WHERE request_id = %s ORDER BY id", [one.id]
        ).fetchall()
    for stored in (row, *attempts):
        del stored["written_in"]  # the server's own
    return row, attempts


def usage_columns(usage: Usage) -> dict[str, Any]:
    columns = {f.name: getattr(usage, f.name) for f in fields(Usage)}
    columns["usage_estimated"] = columns.pop("estimated")
    return columns


def in_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def test_every_field_of_a_record_reaches_its_column(log, database):
    sent = full_record()
    row, _ = written(log, sent, database)
    expected = {f.name: getattr(sent, f.name) for f in fields(RequestRecord)}
    expected |= usage_columns(expected.pop("usage"))
    expected["attempts"] = 1
    expected["dropped_params"] = list(sent.dropped_params)
    expected["candidates"] = [
        {"model_id": "candidate", "probability": 0.25, "score": 2.5, "dropped": "dropped because"}
    ]
    assert row == expected


def test_every_field_of_an_attempt_reaches_its_column(log, database):
    [sent] = (one := full_record()).attempts
    _, [row] = written(log, one, database)
    expected = {f.name: getattr(sent, f.name) for f in fields(Attempt)}
    expected |= usage_columns(expected.pop("usage"))
    price = expected.pop("price")
    expected |= {
        "request_id": one.id,
        "cost_usd": price.cost_usd,
        "fees_usd": price.fees_usd,
        "price_version": price.version,
        "unpriced_reason": price.reason,
        "price_lines": [
            {"kind": "input", "quantity": 101, "usd_per_million": "2.50", "cost_usd": "0.0002525"}
        ],
    }
    assert row == expected


@pytest.mark.parametrize(
    "one", [full_record(), full_attempt(), USAGE], ids=lambda x: type(x).__name__
)
def test_the_samples_leave_no_field_at_its_default(one):
    """Else a field that is added and not written would pass."""
    unset = {
        f.name for f in fields(one) if getattr(one, f.name) in (None, (), {}, 0, False, f.default)
    }
    assert unset == set()


def test_the_writer_names_each_column_of_the_tables_once(database):
    with psycopg.connect(database.conninfo) as connection:
        for table, ours in (
            ("ai_requests", REQUEST_COLUMNS),
            ("ai_request_attempts", ATTEMPT_COLUMNS),
        ):
            theirs = connection.execute(
                "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0",
                [table],
            ).fetchall()
            assert sorted(ours) == sorted(name for (name,) in theirs if name != "written_in")


def test_what_is_not_known_is_null(log, database):
    row, _ = written(log, record(), database)
    known = {name for name, value in row.items() if value is not None}
    assert known == {
        "id", "created_at", "kind", "stream", "status", "cache", "tags", "params", "dropped_params",
        "attempts",
    }  # fmt: skip
    assert (row["tags"], row["params"], row["dropped_params"]) == ({}, {}, [])


@QUICKLY
@given(st.data())
def test_any_text_comes_back_whole_or_with_a_sign_for_what_can_not_be_held(log, database, data):
    names = (
        "error_class error_message requested_model picked_model model provider response_model "
        "strategy rule price_version session_id experiment arm priority finish_reason response"
    ).split()
    texts = {name: data.draw(st.none() | TEXT, name) for name in names}
    dropped = data.draw(st.lists(TEXT, max_size=4), "dropped_params")
    row, _ = written(log, record(**texts, dropped_params=tuple(dropped)), database)
    assert {name: row[name] for name in names} == {n: storable(t) for n, t in texts.items()}
    assert row["dropped_params"] == [storable(name) for name in dropped]


@QUICKLY
@given(st.data())
def test_any_text_of_an_attempt_comes_back(log, database, data):
    names = "model_id provider response_model response_id error_class error_message".split()
    texts = {name: data.draw(TEXT, name) for name in names}
    version, reason = data.draw(TEXT, "version"), data.draw(TEXT, "reason")
    price = Price(None, version=version, reason=reason)
    sent = attempt(price=price, **texts)
    _, [row] = written(log, record(attempts=(sent,)), database)
    assert {name: row[name] for name in names} == {n: storable(t) for n, t in texts.items()}
    assert row["price_version"] == (storable(version) if version else None)
    assert row["unpriced_reason"] == storable(reason)


def comes_back(sent: Any, got: Any) -> bool:
    """Whether jsonb gave back a value as well as it can be held."""
    if isinstance(sent, str):
        return got == storable(sent)
    if isinstance(sent, Decimal):
        return got == str(sent)
    if isinstance(sent, dict):
        # Two keys may become one.
        return isinstance(got, dict) and set(got) == {storable(key) for key in sent}
    if isinstance(sent, list):
        return len(sent) == len(got) and all(map(comes_back, sent, got))
    if isinstance(sent, float):
        return got is None if not math.isfinite(sent) else float(got) == sent
    if isinstance(sent, int) and not isinstance(sent, bool) and not -(2**63) <= sent < 2**64:
        return got == str(sent)
    return bool(got == sent)


@QUICKLY
@given(JSON, JSON, st.dictionaries(TEXT, JSON, max_size=4), st.dictionaries(TEXT, JSON, max_size=4))
@example(["\x00", {"\x00": "\ud800"}], "\\u0000", {"a\x00": Decimal("NaN")}, {"n": 10**40})
def test_any_json_comes_back_as_well_as_json_can_hold_it(log, database, messages, calls, tags, raw):
    sent = record(
        messages=messages,
        tool_calls=calls,
        tags=tags,
        params=raw,
        raw_usage=raw,
        attempts=(attempt(raw_usage=raw),),
    )
    row, [tried] = written(log, sent, database)
    assert comes_back(messages, row["messages"])
    assert comes_back(calls, row["tool_calls"])
    assert comes_back(tags, row["tags"])
    assert comes_back(raw, row["params"])
    assert comes_back(raw, row["raw_usage"] or {})
    assert comes_back(raw, tried["raw_usage"] or {})


@QUICKLY
@given(TEXT, TEXT)
def test_messages_that_are_json_already_are_stored_as_they_are(log, database, key, text):
    coded = json.dumps([{key: text, "n": 1.5}]).encode()
    row, _ = written(log, record(messages=coded), database)
    assert row["messages"] == [
        {storable(key): storable(text), "n": 1.5} if key != "n" else {"n": 1.5}
    ]


@QUICKLY
@given(TEXT, TEXT)
def test_candidates_with_any_text_keep_their_form(log, database, name, why):
    row, _ = written(log, record(candidates=(Candidate(name, 0.5, None, why),)), database)
    assert row["candidates"] == [
        {"model_id": storable(name), "probability": 0.5, "score": None, "dropped": storable(why)}
    ]


def expected_money(value: Decimal | None) -> Decimal | None:
    if value is None or not value.is_finite() or value.adjusted() >= 1_000:
        return None
    exponent = value.as_tuple().exponent
    assert isinstance(exponent, int)
    return value if exponent > -1_000 else None


@QUICKLY
@given(MONEY, MONEY, MONEY)
def test_money_is_exact_and_what_is_no_amount_is_unknown(log, database, cost, fees, uncached):
    price = Price(cost, fees_usd=fees)
    sent = record(
        cost_usd=cost, fees_usd=fees, uncached_cost_usd=uncached, attempts=(attempt(price=price),)
    )
    row, [tried] = written(log, sent, database)
    assert row["cost_usd"] == tried["cost_usd"] == expected_money(cost)
    assert row["fees_usd"] == tried["fees_usd"] == expected_money(fees)
    assert row["uncached_cost_usd"] == expected_money(uncached)


@QUICKLY
@given(
    st.builds(Usage, *(COUNT for f in fields(Usage) if f.name != "estimated"), st.booleans()),
    st.none() | st.integers(-10, 10**12),
)
@example(Usage(2**63, 1), 10**11)
@example(Usage(1, 10**30), 200)
@example(Usage(1, 2, output_image_tokens=2), None)
def test_counts_come_back_and_impossible_ones_are_unknown(log, database, usage, code):
    sent = record(usage=usage, attempts=(attempt(usage=usage, status_code=code),))
    row, [tried] = written(log, sent, database)
    expected = {
        name: n if isinstance(n, bool) or 0 <= n < 2**63 else None
        for name, n in usage_columns(usage).items()
    }
    assert {name: row[name] for name in expected} == expected
    assert {name: tried[name] for name in expected} == expected
    assert tried["status_code"] == (code if code is not None and 0 <= code < 2**31 else None)


@QUICKLY
@given(st.floats(), st.floats())
@example(math.nan, math.inf)
def test_any_time_comes_back_and_what_is_none_is_unknown(log, database, latency, retry_after):
    sent = record(latency_ms=latency, attempts=(attempt(retry_after_s=retry_after),))
    row, [tried] = written(log, sent, database)
    assert row["latency_ms"] == (latency if math.isfinite(latency) else None)
    assert tried["retry_after_s"] == (retry_after if math.isfinite(retry_after) else None)


def test_a_label_that_no_index_can_hold_is_cut(log, database):
    long = "".join(chr(0x10000 + 7 * i) for i in range(5_000))
    sent = record(session_id=long, experiment=long, arm=long, model=long, requested_model=long)
    row, _ = written(log, sent, database)
    for name in ("session_id", "experiment", "arm", "model"):
        assert row[name] == long[:299] + "…"
    assert row["requested_model"] == long


def test_a_prompt_of_ten_megabytes_is_logged(log, database):
    text = "é\\\n\t" * 2_500_000
    row, _ = written(log, record(messages=[text], response=text), database)
    assert (row["messages"], row["response"]) == ([text], text)


def test_nesting_has_an_end(log, database):
    value: Any = "\x00"
    for _ in range(1_000):
        value = [value]
    row, _ = written(log, record(messages=value, created_at=NOW), database)
    depth, inner = 0, row["messages"]
    while isinstance(inner, list):
        depth, inner = depth + 1, inner[0]
    assert depth > 50
    assert inner == "…"


def test_ids_sort_by_time(log, database):
    sent = [record() for _ in range(20)]
    for one in sent:
        log.append(one)
    log.flush(60)
    assert [row["id"] for row in read(database)] == [one.id for one in sent]
