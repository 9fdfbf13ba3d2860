"""What would have cost less, in dollars, with the evidence: shown where it was measured, else a hypothesis."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from novellus_lab.analytics.intervals import Z

if TYPE_CHECKING:
    from collections.abc import Mapping

    from novellus_lab.analytics.fitted_rates import FittedRates
    from novellus_lab.analytics.log_mirror import LogMirror
    from novellus_lab.analytics.period_log import Answer, PeriodLog

MARGIN = 0.02
"""Of the score: a model within it is as good."""
_FEWEST_PAIRS = 30
_POWER_Z = 0.8416
_ONE_SIDED_Z = 1.6449
_SPREAD = 0.45
"""Standard deviation of a paired difference of right and wrong answers where none was seen."""
_WORTH = Decimal("0.05")
"""Of all spend: what a model must cost to be worth a look."""

REPEATS = """
WITH asked AS (
    SELECT model, cache, prompt_hash, cost_usd, created_at,
        CASE WHEN cache = 'miss' THEN cache_key ELSE prompt_hash END AS key
    FROM spending
    WHERE late AND cache IN ('miss', 'off') AND status = 'ok'
        AND (cache = 'off' OR cache_key IS NOT NULL) AND prompt_hash IS NOT NULL
), windows AS (
    SELECT *, (epoch_us(created_at) - epoch_us(min(created_at) OVER (PARTITION BY cache, model, key)))
        // ?::BIGINT AS span
    FROM asked
), numbered AS (
    SELECT *, row_number() OVER (PARTITION BY cache, model, key, span ORDER BY created_at) AS nth
    FROM windows
)
SELECT cache, model, count(*) AS repeats, count(DISTINCT prompt_hash) AS prompts,
    count(*) FILTER (WHERE cost_usd IS NULL) AS unpriced, sum(cost_usd) AS saved_usd
FROM numbered WHERE nth > 1 GROUP BY ALL ORDER BY saved_usd DESC NULLS LAST, model
"""
"""A key's time is cut into spans of one lifetime from its first request on, and each span pays once: a
cache would not have paid more often, so that this is the least that it saves."""

OVERSIZED = """
WITH usual AS (
    SELECT model, greatest(4 * median(input_tokens), 2000) AS most
    FROM spending WHERE late AND NOT free AND input_tokens IS NOT NULL GROUP BY 1
)
SELECT spending.model, any_value(most)::BIGINT AS most, count(*) AS requests,
    sum(input_tokens)::BIGINT AS input_tokens, sum(input_tokens - most)::BIGINT AS excess_tokens,
    sum(least(new_tokens, input_tokens - most))::BIGINT AS new_excess_tokens
FROM spending JOIN usual ON usual.model IS NOT DISTINCT FROM spending.model
WHERE late AND NOT free AND input_tokens > most GROUP BY 1 ORDER BY excess_tokens DESC
"""

_BY_MODEL = """
SELECT model, count(*) AS requests, sum(cost_usd) AS cost_usd, sum(new_tokens)::BIGINT AS new_tokens,
    sum(cached_tokens)::BIGINT AS cached_tokens, sum(output_tokens)::BIGINT AS output_tokens
FROM spending WHERE late AND NOT free AND cost_usd > 0 AND model IS NOT NULL
GROUP BY 1 ORDER BY cost_usd DESC
"""
# Both models scored on the same prompt by the same scorer, whoever asked and whenever that was.
_PAIRS = """
WITH each AS (
    SELECT requests.model, requests.prompt_hash, scores.scorer, avg(scores.score) AS score
    FROM scores JOIN requests ON requests.id = scores.request_id::UUID
    WHERE requests.model IS NOT NULL AND requests.prompt_hash IS NOT NULL GROUP BY ALL
)
SELECT a.model AS dear, b.model AS cheap, a.scorer, count(*) AS pairs,
    avg(b.score - a.score) AS difference, stddev_samp(b.score - a.score) AS sd
