"""The log with another threshold of the semantic cache: which requests would have been hits.

What falls away is counted: each semantic hit's score is in the log. What would come is estimated: of the
misses whose questions are still in the cache, a sample is held against what was there when they came, with
the scores of the verifier that serves now. The log does not keep the scores of what was not served.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import psycopg

from novellus_lab.analytics.frames import HIT, UNPRICED
from novellus_lab.analytics.grouping import Grouped, Question, Usd
from novellus_lab.analytics.intervals import traffic_bounds
from novellus_lab.analytics.log_columns import USD_DIGITS
from novellus_lab.errors import InvalidRequestError, StoreUnavailableError
from novellus_lab.pipeline.semantic import CANDIDATES
from novellus_lab.store.database import cause

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import polars as pl

    from novellus_lab.analytics.log_mirror import LogMirror
    from novellus_lab.cache.semantic.verifier import Undecided
    from novellus_lab.pipeline.semantic import Engine

    Scores = Callable[[Sequence[str]], dict[str, float | None]]

SAMPLE = 1_000
_SERVED = """
SELECT id::text AS id, cache_similarity AS score FROM public.ai_requests
WHERE cache = 'semantic' AND cache_similarity IS NOT NULL {bounds}
"""
# A miss whose own answer was learnt by the semantic cache was looked up there; of others nobody knows.
_LOOKED_UP = """
SELECT r.id::text AS id FROM public.ai_requests AS r
JOIN public.ai_response_cache AS own ON own.cache_key = r.cache_key
WHERE r.cache = 'miss' AND r.status = 'ok' AND own.semantic_scope IS NOT NULL
    AND own.embedding IS NOT NULL AND own.prompt IS NOT NULL {bounds}
"""
_NEAREST = """
SELECT r.id::text, own.prompt, near.prompt
FROM public.ai_requests AS r
JOIN public.ai_response_cache AS own ON own.cache_key = r.cache_key
CROSS JOIN LATERAL (
    SELECT other.prompt FROM public.ai_response_cache AS other
    WHERE other.semantic_scope = own.semantic_scope
        AND other.embedding_model = own.embedding_model AND other.cache_key <> own.cache_key
        AND other.created_at < r.created_at
        AND (other.expires_at IS NULL OR other.expires_at > r.created_at) AND other.prompt IS NOT NULL
    ORDER BY other.embedding <=> own.embedding LIMIT %(candidates)s
) AS near
WHERE r.id = ANY(%(ids)s::uuid[])
"""
_OUTCOMES = """
CREATE TEMP VIEW log AS SELECT logged.*, score, looked_up.id IS NOT NULL AS is_known,
    sampled.id IS NOT NULL AS is_sampled, sampled.would_hit AND sampled.id IS NOT NULL AS comes,
    cache = 'semantic' AND score < {threshold} AS goes
FROM logged LEFT JOIN served ON served.id = logged.id::TEXT
    LEFT JOIN looked_up ON looked_up.id = logged.id::TEXT
    LEFT JOIN sampled ON sampled.id = logged.id::TEXT
