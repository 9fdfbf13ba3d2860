"""`novellus db` and `novellus migrate`: the log and cache database."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Annotated

import typer

from novellus_lab.cli.options import Home, Url, database_of, run
from novellus_lab.errors import StoreError

if TYPE_CHECKING:
    from pathlib import Path

    from rich.table import Table

    from novellus_lab.store.admin import Status

db = typer.Typer(help="The log and cache database.", no_args_is_help=True)


@db.command(name="migrate")
def migrate_command(home: Home = None, database_url: Url = None) -> None:
    """Bring the schema up to date."""

    def work() -> None:
        from novellus_lab.store.migrate import latest_version, migrate

        with database_of(home, database_url, create=True) as database:
            for name in migrate(database.conninfo):
                typer.echo(f"applied {name}")
            typer.echo(f"{database.where}: schema version {latest_version()}")

    run(work)


@db.command()
def status(home: Home = None, database_url: Url = None) -> None:
    """Say where the database is, what is in it, and whether it is up to date."""

    def work() -> None:
        from rich.console import Console

        from novellus_lab.store.admin import read_status

        with database_of(home, database_url) as database:
            found = read_status(database)
        # Piped, paths and commands must come whole.
        console = Console(highlight=False, soft_wrap=True)
        shown = ""
        for name, value in (facts := _facts(found)):
            label = "" if name == shown else name
            console.print(f"[dim]{label:<{max(len(n) for n, _ in facts)}}[/]  {value}")
            shown = name
        if found.tables:
            console.print()
            console.print(_rows(found))

    run(work)


def _facts(found: Status) -> list[tuple[str, str]]:
    from rich.filesize import decimal
    from rich.markup import escape

    current = found.schema == found.latest
    advice = "upgrade novellus_lab" if found.schema > found.latest else "run `novellus db migrate`"
    facts: list[tuple[str, str]] = [("home", escape(str(found.home)))]
    facts.append(("database", escape(found.where)))
    if found.data is not None and found.data.parent != found.home:
        facts.append(("data", escape(str(found.data))))
    facts.append(("server", f"PostgreSQL {escape(found.server_version)}"))
    facts.append(("pgvector", escape(found.pgvector) if found.pgvector else "[red]missing[/]"))
    facts.append(
        (
            "schema",
            f"version {found.schema} "
            + (
                "[green]up to date[/]"
                if current
                else f"[yellow]this package needs {found.latest}: {advice}[/]"
            ),
        )
    )
    facts.append(("size", decimal(found.size_bytes)))
    waits = f"[yellow]{decimal(found.spool_bytes)} wait[/]" if found.spool_bytes else "empty"
    facts.append(("spool", waits))
    facts.append(("connections", f"{found.connections:,}"))
    for process in found.processes or ():
        ours = " [dim](this command)[/]" if process.pid == os.getpid() else ""
        facts.append(("used by", f"{process.pid} [dim]{escape(process.command[:100])}[/]{ours}"))
    return facts


def _rows(found: Status) -> Table:

    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("table")
    table.add_column("rows", justify="right")
    for one in found.tables:
        table.add_row(escape(one.name), f"{'' if one.exact else '~'}{one.rows:,}")
    return table


@db.command()
def reset(
    home: Home = None,
    database_url: Url = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask")] = False,
) -> None:
    """Delete the log, the cache and everything else of ours, and make the schema anew."""

    def work() -> None:
        from novellus_lab.store.admin import read_status
        from novellus_lab.store.admin import reset as empty

        with database_of(home, database_url) as database:
            found = read_status(database)
            if not yes:
                logged = sum(t.rows for t in found.tables if t.name == "ai_requests")
                typer.confirm(
                    f"Delete {logged:,} logged requests and all else in {database.where}?",
                    abort=True,
                )
            empty(database)
            typer.echo(f"{database.where} is empty and up to date")
            if found.spool_bytes:
                typer.echo("Records that wait in the spool stay; they go in with the next Lab.")

    run(work)


@db.command()
def psql(home: Home = None, database_url: Url = None) -> None:
    """Open a PostgreSQL shell on the database."""

    def work() -> None:
        with database_of(home, database_url) as database:
            program = _psql()
            # What conninfo holds must not be seen in the list of processes.
            environment = {**os.environ, **_libpq(database.conninfo)}
            if database.server is not None and database.server.lease is not None:
                # The shell takes our place, and our lease with it.
                os.set_inheritable(database.server.lease, True)
            os.execve(program, [program], environment)  # noqa: S606

    run(work)


def _psql() -> str:
    from novellus_lab.errors import StoreUnavailableError
    from novellus_lab.store.programs import wheel_programs

    try:
        shipped: Path | None = wheel_programs() / "psql"
    except StoreUnavailableError:
        shipped = None
    found = str(shipped) if shipped and shipped.is_file() else shutil.which("psql")
    if found is None:
        raise StoreError("there is no psql here: install PostgreSQL's client")
    return found


_NAMES = {
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "port": "PGPORT",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "dbname": "PGDATABASE",
    "service": "PGSERVICE",
    "options": "PGOPTIONS",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "channel_binding": "PGCHANNELBINDING",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
}


def _libpq(conninfo: str) -> dict[str, str]:
    from psycopg.conninfo import conninfo_to_dict

    parts = conninfo_to_dict(conninfo)
    return {_NAMES[name]: str(value) for name, value in parts.items() if name in _NAMES and value}
