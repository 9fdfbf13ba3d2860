"""A cost report as a document: the headline, and a section for each thing that people ask."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from novellus_lab.analytics.frames import HIT, costs
from novellus_lab.display import money
from novellus_lab.plots.cache import savings_figure
from novellus_lab.plots.costs import costs_figure
from novellus_lab.reports.cost_change_section import change_section, change_sentence
from novellus_lab.reports.document import (
    MINUS,
    NOT_KNOWN,
    Column,
    Document,
    Headline,
    Section,
    Table,
)
from novellus_lab.reports.outlook_section import anomalies_section, outlook_section
from novellus_lab.reports.savings_section import savings_section
from novellus_lab.reports.spenders_section import spenders_section

if TYPE_CHECKING:
    from novellus_lab.reports.cost_sources import Sources

_TOTALS = f"""
SELECT late, count(*) AS requests, count(*) FILTER (WHERE cost_usd IS NULL) AS unpriced,
    sum(cost_usd) AS cost_usd, sum(uncached_cost_usd) FILTER (WHERE free) AS saved_usd,
    count(*) FILTER (WHERE cache <> 'off') AS looked, count(*) FILTER (WHERE {HIT}) AS hits,
    count(*) FILTER (WHERE status <> 'ok') AS failed,
    coalesce(sum(input_tokens) FILTER (WHERE NOT free), 0)::BIGINT AS input_tokens,
    coalesce(sum(output_tokens) FILTER (WHERE NOT free), 0)::BIGINT AS output_tokens
FROM spending GROUP BY 1
"""  # noqa: S608 - a constant
_MODELS = """
SELECT model, count(*) FILTER (WHERE late) AS requests,
    count(*) FILTER (WHERE late AND cost_usd IS NULL) AS unpriced,
    sum(cost_usd) FILTER (WHERE late) AS cost_usd, sum(cost_usd) FILTER (WHERE NOT late) AS before_usd,
    sum(uncached_cost_usd) FILTER (WHERE late AND free) AS saved_usd
