"""LiteLLM's proxy: rows of `LiteLLM_SpendLogs` as CSV, JSON or JSON lines, and its daily sums.

The columns are those of `schema.prisma`; what stands in `metadata`, `cache_hit` and the times is written by
`litellm/proxy/spend_tracking/spend_tracking_utils.py` (both https://github.com/BerriAI/litellm, looked at in
November 2026): times without a zone are UTC, `cache_hit` is Python's "True", "False" or "None".

What LiteLLM leaves open:
- `spend` is 0 for what is free, for what it has no price for, and for hits of its cache. 0 for tokens that
  no cache served is therefore taken for unknown.
- Which of its caches answered is not said: a hit is counted as `redis`, an answer from outside the process.
"""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from novellus_lab.analytics.imports.calls import ImportedCall, NotACall, UsageBucket
from novellus_lab.analytics.imports.cells import (
    amount,
    count,
    flag,
    mapping,
    moment,
    needed,
    needed_moment,
    number,
    parsed,
    text,
)
from novellus_lab.providers.usage import openai_chat_usage
from novellus_lab.types import CacheOutcome, Status

if TYPE_CHECKING:
    from collections.abc import Mapping

    from novellus_lab.analytics.imports.calls import Item

_CHATS = {
    "", "completion", "acompletion", "text_completion", "atext_completion", "responses", "aresponses",
    "anthropic_messages", "generate_content", "agenerate_content", "generate_content_stream",
    "agenerate_content_stream", "pass_through_endpoint", "allm_passthrough_route",
    "llm_passthrough_route",
}  # fmt: skip
_PROVIDERS = {"gemini": "google", "vertex_ai": "google", "vertex_ai_beta": "google"}
_LABELS = ("user", "end_user", "team_id", "organization_id")
_AMBIGUOUS = (
    "LiteLLM writes a spend of 0 both for what is free and for what it has no price for: import with "
    "--price to look its price up"
)


def is_litellm(row: Mapping[str, Any]) -> bool:
    return {"request_id", "spend", "startTime"} <= row.keys() or is_daily(row)


def is_daily(row: Mapping[str, Any]) -> bool:
    """Whether this is a row of `LiteLLM_DailyUserSpend` or one of its sisters."""
    return {"date", "spend", "api_requests"} <= row.keys()


