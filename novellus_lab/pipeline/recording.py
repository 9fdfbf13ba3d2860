"""From what happened to a row of the log."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, cast

import orjson

from novellus_lab.errors import (
    DeadlineExceededError,
    NovellusError,
    ResponseParseError,
)
from novellus_lab.ids import uuid7
from novellus_lab.records import RequestRecord
from novellus_lab.types import CacheOutcome, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from novellus_lab.cache.entry import CacheEntry
    from novellus_lab.pipeline.catalog import Model
    from novellus_lab.pipeline.request import Request
    from novellus_lab.pipeline.trace import Trace
    from novellus_lab.types import Completion, Usage

REDACTED = "[redacted]"


@dataclass(frozen=True, slots=True)
class ContentPolicy:
    """What of a conversation may be logged.

    A redactor that fails, or that asks the lab what would have to be redacted in turn, lets nothing
    through.
    """

    log_content: bool = True
    redact: Callable[[str], str] | None = None
    """Applied to every text of the messages and to the answer."""
    secrets: tuple[str, ...] = ()
    """Keys in use: never logged, even when somebody pastes one into a prompt."""

    def messages(self, messages_json: bytes) -> Any:
        """Return what may be logged of the messages: JSON bytes, or None."""
        if not self.log_content:
            return None
        messages_json = self._without_secrets(messages_json)
        if self.redact is None:
            return messages_json
        return orjson.dumps(_map_text(orjson.loads(messages_json), self._redacted))

    def text(self, text: str | None) -> str | None:
        """Return what may be logged of a text of the conversation."""
        if text is None or not self.log_content:
            return None
        text = self.scrubbed(text)
        return text if self.redact is None else self._redacted(text)

    def scrubbed(self, text: str) -> str:
        """Remove keys from a text that is logged even without content, such as an error."""
        for secret in self.secrets:
            if secret in text:
                text = text.replace(secret, REDACTED)
        return text

    def error(self, error: BaseException) -> str | None:
        """Return what may be logged of an error; also without content the log tells why."""
        if isinstance(error, ResponseParseError) and not self.log_content:
            return "the answer does not fit the asked-for response_format"  # its text quotes it
        return self.error_text(str(error))

    def error_text(self, text: str | None) -> str | None:
        """Return what may be logged of an error's text, in which a provider may quote the prompt."""
        return self._redacted(self.scrubbed(text)) if text else None

    def labels(self, labels: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return tags or parameters, without keys in them."""
        if not labels or not self.secrets:
            return labels
        coded = orjson.dumps(dict(labels), default=str)
        clean = self._without_secrets(coded)
        return labels if clean is coded else cast("Mapping[str, Any]", orjson.loads(clean))

    def label(self, text: str | None) -> str | None:
        """Return a label, without keys in it."""
        return None if text is None else self.scrubbed(text)

    def _without_secrets(self, coded: bytes) -> bytes:
        for secret in self.secrets:
            if (plain := secret.encode()) in coded:
                coded = coded.replace(plain, REDACTED.encode())
        return coded

    def _redacted(self, text: str) -> str:
        if self.redact is None:
            return text
        if getattr(_redacting, "now", False):
            return REDACTED
        _redacting.now = True
        try:
            redacted = self.redact(text)
        except Exception:
            return REDACTED
        finally:
            _redacting.now = False
        return redacted if isinstance(redacted, str) else REDACTED


_redacting = threading.local()


def _map_text(value: Any, change: Callable[[str], str], key: str = "") -> Any:
    if isinstance(value, str):
        return value if key in _NOT_TEXT else change(value)
    if isinstance(value, list):
        return [_map_text(item, change, key) for item in value]
    if isinstance(value, dict):
        return {k: _map_text(item, change, k) for k, item in value.items()}
    return value


_NOT_TEXT = frozenset(("role", "type", "id", "tool_call_id"))


def _base(request: Request, key: bytes | None, content: ContentPolicy) -> RequestRecord:
    return RequestRecord(
        id=request.id,
        created_at=request.created_at,
        stream=request.question.stream,
        requested_model=content.label(request.question.model_id),
        cache_key=key,
        latency_ms=request.elapsed_ms,
        tags=content.labels(request.question.tags),
        session_id=content.label(request.question.session_id),
        experiment=content.label(request.question.experiment),
        arm=content.label(request.question.arm),
        priority=None
        if request.question.priority is None
        else content.label(str(request.question.priority)),
        prompt_hash=request.question.prompt_hash,
        params=content.labels(request.question.params),
        messages=content.messages(request.question.messages_json),
    )


def hit_record(
    request: Request,
    key: bytes,
    entry: CacheEntry,
    completion: Completion,
    content: ContentPolicy,
    rule: str | None,
) -> RequestRecord:
    """A request that the cache answered: no attempts, no propensity, its own latency."""
    record = _base(request, key, content)
    record.rule = rule
    record.latency_ms = completion.latency_ms
    record.overhead_ms = completion.latency_ms
    record.model = entry.model
    record.provider = entry.provider
    record.response_model = entry.response_model
    record.cache = completion.cache
    record.cache_similarity = completion.cache_similarity
    record.cache_source_id = entry.source_request_id
    record.usage = entry.usage
    record.raw_usage = entry.raw_usage
    record.price_version = entry.price_version
    record.cost_usd = completion.cost
    record.uncached_cost_usd = entry.cost_usd
    record.original_latency_ms = entry.original_latency_ms
    record.finish_reason = entry.finish_reason
    record.dropped_params = entry.dropped_params
    record.response = content.text(entry.content)
    if entry.tool_calls:
        record.tool_calls = _tool_calls(completion, content)
    return record


def answered_record(
    request: Request,
    key: bytes | None,
    trace: Trace,
    completion: Completion,
    content: ContentPolicy,
) -> RequestRecord:
    """A request that a provider answered."""
    record = _base(request, key, content)
    record.latency_ms = completion.latency_ms
    _fill_from_trace(record, trace, content)
    record.model = completion.model
    record.provider = completion.provider
    record.response_model = completion.response_model
    record.usage = completion.usage
    answer = trace.answer
    assert answer is not None  # noqa: S101  set together with the completion
    record.raw_usage = answer.raw_usage
    record.price_version = answer.price.version or None
    record.finish_reason = completion.finish_reason
    record.response = content.text(completion.content)
    if completion.tool_calls:
        record.tool_calls = _tool_calls(completion, content)
    return record


def failed_record(
    request: Request,
    key: bytes | None,
    trace: Trace,
    error: BaseException,
    content: ContentPolicy,
    kind: Literal["chat", "embedding"] = "chat",
) -> RequestRecord:
    """A request that ended without an answer."""
    record = _base(request, key, content)
    record.kind = kind
    _fill_from_trace(record, trace, content)
    record.status = _status(error, trace)
    record.error_class = type(error).__name__
    record.error_message = content.error(error)
    if trace.attempts:
        last = trace.attempts[-1]
        record.model, record.provider = last.model_id, last.provider
        record.response_model = last.response_model
        record.usage = last.usage
        record.raw_usage = last.raw_usage
        record.price_version = last.price.version or None
        text = error.content if isinstance(error, ResponseParseError) else trace.heard.text
        record.response = content.text(text or None)
    return record


def answered_embedding(
    request: Request,
    model: Model,
    trace: Trace,
    usage: Usage,
    saved_usd: Decimal | None,
    content: ContentPolicy,
) -> RequestRecord:
    """An embedding call. The vectors are not logged; the texts are, as `messages`."""
    record = _base(request, None, content)
    record.kind = "embedding"
    _fill_from_trace(record, trace, content)
    record.model, record.provider = model.id, model.provider
    record.usage = usage
    if trace.attempts:
        answer = trace.attempts[-1]
        record.response_model = answer.response_model
        record.price_version = answer.price.version or None
        if len(trace.attempts) == 1:
            record.raw_usage = answer.raw_usage
    elif trace.cache.hit:
        record.propensity = None
        record.candidates = ()
    known = record.cost_usd is not None and saved_usd is not None
    record.uncached_cost_usd = record.cost_usd + saved_usd if known else None  # type: ignore[operator]
    return record


def refused_record(
    error: NovellusError,
    arguments: Mapping[str, Any],
    content: ContentPolicy,
    started: float,
    *,
    kind: Literal["chat", "embedding"] = "chat",
    stream: bool = False,
) -> RequestRecord:
    """A call whose arguments were wrong: nothing was sent. They may be anything at all.

    Args:
        started: `time.perf_counter()` when the call was made.
    """

    def label(name: str) -> str | None:
        value = arguments.get(name)
        return content.label(value) if isinstance(value, str) else None

    latency_ms = (time.perf_counter() - started) * 1000
    return RequestRecord(
        id=uuid7(),
        created_at=datetime.now(UTC) - timedelta(milliseconds=latency_ms),
        kind=kind,
        stream=stream,
        status=Status.REFUSED,
        error_class=type(error).__name__,
        error_message=content.error(error),
        requested_model=label("model_id"),
        cost_usd=Decimal(0),
        uncached_cost_usd=Decimal(0),
        latency_ms=latency_ms,
        overhead_ms=latency_ms,
        session_id=label("session_id"),
        experiment=label("experiment"),
        arm=label("arm"),
    )


def without_latency(record: RequestRecord) -> RequestRecord:
    """Return the record of what waited in a provider's batch: all its time is waiting."""
    record.queue_ms = record.latency_ms
    record.latency_ms = record.provider_ms = record.overhead_ms = None
    return record


def _fill_from_trace(record: RequestRecord, trace: Trace, content: ContentPolicy) -> None:
    record.cache = trace.cache
    record.ttft_ms = trace.heard.ttft_ms
    record.queue_ms = trace.queue_ms
    record.route_ms = trace.route_ms
    record.provider_ms = trace.provider_ms
    if record.latency_ms is not None:
        record.overhead_ms = max(0.0, record.latency_ms - trace.provider_ms - trace.queue_ms)
    record.cost_usd = record.uncached_cost_usd = trace.cost_usd
    record.fees_usd = trace.fees_usd
    record.attempts = tuple(
        attempt
        if attempt.error_message is None
        else replace(attempt, error_message=content.error_text(attempt.error_message))
        for attempt in trace.attempts
    )
    record.dropped_params = trace.dropped_params
    record.strategy = trace.strategy
    record.rule = trace.rule
    record.candidates = trace.dropped
    if trace.route is not None:
        record.candidates = trace.route.candidates
        record.picked_model = trace.route.picked
        record.propensity = trace.route.propensity
        if trace.route.reason is not None:  # it may quote an error of somebody's balancer
            record.route_reason = content.error_text(trace.route.reason)


def _status(error: BaseException, trace: Trace) -> Status:
    if isinstance(error, DeadlineExceededError):
        return Status.ERROR
    if isinstance(error, (asyncio.CancelledError, KeyboardInterrupt)):
        return Status.CANCELLED
    waited = trace.cache is CacheOutcome.COALESCED  # for a provider call of another request
    if isinstance(error, NovellusError) and not trace.attempts and not waited:
        return Status.REFUSED
    return Status.ERROR


def _tool_calls(completion: Completion, content: ContentPolicy) -> Any:
    if not content.log_content:
        return None
    return [
        {"id": c.id, "name": c.name, "arguments": content.text(c.arguments)}
        for c in completion.tool_calls
    ]
