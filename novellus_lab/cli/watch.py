"""`novellus watch`: anomalies as they come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from novellus_lab.cli.options import Home, Url, database_of, run

if TYPE_CHECKING:
    from novellus_lab.monitoring.anomaly import Anomaly

FOUND = 3
"""Exit code of `--once` where there was something to tell."""
_COLOURS = {"low": "cyan", "medium": "yellow", "high": "red"}


def watch(
    every: Annotated[float, typer.Option(min=1, help="Seconds between two looks at the log")] = 60,
    once: Annotated[
        bool,
        typer.Option(
            "--once", help=f"Look once and exit: {FOUND} if there was something new to tell, else 0"
        ),
    ] = False,
    since: Annotated[str, typer.Option(help="How far back the first look reaches")] = "1h",
    webhook: Annotated[
        list[str] | None,
        typer.Option(help="POST each anomaly to this URL, as JSON; may be repeated"),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Look at this model only")] = None,
    severity: Annotated[
        str | None, typer.Option(help="Tell of this and worse: low, medium, high")
    ] = None,
    kind: Annotated[
        list[str] | None, typer.Option(help="Tell of this kind only; may be repeated")
    ] = None,
    bucket: Annotated[
        str | None, typer.Option(help="Time in one point, such as 1m [default: by traffic]")
    ] = None,
    false_alarms: Annotated[
        float, typer.Option(min=0, help="A week, of each metric of each model, of what learns")
    ] = 1.0,
    settle: Annotated[
        float, typer.Option(min=0, help="Seconds to wait for answers that take long")
    ] = 30,
    name: Annotated[
        str, typer.Option(help="Watchers of one name tell of an anomaly once between them")
    ] = "watch",
    as_json: Annotated[bool, typer.Option("--json", help="For programs: a line each")] = False,
    home: Home = None,
    database_url: Url = None,
) -> None:
    """Look for anomalies in the log and tell of each once, until stopped."""

    def work() -> None:
        import logging
        import signal
        import threading

        from novellus_lab.monitoring.detection import check_readable
        from novellus_lab.spaces.watch import watcher_of

        logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
        stop = threading.Event()
        with database_of(home, database_url) as database:
            watcher = watcher_of(
                database.conninfo,
                callback=_show_json if as_json else _show,
                every=every,
                webhook=webhook,
                since=since,
                model=model,
                kinds=kind,
                severity=severity,
                metrics=None,
                bucket=bucket,
                false_alarms=false_alarms,
                settle=settle,
                name=name,
                quietly=True,
            )
            check_readable(database.conninfo)
            if once:
                for notice in watcher.look():
                    watcher.deliver(*notice)
                if watcher.told:
                    raise typer.Exit(FOUND)
                return
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: stop.set())
            if not as_json:
                typer.echo(f"watching {database.where}, every {every:g} s", err=True)
            watcher.start()
            while not stop.wait(0.5):
                pass
            watcher.stop()

    run(work)


def _show(anomaly: Anomaly) -> None:
    from rich.console import Console
    from rich.text import Text

    from novellus_lab.markdown import printable
    from novellus_lab.monitoring.wording import sentence

    severity = anomaly.severity.value
    told = printable(sentence(anomaly).removeprefix(severity).strip())
    line = Text.assemble(
        (f"{anomaly.detected_at:%H:%M:%S} " if anomaly.detected_at else "", "dim"),
        (f"{severity:<6} ", f"bold {_COLOURS[severity]}"),
        "".join(c if c.isprintable() else "�" for c in told),
    )
    # Piped, a line must come whole.
    Console(highlight=False, soft_wrap=True).print(line)
    if anomaly.example_ids:
        ids = "  ".join(str(id) for id in anomaly.example_ids[:3])
        Console(highlight=False, soft_wrap=True).print(Text(f"         such as {ids}", "dim"))


def _show_json(anomaly: Anomaly) -> None:
    import json

    from novellus_lab.monitoring.wording import message

    typer.echo(json.dumps(message(anomaly)))