FROM spending GROUP BY 1 ORDER BY cost_usd DESC NULLS LAST, model NULLS LAST
"""
_DAYS = """
SELECT make_timestamp(epoch_us(created_at) // 86400000000 * 86400000000) AS day, model,
    count(*) AS requests, count(*) FILTER (WHERE cost_usd IS NULL) AS unpriced,
    sum(cost_usd) AS cost_usd, sum(uncached_cost_usd) FILTER (WHERE free) AS saved_usd
FROM spending WHERE late GROUP BY ALL ORDER BY ALL
"""
_NOTHING: dict[str, Any] = dict.fromkeys(
    ("requests", "unpriced", "looked", "hits", "failed", "input_tokens", "output_tokens"), 0
) | {"cost_usd": None, "saved_usd": None}
METHOD = (
    (
        "without a price",
        "Requests whose price nobody knows. They are counted in each total, and are in no amount: what "
        "they cost comes on top.",
    ),
    (
        "volume, mix, cache, length, price",
        "The cost of a model is requests of all models × its share × the share of them that no cache and "
        "no equal call answered × weighted tokens of such a request × price of a weighted token. The "
        "difference of the two products is split by Shapley's value: each factor's effect, averaged over "
        "all orders in which the five can change. The parts add up to the difference to the last digit, "
        "and turn their sign where the periods change places.",
    ),
    (
        "saved by the cache",
        "What its answers would have cost, had a provider given them again.",
    ),
)  # fmt: skip


def cost_document(sources: Sources, *, now: datetime | None = None) -> Document:
    """Ask everything, and say it."""
    period = sources.period
    found = {row["late"]: row for row in sources.log.ask(_TOTALS).rows}
    after, before = ({**_NOTHING, **found.get(late, {})} for late in (True, False))
    savings = savings_section(sources)
    lead = [
        _spend_sentence(after, before, period.before_name),
        *change_sentence(sources),
        *_unpriced_sentence(after),
        *savings.text[:1],
    ]
    return Document(
        f"Cost report: {period.name}",
        f"{period.start:%Y-%m-%d %H:%M} to {period.end:%Y-%m-%d %H:%M} ({sources.tz}), compared with "
        f"{period.before:%Y-%m-%d %H:%M} to {period.start:%Y-%m-%d %H:%M}{_filtered(sources)}",
        tuple(lead),
        _headlines(after, before),
        (
            change_section(sources),
            _spend_section(sources),
            spenders_section(sources),
            savings,
            outlook_section(sources),
            anomalies_section(sources),
        ),
        now or datetime.now(UTC),
        METHOD,
    )


def _spend_sentence(after: dict[str, Any], before: dict[str, Any], against: str) -> str:
    if not after["requests"]:
        return "No requests in this period."
    if after["cost_usd"] is None:
        return f"{after['requests']:,} requests, none of which has a known price."
    told = f"{after['requests']:,} requests cost {money(after['cost_usd'])}"
    if before["cost_usd"] is None:
        return f"{told}. For {against} no cost is known."
    change = _change(after["cost_usd"], before["cost_usd"])
    return f"{told}, {change} against {money(before['cost_usd'])} {against}."


def _unpriced_sentence(after: dict[str, Any]) -> list[str]:
    if not after["unpriced"] or after["cost_usd"] is None:
        return []
    share = after["unpriced"] / after["requests"]
    return [
        f"{after['unpriced']:,} of them ({share:.1%}) have no price and are in none of the amounts."
    ]


def _headlines(after: dict[str, Any], before: dict[str, Any]) -> tuple[Headline, ...]:
    def usd(row: dict[str, Any], name: str) -> str:
        return NOT_KNOWN if row[name] is None else money(row[name])

    def amounts(label: str, name: str) -> Headline:
        now, then = after[name], before[name]
        return Headline(label, usd(after, name), usd(before, name), _change(now, then))

    def counts(label: str, name: str) -> Headline:
        now, then = after[name], before[name]
        return Headline(label, f"{now:,}", f"{then:,}", _change(now, then))

    def shares(label: str, part: str, whole: str) -> Headline:
        now, then = (row[part] / row[whole] if row[whole] else None for row in (after, before))
        texts = [NOT_KNOWN if share is None else f"{share:.1%}" for share in (now, then)]
        points = "" if now is None or then is None else _signed(100 * (now - then), " points")
        return Headline(label, texts[0], texts[1], points)

    def each(row: dict[str, Any]) -> Decimal | None:
        priced = row["requests"] - row["unpriced"]
        return None if row["cost_usd"] is None or not priced else row["cost_usd"] * 1000 / priced

    a, b = each(after), each(before)
    return (
        amounts("spend", "cost_usd"),
        counts("requests", "requests"),
        Headline(
            "1,000 priced requests",
            NOT_KNOWN if a is None else money(a),
            NOT_KNOWN if b is None else money(b),
            _change(a, b),
        ),
        shares("without a price", "unpriced", "requests"),
        shares("cache hit rate", "hits", "looked"),
        amounts("saved by the cache", "saved_usd"),
        counts("input tokens", "input_tokens"),
        counts("output tokens", "output_tokens"),
        shares("did not end well", "failed", "requests"),
    )


def _spend_section(sources: Sources) -> Section:
    period = sources.period
    every = period.every
    by_model = costs(sources.mirror, sources.asked("model", every))
    daily = costs(sources.mirror, sources.asked(None, every))
    models = sources.log.ask(_MODELS)
    days = sources.log.ask(_DAYS)
    return Section(
        "spend",
        "Where it was spent",
        (),
        (
            Table(
                "models",
                "By model",
                (
                    Column("model"), Column("requests", "count"), Column("without a price", "count"),
                    Column("spend", "usd"), Column("before", "usd"), Column("change", "change"),
                    Column("saved by the cache", "usd"),
                ),
                tuple(
                    (
                        row["model"], row["requests"], row["unpriced"], row["cost_usd"],
                        row["before_usd"], _difference(row["cost_usd"], row["before_usd"]),
                        row["saved_usd"],
                    )
                    for row in models.rows
                ),
                sql=models.sql,
                empty="No requests in either period.",
            ),
            Table(
                "days",
                "By day (UTC) and model",
                (
                    Column("day", "time"), Column("model"), Column("requests", "count"),
                    Column("without a price", "count"), Column("spend", "usd"),
                    Column("saved by the cache", "usd"),
                ),
                tuple(tuple(row.values()) for row in days.rows),
                sql=days.sql,
                empty="No requests in this period.",
            ),
        ),
        (
            costs_figure(by_model, ["model"], every, sources.tz),
            savings_figure(daily, every, sources.tz),
        ),
    )  # fmt: skip


def _difference(now: Decimal | None, then: Decimal | None) -> Decimal | None:
    return None if now is None and then is None else (now or Decimal(0)) - (then or Decimal(0))


def _change(now: Decimal | int | None, then: Decimal | int | None) -> str:
    if now is None or then is None or not then:
        return ""
    return _signed(float(now / then - 1) * 100, "%")


def _signed(value: float, unit: str) -> str:
    text = f"{abs(value):,.1f}{unit}"
    rounded = round(value, 1)
    return f"{MINUS}{text}" if rounded < 0 else f"+{text}" if rounded > 0 else f"0{unit}"


def _filtered(sources: Sources) -> str:
    if not sources.filters:
        return ""
    return "; only " + ", ".join(f"{name} = {value}" for name, value in sources.filters.items())