FROM each a JOIN each b ON a.prompt_hash = b.prompt_hash AND a.scorer = b.scorer AND a.model <> b.model
GROUP BY ALL
"""


@dataclass(frozen=True, slots=True)
class CheaperModel:
    """What a model's requests would have cost at another's prices, and whether that one is as good."""

    model: str
    cheaper: str
    cost_usd: Decimal
    saved_usd: Decimal
    """For the same tokens; its own answers may be longer or shorter."""
    verdict: str
    """`as good`, `worse`, or `not known`."""
    pairs: int
    scorer: str
    difference: float | None
    """Mean score of the cheaper one less the other's, on the same prompts."""
    low: float | None
    high: float | None
    needed: int
    """Prompts that a comparison needs to show that it is as good, within the margin."""


def repeats(log: PeriodLog, ttl_s: float) -> Answer:
    """Find requests that were paid for although the same had been answered within a lifetime."""
    return log.ask(REPEATS, max(1, round(ttl_s * 1_000_000)))


def oversized(log: PeriodLog) -> Answer:
    """Find prompts of more than four times their model's median, and 2,000 tokens at least."""
    return log.ask(OVERSIZED)


def cheaper_models(
    mirror: LogMirror, log: PeriodLog, rates: Mapping[str | None, FittedRates]
) -> tuple[CheaperModel, ...]:
    """Find, for each model that is worth it, the one that would save most without being worse, or the
    one to test."""
    by_model = log.ask(_BY_MODEL).rows
    whole = sum((row["cost_usd"] for row in by_model), Decimal(0))
    pairs = _scored_pairs(mirror, log)
    found = []
    for row in by_model:
        if row["cost_usd"] < _WORTH * whole:
            continue
        options = []
        for other in by_model:
            rate = rates.get(other["model"])
            if other["model"] == row["model"] or rate is None or not rate.known:
                continue
            instead = rate.price(row["new_tokens"], row["cached_tokens"], row["output_tokens"])
            saved = row["cost_usd"] - instead
            if saved > _WORTH * row["cost_usd"]:
                seen = pairs.get((row["model"], other["model"]))
                options.append(_judged(row, other["model"], saved, seen))
        rank = {"as good": 0, "not known": 1, "worse": 2}
        options.sort(key=lambda one: (rank[one.verdict], -one.saved_usd))
        found += options[:1]
    return tuple(found)


def _judged(
    row: Mapping[str, Any], cheaper: str, saved: Decimal, seen: Mapping[str, Any] | None
) -> CheaperModel:
    difference = low = high = None
    verdict, spread = "not known", _SPREAD
    if seen is not None and seen["pairs"] >= 2:
        difference = seen["difference"]
        # A spread of 0 over few pairs is luck: one pair that differs is allowed for.
        spread = max(seen["sd"] or 0.0, 1 / math.sqrt(seen["pairs"]))
        reach = Z * spread / math.sqrt(seen["pairs"])
        low, high = difference - reach, difference + reach
        if seen["pairs"] >= _FEWEST_PAIRS:
            verdict = "as good" if low > -MARGIN else "worse" if high < -MARGIN else "not known"
    needed = math.ceil(((_ONE_SIDED_Z + _POWER_Z) * spread / MARGIN) ** 2)
    return CheaperModel(
        row["model"],
        cheaper,
        row["cost_usd"],
        saved,
        verdict,
        0 if seen is None else seen["pairs"],
        "" if seen is None else seen["scorer"],
        difference,
        low,
        high,
        needed,
    )


def _scored_pairs(mirror: LogMirror, log: PeriodLog) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the scorer with the most pairs for each two models."""
    if not mirror.columns("ai_scores"):
        return {}
    sent = "SELECT request_id::text AS request_id, scorer, value AS score FROM public.ai_scores"
    log.connection.register("scores_sent", mirror.stream(sent))
    log.connection.execute("CREATE OR REPLACE TEMP TABLE scores AS FROM scores_sent")
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in log.ask(_PAIRS).rows:
        key = (row["dear"], row["cheap"])
        if key not in found or row["pairs"] > found[key]["pairs"]:
            found[key] = row
    return found
