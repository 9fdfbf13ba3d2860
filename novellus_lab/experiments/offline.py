"""What a strategy would have cost, how fast and how good it would have been: from the log alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from novellus_lab.display import findings_html
from novellus_lab.experiments.metrics import METRICS, Metric
from novellus_lab.experiments.stats.confidence import Confidence
from novellus_lab.experiments.stats.estimate import Estimate
from novellus_lab.experiments.stats.means import mean
from novellus_lab.experiments.stats.off_policy import (
    Logged,
    OffPolicyValue,
    Refusal,
    doubly_robust,
    self_normalised_ips,
    unsupported_part,
)
from novellus_lab.experiments.stats.proportions import wilson
from novellus_lab.experiments.stats.reward_models import cross_fit
from novellus_lab.experiments.wording import interval_text, value_text

if TYPE_CHECKING:
    import polars as pl

    from novellus_lab.experiments.logged_calls import LoggedCall
    from novellus_lab.experiments.stats.off_policy import Overlap
    from novellus_lab.experiments.stats.samples import Floats

Choice = Mapping[str, float]
"""With which probability a strategy would have chosen each model."""

LEAST_CALLS = 50
"""Fewer say nothing worth reading."""

_OF: dict[str, Callable[[LoggedCall], float | None]] = {
    "score": lambda call: call.score,
    "cost_usd": lambda call: call.cost_usd,
    "latency_ms": lambda call: call.latency_ms,
    "error_rate": lambda call: float(not call.ok),
}


@dataclass(frozen=True, slots=True)
class OfflineValue:
    """One metric under the strategy, beside what was logged."""

    metric: Metric
    logged: Estimate
    """Mean over the calls as they were."""
    value: Estimate | None
    """Mean that the strategy would have had; None where the log can't say."""
    change: Estimate | None
    """The strategy's minus the logged one's: of the same calls, so that chance cancels."""
    plain: Estimate | None
    """The same value without a reward model (self-normalised), to check against."""
    overlap: Overlap
    refusal: str | None
    live_calls: int | None
    """Calls of the strategy itself that would tell its value as precisely: what was saved."""

    @property
    def direction(self) -> str | None:
        """`better` or `worse` than what was logged, where the interval excludes no change."""
        if self.change is None or not self.change.excludes(0.0) or self.change.value is None:
            return None
        return "better" if (self.change.high < 0) == (self.metric.better == "lower") else "worse"


