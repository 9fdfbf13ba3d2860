"""`lab.analytics` and `lab.sql` over a log that calls made."""

from __future__ import annotations

import json
from decimal import Decimal

import polars as pl
import pyarrow as pa
import pytest

from novellus_lab.errors import InvalidRequestError
from tests.lab.conftest import openai_model
from tests.loopback import ScriptedServer, openai_chat_reply, openai_usage


@pytest.fixture
def lab(make_lab):
    usage = openai_usage(7, 3, cached=2, reasoning=1)
    with ScriptedServer(openai_chat_reply("Yes.", usage=usage)) as server:
        lab = make_lab(openai_model("m", server.url, input_token_cost="0.000000012345"))
        for team in ("search", "search", "ads"):
            lab.complete(f"Hi {team}", tags={"team": team}, session_id="s")
        yield lab


def test_what_was_just_called_is_in_the_frames(lab, rows):
    costs = lab.analytics.costs(by=["model", "tag:team"])
    assert costs["requests"].to_list() == [1, 2]
    assert costs["cost_usd"].sum() == sum(row["cost_usd"] for row in rows())
    assert costs.filter(pl.col("tag:team") == "search")["saved_usd"][0] > 0
    assert lab.analytics.cache()["memory"].to_list() == [1]
    assert lab.analytics.latency()["source"].to_list() == ["cache", "provider"]
    assert lab.analytics.usage()["input_tokens"].to_list() == [14]
    assert lab.analytics.errors(every="1d")["failed"].to_list() == [0]
    assert lab.analytics.sessions()["turns"].to_list() == [3]
    lab.complete("once more", tags={"team": "ads"})
    assert lab.analytics.costs("1h", tag={"team": "ads"})["requests"].to_list() == [2]
    assert lab.analytics.costs(until="1h")["requests"].to_list() == [0]
    with pytest.raises(InvalidRequestError, match="there is no filter 'teem'"):
        lab.analytics.costs(teem="ads")


async def test_async_twins(lab):
    assert (await lab.analytics.acosts(by="model")).equals(lab.analytics.costs(by="model"))
    assert (await lab.analytics.asessions())["turns"].to_list() == [3]


def test_an_invoice_beside_the_log(lab, rows):
    lab.flush()
    spent = sum(row["cost_usd"] for row in rows())
    day = rows()[0]["created_at"].date()
    line = {"date": day, "model": "m", "requests": 2, "input_tokens": 14, "output_tokens": 6}
    result = lab.analytics.reconcile([{**line, "cost_usd": spent}])
    assert result.frame["cause"].to_list() == ["agrees"]
    missing = lab.analytics.reconcile(
        [{**line, "requests": 4, "input_tokens": 28, "output_tokens": 12}]
    )
    assert missing.frame["tokens_drift"].to_list() == [20]
    assert "calls missing from the log" in str(missing)
    assert missing.difference_usd is None


def test_sql_over_the_log(lab, rows):
    relation = lab.sql("SELECT model, sum(cost_usd) AS usd, count(*) AS n FROM requests GROUP BY 1")
    assert relation.fetchall() == [("m", sum(row["cost_usd"] for row in rows()), 3)]
    lab.complete("another")
    assert relation.pl()["n"].to_list() == [3]  # as of when it was made
    assert lab.sql("SELECT count(*) FROM requests").fetchall() == [(4,)]
    joined = lab.sql("SELECT a.role, r.id FROM requests r JOIN attempts a ON a.request_id = r.id")
    assert joined.pl().height == 3
    assert lab.sql("SELECT prompt FROM cache ORDER BY 1").fetchall()[0] == ("Hi ads",)


def test_sql_reads_content_where_the_query_names_it(lab):
    frame = lab.sql("SELECT response, messages, cost_usd FROM requests ORDER BY created_at").pl()
    assert frame["response"].to_list() == ["Yes."] * 3
    assert json.loads(frame["messages"][0])[0]["content"] == "Hi search"
    assert frame["cost_usd"][0] > 0
    assert "response" not in lab.sql("SELECT * FROM requests").columns


