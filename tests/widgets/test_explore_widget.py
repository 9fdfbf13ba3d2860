"""The log by clicks: filters, one request's way, its replay; and what was never logged."""

from __future__ import annotations

from typing import Any

import pytest

from novellus_lab.errors import InvalidRequestError
from tests.lab.conftest import openai_model
from tests.loopback import Scripted, ScriptedServer, openai_chat_reply
from tests.widgets.conftest import until

pytest.importorskip("anywidget")
EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture
def provider() -> Any:
    def reply(request: Any) -> Any:
        prompt = request.json["messages"][-1]["content"]
        if "fail" in prompt:
            return Scripted(status=400, body=b'{"error": {"message": "no such thing"}}')
        return openai_chat_reply(f"{request.json['model']} says {EVIL}")

    with ScriptedServer(reply) as provider:
        yield provider


@pytest.fixture
def lab(make_lab: Any, provider: Any) -> Any:
    lab = make_lab(openai_model("one", provider.url), openai_model("two", provider.url), seed=3)
    lab.complete("The 100% question", model_id="one", tags={"team": "search"}, temperature=0.5)
    lab.complete("The 100% question", model_id="one", temperature=0.5)
    lab.complete("Another_one", tags={"team": "ads"})
    with pytest.raises(Exception, match="no such thing"):
        lab.complete("Please fail", model_id="two")
    return lab


def prompts(widget: Any) -> list[str]:
    until(lambda: not widget.busy)
    assert widget.failure.value == ""
    return [row["cells"][-1] for row in widget.table.rows]


def open_row(widget: Any, prompt: str) -> None:
    until(lambda: not widget.busy)
    widget.table.selected = next(r["id"] for r in widget.table.rows if r["cells"][-1] == prompt)
    until(lambda: not widget.busy)
    assert widget.failure.value == ""


def test_filters_narrow_the_list(lab: Any) -> None:
    widget = lab.widgets.explore()
    assert prompts(widget) == [
        "Please fail", "Another_one", "The 100% question", "The 100% question",
    ]  # fmt: skip
    widget.tag.value = "team=ads"
    assert prompts(widget) == ["Another_one"]
    widget.tag.value = ""
    widget.cache.value = "hit"
    assert prompts(widget) == ["The 100% question"]
    widget.cache.value = ""
    widget.status.value = "error"
    assert prompts(widget) == ["Please fail"]
    widget.status.value = ""
    widget.text.value = "100%"
    assert len(prompts(widget)) == 2
    widget.text.value = "100_"
    assert prompts(widget) == [], "a search is for the very text"
    assert "No request" in widget.found.value
    widget.text.value = "ONE SAYS"
    assert "The 100% question" in prompts(widget)
    widget.text.value = ""
    widget.model.value = "two"
    assert "Please fail" in prompts(widget)
    widget.tag.value = "nonsense"
    assert "name=value" in widget.failure.value


def test_pages_go_on_where_they_ended(lab: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("novellus_lab.widgets.explore._PAGE", 3)
    widget = lab.widgets.explore()
    assert len(prompts(widget)) == 3
    assert not widget.older.disabled
    widget.older.click()
    assert len(prompts(widget)) == 4
    assert widget.older.disabled
    assert len({row["id"] for row in widget.table.rows}) == 4


def test_an_opened_request_shows_its_way_and_is_inert(lab: Any) -> None:
    widget = lab.widgets.explore()
    open_row(widget, "Another_one")
    way = widget.way.value
    for told in ("strategy weighted", "with probability 0.5", "Candidates", "Provider calls",
                 "Prices", "Where time went", "cache had no answer", "team"):  # fmt: skip
        assert told in way
    assert "<img" not in way + widget.texts.value
    assert "&lt;img" in widget.texts.value
    widget.cache.value = "memory"
    open_row(widget, "The 100% question")
    assert "The cache (memory) gave the answer of request" in widget.way.value
    widget.cache.value = ""
    open_row(widget, "Please fail")
    assert "no such thing" in widget.way.value


def test_replay_asks_another_model_the_same(lab: Any, provider: Any, rows: Any) -> None:
    widget = lab.widgets.explore()
    open_row(widget, "The 100% question")
    widget.replay_on.value = "two"
    widget.replay.click()
    until(lambda: widget.replayed is not None and not widget.busy)
    assert widget.replayed.model == "two"
    sent = provider.requests[-1].json
    assert sent["messages"] == [{"role": "user", "content": "The 100% question"}]
    assert sent["temperature"] == 0.5
    assert "<img" not in widget.answer.value
    assert "now" in widget.answer.value
    lab.flush()
    assert rows()[-1]["tags"] == {"replay_of": widget.table.selected}
    assert not widget.replay.disabled


def test_a_failed_replay_is_shown(lab: Any) -> None:
    widget = lab.widgets.explore()
    open_row(widget, "Please fail")
    widget.replay.click()
    until(lambda: not widget.busy and widget.failure.value)
    assert "no such thing" in widget.failure.value
    assert not widget.replay.disabled


def test_what_was_never_logged_is_said(make_lab: Any, provider: Any) -> None:
    lab = make_lab(openai_model("one", provider.url), logging={"content": False})
    lab.complete("A secret")
    widget = lab.widgets.explore()
    open_row(widget, "(not logged)")
    assert "were not logged" in widget.texts.value
    assert widget._again.layout.display == "none"
    assert "Provider calls" in widget.way.value


def test_bad_time_is_refused(lab: Any) -> None:
    with pytest.raises(InvalidRequestError, match="since"):
        lab.widgets.explore("soon")
