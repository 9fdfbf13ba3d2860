"""One row for each group and stretch of time, from as many rows of the log as there are."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Context, Decimal
from typing import TYPE_CHECKING, Any

from novellus_lab.analytics.log_columns import USD_DIGITS
from novellus_lab.analytics.selection import dimensions, quoted, select
from novellus_lab.analytics.timing import buckets, zone
from novellus_lab.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import timedelta

    import polars as pl
    import pyarrow as pa
    from duckdb import DuckDBPyConnection

    from novellus_lab.analytics.log_columns import LogTable
    from novellus_lab.analytics.log_mirror import LogMirror

TIME = "time"
_MAX_DIGITS = 38
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EXACT = Context(prec=3_000)


@dataclass(frozen=True, slots=True)
class Question:
    """What all frames have in common."""

    table: LogTable
    since: str | datetime | timedelta | None = None
    by: str | Sequence[str] | None = None
    every: str | None = None
    tz: str = "UTC"
    filters: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Usd:
    """A sum of amounts, exact."""

    column: str
    where: str = "true"


class Grouped:
    """A question, ready to be asked: the rows, the conditions, and the groups, in DuckDB."""

    def __init__(self, mirror: LogMirror, question: Question) -> None:
        table = question.table
        self.dimensions = dimensions(question.by)
        self.selection = select(table, question.since, question.filters or {})
        self.buckets = None if question.every is None else buckets(question.every, question.tz)
        self.zone = zone(question.tz)
        self.connection: DuckDBPyConnection = mirror.connection()
        self.attach(mirror, question)
        self.keys = dict(self.dimensions)
        if self.buckets is not None:
            key = self.buckets.key(table.time, *self._extent(table.time))
            self.keys = {TIME: key, **self.keys}

    def _extent(self, column: str) -> tuple[datetime, datetime]:
        """Return a span of time that holds all rows: within it, the clocks' changes must be known."""
        if self.zone.key == "UTC":
            return _EPOCH, _EPOCH
        extent = self.run(f"SELECT min({column}) AS low, max({column}) AS high").to_pylist()[0]
        return extent["low"] or _EPOCH, extent["high"] or _EPOCH

    def attach(self, mirror: LogMirror, question: Question) -> None:
        """Make the rows that the question is about the view `log`."""
        rows = mirror.rows(question.table, self.selection.since, self.selection.until)
        rows.attach(self.connection, "log")

    def run(self, select_list: str, rest: str = "") -> pa.Table:
        """Run `select_list` over the selected rows."""
        query = f"{select_list} FROM log WHERE {self.selection.where} {rest}"
        return self.connection.sql(query, params=list(self.selection.parameters)).to_arrow_table()

    def sums(self, picks: Mapping[str, str], usd: Mapping[str, Usd] | None = None) -> pl.DataFrame:
        """Return a frame of aggregates: times and groups first, in order."""
        columns = [f"{sql} AS {quoted(name)}" for name, sql in self.keys.items()]
        columns += [f"{sql} AS {quoted(name)}" for name, sql in picks.items()]
        for name, amount in (usd or {}).items():
            where = f"FILTER (WHERE {amount.where})"
            wide = f"FILTER (WHERE ({amount.where}) AND {amount.column}_wide IS NOT NULL)"
            columns += [
                f"(sum({amount.column}) {where})::DECIMAL({_MAX_DIGITS}, {USD_DIGITS}) "
                f"AS {quoted(name)}",
                f"list({amount.column}_wide) {wide} AS {quoted(f'{name}_wide')}",
            ]
        group = f"GROUP BY {', '.join(str(n + 1) for n in range(len(self.keys)))}"
        table = self.run(f"SELECT {', '.join(columns)}", group if self.keys else "")
        return self.finish(table, tuple(usd or ()))

    def finish(self, table: pa.Table, amounts: Sequence[str] = ()) -> pl.DataFrame:
        """Make a frame of a result: amounts with all their digits, times on their clock, in order."""
        import polars as pl

        for name in amounts:
            table = _with_all_digits(table, name)
        frame = pl.from_arrow(table)
        assert isinstance(frame, pl.DataFrame)  # noqa: S101
        if self.buckets is not None:
            starts = {key: self.buckets.start(key) for key in frame[TIME].unique()}
            begun = pl.Series(
                TIME, [starts[key] for key in frame[TIME]], dtype=pl.Datetime("us", "UTC")
            )
            frame = frame.with_columns(begun.dt.convert_time_zone(self.zone.key))
        return frame.sort(list(self.keys), nulls_last=True) if self.keys else frame


def _with_all_digits(table: pa.Table, name: str) -> pa.Table:
    """Add to a sum what DuckDB's decimals could not hold."""
    import pyarrow as pa

    wide = table[f"{name}_wide"]
    table = table.drop_columns([f"{name}_wide"])
    if wide.null_count == len(wide):
        return table
    sums: list[Decimal | None] = []
    for narrow, others in zip(table[name].to_pylist(), wide.to_pylist(), strict=True):
        total = narrow
        for other in others or ():
            total = _EXACT.add(total if total is not None else Decimal(0), Decimal(other))
        sums.append(total)
    digits, whole = USD_DIGITS, 0
    for total in sums:
        if total is not None and not total.is_finite():
            raise InvalidRequestError(f"{name} can't be added up: the log holds {total}")
        if total:
            exponent = _EXACT.normalize(total).as_tuple().exponent
            digits, whole = max(digits, -int(exponent)), max(whole, total.adjusted() + 1)
    if digits + whole > _MAX_DIGITS:
        raise InvalidRequestError(
            f"{name} needs {digits + whole} digits to be exact, and a frame has {_MAX_DIGITS}: narrow "
            f"the question to leave the amounts out that are no prices, or ask PostgreSQL (novellus db psql)"
        )
    exact = pa.array(sums, pa.decimal128(_MAX_DIGITS, digits))
    return table.set_column(table.column_names.index(name), name, exact)
