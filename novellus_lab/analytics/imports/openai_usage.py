"""OpenAI: pages of the organization's usage and costs API, and the CSV files of its dashboard.

JSON by https://platform.openai.com/docs/api-reference/usage (`GET /v1/organization/usage/completions`,
`/embeddings` and `/costs`): pages of buckets of results. The dashboard's CSV has the same names, a row a
result, `amount_value` for an amount, and rows without numbers for days on which nothing was used
(looked at: a real export of October 2025). Input includes cached tokens. Times are Unix seconds, UTC.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from novellus_lab.analytics.imports.calls import BadRowError, NotACall, UsageBucket
from novellus_lab.analytics.imports.cells import amount, count, moment, needed_moment, text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from novellus_lab.analytics.imports.calls import Item

_DIMENSIONS = (
    "project_id", "user_id", "api_key_id", "batch", "service_tier", "line_item", "source", "size",
    "organization_id", "api_source",
)  # fmt: skip
_TOKENS = ("organization.usage.completions.result", "organization.usage.embeddings.result")


def is_openai(row: Mapping[str, Any]) -> bool:
    keys = row.keys()
    return {"results", "start_time"} <= keys or (
        bool(keys & {"start_time", "start_time_iso"})
        and bool(keys & {"num_model_requests", "amount_value"})
    )


def expand_openai(row: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    results = row.get("results")
    if not isinstance(results, list):
        yield row
        return
    times = {name: row.get(name) for name in ("start_time", "end_time")}
    for result in results:
        if not isinstance(result, dict):
            yield {**times, "object": result}
        else:
            yield {**result, **times}


def read_openai(row: Mapping[str, Any]) -> Item:
    start = needed_moment(row, "start_time", "start_time_iso")
    end = moment(row, "end_time", "end_time_iso") or start + timedelta(days=1)
    named = text(row, "object")
    money = row.get("amount")
    if isinstance(money, dict):
        row = {**row, "amount_value": money.get("value"), "amount_currency": money.get("currency")}
    what = {
        name: value.lower() if name == "batch" else value
        for name in _DIMENSIONS
        if (value := text(row, name)) is not None
    }
    model = text(row, "model")
    if "amount_value" in row:
        cost = amount(row, "amount_value")
        if cost is None:
            return NotACall("days without costs")
        currency = (text(row, "amount_currency") or "usd").lower()
        if currency != "usd":
            raise BadRowError(f"amount_currency must be usd, not {currency!r:.20}")
        line_item = what.get("line_item", "")
        if model is None and ", " in line_item:
            model = line_item.partition(", ")[0]
        return UsageBucket(
            source="openai", kind="cost", start=start, end=end, provider="openai", model=model,
            dimensions=what, cost_usd=cost,
        )  # fmt: skip
    if named is not None and named not in _TOKENS:
        return NotACall(named)
    requests = count(row, "num_model_requests")
    if requests is None and count(row, "input_tokens") is None:
        return NotACall("days without usage")
    return UsageBucket(
        source="openai",
        kind="usage",
        start=start,
        end=end,
        provider="openai",
        model=model,
        dimensions=what,
        counts={
            "requests": requests,
            "input_tokens": count(row, "input_tokens"),
            "output_tokens": count(row, "output_tokens"),
            "cached_input_tokens": count(row, "input_cached_tokens"),
            "cache_write_tokens": count(row, "input_cache_write_tokens"),
            "input_audio_tokens": count(row, "input_audio_tokens"),
            "output_audio_tokens": count(row, "output_audio_tokens"),
        },
    )
