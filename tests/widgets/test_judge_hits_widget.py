"""A person judges semantic hits: each verdict is kept, and the bound falls."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lab.conftest import openai_model
from tests.loopback import ScriptedServer, openai_chat_reply
from tests.widgets.conftest import until

pytest.importorskip("anywidget")
pytest.importorskip("wordllama")


def test_verdicts_are_kept_one_by_one(make_lab: Any, rows: Any) -> None:
    with ScriptedServer(lambda _request: openai_chat_reply("<b>An</b> answer.")) as server:
        lab = make_lab(openai_model("m", server.url), cache={"semantic_cache": {"enabled": True}})
        lab.complete("What is Python?")
        for end in ("", "!", "?"):
            lab.complete(f"Tell me about Python programming{end}")
    widget = lab.widgets.judge_hits(by="ann")
    until(lambda: not widget.busy)
    assert len(widget.queue) == 3
    assert "none judged yet" in widget.report.value
    assert "What is Python?" in widget.shown.value
    assert "<b>An" not in widget.shown.value
    hit = widget.queue[0]
    widget.fails.click()
    until(lambda: not widget.busy)
    [row] = rows("ai_cache_judgements", "judged_at")
    assert (row["request_id"], row["judged_by"], row["fits"]) == (hit.request_id, "ann", False)
    widget.skip.click()
    widget.fits.click()
    until(lambda: not widget.busy)
    assert widget.judged == 2
    assert widget.queue == []
    assert widget.fits.disabled
    assert "No hit is left" in widget.place.value
    assert "at most" in widget.report.value
    report = lab.cache.judge(1, by=lambda *_: True)
    assert (report.served.judged.judged, report.served.judged.wrong) == (3, 1)
