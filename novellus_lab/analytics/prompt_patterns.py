"""Prompts that are one template filled in again and again, and what they share at their beginning."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from novellus_lab.analytics.fitted_rates import FittedRates
    from novellus_lab.analytics.log_mirror import LogMirror
    from novellus_lab.analytics.period_log import PeriodLog

MOST_PROMPTS = 2_000
_WORDS = 10
_HEAD = 400
_PREFIX_TOKENS = 1_024
"""Shorter beginnings are cached by no provider."""
_KEPT_MINUTES = 5
"""How long providers keep a beginning, at least."""
_CHARACTERS_A_TOKEN = 4

_DEAREST = f"""
SELECT model, prompt_hash, count(*) AS requests, count(*) FILTER (WHERE cost_usd IS NULL) AS unpriced,
    sum(cost_usd) AS cost_usd, sum(input_tokens)::BIGINT AS input_tokens, count(input_tokens) AS counted,
    arg_max(id, created_at)::TEXT AS example
FROM spending WHERE late AND prompt_hash IS NOT NULL AND NOT free
GROUP BY ALL ORDER BY cost_usd DESC NULLS LAST, prompt_hash LIMIT {MOST_PROMPTS}
"""  # noqa: S608 - a constant
_BEGINNINGS = """
WITH told AS (
    SELECT prefix, spending.model, spending.cached_tokens, spending.created_at - lag(spending.created_at)
        OVER (PARTITION BY spending.model, prefix ORDER BY spending.created_at) AS since
    FROM spending JOIN beginnings
        ON beginnings.prompt_hash = spending.prompt_hash
    WHERE late AND NOT free AND status = 'ok'
)
SELECT prefix, model, count(*) AS requests, count(*) FILTER (WHERE since < to_minutes(?)
    AND cached_tokens = 0) AS again
FROM told GROUP BY ALL HAVING again > 0
"""

# What varies from one filling of a template to the next.
_VARIES = (
    (re.compile(r"https?://\S+"), "<url>"),
    (re.compile(r"\S+@\S+\.\w+"), "<email>"),
    (re.compile(r"\b[0-9a-f]{8}(?:-?[0-9a-f]{4}){3}-?[0-9a-f]{12}\b", re.IGNORECASE), "<id>"),
    (re.compile(r"\"[^\"\n]{1,200}\"|“[^”\n]{1,200}”"), "<quote>"),
    (re.compile(r"\d+(?:[.,:/-]\d+)*"), "#"),
)


@dataclass(frozen=True, slots=True)
class PromptPattern:
    """Requests whose prompts differ in numbers, names in quotes, addresses, and in how they go on."""

    text: str
    """How they begin, with `#`, `<quote>`, `<url>` where they differ; untrusted."""
    system: str
    """How the system prompt begins; untrusted."""
    prompts: int
    requests: int
    unpriced: int
    cost_usd: Decimal | None
    mean_input_tokens: float | None


@dataclass(frozen=True, slots=True)
class SharedBeginning:
    """A long system prompt that was sent anew within minutes, and not taken from the provider's cache."""

    model: str | None
    text: str
    tokens: int
    """About: by its characters."""
    again: int
    """Requests within five minutes of the one before."""
    saved_usd: Decimal | None
    """If the provider had cached it; None: what its tokens cost is not known."""


@dataclass(frozen=True, slots=True)
class Prompts:
    """The dearest prompts of a period."""

    patterns: tuple[PromptPattern, ...]
    beginnings: tuple[SharedBeginning, ...]
    cost_usd: Decimal
    """Of the prompts that were looked at."""
    sql: str