def test_sql_takes_frames_by_keyword_and_from_the_callers_variables(lab):
    teams = pl.DataFrame({"team": ["search", "ads"], "budget": [1, 2]})
    query = "SELECT budget, count(*) FROM requests JOIN {} t ON t.team = tags ->> 'team' GROUP BY 1 ORDER BY 1"
    assert lab.sql(query.format("teams")).fetchall() == [(1, 2), (2, 1)]
    assert lab.sql(query.format("t2"), t2=teams.to_arrow()).fetchall() == [(1, 2), (2, 1)]
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"team": ["ads"], "budget": [3]})
    assert lab.sql(query.format("x"), x=frame).fetchall() == [(3, 1)]
    assert lab.sql("SELECT * FROM mine", mine=pa.table({"a": [1]})).fetchall() == [(1,)]
    # The package's own variables are nobody's tables.
    with pytest.raises(InvalidRequestError, match="connection"):
        lab.sql("SELECT * FROM connection")


@pytest.mark.parametrize(
    "wrong", ["SELEC 1", "SELECT nothing FROM requests", "SELECT * FROM nowhere", "", 5,
              "CREATE TABLE x (a INT)"],
)  # fmt: skip
def test_a_query_that_can_not_run_is_named(lab, wrong):
    with pytest.raises(InvalidRequestError, match="quer"):
        lab.sql(wrong)


def test_a_frame_can_not_take_a_tables_name_or_be_anything(lab):
    with pytest.raises(InvalidRequestError, match="table of the log"):
        lab.sql("SELECT 1 FROM requests", requests=pl.DataFrame({"a": [1]}))
    with pytest.raises(InvalidRequestError, match="no frame"):
        lab.sql("SELECT * FROM x", x=object())


def test_nothing_that_sql_does_reaches_the_log(lab, rows):
    lab.flush()
    before = rows()
    for statement in (
        "DELETE FROM requests",
        "UPDATE requests SET model = 'x'",
        "DROP VIEW requests",
        "SELECT 1; DELETE FROM requests",
    ):
        with pytest.raises(InvalidRequestError, match="one query"):
            lab.sql(statement)
    assert rows() == before
    assert lab.analytics.costs()["cost_usd"][0] == sum((r["cost_usd"] for r in before), Decimal(0))


def test_waste_and_forecast(lab):
    [row] = lab.analytics.waste(by="tag:team", tag={"team": "ads"}).to_dicts()
    assert (row["tag:team"], row["went"], row["calls"]) == ("ads", "answer", 1)
    ahead = lab.analytics.forecast("month")
    assert ahead.spent_usd == lab.analytics.costs()["cost_usd"][0]
    assert ahead.expected_usd is None


def test_history_at_the_prices_of_another_configuration(lab, make_lab):
    logged = lab.analytics.reprice()
    assert logged["difference_usd"].to_list() == [0]
    lab.flush()
    dearer = make_lab(openai_model("m", "http://127.0.0.1:9", input_token_cost=3))
    [row] = dearer.analytics.reprice().to_dicts()
    assert row["logged_usd"] == logged["logged_usd"][0]
    assert row["repriced_usd"] > row["logged_usd"]


def test_what_if(lab):
    [row] = lab.analytics.what_if(cache_ttl="0s").to_dicts()
    assert (row["hits"], row["would_hits"]) == (1, 0)
    [same] = lab.analytics.what_if(on_model="m").to_dicts()
    assert same["repriced_usd"] == same["logged_usd"]
    [twice] = lab.analytics.what_if(
        prices={"m": {"input": "0.00000002469", "output": 4}}
    ).to_dicts()
    assert twice["repriced_usd"] == 2 * twice["logged_usd"]
    with pytest.raises(InvalidRequestError, match="takes one of"):
        lab.analytics.what_if()
    with pytest.raises(InvalidRequestError, match="nobody"):
        lab.analytics.what_if(on_model="nobody")
