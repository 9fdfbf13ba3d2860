"""Single requests of the log: pages of them, and all that is known of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from novellus_lab.analytics.requests import moment
from novellus_lab.errors import InvalidRequestError, StoreUnavailableError
from novellus_lab.types import CacheOutcome

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime, timedelta

_PROMPT = 300
_LONGEST = "20s"
"""A search through texts reads them all: after so long it is better to narrow it."""
_HITS = [outcome.value for outcome in CacheOutcome if outcome.hit]

_LIST = f"""
SELECT id, created_at, kind, status, error_class, model, requested_model, strategy, cache, cost_usd,
       latency_ms, input_tokens, output_tokens, messages IS NOT NULL AS logged,
       left(messages #>> '{{-1,content}}', {_PROMPT}) AS prompt
FROM public.ai_requests WHERE created_at >= %(since)s
"""  # noqa: S608
_CONDITIONS = {
    "until": "created_at < %(until)s",
    "model": "(model = %(model)s OR requested_model = %(model)s)",
    "status": "status = %(status)s",
    "cache": "cache = ANY(%(cache)s)",
    "tag": "tags @> %(tag)s::jsonb",
    "session": "session_id = %(session)s",
    "text": "(response ILIKE %(text)s OR messages::text ILIKE %(text)s OR error_message ILIKE %(text)s)",
    "before": "(created_at, id) < (%(before_time)s, %(before_id)s)",
}


@dataclass(frozen=True, slots=True)
class LogFilter:
    """Which requests to show; None does not narrow."""

    since: str | datetime | timedelta = "24h"
    until: str | datetime | timedelta | None = None
    model: str | None = None
    """That answered, or was asked for."""
    status: str | None = None
    cache: str | None = None
    """An outcome, or `hit` for all kinds of hits."""
    tag: tuple[str, str] | None = None
    session: str | None = None
    text: str | None = None
    """Somewhere in the messages, the response or the error, whatever the case of its letters."""


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """Everything that the log knows of a request."""

    row: Mapping[str, Any]
    attempts: tuple[Mapping[str, Any], ...]

    @property
    def logged(self) -> bool:
        """Whether its messages are in the log."""
        return self.row["messages"] is not None


def find_requests(
    conninfo: str,
    asked: LogFilter,
    *,
    limit: int = 50,
    before: tuple[datetime, UUID] | None = None,
) -> list[dict[str, Any]]:
    """Return requests, the newest first, without their texts but for the beginning of the last message.

    Args:
        before: time and id of the last one of the page before.

    Raises:
        InvalidRequestError: `since` is no time, or the search takes too long.
        StoreUnavailableError: the database does not answer.
    """
    start = moment("since", asked.since)
    given: dict[str, Any] = {"since": start, "limit": limit}
    if asked.until is not None:
        given["until"] = moment("until", asked.until)
    for name in ("model", "status", "session"):
        if value := getattr(asked, name):
            given[name] = value
    if asked.cache:
        given["cache"] = _HITS if asked.cache == "hit" else [asked.cache]
    if asked.tag is not None:
        given["tag"] = Jsonb({asked.tag[0]: asked.tag[1]})
    if asked.text:
        plain = asked.text.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
        given["text"] = f"%{plain}%"
    if before is not None:
        given |= {"before": True, "before_time": before[0], "before_id": before[1]}
    conditions = "".join(f" AND {sql}" for name, sql in _CONDITIONS.items() if name in given)
    query = f"{_LIST}{conditions} ORDER BY created_at DESC, id DESC LIMIT %(limit)s"
    return _rows(conninfo, query, given)


def read_request(conninfo: str, id: UUID | str) -> LoggedRequest:
    """Return a request with all of its provider calls.

    Raises:
        InvalidRequestError: the log has none of this id.
        StoreUnavailableError: the database does not answer.
    """
    try:
        wanted = {"id": id if isinstance(id, UUID) else UUID(id)}
    except ValueError:
        raise InvalidRequestError(f"{id!r:.80} is no request's id") from None
    rows = _rows(conninfo, "SELECT * FROM public.ai_requests WHERE id = %(id)s", wanted)
    if not rows:
        raise InvalidRequestError(f"the log has no request {id}")
    attempts = _rows(
        conninfo,
        "SELECT * FROM public.ai_request_attempts WHERE request_id = %(id)s ORDER BY number, started_at",
        wanted,
    )
    return LoggedRequest(rows[0], tuple(attempts))


def _rows(conninfo: str, query: str, given: Mapping[str, Any]) -> list[dict[str, Any]]:
    try:
        with psycopg.connect(conninfo, row_factory=dict_row, connect_timeout=10) as connection:
            connection.read_only = True
            connection.execute(f"SET LOCAL statement_timeout = '{_LONGEST}'")
            return connection.execute(query, given).fetchall()
    except psycopg.errors.QueryCanceled:
        raise InvalidRequestError(
            f"that search took longer than {_LONGEST}: give it less time to look through, or a model"
        ) from None
    except psycopg.Error as error:
        reason = str(error).strip().splitlines()[0]
        raise StoreUnavailableError(f"the log can't be read: {reason}") from None
