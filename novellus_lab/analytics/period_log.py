"""Two periods of the log side by side, asked in SQL that anybody can run again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from novellus_lab.analytics.frames import HIT
from novellus_lab.analytics.log_columns import REQUESTS, USD_DIGITS
from novellus_lab.analytics.selection import select

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from novellus_lab.analytics.log_mirror import LogMirror

_USD = f"DECIMAL(38, {USD_DIGITS})"
_SPENDING = f"""
SELECT id, created_at, created_at >= ? AS late, model, session_id, tags, cache, cache_key, prompt_hash,
    status, cost_usd, uncached_cost_usd, {HIT} OR cache = 'coalesced' AS free,
    input_tokens - coalesce(cached_input_tokens, 0) AS new_tokens,
    coalesce(cached_input_tokens, 0) AS cached_tokens, input_tokens, output_tokens
FROM requests WHERE {{where}}
"""  # noqa: S608 - our own names


@dataclass(frozen=True, slots=True)
class Answer:
    """What a query found."""

    rows: tuple[dict[str, Any], ...]
    sql: str
    """As `lab.sql` runs it."""


class PeriodLog:
    """The requests of a period and of the one before it, as the table `spending`.

    `late` tells the periods apart; `free` is what the cache or an equal call answered. Amounts have 15
    digits after the point. The rows are read once, from the log's columnar copy.

    Args:
        filters: those of `lab.analytics`.
    """

    def __init__(
        self,
        mirror: LogMirror,
        before: datetime,
        start: datetime,
        end: datetime,
        filters: Mapping[str, Any],
    ) -> None:
        selection = select(REQUESTS, before, {**filters, "until": end})
        self.connection = mirror.connection()
        mirror.rows(REQUESTS, before, end).attach(self.connection, "log")
        columns = [
            f"coalesce({c}::{_USD}, TRY_CAST({c}_wide AS {_USD})) AS {c}"
            if c.endswith("_usd")
            else c
            for c in REQUESTS.names
        ]
        self.connection.execute(
            f"CREATE TEMP VIEW requests AS SELECT {', '.join(columns)} FROM log"  # noqa: S608
        )
        query = _SPENDING.format(where=selection.where).strip()
        parameters = [start, *selection.parameters]
        self.connection.execute(f"CREATE TEMP TABLE spending AS {query}", parameters)
        self._told = f"WITH spending AS (\n{_filled(query, parameters)}\n)\n"

    def ask(self, query: str, *parameters: Any) -> Answer:
        """Run a query over `spending`; each `?` is a parameter."""
        found = self.connection.sql(query, params=list(parameters)).to_arrow_table().to_pylist()
        return Answer(tuple(found), self.told(query, parameters))

    def told(self, query: str, parameters: Sequence[Any] = ()) -> str:
        """Return a query as `lab.sql` runs it."""
        text = _filled(query.strip(), parameters)
        return (
            self._told.rstrip() + ",\n" + text[5:]
            if text.startswith("WITH ")
            else self._told + text
        )

    def close(self) -> None:
        self.connection.close()


def _filled(query: str, parameters: Sequence[Any]) -> str:
    """Put values in the place of question marks, but for those within quotes."""
    values, parts, quoted = iter(parameters), [], ""
    for character in query:
        if quoted:
            quoted = "" if character == quoted else quoted
        elif character in "'\"":
            quoted = character
        elif character == "?":
            parts.append(_literal(next(values)))
            continue
        parts.append(character)
    return "".join(parts)


def _literal(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "NULL"}[value]
    if isinstance(value, datetime):
        return f"TIMESTAMPTZ '{value.astimezone(UTC).isoformat(sep=' ')}'"
    if isinstance(value, (int, float)):
        return str(value)
    return "'" + str(value).replace("'", "''") + "'"
