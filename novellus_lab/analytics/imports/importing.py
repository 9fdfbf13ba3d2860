"""An import from beginning to end."""

from __future__ import annotations

import contextlib
from datetime import UTC
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from novellus_lab.analytics.imports.call_records import CallRecords
from novellus_lab.analytics.imports.call_writer import CallWriter
from novellus_lab.analytics.imports.calls import BadRowError, ImportedCall, NotACall, UsageBucket
from novellus_lab.analytics.imports.files import find_files, read_rows
from novellus_lab.analytics.imports.formats import Format, format_named, format_of, formats
from novellus_lab.analytics.imports.report import BadRow, ImportReport, ModelCalls
from novellus_lab.analytics.imports.restore import is_export, restore
from novellus_lab.analytics.imports.usage_writer import UsageSums
from novellus_lab.errors import InvalidRequestError
from novellus_lab.types import CacheOutcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import datetime, tzinfo
    from pathlib import Path

    from novellus_lab.analytics.imports.files import Row
    from novellus_lab.pipeline.catalog import PricedAs
    from novellus_lab.pipeline.recording import ContentPolicy
    from novellus_lab.pricing import PriceBook
    from novellus_lab.records import RequestRecord

BAD_ROWS_KEPT = 1_000


def import_files(
    paths: Sequence[str | Path],
    *,
    conninfo: str | None,
    prices: PriceBook,
    known: Mapping[str, PricedAs],
    content: ContentPolicy,
    format: str | None = None,
    price: bool = False,
    strict: bool = False,
    tz: str = "UTC",
    told: Callable[[int], None] | None = None,
) -> ImportReport:
    """Bring what files hold into the log.

    Args:
        paths: files, or directories of them; what `novellus export` wrote is restored as it was.
        conninfo: the database; None for a dry run, which reads everything and writes nothing.
        known: how configured models are priced, by id.
        format: one of the formats' names; None: by what is in each file.
        price: price calls without a cost by the book, each at the prices of its day.
        strict: a bad row is an error, and nothing is written. All is read twice then.
        tz: the zone of times in JSON lines of ours that have none.
        told: is called now and then with the number of rows so far.

    Raises:
        InvalidRequestError: a file is not there or of no known format, or, if strict, a row is bad.
        StoreUnavailableError: the database does not answer; what was written before stays.
    """
    if not paths:
        raise InvalidRequestError("name a file or a directory to import")
    known_formats = formats(_zone(tz))
    chosen = None if format in (None, "parquet") else format_named(str(format), known_formats)
    if strict and conninfo is not None:
        checked = _Import(None, prices, known, content, price=price, strict=True, told=None)
        checked.run(paths, known_formats, chosen)
    work = _Import(conninfo, prices, known, content, price=price, strict=strict, told=told)
    return work.run(paths, known_formats, chosen)