"""


@dataclass(frozen=True, slots=True)
class _Replay:
    threshold: float
    sample: int
    scores: Scores


class _Thresholded(Grouped):
    def __init__(self, mirror: LogMirror, question: Question, replay: _Replay) -> None:
        self._replay = replay
        super().__init__(mirror, question)

    def attach(self, mirror: LogMirror, question: Question) -> None:
        import pyarrow as pa

        selection, connection = self.selection, self.connection
        mirror.rows(question.table, selection.since, selection.until).attach(connection, "logged")
        bounds = "".join(
            f" AND created_at {sign} '{bound.astimezone(UTC).isoformat()}'"
            for sign, bound in ((">=", selection.since), ("<", selection.until))
            if bound is not None
        )
        columns = {"served": (_SERVED, "score DOUBLE"), "looked_up": (_LOOKED_UP, "")}
        for name, (query, more) in columns.items():
            connection.execute(f"CREATE TEMP TABLE {name} (id TEXT{', ' if more else ''}{more})")
            of = bounds.replace("created_at", "r.created_at") if name == "looked_up" else bounds
            for batch in mirror.batches(query.format(bounds=of)):
                connection.register("batch", pa.Table.from_batches([batch]))
                connection.execute(f"INSERT INTO {name} SELECT * FROM batch")  # noqa: S608
        chosen = connection.execute(
            "SELECT id::TEXT FROM logged WHERE id::TEXT IN (SELECT id FROM looked_up) "  # noqa: S608
            f"AND {selection.where} ORDER BY hash(id), id LIMIT ?",
            [*selection.parameters, self._replay.sample],
        ).fetchall()
        scores = self._replay.scores([id for (id,) in chosen])
        known = {id: score for id, score in scores.items() if score is not None}
        unsure = [id for id, score in scores.items() if score is None]
        connection.register("unsure", pa.table({"id": pa.array(unsure, pa.string())}))
        connection.execute("DELETE FROM looked_up WHERE id IN (SELECT id FROM unsure)")
        hits = [score >= self._replay.threshold for score in known.values()]
        connection.register(
            "sampled",
            pa.table(
                {"id": pa.array(list(known), pa.string()), "would_hit": pa.array(hits, pa.bool_())}
            ),
        )
        connection.execute(_OUTCOMES.format(threshold=repr(self._replay.threshold)))


def replay_threshold(
    mirror: LogMirror, question: Question, threshold: float, scores: Scores, sample: int = SAMPLE
) -> pl.DataFrame:
    """Return hits and cost as they were beside those with another threshold of the semantic cache.

    Args:
        threshold: least score of a hit, 0 to 1; as `similarity_threshold` in the YAML.
        scores: the best score that each of some misses would have found; None where that can't be said.
        sample: so many misses are looked at, at most.

    `not_known` counts misses that left no question in the cache: they never asked it, or it has expired.
    They stay misses. Bounds are 95%, of another such stretch of traffic, the sampling included.

    Raises:
        InvalidRequestError: `threshold` or `sample` can't be.
    """
    import polars as pl

    for name, given, low, high in (
        ("semantic_threshold", threshold, 0, 1),
        ("sample", sample, 1, 10**6),
    ):
        if (
            isinstance(given, bool)
            or not isinstance(given, (int, float))
            or not low <= given <= high
        ):
            raise InvalidRequestError(f"{name} must be from {low} to {high:,}, not {given!r:.80}")
    grouped = _Thresholded(mirror, question, _Replay(float(threshold), int(sample), scores))
    usd = "coalesce(cost_usd::DOUBLE, TRY_CAST(cost_usd_wide AS DOUBLE))"
    uncached = "coalesce(uncached_cost_usd::DOUBLE, TRY_CAST(uncached_cost_usd_wide AS DOUBLE))"
    missed = "cache = 'miss' AND status = 'ok'"
    frame = grouped.sums(
        {
            "requests": "count(*)",
            "hits": f"count(*) FILTER (WHERE {HIT})",
            "not_known": f"count(*) FILTER (WHERE {missed} AND NOT is_known)",
            "sampled": "count(*) FILTER (WHERE is_sampled)",
            "unpriced": f"count(*) FILTER (WHERE {UNPRICED})",
            "_known": "count(*) FILTER (WHERE is_known)",
            "_comes": "count(*) FILTER (WHERE comes)",
            "_goes": "count(*) FILTER (WHERE goes)",
            "_comes_2": f"sum(({usd}) ** 2) FILTER (WHERE comes)",
            "_comes_3": f"sum(({usd}) ** 3) FILTER (WHERE comes)",
            "_goes_2": f"sum(({uncached}) ** 2) FILTER (WHERE goes)",
            "_goes_3": f"sum(({uncached}) ** 3) FILTER (WHERE goes)",
        },
        {
            "cost_usd": Usd("cost_usd"),
            "_comes_usd": Usd("cost_usd", "comes"),
            "_goes_usd": Usd("uncached_cost_usd", "goes"),
        },
    )
    told = [_told(row) for row in frame.to_dicts()]
    kept = frame.select(
        *grouped.keys, "requests", "hits", "not_known", "sampled", "unpriced", "cost_usd"
    )
    money = pl.Decimal(38, max(USD_DIGITS, frame.schema["cost_usd"].scale or 0))  # type: ignore[attr-defined]
    types = {name: money if name in _EXACT else pl.Float64 for name in _TOLD}
    return kept.hstack(pl.DataFrame(told, schema=types, orient="row"))


_EXACT = ("would_usd", "difference_usd")
_TOLD = (
    "would_hits", "would_hits_low", "would_hits_high", *_EXACT, "difference_low_usd", "difference_high_usd",
)  # fmt: skip


def _told(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return what would have been of one group: a number where all was looked at, else an estimate."""
    if row["_known"] and not row["sampled"]:
        return (None,) * len(_TOLD)
    stands_for = Decimal(row["_known"]) / row["sampled"] if row["sampled"] else Decimal(1)
    weight = float(stands_for)
    hits = weight * row["_comes"] - row["_goes"]
    low, high = traffic_bounds(
        hits,
        weight**2 * row["_comes"] + row["_goes"],
        weight**3 * row["_comes"] - row["_goes"],
    )
    saved = (row["_comes_usd"] or Decimal(0)) * stands_for
    difference = round((row["_goes_usd"] or Decimal(0)) - saved, USD_DIGITS)
    less, more = traffic_bounds(
        float(difference),
        weight**2 * (row["_comes_2"] or 0.0) + (row["_goes_2"] or 0.0),
        (row["_goes_3"] or 0.0) - weight**3 * (row["_comes_3"] or 0.0),
    )
    before = row["hits"]
    return (
        before + hits,
        None if low is None else before + low,
        None if high is None else before + high,
        None if row["cost_usd"] is None else row["cost_usd"] + difference,
        difference,
        less,
        more,
    )


