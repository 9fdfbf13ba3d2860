"""An invoice beside the log: each kind of drift is made on purpose, and has to be told by its name."""

from __future__ import annotations

import json
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import pandas as pd
import polars as pl
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from novellus_lab.analytics.drift import PARTS, Billed, Logged, Tally, explain
from novellus_lab.analytics.imports.provider_invoices import imported_rows
from novellus_lab.analytics.invoice import read_invoice
from novellus_lab.analytics.reconcile import reconcile
from novellus_lab.errors import InvalidRequestError
from tests.analytics.conftest import NOON

RATES = {
    "input_tokens": Decimal("0.001"), "cached_input_tokens": Decimal("0.0005"),
    "cache_write_tokens": Decimal("0.001"), "output_tokens": Decimal("0.002"),
    "reasoning_tokens": Decimal("0.002"),
}  # fmt: skip
DAY = date(2026, 11, 24)
NO_REQUEST = "00000000-0000-0000-0000-000000000000"


def call(**more):
    """A call of 1,000 tokens in, of them 400 cached, and 500 out, of them 100 of reasoning: $1.80."""
    return {
        "request_id": NO_REQUEST, "input_tokens": 1_000, "cached_input_tokens": 400,
        "output_tokens": 500, "reasoning_tokens": 100, "cost_usd": Decimal("1.8"),
        "price_version": "config", **more,
    }  # fmt: skip


def line(calls=1, **more):
    """What a provider that counts as we do says of so many of them."""
    return {
        "date": "2026-11-24", "model": "m", "requests": calls, "input_tokens": 1_000 * calls,
        "cached_input_tokens": 400 * calls, "output_tokens": 500 * calls,
        "cost_usd": Decimal("1.8") * calls, **more,
    }  # fmt: skip


def rates(provider, model, at):
    return RATES


@pytest.fixture
def found(mirror, log):
    """Log calls, and compare them with lines."""

    def compare(calls, lines, **options):
        log(*calls, table="ai_request_attempts")
        return reconcile(mirror, lines, **{"price_list": rates, **options})

    return compare


def only(result):
    [row] = result.frame.to_dicts()
    assert (
        row["tokens_usd"] is None or row["tokens_usd"] + row["price_usd"] == row["difference_usd"]
    )
    return row


def test_an_invoice_that_agrees(found):
    result = found([call()] * 3, [line(2), line(1)])
    row = only(result)
    assert (row["cause"], row["is_exact"], row["difference_usd"]) == ("agrees", True, 0)
    assert result.difference_usd == 0
    assert "the same" in str(result)
    assert "Days that differ" not in result._repr_html_()


