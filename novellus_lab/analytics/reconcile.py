"""A provider's usage export against the log: how far apart they are, by model and day, and why."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from novellus_lab.analytics.drift import (
    AGREES,
    HINTS,
    NEIGHBOUR,
    NO_MODEL,
    TOKENS,
    ZERO,
    Billed,
    Cause,
    Logged,
    Tally,
    alike,
    explain,
    near,
)
from novellus_lab.analytics.invoice import COUNTS, read_invoice
from novellus_lab.analytics.log_columns import USD_DIGITS as _USD_DIGITS
from novellus_lab.analytics.timing import zone
from novellus_lab.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import polars as pl

    from novellus_lab.analytics.invoice import InvoiceLine
    from novellus_lab.analytics.log_mirror import LogMirror

    PriceList = Callable[[str, str, datetime], Mapping[str, Decimal] | None]

_SLOT_S = 900
"""All clocks of the world differ from UTC by a multiple of this."""
_DAY = timedelta(days=1)
_MARGIN = timedelta(days=2)
_PLACES = (
    *("America/Los_Angeles", "America/Denver", "America/Chicago", "America/New_York"),
    *("America/Sao_Paulo", "Europe/London", "Europe/Berlin", "Europe/Athens", "Asia/Kolkata"),
    *("Asia/Shanghai", "Asia/Tokyo", "Australia/Sydney", "Pacific/Auckland"),
)
_QUARTERS = (-38, -14, 14, 18, 22, 23, 26, 38, 42)
"""Clocks off the full hour, in quarters of an hour from UTC."""
_LEAST_DAYS = 2
_MUST_EXPLAIN = 0.6
"""Share of the drift that other days must take away before they are believed."""
_DATED = re.compile(r"-(20\d\d-?\d\d-?\d\d|latest|preview)$")
_SHOWN_ROWS = 12
_SHOWN_CAUSES = 8

_USED = """
SELECT floor(extract(epoch FROM started_at) / {slot})::bigint AS slot, model_id, provider,
    response_model,
    CASE WHEN role IN ('shadow', 'judge') THEN 'evaluation' WHEN status <> 'ok' THEN 'failed'
        WHEN price_version LIKE '%batch%' THEN 'batch' ELSE 'answered' END AS part,
    count(*) AS requests,
    count(*) FILTER (WHERE cost_usd IS NULL AND input_tokens + output_tokens > 0) AS unpriced,
    count(*) FILTER (WHERE coalesce(input_tokens, 0) + coalesce(output_tokens, 0) = 0) AS unmeasured,
    count(*) FILTER (WHERE usage_estimated) AS estimated,
    coalesce(sum(cost_usd), 0)::text AS cost_usd, {sums}
FROM public.ai_request_attempts
WHERE started_at >= '{since}' AND started_at < '{until}'
GROUP BY 1, 2, 3, 4, 5
"""
_SUMS = ", ".join(
    f"coalesce(sum({name}), 0)::bigint AS {name}, "
    f"coalesce(sum({name}) FILTER (WHERE cost_usd IS NULL), 0)::bigint AS unpriced_{name}"
    for name in TOKENS
)


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """An invoice beside the log. Shows itself: what differs in sentences, then by model, then by day."""

    frame: pl.DataFrame
    """A row a model and day: `…` as logged and `invoiced_…`; `tokens_drift`, `difference_usd` (the
    invoice less the log), of which `tokens_usd` is for other tokens and `price_usd` for other prices;
    `cause`, whether it `is_exact`, and `detail`."""
    by_model: pl.DataFrame
    """The same, summed over the days."""
    sentences: tuple[str, ...]
    """What differs, the dearest first, and why."""
    tz: str
    """Whose days the invoice's are: as given, or as found by shifting."""
    logged_usd: Decimal
    invoiced_usd: Decimal | None
    """None: the invoice states no dollars."""
    notes: tuple[str, ...] = field(default=())
    """What was left out, and what to hold against it."""

    @property
    def difference_usd(self) -> Decimal | None:
        """What the invoice has more than the log."""
        return None if self.invoiced_usd is None else self.invoiced_usd - self.logged_usd

    def to_pandas(self) -> Any:
        return self.frame.to_pandas()

    def __str__(self) -> str:
        return "\n".join((*self.sentences, *self.notes))

    def _repr_html_(self) -> str:
        from novellus_lab.display import findings_html

        head = (
            "model",
            "calls",
            "tokens",
            "on the invoice",
            "log",
            "invoice",
            "difference",
            "cause",
        )
        models = [_shown(row, row["model"]) for row in self.by_model.to_dicts()]
        drifting = [row for row in self.frame.to_dicts() if row["cause"] != AGREES]
        drifting.sort(key=lambda row: -abs(row["difference_usd"] or ZERO))
        days = [(f"{row['date']}", *_shown(row, row["model"])) for row in drifting[:_SHOWN_ROWS]]
        rest = len(drifting) - len(days)
        tables: list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]] = [
            ("By model", head, models)
        ]
        if days:
            tables.append(("Days that differ", ("day", *head), days))
        notes = (*self.notes, *((f"{rest:,} more in .frame",) if rest > 0 else ()))
        return findings_html(self.sentences, tables, notes)


