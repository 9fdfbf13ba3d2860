"""What would have cost less, with the evidence; what was not measured is called a hypothesis."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from novellus_lab.analytics.log_columns import ATTEMPTS
from novellus_lab.analytics.savings import MARGIN, cheaper_models, oversized, repeats
from novellus_lab.analytics.waste import waste
from novellus_lab.display import duration, money
from novellus_lab.reports.document import MINUS, Column, Section, Table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from novellus_lab.analytics.savings import CheaperModel
    from novellus_lab.reports.cost_sources import Sources

_MEASURED, _HYPOTHESIS = "measured", "hypothesis"
_SHOWN = 12
_WENT = {
    "retried": "failed, and were tried again",
    "failed": "failed",
    "cancelled": "were broken off",
    "hedged": "lost a race that was paid for",
    "escalated": "were not good enough",
}
Finding = tuple[str, str, Decimal | None, str]


def savings_section(sources: Sources) -> Section:
    """Show all findings, the largest first, and what each stands on."""
    again, repeated = _repeats(sources)
    large, big = _oversized(sources)
    begun, shared = _beginnings(sources)
    judged = cheaper_models(sources.mirror, sources.log, sources.rates)
    findings: list[Finding] = [*again, *large, *begun, *_waste(sources), *map(_cheaper, judged)]
    findings = [one for one in findings if one[2] is None or one[2] > 0]
    rank = {_MEASURED: 0, _HYPOTHESIS: 1}
    findings.sort(key=lambda one: (rank.get(one[1], 2), -(one[2] or Decimal(0)), one[0]))
    return Section(
        "savings",
        "Savings found",
        (_lead(findings),),
        (
            Table(
                "savings",
                "What would have cost less in this period",
                (
                    Column("what"),
                    Column("how sure"),
                    Column("in dollars", "usd"),
                    Column("evidence"),
                ),
                tuple(findings),
                note="They overlap: a request that the cache answers needs no cheaper model. They don't "
                "add up.",
                empty="Nothing was found.",
            ),
            repeated,
            _models(judged),
            big,
            shared,
        ),
    )


def _lead(findings: list[Finding]) -> str:
    measured = [one for one in findings if one[1] == _MEASURED and one[2] is not None]
    guessed = [one for one in findings if one[1] == _HYPOTHESIS and one[2] is not None]
    if not measured and not guessed:
        return "No savings were found."
    told = []
    if measured:
        told.append(f"Measured: {measured[0][0]}, {money(measured[0][2])}.")
    if guessed:
        told.append(f"To be tested: {guessed[0][0]}, up to {money(guessed[0][2])}.")
    return " ".join(told)


def _repeats(sources: Sources) -> tuple[list[Finding], Table]:
    found = repeats(sources.log, sources.ttl_s)
    lifetime = duration(sources.ttl_s * 1000) if sources.ttl_s < 60 else _length(sources.ttl_s)
    findings: list[Finding] = []
    for cache, what, caveat in (
        ("miss", "answer repeated requests from the cache", "the same key was asked for again"),
        (
            "off",
            "switch the cache on for prompts that come again",
            "the same prompt went to the same model, its parameters may have differed,",
        ),
    ):
        rows = [row for row in found.rows if row["cache"] == cache]
        if rows:
            known = [row["saved_usd"] for row in rows if row["saved_usd"] is not None]
            times, distinct = (sum(row[name] for row in rows) for name in ("repeats", "prompts"))
            evidence = f"{caveat} within {lifetime} {times:,} times ({distinct:,} prompts)"
            sure = _MEASURED if cache == "miss" else _HYPOTHESIS
            findings.append((what, sure, sum(known, Decimal(0)) if known else None, evidence))
    return findings, Table(
        "repeats",
        "Paid for again within the cache's lifetime",
        (
            Column("cache"), Column("model"), Column("requests", "count"),
            Column("different prompts", "count"), Column("without a price", "count"),
            Column("at least", "usd"),
        ),
        tuple(tuple(row.values()) for row in found.rows[:_SHOWN]),
        note=f"The cache keeps answers for {lifetime}. It would have saved that much at least: each "
        "lifetime is counted to pay once.",
        sql=found.sql,
        empty="No request was paid for again within the cache's lifetime.",
    )  # fmt: skip


def _oversized(sources: Sources) -> tuple[list[Finding], Table]:
    found = oversized(sources.log)
    rows, whole = [], Decimal(0)
    for row in found.rows:
        rate = sources.rates.get(row["model"])
        usd = None if rate is None or not rate.known else row["new_excess_tokens"] * rate.new
        whole += usd or Decimal(0)
        rows.append((row["model"], row["most"], row["requests"], row["excess_tokens"], usd))
    findings: list[Finding] = []
    if rows:
        count = sum(row[2] for row in rows)
        findings.append(
            (
                "shorten oversized prompts",
                _HYPOTHESIS,
                whole or None,
                f"{count:,} prompts have more than 4 times their model's median of input tokens; test "
                "whether answers are as good without the excess: lab.compare with a cut prompt",
            )
        )
    return findings, Table(
        "oversized",
        "Oversized prompts",
        (
            Column("model"), Column("more input tokens than", "count"), Column("requests", "count"),
            Column("tokens beyond", "count"), Column("cost of these", "usd"),
        ),
        tuple(rows[:_SHOWN]),
        sql=found.sql,
        empty="No prompt has more than four times its model's median, and 2,000 tokens.",
    )  # fmt: skip


def _beginnings(sources: Sources) -> tuple[list[Finding], Table]:
    found = sources.prompts.beginnings
    known = [one.saved_usd for one in found if one.saved_usd is not None]
    findings: list[Finding] = []
    if found:
        times = sum(one.again for one in found)
        findings.append(
            (
                "let the provider cache long system prompts",
                _HYPOTHESIS,
                sum(known, Decimal(0)) if known else None,
                f"{times:,} times the same long beginning was sent within 5 minutes and nothing came from "
                "the provider's cache; put what varies last, mark it for caching where the provider "
                "wants that, and look at cached_input_tokens",
            )
        )
    return findings, Table(
        "beginnings",
        "Long beginnings that the provider did not cache",
        (
            Column("model"), Column("begins with"), Column("tokens, about", "count"),
            Column("again within 5 min", "count"), Column("up to", "usd"),
        ),
        tuple(
            (one.model, one.text, one.tokens, one.again, one.saved_usd) for one in found[:_SHOWN]
        ),
        note="Of the dearest prompts. A token from the provider's cache is taken to cost what it was "
        "seen to cost in this log, or else half.",
        empty="No system prompt of 1,024 tokens or more came again uncached within five minutes.",
    )  # fmt: skip


def _waste(sources: Sources) -> Iterable[Finding]:
    frame = waste(sources.mirror, sources.asked(table=ATTEMPTS))
    for row in frame.to_dicts():
        if row["went"] in _WENT and row["cost_usd"]:
            yield (
                f"avoid calls that {_WENT[row['went']]}",
                _MEASURED,
                row["cost_usd"],
                f"{row['calls']:,} provider calls; {row['unpriced']:,} without a price",
            )


def _cheaper(one: CheaperModel) -> Finding:
    what = f"ask {one.cheaper} instead of {one.model}"
    if one.verdict == "as good":
        return what, _MEASURED, one.saved_usd, f"as good within {MARGIN:.0%}: {_score(one)}"
    if one.verdict == "worse":
        return what, "not advised", one.saved_usd, f"its answers are worse: {_score(one)}"
    plan = (
        f'lab.compare(["{one.model}", "{one.cheaper}"], lab.requests("7d"), scorer=…, '
        f"n={one.needed}, margin={MARGIN})"
    )
    seen = f"{_score(one)}, too little to tell; " if one.pairs else "nothing was scored yet; "
    return what, _HYPOTHESIS, one.saved_usd, f"{seen}test it: {plan}"


def _score(one: CheaperModel) -> str:
    if one.difference is None or one.low is None or one.high is None:
        return f"{one.pairs:,} prompts scored for both by {one.scorer}"
    return (
        f"score {_signed(one.difference)} [{_signed(one.low)}, {_signed(one.high)}] on {one.pairs:,} prompts that "
        f"{one.scorer} scored for both"
    )


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", MINUS)


def _models(judged: Iterable[CheaperModel]) -> Table:
    return Table(
        "cheaper_models",
        "The same tokens at a cheaper model's price",
        (
            Column("model"), Column("spend", "usd"), Column("cheaper"), Column("up to", "usd"),
            Column("quality"), Column("prompts scored for both", "count"),
            Column("prompts to be sure", "count"),
        ),
        tuple(
            (
                one.model, one.cost_usd, one.cheaper, one.saved_usd, one.verdict, one.pairs, one.needed,
            )
            for one in judged
        ),
        note=f"As good: the 95% interval of the paired difference of scores lies above −{MARGIN}. "
        "Answers of another model may be longer or shorter.",
        empty="No model of the log would have been cheaper.",
    )  # fmt: skip


def _length(seconds: float) -> str:
    for size, word in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= size:
            n = seconds / size
            return f"{n:g} {word}{'' if n == 1 else 's'}"
    return duration(seconds * 1000)
