"""`CostReport`: what `lab.cost_report` returns."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from novellus_lab.errors import InvalidRequestError, NovellusError
from novellus_lab.reports.csv_files import save_csv
from novellus_lab.reports.pages import html_page, markdown_page
from novellus_lab.reports.pdf import save_pdf
from novellus_lab.reports.workbook import save_workbook

if TYPE_CHECKING:
    from novellus_lab.analytics.cost_change import CostChange
    from novellus_lab.reports.document import Document

_TEMPLATE = "cost_report"
_MAIN_TABLE = "days"
SUFFIXES = (".html", ".htm", ".md", ".xlsx", ".csv", ".pdf")


class CostReport:
    """What a period cost, why it changed, who spends, and what would cost less.

    Shows itself in a notebook; `save` writes it in the format that the file's name asks for.

    Attributes:
        document: all that it says: `report.document.tables`, `.sections`, `.headlines`.
        change: what drove the change, exactly: `report.change.parts`, `report.change.models`.
    """

    def __init__(
        self, document: Document, change: CostChange, templates: str | Path | None = None
    ) -> None:
        self.document = document
        self.change = change
        self._templates = templates

    def html(self) -> str:
        """Return one page that opens offline: figures, styles and plotly.js are in it.

        Raises:
            MissingDependencyError: Jinja2 or Plotly is not installed.
            ConfigurationError: a template of yours is wrong.
        """
        return html_page(self.document, _TEMPLATE, self._templates)

    def markdown(self) -> str:
        """Return it in Markdown, without figures."""
        return markdown_page(self.document, _TEMPLATE, self._templates)

    def save(self, path: str | Path) -> Path:
        """Write it, as the name ends: `.html`, `.md`, `.xlsx`, `.csv` or `.pdf`; return the path.

        CSV is a file a table: spend by day and model in `path`, the others beside it. PDF is printed by
        Chromium. A folder that is missing is made.

        Raises:
            InvalidRequestError: the name ends otherwise.
            MissingDependencyError: what the format needs is not installed.
            NovellusError: the file can't be written.
        """
        target = Path(path)
        suffix = target.suffix.lower()
        if suffix not in SUFFIXES:
            raise InvalidRequestError(
                f"a report is saved as {', '.join(SUFFIXES)}, not as {target.name!r:.80}"
            )
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if suffix == ".xlsx":
                save_workbook(self.document, target)
            elif suffix == ".csv":
                save_csv(self.document, target, _MAIN_TABLE)
            elif suffix == ".pdf":
                save_pdf(self.html(), target)
            else:
                text = self.markdown() if suffix == ".md" else self.html()
                target.write_text(text, encoding="utf-8")
        except OSError as error:
            raise NovellusError(
                f"the report can't be written to {target}: {error.strerror or error}"
            ) from None
        return target

    def __repr__(self) -> str:
        return "\n".join([f"CostReport({self.document.title})", *self.document.lead])

    def _repr_html_(self) -> str:
        from novellus_lab.display import findings_html

        headlines = [(h.label, h.now, h.before, h.change) for h in self.document.headlines]
        shown = ("drivers", "models", "savings")
        tables = [
            (
                table.title,
                [column.title for column in table.columns],
                table.shown or [[table.empty]],
            )
            for name in shown
            for table in self.document.tables
            if table.name == name
        ]
        return findings_html(
            self.document.lead,
            [("", ("", "this period", "before", "change"), headlines), *tables],
            (self.document.subtitle, "report.save('report.html') has the rest, with figures"),
        )