def reconcile(
    mirror: LogMirror,
    invoice: Any,
    *,
    price_list: PriceList,
    tz: str | None = None,
    provider: str | None = None,
    models: Mapping[str, str] | None = None,
    tolerance: float = 0.005,
) -> Reconciliation:
    """Compare a provider's export with the provider calls of the log.

    Args:
        invoice: see `read_invoice`.
        price_list: what a token of each kind costs, by provider, model and day.
        tz: whose days the invoice's are; None: found by shifting, UTC unless another fits far better.
        provider: whose invoice it is; None: of the providers that its models were called at.
        models: the log's name of a model by the invoice's, where they don't match by themselves.
        tolerance: share of a number within which two are the same.

    Raises:
        InvalidRequestError: the invoice can't be read, or an argument is wrong.
        StoreUnavailableError: the database does not answer.
    """
    if (
        isinstance(tolerance, bool)
        or not isinstance(tolerance, (int, float))
        or not 0 <= tolerance < 1
    ):
        raise InvalidRequestError(
            f"tolerance must be a share from 0 to below 1, not {tolerance!r:.80}"
        )
    fixed = None if tz is None else zone(tz)
    lines = read_invoice(invoice)
    within = Decimal(str(tolerance))
    days = sorted({line.day for line in lines})
    calls = _read_calls(mirror, days[0], days[-1])
    names = _Names(lines, calls, models or {})
    used = {(call.provider, names.of_call(call)) for call in calls}
    invoiced = {names.of_line(line) for line in lines}
    whose = {provider.lower()} if provider else {line.provider for line in lines if line.provider}
    if not whose & {p.lower() for p, _ in used}:
        whose = {p.lower() for p, model in used if model in invoiced} if provider is None else whose
    others = sorted({p for p, _ in used if p.lower() not in whose})
    calls = [call for call in calls if call.provider.lower() in whose]

    billed = _billed(lines, names)
    place: tzinfo
    place, label, shift_note = (
        (fixed, str(tz), None) if fixed else _whose_days(billed, calls, names)
    )
    logged: defaultdict[tuple[date, str], Logged] = defaultdict(Logged)
    asked_at: dict[str, _Call] = {}
    for call in calls:
        day = call.at.astimezone(place).date()
        if days[0] <= day <= days[-1]:
            model = names.of_call(call)
            logged[day, model].parts.setdefault(call.part, Tally()).add(call.tally)
            asked_at[model] = call
    if not logged and not whose:
        shift_note = "no provider call of the log is of one of its models"

    rates: dict[tuple[str, date], Mapping[str, Decimal] | None] = {}
    rows = []
    for day, model in sorted(logged.keys() | billed.keys()):
        ours, theirs = logged.get((day, model), Logged()), billed.get((day, model))
        if theirs is None:
            counts: dict[str, int | None] = {
                name: 0 if any(b.counts[name] is not None for b in billed.values()) else None
                for name in COUNTS
            }
            costs = any(b.cost_usd is not None for b in billed.values())
            theirs = Billed(counts, ZERO if costs else None)
        if (model, day) not in rates:
            seen = asked_at.get(model)
            rates[model, day] = price_list(
                seen.provider if seen else next(iter(sorted(whose)), ""),
                seen.model if seen else model,
                datetime.combine(day, time(12), UTC),
            )
        rows.append((day, model, ours, theirs, explain(ours, theirs, rates[model, day], within)))
    _find_neighbours(rows, within)
    return _told(rows, label, shift_note, others, within)


