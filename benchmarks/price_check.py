"""Check prices against three independent sources: `python -m benchmarks.price_check`.

1. 1,577 real usage bodies: read by our readers, priced by us, against the prices that their
   collectors (genai-prices' own extraction and arithmetic) noted.
2. 25 bills: what OpenRouter says it charged, against our price of the same usage.
3. LiteLLM's price table, for the current models of OpenAI, Anthropic and Google.

Each disagreement is listed with its explanation; an unexplained one makes the exit status 1.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from novellus_lab.pricing import PriceBook
from novellus_lab.providers.usage import (
    anthropic_usage,
    google_usage,
    openai_chat_usage,
    openai_responses_usage,
)
from novellus_lab.types import Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DATA = Path(__file__).parent.parent / "tests" / "data" / "prices"
NOTED_AT = datetime(2026, 1, 1, 12, tzinfo=UTC)
"""The usage bodies' prices are undated; most price changes in the table come after this."""
TODAY = datetime(2026, 11, 24, tzinfo=UTC)
TOLERANCE = Decimal("0.005")
FEES = ("web_search", "request", "fees")
OUTPUTS = ("output", "reasoning", "output_audio", "output_image")
NO_PRICE = "the table has an entry without any price: noted as 0, unknown to us"
CHANGED = "the table's price has changed since the bodies were noted"


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison. `explanation` is None where both sides agree, empty where nobody knows why."""

    name: str
    ours: str
    theirs: str
    explanation: str | None = None


def usage_bodies(book: PriceBook) -> Iterator[Row]:
    """Price every body under every provider and API that can have sent it."""
    with gzip.open(DATA / "genai_prices_usages_dataset.json.gz") as file:
        records = json.load(file)
    for number, record in enumerate(records):
        body = record["body"]
        raw = body.get("usage") or body.get("usageMetadata") or {}
        model = record.get("model", "")
        counted: list[tuple[Usage, dict[str, int]]] = []
        for extracted in record["extracted"]:
            for source in extracted["extractors"]:
                read = _reader(source["provider_id"], source["api_flavor"], raw)
                if read is None:
                    continue
                usage, noted = read(raw), extracted["usage"]
                counted.append((usage, noted))
                if "input_price" in source:
                    name = f"body {number} {source['provider_id']}/{source['api_flavor']} {model}"
                    yield _compare_prices(book, name, model, raw, usage, noted, source)
        if counted:
            yield _compare_tokens(f"body {number} {model}", raw, counted)


def _reader(provider: str, flavor: str, raw: dict[str, Any]) -> Callable[[Any], Usage] | None:
    """Return our reader of such a body; None where the API would never have sent this one."""
    if "cache_creation_input_tokens" in raw:  # the Messages API, wherever it is hosted
        return anthropic_usage if flavor in ("anthropic", "default") else None
    if "promptTokenCount" in raw:
        return google_usage if flavor == "default" else None
    if "prompt_tokens" in raw:
        embedding = "completion_tokens" not in raw
        return openai_chat_usage if (flavor == "embeddings") == embedding else None
    return openai_responses_usage if flavor == "responses" else None


_COUNTS = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cached_input_tokens": "cache_read_tokens",
    "cache_write_tokens": "cache_write_tokens",
    "cache_write_1h_tokens": "cache_write_1h_tokens",
    "input_audio_tokens": "input_audio_tokens",
    "cached_audio_tokens": "cache_audio_read_tokens",
    "output_audio_tokens": "output_audio_tokens",
    "output_image_tokens": "output_image_tokens",
}


def _compare_tokens(
    name: str, raw: dict[str, Any], counted: list[tuple[Usage, dict[str, int]]]
) -> Row:
    """Compare token counts with those of the reader that noted most: each knows its provider's."""
    usage, noted = min(counted, key=lambda pair: len(_different(*pair)))
    different = _different(usage, noted)
    return Row(
        f"{name}, tokens",
        ", ".join(f"{ours} {getattr(usage, ours)}" for ours in different),
        ", ".join(f"{noted.get(_COUNTS[ours], 0)}" for ours in different),
        _why_bodies_differ(raw, usage, noted, "", "") if different else None,
    )


def _different(usage: Usage, noted: dict[str, int]) -> list[str]:
    return [x for x, theirs in _COUNTS.items() if getattr(usage, x) != noted.get(theirs, 0)]


