"""The log in ordered buckets of time, one sum for each model."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from novellus_lab.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import psycopg

_ANSWERED = "status = 'ok' AND cache IN ('off', 'miss')"
"""A provider answered: what a cache hit took says nothing of a model."""

EXPRESSIONS = {
    "requests": "count(*)",
    "ended": "count(*) FILTER (WHERE status IN ('ok', 'error'))",
    "errors": "count(*) FILTER (WHERE status = 'error')",
    "latency_ms": f"coalesce(sum(latency_ms) FILTER (WHERE {_ANSWERED}), 0)",
    "answered": f"count(latency_ms) FILTER (WHERE {_ANSWERED})",
    "cost_usd": "coalesce(sum(cost_usd), 0)::float8",
    "priced": "count(cost_usd) FILTER (WHERE cost_usd > 0)",
    "output_tokens": f"coalesce(sum(output_tokens) FILTER (WHERE {_ANSWERED}), 0)::float8",
    "outputs": f"count(output_tokens) FILTER (WHERE {_ANSWERED})",
    "lookups": "count(*) FILTER (WHERE cache NOT IN ('off', 'coalesced'))",
    "hits": "count(*) FILTER (WHERE cache NOT IN ('off', 'miss', 'coalesced'))",
}
"""What is summed over rows of `ai_requests`, in SQL. Refused requests (nothing was sent) are left out."""

ORIGIN = datetime(2024, 1, 1, tzinfo=UTC)
"""A Monday's midnight: buckets begin at whole multiples of their width from here."""
_WIDTH = re.compile(r"(\d+)\s*([smh])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours"}
_DAY = timedelta(days=1)
_ENOUGH = 20


@dataclass(slots=True)
class Sums:
    """What happened in one bucket."""

    requests: int = 0
    ended: int = 0
    """Answered or failed, not cancelled."""
    errors: int = 0
    latency_ms: float = 0.0
    answered: int = 0
    """By a provider; `latency_ms` is the sum over these."""
    cost_usd: float = 0.0
    priced: int = 0
    output_tokens: float = 0.0
    outputs: int = 0
    lookups: int = 0
    hits: int = 0

    def add(self, other: Sums) -> None:
        for name in _NAMES:
            setattr(self, name, getattr(self, name) + getattr(other, name))


_NAMES = tuple(field.name for field in fields(Sums))

BucketsOfModels = dict[datetime, dict[str | None, Sums]]
"""By start and model; None: all models together, of which latency and output are of chats only."""


def learnt_width(over: timedelta) -> timedelta:
    """Return the width of buckets that suits what learns over a range.

    A minute up to six hours, five up to a day and a half, a quarter of an hour up to ten days, else
    an hour.
    """
    for most, minutes in ((6, 1), (36, 5), (240, 15)):
        if over <= timedelta(hours=most):
            return timedelta(minutes=minutes)
    return timedelta(hours=1)


def rules_width(
    connection: psycopg.Connection, since: datetime, until: datetime, model: str | None
) -> timedelta:
    """Return the width of buckets that suits the rules: the busiest model has 20 requests in each.

    At least a minute (five above a day and a half, fifteen above ten days), at most an hour.
    """
    row = connection.execute(
        "SELECT count(*) FROM public.ai_requests WHERE created_at >= %s AND created_at < %s "
        "AND status <> 'refused' AND (%s::text IS NULL OR model = %s) "
        "GROUP BY model ORDER BY 1 DESC LIMIT 1",
        [since, until, model, model],
    ).fetchone()
    over = until - since
    a_minute = (row[0] if row else 0) / max(1.0, over.total_seconds() / 60)
    least = 1 if over <= timedelta(hours=36) else 5 if over <= timedelta(days=10) else 15
    fits = (m for m in (1, 5, 15) if m >= least and a_minute * m >= _ENOUGH)
    return timedelta(minutes=next(fits, 60))


def bucket_width(given: str | float | timedelta) -> timedelta:
    """Return the width that was given: `"5m"`, seconds, a timedelta.

    Raises:
        InvalidRequestError: it is no duration, below a second, above six hours or divides no day.
    """
    width = given if isinstance(given, timedelta) else None
    if isinstance(given, (int, float)) and not isinstance(given, bool) and 1 <= given <= 21_600:
        width = timedelta(seconds=given)
    match = _WIDTH.fullmatch(given.strip()) if isinstance(given, str) else None
    if match is not None and len(match[1]) < 6:
        width = timedelta(**{_UNITS[match[2]]: int(match[1])})
    if width is None or not timedelta(seconds=1) <= width <= timedelta(hours=6) or _DAY % width:
        raise InvalidRequestError(
            f"bucket must divide a day and be from 1s to 6h, such as '1m', '15m' or '1h', not "
            f"{given!r:.80}"
        )
    return width


def floor(time: datetime, width: timedelta) -> datetime:
    """Return the start of the bucket that a time lies in."""
    return ORIGIN + (time - ORIGIN) // width * width


def read_buckets(
    connection: psycopg.Connection,
    spans: Iterable[tuple[datetime, datetime]],
    width: timedelta,
    model: str | None = None,
) -> BucketsOfModels:
    """Sum up the rows of some spans of time, each a whole number of buckets; empty buckets are missing.

    Args:
        model: this one only; None: each, and all together.
    """
    found: BucketsOfModels = {}
    of_model = "" if model is None else "AND model = %(model)s"
    query = (
        f"SELECT date_bin(%(width)s, created_at, %(origin)s), model, kind, "  # noqa: S608
        f"{', '.join(EXPRESSIONS[name] for name in _NAMES)} FROM public.ai_requests "
        f"WHERE created_at >= %(start)s AND created_at < %(end)s AND status <> 'refused' {of_model} "
        f"GROUP BY 1, 2, 3"
    )
    for start, end in spans:
        arguments = {"width": width, "origin": ORIGIN, "start": start, "end": end, "model": model}
        for bucket, of, kind, *values in connection.execute(query.encode(), arguments):
            sums = Sums(*values)
            models = found.setdefault(bucket.astimezone(UTC), {})
            if of is not None:
                models.setdefault(of, Sums()).add(sums)
            if model is None:
                models.setdefault(None, Sums()).add(sums if kind == "chat" else _counts(sums))
    return found


def _counts(sums: Sums) -> Sums:
    """Without what can't be averaged over chats and embeddings together."""
    kept: Mapping[str, float] = {
        name: getattr(sums, name)
        for name in _NAMES
        if name not in ("latency_ms", "answered", "output_tokens", "outputs")
    }
    return Sums(**kept)  # type: ignore[arg-type]