@dataclass(frozen=True, slots=True)
class _Call:
    """Calls of a quarter of an hour that have the same names and end."""

    at: datetime
    model: str
    provider: str
    response_model: str | None
    part: str
    tally: Tally


def _read_calls(mirror: LogMirror, first: date, last: date) -> list[_Call]:
    since = datetime.combine(first, time(), UTC) - _MARGIN
    until = datetime.combine(last, time(), UTC) + _DAY + _MARGIN
    query = _USED.format(
        slot=_SLOT_S, sums=_SUMS, since=since.isoformat(), until=until.isoformat()
    )  # our own numbers and times
    found = []
    for batch in mirror.batches(query):
        for row in batch.to_pylist():
            tally = Tally(
                row["requests"], row["unpriced"], row["unmeasured"], row["estimated"],
                {name: row[name] for name in TOKENS},
                {name: row[f"unpriced_{name}"] for name in TOKENS},
                Decimal(row["cost_usd"]),
            )  # fmt: skip
            at = datetime.fromtimestamp(row["slot"] * _SLOT_S, UTC)
            model = row["model_id"].removeprefix(f"{row['provider']}/")
            found.append(
                _Call(at, model, row["provider"], row["response_model"], row["part"], tally)
            )
    return found


class _Names:
    """What a model is called on both sides: as the invoice calls it, where that is clear."""

    def __init__(
        self, lines: Iterable[InvoiceLine], calls: Iterable[_Call], given: Mapping[str, str]
    ) -> None:
        self._given = dict(given)
        on_invoice = {line.model for line in lines}
        if strange := sorted(set(self._given) - on_invoice):
            raise InvalidRequestError(
                f"models= names {strange[0]!r:.80}, which is not on the invoice; there are "
                f"{', '.join(sorted(on_invoice))!s:.300}"
            )
        mapped = {self._given.get(name, name) for name in on_invoice}
        by_plain: defaultdict[str, set[str]] = defaultdict(set)
        for name in mapped:
            by_plain[_plain(name)].add(name)
        self._of_call: dict[tuple[str, str | None], str] = {}
        for key in {(call.model, call.response_model) for call in calls}:
            tried = [name for name in (key[1], key[0]) if name]
            known = next((name for name in tried if name in mapped), None)
            alike = next((_plain(name) for name in tried if _plain(name) in by_plain), None)
            # Of several dated names none is right, and all go by the plain one.
            self._of_call[key] = known or (alike and self._one(by_plain[alike], alike)) or key[0]
        # A dated line that meets nothing but calls under the plain name goes with them.
        met = set(self._of_call.values())
        self._merged = {
            name: plain
            for plain, names in by_plain.items()
            for name in names
            if name not in met and plain in met
        }
        # One export of a provider dates its names, another one does not.
        for plain, names in by_plain.items():
            if plain in names and len(names) == 2:
                [self._merged[plain]] = names - {plain}

    @staticmethod
    def _one(names: set[str], plain: str) -> str:
        return next(iter(names)) if len(names) == 1 else plain

    def of_line(self, line: InvoiceLine) -> str:
        name = self._given.get(line.model, line.model)
        return self._merged.get(name, name)

    def of_call(self, call: _Call) -> str:
        name = self._of_call[call.model, call.response_model]
        return self._merged.get(name, name)


def _plain(name: str) -> str:
    """A model's name without its date."""
    return _DATED.sub("", name.lower().rpartition("/")[2])


