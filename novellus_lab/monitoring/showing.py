"""Metrics and health in words and tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from novellus_lab.display import duration, money

if TYPE_CHECKING:
    from novellus_lab.monitoring.health import HealthScore, HealthScores
    from novellus_lab.monitoring.metrics import ModelMetrics, Times

_NOTHING = "–"


def metrics_line(m: ModelMetrics) -> str:
    """One line for `repr`."""
    who = "all models" if m.model_id is None else m.model_id
    if not m.requests.total and not m.calls.asked:
        return f"ModelMetrics({who}, {m.time_range}: no requests)"
    return (
        f"ModelMetrics({who}, {m.time_range}: {m.requests.total:,} requests, "
        f"{percent(m.success_rate)} success, p50 {_ms(m.latency.p50)}, p95 {_ms(m.latency.p95)}, "
        f"{money(m.cost.total)})"
    )


def metrics_rows(m: ModelMetrics) -> list[tuple[str, str]]:
    """Name and value of everything that matters."""
    ends = {
        "errors": m.requests.error,
        "cancelled": m.requests.cancelled,
        "refused": m.requests.refused,
    }
    told = ", ".join(f"{n:,} {name}" for name, n in ends.items() if n)
    rows = [
        ("requests", f"{m.requests.total:,}" + (f" ({told})" if told else "")),
        ("put to the model", f"{m.calls.asked:,}"),
        ("success rate", percent(m.success_rate)),
    ]
    if m.errors_by_class:
        rows.append(
            (
                "errors",
                ", ".join(f"{name} {n:,}" for name, n in list(m.errors_by_class.items())[:6]),
            )
        )
    calls = m.calls
    if calls.retried or calls.failed_over or calls.taken_over:
        rows.append(
            (
                "retried, failed over, taken over",
                ", ".join(
                    percent(None if share is None else 100 * share)
                    for share in (
                        calls.retried_share,
                        calls.failed_over_share,
                        calls.taken_over_share,
                    )
                ),
            )
        )
    rows += [
        ("latency", _times(m.latency)),
        ("provider call alone", _times(m.provider_latency)),
        ("time to first token", _times(m.time_to_first_token)),
        ("cache hit latency", _times(m.cache_latency)),
        ("our own overhead", _times(m.overhead)),
        ("tokens", f"{m.tokens.input:,} in, {m.tokens.output:,} out"),
        (
            "tokens a second",
            _NOTHING if m.tokens.per_second is None else f"{m.tokens.per_second:,.1f}",
        ),
        ("cost", money(m.cost.total)),
        ("saved by the cache", money(m.cost.saved_by_cache)),
        ("without a known price", _share(m.cost.unpriced_share)),
        ("cache hit rate", _hits(m)),
    ]
    return rows


def metrics_about(m: ModelMetrics) -> tuple[str, ...]:
    """The quiet line below the table."""
    who = "all models" if m.model_id is None else m.model_id
    kind = "quantiles are exact" if m.exact else "quantiles are right to 1 %"
    return (who, m.time_range, kind)


def health_line(score: HealthScore) -> str:
    """A model and its score."""
    told = "unknown" if score.score is None else f"{score.score:g} of 100"
    return f"{score.model_id}: {told}"


def reason_rows(score: HealthScore) -> list[tuple[str, str, str]]:
    """What was taken off, of how much, and why."""
    rows = [
        (
            d.cause,
            f"{-d.points:g} of {-d.most:g}" if d.points else "0",
            f"{d.why}; {d.rule}" if d.rule else d.why,
        )
        for d in score.deductions
    ]
    return [("", "", score.note), *rows] if score.note else rows


def score_rows(scores: HealthScores) -> list[tuple[str, str, str, str]]:
    """A line for each model."""
    return [
        (
            d.model_id,
            "unknown" if d.score is None else f"{d.score:g}",
            f"{d.requests:,}",
            d.note
            or "; ".join(f"{-x.points:g} {x.cause}: {x.why}" for x in d.deductions if x.points),
        )
        for d in scores.details
    ]


def percent(value: float | None) -> str:
    """A percentage, or a dash."""
    return _NOTHING if value is None else f"{value:.4g} %"


def _share(value: float | None) -> str:
    return percent(None if value is None else 100 * value)


def _hits(m: ModelMetrics) -> str:
    tiers = ", ".join(f"{tier} {_share(share)}" for tier, share in m.cache.by_tier.items() if share)
    return _share(m.cache.hit_rate) + (f" ({tiers})" if tiers else "")


def _times(t: Times) -> str:
    if not t.count:
        return _NOTHING
    return (
        f"avg {_ms(t.avg)}, p50 {_ms(t.p50)}, p95 {_ms(t.p95)}, p99 {_ms(t.p99)}, max {_ms(t.max)}"
    )


def _ms(value: float | None) -> str:
    return _NOTHING if value is None else duration(value)
