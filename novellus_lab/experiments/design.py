"""What was planned: everything that decides how a comparison is run and judged, before it starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from novellus_lab.experiments.metrics import METRICS, Metric, metric_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from novellus_lab.experiments.observation import Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """A comparison as it was planned."""

    id: UUID
    name: str
    label: str
    """What its requests have as `ai_requests.experiment`."""
    arms: tuple[Mapping[str, Any], ...]
    """As they were given (`Arm.told`); the first is the control."""
    workload: str
    workload_hash: str
    n: int
    """Items planned."""
    metric: str
    """The one that decides, by name."""
    scorer: str | None = None
    level: float = 0.95
    sequential: bool = False
    """Whether intervals hold however often they are looked at, so that it may stop early."""
    margin: float | None = None
    """Differences of the deciding metric that are too small to matter, in its unit."""
    margin_relative: bool = False
    """Whether `margin` is a share of the control's value instead."""
    seed: int = 0
    max_usd: str | None = None
    common: Mapping[str, Any] = field(default_factory=dict)
    load: str | None = None
    """The arrivals that drove it, if any did."""
    benchmark: str | None = None
    """Of a run of a benchmark: the hash of its dataset, scorer and configuration."""
    rerun_of: str | None = None
    """Id of the run that this one repeats."""
    from_log: bool = False
    """Whether answers were read from the log instead of being asked for."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the arms."""
        return tuple(str(arm["name"]) for arm in self.arms)

    @property
    def control(self) -> str:
        return self.names[0]

    @property
    def primary(self) -> Metric:
        return metric_of(self.metric)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """All metrics that can be told, the deciding one first."""
        rest = (m for m in METRICS.values() if m.name != self.metric)
        return (self.primary, *(m for m in rest if self.scorer is not None or not m.needs_score))

    def margin_of(self, metric: Metric, control: Sequence[Observation]) -> float | None:
        """Return the margin in a metric's unit; None where there is none, as for all but the deciding."""
        if self.margin is None or metric.name != self.metric:
            return None
        if not self.margin_relative:
            return self.margin
        values = [value for seen in control if (value := metric.of(seen)) is not None]
        size = abs(sum(values) / len(values)) * self.margin if values else 0.0
        return size or None

    def told(self) -> dict[str, Any]:
        """As it is kept in the database."""
        return {
            "arms": list(self.arms),
            "workload": self.workload,
            "workload_hash": self.workload_hash,
            "n": self.n,
            "metric": self.metric,
            "scorer": self.scorer,
            "level": self.level,
            "sequential": self.sequential,
            "margin": self.margin,
            "margin_relative": self.margin_relative,
            "seed": self.seed,
            "max_usd": self.max_usd,
            "load": self.load,
            "benchmark": self.benchmark,
            "rerun_of": self.rerun_of,
            "from_log": self.from_log,
            "common": {k: v for k, v in self.common.items() if k not in ("messages", "prompt")},
        }

    @classmethod
    def of(cls, id: UUID, name: str, label: str, told: Mapping[str, Any]) -> Design:
        """Return a design from what was kept of it."""
        return cls(id=id, name=name, label=label, **{**told, "arms": tuple(told["arms"])})
