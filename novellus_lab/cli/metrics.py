"""`novellus metrics`: what the log says, for monitoring systems."""

from __future__ import annotations

from typing import Annotated

import typer

from novellus_lab.cli.options import Config, Home, Url, database_of, run

metrics = typer.Typer(help="Metrics of the log for Prometheus.", no_args_is_help=True)


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
