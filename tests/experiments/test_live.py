"""Experiments on live traffic: sticky arms, shares, holdout, other processes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import psycopg
import pytest
from scipy import stats

from novellus_lab.errors import InvalidRequestError
from novellus_lab.routing.assignment import lot_of
from tests.experiments.conftest import STRONG, WEAK, replay_model

ARMS = {"strong": {"model": STRONG}, "weak": {"model": WEAK}}
PROMPT = "How many?"


def arms_of(rows: Any) -> list[tuple[str | None, str | None, str | None]]:
    return [(row["session_id"], row["arm"], row["model"]) for row in rows()]


def test_a_session_stays_in_its_arm_and_gets_what_the_arm_says(replay_lab, rows):
    started = replay_lab.experiments.start("dear or cheap", ARMS)
    for session in range(12):
        for _ in range(2):
            replay_lab.complete(PROMPT, session_id=f"s{session}", use_cache=False)
    replay_lab.flush()
    logged = arms_of(rows)
    assert {row["experiment"] for row in rows()} == {started.label}
    assert {arm for _, arm, _ in logged} == {"strong", "weak"}
    by_session: dict[str | None, set[Any]] = {}
    for session, arm, model in logged:
        by_session.setdefault(session, set()).add(arm)
        assert model == {"strong": STRONG, "weak": WEAK}[arm or ""]
    assert all(len(arms) == 1 for arms in by_session.values())


def test_calls_that_say_what_they_want_are_left_alone(replay_lab, rows):
    replay_lab.experiments.start("e", ARMS)
    replay_lab.complete(PROMPT, session_id="s", model_id=WEAK)
    replay_lab.complete(PROMPT, session_id="s", experiment="mine", arm="own")
    replay_lab.complete(PROMPT)
    replay_lab.flush()
    assert [row["arm"] for row in rows()] == [None, "own", None]


def test_after_stop_nothing_is_changed(replay_lab, rows):
    replay_lab.experiments.start("e", ARMS, unit="request")
    with pytest.raises(InvalidRequestError, match="under way"):
        replay_lab.experiments.start("e", ARMS)
    replay_lab.complete(PROMPT, use_cache=False)
    assert replay_lab.experiments.stop("e").status == "stopped"
    replay_lab.complete(PROMPT, use_cache=False)
    replay_lab.flush()
    assert [row["experiment"] is None for row in rows()] == [False, True]


def test_another_lab_on_the_database_takes_part(make_lab, replay_lab, rows, tmp_path):
    replay_lab.experiments.start("e", ARMS, unit="tag:user")
    other = make_lab(replay_model(STRONG), replay_model(WEAK), home=tmp_path / "other")
    other._live().thread.run(other._live().experiments.refresh)
    for lab in (replay_lab, other):
        for user in range(8):
            lab.complete(PROMPT, tags={"user": user}, use_cache=False)
        lab.flush()
    arms = Counter((row["tags"]["user"], row["arm"]) for row in rows())
    assert len(arms) == 8
    assert set(arms.values()) == {2}


def test_shares_and_holdout_are_kept(replay_lab, rows):
    replay_lab.experiments.start(
        "e", ARMS, unit="session_id", share=0.8, holdout=0.25, weights={"strong": 1, "weak": 2}
    )
    (live,) = replay_lab._live().experiments._running
    n = 4_000
    seen = Counter(a.name if (a := live.arm(f"unit {i}")) else None for i in range(n))
    expected = {"strong": 0.2, "weak": 0.4, "holdout": 0.2, None: 0.2}
    found = stats.chisquare(
        [seen[name] for name in expected], [share * n for share in expected.values()]
    )
    assert found.pvalue > 1e-4


def test_what_live_traffic_says(replay_lab):
    live = replay_lab.experiments
    live.start("e", ARMS, expected_units=60)
    with pytest.raises(InvalidRequestError, match="no call fell into"):
        live.analyse("e")
    for number in range(80):
        answer = replay_lab.complete(PROMPT, session_id=f"s{number % 40}", use_cache=False)
        live.score(answer.request_id, answer.model == STRONG)
    found = live.analyse("e", metric="cost_usd")
    assert found.n == 40
    assert found.units is not None
    assert sum(found.units.values()) == 40
    effect = found.effect()
    assert effect.difference.units == 40
    once = live.analyse("e", sequential=False)
    assert once.effect(metric="score").treatment.value == 0.0
    assert "Units: strong" in once.verdict
    assert "live traffic" in once._repr_html_()
    assert "REPLAY" in once._repr_html_()
    with pytest.raises(InvalidRequestError, match="no pairs"):
        _ = once.pairs
    assert once.figure().data


def test_units_that_got_lost_are_told_before_anything_else(replay_lab, database):
    started = replay_lab.experiments.start("e", ARMS, unit="request")
    for _ in range(90):
        replay_lab.complete(PROMPT, use_cache=False)
    replay_lab.flush()
    with psycopg.connect(database.conninfo, autocommit=True) as connection:
        connection.execute(
            "DELETE FROM ai_requests WHERE experiment = %s AND arm = 'weak' AND random() < 0.9",
            [started.label],
        )
    found = replay_lab.experiments.analyse("e", sequential=False)
    assert "The arms' sizes are not what the draw makes of them" in found.verdict


def test_lots_are_uniform_and_independent_between_experiments():
    one = [lot_of("one", f"u{i}") for i in range(2_000)]
    two = [lot_of("two", f"u{i}") for i in range(2_000)]
    assert stats.kstest(one, "uniform").pvalue > 1e-4
    assert abs(stats.pearsonr(one, two).statistic) < 0.1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"unit": "user"}, "unit must be"),
        ({"share": 2}, "share must be between 0 and 1"),
        ({"holdout": -1}, "holdout must be"),
        ({"weights": {"strong": 1}}, "weights must have"),
    ],
)
def test_mistakes_are_told(replay_lab, options, says):
    with pytest.raises(InvalidRequestError, match=says):
        replay_lab.experiments.start("e", ARMS, **options)
    with pytest.raises(InvalidRequestError, match="no experiment"):
        replay_lab.experiments.stop("nothing")


def test_somebody_s_word_on_an_answer_is_kept(replay_lab, rows):
    answer = replay_lab.complete(PROMPT)
    replay_lab.experiments.score(answer.request_id, True, reason="right")
    replay_lab.experiments.score(answer.request_id, 0.25)
    (kept,) = rows("ai_scores", "request_id")
    assert (kept["request_id"], kept["scorer"], kept["value"]) == (
        answer.request_id,
        "person",
        0.25,
    )
    with pytest.raises(InvalidRequestError, match="from 0"):
        replay_lab.experiments.score(answer.request_id, 2)
    with pytest.raises(InvalidRequestError, match="no request's id"):
        replay_lab.experiments.score("abc", 1)
