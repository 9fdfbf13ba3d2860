"""The SQL that makes rollups: rows of the log -> rows of `model_performance_metrics` -> coarser ones.

Every statement is put together from the same few parts, so that what is read straight from the log
and what was rolled up before can't differ in meaning.
"""

from __future__ import annotations

import math

from novellus_lab.monitoring.sketch import GROWTH, LEAST_MS, MOST_MS

COUNTS = (
    *("requests", "ok", "errors", "cancelled", "refused"),
    *("answered", "failed", "failed_over", "escalated", "taken_over", "retried"),
    *("misses", "memory_hits", "redis_hits", "postgres_hits", "semantic_hits", "coalesced"),
    *("input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens"),
    *("reasoning_tokens", "saved_tokens", "timed_tokens", "priced", "unpriced"),
)
AMOUNTS = ("timed_ms", "cost_usd", "saved_usd")
SKETCHES = ("latency", "provider", "ttft", "hit", "overhead")
KEYS = ("bucket", "model", "provider", "kind")

_SKETCH_COLUMNS = tuple(
    f"{name}_{part}"
    for name in SKETCHES
    for part in ("sum_ms", "min_ms", "max_ms", "bins", "counts")
)
COLUMNS = (*KEYS, *COUNTS, *AMOUNTS, "error_classes", *_SKETCH_COLUMNS)

BIN = (
    f"ceil(ln(least(greatest({{}}, {LEAST_MS!r}::float8), {MOST_MS!r}::float8))"
    f" / {math.log(GROWTH)!r}::float8)::smallint"
)

MODELS = """
WITH RECURSIVE models AS (
    (SELECT model FROM public.ai_requests WHERE model IS NOT NULL ORDER BY model LIMIT 1)
    UNION ALL
    SELECT (SELECT r.model FROM public.ai_requests r WHERE r.model > m.model ORDER BY r.model LIMIT 1)
    FROM models m WHERE m.model IS NOT NULL
)
SELECT model FROM models WHERE model IS NOT NULL
"""
"""All models of the log, each found with one look into the index."""


def _of_the_log(low: str, high: str) -> str:
    """Rows of the log between two times. Not by time alone: only with a model there is a quick way."""
    wanted = (
        "id, created_at, kind, status, error_class, model, requested_model, provider, cache, "
        "input_tokens, output_tokens, cached_input_tokens, cache_write_tokens, reasoning_tokens, "
        "cost_usd, uncached_cost_usd, latency_ms, ttft_ms, provider_ms, overhead_ms, attempts, "
        "cache NOT IN ('off', 'miss') AS hit"
    )
    within = f"created_at >= {low} AND created_at < {high}"
    return (
        f"SELECT {wanted} FROM public.ai_requests WHERE model = ANY(%(models)s) AND {within} "  # noqa: S608
        f"UNION ALL SELECT {wanted} FROM public.ai_requests WHERE model IS NULL AND {within}"
    )


