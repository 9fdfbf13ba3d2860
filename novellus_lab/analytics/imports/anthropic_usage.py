"""Anthropic: reports of the usage and cost admin API, and the two CSV files of its console.

JSON by https://platform.claude.com/docs/en/manage-claude/usage-cost-api (`usage_report/messages` and
`cost_report`): buckets of results. An `amount` there is **in cents**, with a fraction. The console's files
are `claude_api_tokens_*.csv` (`usage_date_utc`, `model_version`, `usage_input_tokens_no_cache`, …) and
`claude_api_cost_*.csv` (`token_type`, `cost_usd` in dollars, rounded to cents; models by their display
names). Input excludes cached and written tokens at Anthropic: they are added. Days are UTC.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from novellus_lab.analytics.imports.calls import BadRowError, UsageBucket
from novellus_lab.analytics.imports.cells import (
    amount,
    count,
    mapping,
    moment,
    needed_moment,
    text,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from novellus_lab.analytics.imports.calls import Item

_DIMENSIONS = (
    "workspace_id", "workspace", "api_key_id", "api_key", "account_id", "service_account_id",
    "service_tier", "usage_type", "context_window", "inference_geo", "speed", "token_type", "cost_type",
    "description",
)  # fmt: skip
_DATE = re.compile(r"-(20\d\d)-(\d\d)-(\d\d)$")


def is_anthropic(row: Mapping[str, Any]) -> bool:
    return "usage_date_utc" in row or {"results", "starting_at"} <= row.keys()


def expand_anthropic(row: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    results = row.get("results")
    if not isinstance(results, list):
        yield row
        return
    times = {name: row.get(name) for name in ("starting_at", "ending_at")}
    for result in results:
        yield {**(result if isinstance(result, dict) else {}), **times}


def read_anthropic(row: Mapping[str, Any]) -> Item:
    start = needed_moment(row, "starting_at", "usage_date_utc")
    end = moment(row, "ending_at") or start + timedelta(days=1)
    what = {name: value for name in _DIMENSIONS if (value := text(row, name)) is not None}
    named = text(row, "model_version", "model")
    model = None if named is None else model_id(named)
    if "amount" in row or "cost_usd" in row:
        cost = amount(row, "cost_usd")
        cents = amount(row, "amount")
        if cost is None and cents is not None:
            currency = (text(row, "currency") or "USD").upper()
            if currency != "USD":
                raise BadRowError(f"currency must be USD, not {currency!r:.20}")
            cost = cents.scaleb(-2)
        if cost is None:
            raise BadRowError("amount or cost_usd is missing")
        return UsageBucket(
            source="anthropic", kind="cost", start=start, end=end, provider="anthropic", model=model,
            dimensions=what, cost_usd=cost,
        )  # fmt: skip
    lifetimes = mapping(row.get("cache_creation"))
    fresh = count(row, "uncached_input_tokens", "usage_input_tokens_no_cache")
    read = count(row, "cache_read_input_tokens", "usage_input_tokens_cache_read")
    hour = count(row, "usage_input_tokens_cache_write_1h")
    minutes = count(row, "usage_input_tokens_cache_write_5m", "usage_input_tokens_cache_write")
    if lifetimes:
        hour = count(lifetimes, "ephemeral_1h_input_tokens")
        minutes = count(lifetimes, "ephemeral_5m_input_tokens")
    output = count(row, "output_tokens", "usage_output_tokens")
    if fresh is None or output is None:
        raise BadRowError("there are no token counts")
    written = (hour or 0) + (minutes or 0)
    return UsageBucket(
        source="anthropic",
        kind="usage",
        start=start,
        end=end,
        provider="anthropic",
        model=model,
        dimensions=what,
        counts={
            "input_tokens": fresh + (read or 0) + written,
            "output_tokens": output,
            "cached_input_tokens": read,
            "cache_write_tokens": None if hour is None and minutes is None else written,
            "cache_write_1h_tokens": hour,
            "web_searches": count(
                {**row, **mapping(row.get("server_tool_use"))},
                "web_search_requests",
                "web_search_count",
            ),
        },
    )


def model_id(name: str) -> str:
    """Return the API's name of a model that goes by its display name: Claude Haiku 4.5."""
    if " " not in name:
        return name
    plain = name.strip().lower().replace(" ", "-").replace(".", "-")
    return _DATE.sub(r"-\1\2\3", plain)
