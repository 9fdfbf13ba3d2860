"""`lab.plot` over a history: what a figure shows is what the frames say."""

from __future__ import annotations

import os
import shutil
from datetime import timedelta
from decimal import Decimal
from typing import Any

import plotly.graph_objects as go
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from novellus_lab import Lab
from novellus_lab.errors import InvalidRequestError
from novellus_lab.plots.theme import COLOURS, INK, label, log_ticks
from tests.figure_texts import CUT_OFF, ON_EACH_OTHER
from tests.made_up_spending import EVIL, MODELS, History, Model, rows, write

CHROMIUM = os.environ.get("NOVELLUS_CHROMIUM") or shutil.which("chromium")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
FIGURES = (
    *("costs", "savings", "cache", "latency", "latency_ecdf", "latency_heatmap", "usage"),
    *("errors", "sessions", "frontier", "anomalies"),
)


@pytest.fixture(scope="module")
def lab(server: Any, template: str, tmp_path_factory: Any) -> Any:
    from tests.conftest import _fresh_database

    home = tmp_path_factory.mktemp("plot")
    hostile = Model(EVIL, Decimal("0.000001"), Decimal("0.000002"), 0.05, 500)
    with (
        _fresh_database(server, template) as database,
        Lab(config={"models": []}, database_url=database.conninfo, home=home / "h") as lab,
    ):
        history = History(days=14, a_day=120, models=(*MODELS, hostile), teams=("a", "b$c$", EVIL))
        write(database.conninfo, rows(history), scored=0.3)
        yield lab


def texts(figure: go.Figure) -> str:
    return figure.to_json().replace("\\u003c", "<").replace("\\u003e", ">")


def test_every_figure_draws_the_history_and_says_so_where_there_is_none(lab: Lab) -> None:
    for name in FIGURES:
        drawn = getattr(lab.plot, name)(
            "20d", **({"metrics": "cost_usd"} if name == "anomalies" else {})
        )
        assert isinstance(drawn, go.Figure)
        assert drawn.data or name == "anomalies", name
        assert "<script" not in texts(drawn), name
        nobody = {"model": "nobody"} if name != "anomalies" else {"since": "1s"}
        empty = getattr(lab.plot, name)(**nobody)
        assert not empty.data
        [sentence] = empty.layout.annotations
        assert sentence.text.rstrip().endswith("."), name


def test_stacked_bars_add_up_to_the_frame_and_unpriced_requests_stand_below(lab: Lab) -> None:
    drawn = lab.plot.costs("20d", every="1d")
    frame = lab.analytics.costs("20d")
    bars = [bar for bar in drawn.data if bar.yaxis != "y2"]
    total = sum(value for bar in bars for value in bar.y)
    assert total == pytest.approx(float(frame["cost_usd"][0]))
    [below] = [bar for bar in drawn.data if bar.yaxis == "y2"]
    assert sum(below.y) == frame["unpriced"][0]
    assert f"{frame['unpriced'][0]:,} requests" in drawn.layout.title.text
    assert drawn.layout.barmode == "stack"
    assert drawn.layout.yaxis.rangemode == "tozero"


def test_times_are_drawn_on_the_clock_that_was_asked_for(lab: Lab) -> None:
    drawn = lab.plot.costs("20d", every="1d", tz="Asia/Kolkata")
    assert {(time.hour, time.minute) for bar in drawn.data for time in bar.x} == {(0, 0)}
    assert drawn.layout.xaxis.title.text == "time (Asia/Kolkata)"


def test_more_groups_than_colours_become_the_others(lab: Lab) -> None:
    drawn = lab.plot.costs("20d", by="session")
    bars = [bar for bar in drawn.data if bar.yaxis != "y2"]
    assert len(bars) == len(COLOURS) - 1
    assert bars[-1].name.startswith("all others (")
    total = sum(value for bar in bars for value in bar.y)
    assert total == pytest.approx(float(lab.analytics.costs("20d")["cost_usd"][0]))


def test_quantiles_have_their_intervals_and_axes_their_units(lab: Lab) -> None:
    drawn = lab.plot.latency("20d")
    lines = {line.name: line for line in drawn.data if line.name}
    frame = lab.analytics.latency("20d", every="1d").filter(pl.col("source") == "provider")
    assert list(lines["95 %"].y) == frame["p95_ms"].to_list()
    bands = [area for area in drawn.data if area.fill == "toself"]
    assert bands
    lows = frame["p50_low_ms"].drop_nulls().to_list()
    assert set(lows) <= set(bands[0].y)
    assert drawn.layout.yaxis.title.text == "ms, log scale"
    by_model = lab.plot.latency("20d", by="model", quantile="p50")
    assert {line.name for line in by_model.data if line.name} >= {"gpt-4o", "gpt-4o-mini"}


def test_the_curve_ends_at_all_and_columns_of_the_heatmap_add_up(lab: Lab) -> None:
    [curve] = [line for line in lab.plot.latency_ecdf("20d").data if line.name]
    assert curve.y[-1] == 1
    assert list(curve.y) == sorted(curve.y)
    slowest = lab.analytics.latency("20d").filter(pl.col("source") == "provider")["max_ms"][0]
    assert curve.x[-1] == pytest.approx(slowest)
    [heat] = lab.plot.latency_heatmap("20d").data
    for column in zip(*heat.z, strict=True):
        assert sum(share or 0 for share in column) == pytest.approx(1)


