"""Answers and errors at rest: what a worker stores, as whoever waits gets it."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import orjson

from novellus_lab import errors
from novellus_lab.errors import NovellusError
from novellus_lab.store.storable import storable_json
from novellus_lab.types import (
    Attempt,
    CacheOutcome,
    Candidate,
    Completion,
    Price,
    PriceLine,
    Route,
    Status,
    ToolCall,
    Usage,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")


def dump(value: Any) -> str:
    """Serialise whatever this is, exactly where JSON has a form for it."""
    try:
        return orjson.dumps(value, default=_plain).decode()
    except TypeError:  # integers beyond 64 bits, halves of characters
        return orjson.dumps(storable_json(value)).decode()


def _plain(value: Any) -> Any:
    return dict(value) if hasattr(value, "items") else str(value)


def dump_completion(completion: Completion) -> str:
    """Serialise an answer with all that is known of it."""
    parsed = completion.parsed
    if hasattr(parsed, "model_dump"):
        parsed = parsed.model_dump(mode="json")
    return dump(
        {f.name: getattr(completion, f.name) for f in fields(Completion)} | {"parsed": parsed}
    )


def load_completion(data: Mapping[str, Any]) -> Completion:
    """Return the answer that `dump_completion` wrote, from its JSON."""
    route = data["route"]
    return _build(
        Completion,
        data,
        cost=_money(data["cost"]),
        usage=_build(Usage, data["usage"]),
        cache=CacheOutcome(data["cache"]),
        request_id=UUID(data["request_id"]),
        tool_calls=tuple(_build(ToolCall, call) for call in data["tool_calls"]),
        route=None if route is None else _route(route),
        attempts=tuple(map(_attempt, data["attempts"])),
        cache_source_id=None if data["cache_source_id"] is None else UUID(data["cache_source_id"]),
        cost_saved=_money(data["cost_saved"]),
        dropped_params=tuple(data["dropped_params"]),
        warnings=tuple(data["warnings"]),
    )


def _route(data: Mapping[str, Any]) -> Route:
    return _build(Route, data, candidates=tuple(_build(Candidate, c) for c in data["candidates"]))


def _attempt(data: Mapping[str, Any]) -> Attempt:
    price = data["price"]
    lines = tuple(
        _build(
            PriceLine,
            line,
            usd_per_million=_money(line["usd_per_million"]),
            cost_usd=_money(line["cost_usd"]),
        )
        for line in price["lines"]
    )
    cost, fees = _money(price["cost_usd"]), _money(price["fees_usd"])
    return _build(
        Attempt,
        data,
        id=UUID(data["id"]),
        started_at=datetime.fromisoformat(data["started_at"]),
        status=Status(data["status"]),
        price=_build(Price, price, cost_usd=cost, lines=lines, fees_usd=fees),
        usage=_build(Usage, data["usage"]),
    )


def _build(kind: type[T], data: Mapping[str, Any], **read: Any) -> T:
    """Of what a newer version wrote, what this one does not know is left out."""
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    return kind(**({name: value for name, value in data.items() if name in known} | read))


def _money(text: str | float | None) -> Decimal | None:
    return None if text is None else Decimal(str(text))


# --- errors --------------------------------------------------------------------------------------

_CODED = {Decimal: "decimal", datetime: "time"}


def dump_error(error: NovellusError) -> str:
    """Serialise an error: class, message, and those attributes that are plain."""
    kind = next(k.__name__ for k in type(error).__mro__ if getattr(errors, k.__name__, None) is k)
    attributes: dict[str, Any] = {}
    for name, value in vars(error).items():
        if isinstance(value, (Decimal, datetime)):
            attributes[name] = {_CODED[type(value)]: str(value)}
        elif value is None or isinstance(value, (str, int, float, bool)):
            attributes[name] = value
    return dump({"class": kind, "message": str(error), "attributes": attributes})


def load_error(data: Mapping[str, Any]) -> NovellusError:
    """Return the error that `dump_error` wrote; an unknown class becomes a NovellusError."""
    kind = getattr(errors, str(data["class"]), None)
    if not (isinstance(kind, type) and issubclass(kind, NovellusError)):
        kind = NovellusError
    error: NovellusError = kind.__new__(kind)
    error.args = (data["message"],)
    vars(error).update({n: _attribute(v) for n, v in data.get("attributes", {}).items()})
    return error


def _attribute(value: Any) -> Any:
    if isinstance(value, dict) and "decimal" in value:
        try:
            return Decimal(value["decimal"])
        except InvalidOperation:
            return None
    if isinstance(value, dict) and "time" in value:
        return datetime.fromisoformat(value["time"])
    return value