def read_litellm(row: Mapping[str, Any]) -> Item:
    if is_daily(row):
        return _daily(row)
    call_type = text(row, "call_type") or ""
    provider, model = _names(row)
    if "embedding" not in call_type and call_type not in _CHATS:
        return NotACall(f"call_type {call_type}")
    metadata = mapping(row.get("metadata"))
    start = needed_moment(row, "startTime")
    end, first = moment(row, "endTime"), moment(row, "completionStartTime")
    latency = number(row, "request_duration_ms")
    if latency is None and end is not None and end >= start:
        latency = (end - start) / timedelta(milliseconds=1)
    streamed = first is not None and end is not None and start <= first < end
    failed = "failure" in (text(row, "status"), text(metadata, "status"))
    error = mapping(metadata.get("error_information"))
    usage = _usage_object(row, metadata)
    counted = openai_chat_usage(usage) if usage else None
    hit = flag(row, "cache_hit")
    spend = amount(row, "spend")
    used = counted is not None and counted.total_tokens > 0
    unknown = spend == 0 and used and not hit
    return ImportedCall(
        key=needed(row, "request_id"),
        # Its database keeps milliseconds, its logs write microseconds: both are one call.
        created_at=start.replace(microsecond=start.microsecond // 1000 * 1000),
        kind="embedding" if "embedding" in call_type else "chat",
        stream=streamed,
        status=Status.ERROR if failed else Status.OK,
        error_class=(text(error, "error_class") or "ProviderError") if failed else None,
        error_message=text(error, "error_message") if failed else None,
        status_code=_status_code(error) if failed else None,
        requested_model=text(row, "model_group"),
        model=model,
        provider=provider,
        base_model=_base_model(metadata, provider),
        cache=_cache(row, hit=hit),
        usage=counted,
        raw_usage=usage,
        cost_usd=Decimal(0) if hit else None if unknown else spend,
        price_version="litellm",
        unpriced_reason=_AMBIGUOUS if unknown else None,
        latency_ms=latency,
        ttft_ms=(first - start) / timedelta(milliseconds=1) if streamed and first else None,
        overhead_ms=number(metadata, "litellm_overhead_time_ms"),
        tags=_tags(row, metadata),
        session_id=text(row, "session_id"),
        messages=_messages(row),
        response=_answer(row),
        response_id=None if hit else text(row, "request_id"),
    )


def _usage_object(row: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the usage in OpenAI's form, with LiteLLM's additions for caches."""
    stated = {
        name: value
        for name in ("prompt_tokens", "completion_tokens", "total_tokens")
        if (value := count(row, name)) is not None
    }
    whole = mapping(metadata.get("usage_object")) or {
        **mapping(metadata.get("additional_usage_values")),
    }
    found = {k: v for k, v in {**whole, **stated}.items() if v is not None}
    return found if stated or "prompt_tokens" in found else {}


def _names(row: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return provider and model, which LiteLLM may write as `provider/model`."""
    said = text(row, "custom_llm_provider")
    model = text(row, "model")
    if model is not None and said is not None:
        model = model.removeprefix(f"{said}/")
    return (None if said is None else _PROVIDERS.get(said, said)), model


def _base_model(metadata: Mapping[str, Any], provider: str | None) -> str | None:
    """Return which model an Azure deployment is, where LiteLLM knew."""
    if provider not in ("azure", "azure_ai"):
        return None
    known = text(mapping(metadata.get("model_map_information")), "model_map_key")
    return None if known is None else known.rpartition("/")[2]


def _cache(row: Mapping[str, Any], *, hit: bool) -> CacheOutcome:
    if hit:
        return CacheOutcome.REDIS
    off = text(row, "cache_key") in (None, "Cache OFF")
    return CacheOutcome.OFF if off else CacheOutcome.MISS


def _status_code(error: Mapping[str, Any]) -> int | None:
    code = text(error, "error_code")
    return int(code) if code is not None and code.isascii() and code.isdigit() else None


def _tags(row: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return `name:value` tags by name, others as true, and who called. Keys are named, never shown."""
    labels: dict[str, Any] = {}
    tags = parsed(row.get("request_tags"))
    for tag in tags if isinstance(tags, list) else ():
        name, colon, value = str(tag).partition(":")
        labels[name.strip() if colon else str(tag)] = value.strip() if colon else True
    for label in _LABELS:
        if said := text(row, label):
            labels.setdefault(label, said)
    for label in ("user_api_key_alias", "user_api_key_team_alias"):
        if said := text(metadata, label):
            labels.setdefault(label.removeprefix("user_api_"), said)
    return labels


def _messages(row: Mapping[str, Any]) -> Any:
    found = parsed(row.get("messages"))
    if not found:
        body = mapping(row.get("proxy_server_request"))
        found = body.get("messages") or body.get("input")
    return found or None


def _answer(row: Mapping[str, Any]) -> str | None:
    response = parsed(row.get("response"))
    if isinstance(response, str):
        return response or None
    choices = response.get("choices") if isinstance(response, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    content = message.get("content") if isinstance(message, dict) else None
    return content if isinstance(content, str) and content else None


def _daily(row: Mapping[str, Any]) -> UsageBucket:
    start = needed_moment(row, "date")
    provider, model = _names(row)
    dimensions = {
        name: value
        for name in (
            "user_id", "team_id", "organization_id", "end_user_id", "tag", "api_key", "model_group",
            "mcp_namespaced_tool_name", "endpoint",
        )
        if (value := text(row, name)) is not None and not value.startswith("sk-")
    }  # fmt: skip
    return UsageBucket(
        source="litellm",
        kind="usage",
        start=start,
        end=start + timedelta(days=1),
        provider=provider or "unknown",
        model=model,
        dimensions=dimensions,
        counts={
            "requests": count(row, "api_requests"),
            "input_tokens": count(row, "prompt_tokens"),
            "output_tokens": count(row, "completion_tokens"),
            "cached_input_tokens": count(row, "cache_read_input_tokens"),
            "cache_write_tokens": count(row, "cache_creation_input_tokens"),
        },
        cost_usd=amount(row, "spend"),
    )
