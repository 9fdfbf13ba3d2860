"""What Prometheus is told by one process: read back by Prometheus' own parsers."""

from __future__ import annotations

import math
import os
import sys
import urllib.request
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics_latest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families as families

from novellus_lab.errors import InvalidRequestError, MissingDependencyError, ProviderError
from novellus_lab.monitoring.prometheus.exposition import Exposition, registry_of
from novellus_lab.monitoring.prometheus.health import KeptHealth
from novellus_lab.monitoring.prometheus.metrics import DURATION, METRICS, REQUESTS
from novellus_lab.monitoring.prometheus.totals import (
    MOST_MODELS,
    CallGroup,
    RequestGroup,
    Totals,
    measured,
)
from tests.lab.conftest import openai_model
from tests.loopback import (
    ScriptedServer,
    openai_chat_reply,
    openai_chat_stream,
    openai_error,
    openai_usage,
)


def samples(registry, *, openmetrics=False):
    """All samples as Prometheus would read them: {(name, label values …): value}."""
    if openmetrics:
        found = openmetrics_families(openmetrics_latest(registry).decode())
    else:
        found = families(generate_latest(registry).decode())
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in found
        for sample in family.samples
    }


def exposed(totals, health=dict):
    return registry_of(Exposition(totals, dict, health))


def test_the_six_names_of_the_seed_tell_what_happened(make_lab):
    usage = openai_usage(100, 20, cached=40, reasoning=5)
    with ScriptedServer([openai_error(503), openai_chat_reply("Good.", usage=usage)]) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        registry = lab.monitor.prometheus()
        r = lab.complete("Hi")
        lab.complete("Hi")
        lab.complete("Hi")
        with pytest.raises(InvalidRequestError):
            lab.complete("Hi", temperature=7)
        lab.flush()
        found = samples(registry)
        assert found == samples(registry, openmetrics=True)
        assert lab.monitor.prometheus() is registry
    assert found["ai_model_requests_total", "gpt-4o", "ok"] == 3
    assert found["ai_model_requests_total", "unknown", "refused"] == 1
    assert found["ai_model_errors_total", "InvalidRequestError", "unknown"] == 1
    # Two hits are no requests to a model: their milliseconds say nothing of it.
    assert found["ai_model_request_duration_seconds_count", "gpt-4o"] == 1
    assert found["ai_model_request_duration_seconds_sum", "gpt-4o"] == pytest.approx(
        r.latency_ms / 1000
    )
    assert found["ai_model_request_duration_seconds_bucket", "+Inf", "gpt-4o"] == 1
    kinds = ("input", "cached_input", "output", "reasoning")
    assert [found["ai_model_tokens_total", kind, "gpt-4o"] for kind in kinds] == [60, 40, 15, 5]
    assert found["ai_model_cost_total", "gpt-4o"] == pytest.approx(float(r.cost))
    assert found["ai_model_unpriced_calls_total", "gpt-4o"] == 0
    assert found["ai_cache_hit_rate",] == pytest.approx(2 / 3)
    assert found["ai_cache_requests_total", "memory"] == 2
    assert found["ai_cache_saved_cost_total",] == pytest.approx(2 * float(r.cost))
    assert found["ai_model_calls_total", "gpt-4o", "primary", "error"] == 1
    assert found["ai_model_calls_total", "gpt-4o", "retry", "ok"] == 1
    assert found["ai_lab_overhead_seconds_count", "memory"] == 2
    assert found["ai_log_backlog_bytes",] == 0


def test_streams_failures_and_unknown_prices(make_lab):
    def answer(request):
        return openai_error(400) if b"Bad" in request.body else openai_chat_stream()

    with ScriptedServer(answer) as server:
        unpriced = openai_model("house-model", server.url)
        del unpriced["input_token_cost"], unpriced["output_token_cost"]
        lab = make_lab(unpriced)
        registry = lab.monitor.prometheus()
        list(lab.stream("Hi"))
        with pytest.raises(ProviderError):
            lab.complete("Bad", use_cache=False)
    found = samples(registry)
    assert found["ai_model_time_to_first_token_seconds_count", "house-model"] == 1
    assert found["ai_model_requests_total", "house-model", "error"] == 1
    assert found["ai_model_errors_total", "BadRequestError", "house-model"] == 1
    assert found["ai_model_cost_total", "house-model"] == 0
    assert ("ai_log_backlog_bytes",) in found


def test_every_name_is_there_before_the_first_request():
    text = generate_latest(exposed(Totals())).decode()
    announced = {family.name for family in families(text)}
    assert announced == {m.name.removesuffix("_total") for m in METRICS}
    assert all(len(list(f.samples)) == 0 for f in families(text))  # unknown is no 0


def test_a_closed_lab_can_still_be_read_and_another_registry_can_take_it_in(make_lab):
    with ScriptedServer(openai_chat_reply("Good.")) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        everything = CollectorRegistry()
        everything.register(lab.monitor.prometheus())
        lab.complete("Hi")
        lab.close()
    assert samples(everything)["ai_model_requests_total", "gpt-4o", "ok"] == 1


def test_it_is_served_over_http(make_lab):
    lab = make_lab()
    server, _ = start_http_server(0, "127.0.0.1", lab.monitor.prometheus())
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}/metrics"
        asked = urllib.request.Request(url, headers={"Accept": "application/openmetrics-text"})
        with urllib.request.urlopen(asked, timeout=10) as answer:
            text = answer.read().decode()
    finally:
        server.shutdown()
        server.server_close()
    assert text.endswith("# EOF\n")
    assert "# TYPE ai_model_requests counter" in text


