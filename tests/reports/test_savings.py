"""What is called a saving was one: at least where it is measured, and a hypothesis where it is not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import blake2b
from typing import Any

import numpy as np
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from novellus_lab.analytics.prompt_patterns import template
from novellus_lab.ids import uuid7
from novellus_lab.reports.spreadsheet_text import could_be_formula, guarded
from tests.analytics.conftest import put

NOW = datetime.now(UTC)


def hashed(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=16).digest()


def row(model: str, at: timedelta, prompt: str, usd: str, **more: Any) -> dict[str, Any]:
    tokens = {"input_tokens": 1000, "cached_input_tokens": 0, "output_tokens": 100}
    return {
        "created_at": NOW - timedelta(days=2) + at, "model": model, "cost_usd": Decimal(usd),
        "cache_key": hashed(model + prompt), "prompt_hash": hashed(prompt), **tokens, **more,
    }  # fmt: skip


def savings(report: Any) -> dict[str, tuple[Any, ...]]:
    [table] = [one for one in report.document.tables if one.name == "savings"]
    return {found[0]: found[1:] for found in table.rows}


@pytest.fixture
def log(database: Any) -> Any:
    def write(rows: list[dict[str, Any]], scores: list[tuple[Any, float]] = ()) -> None:  # type: ignore[assignment]
        with psycopg.connect(database.conninfo) as connection:
            put(connection, "ai_requests", rows)
            for id, value in scores:
                connection.execute(
                    "INSERT INTO ai_scores (request_id, scorer, value) VALUES (%s, 'exact', %s)",
                    [id, value],
                )

    return write


def test_repeats_within_the_lifetime_are_counted_and_no_more(make_lab: Any, log: Any) -> None:
    minute = timedelta(minutes=1)
    log([row("m", n * minute, "again", "0.25") for n in (0, 10, 50, 70)])
    log([row("m", n * minute, "once", "1") for n in (0, 61)])
    log([row("m", n * minute, "hit", "0", cache="memory") for n in (0, 5)])
    log([row("m", n * minute, "failed", "1", status="error") for n in (0, 5)])
    log([row("m", n * minute, "off", "0.125", cache="off", cache_key=None) for n in (0, 5)])
    found = savings(make_lab(cache={"ttl_seconds": 3600}).cost_report("7d"))
    sure, usd, evidence = found["answer repeated requests from the cache"]
    assert (sure, usd) == ("measured", Decimal("0.50"))
    assert "within 1 hour 2 times (1 prompts)" in evidence
    assert found["switch the cache on for prompts that come again"][:2] == (
        "hypothesis",
        Decimal("0.125"),
    )


def test_a_cache_would_have_saved_at_least_that_much(make_lab: Any, log: Any) -> None:
    rng = np.random.default_rng(3)
    times = {key: sorted(rng.uniform(0, 40, 60)) for key in "abcd"}
    log([row("m", timedelta(hours=t), key, "1") for key, ts in times.items() for t in ts])
    real = 0
    for moments in times.values():
        kept = None
        for at in moments:
            if kept is not None and at - kept < 1:
                real += 1
            else:
                kept = at
    found = savings(make_lab(cache={"ttl_seconds": 3600}).cost_report("7d"))
    said = found["answer repeated requests from the cache"][1]
    assert real * 0.6 < said <= real


@pytest.mark.parametrize(
    ("pairs", "cheap_is_right", "sure"),
    [(120, 120, "measured"), (60, 30, "not advised"), (20, 20, "hypothesis"), (0, 0, "hypothesis")],
)
def test_a_cheaper_model_is_as_good_where_that_was_measured(
    make_lab: Any, log: Any, pairs: int, cheap_is_right: int, sure: str
) -> None:
    rng = np.random.default_rng(1)
    rows, scores = [], []
    for n in range(130):
        for model, price in (("dear", 10), ("cheap", 1)):
            tokens = {
                "input_tokens": int(rng.integers(500, 1500)),
                "output_tokens": int(rng.integers(50, 200)),
            }
            usd = (
                Decimal(price * (tokens["input_tokens"] + 4 * tokens["output_tokens"])) / 1_000_000
            )
            id = uuid7()
            made = row(model, timedelta(minutes=n), f"prompt {n}", str(usd), id=id) | tokens
            rows.append(made)
            if n < pairs:
                right = model == "dear" or n < cheap_is_right
                scores.append((id, float(right)))
    log(rows, scores)
    spent = sum(made["cost_usd"] for made in rows if made["model"] == "dear")
    report = make_lab().cost_report("7d")
    found = savings(report)["ask cheap instead of dear"]
    assert found[0] == sure
    assert float(found[1]) == pytest.approx(float(spent) * 0.9, rel=1e-6)
    if sure == "hypothesis":
        assert 'lab.compare(["dear", "cheap"]' in found[2]
    assert ("ask cheap instead of dear" in report.document.lead[-1]) == (sure != "not advised")


def test_a_long_beginning_that_comes_again_uncached(make_lab: Any, log: Any) -> None:
    messages = [{"role": "system", "content": "Be kind. " * 800}, {"role": "user", "content": "Hi"}]
    rng = np.random.default_rng(2)
    made = []
    for n in range(40):
        tokens = int(rng.integers(1800, 2200)), int(rng.integers(10, 300))
        usd = (tokens[0] * Decimal(2) + tokens[1] * Decimal(8)) / 1_000_000
        one = row("m", timedelta(minutes=4 * n), f"p{n}", str(usd))
        one |= {"input_tokens": tokens[0], "output_tokens": tokens[1]}
        made.append(one | {"messages": psycopg.types.json.Jsonb(messages)})
    log(made)
    sure, usd, evidence = savings(make_lab().cost_report("7d"))[
        "let the provider cache long system prompts"
    ]
    assert sure == "hypothesis"
    assert evidence.startswith("39 times")
    # 39 times 1,800 tokens at two dollars a million, half of it.
    assert float(usd) == pytest.approx(39 * 1800 * 2e-6 / 2, rel=1e-3)


def test_templates_of_prompts() -> None:
    assert template('Mail  a.b@c.de\nabout "the 3rd order" of 12.5 at https://x.y/z?q=1') == (
        "Mail <email> about <quote> of # at <url>"
    )
    assert template("one two three four five six seven eight nine ten eleven").endswith("ten …")
    assert template("order 17?") == template("order 2,018?")


@given(
    st.text(max_size=20),
    st.sampled_from(["=", "+", "-", "@", "\t", "\r", " =", "'=", '"+', "\n-", "＝"]),
)
def test_no_text_that_a_spreadsheet_runs_gets_through(text: str, start: str) -> None:
    assert could_be_formula(start + text)
    assert guarded(start + text).startswith("'")
    assert guarded("a" + text) == "a" + text
