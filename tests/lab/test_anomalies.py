"""`lab.anomalies`: from the log to what happened, to whom, and which requests show it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from novellus_lab.errors import InvalidRequestError
from tests.monitoring.made_up_log import NOW, Injected, Row, rows, write

pytest.importorskip("numpy")

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


@pytest.fixture
def lab(make_lab: Any) -> Any:
    return make_lab()


def minutes(
    count: int, last: int, make: Any, *, usual: int = 10, odd: int | None = None
) -> list[Row]:
    """So many minutes up to now of `usual` equal requests; in the last ones `odd`, changed by `make`."""
    made = []
    for n in range(count):
        late = n >= count - last
        for k in range((usual if odd is None else odd) if late else usual):
            at = NOW - (count - n) * MINUTE + k * timedelta(milliseconds=200)
            row = {
                "created_at": at, "model": "m", "status": "ok", "cache": "miss",
                "latency_ms": 1000.0, "output_tokens": 100, "cost_usd": 0.001,
            }  # fmt: skip
            if late:
                make(row, k)
            made.append(row)
    return made


def look(lab: Any, hours: float, **more: Any) -> Any:
    """Up to the end of what was made up, however long ago that is by now."""
    return lab.anomalies(NOW - hours * HOUR, until=NOW, **more)


def by_rules(lab: Any) -> list[Any]:
    return list(look(lab, 2, bucket="1m", false_alarms=0))


def latency(ms: float) -> Any:
    return lambda row, k: row.update(latency_ms=ms)


def failing(errors: int) -> Any:
    return lambda row, k: row.update(status="error" if k < errors else "ok")


@pytest.mark.parametrize(
    ("kind", "below", "at", "observed", "usual"),
    [
        ("latency", (latency(1999.9), {}), (latency(2000.0), {}), 2000, 10),
        ("error_rate", (failing(5), {}), (failing(6), {}), 0.06, 100),
        ("traffic", (latency(1000.0), {"odd": 29}), (latency(1000.0), {"odd": 30}), 30, 10),
    ],
)
def test_each_rule_speaks_from_its_boundary_on(
    lab: Any, database: Any, kind: str, below: Any, at: Any, observed: float, usual: int
) -> None:
    make, more = below
    write(database.conninfo, minutes(60, 3, make, usual=usual, **more))
    assert by_rules(lab) == []

    with psycopg.connect(database.conninfo) as connection:
        connection.execute("TRUNCATE ai_requests")
    make, more = at
    write(database.conninfo, minutes(60, 3, make, usual=usual, **more))
    (found,) = by_rules(lab)
    assert (found.kind, found.model, found.start, found.end) == (kind, "m", NOW - 3 * MINUTE, None)
    assert found.observed == pytest.approx(observed)
    assert [evidence.detector for evidence in found.evidence] == ["rules"]


def test_one_odd_minute_and_few_requests_are_no_anomaly(lab: Any, database: Any) -> None:
    write(database.conninfo, minutes(60, 1, latency(9000.0)))
    assert by_rules(lab) == []
    with psycopg.connect(database.conninfo) as connection:
        connection.execute("TRUNCATE ai_requests")
    write(database.conninfo, minutes(60, 5, latency(9000.0), odd=9))
    assert by_rules(lab) == []


def slow_search(row: Row, rng: Any) -> None:
    if row["team"] == "search" and row["cache"] == "miss":
        row["latency_ms"] *= 5


def short(row: Row, rng: Any) -> None:
    row["output_tokens"] //= 4


def uncached(row: Row, rng: Any) -> None:
    row["cache"] = "miss"


def dear(row: Row, rng: Any) -> None:
    row["cost_usd"] *= 4


def test_what_went_wrong_is_found_named_and_laid_to_who_carries_it(lab: Any, database: Any) -> None:
    first, last = NOW - 8 * HOUR, NOW - 2 * HOUR

    def creeping(row: Row, rng: Any) -> None:
        row["latency_ms"] *= 1 + 1.2 * ((row["created_at"] - first) / (last - first))

    def cached(row: Row, rng: Any) -> None:
        row["cache"] = "memory" if rng.random() < 0.6 else "miss"

    faults = [
        Injected(NOW - 200 * HOUR, NOW - 22 * HOUR, cached),
        Injected(NOW - 22 * HOUR, NOW - 20 * HOUR, uncached),
        Injected(NOW - 20 * HOUR, NOW, cached),
        Injected(NOW - 34 * HOUR, NOW - 33 * HOUR, slow_search),
        Injected(NOW - 28 * HOUR, NOW - 27 * HOUR, short),
        Injected(NOW - 16 * HOUR, NOW - 15 * HOUR, dear),
        Injected(first, last, creeping),
    ]
    made = rows(NOW - 5 * 24 * HOUR, NOW, every=5 * MINUTE, mean=40, models=["m"], faults=faults)
    write(database.conninfo, made)
    found = look(lab, 36)
    by_kind = {one.kind.value: one for one in reversed(found)}
    assert {"latency", "output_length_drop", "cache_hit_rate_drop", "spend", "drift"} <= set(
        by_kind
    )

    slow = by_kind["latency"]
    assert slow.start == pytest.approx(NOW - 34 * HOUR, abs=timedelta(minutes=15))
    assert slow.end == pytest.approx(NOW - 33 * HOUR, abs=timedelta(minutes=20))
    assert {one.detector for one in slow.evidence} == {"rules", "adaptive"}
    search = next(part for part in slow.contributions if part.dimension == "tag team")
    assert search.value == "search"
    assert search.share is not None
    assert search.share > 0.8
    with psycopg.connect(database.conninfo) as connection:
        teams = connection.execute(
            "SELECT tags ->> 'team', latency_ms FROM ai_requests WHERE id = ANY(%s)",
            [list(slow.example_ids)],
        ).fetchall()
    assert len(teams) == 5
    assert {team for team, _ in teams} == {"search"}
    assert min(ms for _, ms in teams) > 4000

    drift = by_kind["drift"]
    assert drift.metric == "latency_ms"
    assert first <= drift.start + HOUR
    assert drift.start < last
    assert by_kind["spend"].observed / by_kind["spend"].expected > 2
    assert by_kind["cache_hit_rate_drop"].observed < 0.2 < by_kind["cache_hit_rate_drop"].expected
    assert len(found) <= 8, found  # one event, one anomaly

    # Found again, it is the same: nothing is new, ids and acknowledgements stay.
    seen = lab.monitor.acknowledge(slow, note="index was rebuilt", by="ana")
    again = look(lab, 36, metrics="latency_ms")
    assert {one.id for one in again} == {one.id for one in found}
    (same,) = [one for one in again if one.id == slow.id]
    assert (same.acknowledged_by, same.note, same.start) == ("ana", "index was rebuilt", slow.start)
    assert seen.acknowledged_at == same.acknowledged_at
    assert slow.id not in {one.id for one in look(lab, 36, acknowledged=False, detect=False)}

    # Filters, frame, twins, what is shown.
    stored = look(lab, 36, kind="spend", detect=False)
    assert [one.kind for one in stored] == ["spend"]
    assert list(look(lab, 36, severity="high", detect=False)) == [
        one for one in again if one.severity == "high"
    ]
    assert len(asyncio.run(lab.monitor.aanomalies("36h", detect=False))) == len(found)
    frame = again.frame
    assert frame.height == len(again)
    (carried,) = frame.filter(frame["kind"] == "latency")["carried_by"].to_list()
    assert carried.endswith("of it by tag team search")
    assert again.contributions(slow)["share"].max() > 0.8
    html = again._repr_html_()
    assert "tag team search" in html
    assert "ana: index was rebuilt" in html
    figure = again.figure(slow)
    names = {trace.name for trace in figure.data}
    assert {"mean latency", "usual", "worst"} <= names
    assert figure.layout.shapes[0].x0 == slow.start


def test_what_several_models_show_is_said_once(lab: Any, database: Any) -> None:
    def down(row: Row, rng: Any) -> None:
        if row["model"] == "b" or rng.random() < 0.01:
            row["status"] = "error"

    one = [Injected(NOW - 30 * MINUTE, NOW - 20 * MINUTE, down)]
    write(
        database.conninfo,
        rows(NOW - 3 * HOUR, NOW, mean=60, models=["a", "b", "c"], faults=one, seed=1),
    )
    found = list(look(lab, 3, false_alarms=0))
    assert [(each.model, each.kind) for each in found] == [("b", "error_rate")]
    assert {evidence.model for evidence in found[0].evidence} == {"b", None}

    with psycopg.connect(database.conninfo) as connection:
        connection.execute("TRUNCATE ai_requests, ai_anomalies CASCADE")
    all_of_them = [Injected(NOW - 30 * MINUTE, NOW - 20 * MINUTE, times=4)]
    write(
        database.conninfo,
        rows(NOW - 3 * HOUR, NOW, mean=60, models=["a", "b", "c"], faults=all_of_them),
    )
    found = list(look(lab, 3, false_alarms=0))
    assert [(each.model, each.kind) for each in found] == [(None, "traffic")]
    assert {evidence.model for evidence in found[0].evidence} == {"a", "b", "c", None}
    assert found[0].contributions  # by model, none of which stands out
    assert "of it by" not in repr(look(lab, 3, detect=False))


def test_no_more_requests_is_a_grave_matter(lab: Any, database: Any) -> None:
    made = rows(NOW - 96 * HOUR, NOW - HOUR, every=5 * MINUTE, mean=20, models=["m"])
    write(database.conninfo, made)
    found = {one.kind: one for one in look(lab, 24, metrics="requests")}
    stopped = found["traffic_drop"]
    assert stopped.start == pytest.approx(NOW - HOUR, abs=10 * MINUTE)
    assert (stopped.end, stopped.observed, stopped.severity) == (None, 0, "high")


def test_an_anomaly_that_is_over_gets_its_end(lab: Any, database: Any) -> None:
    write(database.conninfo, minutes(60, 3, latency(3000.0)))
    (found,) = by_rules(lab)
    assert found.end is None
    with psycopg.connect(database.conninfo) as connection:
        connection.execute("UPDATE ai_requests SET created_at = created_at - interval '10 minutes'")
        connection.execute(
            "UPDATE ai_anomalies SET started_at = started_at - interval '10 minutes', "
            "updated_at = updated_at - interval '10 minutes'"
        )
    write(database.conninfo, minutes(10, 0, latency(1000.0)))
    (ended,) = by_rules(lab)
    assert ended.id == found.id
    assert ended.end == NOW - 10 * MINUTE


def test_names_of_others_do_no_harm(lab: Any, database: Any) -> None:
    made = minutes(60, 3, lambda row, k: row.update(latency_ms=9000.0 if k < 5 else 1000.0))
    for k, row in enumerate(made):
        row["model"] = "<img src=x onerror=alert(1)>"
        row["tags"] = {"<b>%s</b>": "<script>" if k % 10 < 5 else "quiet", "x": [1]}
    write(database.conninfo, made)
    found = look(lab, 2, bucket="1m", false_alarms=0)
    html = found._repr_html_()
    assert "<img" not in html
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "<img" not in found.figure().layout.title.text


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"since": "yesterday"}, "since must be a duration"),
        ({"since": "1h", "until": "2h"}, "must be before until"),
        ({"bucket": "7m"}, "bucket must divide a day"),
        ({"bucket": "1s", "since": "7d"}, "choose wider buckets"),
        ({"kind": "strange"}, "kind must be one of latency"),
        ({"severity": "fatal"}, "severity must be one of low, medium, high"),
        ({"metrics": ["speed"]}, "no metric 'speed'"),
        ({"false_alarms": -1}, "false_alarms must be"),
    ],
)
def test_bad_arguments_are_named(lab: Any, arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidRequestError, match=told):
        lab.anomalies(**arguments)


def test_an_empty_log_has_no_anomalies(lab: Any) -> None:
    found = lab.anomalies()
    assert len(found) == 0
    assert found.frame.height == 0
    assert "no anomaly" in found._repr_html_()
    with pytest.raises(InvalidRequestError, match="no anomaly here"):
        found.figure()
    with pytest.raises(InvalidRequestError, match="no anomaly's id"):
        lab.monitor.acknowledge("x")
    with pytest.raises(InvalidRequestError, match="there is no anomaly"):
        lab.monitor.acknowledge("00000000-0000-7000-8000-000000000000")
