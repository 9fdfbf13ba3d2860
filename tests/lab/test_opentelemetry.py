"""Spans and metrics that OpenTelemetry's own SDK received."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from novellus_lab.errors import (
    InvalidRequestError,
    MissingDependencyError,
    ProviderUnavailableError,
)
from novellus_lab.monitoring.otel import names
from tests.lab.conftest import embedding_model, openai_model
from tests.loopback import (
    ScriptedServer,
    openai_chat_reply,
    openai_chat_stream,
    openai_embedding_reply,
    openai_error,
    openai_usage,
)

USAGE = openai_usage(100, 20, cached=40, reasoning=5)
GOOD = openai_chat_reply("Good.", usage=USAGE)


class Telemetry:
    """Providers of a test's own, and what they were given."""

    def __init__(self):
        self.exporter = InMemorySpanExporter()
        self.tracer_provider = TracerProvider()
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meter_provider = MeterProvider([self.reader])
        self.tracer = self.tracer_provider.get_tracer("the caller")

    def instrument(self, lab, **options):
        lab.monitor.instrument(
            tracer_provider=self.tracer_provider, meter_provider=self.meter_provider, **options
        )

    @property
    def spans(self):
        return sorted(self.exporter.get_finished_spans(), key=lambda span: span.start_time)

    def points(self, name):
        data = self.reader.get_metrics_data()
        return [
            point
            for resource in ([] if data is None else data.resource_metrics)
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]


@pytest.fixture
def telemetry():
    made = Telemetry()
    yield made
    made.tracer_provider.shutdown()
    made.meter_provider.shutdown()


def test_a_request_is_one_client_span_with_the_names_of_the_conventions(make_lab, telemetry):
    with ScriptedServer(GOOD) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        telemetry.instrument(lab)
        r = lab.complete(
            "Hi",
            model_id="gpt-4o",
            temperature=1,
            max_tokens=50,
            stop="END",
            session_id="chat-7",
            tags={"team": "search"},
        )
        port = int(server.url.rpartition(":")[2])
    [span] = telemetry.spans
    assert (span.name, span.kind) == ("chat gpt-4o", SpanKind.CLIENT)
    assert span.status.status_code is StatusCode.UNSET
    assert dict(span.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.request.temperature": 1.0,
        "gen_ai.request.max_tokens": 50,
        "gen_ai.request.stop_sequences": ("END",),
        "gen_ai.conversation.id": "chat-7",
        "gen_ai.response.model": "gpt-4o-2024-08-06",
        "gen_ai.response.id": r.attempts[0].response_id,
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.output_tokens": 20,
        "gen_ai.usage.cache_read.input_tokens": 40,
        "gen_ai.usage.reasoning.output_tokens": 5,
        "server.address": "127.0.0.1",
        "server.port": port,
        "novellus.request.id": str(r.request_id),
        "novellus.status": "ok",
        "novellus.cache.outcome": "miss",
        "novellus.attempts": 1,
        "novellus.cost_usd": pytest.approx(float(r.cost)),
        "novellus.route.strategy": "explicit",
        "novellus.tag.team": "search",
    }
    assert 0 < span.end_time - span.start_time < 60e9


def test_it_is_a_child_of_the_callers_span_from_wherever_it_is_made(make_lab, telemetry):
    with ScriptedServer(
        lambda request: openai_chat_stream() if request.json.get("stream") else GOOD
    ) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        telemetry.instrument(lab)
        with telemetry.tracer.start_as_current_span("caller") as caller:
            lab.complete("One")
            list(lab.stream("Two"))
            asyncio.run(lab.acomplete("Three"))
            lab.batch(["Four", "Five"], progress=False)
            lab.complete("One")  # from memory, on the calling thread
            with pytest.raises(InvalidRequestError):
                lab.complete("One", temperature=9)
    children = [span for span in telemetry.spans if span.name != "caller"]
    assert len(children) == 7
    assert {span.parent.span_id for span in children} == {caller.get_span_context().span_id}
    assert trace.get_current_span() is trace.INVALID_SPAN


def test_what_a_call_makes_on_the_way_is_below_its_span(make_lab, telemetry):
    """As of an HTTP library that is instrumented: the span is the current one while it runs."""
    seen = []

    def redact(text):  # runs in the request's own context
        seen.append(trace.get_current_span().get_span_context().span_id)
        return text

    with ScriptedServer(GOOD) as server:
        lab = make_lab(openai_model("gpt-4o", server.url), redact=redact)
        telemetry.instrument(lab)
        lab.complete("Hi")
    [span] = telemetry.spans
    assert span.context.span_id in seen


