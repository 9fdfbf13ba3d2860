"""`novellus metrics`: what the log says, for monitoring systems."""

from __future__ import annotations

from typing import Annotated

import typer

from novellus_lab.cli.options import Home, Url, database_of, run

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
            database_of(home, database_url) as database,
            MetricsServer(database, host=host, port=port, every_s=every) as server,
        ):
            typer.echo(f"{database.where}: {server.url}")
            while not stop.wait(0.5):
                pass

    run(work)
