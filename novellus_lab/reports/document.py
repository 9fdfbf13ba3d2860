"""What a report says, apart from the format that it is written in."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

Kind = Literal["text", "usd", "change", "count", "share", "time"]
NOT_KNOWN = "not known"
MINUS = "−"


@dataclass(frozen=True, slots=True)
class Column:
    title: str
    kind: Kind = "text"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of plain values: Decimal for money, float for shares, None for what is not known."""

    name: str
    """For a file's or a sheet's name: a word or two of letters."""
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]
    note: str = ""
    sql: str = ""
    """What it came from, for `lab.sql`."""
    empty: str = "Nothing."
    """What is said where there are no rows."""
    rounded_to: int | None = None
    """Digits after the point of its amounts, where they were rounded to add up."""

    @property
    def digits(self) -> int:
        """After the point of its amounts, the same for all, so that they can be compared and added."""
        if self.rounded_to is not None:
            return self.rounded_to
        return money_digits(
            value
            for row in self.rows
            for value, column in zip(row, self.columns, strict=True)
            if column.kind in ("usd", "change") and value is not None
        )

    @property
    def shown(self) -> list[list[str]]:
        """Its rows as text."""
        digits = self.digits
        return [
            [
                shown(value, column.kind, digits)
                for value, column in zip(row, self.columns, strict=True)
            ]
            for row in self.rows
        ]


@dataclass(frozen=True, slots=True)
class Headline:
    """A number, beside the one of the period before."""

    label: str
    now: str
    before: str
    change: str


@dataclass(frozen=True, slots=True)
class Section:
    name: str
    title: str
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Any, ...] = ()
    """Plotly's."""


@dataclass(frozen=True, slots=True)
class Document:
    title: str
    subtitle: str
    lead: tuple[str, ...]
    headlines: tuple[Headline, ...]
    sections: tuple[Section, ...]
    made_at: datetime
    method: tuple[tuple[str, str], ...] = ()
    """Terms and what they mean here."""

    @property
    def tables(self) -> tuple[Table, ...]:
        return tuple(table for section in self.sections for table in section.tables)


def money_digits(amounts: Iterable[Decimal]) -> int:
    """Return how many digits after the point show amounts of that size."""
    largest = max((abs(amount) for amount in amounts), default=Decimal(0))
    if largest >= 1 or not largest:
        return 2
    return 4 if largest >= Decimal("0.01") else 6 if largest >= Decimal("0.0001") else 9


def usd_text(amount: Decimal, digits: int, *, signed: bool = False) -> str:
    """Return an amount with a fixed number of digits: `$1,234.50`, `−$0.20`, `+$3.00`."""
    rounded = amount.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_EVEN)
    sign = MINUS if rounded < 0 else "+" if signed and rounded > 0 else ""
    return f"{sign}${abs(rounded):,.{digits}f}"


def shown(value: Any, kind: Kind, digits: int = 2) -> str:
    """Return a value as text."""
    if value is None:
        return NOT_KNOWN if kind != "text" else "none"
    if kind in ("usd", "change"):
        text = usd_text(Decimal(value), digits, signed=kind == "change")
        too_small = kind == "usd" and value and not any(c in text for c in "123456789")
        return f"<{usd_text(Decimal(1).scaleb(-digits), digits)}" if too_small else text
    if kind == "count":
        return f"{value:,.0f}".replace("-", MINUS)
    if kind == "share":
        return f"{value:.1%}".replace("-", MINUS)
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    return str(value)
