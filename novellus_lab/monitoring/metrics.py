"""What a model did in a period: counts, times, costs, cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from novellus_lab.monitoring import rollup_sql
from novellus_lab.monitoring.period import stretches
from novellus_lab.monitoring.rollups import all_models
from novellus_lab.monitoring.sketch import Sketch, merged

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from novellus_lab.monitoring.period import Period, Stretch
    from novellus_lab.monitoring.rollups import Connection

EXACT_UP_TO = 5_000
"""So many answers or fewer are read from the log, for exact quantiles."""
_QUANTILES = (0.5, 0.9, 0.95, 0.99)
_QUANTILES_OF_THE_LOG = rollup_sql.quantiles("low", "high").encode()


class _Section(Mapping[str, Any]):
    """A frozen dataclass that is a mapping, too: `m.latency.avg` and `m["latency"]["avg"]`."""

    __slots__ = ()

    def __getitem__(self, name: str) -> Any:
        if name in self._names():
            return getattr(self, name)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def _names(self) -> tuple[str, ...]:
        return tuple(f.name for f in fields(self))  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain dicts."""
        return {name: _plain(getattr(self, name)) for name in self._names()}


def _plain(value: Any) -> Any:
    if isinstance(value, _Section):
        return value.to_dict()
    return dict(value) if isinstance(value, Mapping) else value


@dataclass(frozen=True, slots=True, eq=False)
class Times(_Section):
    """A distribution, in milliseconds. All but `count` is None where there is none."""

    count: int
    avg: float | None
    min: float | None
    max: float | None
    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Requests(_Section):
    """Requests by their end, cache hits included."""

    total: int
    ok: int
    error: int
    cancelled: int
    refused: int
    """By us: nothing was sent."""


@dataclass(frozen=True, slots=True, eq=False)
class Calls(_Section):
    """Requests that were put to the model itself."""

    asked: int
    answered: int
    failed: int
    """With an error; `failed_over` of them another model was asked then."""
    failed_over: int
    taken_over: int
    """Of `answered`, those that another model had failed before."""
    retried: int
    failed_over_share: float | None
    taken_over_share: float | None
    retried_share: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Tokens(_Section):
    """Tokens of provider calls by kind: input includes cached and written, output includes reasoning."""

    total: int
    input: int
    output: int
    cached_input: int
    cache_write: int
    reasoning: int
    saved: int
    """Input and output of answers that came from the cache."""
    per_second: float | None
    """Output tokens of answered chats a second of their provider calls."""


@dataclass(frozen=True, slots=True, eq=False)
class Cost(_Section):
    """US dollars."""

    total: Decimal | None
    """Of what has a price; None if nothing has."""
    saved_by_cache: Decimal
    per_request: Decimal | None
    unpriced_share: float | None
    """Share of requests whose cost is not known: `total` lacks it."""


@dataclass(frozen=True, slots=True, eq=False)
class Cache(_Section):
    """Requests that the cache was asked for."""

    lookups: int
    hits: int
    hit_rate: float | None
    by_tier: Mapping[str, float | None]
    """Hit rate of each tier, a share of all lookups."""
    coalesced: int
    """Shared the provider call of an equal request: neither hit nor miss."""


@dataclass(frozen=True, slots=True, eq=False)
class ModelMetrics(_Section):
    """What `lab.metrics` returns. Attributes or items; shows itself as a table.

    Shares are 0 to 1, but `success_rate`, which is percent. No data: counts are 0, rates None.
    """

    model_id: str | None
    """None: all models together."""
    time_range: str
    start: datetime
    end: datetime
    success_rate: float | None
    """Percent of the requests put to the model that it answered."""
    requests: Requests
    calls: Calls
    errors_by_class: Mapping[str, int]
    latency: Times
    """Of answers by the model, as the caller felt them: waits, retries and failovers included."""
    provider_latency: Times
    """Of the provider calls that answered, alone."""
    time_to_first_token: Times
    cache_latency: Times
    """Of cache hits: never part of the others."""
    overhead: Times
    """What this package added to answers by the model."""
    tokens: Tokens
    cost: Cost
    cache: Cache
    exact: bool
    """Whether quantiles are exact; else they are right to 1 %."""

    def __repr__(self) -> str:
        from novellus_lab.monitoring.showing import metrics_line

        return metrics_line(self)

    def _repr_html_(self) -> str:
        from novellus_lab.display import table_html
        from novellus_lab.monitoring.showing import metrics_about, metrics_rows

        return table_html(("", ""), metrics_rows(self), metrics_about(self))