@dataclass(frozen=True)
class OfflineEvaluation:
    """What the log says of a strategy that it was not made by. Shows itself as a table."""

    strategy: str
    calls: int
    """Routed calls that were judged."""
    left_out: Mapping[str, int]
    """Others, by why they could not be."""
    level: float
    values: tuple[OfflineValue, ...]
    models: tuple[str, ...]
    share: Mapping[str, float]
    """Of calls that each model would get."""

    def __getitem__(self, metric: str) -> OfflineValue:
        for one in self.values:
            if one.metric.name == metric:
                return one
        raise KeyError(
            f"there is no {metric!r} of these calls; there are {', '.join(v.metric.name for v in self.values)}"
        )

    @property
    def refused(self) -> bool:
        """Whether the log can't say anything of this strategy."""
        return all(one.value is None for one in self.values)

    @property
    def verdict(self) -> str:
        """In sentences."""
        if not self.values:
            return "No routed calls with a probability were found: there is nothing to judge by."
        told = []
        for one in self.values:
            what = one.metric.title[0].lower() + one.metric.title[1:]
            if one.value is None or one.change is None or one.change.value is None:
                told.append(f"Of {what} the log can't say: {one.refusal}.")
                continue
            interval = interval_text(one.change.low, one.change.high, one.metric)
            judged = {"better": "better", "worse": "worse", None: "can't be told from what it was"}
            told.append(
                f"{self.strategy} would have had a {what} of {value_text(one.value.value, one.metric)}, "
                f"{judged[one.direction]} ({value_text(one.change.value, one.metric, signed=True)}, "
                f"{self.level:.0%} interval {interval})."
            )
        return " ".join(told)

    @property
    def table(self) -> pl.DataFrame:
        """One row a metric."""
        import polars as pl

        def bounds(name: str, estimate: Estimate | None) -> dict[str, float | None]:
            if estimate is None:
                return {name: None, f"{name}_low": None, f"{name}_high": None}
            low = estimate.low if math.isfinite(estimate.low) else None
            high = estimate.high if math.isfinite(estimate.high) else None
            return {name: estimate.value, f"{name}_low": low, f"{name}_high": high}

        return pl.DataFrame(
            [
                {
                    "metric": one.metric.name,
                    "logged": one.logged.value,
                    **bounds("value", one.value),
                    **bounds("change", one.change),
                    **bounds("plain", one.plain),
                    "effective_calls": one.overlap.effective_n,
                    "live_calls": one.live_calls,
                    "direction": one.direction,
                    "refusal": one.refusal,
                }
                for one in self.values
            ],
            infer_schema_length=None,
        )

    def __repr__(self) -> str:
        return f"<OfflineEvaluation of {self.strategy!r} on {self.calls} calls>\n{self.verdict}"

    def _repr_html_(self) -> str:
        header = (
            "",
            "logged",
            "would have been",
            "interval",
            "change",
            "interval",
            "effective calls",
            "",
        )
        rows = [_row(one) for one in self.values]
        shares = ", ".join(f"{m} {s:.0%}" for m, s in self.share.items() if s >= 0.005)
        about = [f"{self.calls:,} routed calls of the log judged; it would have chosen {shares}"]
        if self.left_out:
            about.append(
                "left out: " + ", ".join(f"{count} {why}" for why, count in self.left_out.items())
            )
        about.append(
            f"doubly robust estimates, {self.level:.0%} intervals; effective calls: so many of the "
            f"strategy's own would tell as much"
        )
        return findings_html((), [(f"{self.strategy}, from the log alone", header, rows)], about)


def evaluate(
    strategy: str,
    calls: Sequence[LoggedCall],
    choices: Sequence[Choice],
    features: Sequence[Sequence[float]],
    *,
    level: float,
    left_out: Mapping[str, int] | None = None,
    clip: float | None = None,
) -> OfflineEvaluation:
    """Estimate each metric under a strategy from logged calls and what it would have chosen.

    Args:
        choices: of each call, the strategy's probabilities.
        features: of each call, what was known before it was sent.
        clip: the largest weight; None: as they are.

    Raises:
        InvalidRequestError: numbers that are none.
    """
    models = sorted({m for c in choices for m in c} | {m for c in calls for m in c.probabilities})
    place = {model: number for number, model in enumerate(models)}
    target = np.zeros((len(calls), len(models)))
    logged = np.zeros_like(target)
    for row, (call, choice) in enumerate(zip(calls, choices, strict=True)):
        for model, probability in choice.items():
            target[row, place[model]] = probability
        for model, probability in call.probabilities.items():
            logged[row, place[model]] = probability
        logged[row, place[call.picked]] = call.propensity
    if len(calls):
        target /= np.maximum(target.sum(axis=1, keepdims=True), 1e-300)
        logged /= np.maximum(logged.sum(axis=1, keepdims=True), 1e-300)
    table = np.asarray(features, dtype=np.float64).reshape(
        len(calls), len(features[0]) if features else 0
    )
    values = [
        one
        for name, of in _OF.items()
        if (one := _value(METRICS[name], of, calls, target, logged, place, table, level, clip))
    ]
    share = {m: float(target[:, i].mean()) for m, i in place.items()} if len(calls) else {}
    ranked = dict(sorted(share.items(), key=lambda pair: -pair[1]))
    return OfflineEvaluation(
        strategy, len(calls), dict(left_out or {}), level, tuple(values), tuple(models), ranked
    )