def _compare_prices(
    book: PriceBook,
    name: str,
    model: str,
    raw: dict[str, Any],
    usage: Usage,
    noted: dict[str, int],
    source: dict[str, str],
) -> Row:
    provider = source["provider_id"]
    price = book.price(
        replace(usage, web_searches=0),  # the notes price tokens only
        provider=provider,
        model=model,
        response_model=model,
        at=NOTED_AT,
    )
    lines = [line for line in price.lines if line.kind not in FEES]
    received = sum((x.cost_usd for x in lines if x.kind not in OUTPUTS), Decimal(0))
    produced = sum((x.cost_usd for x in lines if x.kind in OUTPUTS), Decimal(0))
    expected = (Decimal(source["input_price"]), Decimal(source["output_price"]))
    theirs = f"{expected[0]} + {expected[1]}"
    if price.cost_usd is None:
        return Row(name, "unknown", theirs, "" if any(expected) else NO_PRICE)
    agree = (received, produced) == expected
    why = None if agree else _why_bodies_differ(raw, usage, noted, model, provider)
    return Row(name, f"{received:f} + {produced:f}", theirs, why)


def _why_bodies_differ(
    raw: dict[str, Any], usage: Usage, noted: dict[str, int], model: str, provider: str
) -> str:
    if any(step.get("type") == "compaction" for step in raw.get("iterations", ())):
        return "the compaction's own sampling is billed too; the note counts only the answer's"
    if usage.output_tokens > noted.get("output_tokens", 0):
        return "thinking shows only in total_tokens; it is billed as output, the note leaves it out"
    if usage.cached_input_tokens > noted.get("cache_read_tokens", 0):
        return "cached tokens under a name that the note's reader does not know (num_cached_tokens)"
    if usage.cache_write_tokens > noted.get("cache_write_tokens", 0):
        return "cache writes that the note's reader does not read at this provider"
    if provider == "google" and "claude" in model and usage.input_tokens > 200_000:
        return CHANGED + " (long-context prices of Claude on Vertex AI)"
    return CHANGED if provider == "mistral" else ""


def billed_rows(book: PriceBook) -> Iterator[Row]:
    """Price the usage of each bill without looking at the bill."""
    rows = json.loads((DATA / "provider_billed_usage_rows.json").read_text(), parse_float=Decimal)
    for number, row in enumerate(rows):
        raw, billed = row["usage"], Decimal(row["billed_usd"])
        read = openai_chat_usage if "prompt_tokens" in raw else openai_responses_usage
        usage = read(raw)
        price = book.price(
            usage,
            provider="openai",
            base_url="https://openrouter.ai/api/v1",
            model=row["model"],
            at=TODAY,
        )
        agree = price.cost_usd is not None and abs(price.cost_usd - billed) <= billed * TOLERANCE
        why = None if agree else _why_bill_differs(book, raw, usage, row["model"], billed)
        host = f" at {row['provider']}" if row["provider"] else ""
        ours = "unknown" if price.cost_usd is None else f"{price.cost_usd}"
        yield Row(f"bill {number} {row['model']}{host}", ours, f"{billed}", why)


def _why_bill_differs(
    book: PriceBook, raw: dict[str, Any], usage: Usage, model: str, billed: Decimal
) -> str:
    details = raw["cost_details"]
    parts = (
        [details.get(f"upstream_inference_{kind}_cost") for kind in ("prompt", "completions")]
        if "prompt_tokens" in raw
        else [details.get(f"upstream_inference_{kind}_cost") for kind in ("input", "output")]
    )
    charged = sum(map(Decimal, parts), Decimal(0))  # for tokens, by the bill itself
    tokens = book.price(
        replace(usage, web_searches=0),
        provider="openai",
        base_url="https://openrouter.ai/api/v1",
        model=model,
        at=TODAY,
    ).cost_usd
    if tokens is not None and abs(tokens - charged) <= charged * TOLERANCE:
        what = "web search" if usage.web_searches else "a file parser, plugin or tool"
        fee = billed - charged
        return f"the tokens agree ({charged}); {fee} is a fee for {what}, which no table knows"
    maker, _, name = model.partition("/")
    for date in (datetime(2026, 8, 1, tzinfo=UTC), datetime(2027, 2, 1, tzinfo=UTC)):
        then = book.price(usage, provider=maker, model=name, at=date).cost_usd
        if then is not None and abs(then - billed) <= billed * TOLERANCE:
            return (
                f"another price than today's: {maker}'s own list for {date:%Y-%m-%d} gives {then}"
            )
    each = [
        f"{Decimal(cost) * 1_000_000 / count:.3g}"
        for cost, count in zip(parts, (usage.input_tokens, usage.output_tokens), strict=True)
    ]
    if charged == billed:
        return f"the host's own price: the bill says {each[0]} in, {each[1]} out per million tokens"
    return ""


