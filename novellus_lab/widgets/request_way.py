"""One logged request in words and tables: its way through cache, router and providers, and its texts."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from novellus_lab.display import caption_html, duration, findings_html, markdown_html, money

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from novellus_lab.analytics.browse import LoggedRequest

NOT_LOGGED = (
    "Its messages and its response were not logged (logging: {content: false}): they can't be shown, and "
    "it can't be asked again."
)
_SHOWN = 20_000


def way_html(request: LoggedRequest) -> str:
    """Tell how a request was answered: cache, router, provider calls, prices, times."""
    return findings_html(list(_sentences(request)), list(_tables(request)), list(_about(request)))


def texts_html(request: LoggedRequest) -> str:
    """Show what was asked and answered, or say that it was not logged."""
    row = request.row
    if not request.logged:
        return findings_html((NOT_LOGGED,), ())
    shown = [
        caption_html(str(message.get("role", "message"))) + markdown_html(said(message))
        for message in row["messages"]
        if isinstance(message, dict)
    ]
    if row["response"] is not None or row["tool_calls"]:
        answer = row["response"] or ""
        if row["tool_calls"]:
            answer += f"\n\n```json\n{json.dumps(row['tool_calls'], indent=1)}\n```"
        shown.append(caption_html("answer") + markdown_html(answer[:_SHOWN]))
    return "".join(shown)


def said(message: Mapping[str, Any]) -> str:
    """The text of a message; what is no text is named."""
    content = message.get("content")
    if isinstance(content, list):
        content = "\n\n".join(
            str(part.get("text", f"[{part.get('type', 'part')}]"))
            for part in content
            if isinstance(part, dict)
        )
    text = str(content or "")
    if message.get("tool_calls"):
        text += f"\n\n```json\n{json.dumps(message['tool_calls'], indent=1)}\n```"
    return text[:_SHOWN]


def _sentences(request: LoggedRequest) -> Iterator[str]:
    row = request.row
    asked = (
        f"for {row['requested_model']}" if row["requested_model"] else "for no model in particular"
    )
    yield f"{row['created_at'].astimezone():%Y-%m-%d %H:%M:%S}: asked {asked}. {_ending(row)}"
    yield _cache(row)
    if row["strategy"]:
        rule = f", by the rule {row['rule']}," if row["rule"] else ""
        chance = "" if row["propensity"] is None else f" with probability {row['propensity']:.3g}"
        reason = f" {row['route_reason']}" if row["route_reason"] else ""
        yield f"The strategy {row['strategy']}{rule} picked {row['picked_model'] or 'nobody'}{chance}.{reason}"
    elif row["cache"] in ("off", "miss") and row["requested_model"]:
        yield "The router was not asked: the caller named the model."


def _ending(row: Mapping[str, Any]) -> str:
    took = "" if row["latency_ms"] is None else f" after {duration(row['latency_ms'])}"
    if row["status"] == "ok":
        return f"{row['model']} answered{took}, for {money(row['cost_usd'])}."
    why = ": ".join(filter(None, (row["error_class"], row["error_message"])))
    return f"It ended as {row['status']}{took}" + (f": {why}" if why else "") + "."


def _cache(row: Mapping[str, Any]) -> str:
    source = f" of request {row['cache_source_id']}" if row["cache_source_id"] else ""
    saved = row["uncached_cost_usd"]
    told = "" if saved is None else f" Without the cache: {money(saved)}."
    match row["cache"]:
        case "off":
            return "The cache was not asked."
        case "miss":
            return "The cache had no answer."
        case "coalesced":
            return f"It shared the provider call{source or ' of an equal one'} under way.{told}"
        case "semantic":
            near = row["cache_similarity"]
            like = "" if near is None else f", {near:.3f} similar"
            return f"The semantic cache gave the answer{source}{like}.{told}"
    return f"The cache ({row['cache']}) gave the answer{source}.{told}"


def _tables(
    request: LoggedRequest,
) -> Iterator[tuple[str, Sequence[str], Sequence[Sequence[object]]]]:
    row = request.row
    candidates = [
        (
            c.get("model_id", ""),
            "" if c.get("dropped") else f"{float(c.get('probability') or 0):.3g}",
            "" if c.get("score") is None else f"{float(c['score']):.4g}",
            c.get("dropped") or ("picked" if c.get("model_id") == row["picked_model"] else ""),
        )
        for c in row["candidates"] or ()
    ]
    if candidates:
        yield "Candidates", ("model", "probability", "score", ""), candidates
    if request.attempts:
        header = ("", "model", "as", "ended", "latency", "first token", "tokens", "cost")
        yield "Provider calls", header, [_attempt(a) for a in request.attempts]
    bill = [
        (
            line["kind"].replace("_", " "),
            f"{line['quantity']:,}",
            "" if line["usd_per_million"] is None else money(Decimal(line["usd_per_million"])),
            money(Decimal(line["cost_usd"])),
            attempt["price_version"] or "",
        )
        for attempt in request.attempts
        for line in attempt["price_lines"] or ()
    ]
    if bill:
        yield "Prices", ("", "quantity", "per million", "cost", "price from"), bill
    parts = [
        (name, duration(row[column]))
        for name, column in (
            ("waiting: limits, retries", "queue_ms"),
            ("routing", "route_ms"),
            ("provider", "provider_ms"),
            ("our own overhead", "overhead_ms"),
        )
        if row[column] is not None
    ]
    if parts:
        yield "Where time went", ("", "time"), list(parts)


def _attempt(a: Mapping[str, Any]) -> tuple[str, ...]:
    tokens = (
        "" if a["input_tokens"] is None else f"{a['input_tokens']:,} → {a['output_tokens'] or 0:,}"
    )
    cost = money(a["cost_usd"])
    if a["cost_usd"] is None and a["unpriced_reason"]:
        cost += f": {a['unpriced_reason']}"
    return (
        str(a["number"]),
        a["model_id"],
        a["role"],
        a["error_class"] or a["status"],
        duration(a["latency_ms"]),
        "" if a["ttft_ms"] is None else duration(a["ttft_ms"]),
        tokens,
        cost,
    )


def _about(request: LoggedRequest) -> Iterator[str]:
    row = request.row
    yield f"request {row['id']}"
    facts = {
        "tags": json.dumps(row["tags"]) if row["tags"] else None,
        "session": row["session_id"],
        "experiment": row["experiment"],
        "arm": row["arm"],
        "parameters": json.dumps(row["params"]) if row["params"] else None,
        "not sent": ", ".join(row["dropped_params"] or ()),
        "finished": row["finish_reason"],
    }
    told = " · ".join(f"{name}: {value}" for name, value in facts.items() if value)
    if told:
        yield told
