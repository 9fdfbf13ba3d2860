"""`lab.analytics.load`, `export`, and what the rest of the lab makes of imported usage."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from novellus_lab.errors import InvalidRequestError
from tests.lab.conftest import openai_model
from tests.loopback import ScriptedServer, openai_chat_reply

SAMPLES = Path(__file__).parents[1] / "data" / "imports"
DAY = datetime(2026, 8, 5, tzinfo=UTC)


@pytest.fixture
def lab(make_lab) -> Any:
    return make_lab(openai_model("gpt-4o", "http://127.0.0.1:9"))


def spend(path: Path, *rows: dict[str, Any]) -> Path:
    base = json.loads((SAMPLES / "litellm_spend_log.json").read_text())
    path.write_text("".join(json.dumps({**base, **row}) + "\n" for row in rows))
    return path


def test_what_was_imported_is_in_metrics_frames_and_sql(lab, tmp_path):
    start = datetime.now(UTC) - timedelta(hours=3)
    rows = [
        {"request_id": f"r{i}", "startTime": str(start + timedelta(minutes=i)), "endTime": None,
         "spend": "0.1", "end_user": "ada" if i % 2 else "bob"}
        for i in range(10)
    ]  # fmt: skip
    report = lab.analytics.load(spend(tmp_path / "a.jsonl", *rows))
    assert (report.new, report.cost_usd) == (10, 1)
    assert lab.analytics.load(tmp_path / "a.jsonl", dry_run=True).new is None
    assert lab.metrics(model_id="gpt-4o", time_range="24h").requests.total == 10
    by_user = lab.analytics.costs("24h", by="tag:end_user")
    assert dict(by_user.select("tag:end_user", "cost_usd").iter_rows()) == {
        "ada": Decimal("0.5"), "bob": Decimal("0.5"),
    }  # fmt: skip
    assert lab.analytics.costs("24h", tag={"imported_from": "litellm"})["requests"].to_list() == [
        10
    ]
    lab.analytics.load(SAMPLES / "openai_costs.csv")
    by_model = lab.analytics.imported(by=["month", "model"])
    assert by_model.select("model", "cost_usd").rows() == [
        ("gpt-4o-2024-08-06", Decimal("0.895874")), ("gpt-5-2025-08-07", Decimal("0.56177125")),
    ]  # fmt: skip
    assert lab.analytics.imported(since="1d").is_empty()
    lines = lab.analytics.imported(by="dimension:line_item")["dimension:line_item"]
    assert lines.to_list() == ["gpt-4o-2024-08-06, input", "gpt-5-2025-08-07, output"]
    with pytest.raises(InvalidRequestError, match="Did you mean 'model'"):
        lab.analytics.imported(by="models")
    assert lab.sql("SELECT sum(cost_usd) FROM imported_usage").fetchall() == [
        (Decimal("1.45764525"),)
    ]  # fmt: skip


def test_a_lab_that_calls_exports_and_loads_what_it_logged(make_lab, tmp_path, database, rows):
    with ScriptedServer([openai_chat_reply("Hello", model="gpt-4o")]) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        lab.complete("Hi", tags={"team": "web"})
        lab.flush()
        before = rows()
        report = asyncio.run(lab.analytics.aexport(tmp_path / "out", "1d"))
        assert (report.requests, report.attempts) == (1, 1)
        assert lab.analytics.load(tmp_path / "out").new == 0
        assert rows() == before


def _agreeing(path: Path) -> Path:
    """Calls that used what the console says for claude-haiku-4-5 on 2026-08-05, for a cent."""
    return spend(
        path,
        *({"request_id": f"h{i}", "startTime": str(DAY + timedelta(hours=i)), "endTime": None,
           "model": "claude-haiku-4-5-20251001", "custom_llm_provider": "anthropic", "metadata": "{}",
           "prompt_tokens": 12500, "completion_tokens": 500, "total_tokens": 13000, "spend": "0.0025"}
          for i in range(4)),
    )  # fmt: skip


def _cause(found: Any) -> dict[str, str]:
    return dict(found.by_model.select("model", "cause").iter_rows())


def test_reconcile_takes_a_providers_own_files(lab, tmp_path):
    lab.analytics.load(_agreeing(tmp_path / "a.jsonl"))
    files = [SAMPLES / "anthropic_tokens.csv", SAMPLES / "anthropic_cost.csv"]
    found = lab.analytics.reconcile(files)
    assert _cause(found)["claude-haiku-4-5-20251001"] == "agrees"
    assert _cause(found)["claude-opus-5"] == "calls missing from the log"
    assert found.invoiced_usd == Decimal("0.66")


def test_reconcile_takes_what_was_imported(lab, tmp_path):
    with pytest.raises(InvalidRequestError, match="no usage was imported"):
        lab.analytics.reconcile()
    lab.analytics.load(
        _agreeing(tmp_path / "a.jsonl"), SAMPLES / "anthropic_tokens.csv",
        SAMPLES / "anthropic_cost.csv", SAMPLES / "openai_costs.csv",
    )  # fmt: skip
    found = lab.analytics.reconcile(provider="anthropic")
    assert _cause(found)["claude-haiku-4-5-20251001"] == "agrees"
    assert found.invoiced_usd == Decimal("0.66")
    with pytest.raises(InvalidRequestError, match="no usage of mistral"):
        lab.analytics.reconcile(provider="mistral")


def test_a_providers_file_with_a_bad_row_is_refused_with_its_place(lab, tmp_path):
    path = tmp_path / "costs.csv"
    path.write_text((SAMPLES / "openai_costs.csv").read_text().replace(",usd,", ",eur,"))
    with pytest.raises(InvalidRequestError, match=r"costs\.csv:2: amount_currency must be usd"):
        lab.analytics.reconcile(path)