class _Import:
    def __init__(
        self,
        conninfo: str | None,
        prices: PriceBook,
        known: Mapping[str, PricedAs],
        content: ContentPolicy,
        *,
        price: bool,
        strict: bool,
        told: Callable[[int], None] | None,
    ) -> None:
        self._conninfo = conninfo
        self._prices = prices
        self._known = known
        self._content = content
        self._price = price
        self._strict = strict
        self._told = told
        self._records: dict[str, CallRecords] = {}
        self._priceable: dict[tuple[str | None, str | None], bool] = {}
        self.report = ImportReport(dry_run=conninfo is None)

    def run(
        self,
        paths: Sequence[str | Path],
        known_formats: Mapping[str, Format],
        chosen: Format | None,
    ) -> ImportReport:
        exports = [path for path in paths if is_export(path)]
        files = find_files([path for path in paths if path not in exports])
        usage = UsageSums()
        with contextlib.ExitStack() as stack:
            writer = None
            if self._conninfo is not None:
                writer = stack.enter_context(CallWriter(self._conninfo))
            for path in files:
                sums = UsageSums()
                for item, source in self._items(path, known_formats, chosen):
                    if isinstance(item, UsageBucket):
                        sums.add(item)
                        self._cover(item.start)
                        self._cover(item.end)
                        continue
                    record = self._record(source, item)
                    if writer is not None:
                        writer.add(record)
                usage.take(sums)
        report = self.report
        report.buckets = len(usage)
        report.bucket_tokens, report.bucket_cost_usd = usage.tokens, usage.cost_usd
        if writer is not None and self._conninfo is not None:
            report.new = writer.written
            if len(usage):
                written = usage.write(self._conninfo)
                report.new_buckets, report.changed_buckets = written.added, written.changed
                report.replaced_buckets = written.replaced
        for place in exports:
            restore(place, self._conninfo, report, self._told)
        return report

    def _items(
        self, path: Path, known_formats: Mapping[str, Format], chosen: Format | None
    ) -> Iterator[tuple[ImportedCall | UsageBucket, str]]:
        report = self.report
        found: Format | None = chosen
        for row in read_rows(path):
            report.rows += 1
            if self._told is not None and report.rows % 1_000 == 0:
                self._told(report.rows)
            if row.error is not None:
                self._refuse(row, row.error + (": the rest is not read" if row.ends_file else ""))
                continue
            if found is None:
                found = format_of(row.values, known_formats)
                if found is None:
                    names = ", ".join(list(row.values)[:12])
                    raise InvalidRequestError(
                        f"{path}:{row.line}: of no known format ({', '.join(known_formats)}); its "
                        f"columns are {names:.300}. Name the format with --format, or write JSON "
                        f"lines with the columns of ai_requests (docs/import_export.md)"
                    )
            report.files[str(path)] = found.name
            for values in found.expand(row.values | _beside(row)):
                try:
                    item = found.read(values)
                except BadRowError as error:
                    self._refuse(row, str(error))
                    continue
                except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
                    self._refuse(row, f"{type(error).__name__}: {error}")
                    continue
                if isinstance(item, NotACall):
                    report.skip(item.reason)
                else:
                    yield item, found.name
        report.files.setdefault(str(path), "empty")

    def _record(self, source: str, call: ImportedCall) -> RequestRecord:
        records = self._records.get(source)
        if records is None:
            records = self._records[source] = CallRecords(
                source, self._prices, look_up=self._price, known=self._known, content=self._content
            )
        record = records.record(call)
        report = self.report
        report.calls += 1
        self._cover(call.created_at)
        name = record.model or "unknown"
        counted = report.models.get(name)
        if counted is None:
            counted = report.models[name] = ModelCalls(known=name in self._known)
            counted.known = counted.known or self._could_price(records, call)
        counted.calls += 1
        if record.cost_usd is not None:
            counted.cost_usd += record.cost_usd
        else:
            counted.unpriced += 1
            if not self._price and call.usage is not None and self._could_price(records, call):
                counted.could_be_priced += 1
        return record

    def _could_price(self, records: CallRecords, call: ImportedCall) -> bool:
        """Whether the book knows this model; asked once a model."""
        key = (call.provider, call.model)
        found = self._priceable.get(key)
        if found is None:
            if call.usage is None or call.cache is not CacheOutcome.OFF:
                return records.look_up(call).cost_usd is not None
            found = self._priceable[key] = records.look_up(call).cost_usd is not None
        return found

    def _cover(self, moment: datetime) -> None:
        report = self.report
        report.first = moment if report.first is None else min(report.first, moment)
        report.last = moment if report.last is None else max(report.last, moment)

    def _refuse(self, row: Row, reason: str) -> None:
        bad = BadRow(row.file, row.line, reason)
        if self._strict:
            raise InvalidRequestError(f"{bad} (strict: nothing was imported)")
        self.report.bad += 1
        if len(self.report.bad_rows) < BAD_ROWS_KEPT:
            self.report.bad_rows.append(bad)


def _beside(row: Row) -> dict[str, object]:
    """Return what a file says beside its list about all of the rows in it: a trace."""
    return {"trace": row.beside["trace"]} if "trace" in row.beside else {}


def _zone(tz: str) -> tzinfo:
    if tz == "UTC":
        return UTC
    try:
        return ZoneInfo(tz)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidRequestError(
            f"tz must be a time zone such as 'Europe/Berlin', not {tz!r:.40}"
        ) from None