async def best_scores(
    conninfo: str, engine: Engine, ids: Sequence[str], *, may_encode: bool
) -> dict[str, float | None]:
    """Return the best score that each miss would have found among what the cache held when it came.

    Args:
        may_encode: whether the sentence encoder may be asked: one that is a provider's model costs money.
            None where only it could tell.

    Raises:
        StoreUnavailableError: the database does not answer.
    """
    from novellus_lab.cache.semantic.verifier import Verdict  # a tenth of a second

    try:
        async with await psycopg.AsyncConnection.connect(conninfo) as connection:
            cursor = await connection.execute(
                _NEAREST, {"ids": list(ids), "candidates": CANDIDATES}
            )
            pairs = await cursor.fetchall()
    except psycopg.Error as error:
        raise StoreUnavailableError(f"the cache can't be read: {cause(error)}") from None
    best: dict[str, float | None] = dict.fromkeys(ids, 0.0)
    undecided: list[tuple[str, Undecided]] = []
    texts = list(dict.fromkeys(text for _, *both in pairs for text in both))
    static = dict(zip(texts, engine.static.embed(texts), strict=True)) if texts else {}
    for id, question, other in pairs:
        first = engine.verifier.compare(question, other, float(static[question] @ static[other]))
        if isinstance(first, Verdict):
            best[id] = max(best[id] or 0.0, first.score)
        else:
            undecided.append((id, first))
    if engine.encoder is None:
        return best
    if not may_encode:
        best.update({id: None for id, _ in undecided})
        return best
    texts = list(dict.fromkeys(text for _, pair in undecided for text in pair.texts))
    vectors: dict[str, Any] = {}
    for start in range(0, len(texts), _ENCODED):
        part = texts[start : start + _ENCODED]
        vectors.update(zip(part, await engine.encoder.embed(part), strict=True))
    for id, pair in undecided:
        a, b = (vectors[text] for text in pair.texts)
        best[id] = max(best[id] or 0.0, engine.verifier.decide(pair, float(a @ b)).score)
    return best


_ENCODED = 64