_ASKED = """
-- What each model did for requests that took more than one call.
calls AS (
    SELECT r.id AS request_id, r.created_at, r.kind, r.model AS last_model, c.*
    FROM r CROSS JOIN LATERAL (
        SELECT a.model_id, max(a.provider) AS provider,
            bool_or(a.role NOT IN ('shadow', 'judge')) AS asked,
            coalesce(bool_or(a.status = 'ok') FILTER (WHERE a.role NOT IN ('shadow', 'judge')), false)
                AS answered,
            coalesce(bool_or(a.status = 'error') FILTER (WHERE a.role NOT IN ('shadow', 'judge')), false)
                AS failed,
            coalesce(bool_or(a.role = 'retry'), false) AS retried,
            (array_agg(a.error_class ORDER BY a.number DESC) FILTER (WHERE a.status = 'error'))[1]
                AS error_class,
            (array_agg(a.latency_ms ORDER BY a.number DESC)
                FILTER (WHERE a.status = 'ok' AND a.role NOT IN ('shadow', 'judge')))[1] AS answer_ms,
            sum(a.input_tokens)::bigint AS input_tokens, sum(a.output_tokens)::bigint AS output_tokens,
            sum(a.cached_input_tokens)::bigint AS cached_input_tokens,
            sum(a.cache_write_tokens)::bigint AS cache_write_tokens,
            sum(a.reasoning_tokens)::bigint AS reasoning_tokens,
            CASE WHEN bool_and(a.cost_usd IS NOT NULL) THEN sum(a.cost_usd) END AS cost_usd
        FROM public.ai_request_attempts a
        WHERE a.request_id = r.id
            AND a.started_at >= r.created_at - interval '1 hour'
            AND a.started_at < r.created_at + interval '7 days'
        GROUP BY a.model_id
        OFFSET 0
    ) c
    WHERE r.attempts > 1
),
others AS (
    SELECT DISTINCT request_id FROM calls
    WHERE asked AND failed AND NOT answered AND model_id IS DISTINCT FROM last_model
),
-- One row a request for the model that it is of, and one for each other model that was asked.
asked AS (
    SELECT date_trunc('minute', r.created_at, 'UTC') AS bucket,
        coalesce(r.model, r.requested_model, '') AS model, coalesce(r.provider, '') AS provider, r.kind,
        1 AS requests,
        (r.status = 'ok')::int AS ok, (r.status = 'error')::int AS errors,
        (r.status = 'cancelled')::int AS cancelled, (r.status = 'refused')::int AS refused,
        (r.status = 'ok' AND NOT r.hit)::int AS answered,
        (r.status = 'error' AND NOT r.hit)::int AS failed,
        0 AS failed_over, 0 AS escalated,
        (r.status = 'ok' AND NOT r.hit AND o.request_id IS NOT NULL)::int AS taken_over,
        coalesce(c.retried, false)::int AS retried,
        (r.cache = 'miss')::int AS misses,
        (r.cache = 'memory' AND r.status = 'ok')::int AS memory_hits,
        (r.cache = 'redis' AND r.status = 'ok')::int AS redis_hits,
        (r.cache = 'postgres' AND r.status = 'ok')::int AS postgres_hits,
        (r.cache = 'semantic' AND r.status = 'ok')::int AS semantic_hits,
        (r.cache = 'coalesced')::int AS coalesced,
        CASE WHEN r.hit THEN 0 WHEN c.model_id IS NULL THEN r.input_tokens
            ELSE c.input_tokens END AS input_tokens,
        CASE WHEN r.hit THEN 0 WHEN c.model_id IS NULL THEN r.output_tokens
            ELSE c.output_tokens END AS output_tokens,
        CASE WHEN r.hit THEN 0 WHEN c.model_id IS NULL THEN r.cached_input_tokens
            ELSE c.cached_input_tokens END AS cached_input_tokens,
        CASE WHEN r.hit THEN 0 WHEN c.model_id IS NULL THEN r.cache_write_tokens
            ELSE c.cache_write_tokens END AS cache_write_tokens,
        CASE WHEN r.hit THEN 0 WHEN c.model_id IS NULL THEN r.reasoning_tokens
            ELSE c.reasoning_tokens END AS reasoning_tokens,
        CASE WHEN r.hit THEN coalesce(r.input_tokens, 0) + coalesce(r.output_tokens, 0) ELSE 0
            END AS saved_tokens,
        -- Without a latency it waited in a provider's batch: its call tells nothing of the model.
        CASE WHEN r.status = 'ok' AND NOT r.hit AND r.kind = 'chat' AND r.output_tokens > 0
                AND r.latency_ms IS NOT NULL
            THEN coalesce(c.answer_ms, r.provider_ms) END AS timed_ms,
        r.output_tokens AS timed_tokens,
        CASE WHEN c.model_id IS NULL THEN r.cost_usd ELSE c.cost_usd END AS cost_usd,
        r.uncached_cost_usd - r.cost_usd AS saved_usd,
        CASE WHEN r.status = 'error' AND NOT r.hit THEN r.error_class END AS error_class,
        CASE WHEN r.status = 'ok' AND NOT r.hit THEN r.latency_ms END AS latency,
        CASE WHEN r.status = 'ok' AND NOT r.hit AND r.latency_ms IS NOT NULL THEN
            CASE WHEN r.kind = 'chat' THEN coalesce(c.answer_ms, r.provider_ms) ELSE r.provider_ms END
            END AS provider_call,
        CASE WHEN r.status = 'ok' AND NOT r.hit THEN r.ttft_ms END AS ttft,
        CASE WHEN r.status = 'ok' AND r.hit AND r.cache <> 'coalesced' THEN r.latency_ms END AS hit,
        CASE WHEN r.status = 'ok' AND NOT r.hit THEN r.overhead_ms END AS overhead
    FROM r
    LEFT JOIN calls c ON c.request_id = r.id AND c.model_id = r.model
    LEFT JOIN others o ON o.request_id = r.id
    UNION ALL
    SELECT date_trunc('minute', created_at, 'UTC'), model_id, provider, kind,
        0, 0, 0, 0, 0, 0, 0,
        (asked AND failed AND NOT answered)::int, (asked AND answered)::int, 0, retried::int,
        0, 0, 0, 0, 0, 0,
        input_tokens, output_tokens, cached_input_tokens, cache_write_tokens, reasoning_tokens,
        0, NULL, NULL, cost_usd, NULL,
        CASE WHEN asked AND failed AND NOT answered THEN error_class END,
        NULL, NULL, NULL, NULL, NULL
    FROM calls WHERE model_id IS DISTINCT FROM last_model
)"""

_COLUMN_OF = {"provider": "provider_call"}
_COUNTED = {
    "timed_tokens": "sum(timed_tokens) FILTER (WHERE timed_ms > 0)",
    "priced": "count(*) FILTER (WHERE cost_usd IS NOT NULL)",
    "unpriced": "count(*) FILTER (WHERE cost_usd IS NULL)",
}


