"""The standard questions that are sums: what was spent and used, what the cache did, what failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from novellus_lab.analytics.grouping import Grouped, Question, Usd
from novellus_lab.analytics.intervals import share_bounds

if TYPE_CHECKING:
    import polars as pl

    from novellus_lab.analytics.log_mirror import LogMirror

HIT = "cache IN ('memory', 'redis', 'postgres', 'semantic')"
UNPRICED = "cost_usd IS NULL AND cost_usd_wide IS NULL"
_FAILURE_KEYS = ("status", "error_class")
_BITS = 63
_TOKENS = (
    *("input_tokens", "cached_input_tokens", "cache_write_tokens"),
    *("output_tokens", "reasoning_tokens"),
)


def costs(mirror: LogMirror, question: Question) -> pl.DataFrame:
    """Spend: `requests`, `cost_usd` of the priced ones, `unpriced` and `unpriced_share`, what it would
    have been without the cache (`uncached_cost_usd`), and what that saved."""
    import polars as pl

    frame = Grouped(mirror, question).sums(
        {"requests": "count(*)", "unpriced": f"count(*) FILTER (WHERE {UNPRICED})"},
        {
            "cost_usd": Usd("cost_usd"),
            "uncached_cost_usd": Usd("uncached_cost_usd"),
            "saved_usd": Usd("uncached_cost_usd", HIT),
        },
    )
    return _with_shares(frame, unpriced_share=("unpriced", "requests")).select(
        pl.exclude("cost_usd", "uncached_cost_usd", "saved_usd"),
        "cost_usd", "uncached_cost_usd", "saved_usd",
    )  # fmt: skip


def usage(mirror: LogMirror, question: Question) -> pl.DataFrame:
    """Tokens that providers were paid for, by kind; those of cache hits stand apart (`saved_…`)."""
    picks = {"requests": "count(*)", "calls": "sum(attempts)::BIGINT"}
    for name in _TOKENS:
        picks[name] = f"coalesce(sum({name}) FILTER (WHERE NOT {HIT}), 0)::BIGINT"
    for name in ("input_tokens", "output_tokens"):
        picks[f"saved_{name}"] = f"coalesce(sum({name}) FILTER (WHERE {HIT}), 0)::BIGINT"
    picks["estimated"] = "count(*) FILTER (WHERE usage_estimated)"
    picks["unknown"] = "count(*) FILTER (WHERE input_tokens IS NULL AND status = 'ok')"
    return Grouped(mirror, question).sums(picks)


def cache(mirror: LogMirror, question: Question) -> pl.DataFrame:
    """How far requests came: `off` never looked; the others were answered by a tier, shared the call of
    an equal request (`coalesced`), or went to a provider (`miss`). `hit_rate` is of those that looked."""
    picks = {"requests": "count(*)", "looked": "count(*) FILTER (WHERE cache <> 'off')"}
    for outcome in ("memory", "redis", "postgres", "semantic", "coalesced", "miss", "off"):
        picks[outcome] = f"count(*) FILTER (WHERE cache = '{outcome}')"
    picks["hits"] = f"count(*) FILTER (WHERE {HIT})"
    picks["unpriced_hits"] = (
        f"count(*) FILTER (WHERE {HIT} AND uncached_cost_usd IS NULL AND uncached_cost_usd_wide IS NULL)"
    )
    picks["saved_ms"] = f"sum(original_latency_ms - latency_ms) FILTER (WHERE {HIT})"
    frame = Grouped(mirror, question).sums(picks, {"saved_usd": Usd("uncached_cost_usd", HIT)})
    return _with_shares(frame, hit_rate=("hits", "looked"), intervals=True)


def errors(mirror: LogMirror, question: Question) -> pl.DataFrame:
    """What did not end well, of how many: `failed` counts errors, cancelled and refused requests.

    Grouped by `status` or `error_class`, each row is a share of *all* requests of its group otherwise.
    """
    import polars as pl

    by = [question.by] if isinstance(question.by, str) else list(question.by or ())
    kinds = [name for name in by if name in _FAILURE_KEYS]
    grouped = Grouped(mirror, question)
    frame = grouped.sums(
        {
            "requests": "count(*)",
            "failed": "count(*) FILTER (WHERE status <> 'ok')",
            "errors": "count(*) FILTER (WHERE status = 'error')",
            "cancelled": "count(*) FILTER (WHERE status = 'cancelled')",
            "refused": "count(*) FILTER (WHERE status = 'refused')",
        }
    )
    if kinds:
        others = [name for name in grouped.keys if name not in kinds]
        total = pl.col("requests").sum()
        frame = frame.with_columns(total.over(others) if others else total)
        frame = frame.filter(pl.col("failed") > 0)
    return _with_shares(frame, failure_rate=("failed", "requests"), intervals=True)


def sessions(mirror: LogMirror, question: Question) -> pl.DataFrame:
    """One row a session, the dearest first."""
    import polars as pl

    by = [question.by] if isinstance(question.by, str) else list(question.by or ())
    by = ["session_id", *(name for name in by if name not in ("session", "session_id"))]
    grouped = Grouped(
        mirror, Question(question.table, question.since, by, None, question.tz, question.filters)
    )
    frame = grouped.sums(
        {
            "first": "min(created_at)",
            "last": "max(created_at)",
            "duration_s": "date_diff('microsecond', min(created_at), max(created_at) ) / 1e6"
            " + coalesce(arg_max(latency_ms, created_at), 0) / 1e3",
            "turns": "count(*)",
            "failed": "count(*) FILTER (WHERE status <> 'ok')",
            "models": _distinct_models(grouped),
            "hits": f"count(*) FILTER (WHERE {HIT})",
            "input_tokens": f"coalesce(sum(input_tokens) FILTER (WHERE NOT {HIT}), 0)::BIGINT",
            "output_tokens": f"coalesce(sum(output_tokens) FILTER (WHERE NOT {HIT}), 0)::BIGINT",
            "unpriced": f"count(*) FILTER (WHERE {UNPRICED})",
        },
        {"cost_usd": Usd("cost_usd")},
    )
    return (
        _with_shares(frame, unpriced_share=("unpriced", "turns"))
        .filter(pl.col("session_id").is_not_null())
        .with_columns(pl.col("first", "last").dt.convert_time_zone(grouped.zone.key))
        .sort("cost_usd", "session_id", descending=[True, False], nulls_last=True)
    )


def _distinct_models(grouped: Grouped) -> str:
    """Return SQL that counts a group's models: a bit each, where a number has enough of them.

    A set for each of many sessions is what a DISTINCT makes, and takes half of the whole question.
    """
    found = grouped.run("SELECT DISTINCT model", f"AND model IS NOT NULL LIMIT {_BITS + 1}")
    names = [name.replace("'", "''") for name in found["model"].to_pylist()]
    if not 0 < len(names) <= _BITS:
        return "count(DISTINCT model)"
    listed = ", ".join(f"'{name}'" for name in names)
    bit = f"1::UBIGINT << (list_position([{listed}], model) - 1)::UBIGINT"
    return f"coalesce(bit_count(bit_or({bit})), 0)::BIGINT"


def _with_shares(
    frame: pl.DataFrame, *, intervals: bool = False, **shares: tuple[str, str]
) -> pl.DataFrame:
    """Add shares: counts over counts, NULL where nothing was counted, with a 95% interval if asked."""
    import polars as pl

    for name, (part, whole) in shares.items():
        counted = pl.col(whole) > 0
        frame = frame.with_columns(pl.when(counted).then(pl.col(part) / pl.col(whole)).alias(name))
        if intervals:
            bounds = [
                share_bounds(hits, n)
                for hits, n in zip(frame[part].to_list(), frame[whole].to_list(), strict=True)
            ]
            frame = frame.with_columns(
                pl.Series(f"{name}_low", [low for low, _ in bounds], dtype=pl.Float64),
                pl.Series(f"{name}_high", [high for _, high in bounds], dtype=pl.Float64),
            )
    return frame
