"""A report as an Excel workbook: a summary, and a sheet for each table."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from novellus_lab.errors import MissingDependencyError
from novellus_lab.reports.spreadsheet_text import could_be_formula

if TYPE_CHECKING:
    from pathlib import Path

    from novellus_lab.reports.document import Document, Table

_FORMATS = {
    "usd": "$#,##0.00####;[Red]-$#,##0.00####",
    "change": "+$#,##0.00####;[Red]-$#,##0.00####;$0.00",
    "count": "#,##0",
    "share": "0.0%",
    "time": "yyyy-mm-dd hh:mm",
    "text": "@",
}
_MOST_CHARACTERS = 32_000
_WIDEST = 60


def save_workbook(document: Document, path: Path) -> None:
    """Write an `.xlsx`. No cell is a formula or a link, whatever its text begins with.

    Raises:
        MissingDependencyError: XlsxWriter is not installed.
    """
    try:
        import xlsxwriter
    except ImportError:
        raise MissingDependencyError(
            "Excel files need XlsxWriter: pip install 'novellus_lab[reports]'"
        ) from None
    options = {
        "strings_to_formulas": False,
        "strings_to_urls": False,
        "strings_to_numbers": False,
        "nan_inf_to_errors": True,
    }
    with xlsxwriter.Workbook(str(path), options) as book:
        formats = {kind: book.add_format({"num_format": f}) for kind, f in _FORMATS.items()}
        # Text that would be a formula stays text when somebody edits the cell.
        formats["quoted"] = book.add_format({"num_format": "@", "quote_prefix": True})
        formats["head"] = book.add_format({"bold": True, "bottom": 1})
        formats["title"] = book.add_format({"bold": True, "font_size": 14})
        _summary(book.add_worksheet("Summary"), document, formats)
        for table in document.tables:
            _sheet(book.add_worksheet(table.name[:31]), table, formats)


def _summary(sheet: Any, document: Document, formats: dict[str, Any]) -> None:
    sheet.set_column(0, 0, 34)
    sheet.set_column(1, 3, 18)
    _write(sheet, 0, 0, document.title, "title", formats)
    _write(sheet, 1, 0, document.subtitle, "text", formats)
    row = 3
    for line in document.lead:
        _write(sheet, row, 0, line, "text", formats)
        row += 1
    for place, title in enumerate(("", "this period", "the one before", "change")):
        _write(sheet, row + 1, place, title, "head", formats)
    for number, headline in enumerate(document.headlines, row + 2):
        cells = (headline.label, headline.now, headline.before, headline.change)
        for place, text in enumerate(cells):
            _write(sheet, number, place, text, "text", formats)


def _sheet(sheet: Any, table: Table, formats: dict[str, Any]) -> None:
    for place, column in enumerate(table.columns):
        _write(sheet, 0, place, column.title, "head", formats)
        texts = [row[place] for row in table.shown[:200]]
        width = max((len(text) for text in (column.title, *texts)), default=8)
        sheet.set_column(place, place, min(_WIDEST, width + 2))
    for number, row in enumerate(table.rows, 1):
        for place, (value, column) in enumerate(zip(row, table.columns, strict=True)):
            _write(sheet, number, place, value, column.kind, formats)
    sheet.freeze_panes(1, 0)
    if table.rows:
        sheet.autofilter(0, 0, len(table.rows), len(table.columns) - 1)


def _write(
    sheet: Any, row: int, place: int, value: Any, kind: str, formats: dict[str, Any]
) -> None:
    if value is None:
        sheet.write_blank(row, place, None)
    elif isinstance(value, datetime):
        sheet.write_datetime(row, place, value.replace(tzinfo=None), formats["time"])
    elif isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
        sheet.write_number(row, place, float(value), formats[kind])
    else:
        text = str(value)[:_MOST_CHARACTERS]
        form = formats["quoted"] if could_be_formula(text) and kind == "text" else formats[kind]
        sheet.write_string(row, place, text, form)
