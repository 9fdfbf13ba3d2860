"""The log played again with another lifetime of cached answers: which requests would have been hits."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from novellus_lab.analytics.frames import HIT, UNPRICED
from novellus_lab.analytics.grouping import Grouped, Question, Usd
from novellus_lab.analytics.intervals import traffic_bounds
from novellus_lab.analytics.requests import duration
from novellus_lab.analytics.selection import quoted
from novellus_lab.errors import InvalidRequestError

if TYPE_CHECKING:
    import polars as pl

    from novellus_lab.analytics.log_mirror import LogMirror

_EXACT = "cache IN ('memory', 'redis', 'postgres')"
# A key that was asked once is a miss with any lifetime. Coalesced and semantic answers stay as they were.
_ASKED = f"""
SELECT id::TEXT AS id, hash(cache_key) AS key, epoch_us(created_at) AS at, {_EXACT} AS was_hit
FROM logged
WHERE cache_key IN (SELECT cache_key FROM logged WHERE cache_key IS NOT NULL
        GROUP BY 1 HAVING count(*) > 1)
    AND status = 'ok' AND (cache = 'miss' OR {_EXACT})
ORDER BY cache_key, created_at, id
"""  # noqa: S608 - our own names


def _would(part: str) -> str:
    """The amount that a request would have cost; `part` is the column's, or its text's."""
    zero = "0" if not part else "NULL"
    return (
        f"CASE WHEN would_hit AND NOT ({_EXACT}) THEN {zero} WHEN NOT would_hit AND {_EXACT} "
        f"THEN uncached_cost_usd{part} ELSE cost_usd{part} END AS would_usd{part}"
    )


class _Replayed(Grouped):
    def __init__(self, mirror: LogMirror, question: Question, ttl: timedelta) -> None:
        self._ttl_us = ttl // timedelta(microseconds=1)
        super().__init__(mirror, question)

    def attach(self, mirror: LogMirror, question: Question) -> None:
        import pyarrow as pa

        # All of the log: what was kept before the window serves within it.
        mirror.rows(question.table).attach(self.connection, "logged")
        reader = self.connection.sql(_ASKED).to_arrow_reader(100_000)
        outcomes: dict[str, list[Any]] = {"id": [], "would_hit": []}
        key = kept = None
        for batch in reader:
            columns = [batch[name].to_pylist() for name in ("id", "key", "at", "was_hit")]
            for id, this, at, was_hit in zip(*columns, strict=True):
                if this != key:
                    key, kept = this, None
                if kept is None and was_hit:
                    continue  # kept before the log begins: nobody knows when
                hit = kept is not None and at - kept < self._ttl_us
                if not hit:
                    kept = at
                outcomes["id"].append(id)
                outcomes["would_hit"].append(hit)
        schema = pa.schema([("id", pa.string()), ("would_hit", pa.bool_())])
        self.connection.register("outcomes", pa.table(outcomes, schema))
        self.connection.execute(
            f"CREATE TEMP VIEW log AS SELECT logged.*, would_hit, {_would('')}, {_would('_wide')} "  # noqa: S608
            "FROM logged LEFT JOIN (SELECT id::UUID AS id, would_hit FROM outcomes) USING (id)"
        )

    def moments(self) -> list[tuple[float, float]]:
        """Return the squares and cubes of each group's differences, in dollars, by cache key: requests of
        one key hang together."""
        keys = "".join(f"{sql} AS {quoted(name)}, " for name, sql in self.keys.items())
        difference = f"{_usd('would_usd')} - {_usd('cost_usd')}"
        # What has no key is no part of the replay, and differs by nothing.
        by_key = self.run(
            f"SELECT {keys} sum({difference}) AS difference_",
            f"GROUP BY {self._numbers}cache_key",
        )
        self.connection.register("by_key", by_key)
        names = ", ".join(quoted(name) for name in self.keys)
        frame = self.finish(
            self.connection.sql(
                f"SELECT {names}{', ' if names else ''} sum(difference_ ** 2) AS squares_, sum(difference_ ** 3) AS cubes_ FROM by_key "  # noqa: S608
                + (f"GROUP BY {names}" if names else "")
            ).to_arrow_table()
        )
        return [(row["squares_"] or 0.0, row["cubes_"] or 0.0) for row in frame.to_dicts()]

    @property
    def _numbers(self) -> str:
        return "".join(f"{n + 1}, " for n in range(len(self.keys)))


def _usd(name: str) -> str:
    return f"coalesce({name}::DOUBLE, TRY_CAST({name}_wide AS DOUBLE))"


def replay_cache(mirror: LogMirror, question: Question, ttl: str | timedelta) -> pl.DataFrame:
    """Return hits and cost as they were beside those with another lifetime of exact answers.

    An answer serves from when it was asked for until it is as old as `ttl`; a request that finds none
    asks anew. `would_usd` takes a hit that would have been a miss to cost what its answer cost. Semantic
    and coalesced answers, and hits whose answer is older than the log (`not_known`), stay as they were.
    `difference_usd` is counted; its bounds are of another such stretch of traffic.

    Raises:
        InvalidRequestError: `ttl` is no duration.
    """
    import polars as pl

    length = duration("cache_ttl", ttl)
    if length < timedelta(0):
        raise InvalidRequestError(f"cache_ttl must be 0 or more, not {ttl!r:.80}")
    replayed = _Replayed(mirror, replace(question), length)
    frame = replayed.sums(
        {
            "requests": "count(*)",
            "hits": f"count(*) FILTER (WHERE {HIT})",
            "would_hits": f"count(*) FILTER (WHERE would_hit OR (would_hit IS NULL AND {HIT}))",
            "not_known": f"count(*) FILTER (WHERE would_hit IS NULL AND {_EXACT} AND status = 'ok')",
            "unpriced": f"count(*) FILTER (WHERE {UNPRICED})",
            "would_unpriced": "count(*) FILTER (WHERE would_usd IS NULL AND would_usd_wide IS NULL)",
        },
        {"cost_usd": Usd("cost_usd"), "would_usd": Usd("would_usd")},
    )
    frame = frame.with_columns((pl.col("would_usd") - pl.col("cost_usd")).alias("difference_usd"))
    bounds = [
        (None, None) if total is None else traffic_bounds(float(total), *moments)
        for total, moments in zip(frame["difference_usd"], replayed.moments(), strict=True)
    ]
    return frame.with_columns(
        pl.Series("difference_low_usd", [low for low, _ in bounds], dtype=pl.Float64),
        pl.Series("difference_high_usd", [high for _, high in bounds], dtype=pl.Float64),
    )