def _billed(lines: Iterable[InvoiceLine], names: _Names) -> dict[tuple[date, str], Billed]:
    billed: defaultdict[tuple[date, str], Billed] = defaultdict(Billed)
    for line in lines:
        cell = billed[line.day, names.of_line(line)]
        for name in COUNTS:
            if (count := getattr(line, name)) is not None:
                cell.counts[name] = (cell.counts[name] or 0) + count
        if line.cost_usd is not None:
            cell.cost_usd = (cell.cost_usd or ZERO) + line.cost_usd
    return dict(billed)


def _whose_days(
    billed: Mapping[tuple[date, str], Billed], calls: list[_Call], names: _Names
) -> tuple[tzinfo, str, str | None]:
    """Find the clock by whose days the invoice and the log differ least."""
    import numpy as np

    days = sorted({day for day, _ in billed})
    if len(days) < _LEAST_DAYS or not calls:
        return UTC, "UTC", None
    measure = _measure(billed)
    models = {model: n for n, model in enumerate(sorted({model for _, model in billed}))}
    width = (days[-1] - days[0]).days + 1
    theirs = np.zeros((len(models), width))
    for (day, model), cell in billed.items():
        theirs[models[model], (day - days[0]).days] = measure(cell)
    slots: defaultdict[tuple[datetime, str], float] = defaultdict(float)
    for call in calls:
        if (model := names.of_call(call)) in models:
            tally = call.tally
            slots[call.at, model] += measure(
                Billed({"requests": tally.requests, **tally.counts}, tally.cost_usd)
            )
    moments = {moment: n for n, moment in enumerate(sorted({moment for moment, _ in slots}))}
    moment_of = np.array([moments[moment] for moment, _ in slots])
    model_of = np.array([models[model] for _, model in slots])
    weights = np.array(list(slots.values()))
    where: list[tuple[tzinfo, str]] = [(UTC, "UTC"), *((zone(name), name) for name in _PLACES)]
    where += [
        (_fixed(quarters), _offset(quarters)) for quarters in (*range(-48, 57, 4), *_QUARTERS)
    ]
    best: tuple[float, tzinfo, str] | None = None
    at_utc = 0.0
    for place, label in where:
        day_of = np.array([(m.astimezone(place).date() - days[0]).days for m in moments])[moment_of]
        inside = (day_of >= 0) & (day_of < width)
        cells = np.bincount(
            model_of[inside] * width + day_of[inside], weights[inside], len(models) * width
        )
        drift = float(np.abs(theirs.ravel() - cells).sum())
        if best is None:
            at_utc, best = drift, (drift, place, label)
        elif drift < best[0] * (1 - 1e-9):
            best = (drift, place, label)
    if best is None or best[2] == "UTC" or at_utc - best[0] < _MUST_EXPLAIN * at_utc:
        return UTC, "UTC", None
    explained = (at_utc - best[0]) / at_utc
    note = (
        f"The invoice's days are those of {best[2]}, not of UTC: that alone explains {explained:.0%} of "
        f"what differs by the day, and what follows is by these days."
    )
    return best[1], best[2], note


def _measure(billed: Mapping[tuple[date, str], Billed]) -> Callable[[Billed], float]:
    """Return how much a cell holds, by what the invoice states throughout."""
    cells = list(billed.values())
    for name in ("output_tokens", "input_tokens", "requests"):
        if sum(cell.counts[name] is not None for cell in cells) > len(cells) / 2:
            return lambda cell, name=name: float(cell.counts[name] or 0)  # type: ignore[misc]
    return lambda cell: float(cell.cost_usd or 0)


def _fixed(quarters: int) -> timezone:
    return timezone(timedelta(minutes=15 * quarters))


def _offset(quarters: int) -> str:
    hours, rest = divmod(abs(quarters), 4)
    return f"UTC{'-' if quarters < 0 else '+'}{hours:02}:{15 * rest:02}"


_Row = tuple[date, str, Logged, Billed, Cause]


