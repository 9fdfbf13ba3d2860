"""`novellus bench`: benchmarks from the command line, and in CI."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from novellus_lab.cli.options import Config, Home, Url, run
from novellus_lab.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.table import Table

    from novellus_lab import Lab
    from novellus_lab.experiments.benchmark_run import BenchmarkRun
    from novellus_lab.spaces.benchmark import LabBenchmark

bench = typer.Typer(
    help="Benchmarks: run, rerun, compare. Exits with 3 where a threshold is missed.",
    no_args_is_help=True,
)

BELOW_THRESHOLD = 3
"""Exit code where quality is below what was asked for, or got worse; 1 is an error."""

Name = Annotated[str, typer.Argument(help="The benchmark: gsm8k, or a name for yours")]
Dataset = Annotated[
    Path | None,
    typer.Option(help="A benchmark of yours: JSONL, CSV or Parquet with prompt, expected"),
]
ScorerName = Annotated[
    str | None, typer.Option(help="exact, contains, numeric, json_schema, similarity, regex:…")
]
MaxUsd = Annotated[str | None, typer.Option("--max-usd", help="Spend no more than this")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs, as JSON")]
Junit = Annotated[Path | None, typer.Option(help="Write a JUnit report to this file")]
FailUnder = Annotated[
    float | None,
    typer.Option("--fail-under", min=0, max=1, help="Exit with 3 if a model's quality is below"),
]
Margin = Annotated[
    float | None, typer.Option(min=0, max=1, help="A loss of quality that does not matter")
]
Concurrency = Annotated[int, typer.Option("--concurrency", "-c", min=1, help="Items at once")]


@bench.command(name="run")
def run_command(
    name: Name,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", "-m", help="A model or strategy; may be repeated [default: all models]"
        ),
    ] = None,
    n: Annotated[int | None, typer.Option("-n", min=1, help="So many items [default: all]")] = None,
    seed: Annotated[int, typer.Option(help="Which items, where not all")] = 0,
    dataset: Dataset = None,
    scorer: ScorerName = None,
    max_tokens: Annotated[int | None, typer.Option(min=1)] = None,
    temperature: Annotated[float | None, typer.Option()] = None,
    max_usd: MaxUsd = None,
    concurrency: Concurrency = 16,
    queue: Annotated[str | None, typer.Option(help="Have the workers of this queue do it")] = None,
    anew: Annotated[
        bool, typer.Option("--anew", help="Don't go on with a run that broke off")
    ] = False,
    as_json: AsJson = False,
    junit: Junit = None,
    fail_under: FailUnder = None,
    config: Config = None,
    home: Home = None,
    database_url: Url = None,
) -> None:
    """Run a benchmark; one that broke off goes on where it was."""

    def work() -> None:
        arguments = {"max_tokens": max_tokens, "temperature": temperature}
        given: dict[str, Any] = {k: v for k, v in arguments.items() if v is not None}
        with _lab(config, home, database_url) as lab:
            found = lab.benchmark(name, dataset, scorer=scorer, **given).run(
                model or None,
                n=n,
                seed=seed,
                max_usd=max_usd,
                max_concurrency=concurrency,
                queue=queue or False,
                resume=not anew,
            )
            _tell(found, as_json, junit, fail_under)

    run(work)


@bench.command()
def rerun(
    name: Name,
    run_id: Annotated[str, typer.Argument(help="The run's id")],
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Ask again [default: from the log]")
    ] = False,
    dataset: Dataset = None,
    scorer: ScorerName = None,
    max_usd: MaxUsd = None,
    concurrency: Concurrency = 16,
    as_json: AsJson = False,
    junit: Junit = None,
    fail_under: FailUnder = None,
    config: Config = None,
    home: Home = None,
    database_url: Url = None,
) -> None:
    """Reproduce a run from the log, or repeat it with fresh calls."""

    def work() -> None:
        with _lab(config, home, database_url) as lab:
            benchmark = lab.benchmark(name, dataset, scorer=scorer)
            found = benchmark.rerun(
                run_id, fresh=fresh, max_usd=max_usd, max_concurrency=concurrency
            )
            _tell(found, as_json, junit, fail_under)

    run(work)


@bench.command()
def diff(
    before: Annotated[str, typer.Argument(help="A run's id")],
    after: Annotated[str, typer.Argument(help="Another run's id")],
    margin: Margin = None,
    fail_on_regression: Annotated[
        bool, typer.Option("--fail-on-regression", help="Exit with 3 if quality is surely worse")
    ] = False,
    as_json: AsJson = False,
    config: Config = None,
    home: Home = None,
    database_url: Url = None,
) -> None:
    """Tell what changed between two runs, item by item."""

    def work() -> None:
        import json

        from novellus_lab.experiments.benchmark_run import BenchmarkDiff

        with _lab(config, home, database_url) as lab:
            runs = [_load(lab, id) for id in (before, after)]
            found = BenchmarkDiff.of(runs[0], runs[1], margin=margin)
        changed = found.changed
        if as_json:
            told = {
                "before": before,
                "after": after,
                "regressions": list(found.regressions),
                "verdict": found.verdict,
                "changed": changed.drop("answer_before", "answer_after").to_dicts(),
            }
            typer.echo(json.dumps(told, indent=2))
        else:
            typer.echo(found.verdict)
            for row in changed.head(50).iter_rows(named=True):
                typer.echo(
                    f"  {row['arm']}  {row['item_id']}: {row['score_before']} -> {row['score_after']}"
                )
            if len(changed) > 50:
                typer.echo(f"  … and {len(changed) - 50} more; --json has them all")
        if fail_on_regression and found.regressions:
            raise typer.Exit(BELOW_THRESHOLD)

    run(work)


@bench.command(name="list")
def list_command(
    limit: Annotated[int, typer.Option(min=1)] = 20,
    as_json: AsJson = False,
    config: Config = None,
    home: Home = None,
    database_url: Url = None,
) -> None:
    """List runs, the newest first."""

    def work() -> None:
        import json

        from rich.console import Console

        with _lab(config, home, database_url) as lab:
            found = [one for one in lab.experiments.list(1_000) if one.kind == "benchmark"][:limit]
        if as_json:
            rows = [
                {
                    "run": str(one.id),
                    "benchmark": one.name,
                    "status": one.status,
                    "items": one.design["n"],
                    "arms": [arm["name"] for arm in one.design["arms"]],
                    "started_at": one.started_at.isoformat(),
                    "quality": one.verdict,
                }
                for one in found
            ]
            typer.echo(json.dumps(rows, indent=2))
            return
        if not found:
            typer.echo("No benchmark was run yet: novellus bench run gsm8k -n 50")
            return
        table = _table("run", "benchmark", "items", "status", "started", "quality")
        for one in found:
            started = f"{one.started_at:%Y-%m-%d %H:%M}"
            table.add_row(
                str(one.id), one.name, str(one.design["n"]), one.status, started, one.verdict or ""
            )
        Console().print(table)

    run(work)


@contextmanager
def _lab(config: Path | None, home: Path | None, database_url: str | None) -> Iterator[Lab]:
    from novellus_lab import Lab

    with Lab(config=config, home=home, database_url=database_url) as lab:
        yield lab


def _load(lab: Lab, id: str) -> BenchmarkRun:
    benchmark: LabBenchmark = lab.benchmark("gsm8k")  # runs are found by id, whatever they are of
    return benchmark.load(id)


def _tell(found: BenchmarkRun, as_json: bool, junit: Path | None, fail_under: float | None) -> None:
    from rich.console import Console

    from novellus_lab.display import duration, money

    if junit is not None:
        try:
            junit.parent.mkdir(parents=True, exist_ok=True)
            junit.write_text(found.to_junit(), encoding="utf-8")
        except OSError as error:
            raise InvalidRequestError(f"{junit} can't be written: {error.strerror}") from None
    if as_json:
        typer.echo(found.to_json())
    else:
        table = _table("", "quality", "interval", "cost", "p50", "p95", "failed")
        for one in found.standings:
            quality = one.quality
            known = quality is not None and quality.value is not None
            table.add_row(
                one.arm,
                f"{quality.value:.1%}" if quality and known else "not scored",
                f"{quality.low:.1%} to {quality.high:.1%}" if quality else "",
                money(one.cost_usd),
                "" if one.latency_p50_ms is None else duration(one.latency_p50_ms),
                "" if one.latency_p95_ms is None else duration(one.latency_p95_ms),
                f"{one.asked - one.answered} of {one.asked}",
            )
        Console().print(table)
        typer.echo(f"run {found.id}: {found.ending.value}")
    if fail_under is not None:
        for one in found.standings:
            value = None if one.quality is None else one.quality.value
            if value is None or value < fail_under:
                shown = "unknown" if value is None else f"{value:.1%}"
                typer.secho(
                    f"{one.arm}: quality is {shown}, below {fail_under:.1%}", fg="red", err=True
                )
                raise typer.Exit(BELOW_THRESHOLD)


def _table(*header: str) -> Table:
    from rich.table import Table

    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in header:
        table.add_column(name, overflow="fold")
    return table