@dataclass(frozen=True, slots=True)
class Totals:
    """A row of rollups, whatever it adds up."""

    counts: Mapping[str, int]
    amounts: Mapping[str, Any]
    error_classes: Mapping[str, int]
    sketches: Mapping[str, Sketch]

    def __getitem__(self, name: str) -> int:
        return self.counts.get(name, 0)

    @property
    def asked(self) -> int:
        """Requests that were put to the model itself, and ended in an answer or an error."""
        return self["answered"] + self["escalated"] + self["failed"] + self["failed_over"]


def added(parts: Iterable[Totals]) -> Totals:
    """Return all rows as one."""
    parts = list(parts)
    classes: dict[str, int] = {}
    for part in parts:
        for name, n in part.error_classes.items():
            classes[name] = classes.get(name, 0) + n
    return Totals(
        {name: sum(p[name] for p in parts) for name in rollup_sql.COUNTS},
        {
            "timed_ms": sum(p.amounts["timed_ms"] for p in parts),
            "cost_usd": sum((p.amounts["cost_usd"] for p in parts), Decimal(0)),
            "saved_usd": sum((p.amounts["saved_usd"] for p in parts), Decimal(0)),
        },
        classes,
        {name: merged(p.sketches[name] for p in parts) for name in rollup_sql.SKETCHES},
    )


async def read_totals(
    connection: Connection, period: Period, model: str | None = None
) -> dict[str, Totals]:
    """Add up the rollups of a period, by model. They are as of the last `rollups.catch_up`."""
    parts = stretches(period)
    query, values = _covering(parts, model)
    values["models"] = await all_models(connection) if any(p.grain is None for p in parts) else []
    async with connection.transaction():
        await connection.execute("SET LOCAL jit = off")
        cursor = await connection.execute(query.encode(), values)
        return {row[0]: _totals(row[1:]) for row in await cursor.fetchall()}


async def read_metrics(
    connection: Connection, period: Period, model: str | None = None
) -> ModelMetrics:
    """Read what a model did in a period; None: all models together."""
    found = await read_totals(connection, period, model)
    totals = added(found.values())
    exact = None
    if 0 < totals["answered"] <= EXACT_UP_TO:
        exact = await _exact_quantiles(connection, period, model, totals)
    return metrics_of(totals, period, model, exact)


async def was_seen(connection: Connection, model: str) -> bool:
    """Return whether there is anything of a model in the rollups."""
    cursor = await connection.execute(
        "SELECT 1 FROM public.model_performance_metrics WHERE grain = 'day' AND model = %s LIMIT 1",
        [model],
    )
    return await cursor.fetchone() is not None


def metrics_of(
    totals: Totals,
    period: Period,
    model: str | None,
    exact: Mapping[str, Sequence[float]] | None = None,
) -> ModelMetrics:
    """Return what totals say, with exact quantiles where they are known."""
    t = totals
    times = {
        name: _times(sketch, None if exact is None else exact.get(name))
        for name, sketch in t.sketches.items()
    }
    tiers = {tier: t[f"{tier}_hits"] for tier in ("memory", "redis", "postgres", "semantic")}
    hits = sum(tiers.values())
    lookups = hits + t["misses"]
    priced, unpriced = t["priced"], t["unpriced"]
    cost: Decimal | None = t.amounts["cost_usd"] if priced or not unpriced else None
    asked, failed = t.asked, t["failed"] + t["failed_over"]
    timed_ms = t.amounts["timed_ms"]
    return ModelMetrics(
        model_id=model,
        time_range=period.label,
        start=period.start,
        end=period.end,
        success_rate=_percent(asked - failed, asked),
        requests=Requests(t["requests"], t["ok"], t["errors"], t["cancelled"], t["refused"]),
        calls=Calls(
            asked,
            t["answered"],
            failed,
            t["failed_over"],
            t["taken_over"],
            t["retried"],
            _share(t["failed_over"], asked),
            _share(t["taken_over"], t["answered"]),
            _share(t["retried"], asked),
        ),
        errors_by_class=dict(sorted(t.error_classes.items(), key=lambda e: (-e[1], e[0]))),
        latency=times["latency"],
        provider_latency=times["provider"],
        time_to_first_token=times["ttft"],
        cache_latency=times["hit"],
        overhead=times["overhead"],
        tokens=Tokens(
            t["input_tokens"] + t["output_tokens"],
            t["input_tokens"],
            t["output_tokens"],
            t["cached_input_tokens"],
            t["cache_write_tokens"],
            t["reasoning_tokens"],
            t["saved_tokens"],
            t["timed_tokens"] / timed_ms * 1000 if timed_ms else None,
        ),
        cost=Cost(
            cost,
            t.amounts["saved_usd"],
            cost / t["requests"] if cost is not None and t["requests"] and not unpriced else None,
            _share(unpriced, priced + unpriced),
        ),
        cache=Cache(
            lookups,
            hits,
            _share(hits, lookups),
            {tier: _share(n, lookups) for tier, n in tiers.items()},
            t["coalesced"],
        ),
        exact=exact is not None or not t["answered"],
    )


