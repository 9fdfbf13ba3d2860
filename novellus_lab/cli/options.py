"""What commands have in common: where the lab is, and how errors are told."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from novellus_lab.errors import NovellusError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from novellus_lab.pipeline.catalog import Catalog
    from novellus_lab.settings import Settings
    from novellus_lab.store.database import Database

Home = Annotated[
    Path | None, typer.Option(help="The lab's home [default: $NOVELLUS_HOME or ./.novellus]")
]
Url = Annotated[
    str | None, typer.Option("--database-url", help="Use this server, not the embedded one")
]
Config = Annotated[Path | None, typer.Option(help="The YAML [default: config/ai_models.yaml]")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs, as JSON")]


@contextmanager
def database_of(
    home: Path | None, database_url: str | None, *, create: bool = False
) -> Iterator[Database]:
    """Reach the database, whatever its schema.

    Looking at a lab that was never opened must not make one: `create` is for who means it.
    """
    from novellus_lab.settings import load_settings
    from novellus_lab.store.database import find_home, reach_database, resolve_home

    settings = load_settings({}, database_url=database_url, home=home)
    found = settings.database_url
    place = find_home(settings.home)
    if found is None and not create and not _has_server(place):
        raise StoreError(
            f"there is no lab in {place}: give --home or --database-url, or make one with "
            f"`novellus db migrate` or Lab()"
        )
    if found is None:
        database = reach_database(resolve_home(settings.home), None)
    else:
        database = reach_database(place, found.get_secret_value())
    try:
        yield database
    finally:
        database.close()


@contextmanager
def log_of(
    home: Path | None, database_url: str | None, config: Path | None
) -> Iterator[tuple[Database, Settings, Catalog]]:
    """Reach the log, if its schema is up to date, and read which models there are."""
    from novellus_lab.pipeline.catalog import Catalog
    from novellus_lab.settings import load_settings

    settings = load_settings(config, database_url=database_url, home=home)
    with database_of(home, database_url) as database:
        refuse_older_schema(database)
        yield database, settings, Catalog(settings)


def refuse_older_schema(database: Database) -> None:
    """Say what to do where the schema is not what this package needs."""
    import psycopg

    from novellus_lab.errors import SchemaVersionError
    from novellus_lab.store.migrate import check_schema

    with psycopg.connect(database.conninfo) as connection:
        if behind := check_schema(connection):
            raise SchemaVersionError(
                f"the schema in {database.where} is {behind} versions old: run `novellus db migrate`"
            )


def print_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], about: Sequence[str] = ()
) -> None:
    """Print a plain table, and a quiet line below."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.show_header = any(header)
    for name in header:
        table.add_column(escape(name))
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)
    if about:
        console.print(f"[dim]{escape(' · '.join(about))}[/]")


def _has_server(home: Path) -> bool:
    return (home / "pg").exists() or (home / "pg.location").exists()


def run(work: Callable[[], None]) -> None:
    """Errors of ours are for people: their message, no traceback."""
    try:
        work()
    except NovellusError as error:
        typer.secho(str(error), fg=typer.colors.RED, err=True)
        raise typer.Exit(1) from None