def test_retries_are_within_the_span_each_with_a_child(make_lab, telemetry):
    with (
        ScriptedServer(openai_error(503)) as broken,
        ScriptedServer(GOOD) as server,
    ):
        lab = make_lab(
            openai_model("first", broken.url, priority=200),
            openai_model("second", server.url),
            load_balancing={"default_strategy": "priority"},
            retries={"max_attempts": 2, "base_delay_s": 0.001},
        )
        telemetry.instrument(lab)
        lab.complete("Hi")
    request = next(span for span in telemetry.spans if span.kind is SpanKind.CLIENT)
    attempts = [span for span in telemetry.spans if span.kind is SpanKind.INTERNAL]
    assert request.name == "chat second"  # routed: known at the end
    assert request.attributes["novellus.attempts"] == len(attempts)
    assert attempts[0].attributes["novellus.attempt.role"] == "primary"
    assert attempts[-1].attributes["novellus.attempt.role"] == "failover"
    assert {span.parent.span_id for span in attempts} == {request.context.span_id}
    assert attempts[0].status.status_code is StatusCode.ERROR
    assert attempts[0].attributes["error.type"] == "ProviderUnavailableError"
    assert attempts[0].attributes["http.response.status_code"] == 503
    assert all(request.start_time <= a.start_time <= a.end_time for a in attempts)
    assert attempts[-1].end_time <= request.end_time
    # Who sums up usage over all spans must not count an answer twice.
    assert not any("gen_ai.usage.input_tokens" in span.attributes for span in attempts)


def test_a_failure_has_its_type_and_quotes_nothing(make_lab, telemetry):
    with ScriptedServer(openai_error(500, "you said: my secret plan")) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        telemetry.instrument(lab)
        with pytest.raises(ProviderUnavailableError):
            lab.complete("my secret plan")
    request = next(span for span in telemetry.spans if span.kind is SpanKind.CLIENT)
    assert request.status.status_code is StatusCode.ERROR
    assert request.attributes["error.type"] == "ProviderUnavailableError"
    assert "secret plan" not in "".join(span.to_json() for span in telemetry.spans)
    [duration] = telemetry.points("gen_ai.client.operation.duration")
    assert duration.attributes["error.type"] == "ProviderUnavailableError"


def test_a_hit_uses_no_tokens_and_is_no_operation_of_a_model(make_lab, telemetry):
    with ScriptedServer(GOOD) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        telemetry.instrument(lab)
        lab.complete("Hi")
        lab.complete("Hi")
    hit = telemetry.spans[-1]
    assert hit.attributes["novellus.cache.outcome"] == "memory"
    assert hit.attributes["novellus.cost_usd"] == 0
    assert not any(name.startswith("gen_ai.usage") for name in hit.attributes)
    [duration] = telemetry.points("gen_ai.client.operation.duration")
    assert duration.count == 1
    outcomes = {
        point.attributes["novellus.cache.outcome"]: point.value
        for point in telemetry.points("novellus.requests")
    }
    assert outcomes == {"miss": 1, "memory": 1}


def test_metrics_have_the_names_units_and_bounds_of_the_conventions(make_lab, telemetry):
    with ScriptedServer(openai_chat_stream(usage=USAGE)) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        telemetry.instrument(lab)
        list(lab.stream("Hi"))
        r = lab.complete("Hi")
    tokens = {
        point.attributes["gen_ai.token.type"]: point
        for point in telemetry.points("gen_ai.client.token.usage")
    }
    assert {kind: point.sum for kind, point in tokens.items()} == {"input": 100, "output": 20}
    assert tokens["input"].explicit_bounds == tuple(4.0**n for n in range(14))
    assert tokens["input"].attributes["gen_ai.response.model"] == "gpt-4o-2024-08-06"
    [first] = telemetry.points("gen_ai.client.operation.time_to_first_chunk")
    [duration] = telemetry.points("gen_ai.client.operation.duration")
    assert 0 < first.sum <= duration.sum
    assert duration.explicit_bounds[-1] == pytest.approx(81.92)
    assert duration.attributes["gen_ai.provider.name"] == "openai"
    [cost] = telemetry.points("novellus.cost")
    assert cost.value == pytest.approx(float(r.cost_saved))
    streamed = telemetry.spans[0].attributes
    assert streamed["gen_ai.request.stream"] is True
    assert streamed["gen_ai.response.time_to_first_chunk"] == pytest.approx(first.sum)


def test_a_stream_that_is_left_ends_its_span(make_lab, telemetry):
    pieces = openai_chat_stream([f"word{n} " for n in range(20)], between_s=0.05)
    with ScriptedServer(pieces) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        telemetry.instrument(lab)
        stream = lab.stream("Count")
        next(stream)
        stream.close()
        lab.flush()
    [span] = telemetry.spans
    assert span.attributes["novellus.status"] == "cancelled"
    assert span.attributes["error.type"] == "CancelledError"
    assert span.attributes["gen_ai.usage.output_tokens"] > 0  # what had arrived is paid for


