"""Langfuse: observations as its UI, its API and its blob storage export them; traces with observations.

Fields by https://langfuse.com/docs/api-and-data-platform/features/blob-storage-export-fields (snake_case,
times without a zone are UTC, objects are JSON text in CSV) and by the traces that Langfuse exported from
its own UI (camelCase; packages/shared/scripts/seeder/utils/framework-traces of
https://github.com/langfuse/langfuse). A generation or an embedding is a call; spans, events and the like
are not. `latency` is in seconds in one of these and in milliseconds in another: durations are computed.

Kinds of tokens are parts that add up to `total` in newer exports, and details of `input` and `output` in
older ones: `total` tells which.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from novellus_lab.analytics.imports.calls import BadRowError, ImportedCall, NotACall
from novellus_lab.analytics.imports.cells import (
    amount,
    count,
    mapping,
    moment,
    needed,
    needed_moment,
    parsed,
    text,
)
from novellus_lab.types import Status, Usage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime
    from decimal import Decimal

    from novellus_lab.analytics.imports.calls import Item

_CALLS = ("GENERATION", "EMBEDDING")
_OF_TRACE = (
    ("sessionId", "session_id"), ("userId", "user_id"), ("tags", "tags"), ("release", "release"),
    ("traceName", "trace_name"),
)  # fmt: skip
_SAID_BY = ("gen_ai.provider.name", "gen_ai.system", "ls_provider", "provider")
_PROVIDERS = {
    "gcp.gemini": "google", "gcp.vertex_ai": "google", "gcp.gen_ai": "google", "google_genai": "google",
    "google_vertexai": "google", "vertex_ai": "google", "gemini": "google", "azure_openai": "azure",
    "az.ai.openai": "azure", "azure.ai.openai": "azure", "aws.bedrock": "bedrock",
    "mistral_ai": "mistral", "mistralai": "mistral", "x_ai": "xai",
}  # fmt: skip


def is_langfuse(row: Mapping[str, Any]) -> bool:
    keys = row.keys()
    return (
        isinstance(parsed(row.get("observations")), list)
        or ("trace" in keys and "observations" in keys)
        or bool(keys & {"traceId", "trace_id"} and keys & {"startTime", "start_time"})
        or _is_trace(row)
    )


def _is_trace(row: Mapping[str, Any]) -> bool:
    keys = row.keys()
    return {"id", "timestamp"} <= keys and bool(keys & {"sessionId", "session_id"})


def expand_langfuse(row: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield a trace's observations, each with what the trace says of them all."""
    observations = parsed(row.get("observations"))
    if not isinstance(observations, list):
        yield row
        return
    trace = row["trace"] if isinstance(row.get("trace"), dict) else row
    beside = {
        name: trace[name] for names in _OF_TRACE for name in names if trace.get(name) is not None
    }
    if isinstance(trace.get("name"), str):
        beside.setdefault("traceName", trace["name"])
    for observation in observations:
        if isinstance(observation, dict):
            yield {**beside, "traceId": trace.get("id"), **observation}
        else:
            yield {"type": "id of an observation"}


def read_langfuse(row: Mapping[str, Any]) -> Item:
    kind = (text(row, "type") or "").upper()
    if not kind and _is_trace(row):
        return NotACall("trace without its observations")
    if kind and kind not in _CALLS:
        return NotACall(kind.lower())
    start = needed_moment(row, "startTime", "start_time")
    end = moment(row, "endTime", "end_time")
    first = moment(row, "completionStartTime", "completion_start_time")
    metadata = mapping(row.get("metadata"))
    attributes = {**metadata, **mapping(metadata.get("attributes"))}
    usage, raw = _usage(row)
    failed = (text(row, "level") or "").upper() == "ERROR"
    trace = text(row, "traceId", "trace_id") or ""
    return ImportedCall(
        key=f"{trace}/{needed(row, 'id')}",
        created_at=start,
        kind="embedding" if kind == "EMBEDDING" else "chat",
        stream=first is not None,
        status=Status.ERROR if failed else Status.OK,
        error_class="ProviderError" if failed else None,
        error_message=text(row, "statusMessage", "status_message") if failed else None,
        model=text(row, "model", "providedModelName", "provided_model_name", "modelId"),
        provider=_provider(attributes),
        response_model=text(attributes, "gen_ai.response.model"),
        usage=usage,
        raw_usage=raw,
        cost_usd=_cost(row, usage),
        price_version="langfuse",
        unpriced_reason="Langfuse had no price for it: import with --price to look one up",
        latency_ms=_ms(start, end),
        ttft_ms=_ms(start, first),
        tags=_tags(row),
        session_id=text(row, "sessionId", "session_id"),
        params={k: v for k, v in mapping(row.get("modelParameters", row.get("model_parameters"))).items() if v is not None},
        messages=parsed(row.get("input")) or None,
        response=_answer(row.get("output")),
        tool_calls=parsed(row.get("tool_calls", row.get("toolCalls"))) or None,
    )  # fmt: skip


