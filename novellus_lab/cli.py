"""`novellus`: the command line."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from novellus_lab.errors import NovellusError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.table import Table

    from novellus_lab.pipeline.catalog import Catalog, Model
    from novellus_lab.store.admin import Status
    from novellus_lab.store.database import Database

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
db = typer.Typer(help="The log and cache database.", no_args_is_help=True)
app.add_typer(db, name="db")
metrics = typer.Typer(help="Metrics of the log for Prometheus.", no_args_is_help=True)
app.add_typer(metrics, name="metrics")

Home = Annotated[
    Path | None, typer.Option(help="The lab's home [default: $NOVELLUS_HOME or ./.novellus]")
]
Url = Annotated[
    str | None, typer.Option("--database-url", help="Use this server, not the embedded one")
]
Config = Annotated[Path | None, typer.Option(help="The YAML [default: config/ai_models.yaml]")]


def _show_version(wanted: bool) -> None:
    if wanted:
        from novellus_lab import __version__

        typer.echo(f"novellus_lab {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit", callback=_show_version)
    ] = False,
) -> None:
    """Look after the lab's models and database."""


@app.command()
def models(
    config: Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs, as JSON")] = False,
) -> None:
    """List the configured models: which can be called, and why the others can't."""

    def work() -> None:
        from novellus_lab.pipeline.catalog import Catalog
        from novellus_lab.settings import load_settings

        settings = load_settings(config)
        catalog = Catalog(settings)
        if as_json:
            typer.echo(json.dumps([_facts_of(m, catalog) for m in catalog], indent=2))
        else:
            _show_models(catalog, str(settings.source))

    _run(work)


def _facts_of(model: Model, catalog: Catalog) -> dict[str, Any]:
    return {
        "model_id": model.id,
        "provider": model.provider,
        "model_name": model.name,
        "available": model.unavailable is None,
        "unavailable_because": model.unavailable,
        "routed": model in catalog.chat_pool,
        "capabilities": list(model.settings.capabilities),
        "weight": None if model.is_embedding else model.weight,
        "context_window": model.settings.context_window,
    }


