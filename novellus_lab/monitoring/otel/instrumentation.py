"""One span a request, and the metrics of the conventions, from what the lab tells its listeners.

A request runs on the lab's thread, but in the context of whoever made it: so its span is a child of
the caller's, and spans of HTTP libraries that are instrumented are children of the request's. What
is over before it could be begun (hits of this process's memory, refusals) gets its span afterwards.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from opentelemetry import metrics, trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from novellus_lab import __version__
from novellus_lab.monitoring.otel import names
from novellus_lab.monitoring.otel.content import input_messages, output_messages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from uuid import UUID

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, TracerProvider

    from novellus_lab.records import RequestRecord
    from novellus_lab.store.listeners import Begun
    from novellus_lab.types import Attempt, Usage

Attributes = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A configured model, as the conventions want it named."""

    name: str
    """What the provider calls it."""
    provider: str
    base_url: str | None = None

    def attributes(self) -> Attributes:
        about: Attributes = {
            names.PROVIDER: names.PROVIDERS.get(self.provider, self.provider),
            names.REQUEST_MODEL: self.name,
        }
        if self.base_url is not None:
            address = urlsplit(self.base_url)
            if address.hostname is not None:
                about[names.SERVER_ADDRESS] = address.hostname
                about[names.SERVER_PORT] = address.port or (
                    443 if address.scheme == "https" else 80
                )
        return about


class Instrumentation:
    """A listener: give `around` and `ended` to the lab's listeners.

    Args:
        served: tells of a configured model by its id; None of others.
        tracer_provider, meter_provider: default: the global ones.
        content: whether spans hold the conversation, as far as content logging lets it through.
    """

    def __init__(
        self,
        served: Callable[[str], ServedModel | None],
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        content: bool = False,
    ) -> None:
        self._served = served
        self._content = content
        self._tracer = trace.get_tracer(names.SCOPE, __version__, tracer_provider)
        meter = metrics.get_meter(names.SCOPE, __version__, meter_provider)
        self._tokens = meter.create_histogram(
            names.TOKEN_USAGE,
            unit="{token}",
            description="Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=names.TOKEN_BOUNDS,
        )
        self._duration = meter.create_histogram(
            names.OPERATION_DURATION,
            unit="s",
            description="GenAI operation duration.",
            explicit_bucket_boundaries_advisory=names.DURATION_BOUNDS_S,
        )
        self._first_chunk = meter.create_histogram(
            names.TIME_TO_FIRST_CHUNK,
            unit="s",
            description="Time to receive the first chunk of a stream.",
            explicit_bucket_boundaries_advisory=names.DURATION_BOUNDS_S,
        )
        self._requests = meter.create_counter(
            names.REQUESTS, unit="{request}", description="Requests by cache outcome and status."
        )
        self._cost = meter.create_counter(
            names.REQUEST_COST, unit="{USD}", description="Cost of provider calls of known price."
        )
        self._open: dict[UUID, Span] = {}

    @contextmanager
    def around(self, begun: Begun) -> Iterator[None]:
        """Have a span of the request's own be the current one while it runs."""
        operation = names.OPERATIONS[begun.kind]
        about: Attributes = {names.OPERATION: operation, **_params(begun.params)}
        if begun.stream:
            about[names.REQUEST_STREAM] = True
        name = operation
        model = None if begun.model_id is None else self._served(begun.model_id)
        if model is not None:
            about |= model.attributes()
            name = f"{operation} {model.name}"
        span = self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes=about)
        self._open[begun.id] = span
        try:
            with trace.use_span(
                span, end_on_exit=False, record_exception=False, set_status_on_exception=False
            ):
                yield
        finally:
            if self._open.pop(begun.id, None) is not None:
                span.end()  # nobody told its end

    def ended(self, record: RequestRecord) -> None:
        """Say on its span what became of a request, and count it."""
        operation = names.OPERATIONS[record.kind]
        about = self._about(record.model, record.provider)
        model_name = about.get(names.REQUEST_MODEL)
        name = operation if model_name is None else f"{operation} {model_name}"
        span = self._open.pop(record.id, None)
        ends_at = time.time_ns()
        if span is None:
            span = self._tracer.start_span(
                name,
                kind=SpanKind.CLIENT,
                attributes={names.OPERATION: operation, **_params(record.params), **about},
                start_time=ends_at - round((record.latency_ms or 0.0) * 1e6),
            )
        if span.is_recording():
            span.update_name(name)
            span.set_attributes(about)
            span.set_attributes(_outcome(record))
            span.set_attributes(self._said(record))
            if len(record.attempts) > 1:
                for attempt in record.attempts:
                    self._attempt_span(span, attempt)
            if record.error_class is not None:
                span.set_attribute(names.ERROR_TYPE, record.error_class)
                # A provider's message may quote the prompt.
                span.set_status(
                    Status(StatusCode.ERROR, record.error_message if self._content else None)
                )
        self._measure(record, operation, about)
        span.end(ends_at)

    def _about(self, model_id: str | None, provider: str | None) -> Attributes:
        if model_id is None:
            return {names.PROVIDER: names.SCOPE}  # nobody was asked
        model = self._served(model_id) or ServedModel(model_id, provider or names.SCOPE)
        return model.attributes()

    def _said(self, record: RequestRecord) -> Attributes:
        if not self._content:
            return {}
        said = {
            names.INPUT_MESSAGES: input_messages(record),
            names.OUTPUT_MESSAGES: output_messages(record),
        }
        return {name: value for name, value in said.items() if value is not None}

    def _attempt_span(self, span: Span, attempt: Attempt) -> None:
        """No `gen_ai.usage` here: who sums it over spans would count it twice."""
        starts_at = round(attempt.started_at.timestamp() * 1e9)
        about = {
            **self._about(attempt.model_id, attempt.provider),
            names.ATTEMPT_NUMBER: attempt.number,
            names.ATTEMPT_ROLE: attempt.role,
        }
        if attempt.status_code is not None:
            about[names.STATUS_CODE] = attempt.status_code
        if attempt.price.cost_usd is not None:
            about[names.COST] = float(attempt.price.cost_usd)
        child = self._tracer.start_span(
            f"attempt {about[names.REQUEST_MODEL]}",
            context=trace.set_span_in_context(span),
            kind=SpanKind.INTERNAL,
            attributes=about,
            start_time=starts_at,
        )
        if attempt.error_class is not None:
            child.set_attribute(names.ERROR_TYPE, attempt.error_class)
            child.set_status(Status(StatusCode.ERROR))
        child.end(starts_at + round(attempt.latency_ms * 1e6))

    def _measure(self, record: RequestRecord, operation: str, about: Attributes) -> None:
        common = {names.OPERATION: operation, **about}
        self._requests.add(
            1,
            {**common, names.STATUS: record.status.value, names.CACHE_OUTCOME: record.cache.value},
        )
        if record.attempts:  # what the cache answers is no operation of a model
            answered = dict(common)
            if record.response_model is not None:
                answered[names.RESPONSE_MODEL] = record.response_model
            failed = {} if record.error_class is None else {names.ERROR_TYPE: record.error_class}
            if record.latency_ms is not None:  # it has none where it waited in a batch
                self._duration.record(record.latency_ms / 1000, answered | failed)
            if record.stream and record.ttft_ms is not None:
                self._first_chunk.record(record.ttft_ms / 1000, answered)
        for attempt in record.attempts:
            called = {names.OPERATION: operation, **self._about(attempt.model_id, attempt.provider)}
            if attempt.price.cost_usd:
                self._cost.add(float(attempt.price.cost_usd), called)
            if attempt.response_model is not None:
                called[names.RESPONSE_MODEL] = attempt.response_model
            if attempt.usage.input_tokens:
                self._tokens.record(
                    attempt.usage.input_tokens, {**called, names.TOKEN_TYPE: "input"}
                )
            if attempt.usage.output_tokens:
                self._tokens.record(
                    attempt.usage.output_tokens, {**called, names.TOKEN_TYPE: "output"}
                )


