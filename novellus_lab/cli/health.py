"""`novellus health`: how the models do, and why."""

from __future__ import annotations

from typing import Annotated

import typer

from novellus_lab.cli.options import AsJson, Config, Home, Url, log_of, print_table, run


def health(
    model: Annotated[str | None, typer.Argument(help="Explain this one's")] = None,
    as_json: AsJson = False,
    home: Home = None,
    database_url: Url = None,
    config: Config = None,
) -> None:
    """Show the health of the models, 0 to 100, or say why one's is what it is."""

    def work() -> None:
        import asyncio
        import json
        from dataclasses import asdict

        from novellus_lab.monitoring.current import current_health, current_health_of
        from novellus_lab.monitoring.health import in_order
        from novellus_lab.monitoring.showing import health_line, reason_rows, score_rows

        with log_of(home, database_url, config) as (database, settings, catalog):
            if model is None:
                found = asyncio.run(current_health(database.conninfo, catalog, settings))
                scores = in_order(found)
                if as_json:
                    typer.echo(json.dumps(dict(scores), indent=2))
                else:
                    print_table(("model", "health", "requests", ""), score_rows(scores))
                return
            asked = current_health_of(database.conninfo, catalog, settings, model)
            one = asyncio.run(asked)
        if as_json:
            typer.echo(json.dumps(asdict(one), indent=2))
        else:
            print_table(("", "points", "why"), reason_rows(one), (health_line(one), one.window))

    run(work)