def _ms(start: datetime, end: datetime | None) -> float | None:
    return None if end is None or end < start else (end - start) / timedelta(milliseconds=1)


def _usage(row: Mapping[str, Any]) -> tuple[Usage | None, dict[str, Any]]:
    details = mapping(row.get("usageDetails", row.get("usage_details")))
    counts = {kind: count(details, kind) or 0 for kind in details}
    if not counts:
        flat = (
            count(row, "inputUsage", "promptTokens", "inputTokens"),
            count(row, "outputUsage", "completionTokens", "outputTokens"),
        )
        if flat == (None, None):
            return None, {}
        counts = {"input": flat[0] or 0, "output": flat[1] or 0}
    if counts.keys() <= {"total"}:
        return None, dict(details)
    ins = {k: v for k, v in counts.items() if "input" in k and k != "input"}
    outs = {k: v for k, v in counts.items() if "output" in k and k != "output"}
    received, produced = counts.get("input", 0), counts.get("output", 0)
    if counts.get("total") != received + produced or not (received or produced):
        received += sum(ins.values())
        produced += sum(outs.values())
    written = _sum(ins, "cache_creation", "cache_write")
    return (
        Usage(
            input_tokens=received,
            output_tokens=produced,
            cached_input_tokens=min(received, _sum(ins, "cached", "cache_read")),
            cache_write_tokens=min(received, written),
            cache_write_1h_tokens=min(written, _sum(ins, "_1h")),
            reasoning_tokens=min(produced, _sum(outs, "reasoning")),
            input_audio_tokens=min(received, _sum(ins, "audio")),
            output_audio_tokens=min(produced, _sum(outs, "audio")),
        ),
        dict(details) or dict(counts),
    )


def _sum(counts: Mapping[str, int], *words: str) -> int:
    return sum(n for kind, n in counts.items() if any(word in kind for word in words))


def _cost(row: Mapping[str, Any], usage: Usage | None) -> Decimal | None:
    """Return the cost; 0 that no detail bears out is what Langfuse writes where it knows none."""
    details = mapping(row.get("costDetails", row.get("cost_details")))
    total = amount(row, "totalCost", "total_cost", "calculatedTotalCost")
    if total is None:
        total = amount(details, "total")
    return None if total == 0 and not details and usage is not None else total


def _provider(attributes: Mapping[str, Any]) -> str | None:
    for name in _SAID_BY:
        value = attributes.get(name)
        if isinstance(value, str) and value:
            lowered = value.lower()
            return _PROVIDERS.get(lowered, lowered)
    return None


def _tags(row: Mapping[str, Any]) -> dict[str, Any]:
    labels: dict[str, Any] = {}
    found = parsed(row.get("tags", row.get("traceTags", row.get("trace_tags"))))
    for tag in found if isinstance(found, list) else ():
        labels[str(tag)] = True
    named = (
        ("name", ("name",)), ("trace", ("traceName", "trace_name")), ("user", ("userId", "user_id")),
        ("environment", ("environment",)), ("release", ("release",)), ("version", ("version",)),
        ("prompt", ("promptName", "prompt_name")),
        ("prompt_version", ("promptVersion", "prompt_version")),
    )  # fmt: skip
    for label, columns in named:
        if (value := text(row, *columns)) is not None:
            labels.setdefault(label, value)
    return labels


def _answer(output: Any) -> str | None:
    found = parsed(output)
    for name in ("message", "content"):
        if isinstance(found, dict) and name in found:
            found = found[name]
    if found is None or found == "":
        return None
    if isinstance(found, str):
        return found
    import json

    try:
        return json.dumps(found, ensure_ascii=False, default=str)
    except (TypeError, ValueError, RecursionError):
        raise BadRowError("output can't be read") from None
