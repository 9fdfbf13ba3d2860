"""`novellus report`: what a period cost, and why, as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from novellus_lab.cli.options import Config, Home, Url, database_of, refuse_older_schema, run


def report(
    to: Annotated[Path, typer.Argument(help="The file: .html, .md, .xlsx, .csv or .pdf")] = Path(
        "reports/cost_report.html"
    ),
    period: Annotated[
        str, typer.Option(help="30d, 12w, month (so far), 'last month', last week, …")
    ] = "30d",
    since: Annotated[str | None, typer.Option(help="Instead: from this day or time …")] = None,
    until: Annotated[str | None, typer.Option(help="… to this one [default: now]")] = None,
    tz: Annotated[
        str, typer.Option(help="On whose clock days begin, such as Europe/Berlin")
    ] = "UTC",
    model: Annotated[
        list[str] | None, typer.Option(help="Only this model; may be repeated")
    ] = None,
    tag: Annotated[list[str] | None, typer.Option(help="Only this tag, as key=value")] = None,
    templates: Annotated[Path | None, typer.Option(help="A folder with templates of yours")] = None,
    detect: Annotated[
        bool, typer.Option("--detect", help="Look for anomalies of spend now, not for known ones")
    ] = False,
    home: Home = None,
    database_url: Url = None,
    config: Config = None,
) -> None:
    """Write a cost report: what was spent, why it changed, who spends, what would cost less."""

    def work() -> None:
        from novellus_lab.lab import Lab
        from novellus_lab.reports.cost_report import SUFFIXES

        if to.suffix.lower() not in SUFFIXES:
            raise typer.BadParameter(
                f"a report is saved as {', '.join(SUFFIXES)}, not as {to.name}"
            )
        tags = dict(_pair(one) for one in tag or ())
        with database_of(home, database_url) as database:
            refuse_older_schema(database)
        filters = {"model": model, "tag": tags}
        asked = period if since is None else (since, until or _now())
        if since is None and until is not None:
            raise typer.BadParameter("--until goes with --since")
        with Lab(home=home, database_url=database_url, config=config) as lab:
            made = lab.cost_report(
                asked,
                tz=tz,
                templates=templates,
                detect=detect,
                **{name: value for name, value in filters.items() if value},  # type: ignore[arg-type]
            )
            written = made.save(to)
        for line in made.document.lead:
            typer.echo(line)
        typer.echo(f"written to {written}")

    run(work)


def _pair(given: str) -> tuple[str, str]:
    key, equals, value = given.partition("=")
    if not equals or not key:
        raise typer.BadParameter(f"a tag is given as key=value, not as {given}")
    return key, value


def _now() -> str:
    from datetime import UTC, datetime

    return datetime.now(UTC).isoformat()