def test_a_child_process_counts_what_it_does_itself(make_lab):
    with ScriptedServer(openai_chat_reply("Good.")) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        registry = lab.monitor.prometheus()
        lab.complete("Hi")
        lab.complete("Hi")
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                lab.complete("From the child")
                count = samples(registry)["ai_model_requests_total", "gpt-4o", "ok"]
                os.write(write, str(count).encode())
                lab.close()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert os.read(read, 20) == b"1.0"
        assert samples(registry)["ai_model_requests_total", "gpt-4o", "ok"] == 2
        os.close(read)
        os.close(write)


def test_health_is_told_where_it_is_known():
    registry = exposed(Totals(), lambda: {"gpt-4o": 87.5, "new-model": None})
    found = samples(registry)
    assert found == {("ai_model_health_score", "gpt-4o"): 87.5}


def test_a_labs_own_health_is_that_of_the_log(make_lab):
    with ScriptedServer(openai_chat_reply("Good.")) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        for number in range(12):
            lab.complete(f"Question {number}", use_cache=False)
        lab.flush()
        found = samples(lab.monitor.prometheus())
        assert found["ai_model_health_score", "gpt-4o"] == lab.monitor.health()["gpt-4o"]


def test_health_is_looked_for_now_and_then_and_its_absence_told_once(caplog):
    looks = []

    def read():
        looks.append(1)
        raise OSError("the database is away")

    health = KeptHealth(read)
    assert [health(), health()] == [{}, {}]
    assert len(looks) == 1
    health._next_at = 0.0
    assert health() == {}
    assert caplog.text.count("health can't be read") == 1


def test_a_reading_that_fails_takes_no_other_with_it():
    def broken():
        raise OSError("the database is away")

    totals = Totals()
    totals.add_requests(RequestGroup(1, "gpt-4o", "ok", "off"))
    found = samples(registry_of(Exposition(totals, broken, broken)))
    assert found["ai_model_requests_total", "gpt-4o", "ok"] == 1


def test_the_hit_rate_is_of_the_last_hour():
    totals = Totals()
    now = 60 * 1_000_000.0
    for outcome, minute in (
        ("memory", 999_000),
        ("miss", 999_999),
        ("off", 999_999),
        ("coalesced", 999_999),
    ):
        totals.add_requests(RequestGroup(1, "m", "ok", outcome, minute=minute))
    assert totals.hit_rate(now) == 0.0
    totals.add_requests(RequestGroup(3, "m", "ok", "semantic", minute=1_000_000))
    assert totals.hit_rate(now) == 0.75
    assert totals.hit_rate(now + 7200) is None


def test_no_caller_can_fill_prometheus_with_labels():
    totals = Totals()
    for number in range(MOST_MODELS + 500):
        totals.add_requests(RequestGroup(1, f"model-{number}", "ok", "off"))
        totals.add_requests(RequestGroup(1, "model-1", "ok", "off", error=f"Error{number}"))
    series = [k for k in samples(exposed(totals)) if k[0] == "ai_model_requests_total"]
    assert len(series) == MOST_MODELS + 1
    assert samples(exposed(totals))["ai_model_requests_total", "other", "ok"] == 500


@settings(deadline=None)  # of a busy machine
@given(st.text(min_size=1), st.text(min_size=1), st.floats(0, 1e7))
def test_whatever_a_name_holds_prometheus_can_read_it(model, error, latency_ms):
    totals = Totals()
    totals.add_requests(
        RequestGroup(1, model, "error", "off", error, measured(DURATION, latency_ms))
    )
    totals.add_calls(
        CallGroup(1, model, "primary", "error", 1, Decimal("0.00000001"), {"input": 3})
    )
    registry = exposed(totals)
    plain = samples(registry)
    assert plain == samples(registry, openmetrics=True)
    assert sum(v for k, v in plain.items() if k[0] == REQUESTS.name) == 1


@settings(deadline=None)  # of a busy machine
@given(st.floats(0, 1e7))
def test_a_duration_is_in_each_bucket_that_bounds_it(latency_ms):
    totals = Totals()
    totals.add_requests(RequestGroup(1, "m", "ok", "off", duration=measured(DURATION, latency_ms)))
    for key, value in samples(exposed(totals)).items():
        if key[0] == "ai_model_request_duration_seconds_bucket":
            bound = math.inf if key[1] == "+Inf" else float(key[1])
            assert value == (latency_ms / 1000 <= bound)


def test_a_listener_that_fails_breaks_no_call(make_lab, caplog):
    with ScriptedServer(openai_chat_reply("Good.")) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))

        def broken(_):
            raise RuntimeError("no")

        lab._listeners.add(ended=broken, around=broken)
        assert lab.complete("Hi").content == "Good."
        lab._listeners.remove(ended=broken, around=broken)
    assert "a listener failed" in caplog.text
    assert not lab._listeners.ended


def test_without_prometheus_the_way_to_it_is_told(make_lab, monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MissingDependencyError, match=r"novellus_lab\[metrics\]"):
        make_lab().monitor.prometheus()


def test_each_hit_is_told_with_an_id_and_times_of_its_own(make_lab):
    told = []
    with ScriptedServer(openai_chat_reply("Good.")) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        lab._listeners.add(ended=told.append)
        answers = [lab.complete("Hi") for _ in range(4)]
    assert [record.id for record in told] == [answer.request_id for answer in answers]
    assert [record.latency_ms for record in told] == [answer.latency_ms for answer in answers]
    assert len({record.created_at for record in told[1:]}) == 3
    assert all(record.overhead_ms == record.latency_ms for record in told[1:])
    assert {record.response for record in told} == {"Good."}
