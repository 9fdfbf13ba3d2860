"""Which rows a question is about, and by what they are told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from novellus_lab.analytics.requests import moment
from novellus_lab.errors import InvalidRequestError

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from novellus_lab.analytics.log_columns import LogTable

_TAG = "tag:"
_SPELLINGS = {"session": "session_id"}
_LABELS = (
    *("kind", "stream", "status", "error_class", "requested_model", "model", "provider"),
    *("strategy", "rule", "cache", "session_id", "experiment", "arm", "priority"),
)


class Filters(TypedDict, total=False):
    """What every frame can be narrowed by. Each takes one value or a list; None stands for "has none"."""

    until: str | datetime | timedelta | None
    """Where to stop, as `since` says where to begin."""
    model: str | Sequence[str | None] | None
    provider: str | Sequence[str | None] | None
    requested_model: str | Sequence[str | None] | None
    tag: Mapping[str, Any]
    """`{"team": "search"}`, or `{"team": ["search", "ads"]}`; several must all hold."""
    session: str | Sequence[str | None] | None
    experiment: str | Sequence[str | None] | None
    arm: str | Sequence[str | None] | None
    status: str | Sequence[str]
    """ok, error, cancelled, refused."""
    error_class: str | Sequence[str | None] | None
    strategy: str | Sequence[str | None] | None
    rule: str | Sequence[str | None] | None
    cache: str | Sequence[str]
    """off, miss, memory, redis, postgres, semantic, coalesced."""
    kind: str | Sequence[str]
    """chat, embedding."""
    priority: str | Sequence[str | None] | None
    stream: bool


@dataclass(frozen=True, slots=True)
class Selection:
    """Rows of a table: a window of time, and conditions."""

    since: datetime | None
    until: datetime | None
    where: str
    """SQL, with a `?` for each of the parameters."""
    parameters: tuple[Any, ...]


def select(
    table: LogTable,
    since: str | datetime | timedelta | None,
    filters: Mapping[str, Any],
) -> Selection:
    """Read the filters of a question.

    Raises:
        InvalidRequestError: there is no such filter, or it can't have this value.
    """
    given = dict(filters)
    start, end = moment("since", since), moment("until", given.pop("until", None))
    conditions, parameters = ["true"], []
    if start is not None:
        conditions.append(f"{table.time} >= ?")
        parameters.append(start)
    if end is not None:
        conditions.append(f"{table.time} < ?")
        parameters.append(end)
    for key, wanted in dict(given.pop("tag", None) or {}).items():
        conditions.append(_one_of(dimension(f"{_TAG}{key}"), _values("tag", wanted), parameters))
    for name, wanted in given.items():
        column = _SPELLINGS.get(name, name)
        if column not in _LABELS:
            allowed = ", ".join(("since", *Filters.__annotations__))
            raise InvalidRequestError(f"there is no filter {name!r:.80}; there are {allowed}")
        conditions.append(_one_of(column, _values(name, wanted), parameters))
    return Selection(start, end, " AND ".join(conditions), tuple(parameters))


def dimensions(by: str | Sequence[str] | None) -> dict[str, str]:
    """Return the columns that rows are told apart by, as SQL, by the names that the frame gives them.

    Raises:
        InvalidRequestError: a frame can't be grouped by that.
    """
    if by is None:
        return {}
    names = [by] if isinstance(by, str) or not isinstance(by, Sequence) else by
    return {name: dimension(name) for name in names}


def dimension(name: str) -> str:
    """Return a label, or a tag's value, as SQL.

    Raises:
        InvalidRequestError: there is no such label.
    """
    if isinstance(name, str) and name.startswith(_TAG) and len(name) > len(_TAG):
        key = name.removeprefix(_TAG).replace("~", "~0").replace("/", "~1").replace("'", "''")
        return f"json_extract_string(tags, '/{key}')"
    column = _SPELLINGS.get(name, name) if isinstance(name, str) else name
    if column not in _LABELS:
        raise InvalidRequestError(
            f"by={name!r:.80} is nothing to group by; there are {', '.join(_LABELS)}, and a tag as "
            f"'tag:team'"
        )
    return str(column)


def quoted(name: str) -> str:
    """Return a name for SQL."""
    return '"' + name.replace('"', '""') + '"'


def _values(name: str, wanted: Any) -> list[Any]:
    values = list(wanted) if isinstance(wanted, (list, tuple, set, frozenset)) else [wanted]
    if not values or any(isinstance(v, (Mapping, list, tuple, set)) for v in values):
        raise InvalidRequestError(f"{name} must be a value or a list of values, not {wanted!r:.80}")
    if name == "stream":
        return values
    return [_text(value) for value in values]


def _text(value: Any) -> str | None:
    """As a label or a tag stands in the log."""
    if value is None:
        return None
    return str(value).lower() if isinstance(value, bool) else str(value)


def _one_of(column: str, values: list[Any], parameters: list[Any]) -> str:
    present = [value for value in values if value is not None]
    conditions = []
    if present:
        conditions.append(f"{column} IN ({', '.join('?' * len(present))})")
        parameters += present
    if len(present) < len(values):
        conditions.append(f"{column} IS NULL")
    return f"({' OR '.join(conditions)})"