_LITELLM_KINDS = {
    "input": "input_cost_per_token",
    "output": "output_cost_per_token",
    "cached_input": "cache_read_input_token_cost",
    "cache_write": "cache_creation_input_token_cost",
    "cache_write_1h": "cache_creation_input_token_cost_above_1hr",
}


def against_litellm(book: PriceBook) -> Iterator[Row]:
    """Compare prices per million of every kind that LiteLLM states, model by model."""
    with gzip.open(DATA / "litellm_1.109.1_model_prices.json.gz") as file:
        table: dict[str, Any] = json.loads(file.read(), parse_float=Decimal)
    one_of_each = Usage(
        input_tokens=40,
        output_tokens=10,
        cached_input_tokens=10,
        cache_write_tokens=20,
        cache_write_1h_tokens=10,
    )
    providers = {"openai": "openai", "anthropic": "anthropic", "gemini": "google"}
    for name, entry in sorted(table.items()):
        provider = providers.get(str(entry.get("litellm_provider")))
        model = name.rpartition("/")[2]
        if (
            provider is None
            or entry.get("mode") not in ("chat", "responses")
            or model.startswith("ft:")
            or str(entry.get("deprecation_date") or "9999") < f"{TODAY:%Y-%m-%d}"
            or not entry.get("input_cost_per_token")
        ):
            continue
        price = book.price(one_of_each, provider=provider, model=model, at=TODAY)
        if price.cost_usd is None:
            yield Row(f"{provider} {model}", "unknown", "priced", "only LiteLLM knows it")
            continue
        ours = {line.kind: line.usd_per_million for line in price.lines}
        theirs = {
            kind: Decimal(entry[key]) * 1_000_000
            for kind, key in _LITELLM_KINDS.items()
            if entry.get(key) is not None
        }
        for thousands in (128, 200, 272):
            for kind in ("input", "output"):
                beyond = entry.get(f"{kind}_cost_per_token_above_{thousands}k_tokens")
                if beyond is not None:
                    long = Usage(input_tokens=thousands * 1_000 + 1, output_tokens=10)
                    lines = book.price(long, provider=provider, model=model, at=TODAY).lines
                    name_of = f"{kind} above {thousands}k"
                    ours[name_of] = {x.kind: x.usd_per_million for x in lines}[kind]
                    theirs[name_of] = Decimal(beyond) * 1_000_000
        different = [kind for kind, value in theirs.items() if ours[kind] != value]
        yield Row(
            f"{provider} {model}",
            ", ".join(f"{kind} {_short(ours[kind])}" for kind in different),
            ", ".join(f"{kind} {_short(theirs[kind])}" for kind in different),
            "the two tables disagree; which is right is not for us to say" if different else None,
        )


def _short(value: Decimal | None) -> str:
    return "-" if value is None else f"{value.normalize():f}"


def main() -> int:
    """Print the three tables; return 1 if a disagreement has no explanation."""
    book = PriceBook()
    unexplained = 0
    for title, rows in (
        ("usage bodies", list(usage_bodies(book))),
        ("bills", list(billed_rows(book))),
        ("LiteLLM's table", list(against_litellm(book))),
    ):
        differing = [row for row in rows if row.explanation is not None]
        agreeing = len(rows) - len(differing)
        print(f"\n{title}: {agreeing:,} of {len(rows):,} agree")
        for why, count in Counter(row.explanation for row in differing).most_common():
            print(f"  {count:4}  {why or 'NOT EXPLAINED'}")
            for row in differing:
                if row.explanation == why:
                    print(f"          {row.name}: ours {row.ours}, theirs {row.theirs}")
        unexplained += sum(row.explanation == "" for row in differing)
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