def rolled(*ranges: tuple[str, str]) -> str:
    """Rows as of `model_performance_metrics`, a minute each, from the log.

    Args:
        ranges: names of the parameters between which the log is read; `models` is one, too.
    """
    log = " UNION ALL ".join(_of_the_log(f"%({low})s", f"%({high})s") for low, high in ranges)
    keys = ", ".join(KEYS)
    totals = [f"coalesce({_COUNTED.get(c, f'sum({c})')}, 0)::bigint AS {c}" for c in COUNTS]
    totals += [
        "coalesce(sum(timed_ms), 0) AS timed_ms",
        "coalesce(sum(cost_usd), 0) AS cost_usd",
        "coalesce(sum(saved_usd), 0) AS saved_usd",
    ]
    for name in SKETCHES:
        column = _COLUMN_OF.get(name, name)
        totals += [f"{f}({column}) AS {name}_{f}_ms" for f in ("sum", "min", "max")]
    values = ", ".join(f"('{name}', a.{_COLUMN_OF.get(name, name)})" for name in SKETCHES)
    return f"""(
WITH r AS MATERIALIZED ({log}),
{_ASKED},
totals AS (SELECT {keys}, {", ".join(totals)} FROM asked GROUP BY {keys}),
binned AS (
    SELECT {keys}, s.sketch, {BIN.format("s.ms")} AS bin, count(*) AS n
    FROM asked a, LATERAL (VALUES {values}) s(sketch, ms)
    WHERE s.ms IS NOT NULL
    GROUP BY {keys}, s.sketch, bin
),
classes AS (
    SELECT {keys}, jsonb_object_agg(error_class, n) AS error_classes
    FROM (SELECT {keys}, error_class, count(*) AS n FROM asked WHERE error_class IS NOT NULL
        GROUP BY {keys}, error_class) c
    GROUP BY {keys}
),
{_with_sketches(keys)}
)"""  # noqa: S608


def quantiles(low: str, high: str) -> str:
    """Exact quantiles (the parameter `at`) of each distribution and its count, from the log."""
    selects = ", ".join(
        f"percentile_cont(%(at)s::float8[]) WITHIN GROUP (ORDER BY {column}), count({column})"
        for column in (_COLUMN_OF.get(name, name) for name in SKETCHES)
    )
    log = _of_the_log(f"%({low})s", f"%({high})s")
    return f"WITH r AS MATERIALIZED ({log}), {_ASKED} SELECT {selects} FROM asked"  # noqa: S608


def merged(source: str, keys: dict[str, str]) -> str:
    """Rows of `model_performance_metrics`, added up.

    Args:
        source: SQL of the rows.
        keys: what to group by, and the SQL of each.
    """
    named = ", ".join(f"{sql} AS {key}" for key, sql in keys.items())
    by = ", ".join(keys)
    totals = [f"sum({c})::bigint AS {c}" for c in COUNTS] + [f"sum({c}) AS {c}" for c in AMOUNTS]
    for name in SKETCHES:
        totals += [f"{f}({name}_{f}_ms) AS {name}_{f}_ms" for f in ("sum", "min", "max")]
    bins = " UNION ALL ".join(
        f"SELECT '{name}', * FROM unnest(p.{name}_bins, p.{name}_counts)"  # noqa: S608
        for name in SKETCHES
    )
    rest = ", ".join([*COUNTS, *AMOUNTS, "error_classes", *_SKETCH_COLUMNS])
    return f"""(
WITH parts AS MATERIALIZED (SELECT {named}, {rest} FROM {source} AS source),
totals AS (SELECT {by}, {", ".join(totals)} FROM parts GROUP BY {by}),
binned AS (
    SELECT {by}, b.sketch, b.bin, sum(b.n)::bigint AS n
    FROM parts p, LATERAL ({bins}) b(sketch, bin, n)
    GROUP BY {by}, b.sketch, b.bin
),
classes AS (
    SELECT {by}, jsonb_object_agg(error_class, n) AS error_classes
    FROM (SELECT {by}, e.key AS error_class, sum(e.value::bigint) AS n
        FROM parts, LATERAL jsonb_each_text(error_classes) e GROUP BY {by}, e.key) c
    GROUP BY {by}
),
{_with_sketches(by)}
)"""  # noqa: S608


def _with_sketches(keys: str) -> str:
    arrays = ", ".join(
        f"array_agg({column} ORDER BY bin) FILTER (WHERE sketch = '{name}') AS {name}_{suffix}"
        for name in SKETCHES
        for column, suffix in (("bin", "bins"), ("n", "counts"))
    )
    rest = ", ".join(
        [
            *COUNTS,
            *AMOUNTS,
            "coalesce(error_classes, '{}') AS error_classes",
            *_SKETCH_COLUMNS,
        ]
    )
    return f"""
sketches AS (SELECT {keys}, {arrays} FROM binned GROUP BY {keys})
SELECT {keys}, {rest}
FROM totals LEFT JOIN sketches USING ({keys}) LEFT JOIN classes USING ({keys})"""  # noqa: S608
