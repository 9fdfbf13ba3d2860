"""What an experiment on live traffic says: arms of different units, each unit in one arm."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from psycopg.rows import dict_row

from novellus_lab.display import money
from novellus_lab.errors import InvalidRequestError
from novellus_lab.experiments.comparison import Comparison, Ending
from novellus_lab.experiments.effects import effect
from novellus_lab.experiments.observation import Observation, felt_latency_of_row
from novellus_lab.experiments.stats.checks import effect_trend, sample_ratio
from novellus_lab.experiments.stats.multiple import simultaneous_level
from novellus_lab.routing.assignment import HOLDOUT, REQUEST

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import polars as pl

    from novellus_lab.experiments.design import Design
    from novellus_lab.pipeline.kept_connection import KeptConnection

_CALLS = """
SELECT r.id, r.created_at, r.arm, r.status, r.error_class, r.model, r.provider, r.cache, r.cost_usd,
       r.latency_ms, r.provider_ms, r.ttft_ms, r.input_tokens, r.output_tokens, r.propensity,
       r.raw_usage, r.session_id, r.tags, s.value AS score, s.reason AS score_reason
FROM public.ai_requests AS r
LEFT JOIN LATERAL (
    SELECT value, reason FROM public.ai_scores
    WHERE request_id = r.id AND (%(scorer)s::text IS NULL OR scorer = %(scorer)s)
    ORDER BY scored_at DESC LIMIT 1
) AS s ON true
WHERE r.experiment = %(label)s AND r.kind = 'chat' AND r.status IN ('ok', 'error')
ORDER BY r.created_at, r.id
"""


@dataclass(frozen=True)
class LiveComparison(Comparison):
    """Arms on live traffic. `observations` holds one tuple an arm, of all its calls.

    Units are independent, their calls are not: intervals are made of units.
    """

    units: Mapping[str, int] | None = None
    """How many units fell into each arm."""

    @classmethod
    def of_live(
        cls, design: Design, calls: Sequence[Observation], shares: Mapping[str, float], unit: str
    ) -> Self:
        """Work out what the calls of an experiment say.

        Args:
            calls: of all arms; `group` is the unit.
            shares: with which units are drawn into each arm.
        """
        by_arm: dict[str, list[Observation]] = {name: [] for name in design.names}
        for call in calls:
            if call.arm in by_arm:
                by_arm[call.arm].append(call)
        units = {name: len({c.group for c in seen}) for name, seen in by_arm.items()}
        peeking = max(1, design.n) if design.sequential else None
        control = by_arm[design.control]
        arms = len(design.names) - 1
        others = max(1, len(design.metrics) - 1)
        effects = []
        for metric in design.metrics:
            decides = metric.name == design.metric
            for name in design.names[1:]:
                if not control or not by_arm[name]:
                    continue
                found = effect(
                    metric,
                    name,
                    control,
                    by_arm[name],
                    paired=False,
                    level=simultaneous_level(design.level, arms if decides else arms * others),
                    peeking=peeking,
                    decides=decides,
                    margin=design.margin_of(metric, control),
                )
                if found is not None:
                    effects.append(found)
        notes = [*_checked_shares(units, shares), *_trends(design, by_arm)]
        counted = "calls" if unit == REQUEST else "units"
        told = ", ".join(f"{name} {count:,}" for name, count in units.items())
        notes.append(f"{counted.capitalize()}: {told}.")
        return cls(
            design,
            Ending.RUNNING,
            tuple(tuple(seen) for seen in by_arm.values() if seen),
            tuple(effects),
            notes=tuple(notes),
            units=units,
        )

    @property
    def n(self) -> int:
        """Units in all arms."""
        return sum((self.units or {}).values())

    @property
    def pairs(self) -> pl.DataFrame:
        """Live arms have no pairs.

        Raises:
            InvalidRequestError: always; `.frame` has the calls.
        """
        raise InvalidRequestError("arms on live traffic have no pairs: .frame has all calls")

    def _about(self) -> list[str]:
        spent, unknown = self.cost_usd
        calls = sum(map(len, self.observations))
        return [
            f"{calls:,} calls of {self.n:,} units on live traffic · {money(spent)} spent"
            + (f", {unknown} calls of unknown cost" if unknown else ""),
            f"★ decides. Intervals at {self.design.level:.0%}"
            + (", valid however often they are looked at" if self.design.sequential else "")
            + ", together over arms (★) and over all other metrics; made of units, not of calls",
            *self._replay(),
        ]


async def live_calls(
    connection: KeptConnection, label: str, unit: str, scorer: str | None
) -> list[Observation]:
    """Return the calls of an experiment, in their order.

    Args:
        scorer: whose scores count; None: anybody's latest.
    """

    async def read(database: Any) -> list[dict[str, Any]]:
        async with database.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(_CALLS, {"label": label, "scorer": scorer})
            rows: list[dict[str, Any]] = await cursor.fetchall()
            return rows

    return [_observation(row, unit) for row in await connection.run(read)]


def _observation(row: Mapping[str, Any], unit: str) -> Observation:
    hit = row["cache"] not in ("off", "miss")
    if unit == REQUEST:
        group = str(row["id"])
    elif unit == "session_id":
        group = row["session_id"]
    else:
        group = str((row["tags"] or {}).get(unit.removeprefix("tag:")))
    return Observation(
        item_id=str(row["id"]),
        group=group,
        arm=row["arm"],
        turn=0,
        started_at=row["created_at"],
        status=row["status"],
        error_class=row["error_class"],
        model=row["model"],
        provider=row["provider"],
        cache=row["cache"],
        hit=hit,
        cost_usd=row["cost_usd"],
        latency_ms=felt_latency_of_row(row, hit=hit),
        ttft_ms=row["ttft_ms"],
        input_tokens=row["input_tokens"],
        output_tokens=row["output_tokens"],
        propensity=row["propensity"],
        score=row["score"],
        score_reason=row["score_reason"],
        request_id=row["id"],
    )


def _checked_shares(units: Mapping[str, int], shares: Mapping[str, float]) -> list[str]:
    """Units that are missing in one arm make every effect worthless: that comes first."""
    drawn = {name: share for name, share in shares.items() if share > 0}
    if len(drawn) < 2 or not sum(units.values()):
        return []
    counts = {name: units.get(name, 0) for name in drawn}
    check = sample_ratio(counts, drawn, always_valid=True)
    return [check.sentence] if check.alarm else []


def _trends(design: Design, by_arm: Mapping[str, Sequence[Observation]]) -> list[str]:
    """Whether the deciding effect wears off: told, if so."""
    metric = design.primary
    rows: dict[str, tuple[list[float], list[float], list[str]]] = defaultdict(lambda: ([], [], []))
    for name, seen in by_arm.items():
        for call in seen:
            value = metric.of(call)
            if value is not None:
                rows[name][0].append(value)
                rows[name][1].append(call.started_at.timestamp() / 86_400)
                rows[name][2].append(f"{name}/{call.group}")
    told = []
    control = rows[design.control]
    for name in design.names[1:]:
        arm = rows[name]
        if len(control[0]) < 50 or len(arm[0]) < 50 or name == HOLDOUT:
            continue
        start = min(control[1][0], arm[1][0])
        trend = effect_trend(
            control[0],
            arm[0],
            [t - start for t in control[1]],
            [t - start for t in arm[1]],
            clusters=(control[2], arm[2]),
        )
        if trend.check.alarm:
            told.append(f"{name}: {trend.check.sentence}")
    return told
