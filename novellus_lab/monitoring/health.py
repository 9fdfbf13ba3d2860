"""How healthy a model is: 100, less what errors, slowness, cache misses and anomalies take off.

All pure: facts in, a score with its reasons out. `health_facts` reads the facts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from novellus_lab.display import duration

if TYPE_CHECKING:
    from collections.abc import Iterator

ERRORS, LATENCY, CACHE, ANOMALIES = 40.0, 30.0, 10.0, 20.0
"""The most that each takes off."""
ANOMALY_POINTS = {"low": 2.0, "medium": 5.0, "high": 10.0}

NOT_THE_MODELS_FAULT = frozenset(
    (
        *("BadRequestError", "ContextWindowExceededError", "ContentFilteredError"),
        *("InvalidRequestError", "UnsupportedParameterError"),
        *("LimitExceededError", "BudgetExceededError", "UnknownPriceError"),
    )
)
"""Somebody was there to say no, or it was we who did: as the circuit breaker sees it."""


@dataclass(frozen=True, slots=True)
class HealthRules:
    """Where deductions begin (`…_from`) and where they are whole (`…_full`); linear between."""

    window_s: float = 3_600.0
    """What is judged. Where it holds too little, a day is."""
    min_requests: int = 10
    """Put to the model; with fewer its health is unknown."""
    error_rate_from: float = 0.01
    error_rate_full: float = 0.2
    slowdown_from: float = 1.5
    """Median time of answering calls, as a multiple of the baseline's."""
    slowdown_full: float = 3.0
    baseline_s: float = 7 * 86_400.0
    """The baseline is so long, and ends where the window begins."""
    min_baseline: int = 50
    """Answers; with fewer there is no baseline."""
    max_latency_ms: float | None = None
    """95th percentile of answering calls that is still good; twice as much takes all points."""
    hit_rate_from: float = 0.2
    """Below it points are lost; all at 0."""
    min_lookups: int = 50
    """Requests that the cache was asked for; with fewer its hit rate is not judged."""
    anomalies_s: float = 86_400.0
    """How long an anomaly that has ended still counts."""


@dataclass(frozen=True, slots=True)
class HealthFacts:
    """What is known of a model in a window."""

    model_id: str
    window: str
    """For people: "the last 1 h"."""
    asked: int
    failed: int
    """Of `asked`; those that were not the model's fault are no failures here."""
    median_ms: float | None = None
    p95_ms: float | None = None
    baseline_ms: float | None = None
    """Median of the baseline."""
    baseline_answers: int = 0
    caching: bool = True
    lookups: int = 0
    hits: int = 0
    anomalies: tuple[tuple[str, str], ...] = ()
    """Severity and what it is, of those nobody has acknowledged."""
    worst_error: str | None = None
    """The commonest class of `failed`."""


@dataclass(frozen=True, slots=True)
class Deduction:
    """What one cause takes off, and why."""

    cause: str
    points: float
    most: float
    why: str
    """What was found."""
    rule: str = ""
    """Where points are lost."""


@dataclass(frozen=True, slots=True)
class HealthScore:
    """What `lab.monitor.explain_health` returns. Shows itself as a table."""

    model_id: str
    score: float | None
    """0 to 100; None: unknown, there is too little data."""
    window: str
    requests: int
    deductions: tuple[Deduction, ...]
    note: str = ""

    def __repr__(self) -> str:
        lost = ", ".join(f"{d.cause} -{d.points:g}" for d in self.deductions if d.points)
        told = "unknown" if self.score is None else f"{self.score:g}/100"
        return f"HealthScore({self.model_id}: {told}{f' ({lost})' if lost else ''})"

    def _repr_html_(self) -> str:
        from novellus_lab.display import table_html
        from novellus_lab.monitoring.showing import health_line, reason_rows

        about = (health_line(self), self.window)
        return table_html(("", "points", "why"), reason_rows(self), about)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class HealthScores(Mapping[str, "float | None"]):
    """What `lab.health` returns: scores by model, the worst first. `details` says why."""

    details: tuple[HealthScore, ...] = ()
    _scores: dict[str, float | None] = field(init=False)

    def __post_init__(self) -> None:
        scores = {d.model_id: d.score for d in self.details}
        object.__setattr__(self, "_scores", scores)

    def __getitem__(self, model_id: str) -> float | None:
        return self._scores[model_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._scores)

    def __len__(self) -> int:
        return len(self._scores)

    def __repr__(self) -> str:
        told = ", ".join(
            f"{m}: {'unknown' if s is None else format(s, 'g')}" for m, s in self._scores.items()
        )
        return f"HealthScores({told or 'no models'})"

    def _repr_html_(self) -> str:
        from novellus_lab.display import table_html
        from novellus_lab.monitoring.showing import score_rows

        return table_html(("model", "health", "requests", ""), score_rows(self), ("of 100",))


