"""`novellus metrics`: what the log says of the models, for people and for monitoring systems."""

from __future__ import annotations

from typing import Annotated

import typer

from novellus_lab.cli.options import (
    AsJson,
    Config,
    Home,
    Url,
    database_of,
    log_of,
    print_table,
    refuse_older_schema,
    run,
)

metrics = typer.Typer(help="What the models did, from the log.", no_args_is_help=True)


@metrics.command()
def serve(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free")] = 9464,
    host: Annotated[
        str, typer.Option(help="Where to listen; 0.0.0.0 lets other machines in")
    ] = "127.0.0.1",
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks at the log")] = 5,
    home: Home = None,
    database_url: Url = None,
    config: Config = None,
) -> None:
    """Serve /metrics of all processes that log to the database, until stopped."""

    def work() -> None:
        import asyncio
        import logging
        import signal
        import threading

        from novellus_lab.monitoring.health import HealthRules
        from novellus_lab.monitoring.prometheus.health import KeptHealth, read_health
        from novellus_lab.monitoring.prometheus.server import MetricsServer
        from novellus_lab.settings import load_settings

        logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
        settings = load_settings(config)
        rules = HealthRules(**settings.monitoring.health.model_dump())
        caching = settings.cache.enabled
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        with database_of(home, database_url) as database:
            health = KeptHealth(
                lambda: asyncio.run(read_health(database.conninfo, rules, caching=caching))
            )
            with MetricsServer(
                database, host=host, port=port, every_s=every, health=health
            ) as server:
                typer.echo(f"{database.where}: {server.url}")
                while not stop.wait(0.5):
                    pass

    run(work)


@metrics.command()
def show(
    model: Annotated[str | None, typer.Argument(help="A model [default: all together]")] = None,
    time_range: Annotated[
        str, typer.Option("--time-range", "-t", help="Back from now: 1h, 6h, 24h, 7d, 30d, …")
    ] = "24h",
    as_json: AsJson = False,
    home: Home = None,
    database_url: Url = None,
    config: Config = None,
) -> None:
    """Show requests, times, tokens, cost, cache and errors of a model, or of all."""

    def work() -> None:
        import asyncio
        import json

        from novellus_lab.monitoring.current import current_metrics
        from novellus_lab.monitoring.period import period
        from novellus_lab.monitoring.showing import metrics_about, metrics_rows

        asked = period(time_range)
        with log_of(home, database_url, config) as (database, _, catalog):
            found = asyncio.run(current_metrics(database.conninfo, catalog, model, asked))
        if as_json:
            typer.echo(json.dumps(found.to_dict(), indent=2, default=str))
        else:
            print_table(("", ""), metrics_rows(found), metrics_about(found))

    run(work)


@metrics.command()
def rebuild(home: Home = None, database_url: Url = None) -> None:
    """Count the whole log anew, after somebody changed or deleted rows of it."""

    def work() -> None:
        import asyncio

        from novellus_lab.monitoring.rollups import connected
        from novellus_lab.monitoring.rollups import rebuild as count_anew

        async def counted(conninfo: str) -> int:
            async with connected(conninfo) as connection:
                return await count_anew(connection)

        with database_of(home, database_url) as database:
            refuse_older_schema(database)
            days = asyncio.run(counted(database.conninfo))
            typer.echo(f"{database.where}: {days:,} days of the log were counted")

    run(work)
