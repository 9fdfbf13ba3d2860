"""The comparison by clicks: the same as `lab.compare`, seen on its way, stopped, and its errors."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Any

import pytest

from novellus_lab.errors import InvalidRequestError
from novellus_lab.experiments.comparison import Ending
from novellus_lab.spaces.comparisons import LabComparison
from tests.experiments.conftest import STRONG, WEAK
from tests.lab.conftest import openai_model
from tests.loopback import Scripted, ScriptedServer, openai_chat_reply
from tests.widgets.conftest import until

pytest.importorskip("ipywidgets")
pytest.importorskip("scipy")


def tick(widget: Any, *names: str) -> None:
    for box in (*widget.strategies, *widget.models):
        box.value = box.description in names


def test_clicked_comparison_says_what_the_code_says(replay_lab: Any) -> None:
    widget = replay_lab.widgets.compare()
    tick(widget, STRONG, WEAK)
    widget.control.value = STRONG
    widget.scorer.value = "numeric"
    widget.n.value = "40"
    widget.run.click()
    assert widget.run.disabled or widget.result is not None
    until(lambda: not widget.busy)
    assert widget.failure.value == ""
    same = replay_lab.compare([STRONG, WEAK], "gsm8k", scorer="numeric", n=40, max_usd="1.00")
    assert widget.result.n == same.n == 40
    assert widget.result.effect().difference == same.effect().difference
    assert widget.result.verdict == same.verdict
    assert same.verdict.split(",")[0][:20] in widget.verdict.value
    assert widget.progress.value == widget.progress.max == 40
    assert not widget.run.disabled
    assert widget.stop_button.disabled
    assert eval(widget.code, {"lab": replay_lab}).effect().difference == same.effect().difference


def test_intervals_narrow_in_one_figure(replay_lab: Any) -> None:
    widget = replay_lab.widgets.compare([STRONG, WEAK], scorer="numeric", n=120)
    widget.run.click()
    until(lambda: not widget.busy)
    line = next(t for t in widget.figure.widget.data if t.mode == "lines+markers")
    assert line.x[-1] == 120
    assert list(line.x) == sorted(set(line.x))
    assert len(line.x) >= 2, "it was looked at on the way"
    low, high = line.customdata[-1]
    early_low, early_high = line.customdata[0]
    assert high - low < early_high - early_low


def test_a_look_that_comes_after_the_end_changes_nothing(replay_lab: Any, monkeypatch: Any) -> None:
    release, late, whole = threading.Event(), threading.Event(), LabComparison.of

    def held(_cls: Any, design: Any, outcomes: Any, ending: Any) -> Any:
        if ending is Ending.RUNNING:
            assert release.wait(60)
        return whole(design, outcomes, ending)

    monkeypatch.setattr(LabComparison, "of", classmethod(held))
    widget = replay_lab.widgets.compare([STRONG, WEAK], n=5)
    look = widget._look
    monkeypatch.setattr(widget, "_look", lambda *given: (look(*given), late.set()))
    widget.run.click()
    until(lambda: not widget.busy)
    assert widget.result.ending is Ending.WHOLE
    release.set()
    assert late.wait(60)
    assert widget.result.ending is Ending.WHOLE
    assert widget.status.value.startswith("all items were asked")


def test_stopping_tells_what_was_paid_for(make_lab: Any, rows: Any) -> None:
    def reply(request: Any) -> Any:
        prompt = request.json["messages"][0]["content"]
        return Scripted(end="hang") if prompt == "never" else openai_chat_reply("42")

    with ScriptedServer(reply) as server:
        lab = make_lab(openai_model("one", server.url), openai_model("two", server.url))
        widget = lab.widgets.compare(["one", "two"], "a\nb\nc\nd\nnever", n=5, max_usd="")
        widget.run.click()
        until(lambda: lab.flush() or (len(rows()) == 8 and widget.result is not None))
        widget.stop_button.click()
        until(lambda: not widget.busy)
    assert widget.result.n == 4
    assert widget.result.ending == "interrupted"
    assert "interrupted" in widget.status.value
    assert not widget.run.disabled


def test_stopping_at_once_leaves_it_ready(replay_lab: Any) -> None:
    widget = replay_lab.widgets.compare([STRONG, WEAK], n=1000)
    for _ in range(5):
        widget.run.click()
        widget.stop_button.click()
        until(lambda: not widget.busy)
        assert not widget.run.disabled
        assert widget.stop_button.disabled


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda w: tick(w, STRONG), "two strategies or models"),
        (lambda w: setattr(w.n, "value", "many"), "items must be"),
        (lambda w: setattr(w.budget, "value", "-1"), "max_usd"),
        (lambda w: setattr(w.kind, "value", "file"), "name a file"),
        (lambda w: setattr(w.kind, "value", "prompts"), "empty"),
    ],
)
def test_mistakes_are_shown_and_cost_nothing(
    replay_lab: Any, rows: Any, change: Any, told: str
) -> None:
    widget = replay_lab.widgets.compare([STRONG, WEAK], n=5)
    change(widget)
    widget.run.click()
    until(lambda: not widget.busy)
    assert told in widget.failure.value
    assert not widget.run.disabled
    replay_lab.flush()
    assert rows() == []


def test_prompts_and_files_are_workloads_too(replay_lab: Any, tmp_path: Any) -> None:
    lines = '{"prompt": "2+2?", "expected": "4"}\n{"prompt": "3+3?", "expected": "6"}\n'
    (tmp_path / "mine.jsonl").write_text(lines)
    widget = replay_lab.widgets.compare([STRONG, WEAK], str(tmp_path / "mine.jsonl"))
    widget.run.click()
    until(lambda: not widget.busy)
    assert widget.result.n == 2
    widget.path.value = ""
    widget.upload.value = (
        {"name": "../up.jsonl", "content": lines.encode(), "type": "", "size": 1,
         "last_modified": datetime.now(UTC)},
    )  # fmt: skip
    widget.run.click()
    until(lambda: not widget.busy and widget.result.design.workload == "up")


def test_unknown_arms_are_refused_at_once(replay_lab: Any) -> None:
    with pytest.raises(InvalidRequestError, match="gpt-9"):
        replay_lab.widgets.compare(["gpt-9"])


def test_closing_widget_or_lab_ends_the_run(make_lab: Any) -> None:
    with ScriptedServer(lambda _request: Scripted(end="hang")) as server:
        lab = make_lab(openai_model("one", server.url), openai_model("two", server.url))
        widgets = [lab.widgets.compare(["one", "two"], "a\nb", max_usd="") for _ in range(2)]
        for widget in widgets:
            widget.run.click()
        until(lambda: len(server.requests) >= 2)
        widgets[0].close()
        until(lambda: not widgets[0].busy)
        assert widgets[1].busy
        lab.close()
        until(lambda: not widgets[1].busy)
    assert "the lab was closed" in widgets[1].failure.value
    widgets[1].run.click()
    assert "this lab is closed" in widgets[1].failure.value