def in_order(scores: list[HealthScore]) -> HealthScores:
    """Return them the worst first, the unknown last."""
    return HealthScores(
        tuple(sorted(scores, key=lambda s: (s.score is None, s.score or 0.0, s.model_id)))
    )


def score_health(facts: HealthFacts, rules: HealthRules) -> HealthScore:
    """Return 100 less all deductions, each explained; None where there is too little data."""
    deductions = (
        _errors(facts, rules),
        _latency(facts, rules),
        _cache(facts, rules),
        _anomalies(facts),
    )
    if facts.asked < rules.min_requests:
        note = (
            f"unknown: {facts.asked:,} requests were put to it in {facts.window}, "
            f"{rules.min_requests:,} are needed"
        )
        return HealthScore(facts.model_id, None, facts.window, facts.asked, deductions[3:], note)
    score = round(max(0.0, 100.0 - sum(d.points for d in deductions)), 1)
    return HealthScore(facts.model_id, score, facts.window, facts.asked, deductions)


def _errors(facts: HealthFacts, rules: HealthRules) -> Deduction:
    if not facts.asked:
        return Deduction("errors", 0.0, ERRORS, "it was not asked")
    rate = facts.failed / facts.asked
    points = _linear(rate, rules.error_rate_from, rules.error_rate_full, ERRORS)
    mostly = f", mostly {facts.worst_error}" if facts.worst_error else ""
    why = f"{facts.failed:,} of {facts.asked:,} requests failed ({_percent(rate)}{mostly})"
    rule = (
        f"points are lost above {_percent(rules.error_rate_from)}, all at "
        f"{_percent(rules.error_rate_full)}"
    )
    return Deduction("errors", points, ERRORS, why, rule)


def _latency(facts: HealthFacts, rules: HealthRules) -> Deduction:
    """By its own past, and by a limit where one is set: the worse of the two."""
    if facts.median_ms is None:
        return Deduction("latency", 0.0, LATENCY, "there are no answers to time")
    if facts.baseline_ms is None or facts.baseline_answers < rules.min_baseline:
        points, rule = 0.0, ""
        why = (
            f"no baseline yet: {facts.baseline_answers:,} answers before, {rules.min_baseline:,} are "
            f"needed"
        )
    else:
        times = facts.median_ms / facts.baseline_ms if facts.baseline_ms else 1.0
        points = _linear(times, rules.slowdown_from, rules.slowdown_full, LATENCY)
        why = (
            f"half of the calls take {duration(facts.median_ms)} or more, {times:.2f} times the "
            f"{duration(facts.baseline_ms)} of before"
        )
        rule = (
            f"points are lost above {rules.slowdown_from:g} times, all at {rules.slowdown_full:g}"
        )
    most = rules.max_latency_ms
    if most is not None and facts.p95_ms is not None:
        limit = _linear(facts.p95_ms, most, 2 * most, LATENCY)
        if limit > points:
            points = limit
            why = f"5 % of the calls take {duration(facts.p95_ms)} or more"
            rule = f"points are lost above {duration(most)}, all at {duration(2 * most)}"
    return Deduction("latency", points, LATENCY, why, rule)


def _cache(facts: HealthFacts, rules: HealthRules) -> Deduction:
    if not facts.caching:
        return Deduction("cache", 0.0, CACHE, "caching is off")
    if facts.lookups < rules.min_lookups:
        why = f"{facts.lookups:,} requests asked the cache, {rules.min_lookups:,} are needed"
        return Deduction("cache", 0.0, CACHE, why)
    rate = facts.hits / facts.lookups
    points = _linear(rules.hit_rate_from - rate, 0.0, rules.hit_rate_from, CACHE)
    why = f"{facts.hits:,} of {facts.lookups:,} came from the cache ({_percent(rate)})"
    rule = f"points are lost below {_percent(rules.hit_rate_from)}, all at 0 %"
    return Deduction("cache", points, CACHE, why, rule)


def _anomalies(facts: HealthFacts) -> Deduction:
    if not facts.anomalies:
        return Deduction("anomalies", 0.0, ANOMALIES, "none that nobody has acknowledged")
    points = min(ANOMALIES, sum(ANOMALY_POINTS[severity] for severity, _ in facts.anomalies))
    told = [f"{severity}: {what}" for severity, what in facts.anomalies[:3]]
    if (more := len(facts.anomalies) - len(told)) > 0:
        told.append(f"and {more:,} more")
    costs = ", ".join(f"{points:g} a {severity} one" for severity, points in ANOMALY_POINTS.items())
    return Deduction("anomalies", points, ANOMALIES, "; ".join(told), costs)


def _linear(value: float, start: float, full: float, most: float) -> float:
    """Return 0 up to `start`, `most` from `full` on, in proportion between; to a tenth of a point."""
    if value <= start:
        return 0.0
    if value >= full:
        return most
    return round(most * (value - start) / (full - start), 1)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