FAILED = call(status="error", input_tokens=None, output_tokens=None, cost_usd=None)
CASES = {
    # what: calls, lines, the cause, its dollars, whether it is exact
    "missing": ([call()], [line(5)], "calls missing from the log", "7.2", False),
    "extra": ([call()] * 5, [line(2)], "calls not on the invoice", "-5.4", False),
    "unpriced": (
        [call(), call(cost_usd=None, price_version=None)], [line(2)],
        "calls without a price", "1.8", True,
    ),
    "price": ([call()] * 2, [line(2, cost_usd="5.40")], "price differs", "1.8", False),
    "batch": ([call()] * 2, [line(2, cost_usd="1.80")], "batch discount", "-1.8", True),
    "no discount": (
        [call(cost_usd=Decimal("0.9"), price_version="config, batch"), call()], [line(2)],
        "batch discount", "0.9", True,
    ),
    "input without cached": (
        [call()] * 2, [line(2, input_tokens=1_200)], "cached tokens counted otherwise", "0", True,
    ),
    "cached at full price": (
        [call()] * 2, [line(2, cost_usd="4.00")], "cached tokens counted otherwise", "0.4", True,
    ),
    "output without reasoning": (
        [call()] * 2, [line(2, output_tokens=800)], "reasoning tokens counted otherwise", "0", True,
    ),
    "failed and waived": (
        [call(), call(status="error")], [line()], "failed calls not billed", "-1.8", True,
    ),
    "abandoned and billed": (
        [call(), FAILED], [line(2)], "failed or abandoned calls billed", "1.8", False,
    ),
    "shadows elsewhere": (
        [call(), call(role="shadow"), call(role="judge")], [line()],
        "shadow and judge calls not on the invoice", "-3.6", True,
    ),
    "estimated": (
        [call(), call(usage_estimated=True)], [line(2, output_tokens=1_300, cost_usd="4.2")],
        "usage that we estimated", "0.6", False,
    ),
    "two at once": (
        [call(), call(role="shadow")], [line(input_tokens=600)],
        "shadow and judge calls not on the invoice and cached tokens counted otherwise", "-1.8", True,
    ),
    "dollars alone": (
        [call(), call(role="shadow")], [{"date": DAY, "model": "m", "cost_usd": 1.8}],
        "shadow and judge calls not on the invoice", "-1.8", False,
    ),
    "dollars that say nothing": (
        [call()], [{"date": DAY, "model": "m", "cost_usd": 2.5}], "other calls or other prices", "0.7",
        False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", CASES)
def test_each_kind_of_drift_is_told_by_its_name(found, what):
    calls, lines, cause, usd, is_exact = CASES[what]
    result = found(calls, lines)
    row = only(result)
    assert (row["cause"], row["difference_usd"], row["is_exact"]) == (cause, Decimal(usd), is_exact)
    assert cause in str(result)
    assert ("likely" in str(result)) is not is_exact
    assert cause in result._repr_html_()


def test_dollars_of_missing_calls_are_for_tokens_and_of_a_price_for_the_price(found):
    row = only(found([call()], [line(3, cost_usd="6.40")]))
    assert (row["tokens_usd"], row["price_usd"]) == (Decimal("3.6"), Decimal("1.0"))
    assert row["tokens_drift"] == 3_000


def test_days_of_another_clock_are_found_by_shifting(found):
    place = ZoneInfo("America/Los_Angeles")
    times = [
        NOON - timedelta(hours=12 - h) + timedelta(days=d) for d in range(6) for h in range(24)
    ]
    calls = [call(started_at=at, input_tokens=1_000 + 7 * n) for n, at in enumerate(times)]
    lines = [
        line(date=one["started_at"].astimezone(place).date(), input_tokens=one["input_tokens"])
        for one in calls
    ]
    result = found(calls, lines)
    assert result.tz == "America/Los_Angeles"
    assert "days are those of America/Los_Angeles" in str(result)
    assert set(result.frame["cause"]) == {"agrees"}
    assert result.difference_usd == 0


def test_what_is_missing_is_not_taken_for_another_clock(found):
    calls = [call(started_at=NOON + timedelta(days=d)) for d in range(6) for _ in range(3)]
    lines = [line(5, date=DAY + timedelta(days=d)) for d in range(6)]
    result = found(calls, lines)
    assert result.tz == "UTC"
    assert set(result.frame["cause"]) == {"calls missing from the log"}


def test_a_call_over_midnight_is_on_the_day_beside(found, mirror):
    calls = [call(started_at=NOON + timedelta(days=d)) for d in (0, 0, 0, 1, 1, 1)]
    lines = [line(2), line(4, date="2026-11-25")]
    result = found(calls, lines, tz="UTC")
    assert result.frame["cause"].to_list() == ["counted on the day beside"] * 2
    given = reconcile(mirror, lines, price_list=rates, tz="Europe/Berlin")
    assert given.tz == "Europe/Berlin"
    with pytest.raises(InvalidRequestError, match="tz must be"):
        reconcile(mirror, lines, price_list=rates, tz="Mars/Olympus")


def test_models_are_matched_by_what_answered_by_their_names_and_as_they_are_given(found, mirror):
    calls = [
        call(model_id="openai/gpt-4o", provider="openai", response_model="gpt-4o-2024-08-06"),
        call(model_id="gpt-4o", provider="openai", response_model="gpt-4o-2024-11-20"),
        call(model_id="small", provider="openai"),
        call(model_id="ours", provider="openai"),
        call(model_id="claude", provider="anthropic"),
    ]
    lines = [
        line(model="gpt-4o-2024-08-06"), line(model="gpt-4o-2024-11-20"),
        line(model="small-2026-01-01"), line(model="Their Name"),
    ]  # fmt: skip
    result = found(calls, lines, models={"Their Name": "ours"})
    assert set(result.frame["cause"]) == {"agrees"}
    assert result.frame["model"].to_list() == [
        "gpt-4o-2024-08-06", "gpt-4o-2024-11-20", "ours", "small-2026-01-01",
    ]  # fmt: skip
    assert "anthropic" in " ".join(result.notes)
    both = reconcile(mirror, lines, price_list=rates, provider="anthropic")
    assert both.frame.filter(model="claude")["cause"].to_list() == ["calls not on the invoice"]
    with pytest.raises(InvalidRequestError, match="'Nobody', which is not on the invoice"):
        reconcile(mirror, lines, price_list=rates, models={"Nobody": "m"})


def test_several_dated_names_meet_calls_that_have_only_the_plain_one(found):
    calls = [call(model_id="gpt-4o", provider="openai")] * 2
    result = found(calls, [line(model="gpt-4o-2024-08-06"), line(model="gpt-4o-2024-11-20")])
    assert (only(result)["model"], only(result)["cause"]) == ("gpt-4o", "agrees")


def test_an_export_that_dates_its_names_beside_one_that_does_not(found):
    usage = line(model="haiku-20251001")
    dollars = {"date": DAY, "model": "haiku", "cost_usd": usage.pop("cost_usd") * 2}
    calls = [call(model_id="haiku"), call(model_id="haiku", response_model="haiku-20251001")]
    row = only(found(calls, [usage, usage, dollars]))
    assert (row["model"], row["cause"]) == ("haiku-20251001", "agrees")


def test_without_prices_and_without_calls(found):
    result = found([], [line()], price_list=lambda *_: None)
    assert only(result)["cause"] == "calls missing from the log"
    assert only(result)["tokens_usd"] == Decimal("1.8")
    assert result.logged_usd == 0


def test_names_are_text_on_a_page(found):
    result = found([call(model_id="<b>m</b>")], [line(3, model="<b>m</b>")])
    assert "<b>m</b>" not in result._repr_html_()
    assert "&lt;b&gt;m" in result._repr_html_()


def test_every_form_of_an_invoice(tmp_path):
    rows = [line(), line(2, model=None, cost_usd="$1,234.5")]
    rows = [{**row, "cost_usd": str(row["cost_usd"])} for row in rows]
    [first, second] = expected = read_invoice(rows)
    assert (first.day, first.model, first.input_tokens) == (DAY, "m", 1_000)
    assert (second.model, second.cost_usd) == ("(no model)", Decimal("1234.5"))
    frame = pl.DataFrame(rows)
    frame.write_csv(tmp_path / "a.csv")
    frame.write_csv(tmp_path / "a.tsv", separator="\t")
    frame.write_parquet(tmp_path / "a.parquet")
    frame.write_ndjson(tmp_path / "a.jsonl")
    (tmp_path / "a.json").write_text(json.dumps(rows))
    for given_as in (frame, frame.to_pandas(), pd.DataFrame(rows), *tmp_path.iterdir()):
        assert read_invoice(given_as) == expected
    assert read_invoice([tmp_path / "a.csv", str(tmp_path / "a.json")]) == expected * 2
    hour = {"start": 1_764_000_000, "end": "2025-11-24T17:00:00Z", "model": "m", "cost": 0.1}
    assert read_invoice([hour])[0].cost_usd == Decimal("0.1")
    assert read_invoice([{**hour, "start": datetime(2025, 11, 24, 16)}])[0].day == date(
        2025, 11, 24
    )


@pytest.mark.parametrize(
    ("invoice", "message"),
    [
        ("/nowhere/a.csv", "can't be read"),
        ([], "has no rows"),
        (7, "must be a file, a frame or rows"),
        ([{"model": "m", "cost_usd": 1}], "row 1: there is no date"),
        ([line(), line(date="yesterday")], "row 2: date must be a day"),
        ([line(input_tokens="many")], "input_tokens must be a whole number"),
        ([line(input_tokens=-1)], "input_tokens must be a whole number"),
        ([line(cost_usd="free")], "cost_usd must be an amount"),
        ([line(cost_usd="Infinity")], "cost_usd must be an amount"),
        ([{"date": "2026-11-24", "model": "m"}], "neither tokens nor dollars"),
        ([line(end="2026-12-24")], "more than a day"),
        ([7, line()], "expected columns and values"),
    ],
)
def test_what_is_no_invoice_is_refused_with_the_place(invoice, message):
    with pytest.raises(InvalidRequestError, match=message):
        read_invoice(invoice)


counts = st.integers(0, 10**6)


@st.composite
def tallies(draw):
    """Calls as they can be: parts no larger than their whole."""
    tokens_in, out = draw(counts), draw(counts)
    tally = Tally(requests=draw(st.integers(1, 50)))
    tally.counts = {
        "input_tokens": tokens_in, "cached_input_tokens": draw(st.integers(0, tokens_in)),
        "cache_write_tokens": 0, "output_tokens": out,
        "reasoning_tokens": draw(st.integers(0, out)),
    }  # fmt: skip
    tally.cost_usd = draw(st.decimals(0, 1_000, places=6))
    return tally


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(st.sampled_from(PARTS), tallies()), tallies(), st.sets(st.sampled_from([
        "requests", "input_tokens", "cached_input_tokens", "output_tokens", "cost_usd",
    ]), min_size=1), st.booleans(), st.booleans(),
)  # fmt: skip
def test_whatever_differs_has_a_cause_whose_dollars_sum(parts, theirs, stated, same, priced):
    logged = Logged(parts)
    if same:
        theirs = logged.all
    billed = Billed()
    for name in stated - {"cost_usd"}:
        billed.counts[name] = theirs.requests if name == "requests" else theirs.counts[name]
    billed.cost_usd = theirs.cost_usd if "cost_usd" in stated else None
    cause = explain(logged, billed, RATES if priced else None, Decimal("0.005"))
    assert cause.name
    if same:
        assert cause.name == "agrees"
    if cause.tokens_usd is not None:
        assert cause.tokens_usd + cause.price_usd == billed.cost_usd - logged.all.cost_usd


OPENAI_USAGE = {
    "object": "page", "data": [{
        "object": "bucket", "start_time": 1795478400, "end_time": 1795564800, "results": [{
            "object": "organization.usage.completions.result", "num_model_requests": 1, "model": "m",
            "input_tokens": 1000, "output_tokens": 500, "input_cached_tokens": 400,
        }],
    }],
}  # fmt: skip
OPENAI_COSTS = {
    "object": "page", "data": [{
        "object": "bucket", "start_time": 1795478400, "end_time": 1795564800, "results": [
            {"object": "organization.costs.result", "line_item": "m, input",
             "amount": {"value": 0.8, "currency": "usd"}},
            {"object": "organization.costs.result", "line_item": "m, output",
             "amount": {"value": 1, "currency": "usd"}},
            {"object": "organization.costs.result", "line_item": None,
             "amount": {"value": 0.25, "currency": "usd"}},
        ],
    }],
}  # fmt: skip


def test_exports_of_providers_are_understood_as_they_come(found, tmp_path):
    for name, page in (("usage", OPENAI_USAGE), ("costs", OPENAI_COSTS)):
        (tmp_path / f"{name}.json").write_text(json.dumps(page))
    ours = call(model_id="openai/m", provider="openai")
    result = found([ours], sorted(tmp_path.iterdir()))
    fees, model = result.frame.to_dicts()
    assert (model["cause"], model["invoiced_usd"]) == ("agrees", Decimal("1.8"))
    assert model["invoiced_cached_input_tokens"] == 400
    assert (fees["cause"], fees["difference_usd"]) == ("no model's usage", Decimal("0.25"))


def test_what_a_gateway_says_of_a_providers_calls_does_not_count_twice(mirror, log, database):
    log(call(provider="anthropic"), table="ai_request_attempts")
    day = NOON.replace(hour=0)
    for source in ("litellm", "anthropic"):
        with psycopg.connect(database.conninfo) as connection:
            connection.execute(
                "INSERT INTO ai_imported_usage (id, source, kind, bucket_start, bucket_end, provider, "
                "model, grouping, cost_usd) VALUES (gen_random_uuid(), %s, 'cost', %s, %s, %s, %s, %s, 1.8)",
                [source, day, day + timedelta(days=1), "anthropic", "m", "model"],
            )
        loaded = reconcile(mirror, imported_rows(mirror, None), price_list=rates)
        assert (only(loaded)["cause"], loaded.invoiced_usd) == ("agrees", Decimal("1.8"))


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_real_exports_are_invoices(provider):
    exports = sorted((Path(__file__).parents[1] / "data" / "imports").glob(f"{provider}_*"))
    assert len(exports) == 4
    for export in exports:
        lines = read_invoice(export)
        assert {line.provider for line in lines} == {provider}