def test_the_funnel_counts_as_the_frame_does(lab: Lab) -> None:
    [bars] = lab.plot.cache("20d").data
    frame = lab.analytics.cache("20d")
    assert bars.x[0] == frame["requests"][0]
    assert bars.x[1] == frame["looked"][0]
    assert bars.x[-1] == frame["miss"][0]
    assert bars.y[-1] == "went to a provider"


def test_tokens_flow_in_and_out_of_each_model(lab: Lab) -> None:
    [flow] = lab.plot.usage("20d").data
    frame = lab.analytics.usage("20d", by="model")
    names = flow.node.label
    out = sum(
        value for source, target, value in zip(flow.link.source, flow.link.target, flow.link.value, strict=True)
        if names[target] in ("answers", "reasoning")
    )  # fmt: skip
    assert out == frame["output_tokens"].sum()
    assert sum(flow.link.value) - out == frame["input_tokens"].sum()
    assert "reasoning" in names


def test_errors_are_shares_of_all_requests(lab: Lab) -> None:
    [points] = lab.plot.errors("20d").data
    frame = lab.analytics.errors("20d", by=["status", "error_class"])
    assert sorted(points.x) == sorted(frame["failure_rate"].to_list())
    over_time = lab.plot.errors("20d", every="1d")
    assert sum(sum(bar.y) for bar in over_time.data) == frame["failed"].sum()


def test_the_frontier_of_the_log_takes_scores_from_providers_answers(lab: Lab) -> None:
    frame = lab.analytics.quality("20d")
    scored = lab.sql("SELECT count(*) FROM requests WHERE cache = 'miss'").fetchall()[0][0]
    assert 0 < frame["requests"].sum() < scored
    for row in frame.to_dicts():
        assert row["score_low"] <= row["score"] <= row["score_high"]
    drawn = lab.plot.frontier("20d")
    points = [point for point in drawn.data if point.mode == "markers"]
    assert len(points) == frame.drop_nulls("cost_usd").height
    assert {point.y[0] for point in points} == set(frame.drop_nulls("cost_usd")["score"])


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [920, 560])
def test_no_text_of_a_figure_is_cut_off_or_lies_on_another(
    lab: Lab, tmp_path: Any, width: int
) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    names = [name for name in FIGURES if name != "anomalies"]
    drawn = [getattr(lab.plot, name)("20d") for name in names]
    drawn += [lab.plot.latency("20d", by="model"), lab.plot.errors("20d", every="1d")]
    parts = [
        figure.to_html(full_html=False, include_plotlyjs=n == 0, config={"responsive": True})
        for n, figure in enumerate(drawn)
    ]
    page = tmp_path / "figures.html"
    page.write_text(f"<meta charset='utf-8'><body>{''.join(parts)}", encoding="utf-8")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        tab = chromium.new_page(viewport={"width": width, "height": 900})
        tab.goto(page.as_uri())
        tab.wait_for_function(
            f"document.querySelectorAll('.js-plotly-plot .main-svg').length >= {2 * len(drawn)}"
        )
        assert tab.evaluate(CUT_OFF) == []
        assert (
            tab.evaluate(ON_EACH_OTHER.replace("if (!named.length) return ['no text found'];", ""))
            == []
        )
        chromium.close()


def test_the_forecast_begins_where_spend_is_and_ends_where_it_says(lab: Lab) -> None:
    drawn = lab.plot.forecast("month")
    found = lab.analytics.forecast("month")
    lines = {line.name: line for line in drawn.data if line.name}
    assert lines["so far"].y[-1] == pytest.approx(float(found.spent_usd))
    assert list(lines["forecast"].y) == pytest.approx(
        [float(found.spent_usd), float(found.expected_usd or 0)], rel=0.05
    )
    assert list(lines["so far"].y) == sorted(lines["so far"].y)
    [sentence] = lab.plot.forecast("month", model="nobody").layout.annotations
    assert sentence.text.startswith("There is no full day")


def test_wrong_arguments_are_refused(lab: Lab) -> None:
    for wrong in ({"quantile": "p90"}, {"source": "moon"}, {"of": "cost_usd"}, {"every": "7 suns"}):
        with pytest.raises(InvalidRequestError):
            lab.plot.latency(**wrong)  # type: ignore[arg-type]


async def test_figures_have_async_twins(lab: Lab) -> None:
    assert (await lab.plot.acosts("20d")).data
    assert (await lab.plot.alatency(timedelta(days=20), source="cache")).data


def test_names_are_text_whatever_they_are() -> None:
    assert label("<b>$x$ %{y}</b>") == "&lt;b&gt;&#36;x&#36; %&#123;y}&lt;/b&gt;"
    assert label(None) == "none"
    assert len(label("a" * 500)) == 60


@given(st.floats(1e-3, 1e6), st.floats(1, 1e6))
def test_a_log_axis_has_ticks_and_not_too_many(low: float, times: float) -> None:
    ticks = log_ticks([low, None, low * times, 0.0])
    assert ticks == sorted(set(ticks))
    assert len(ticks) <= 8
    if times > 1.2:
        assert len(ticks) >= 3


def test_ink_can_be_read_on_white_and_on_black() -> None:
    def light(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        r, g, b = (p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    assert 1.05 / (light(INK) + 0.05) > 4
    assert (light(INK) + 0.05) / (light("#111111") + 0.05) > 4
