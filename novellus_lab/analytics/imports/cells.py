"""The cells of rows: text of a CSV or values of JSON, read into what they mean.

Each reader takes None and "" for unknown, and refuses what it can't read: a `BadRowError` names the column.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from novellus_lab.analytics.imports.calls import BadRowError
from novellus_lab.analytics.imports.json_elements import DECODER

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import tzinfo

_COUNT = re.compile(r"\d{1,18}(?:\.0+)?")
_NOTHING = {"", "null", "None", "NULL", "\\N"}


def text(row: Mapping[str, Any], *names: str) -> str | None:
    """Return the first of these that says something."""
    for name in names:
        value = row.get(name)
        if value is None or (isinstance(value, str) and value.strip() in _NOTHING):
            continue
        if isinstance(value, (dict, list)):
            raise BadRowError(f"{name} must be a text, not {_shown(value)}")
        return str(value)
    return None


def needed(row: Mapping[str, Any], *names: str) -> str:
    """Return the first of these that says something, which one of them must."""
    found = text(row, *names)
    if found is None:
        raise BadRowError(f"{' or '.join(names)} is missing")
    return found


def moment(row: Mapping[str, Any], *names: str, zone: tzinfo = UTC) -> datetime | None:
    """Return a time, in UTC: ISO 8601 with or without "T", or Unix seconds.

    Args:
        zone: whose clock it is where the time itself does not say.
    """
    for name in names:
        value = row.get(name)
        if value is None or (isinstance(value, str) and value.strip() in _NOTHING):
            continue
        try:
            if isinstance(value, datetime):
                found = value
            elif isinstance(value, (int, float, Decimal)) or re.fullmatch(
                r"\d{9,11}(\.\d+)?", value
            ):
                found = datetime.fromtimestamp(float(value), UTC)
            else:
                found = datetime.fromisoformat(value.strip().replace(" UTC", "+00:00"))
            if found.tzinfo is None:
                found = found.replace(tzinfo=zone)
            found = found.astimezone(UTC)
        except (ValueError, TypeError, OverflowError, OSError):
            raise BadRowError(f"{name} is no time: {_shown(value)}") from None
        if not 2000 <= found.year < 2200:
            raise BadRowError(f"{name} can't be: {_shown(value)}")
        return found
    return None


def needed_moment(row: Mapping[str, Any], *names: str, zone: tzinfo = UTC) -> datetime:
    found = moment(row, *names, zone=zone)
    if found is None:
        raise BadRowError(f"{' or '.join(names)} is missing")
    return found


def count(row: Mapping[str, Any], *names: str) -> int | None:
    """Return a whole number, also where it is written `10.0`."""
    for name in names:
        value = row.get(name)
        if value is None or (isinstance(value, str) and value.strip() in _NOTHING):
            continue
        if isinstance(value, bool) or not _COUNT.fullmatch(str(value).strip()):
            raise BadRowError(f"{name} is no count: {_shown(value)}")
        return int(Decimal(str(value).strip()))
    return None


def amount(row: Mapping[str, Any], *names: str) -> Decimal | None:
    """Return an amount of money, to the last digit that is written."""
    for name in names:
        value = row.get(name)
        if value is None or (isinstance(value, str) and value.strip() in _NOTHING):
            continue
        try:
            found = Decimal(str(value).strip().removeprefix("$"))
        except InvalidOperation:
            raise BadRowError(f"{name} is no amount: {_shown(value)}") from None
        if isinstance(value, bool) or not found.is_finite():
            raise BadRowError(f"{name} is no amount: {_shown(value)}")
        return found
    return None


def number(row: Mapping[str, Any], *names: str) -> float | None:
    for name in names:
        value = row.get(name)
        if value is None or (isinstance(value, str) and value.strip() in _NOTHING):
            continue
        try:
            found = float(value)
        except (TypeError, ValueError, OverflowError):
            raise BadRowError(f"{name} is no number: {_shown(value)}") from None
        if isinstance(value, bool) or not math.isfinite(found):
            raise BadRowError(f"{name} is no number: {_shown(value)}")
        return found
    return None


def flag(row: Mapping[str, Any], name: str) -> bool:
    """Return whether a cell says yes."""
    value = row.get(name)
    return value is True or (isinstance(value, str) and value.strip().lower() in ("true", "t", "1"))


def parsed(value: Any) -> Any:
    """Return JSON that a cell holds as text; any other value as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "[", '"'):
        try:
            return DECODER.decode(value)
        except (ValueError, RecursionError):
            return value
    return value


def mapping(value: Any) -> dict[str, Any]:
    """Return an object, also where a cell holds it as text; {} of anything else."""
    found = parsed(value)
    return found if isinstance(found, dict) else {}


def _shown(value: Any) -> str:
    return f"{value!r:.60}"
