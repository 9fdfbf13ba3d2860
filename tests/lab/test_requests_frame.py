"""`lab.requests()`: the whole log, exact, in the caller's window of time."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import polars as pl
import pytest

from novellus_lab.errors import InvalidRequestError
from novellus_lab.store.copy_text import REQUEST_COLUMNS
from tests.lab.conftest import embedding_model, openai_model
from tests.loopback import (
    ScriptedServer,
    openai_chat_reply,
    openai_embedding_reply,
    openai_error,
    openai_usage,
)


@pytest.fixture
def lab(make_lab):
    usage = openai_usage(7, 3, cached=2, reasoning=1)
    with ScriptedServer(openai_chat_reply("Yes.", usage=usage)) as server:
        yield make_lab(openai_model("m", server.url, input_token_cost="0.000000012345"))


def test_every_column_of_the_table_is_there_also_when_there_is_no_row(lab):
    empty = lab.requests()
    assert empty.height == 0
    lab.complete("Hi", tags={"team": "search"})
    with pytest.raises(InvalidRequestError):
        lab.complete("")
    full = lab.requests()
    assert full.height == 2
    assert set(full.columns) == set(REQUEST_COLUMNS)
    assert empty.schema == full.schema
    assert pl.concat([empty, full]).height == 2


def test_values_are_exact_and_typed(lab, rows):
    answer = lab.complete("Hi", tags={"team": "search"}, temperature=0.5)
    [frame] = lab.requests().to_dicts()
    [row] = rows()
    assert frame["cost_usd"] == row["cost_usd"] == answer.cost
    assert isinstance(frame["cost_usd"], Decimal)
    assert frame["id"] == str(answer.request_id)
    assert frame["created_at"] == row["created_at"]
    assert lab.requests().schema["created_at"].time_zone == "UTC"
    assert json.loads(frame["tags"]) == {"team": "search"}
    assert json.loads(frame["params"]) == {"temperature": 0.5}
    assert json.loads(frame["messages"])[0]["content"] == "Hi"
    assert frame["cache_key"] == row["cache_key"].hex()
    for name in ("input_tokens", "cached_input_tokens", "reasoning_tokens", "propensity",
                 "latency_ms", "stream", "attempts", "dropped_params"):  # fmt: skip
        assert frame[name] == row[name]
    tags = lab.requests()["tags"].str.json_decode(pl.Struct({"team": pl.String}))
    assert tags.struct.field("team").to_list() == ["search"]


def test_shares_of_embedding_costs_are_exact_too(make_lab, rows):
    def answer(request):
        return openai_embedding_reply([[1.0]] * len(request.json["input"]), tokens=7)

    with ScriptedServer(answer) as server:
        lab = make_lab(embedding_model("e", server.url))
        lab.embed(["a", "some more", "and a good deal more of it than that"])
        lab.embed("some more")
        frame = lab.requests()
    assert frame["uncached_cost_usd"].to_list() == [r["uncached_cost_usd"] for r in rows()][::-1]


def test_newest_first_within_a_window_and_a_limit(lab):
    for n in range(4):
        lab.complete(f"{n}")
    everything = lab.requests(None)
    assert everything["created_at"].is_sorted(descending=True)
    assert lab.requests(limit=2)["id"].to_list() == everything["id"].to_list()[:2]
    assert lab.requests(limit=0).height == 0
    third = everything["created_at"][1]
    assert lab.requests(third).height == 2
    assert lab.requests(until=third).height == 2
    # A time without a zone is the one on this machine's wall.
    here = third.astimezone().replace(tzinfo=None)
    assert lab.requests(here).height == 2
    assert lab.requests(until=here).height == 2
    assert lab.requests(until="1h").height == 0
    assert lab.requests(timedelta(hours=1)).height == 4
    assert lab.requests("1.5 h").height == 4
    assert lab.requests(datetime.now(UTC) + timedelta(hours=1)).height == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"since": "yesterday"}, {"since": 7}, {"since": "9999999999d"}, {"since": timedelta.max},
        {"until": "soon"}, {"limit": -1}, {"limit": "5"}, {"limit": True}, {"limit": 2**70},
    ],
)  # fmt: skip
def test_a_wrong_window_is_named(lab, wrong):
    with pytest.raises(InvalidRequestError, match=next(iter(wrong))):
        lab.requests(**wrong)


def test_pandas_takes_it(lab):
    pytest.importorskip("pandas")
    lab.complete("Hi")
    assert list(lab.requests().to_pandas()["model"]) == ["m"]


def test_failures_are_in_it(make_lab):
    with ScriptedServer(openai_error(400)) as server:
        lab = make_lab(openai_model("m", server.url))
        with pytest.raises(Exception, match="400"):
            lab.complete("x")
        [row] = lab.requests().to_dicts()
    assert (row["status"], row["error_class"], row["cost_usd"]) == ("error", "BadRequestError", 0)