def prompts(mirror: LogMirror, log: PeriodLog, rates: Mapping[str | None, FittedRates]) -> Prompts:
    """Look at the 2,000 dearest prompts that were paid for: their patterns, their shared beginnings."""
    found = log.ask(_DEAREST)
    texts = _texts(mirror, [row["example"] for row in found.rows])
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in found.rows:
        read = texts.get(row["example"])
        row["read"] = read
        if read is None or read["asked"] is None:
            key = (f"prompt {row['prompt_hash'].hex()[:12]} (content is not logged)", "")
        else:
            system = read["first"] if read["role"] == "system" else ""
            key = (template(read["asked"]), template(system or ""))
        groups.setdefault(key, []).append(row)
    patterns = [_pattern(text, system, rows) for (text, system), rows in groups.items()]
    patterns.sort(key=lambda one: (-(one.cost_usd or Decimal(-1)), one.text))
    known = [row["cost_usd"] for row in found.rows if row["cost_usd"] is not None]
    return Prompts(
        tuple(patterns), _beginnings(log, found.rows, rates), sum(known, Decimal(0)), found.sql
    )


def template(text: str) -> str:
    """Return how a text begins, with marks in place of what varies."""
    for varies, mark in _VARIES:
        text = varies.sub(mark, text)
    words = text.split()
    return " ".join(words[:_WORDS]) + (" …" if len(words) > _WORDS else "")


def _texts(mirror: LogMirror, ids: list[str]) -> dict[str, dict[str, Any]]:
    """Read how the conversations of some requests begin: no more than that leaves PostgreSQL."""
    if not ids:
        return {}
    listed = ", ".join(f"'{id}'" for id in ids)  # UUIDs, as DuckDB wrote them
    query = f"""
        SELECT id::text AS id, messages -> 0 ->> 'role' AS role,
            left(messages -> 0 ->> 'content', {_HEAD}) AS first,
            length(messages -> 0 ->> 'content') AS length, md5(messages -> 0 ->> 'content') AS prefix,
            left(messages -> -1 ->> 'content', {_HEAD}) AS asked
        FROM public.ai_requests WHERE id IN ({listed})
    """  # noqa: S608
    return {row["id"]: row for batch in mirror.batches(query) for row in batch.to_pylist()}


def _pattern(text: str, system: str, rows: list[dict[str, Any]]) -> PromptPattern:
    known = [row["cost_usd"] for row in rows if row["cost_usd"] is not None]
    counted = sum(row["counted"] for row in rows)
    return PromptPattern(
        text,
        system,
        len({row["prompt_hash"] for row in rows}),
        sum(row["requests"] for row in rows),
        sum(row["unpriced"] for row in rows),
        sum(known, Decimal(0)) if known else None,
        sum(row["input_tokens"] or 0 for row in rows) / counted if counted else None,
    )


def _beginnings(
    log: PeriodLog, rows: tuple[dict[str, Any], ...], rates: Mapping[str | None, FittedRates]
) -> tuple[SharedBeginning, ...]:
    import pyarrow as pa

    long = {
        row["prompt_hash"]: row["read"]
        for row in rows
        if row["read"] is not None
        and row["read"]["role"] == "system"
        and (row["read"]["length"] or 0) >= _PREFIX_TOKENS * _CHARACTERS_A_TOKEN
    }
    if not long:
        return ()
    table = pa.table(
        {
            "prompt_hash": pa.array(list(long), pa.binary()),
            "prefix": pa.array([read["prefix"] for read in long.values()], pa.string()),
        }
    )
    log.connection.register("beginnings", table)
    of_prefix = {read["prefix"]: read for read in long.values()}
    found = []
    for row in log.ask(_BEGINNINGS, _KEPT_MINUTES).rows:
        read, rate = of_prefix[row["prefix"]], rates.get(row["model"])
        tokens = read["length"] // _CHARACTERS_A_TOKEN
        saved = None
        if rate is not None and rate.known:
            saved = row["again"] * tokens * rate.saved_by_caching
        found.append(
            SharedBeginning(row["model"], template(read["first"]), tokens, row["again"], saved)
        )
    return tuple(sorted(found, key=lambda one: -(one.saved_usd or Decimal(0))))
