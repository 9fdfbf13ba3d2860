"""History at other prices, from what each call used."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from novellus_lab.analytics.grouping import Question
from novellus_lab.analytics.log_columns import ATTEMPTS
from novellus_lab.analytics.reprice import reprice
from novellus_lab.analytics.stated_prices import read_prices
from novellus_lab.errors import InvalidRequestError
from novellus_lab.pricing import ConfiguredPrice, PriceBook
from tests.analytics.conftest import NOON

CUT = datetime(2026, 6, 1, tzinfo=UTC)
KNOWN = {
    "m": {
        "provider": "p", "model": "m", "base_model": None, "base_url": None,
        "configured": (
            ConfiguredPrice(Decimal(4), Decimal(8), effective_until=CUT),
            ConfiguredPrice(Decimal(1), Decimal(2), effective_from=CUT),
        ),
    }
}  # fmt: skip
USED = {
    "request_id": "00000000-0000-0000-0000-000000000000", "input_tokens": 1_000, "output_tokens": 500,
    "price_version": "config",
}  # fmt: skip


def asked(by="model", since=None, **filters):
    return Question(ATTEMPTS, since, by, None, "UTC", filters)


def test_each_call_at_the_prices_of_its_day_or_all_at_one_days(mirror, log):
    log(
        {**USED, "cost_usd": Decimal(2)},
        {**USED, "cost_usd": Decimal(2), "started_at": CUT - timedelta(days=1)},
        {**USED, "cost_usd": None, "price_version": None},
        table="ai_request_attempts",
    )
    [row] = reprice(mirror, asked(), PriceBook(), KNOWN, None).to_dicts()
    assert (row["calls"], row["unpriced"], row["still_unpriced"]) == (3, 1, 0)
    assert (row["logged_usd"], row["repriced_usd"]) == (4, 2 + 8 + 2)
    assert row["difference_usd"] == (2 + 8) - 4
    for then in ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC).date(), CUT - timedelta(days=9)):
        [row] = reprice(mirror, asked(), PriceBook(), KNOWN, then).to_dicts()
        assert row["repriced_usd"] == 24
    [late] = reprice(mirror, asked(since=CUT), PriceBook(), KNOWN, None).to_dicts()
    assert (late["calls"], late["repriced_usd"]) == (2, 4)
    with pytest.raises(InvalidRequestError, match="as_of"):
        reprice(mirror, asked(), PriceBook(), KNOWN, "last year")


def test_what_no_list_of_prices_decides_stays(mirror, log):
    log(
        {**USED, "cost_usd": Decimal("0.123456789012345678"), "price_version": "provider"},
        {**USED, "cost_usd": 0, "status": "error", "input_tokens": 0, "output_tokens": 0},
        {**USED, "cost_usd": None, "input_tokens": None, "output_tokens": None},
        {**USED, "cost_usd": Decimal(5), "model_id": "nobody-knows-me"},
        table="ai_request_attempts",
    )
    m, other = reprice(mirror, asked(), PriceBook(), KNOWN, None).to_dicts()
    assert m["repriced_usd"] == m["logged_usd"] == Decimal("0.123456789012345678")
    assert (m["unpriced"], m["still_unpriced"], m["difference_usd"]) == (1, 1, 0)
    assert (other["logged_usd"], other["repriced_usd"], other["still_unpriced"]) == (5, None, 1)
    assert other["difference_usd"] is None


def test_the_price_table_knows_models_that_are_configured_no_more(mirror, log):
    log(
        {**USED, "model_id": "openai/gpt-4o", "provider": "openai", "cost_usd": None},
        {**USED, "model_id": "gpt-4o", "provider": "openai", "started_at": NOON, "cost_usd": None,
         "price_version": "genai-prices, batch"},
        table="ai_request_attempts",
    )  # fmt: skip
    one, batch = sorted(
        reprice(mirror, asked(), PriceBook(), {}, None)["repriced_usd"].to_list(), reverse=True
    )
    assert one == Decimal("0.0075")
    assert batch == one / 2


def at(mirror, prices, **filters):
    frame = reprice(mirror, asked(**filters), PriceBook(), KNOWN, None, read_prices(prices))
    return {row["model"]: row for row in frame.to_dicts()}


def test_stated_prices_count_for_their_models_alone(mirror, log):
    log(
        {**USED, "cost_usd": Decimal(2), "cached_input_tokens": 100},
        {**USED, "cost_usd": Decimal(7), "price_version": "provider"},
        {**USED, "cost_usd": Decimal(2), "started_at": CUT - timedelta(days=1)},
        {**USED, "cost_usd": Decimal(5), "model_id": "p/other"},
        {**USED, "cost_usd": None, "model_id": "p/other", "price_version": None},
        table="ai_request_attempts",
    )
    rows = at(mirror, {"m": {"input": "0.3"}})
    # What is not stated stays: output at 2, before the cut at 8.
    assert rows["m"]["repriced_usd"] == Decimal("0.3") * 3 + 1 + 1 + 4
    assert rows["m"]["difference_usd"] == Decimal("0.3") * 3 + 6 - 11
    assert (rows["p/other"]["repriced_usd"], rows["p/other"]["still_unpriced"]) == (5, 1)
    rows = at(mirror, {"m": {"input": 1, "cached_input_token_cost": 0, "output": 0}}, since=CUT)
    assert rows["m"]["repriced_usd"] == Decimal("0.9") + 1
    other = at(mirror, {"other": {"input": 0.1, "output": 0.2}})["p/other"]
    assert (other["repriced_usd"], other["unpriced"], other["still_unpriced"]) == (
        Decimal("0.4"),
        1,
        0,
    )


@pytest.mark.parametrize(
    ("prices", "message"),
    [
        ({}, "prices must be"),
        ({"m": 0.1}, "must be such as"),
        ({"m": {"imput": 1}}, "no 'imput'. Did you mean 'input'"),
        ({"m": {"input": -1}}, r"prices\['m'\].input_token_cost"),
        ({"m": {"input": "cheap"}}, "number of US dollars"),
        ({"m": {}}, "states no price"),
        ({"n": {"input": 1}}, "no call of this time was to 'n'. Known: m"),
    ],
)
def test_prices_that_can_not_be_are_refused(mirror, log, prices, message):
    log({**USED, "cost_usd": Decimal(2)}, table="ai_request_attempts")
    with pytest.raises(InvalidRequestError, match=message):
        at(mirror, prices)
