"""Traces of arrivals, and comparisons under their load."""

from __future__ import annotations

import asyncio
import gzip
import json
from datetime import UTC, datetime, timedelta

import pytest

from novellus_lab.errors import InvalidRequestError
from novellus_lab.experiments.arrivals import arrivals_of
from tests.experiments.conftest import STRONG, WEAK
from tests.lab.conftest import openai_model
from tests.loopback import ScriptedServer, openai_chat_reply


def test_the_trace_of_this_package_is_an_hour_of_conversations():
    trace = arrivals_of("azure_llm_2023")
    assert len(trace) == 19_366
    assert 3_400 < trace.duration_s < 3_600
    assert trace.offsets_s[0] == 0
    assert list(trace.offsets_s) == sorted(trace.offsets_s)
    assert trace.scaled(10).duration_s == pytest.approx(trace.duration_s / 10)
    assert "10 times as fast" in trace.scaled(10).told()
    assert "2,000 arrivals" in trace.first(2_000).told()


def test_times_are_read_from_files_and_lists(tmp_path):
    start = datetime(2026, 1, 1, tzinfo=UTC)
    times = [start + timedelta(seconds=s) for s in (0, 1.5, 4)]
    (tmp_path / "a.csv").write_text(
        "TIMESTAMP,x\n" + "".join(f"{t.isoformat()},1\n" for t in times)
    )
    (tmp_path / "b.jsonl").write_text(
        "".join(json.dumps({"timestamp": s}) + "\n" for s in (0, 1500, 4000))
    )
    (tmp_path / "c.jsonl.gz").write_bytes(
        gzip.compress(b'{"offset_s": 4}\n{"offset_s": 0}\n{"offset_s": 1.5}\n')
    )
    for given in (
        tmp_path / "a.csv",
        tmp_path / "b.jsonl",
        str(tmp_path / "c.jsonl.gz"),
        times,
        [0, 1.5, 4],
    ):
        assert arrivals_of(given).offsets_s == pytest.approx((0, 1.5, 4))
    (tmp_path / "d.csv").write_text("when\n1\n")
    for wrong, says in (
        (tmp_path / "d.csv", "no column of"),
        ("nowhere", "neither a trace"),
        ([], "no arrivals"),
        ([0, "soon"], "is no time"),
        (7, "arrivals are"),
    ):
        with pytest.raises(InvalidRequestError, match=says):
            arrivals_of(wrong)
    with pytest.raises(InvalidRequestError, match="speed must be"):
        arrivals_of([0, 1]).scaled(0)


def test_calls_come_when_they_arrive_and_not_when_there_is_room(make_lab):
    under_way = most = 0

    async def slow(request):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.3)
        under_way -= 1
        return openai_chat_reply("yes")

    with ScriptedServer(slow) as llm:
        lab = make_lab(openai_model("m", llm.url))
        found = lab.compare(
            {"a": {"temperature": 0.0}, "b": {"temperature": 1.0}},
            ["one?", "two?", "three?"],
            arrivals=[i * 0.02 for i in range(20)],
            metric="latency_p95_ms",
            progress=False,
        )
    assert most >= 4, "nobody waits for an earlier answer"
    assert found.n == 20
    assert len({item[0].item_id for item in found.observations}) == 20
    assert {item[0].group for item in found.observations} != {None}
    assert "Under load: 20 arrivals" in found._repr_html_()
    turns = {item[0].turn for item in found.observations}
    assert turns <= {0, 1}


def test_the_real_trace_drives_strategies(replay_lab):
    found = replay_lab.compare(
        {"strong": {"model": STRONG}, "weak": {"model": WEAK}},
        "gsm8k",
        n=100,
        arrivals="azure_llm_2023",
        speed=200,
        scorer="numeric",
        progress=False,
    )
    assert found.n == 100
    assert found.effect(metric="latency_p50_ms").direction == "better"
    with pytest.raises(InvalidRequestError, match="leave out queue"):
        replay_lab.compare(
            ["weighted", "priority"], "gsm8k", arrivals=[0, 1], queue=True, progress=False
        )
