"""Our own rows as JSON lines: an object a call, whose keys are columns of `ai_requests`.

`created_at` and `model` are needed, all else is as far as it is known: this is the form for a log of one's
own making. A key that is no column is refused, with the nearest that is one. An `id` that is a UUID is kept;
`id` may be any text that is unique; without one the row's content is its id, so that two lines that are
equal to the last character are one call.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

import orjson

from novellus_lab.analytics.imports.calls import BadRowError, ImportedCall
from novellus_lab.analytics.imports.cells import (
    amount,
    count,
    flag,
    mapping,
    needed,
    needed_moment,
    number,
    parsed,
    text,
)
from novellus_lab.errors import did_you_mean
from novellus_lab.store.copy_text import REQUEST_COLUMNS
from novellus_lab.types import CacheOutcome, Status, Usage

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import tzinfo

    from novellus_lab.analytics.imports.calls import Item

_TOKENS = (
    "input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens",
    "cache_write_1h_tokens", "reasoning_tokens", "input_audio_tokens", "cached_audio_tokens",
    "output_audio_tokens", "output_image_tokens", "web_searches",
)  # fmt: skip
_KNOWN = {*REQUEST_COLUMNS, "written_in"}
_TEXTS = ("strategy", "rule", "picked_model", "route_reason", "experiment", "arm", "priority")
_NUMBERS = (
    "propensity", "cache_similarity", "queue_ms", "route_ms", "provider_ms", "original_latency_ms",
)  # fmt: skip


def is_own(row: Mapping[str, Any]) -> bool:
    return "created_at" in row and bool(row.keys() & {"model", "requested_model"})


def read_own(row: Mapping[str, Any], zone: tzinfo) -> Item:
    for name in row:
        if name not in _KNOWN:
            raise BadRowError(f"{name!r:.60} is no column. {did_you_mean(name, sorted(_KNOWN))}")
    counts = {name: count(row, name) for name in _TOKENS}
    known = counts["input_tokens"] is not None or counts["output_tokens"] is not None
    used: dict[str, Any] = {name: value or 0 for name, value in counts.items()}
    status = _one_of(Status, text(row, "status") or "ok", "status")
    cache = _one_of(CacheOutcome, text(row, "cache") or "off", "cache")
    kind = text(row, "kind") or "chat"
    if kind not in ("chat", "embedding"):
        raise BadRowError(f"kind must be chat or embedding, not {kind!r:.40}")
    given = text(row, "id")
    others: dict[str, Any] = {name: text(row, name) for name in _TEXTS}
    others |= {name: number(row, name) for name in _NUMBERS}
    others["fees_usd"] = amount(row, "fees_usd")
    others |= {name: _bytes(row, name) for name in ("cache_key", "prompt_hash")}
    source = text(row, "cache_source_id")
    others["cache_source_id"] = _uuid(source)
    if source is not None and others["cache_source_id"] is None:
        raise BadRowError(f"cache_source_id is no UUID: {source!r:.60}")
    others["candidates"] = _list(row, "candidates", dict)
    others["dropped_params"] = _list(row, "dropped_params", str)
    return ImportedCall(
        key=given or _digest(row),
        id=_uuid(given),
        created_at=needed_moment(row, "created_at", zone=zone),
        kind=cast("Any", kind),
        stream=flag(row, "stream"),
        status=status,
        error_class=text(row, "error_class"),
        error_message=text(row, "error_message"),
        requested_model=text(row, "requested_model"),
        model=needed(row, "model", "requested_model"),
        provider=text(row, "provider"),
        response_model=text(row, "response_model"),
        service_tier=text(mapping(row.get("raw_usage")), "service_tier"),
        cache=cache,
        usage=Usage(**used, estimated=flag(row, "usage_estimated")) if known else None,
        raw_usage=mapping(row.get("raw_usage")),
        cost_usd=amount(row, "cost_usd"),
        uncached_cost_usd=amount(row, "uncached_cost_usd"),
        price_version=text(row, "price_version") or "imported",
        latency_ms=number(row, "latency_ms"),
        ttft_ms=number(row, "ttft_ms"),
        overhead_ms=number(row, "overhead_ms"),
        tags=mapping(row.get("tags")),
        session_id=text(row, "session_id"),
        params=mapping(row.get("params")),
        finish_reason=text(row, "finish_reason"),
        messages=parsed(row.get("messages")),
        response=text(row, "response"),
        tool_calls=parsed(row.get("tool_calls")),
        others={name: value for name, value in others.items() if value is not None},
    )


def _bytes(row: Mapping[str, Any], name: str) -> bytes | None:
    """Return bytes that are written in hex, with or without PostgreSQL's \\x before them."""
    value = text(row, name)
    try:
        return None if value is None else bytes.fromhex(value.removeprefix("\\x"))
    except ValueError:
        raise BadRowError(f"{name} is no hex: {value!r:.60}") from None


def _list(row: Mapping[str, Any], name: str, kind: type) -> list[Any] | None:
    value = parsed(row.get(name))
    if value is None or value == "":
        return None
    if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
        raise BadRowError(f"{name} must be a list, not {value!r:.60}")
    return value


def _one_of(kind: Any, value: str, name: str) -> Any:
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(kind)
        raise BadRowError(f"{name} must be one of {known}, not {value!r:.40}") from None


def _uuid(given: str | None) -> UUID | None:
    try:
        return None if given is None else UUID(given)
    except ValueError:
        return None


def _digest(row: Mapping[str, Any]) -> str:
    try:
        coded = orjson.dumps(dict(row), option=orjson.OPT_SORT_KEYS, default=str)
    except (TypeError, ValueError):
        coded = repr(sorted(row.items(), key=lambda item: item[0])).encode("utf-8", "replace")
    return hashlib.blake2b(coded, digest_size=16).hexdigest()