def _find_neighbours(rows: list[_Row], tolerance: Decimal) -> None:
    """What one day has too much and the next too little was counted on the day beside."""
    by_cell = {(day, model): n for n, (day, model, *_) in enumerate(rows)}
    for n, (day, model, ours, theirs, cause) in enumerate(rows):
        m = by_cell.get((day + _DAY, model))
        if m is None or cause.is_exact or cause.name == AGREES:
            continue
        _, _, next_ours, next_theirs, next_cause = rows[m]
        if next_cause.is_exact or theirs.tokens is None or next_theirs.tokens is None:
            continue
        here, there = theirs.tokens - ours.all.tokens, next_theirs.tokens - next_ours.all.tokens
        both = theirs.tokens + next_theirs.tokens
        # Both days as one agree far better than each by itself.
        as_one = abs(here + there) <= min(abs(here), abs(there)) / 10
        if here * there < 0 and as_one and alike(both, both - here - there, tolerance):
            moved = f"{abs(here):,} tokens are on one day here and on the next there"
            for at, old in ((n, cause), (m, next_cause)):
                found = Cause(NEIGHBOUR, moved, old.tokens_usd, old.price_usd, is_exact=False)
                rows[at] = (*rows[at][:4], found)


def _told(
    rows: list[_Row], tz: str, shift_note: str | None, others: list[str], tolerance: Decimal
) -> Reconciliation:
    import polars as pl

    table: list[dict[str, Any]] = []
    for day, model, ours, theirs, cause in rows:
        whole = ours.all
        if model == "(no model)" and not whole.requests:
            cause = Cause(NO_MODEL, "", cause.tokens_usd, cause.price_usd, is_exact=False)
        difference = None if theirs.cost_usd is None else theirs.cost_usd - whole.cost_usd
        tokens = theirs.tokens
        table.append(
            {
                "date": day, "model": model, "calls": whole.requests,
                "invoiced_requests": theirs.counts["requests"], "unpriced": whole.unpriced,
                **{
                    key: value
                    for name in TOKENS
                    for key, value in (
                        (name, whole.counts[name]), (f"invoiced_{name}", theirs.counts[name]),
                    )
                },
                "tokens_drift": None if tokens is None else tokens - whole.tokens,
                "logged_usd": whole.cost_usd, "invoiced_usd": theirs.cost_usd,
                "difference_usd": difference, "tokens_usd": cause.tokens_usd,
                "price_usd": cause.price_usd, "cause": cause.name, "is_exact": cause.is_exact,
                "detail": cause.detail,
            }
        )  # fmt: skip
    digits = max(_USD_DIGITS, *(_digits(row[n]) for row in table for n in _USD[:2]))
    for row in table:
        if (part := row["tokens_usd"]) is not None:
            row["tokens_usd"] = round(part, digits)
            row["price_usd"] = row["difference_usd"] - row["tokens_usd"]
    schema: dict[str, Any] = dict.fromkeys(table[0], pl.Int64)
    schema |= {"date": pl.Date, "is_exact": pl.Boolean}
    schema |= dict.fromkeys(("model", "cause", "detail"), pl.String)
    schema |= dict.fromkeys(_USD, pl.Decimal(38, digits))
    frame = pl.DataFrame(table, schema=schema)
    logged = sum((row["logged_usd"] for row in table), ZERO)
    stated = [row["invoiced_usd"] for row in table if row["invoiced_usd"] is not None]
    invoiced = sum(stated, ZERO) if stated else None
    notes = [f"days of {tz}"]
    if others:
        notes.append(f"calls to {', '.join(others)} are not compared: the invoice is not of them")
    sentences = [_headline(table, logged, invoiced, tolerance)]
    if shift_note:
        sentences.append(shift_note)
    sentences += _causes(table)
    return Reconciliation(
        frame, _by_model(frame), tuple(sentences), tz, logged, invoiced, tuple(notes)
    )


_USD = ("logged_usd", "invoiced_usd", "difference_usd", "tokens_usd", "price_usd")


def _digits(amount: Decimal | None) -> int:
    """Digits after the point."""
    return 0 if not amount else -int(amount.normalize().as_tuple().exponent)


