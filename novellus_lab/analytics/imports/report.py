"""What an import did, or would do."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

_SHOWN = 20
_REASONS = 50


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that was not imported, and why."""

    file: Path
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


@dataclass(slots=True)
class ModelCalls:
    """The calls of one model in an import."""

    calls: int = 0
    unpriced: int = 0
    could_be_priced: int = 0
    """Of the unpriced ones, how many `price=True` would price."""
    cost_usd: Decimal = Decimal(0)
    """Of the priced ones."""
    known: bool = True
    """Whether it is configured, or has a price."""


@dataclass(slots=True)
class ImportReport:
    """Counts of an import. In a notebook it shows itself as a table.

    Calls are rows for `ai_requests`; buckets are sums over calls that a provider states by day and model,
    which are kept in `ai_imported_usage`.
    """

    dry_run: bool
    files: dict[str, str] = field(default_factory=dict)
    """The format of each."""
    rows: int = 0
    """Rows read, good and bad."""
    calls: int = 0
    """Rows that are calls of models."""
    new: int | None = None
    """Calls that were not in the log before; None: a dry run does not look."""
    buckets: int = 0
    bucket_tokens: int = 0
    """Input and output in the buckets."""
    bucket_cost_usd: Decimal = Decimal(0)
    new_buckets: int | None = None
    changed_buckets: int | None = None
    replaced_buckets: int | None = None
    """Buckets of the same time in another grouping, that are gone now."""
    skipped: dict[str, int] = field(default_factory=dict)
    """Rows that are no calls, by what they are."""
    bad: int = 0
    bad_rows: list[BadRow] = field(default_factory=list)
    """The first of them."""
    first: datetime | None = None
    last: datetime | None = None
    models: dict[str, ModelCalls] = field(default_factory=dict)

    def skip(self, reason: str) -> None:
        """Count a row that is no call."""
        reason = plain(reason)
        if reason not in self.skipped and len(self.skipped) >= _REASONS:
            reason = "other"
        self.skipped[reason] = self.skipped.get(reason, 0) + 1

    @property
    def already_there(self) -> int | None:
        """Calls that were in the log before, or twice in the files."""
        return None if self.new is None else self.calls - self.new

    @property
    def unpriced(self) -> int:
        return sum(model.unpriced for model in self.models.values())

    @property
    def unpriced_share(self) -> float | None:
        """None if there is no call."""
        return self.unpriced / self.calls if self.calls else None

    @property
    def cost_usd(self) -> Decimal:
        """Of the priced calls."""
        return sum((model.cost_usd for model in self.models.values()), Decimal(0))

    @property
    def unknown_models(self) -> list[str]:
        """Models that are neither configured nor have a price."""
        return sorted(name for name, model in self.models.items() if not model.known)

    def to_dict(self) -> dict[str, Any]:
        """Return it for programs: amounts and times as texts."""
        return {
            "dry_run": self.dry_run,
            "files": self.files,
            "rows": self.rows,
            "calls": self.calls,
            "new": self.new,
            "already_there": self.already_there,
            "buckets": self.buckets,
            "bucket_tokens": self.bucket_tokens,
            "bucket_cost_usd": shortest(self.bucket_cost_usd),
            "new_buckets": self.new_buckets,
            "changed_buckets": self.changed_buckets,
            "replaced_buckets": self.replaced_buckets,
            "skipped": self.skipped,
            "bad": self.bad,
            "bad_rows": [
                {"file": str(b.file), "line": b.line, "reason": b.reason} for b in self.bad_rows
            ],
            "first": None if self.first is None else self.first.isoformat(),
            "last": None if self.last is None else self.last.isoformat(),
            "unpriced": self.unpriced,
            "unpriced_share": self.unpriced_share,
            "cost_usd": shortest(self.cost_usd),
            "unknown_models": self.unknown_models,
            "models": {
                name: {
                    "calls": model.calls,
                    "unpriced": model.unpriced,
                    "could_be_priced": model.could_be_priced,
                    "cost_usd": shortest(model.cost_usd),
                    "known": model.known,
                }
                for name, model in self.models.items()
            },
        }

    def sentences(self) -> list[str]:
        """Return what there is to say, in order; `left_out` is the rest."""
        from novellus_lab.display import money

        dry = " (dry run: nothing is written)" if self.dry_run else ""
        told = [f"{_counted(self.rows, 'row')} in {_counted(len(self.files), 'file')}{dry}"]
        if self.calls or not self.buckets:
            news = (
                ""
                if self.new is None
                else f": {self.new:,} new, {self.already_there:,} were in the log already"
            )
            told.append(f"{_counted(self.calls, 'call')}{news}")
        if self.buckets:
            news = (
                ""
                if self.new_buckets is None
                else f": {self.new_buckets:,} new, {self.changed_buckets:,} changed"
            )
            told.append(
                f"{_counted(self.buckets, 'sum')} by time and model: {self.bucket_tokens:,} tokens, "
                f"{money(self.bucket_cost_usd)}, kept apart in ai_imported_usage{news}"
            )
        if self.replaced_buckets:
            told.append(
                f"{_counted(self.replaced_buckets, 'sum')} of the same time in another grouping "
                f"gave way"
            )
        if self.first is not None and self.last is not None:
            told.append(f"from {self.first:%Y-%m-%d %H:%M} to {self.last:%Y-%m-%d %H:%M} UTC")
        if self.calls:
            told.append(f"priced calls come to {money(self.cost_usd)}")
        if self.unpriced:
            could = sum(model.could_be_priced for model in self.models.values())
            told.append(
                f"{self.unpriced:,} calls ({self.unpriced / self.calls:.1%}) have no cost"
                + (f"; --price would price {could:,} of them" if could else "")
            )
        if self.unknown_models:
            told.append(
                "neither configured nor in the price table: "
                + ", ".join(map(plain, self.unknown_models[:_SHOWN]))
                + (", …" if len(self.unknown_models) > _SHOWN else "")
            )
        return told

    def left_out(self) -> list[str]:
        """Return what was not imported, and why."""
        told = [
            f"{_counted(rows, 'row')} left out, no calls: {reason}"
            for reason, rows in sorted(self.skipped.items(), key=lambda item: -item[1])
        ]
        if self.bad:
            told.append(f"{_counted(self.bad, 'bad row')} left out")
        return told

    def __repr__(self) -> str:
        return f"ImportReport({'; '.join([*self.sentences(), *self.left_out()])})"

    def _repr_html_(self) -> str:
        from novellus_lab.display import findings_html, money

        dearest = sorted(self.models.items(), key=lambda item: -item[1].calls)[:_SHOWN]
        models = [
            (name, f"{m.calls:,}", f"{m.unpriced:,}", money(m.cost_usd)) for name, m in dearest
        ]
        bad = [(f"{b.file}:{b.line}", b.reason) for b in self.bad_rows[:_SHOWN]]
        tables: list[Any] = []
        if models:
            tables.append(("", ("model", "calls", "unpriced", "cost"), models))
        if bad:
            tables.append(("Bad rows", ("where", "why"), bad))
        return findings_html([f"{'; '.join(self.sentences())}."], tables, self.left_out())


def plain(text: str) -> str:
    """Return what a file says so that a terminal only shows it."""
    text = "".join(c if c.isprintable() else "�" for c in text[:80])
    return text if len(text) < 80 else f"{text[:79]}…"


def shortest(amount: Decimal) -> str:
    """Return an amount to the last digit that says something."""
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
