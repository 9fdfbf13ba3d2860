"""What commands have in common: where the lab is, and how errors are told."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from novellus_lab.errors import NovellusError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from novellus_lab.store.database import Database

Home = Annotated[
    Path | None, typer.Option(help="The lab's home [default: $NOVELLUS_HOME or ./.novellus]")
]
Url = Annotated[
    str | None, typer.Option("--database-url", help="Use this server, not the embedded one")
]
Config = Annotated[Path | None, typer.Option(help="The YAML [default: config/ai_models.yaml]")]


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


def _has_server(home: Path) -> bool:
    return (home / "pg").exists() or (home / "pg.location").exists()


def run(work: Callable[[], None]) -> None:
    """Errors of ours are for people: their message, no traceback."""
    try:
        work()
    except NovellusError as error:
        typer.secho(str(error), fg=typer.colors.RED, err=True)
        raise typer.Exit(1) from None
