"""`novellus`: models, workers, and the way to the other commands."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from novellus_lab.cli.bench import bench
from novellus_lab.cli.database import db, migrate_command
from novellus_lab.cli.health import health
from novellus_lab.cli.logs import export_command, import_command
from novellus_lab.cli.metrics import metrics
from novellus_lab.cli.options import Config, Home, Url, run
from novellus_lab.cli.report import report
from novellus_lab.cli.watch import watch

if TYPE_CHECKING:
    from novellus_lab.pipeline.catalog import Catalog, Model

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(db, name="db")
app.add_typer(bench, name="bench")
app.add_typer(metrics, name="metrics")
app.command(name="migrate")(migrate_command)
app.command()(health)
app.command()(report)
app.command()(watch)
app.command(name="import")(import_command)
app.command(name="export")(export_command)


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

    run(work)


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

    run(work)