def _covering(parts: Sequence[Stretch], model: str | None) -> tuple[str, dict[str, Any]]:
    """Return the query for stretches, grouped by model, and its parameters."""
    values: dict[str, Any] = {"model": model}
    of_model = "" if model is None else " AND model = %(model)s"
    columns = ", ".join(rollup_sql.COLUMNS)
    selects: list[str] = []
    raw: list[tuple[str, str]] = []
    for i, part in enumerate(parts):
        low, high = f"low{i}", f"high{i}"
        values |= {low: part.low, high: part.high}
        if part.grain is None:
            raw.append((low, high))
            continue
        selects.append(
            f"SELECT {columns} FROM public.model_performance_metrics WHERE grain = '{part.grain}' "  # noqa: S608
            f"AND bucket >= %({low})s AND bucket < %({high})s{of_model}"
        )
    if raw:
        rows = rollup_sql.rolled(*raw)
        selects.append(f"SELECT {columns} FROM {rows} AS fresh WHERE true{of_model}")  # noqa: S608
    source = "(" + " UNION ALL ".join(selects) + ")"
    return rollup_sql.merged(source, {"model": "model"}), values


def _totals(row: Sequence[Any]) -> Totals:
    names = [*rollup_sql.COUNTS, *rollup_sql.AMOUNTS]
    values = dict(zip(names, row, strict=False))
    rest = row[len(names) + 1 :]
    sketches = {}
    for i, name in enumerate(rollup_sql.SKETCHES):
        total, least, most, bins, counts = rest[5 * i : 5 * i + 5]
        counted = {} if bins is None else dict(zip(bins, counts, strict=True))
        sketches[name] = Sketch(counted, total or 0.0, least, most)
    return Totals(
        {name: values[name] for name in rollup_sql.COUNTS},
        {name: values[name] for name in rollup_sql.AMOUNTS},
        row[len(names)],
        sketches,
    )


async def _exact_quantiles(
    connection: Connection, period: Period, model: str | None, totals: Totals
) -> dict[str, list[float]] | None:
    """Read quantiles from the log; None if it no longer holds what the rollups do."""
    counts = {name: totals.sketches[name].count for name in rollup_sql.SKETCHES}
    if max(counts.values()) > EXACT_UP_TO:
        return None
    parts = stretches(period)
    values = {
        "at": list(_QUANTILES),
        "low": parts[0].low,
        "high": parts[-1].high,
        "models": await all_models(connection) if model is None else [model],
    }
    cursor = await connection.execute(_QUANTILES_OF_THE_LOG, values)
    row = await cursor.fetchone()
    assert row is not None  # noqa: S101
    found = dict(zip(rollup_sql.SKETCHES, zip(row[::2], row[1::2], strict=True), strict=True))
    if any(counts[name] != count for name, (_, count) in found.items()):
        return None
    return {name: at for name, (at, _) in found.items() if at is not None}


def _times(sketch: Sketch, exact: Sequence[float] | None) -> Times:
    at: Sequence[float | None] = exact or [sketch.quantile(q) for q in _QUANTILES]
    return Times(sketch.count, sketch.mean_ms, sketch.min_ms, sketch.max_ms, *at)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _percent(part: int, whole: int) -> float | None:
    return round(100 * part / whole, 2) if whole else None
