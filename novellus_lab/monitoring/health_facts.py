"""What health is scored by, read from rollups and anomalies: for all models with a few queries."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from novellus_lab.monitoring.health import NOT_THE_MODELS_FAULT, HealthFacts
from novellus_lab.monitoring.metrics import Totals, added, read_totals
from novellus_lab.monitoring.period import Period

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from novellus_lab.monitoring.health import HealthRules
    from novellus_lab.monitoring.rollups import Connection

_DAY_S = 86_400.0

_ANOMALIES = b"""
SELECT m.model, severity, metric || ' since ' || to_char(started_at AT TIME ZONE 'UTC', 'MM-DD HH24:MI')
    || CASE WHEN ended_at IS NULL THEN '' ELSE ' (over)' END
FROM public.ai_anomalies CROSS JOIN LATERAL (
    -- One of all models together is of each that shows it.
    SELECT model_id AS model UNION SELECT e ->> 'model' FROM jsonb_array_elements(evidence) e
) m
WHERE acknowledged_at IS NULL AND m.model IS NOT NULL AND coalesce(ended_at, updated_at) >= %s
ORDER BY CASE severity WHEN 'high' THEN 0 WHEN 'medium' THEN 1 ELSE 2 END, started_at DESC
"""


async def read_facts(
    connection: Connection, rules: HealthRules, models: Iterable[str], *, caching: bool
) -> list[HealthFacts]:
    """Read the facts of these models, and of all that were asked within a day.

    They are as of the last `rollups.catch_up`. A model of which the window holds too little is judged
    by a day.
    """
    now = datetime.now(UTC)
    short = await _window(connection, rules, now, rules.window_s)
    long = await _window(connection, rules, now, max(rules.window_s, _DAY_S))
    anomalies: dict[str, list[tuple[str, str]]] = {}
    since = now - timedelta(seconds=rules.anomalies_s)
    for model, severity, what in await (await connection.execute(_ANOMALIES, [since])).fetchall():
        anomalies.setdefault(model, []).append((severity, what))
    wanted = dict.fromkeys(models) | {m: None for m, t in long.recent.items() if m and t.asked}
    facts = []
    for model in wanted:
        enough = short.of(model).asked >= rules.min_requests
        window = short if enough else long
        facts.append(window.facts(model, caching, tuple(anomalies.get(model, ()))))
    return facts


class _Window:
    """Totals of a window and of the baseline before it, by model."""

    def __init__(
        self, label: str, recent: Mapping[str, Totals], before: Mapping[str, Totals]
    ) -> None:
        self.label = label
        self.recent = recent
        self._before = before

    def of(self, model: str) -> Totals:
        return self.recent.get(model) or added(())

    def facts(
        self, model: str, caching: bool, anomalies: tuple[tuple[str, str], ...]
    ) -> HealthFacts:
        t = self.of(model)
        before = (self._before.get(model) or added(())).sketches["provider"]
        faults = {c: n for c, n in t.error_classes.items() if c not in NOT_THE_MODELS_FAULT}
        excused = sum(t.error_classes.values()) - sum(faults.values())
        hits = sum(t[f"{tier}_hits"] for tier in ("memory", "redis", "postgres", "semantic"))
        return HealthFacts(
            model_id=model,
            window=self.label,
            asked=t.asked,
            failed=t["failed"] + t["failed_over"] - excused,
            median_ms=t.sketches["provider"].quantile(0.5),
            p95_ms=t.sketches["provider"].quantile(0.95),
            baseline_ms=before.quantile(0.5),
            baseline_answers=before.count,
            caching=caching,
            lookups=hits + t["misses"],
            hits=hits,
            anomalies=anomalies,
            worst_error=max(faults, key=lambda c: faults[c], default=None),
        )


async def _window(
    connection: Connection, rules: HealthRules, now: datetime, length_s: float
) -> _Window:
    start = now - timedelta(seconds=length_s)
    hours = length_s / 3_600
    label = f"the last {hours:g} h" if hours >= 1 else f"the last {length_s / 60:g} min"
    recent = await read_totals(connection, Period(start, now, label, open=True))
    first = start - timedelta(seconds=rules.baseline_s)
    before = await read_totals(connection, Period(first, start, "before", open=False))
    return _Window(label, recent, before)
