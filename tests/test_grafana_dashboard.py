"""The Grafana dashboard: whole, and asking for nothing that is not exported."""

from __future__ import annotations

import json
import re
from itertools import combinations, pairwise
from pathlib import Path

import pytest

from novellus_lab.monitoring.prometheus.metrics import METRICS

DASHBOARD = json.loads(
    (Path(__file__).parents[1] / "config" / "grafana_dashboard.json").read_text(encoding="utf-8")
)
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]
SERIES = {series: metric for metric in METRICS for series in metric.series}
FUNCTIONS = {"rate", "increase", "sum", "min", "histogram_quantile", "vector"}
WORDS = {"by", "or"}

TOKEN = re.compile(
    r'"(?:\\.|[^"\\])*"|\[[^\]]*\]|[A-Za-z_:][\w:]*|[{}(),]|!=|=~|!~|=|[-+*/]|[\d.]+|\s+'
)


def names_of(expr):
    """What a PromQL expression names: series with the labels that select them, labels that it groups
    by, functions, and of each series whether a range of it is asked for."""
    tokens = [t for t in TOKEN.findall(expr) if not t.isspace()]
    assert "".join(tokens) == re.sub(r"(\".*?\")|\s+", lambda m: m[1] or "", expr), "unread text"
    assert tokens.count("(") == tokens.count(")")
    series, groups, functions = [], set(), set()
    position = 0
    while position < len(tokens):
        token = tokens[position]
        if token == "by":
            end = tokens.index(")", position)
            groups |= set(tokens[position + 2 : end]) - {","}
            position = end
        elif re.match(r"[A-Za-z_]", token) and token not in WORDS:
            following = tokens[position + 1] if position + 1 < len(tokens) else ""
            if following == "(" or (following == "by" and token in FUNCTIONS):
                functions.add(token)
            else:
                labels = []
                if following == "{":
                    end = tokens.index("}", position)
                    inside = tokens[position + 2 : end]
                    labels = [a for a, b in pairwise(inside) if b in ("=", "!=", "=~", "!~")]
                    position = end
                ranged = tokens[position + 1 : position + 2]
                series.append((token, labels, bool(ranged) and ranged[0].startswith("[")))
        position += 1
    return series, groups, functions


def test_the_reader_of_expressions_reads_them():
    series, groups, functions = names_of(
        'sum by (le, a) (rate(x_bucket{b=~"c{d", e!="f"}[5m])) / y'
    )
    assert series == [("x_bucket", ["b", "e"], True), ("y", [], False)]
    assert groups == {"le", "a"}
    assert functions == {"sum", "rate"}


@pytest.mark.parametrize("expr", EXPRESSIONS)
def test_every_expression_asks_for_what_is_exported(expr):
    series, groups, functions = names_of(expr)
    assert series
    assert functions <= FUNCTIONS
    known = set()
    for name, labels, ranged in series:
        metric = SERIES[name]
        assert set(labels) <= set(metric.labels), name
        # A counter means something as a rate only, a gauge only as it is.
        assert ranged == (metric.kind != "gauge"), name
        known |= set(metric.labels) | ({"le"} if name.endswith("_bucket") else set())
    assert groups <= known
    if "histogram_quantile" in functions:
        assert "le" in groups


def test_all_that_the_seed_names_is_shown():
    shown = {SERIES[name].name for expr in EXPRESSIONS for name, _, _ in names_of(expr)[0]}
    assert shown >= {
        *("ai_model_requests_total", "ai_model_request_duration_seconds", "ai_model_tokens_total"),
        *("ai_model_cost_total", "ai_cache_hit_rate", "ai_model_health_score"),
    }


def test_legends_name_labels_that_their_series_have():
    for panel in PANELS:
        for target in panel["targets"]:
            asked = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            series, groups, _ = names_of(target["expr"])
            assert asked <= (groups or set(SERIES[series[0][0]].labels)), panel["title"]


def test_the_model_can_be_chosen_wherever_series_have_one():
    for expr in EXPRESSIONS:
        for name, labels, _ in names_of(expr)[0]:
            assert ("model" in labels) == ("model" in SERIES[name].labels), expr


def test_its_structure_is_one_that_grafana_takes():
    assert DASHBOARD["schemaVersion"] >= 39
    assert DASHBOARD["id"] is None  # Grafana gives it one
    assert DASHBOARD["uid"]
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["query"] == "prometheus"
    name, label = re.fullmatch(
        r"label_values\((\w+), (\w+)\)", variables["model"]["query"]["query"]
    ).groups()
    assert label in SERIES[name].labels
    for panel in PANELS:
        assert panel["type"] in ("stat", "timeseries")
        assert panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references) > 0
        for source in (panel["datasource"], *(t["datasource"] for t in panel["targets"])):
            assert source == {"type": "prometheus", "uid": "${datasource}"}
        used = set(re.findall(r"\$(\w+)", " ".join(t["expr"] for t in panel["targets"])))
        assert used <= {*variables, "__rate_interval", "__range"}


def test_panels_lie_side_by_side():
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    for place in places:
        assert place["x"] >= 0
        assert place["x"] + place["w"] <= 24
    for a, b in combinations(places, 2):
        apart = (
            a["x"] + a["w"] <= b["x"]
            or b["x"] + b["w"] <= a["x"]
            or a["y"] + a["h"] <= b["y"]
            or b["y"] + b["h"] <= a["y"]
        )
        assert apart, (a, b)
