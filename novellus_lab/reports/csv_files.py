"""A report as CSV: one file a table."""

from __future__ import annotations

import csv
from datetime import datetime
from typing import TYPE_CHECKING, Any

from novellus_lab.reports.spreadsheet_text import guarded

if TYPE_CHECKING:
    from pathlib import Path

    from novellus_lab.reports.document import Document


def save_csv(document: Document, path: Path, main: str) -> None:
    """Write the table `main` to `path`, and each other one beside it, as `<stem>-<table>.csv`.

    Amounts have all their digits, times their zone, what is not known is empty. Texts that a
    spreadsheet would take for a formula have an apostrophe before them.
    """
    for table in document.tables:
        name = path if table.name == main else path.with_stem(f"{path.stem}-{table.name}")
        with name.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(guarded(column.title) for column in table.columns)
            writer.writerows([_cell(value) for value in row] for row in table.rows)


def _cell(value: Any) -> object:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, str):
        return guarded(value.replace("\x00", ""))
    return format(value, "f") if hasattr(value, "as_tuple") else value