def test_embeddings(make_lab, telemetry):
    with ScriptedServer(openai_embedding_reply([[0.1, 0.2]], tokens=5)) as server:
        lab = make_lab(embedding_model("text-embedding-3-small", server.url))
        telemetry.instrument(lab, content=True)
        lab.embed("Hi", dimensions=2)
    [span] = telemetry.spans
    assert span.name == "embeddings text-embedding-3-small"
    assert span.attributes["gen_ai.usage.input_tokens"] == 5
    assert span.attributes["gen_ai.embeddings.dimension.count"] == 2
    assert "gen_ai.usage.output_tokens" not in span.attributes


CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"in": "Rome"}'},
}
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "My name is Ada. And this?"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
            {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}},
        ],
    },
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
]


def test_content_is_opt_in_and_in_the_form_of_the_conventions(make_lab, telemetry):
    with ScriptedServer(
        openai_chat_reply(None, tool_calls=[CALL], finish_reason="tool_calls")
    ) as server:
        lab = make_lab(
            openai_model("gpt-4o", server.url), redact=lambda text: text.replace("Ada", "[name]")
        )
        telemetry.instrument(lab)
        lab.complete(messages=MESSAGES)
        telemetry.instrument(lab, content=True)
        lab.complete(messages=MESSAGES)
    without, span = telemetry.spans
    assert not {names.INPUT_MESSAGES, names.OUTPUT_MESSAGES} & set(without.attributes)
    asked = json.loads(span.attributes["gen_ai.input.messages"])
    assert asked == [
        {"role": "system", "parts": [{"type": "text", "content": "Be brief."}]},
        {
            "role": "user",
            "parts": [
                {"type": "text", "content": "My name is [name]. And this?"},
                {"type": "image", "mime_type": "image/png", "omitted_characters": 4},
                {"type": "uri", "modality": "image", "uri": "https://example.com/cat.png"},
            ],
        },
        {
            "role": "assistant",
            "parts": [
                {
                    "type": "tool_call",
                    "id": "call_1",
                    "name": "weather",
                    "arguments": {"in": "Rome"},
                }
            ],
        },
        {
            "role": "tool",
            "parts": [{"type": "tool_call_response", "id": "call_1", "response": "sunny"}],
        },
    ]
    [said] = json.loads(span.attributes["gen_ai.output.messages"])
    assert (said["role"], said["finish_reason"]) == ("assistant", "tool_call")
    assert said["parts"][0]["name"] == "weather"


def test_what_is_not_logged_is_on_no_span_either(make_lab, telemetry):
    with ScriptedServer(GOOD) as server:
        lab = make_lab(openai_model("gpt-4o", server.url), logging={"content": False})
        telemetry.instrument(lab, content=True)
        lab.complete("my secret plan")
        lab.complete("my secret plan")
    told = "".join(span.to_json() for span in telemetry.spans)
    assert "secret plan" not in told
    assert "Good." not in told


def test_instrumenting_again_takes_the_place_of_the_first_and_can_be_ended(make_lab, telemetry):
    other = Telemetry()
    with ScriptedServer(GOOD) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        telemetry.instrument(lab)
        other.instrument(lab)
        lab.complete("Hi")
        lab.monitor.uninstrument()
        lab.monitor.uninstrument()
        lab.complete("Ho")
    assert telemetry.spans == []
    assert len(other.spans) == 1


def test_the_settings_switch_it_on_with_the_global_providers(make_lab, telemetry, monkeypatch):
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", telemetry.tracer_provider)
    with ScriptedServer(GOOD) as server:
        lab = make_lab(
            openai_model("gpt-4o", server.url), telemetry={"opentelemetry": True, "content": True}
        )
        lab.complete("Hi")
    [span] = telemetry.spans
    assert "Hi" in span.attributes["gen_ai.input.messages"]


def test_without_opentelemetry_the_way_to_it_is_told(make_lab, monkeypatch):
    for module in [m for m in sys.modules if m.startswith("novellus_lab.monitoring.otel.instr")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(MissingDependencyError, match=r"novellus_lab\[otel\]"):
        make_lab().monitor.instrument()


PROGRAM = """
import sys
from novellus_lab import Lab
with Lab(config={config!r}, home={home!r}, database_url={url!r}) as lab:
    lab.complete("Hi"); lab.complete("Hi"); lab.complete("Hi")
    assert lab._listeners.ended == lab._listeners.around == ()
print(sorted(m for m in sys.modules if m.startswith(("opentelemetry", "prometheus_client"))))
"""


def test_a_lab_that_nobody_watches_loads_neither_library(database, tmp_path):
    with ScriptedServer(GOOD) as server:
        program = PROGRAM.format(
            config={"models": [openai_model("gpt-4o", server.url)]},
            home=str(tmp_path / "home"),
            url=database.conninfo,
        )
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
        )
    assert done.stdout.strip() == "[]", done.stderr