def _value(
    metric: Metric,
    of: Callable[[LoggedCall], float | None],
    calls: Sequence[LoggedCall],
    target: Floats,
    propensities: Floats,
    place: Mapping[str, int],
    features: Floats,
    level: float,
    clip: float | None,
) -> OfflineValue | None:
    found = [of(call) for call in calls]
    kept = np.array(
        [number for number, value in enumerate(found) if value is not None], dtype=np.intp
    )
    if len(kept) < 2:
        return None
    rewards = np.array([found[i] for i in kept], dtype=np.float64)
    chosen = np.array([place[calls[i].picked] for i in kept], dtype=np.intp)
    sessions = [calls[i].session_id or f"\0{i}" for i in kept]
    clusters = sessions if len(set(sessions)) < len(sessions) else None
    confidence = Confidence(level)
    data = Logged(
        rewards,
        propensities[kept, chosen],
        target[kept, chosen],
        clusters,
        unsupported_part(target[kept], propensities[kept]),
    )
    logged = mean(rewards, clusters=clusters, confidence=confidence)
    plain = self_normalised_ips(data, clip=clip, confidence=confidence)
    if isinstance(plain, Refusal) or len(kept) < LEAST_CALLS:
        overlap = plain.overlap
        why = (
            plain.reason
            if isinstance(plain, Refusal)
            else f"{len(kept)} calls are too few; at least {LEAST_CALLS} are needed"
        )
        return OfflineValue(metric, logged, None, None, None, overlap, why, None)
    if metric.unit == "share" and not rewards.any():
        # No event was seen: nothing varies, and still there may be some.
        most = wilson(0.0, plain.overlap.effective_n, confidence.critical(math.inf, len(kept))).high
        before = wilson(0.0, float(len(kept)), confidence.critical(math.inf, len(kept))).high
        nothing, at_most = (
            Estimate(0.0, low, most, level, "no event seen, Wilson", len(kept), len(kept))
            for low in (0.0, -before)
        )
        return OfflineValue(metric, logged, nothing, at_most, nothing, plain.overlap, None, None)
    predicted = cross_fit(
        features[kept], chosen, rewards, target.shape[1], folds=5, clusters=clusters
    )
    of_target = (predicted * target[kept]).sum(axis=1)
    of_chosen = predicted[np.arange(len(kept)), chosen]
    robust = doubly_robust(data, of_chosen, of_target, clip=clip, confidence=confidence)
    change = doubly_robust(
        data, of_chosen, of_target, against_logged=True, clip=clip, confidence=confidence
    )
    assert isinstance(robust, OffPolicyValue)  # noqa: S101  the overlap is the same one
    assert isinstance(change, OffPolicyValue)  # noqa: S101
    return OfflineValue(
        metric,
        logged,
        robust.estimate,
        change.estimate,
        plain.estimate,
        robust.overlap,
        None,
        _live_calls(robust.estimate, rewards, data),
    )


def _live_calls(estimate: Estimate, rewards: Floats, data: Logged) -> int | None:
    """Calls of the strategy's own whose mean had the same standard error.

    The spread of its own calls is that of the logged ones, weighted as they are for it.
    """
    error = estimate.standard_error
    if not error:
        return None
    weights = np.asarray(data.target, dtype=np.float64) / np.asarray(data.propensities)
    middle = float(np.average(rewards, weights=weights))
    variance = float(np.average((rewards - middle) ** 2, weights=weights))
    return max(1, round(variance / error**2))


def _row(one: OfflineValue) -> tuple[str, ...]:
    metric = one.metric
    title = metric.title
    logged = value_text(one.logged.value, metric)
    effective = f"{one.overlap.effective_n:,.0f} of {one.overlap.n:,}"
    if one.value is None or one.change is None:
        return (title, logged, "can't be said", "", "", "", effective, one.refusal or "")
    low, high = value_text(one.value.low, metric), value_text(one.value.high, metric)
    return (
        title,
        logged,
        value_text(one.value.value, metric),
        f"{low} to {high}",
        value_text(one.change.value, metric, signed=True),
        interval_text(one.change.low, one.change.high, metric),
        effective,
        one.direction or "unclear",
    )
