"""Who spends: tags, sessions, and prompts that are one template."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from novellus_lab.analytics.prompt_patterns import MOST_PROMPTS
from novellus_lab.display import money
from novellus_lab.reports.document import Column, Section, Table

if TYPE_CHECKING:
    from novellus_lab.analytics.prompt_patterns import Prompts
    from novellus_lab.reports.cost_sources import Sources

_SHOWN = 15
_OWN_TAGS = "novellus."
_TAGS = """
SELECT tags, count(*) AS requests, count(*) FILTER (WHERE cost_usd IS NULL) AS unpriced,
    sum(cost_usd) AS cost_usd
FROM spending WHERE late AND tags IS NOT NULL AND tags <> '{}' GROUP BY 1
ORDER BY cost_usd DESC NULLS LAST LIMIT 20000
"""
_SESSIONS = f"""
SELECT session_id, count(*) AS requests, count(*) FILTER (WHERE cost_usd IS NULL) AS unpriced,
    sum(cost_usd) AS cost_usd
FROM spending WHERE late AND session_id IS NOT NULL GROUP BY 1
ORDER BY cost_usd DESC NULLS LAST, session_id LIMIT {_SHOWN}
"""  # noqa: S608 - a constant
_COUNTS = (Column("requests", "count"), Column("without a price", "count"))


def spenders_section(sources: Sources) -> Section:
    """Show the dearest of each."""
    sessions = sources.log.ask(_SESSIONS)
    return Section(
        "spenders",
        "Who spends",
        (),
        (
            _tags(sources),
            Table(
                "sessions",
                "By session",
                (Column("session"), *_COUNTS, Column("spend", "usd")),
                tuple(tuple(row.values()) for row in sessions.rows),
                sql=sessions.sql,
                empty="No request of this period belongs to a session.",
            ),
            _patterns(sources.prompts),
        ),
    )


def _tags(sources: Sources) -> Table:
    found = sources.log.ask(_TAGS)
    sums: dict[tuple[str, str], list[Any]] = {}
    for row in found.rows:
        for key, value in json.loads(row["tags"]).items():
            if key.startswith(_OWN_TAGS):
                continue
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            one = sums.setdefault((key, text), [0, 0, None])
            one[0] += row["requests"]
            one[1] += row["unpriced"]
            if row["cost_usd"] is not None:
                one[2] = (one[2] or Decimal(0)) + row["cost_usd"]
    order = sorted(sums.items(), key=lambda one: (-(one[1][2] or Decimal(-1)), one[0]))
    more = f" The {_SHOWN} dearest of {len(order):,}." if len(order) > _SHOWN else ""
    return Table(
        "tags",
        "By tag",
        (Column("tag"), Column("value"), *_COUNTS, Column("spend", "usd")),
        tuple((*names, *values) for names, values in order[:_SHOWN]),
        note=f"A request with several tags counts with each.{more}",
        sql=found.sql,
        empty="No request of this period has a tag.",
    )


def _patterns(found: Prompts) -> Table:
    return Table(
        "prompts",
        "By prompt pattern",
        (
            Column("the prompt begins with"), Column("after the system prompt"),
            Column("different prompts", "count"), *_COUNTS, Column("input tokens, mean", "count"),
            Column("spend", "usd"),
        ),
        tuple(
            (
                one.text, one.system or None, one.prompts, one.requests, one.unpriced,
                one.mean_input_tokens, one.cost_usd,
            )
            for one in found.patterns[:_SHOWN]
        ),
        note=f"# and <…> stand for numbers, quotes, addresses that differ. Of the {MOST_PROMPTS:,} "
        f"dearest prompts that were paid for: {money(found.cost_usd)} together.",
        sql=found.sql,
        empty="No prompt of this period was paid for.",
    )  # fmt: skip
