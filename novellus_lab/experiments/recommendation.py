"""Which strategy to try next: searched in the log, to be confirmed by a live comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from novellus_lab.display import findings_html
from novellus_lab.experiments.metrics import Metric, metric_of
from novellus_lab.experiments.wording import interval_text, value_text
from novellus_lab.routing.learned_choice import Learned

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from novellus_lab.experiments.offline import OfflineEvaluation, OfflineValue
    from novellus_lab.experiments.planned import ExperimentPlan
    from novellus_lab.pipeline.trained_routers import StoredRouter


@dataclass(frozen=True)
class Recommendation:
    """The strategy that the log speaks for most, if it speaks for one. Shows itself."""

    objective: Metric
    guard: Metric | None
    """What must not get worse by the margin or more."""
    margin: float
    evaluations: Mapping[str, OfflineEvaluation]
    """Of every strategy that was looked at; intervals hold together over all of them."""
    specs: Mapping[str, Any]
    chosen: str | None
    """Its name; None: the log speaks for nothing better than what is."""
    plan: ExperimentPlan | None
    """Of the comparison that would confirm it."""
    why_not: Mapping[str, str]
    """Of the others, what speaks against them."""

    @property
    def spec(self) -> Any:
        """What to give to `lab.compare` or `lab.experiments.start` for the chosen one."""
        return None if self.chosen is None else self.specs[self.chosen]

    @property
    def verdict(self) -> str:
        """In a sentence or two."""
        what = self.objective.title[0].lower() + self.objective.title[1:]
        if self.chosen is None:
            return f"The log speaks for no strategy that is surely better in {what} than what was done."
        change = self.evaluations[self.chosen][self.objective.name].change
        assert change is not None  # noqa: S101  the chosen one was not refused
        told = (
            f"Try {self.chosen}: from the log alone it changes {what} by "
            f"{value_text(change.value, self.objective, signed=True)} "
            f"({interval_text(change.low, change.high, self.objective)})"
        )
        if self.guard is not None:
            told += f" and does not lose {value_text(self.margin, self.guard, signed=True).lstrip('+')} of {self.guard.title.lower()}"
        told += ". It is an estimate from what another strategy logged: confirm it live."
        return told if self.plan is None else f"{told} {self.plan.sentence}"

    def __repr__(self) -> str:
        return f"<Recommendation: {self.verdict}>"

    def _repr_html_(self) -> str:
        names = [self.objective.name, *([self.guard.name] if self.guard else [])]
        header = ("", *(metric_of(n).title for n in names), "")
        rows = [
            (
                ("★ " if name == self.chosen else "") + name,
                *(_cell(evaluation, n) for n in names),
                "" if name == self.chosen else self.why_not.get(name, ""),
            )
            for name, evaluation in self.evaluations.items()
        ]
        return findings_html((self.verdict,), [("changes against what was logged", header, rows)])


def chosen_of(
    evaluations: Mapping[str, OfflineEvaluation],
    objective: Metric,
    guard: Metric | None,
    margin: float,
) -> tuple[str | None, dict[str, str]]:
    """Return the best of those that are surely better and surely not worse in the guard; why not the rest."""
    fit: list[tuple[float, str]] = []
    why_not: dict[str, str] = {}
    for name, evaluation in evaluations.items():
        one = _of(evaluation, objective.name)
        if one is None or one.change is None or one.change.value is None:
            why_not[name] = (one.refusal if one is not None else None) or "nothing is known of it"
            continue
        if one.direction != "better":
            why_not[name] = f"not surely better in {objective.title.lower()}"
            continue
        if guard is not None:
            held = _of(evaluation, guard.name)
            if held is None or held.change is None:
                why_not[name] = f"nothing is known of its {guard.title.lower()}"
                continue
            low, high = held.change.low, held.change.high
            worst = -low if guard.better == "higher" else high
            if worst >= margin:
                why_not[name] = f"may lose more {guard.title.lower()} than allowed"
                continue
        gain = -one.change.value if objective.better == "lower" else one.change.value
        fit.append((gain, name))
    if not fit:
        return None, why_not
    best = max(fit, key=lambda pair: pair[0])[1]  # of equals the first
    for _, name in fit:
        if name != best:
            why_not[name] = f"fit, and no more is gained than with {best}"
    return best, why_not


_STRONG_SHARES = (0.1, 0.25, 0.5, 0.75)
"""Of calls to the strong model, at which trained routers are tried."""


def strategies_to_try(
    names: Sequence[str], models: Sequence[str], routers: Sequence[StoredRouter] = ()
) -> dict[str, Any]:
    """What is looked at by default: built-in strategies that judge by themselves, each model alone, and
    trained routers at several thresholds."""
    known = ("weighted", "cost_optimized", "least_latency", "health_weighted", "priority")
    tried: dict[str, Any] = {name: name for name in known if name in names}
    tried.update({f"always {model}": {"model": model} for model in models})
    for router in routers:
        if router.informative and {router.weak_model, router.strong_model} <= set(models):
            for share in _STRONG_SHARES:
                tried[f"router {router.name}, {share:.0%} to {router.strong_model}"] = Learned(
                    router.name, strong_share=share
                )
    return tried


def _of(evaluation: OfflineEvaluation, metric: str) -> OfflineValue | None:
    return next((v for v in evaluation.values if v.metric.name == metric), None)


def _cell(evaluation: OfflineEvaluation, metric: str) -> str:
    one = _of(evaluation, metric)
    if one is None or one.change is None:
        return "–"
    shown = value_text(one.change.value, one.metric, signed=True)
    return f"{shown} [{interval_text(one.change.low, one.change.high, one.metric)}]"
