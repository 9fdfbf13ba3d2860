"""What a provider says was used and charged, by day and model."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from novellus_lab.analytics.imports.provider_invoices import provider_rows
from novellus_lab.errors import InvalidRequestError

COUNTS = (
    *("requests", "input_tokens", "cached_input_tokens", "cache_write_tokens"),
    *("output_tokens", "reasoning_tokens"),
)
_SPELLINGS = {
    "date": ("date", "day", "start", "start_time", "bucket_start"),
    "end": ("end", "end_time", "bucket_end"),
    "model": ("model",),
    "provider": ("provider",),
    "batch": ("batch",),
    "cost_usd": ("cost_usd", "cost"),
    "requests": ("requests", "num_model_requests", "calls"),
    **{name: (name,) for name in COUNTS if name != "requests"},
}
_NOTHING = ("", "null", "none", "nan", "n/a")
_NO_MODEL = "(no model)"
_MAX_DAY = timedelta(days=1, hours=1)


@dataclass(frozen=True, slots=True)
class InvoiceLine:
    """A day of a model, or a part of it. None: the provider does not say."""

    day: date
    model: str
    provider: str | None = None
    is_batch: bool = False
    requests: int | None = None
    input_tokens: int | None = None
    """Includes cached and written ones, as in our log."""
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    output_tokens: int | None = None
    """Includes reasoning."""
    reasoning_tokens: int | None = None
    cost_usd: Decimal | None = None


def read_invoice(given: Any) -> list[InvoiceLine]:
    """Read an export: a path, several, a Polars or pandas frame, or rows.

    A file may be what OpenAI, Anthropic or LiteLLM export (`docs/import_export.md`). Of any
    other, a row has `date` (a day, or when it begins), `model`, and any of `requests`, the tokens by kind,
    `cost_usd`, `provider` and `batch`; whatever else it has is not looked at.

    Raises:
        InvalidRequestError: there is no such file, or a row is not of this form.
    """
    lines = []
    for place, row in _rows(given):
        try:
            lines.append(_line(row))
        except ValueError as error:
            raise InvalidRequestError(f"invoice, {place}: {error}") from None
    if not lines:
        raise InvalidRequestError(
            "the invoice has no rows: there is nothing to compare the log with"
        )
    if not any(getattr(line, name) is not None for line in lines for name in (*COUNTS, "cost_usd")):
        raise InvalidRequestError(
            f"the invoice states neither tokens nor dollars; its columns may be {', '.join(COUNTS)} and "
            f"cost_usd"
        )
    return lines


def _rows(given: Any) -> Iterable[tuple[str, Mapping[str, Any]]]:
    if isinstance(given, (str, Path)):
        path = Path(given).expanduser()
        rows: Iterable[Any] = _read(path)
        name = f"{path.name} "
    elif hasattr(given, "to_dicts"):
        rows, name = given.to_dicts(), ""
    elif hasattr(given, "to_dict") and hasattr(given, "columns"):
        rows, name = given.to_dict("records"), ""
    elif isinstance(given, Iterable) and not isinstance(given, Mapping):
        given = list(given)
        if given and all(isinstance(one, (str, Path)) for one in given):
            return [row for one in given for row in _rows(one)]
        rows, name = given, ""
    else:
        raise InvalidRequestError(
            f"invoice must be a file, a frame or rows with date and model, not {type(given).__name__}"
        )
    return [(f"{name}row {number}", row) for number, row in enumerate(rows, 1)]


def _read(path: Path) -> Iterable[Any]:
    kind = path.suffix.lower()
    if path.is_file() and (stated := provider_rows(path)) is not None:
        return stated
    try:
        if kind == ".parquet":
            import polars as pl

            return pl.read_parquet(path).to_dicts()
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"the invoice {path} can't be read: {error}") from None
    try:
        if kind in (".jsonl", ".ndjson"):
            return [
                json.loads(line, parse_float=Decimal) for line in text.splitlines() if line.strip()
            ]
        if kind == ".json":
            found = json.loads(text, parse_float=Decimal)
            return found if isinstance(found, list) else [found]
    except ValueError as error:
        raise InvalidRequestError(f"the invoice {path} is no JSON: {error}") from None
    first = text.partition("\n")[0]
    return list(csv.DictReader(text.splitlines(), delimiter=max(",\t;", key=first.count)))


def _line(row: Any) -> InvoiceLine:
    if not isinstance(row, Mapping):
        raise ValueError(f"expected columns and values, not {row!r:.60}")
    plain = {str(name).strip().lower(): value for name, value in row.items() if name is not None}
    cells = {
        name: next((plain[s] for s in spellings if not _is_nothing(plain.get(s))), None)
        for name, spellings in _SPELLINGS.items()
    }
    if cells["date"] is None:
        raise ValueError(f"there is no date; the columns are {', '.join(plain)!s:.200}")
    start = _moment("date", cells["date"])
    if cells["end"] is not None and _moment("end", cells["end"]) - start > _MAX_DAY:
        raise ValueError("it is of more than a day: export the usage by day, or by hour")
    batch = str(cells["batch"] or "").strip().lower() in ("true", "1", "yes", "t")
    model, provider = cells["model"], cells["provider"]
    counts = {name: _count(name, cells[name]) for name in COUNTS}
    return InvoiceLine(
        start.date(),
        _NO_MODEL if model is None else str(model).strip(),
        None if provider is None else str(provider).strip().lower(),
        batch,
        cost_usd=_amount(cells["cost_usd"]),
        **counts,
    )


def _is_nothing(value: Any) -> bool:
    if value is None or (isinstance(value, (float, Decimal)) and value != value):
        return True
    return isinstance(value, str) and value.strip().lower() in _NOTHING


def _moment(name: str, value: Any) -> datetime:
    try:
        if isinstance(value, str) and not re.fullmatch(r"\d{9,11}", value.strip()):
            value = datetime.fromisoformat(value.strip())
        elif isinstance(value, (int, str)) and not isinstance(value, bool):
            value = datetime.fromtimestamp(int(value), UTC)
        if isinstance(value, datetime):
            return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
        if isinstance(value, date):
            return datetime(value.year, value.month, value.day, tzinfo=UTC)
    except (ValueError, OverflowError, OSError):
        pass
    raise ValueError(f"{name} must be a day such as 2026-01-31, not {value!r:.60}")


def _count(name: str, value: Any) -> int | None:
    if value is None:
        return None
    try:
        number = Decimal(str(value).strip().replace(",", ""))
        if not isinstance(value, bool) and 0 <= number < 2**63 and number == int(number):
            return int(number)
    except (InvalidOperation, ValueError, OverflowError):
        pass
    raise ValueError(f"{name} must be a whole number, not {value!r:.60}")


def _amount(value: Any) -> Decimal | None:
    if value is None:
        return None
    try:
        # A float's shortest text is what was meant; its binary value is not.
        amount = Decimal(str(value).strip().removeprefix("$").replace(",", ""))
        if not isinstance(value, bool) and amount.is_finite():
            return amount
    except InvalidOperation:
        pass
    raise ValueError(f"cost_usd must be an amount of dollars, not {value!r:.60}")