def _params(params: Mapping[str, Any]) -> Attributes:
    about: Attributes = {}
    for name, value in params.items():
        attribute = names.REQUEST_PARAMS.get(name)
        if attribute is None or value is None:
            continue
        if name == "stop":
            about[attribute] = (value,) if isinstance(value, str) else tuple(value)
        else:
            about[attribute] = float(value) if name in names.DOUBLES else value
    if "response_format" in params:
        about[names.OUTPUT_TYPE] = "json"
    return about


def _outcome(record: RequestRecord) -> Attributes:
    about: Attributes = {
        names.REQUEST_ID: str(record.id),
        names.STATUS: record.status.value,
        names.CACHE_OUTCOME: record.cache.value,
        names.ATTEMPTS: len(record.attempts),
        names.CONVERSATION: record.session_id,
        names.RESPONSE_MODEL: record.response_model,
        names.RESPONSE_ID: record.attempts[-1].response_id if record.attempts else None,
        names.COST: None if record.cost_usd is None else float(record.cost_usd),
        names.STRATEGY: record.strategy,
        names.RULE: record.rule,
        names.EXPERIMENT: record.experiment,
        names.ARM: record.arm,
        names.RESPONSE_TTFC: None if record.ttft_ms is None else record.ttft_ms / 1000,
        names.FINISH_REASONS: None if record.finish_reason is None else (record.finish_reason,),
    }
    if record.stream:
        about[names.REQUEST_STREAM] = True
    if record.usage is not None and not record.cache.hit:
        about |= _usage(record.usage, record.kind)
    for key, value in record.tags.items():
        about[names.TAG + key] = value if isinstance(value, (str, bool, int, float)) else str(value)
    return {name: value for name, value in about.items() if value is not None}


def _usage(usage: Usage, kind: str) -> Attributes:
    """Of the answer. A cache hit used nothing: nobody is to pay for its source twice."""
    if kind == "embedding":
        return {names.INPUT_TOKENS: usage.input_tokens}
    used = {
        names.INPUT_TOKENS: usage.input_tokens,
        names.OUTPUT_TOKENS: usage.output_tokens,
    }
    further = {
        names.CACHE_READ_TOKENS: usage.cached_input_tokens,
        names.CACHE_CREATION_TOKENS: usage.cache_write_tokens,
        names.REASONING_TOKENS: usage.reasoning_tokens,
    }
    return used | {name: count for name, count in further.items() if count}