def _headline(
    table: list[dict[str, Any]], logged: Decimal, invoiced: Decimal | None, tolerance: Decimal
) -> str:
    first, last = table[0]["date"], table[-1]["date"]
    span = f"{first:%Y-%m-%d}" if first == last else f"{first:%Y-%m-%d} to {last:%Y-%m-%d}"
    if invoiced is None:
        theirs = sum(
            (row["invoiced_input_tokens"] or 0) + (row["invoiced_output_tokens"] or 0)
            for row in table
        )
        ours = sum(row["input_tokens"] + row["output_tokens"] for row in table)
        return f"{span}: the invoice has {theirs:,} tokens, the log {ours:,}. It states no dollars."
    difference = invoiced - logged
    both = f"{span}: the invoice says {_money(invoiced)}, the log {_money(logged)}"
    if near(invoiced, logged, tolerance):
        return f"{both}: the same within {tolerance:.1%}."
    share = "" if not logged else f" ({abs(difference) / logged:.1%})"
    more = "more" if difference > 0 else "less"
    return f"{both}, so {_money(abs(difference))}{share} {more} on the invoice."


def _causes(table: list[dict[str, Any]]) -> list[str]:
    """One sentence a model and cause, the dearest first."""
    found: defaultdict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    days: defaultdict[str, int] = defaultdict(int)
    for row in table:
        days[row["model"]] += 1
        if row["cause"] != AGREES:
            found[row["model"], row["cause"]].append(row)
    weighed = sorted(
        found.items(),
        key=lambda item: (
            -abs(sum((row["difference_usd"] or ZERO for row in item[1]), ZERO)),
            -abs(sum(row["tokens_drift"] or 0 for row in item[1])),
            item[0],
        ),
    )
    said = []
    for (model, cause), rows in weighed[:_SHOWN_CAUSES]:
        drift = sum(row["tokens_drift"] or 0 for row in rows)
        sums = [row["difference_usd"] for row in rows if row["difference_usd"] is not None]
        amounts = [f"{drift:+,} tokens"] if drift else []
        if sums:
            total = sum(sums, ZERO)
            amounts.append(f"{'-' if total < 0 else '+'}{_money(abs(total))}")
        sure = "" if all(row["is_exact"] for row in rows) else "likely "
        details = {row["detail"] for row in rows}
        detail = details.pop() if len(details) == 1 else ""
        hint = HINTS.get(cause.partition(" and ")[0], HINTS.get(cause, ""))
        told = "; ".join(part for part in (detail, hint) if part)
        on = f"{len(rows)} of {days[model]} days" if days[model] > 1 else f"{rows[0]['date']}"
        said.append(
            f"{model}, {on}: {sure}{cause} ({', '.join(amounts) or 'no dollars'})"
            + (f": {told}." if told else ".")
        )
    if len(weighed) > _SHOWN_CAUSES:
        said.append(f"{len(weighed) - _SHOWN_CAUSES:,} smaller causes stand in .frame.")
    return said


def _by_model(frame: pl.DataFrame) -> pl.DataFrame:
    import polars as pl

    counts = [n for n, t in frame.schema.items() if t == pl.Int64]
    known = [
        pl.when(pl.col(name).is_not_null().any()).then(pl.col(name).sum()).alias(name)
        for name in (*counts, *_USD)
    ]
    differs = pl.col("cause") != AGREES
    weight = pl.col("difference_usd").cast(pl.Float64).abs().fill_null(0)
    cause = pl.col("cause").sort_by(differs, weight, descending=True).first()
    return (
        frame.group_by("model")
        .agg(pl.len().alias("days"), differs.sum().alias("differing_days"), *known, cause)
        .sort(pl.col("difference_usd").cast(pl.Float64).abs(), "model",
              descending=[True, False], nulls_last=True)
    )  # fmt: skip


def _shown(row: Mapping[str, Any], model: str) -> tuple[str, ...]:
    def number(value: int | None) -> str:
        return "–" if value is None else f"{value:,}"

    def usd(value: Decimal | None) -> str:
        return "–" if value is None else f"{'-' if value < 0 else ''}{_money(abs(value))}"

    tokens = row["input_tokens"] + row["output_tokens"]
    drift = row["tokens_drift"]
    return (
        model, number(row["calls"]), number(tokens), number(None if drift is None else tokens + drift),
        usd(row["logged_usd"]), usd(row["invoiced_usd"]), usd(row["difference_usd"]), row["cause"],
    )  # fmt: skip


def _money(amount: Decimal) -> str:
    from novellus_lab.display import money

    return money(amount)
