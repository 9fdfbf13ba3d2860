"""Models side by side: streamed, priced, stopped; one that fails is shown in its place."""

from __future__ import annotations

from typing import Any

import pytest

from novellus_lab.errors import InvalidRequestError
from tests.experiments.conftest import STRONG, WEAK
from tests.lab.conftest import openai_model
from tests.loopback import Scripted, ScriptedServer
from tests.widgets.conftest import until

pytest.importorskip("anywidget")


def test_models_answer_side_by_side(replay_lab: Any, rows: Any) -> None:
    widget = replay_lab.widgets.playground(prompt="What is 2 + 2?")
    assert [box.description for box in widget.models if box.value] == [STRONG, WEAK]
    widget.max_tokens.value = "50"
    widget.system.value = "Be <script>alert(1)</script> kind."
    widget.ask.click()
    until(lambda: not widget.busy)
    assert widget.errors == {}
    assert set(widget.answers) == set(widget.columns) == {STRONG, WEAK}
    for model, column in widget.columns.items():
        assert widget.answers[model]._repr_html_() == column.value
    assert "first token" in widget.summary.value
    assert STRONG in widget.summary.value
    replay_lab.flush()
    logged = rows()
    assert {row["model"] for row in logged} == {STRONG, WEAK}
    assert all(row["params"]["max_tokens"] == 50 for row in logged)
    assert widget.status.value == "done"


def test_one_failure_is_shown_in_its_place_and_stop_stops(make_lab: Any) -> None:
    def reply(request: Any) -> Any:
        if request.json["model"] == "one":
            return Scripted(status=400, body=b'{"error": {"message": "not <b>this</b>"}}')
        return Scripted(end="hang")

    with ScriptedServer(reply) as server:
        lab = make_lab(openai_model("one", server.url), openai_model("two", server.url))
        widget = lab.widgets.playground(prompt="Hello")
        widget.ask.click()
        until(lambda: "one" in widget.errors and len(server.requests) > 1)
        assert "not &lt;b&gt;this" in widget.columns["one"].value
        assert widget.busy
        assert widget.ask.disabled
        widget.stop_button.click()
        until(lambda: not widget.busy)
        assert server.client_left.wait(20)
    assert "stopped" in widget.status.value
    assert not widget.ask.disabled


def test_mistakes_are_shown(replay_lab: Any) -> None:
    widget = replay_lab.widgets.playground()
    widget.ask.click()
    assert "no prompt" in widget.failure.value
    widget.prompt.value = "Hello"
    widget.temperature.value = "hot"
    widget.ask.click()
    assert "temperature must be a number" in widget.failure.value
    with pytest.raises(InvalidRequestError, match="gpt-9"):
        replay_lab.widgets.playground(["gpt-9"])
