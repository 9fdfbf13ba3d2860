"""`novellus import` and `novellus export`: what others have logged, into the log; the log, as files."""

from __future__ import annotations

import json
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from novellus_lab.cli.options import AsJson, Config, Home, Url, database_of, print_table, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from novellus_lab.analytics.imports.report import ImportReport
    from novellus_lab.settings import Settings

_SHOWN = 20
Paths = Annotated[
    list[Path], typer.Argument(help="Files or directories: CSV, JSON, JSONL, Parquet, or .gz")
]
Directory = Annotated[Path, typer.Option(help="A directory; days that are in it are replaced")]


def import_command(
    paths: Paths,
    format: Annotated[
        str | None,
        typer.Option(help="litellm, langfuse, openai, anthropic or jsonl [default: look]"),
    ] = None,
    price: Annotated[
        bool, typer.Option("--price", help="Price calls without a cost, at the prices of their day")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would come, and write nothing")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Import nothing if a row is bad")
    ] = False,
    no_content: Annotated[
        bool, typer.Option("--no-content", help="Leave prompts and answers out")
    ] = False,
    tz: Annotated[str, typer.Option(help="Zone of times in JSON lines that have none")] = "UTC",
    as_json: AsJson = False,
    home: Home = None,
    database_url: Url = None,
    config: Config = None,
) -> None:
    """Bring usage exports, spend logs and traces of other tools into the log, each call once.

    Sums that a provider states by day and model are kept apart: they become no requests.
    """

    def work() -> None:
        from novellus_lab.settings import load_settings

        settings = load_settings(config, database_url=database_url, home=home)

        def imported(conninfo: str | None) -> ImportReport:
            from novellus_lab.analytics.imports.importing import import_files
            from novellus_lab.pipeline.catalog import Catalog
            from novellus_lab.pipeline.recording import ContentPolicy
            from novellus_lab.pricing import PriceBook

            catalog = Catalog(settings)
            return import_files(
                paths,
                conninfo=conninfo,
                prices=PriceBook(),
                known={model.id: model.priced_as for model in catalog},
                content=ContentPolicy(
                    settings.logging.content and not no_content, None, catalog.secrets()
                ),
                format=format,
                price=price,
                strict=strict,
                tz=tz,
                told=progress,
            )

        with _progress() as progress:
            report = imported(None) if dry_run else _into(settings, imported)
        if as_json:
            typer.echo(json.dumps(report.to_dict(), indent=2))
        else:
            _show(report)

    run(work)


@contextmanager
def _progress() -> Iterator[Callable[[int], None] | None]:
    """Yield what shows the number of rows so far, where somebody looks."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    with console.status("reading …") as status:
        yield lambda rows: status.update(f"{rows:,} rows")


def _into(settings: Settings, imported: Callable[[str | None], ImportReport]) -> ImportReport:
    """Import into the lab's log; make the lab if there is none: this may be its first day."""
    from novellus_lab.store.database import open_database, resolve_home

    url = settings.database_url
    database = open_database(
        resolve_home(settings.home), None if url is None else url.get_secret_value()
    )
    try:
        return imported(database.conninfo)
    finally:
        database.close()


def _show(report: ImportReport) -> None:
    from novellus_lab.analytics.imports.report import plain
    from novellus_lab.display import money

    for line in (*report.sentences(), *report.left_out()):
        typer.echo(line)
    if report.models:
        typer.echo("")
        largest = sorted(report.models.items(), key=lambda item: -item[1].calls)
        print_table(
            ("model", "calls", "unpriced", "cost"),
            [
                (plain(name), f"{m.calls:,}", f"{m.unpriced:,}", money(m.cost_usd))
                for name, m in largest[:_SHOWN]
            ],
            [f"and {len(largest) - _SHOWN:,} more models"] if len(largest) > _SHOWN else (),
        )
    for bad in report.bad_rows[:_SHOWN]:
        typer.secho(str(bad), fg=typer.colors.YELLOW, err=True)
    if report.bad > _SHOWN:
        typer.secho(f"and {report.bad - _SHOWN:,} more bad rows", fg=typer.colors.YELLOW, err=True)


def export_command(
    to: Directory,
    since: Annotated[
        str | None, typer.Option(help="7d, 2026-11-01, … [default: all]; whole days, UTC")
    ] = None,
    until: Annotated[str | None, typer.Option(help="The last day [default: today]")] = None,
    no_content: Annotated[
        bool, typer.Option("--no-content", help="Leave prompts and answers out")
    ] = False,
    as_json: AsJson = False,
    home: Home = None,
    database_url: Url = None,
) -> None:
    """Write the log as Parquet, a file a day and table (requests/day=2026-11-24/data.parquet)."""

    def work() -> None:
        from novellus_lab.analytics.export import export_log

        with database_of(home, database_url) as database:
            report = export_log(
                database.conninfo,
                to,
                since=_moment(since),
                until=_moment(until),
                content=not no_content,
            )
        if as_json:
            facts = {
                "to": str(report.place),
                "days": report.days,
                "requests": report.requests,
                "attempts": report.attempts,
                "removed": report.removed,
            }
            typer.echo(json.dumps(facts, indent=2))
        else:
            typer.echo(str(report))

    run(work)


def _moment(text: str | None) -> str | datetime | None:
    """Return a time where the text is one; durations are read further on. Days begin in UTC."""
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return text
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