def _show_models(catalog: Catalog, source: str) -> None:
    """A block for each provider, those that can be called first, a reason once for all it is of."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    # Piped, a reason must come whole, not wrapped at 80 columns.
    console = Console(highlight=False, soft_wrap=True)
    blocks: dict[tuple[str, str | None], list[Model]] = {}
    for model in catalog:
        blocks.setdefault((model.provider, model.unavailable), []).append(model)
    widest = max((len(m.id) for m in catalog), default=0)
    for (provider, reason), block in sorted(blocks.items(), key=lambda b: b[0][1] is not None):
        if reason is None:
            console.print(f"[green]●[/] [bold]{escape(provider)}[/]")
        else:
            console.print(f"[dim]○[/] [bold]{escape(provider)}[/]  [dim]{escape(reason)}[/]")
        table = Table.grid(padding=(0, 2), pad_edge=True)
        table.add_column(min_width=widest, style="dim" if reason else "")
        table.add_column(justify="right", min_width=len("1,050,000"), style="dim")
        table.add_column(style="dim")
        for m in block:
            window = f"{m.settings.context_window:,}" if m.settings.context_window else ""
            table.add_row(escape(m.id), window, _use(m, catalog))
        console.print(table, crop=False)
        console.print()
    if not blocks:
        console.print("No model is configured.")
    routed = len(catalog.chat_pool)
    console.print(f"[dim]{escape(source)}; {routed} routed automatically[/]")
    if catalog.stands_in:
        console.print("No live model can be called: recorded answers stand in (replay).")


def _use(model: Model, catalog: Catalog) -> str:
    if model.is_embedding:
        return "embeddings"
    weight = model.weight
    if model in catalog.chat_pool:
        return "routed" if weight == 1 else f"routed, weight {weight:g}"
    if weight == 0 or model.unavailable is None:
        return "by name only"
    return "" if weight == 1 else f"weight {weight:g}"


@app.command()
def worker(
    concurrency: Annotated[
        int, typer.Option("--concurrency", "-c", min=1, help="Requests at once")
    ] = 4,
    queue: Annotated[
        list[str] | None, typer.Option(help="Serve this queue [default: all]; may be repeated")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Stop when nothing is left to do")] = False,
    home: Home = None,
    database_url: Url = None,
    config: Config = None,
    stop_timeout: Annotated[
        float, typer.Option(min=0, help="On a stop, give back what is not done in so many seconds")
    ] = 30.0,
    retry_delay: Annotated[
        float, typer.Option(min=0, help="Seconds before the first retry, doubled for each further")
    ] = 2.0,
    stalled_after: Annotated[
        float,
        typer.Option(min=1, help="Take over from a worker that is silent for so many seconds"),
    ] = 30.0,
    keep_days: Annotated[
        float, typer.Option(min=0, help="Forget jobs and results so many days after their end")
    ] = 7.0,
) -> None:
    """Answer queued requests, until stopped (SIGTERM, Ctrl-C)."""

    def work() -> None:
        import logging

        from novellus_lab.lab import Lab
        from novellus_lab.spaces.queue import run_worker

        logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
        logging.getLogger("novellus_lab").setLevel(logging.INFO)
        with Lab(home=home, database_url=database_url, config=config) as lab:
            run_worker(
                lab,
                concurrency=concurrency,
                queues=queue,
                once=once,
                stop_timeout_s=stop_timeout,
                retry_delay_s=retry_delay,
                heartbeat_s=min(5.0, stalled_after / 4),
                stalled_s=stalled_after,
                keep_s=keep_days * 86_400,
            )

    _run(work)


@app.command(name="migrate")
@db.command(name="migrate")
def migrate_command(home: Home = None, database_url: Url = None) -> None:
    """Bring the schema up to date."""

    def work() -> None:
        from novellus_lab.store.migrate import latest_version, migrate

        with _database(home, database_url, create=True) as database:
            for name in migrate(database.conninfo):
                typer.echo(f"applied {name}")
            typer.echo(f"{database.where}: schema version {latest_version()}")

    _run(work)


@db.command()
def status(home: Home = None, database_url: Url = None) -> None:
    """Say where the database is, what is in it, and whether it is up to date."""

    def work() -> None:
        from rich.console import Console

        from novellus_lab.store.admin import read_status

        with _database(home, database_url) as database:
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

    _run(work)


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

        with _database(home, database_url) as database:
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

    _run(work)


@db.command()
def psql(home: Home = None, database_url: Url = None) -> None:
    """Open a PostgreSQL shell on the database."""

    def work() -> None:
        with _database(home, database_url) as database:
            program = _psql()
            # What conninfo holds must not be seen in the list of processes.
            environment = {**os.environ, **_libpq(database.conninfo)}
            if database.server is not None and database.server.lease is not None:
                # The shell takes our place, and our lease with it.
                os.set_inheritable(database.server.lease, True)
            os.execve(program, [program], environment)  # noqa: S606

    _run(work)


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


@metrics.command()
def serve(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free")] = 9464,
    host: Annotated[
        str, typer.Option(help="Where to listen; 0.0.0.0 lets other machines in")
    ] = "127.0.0.1",
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks at the log")] = 5,
    home: Home = None,
    database_url: Url = None,
) -> None:
    """Serve /metrics of all processes that log to the database, until stopped."""

    def work() -> None:
        import logging
        import signal
        import threading

        from novellus_lab.monitoring.prometheus.server import MetricsServer

        logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        with (
            _database(home, database_url) as database,
            MetricsServer(database, host=host, port=port, every_s=every) as server,
        ):
            typer.echo(f"{database.where}: {server.url}")
            while not stop.wait(0.5):
                pass

    _run(work)


@contextmanager
def _database(
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


def _run(work: Callable[[], None]) -> None:
    """Errors of ours are for people: their message, no traceback."""
    try:
        work()
    except NovellusError as error:
        typer.secho(str(error), fg=typer.colors.RED, err=True)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    app()
