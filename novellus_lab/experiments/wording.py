"""Effects in words and numbers that a person reads."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from novellus_lab.display import duration, money

if TYPE_CHECKING:
    from novellus_lab.experiments.effects import Effect
    from novellus_lab.experiments.metrics import Metric

_WORDS = {
    ("USD", "lower"): ("cheaper", "dearer"),
    ("ms", "lower"): ("faster", "slower"),
}


def value_text(value: float | None, metric: Metric, *, signed: bool = False) -> str:
    """Return a value in its metric's unit: three digits, and a sign if asked for."""
    if value is None:
        return "unknown"
    sign = ("+" if value > 0 else "−" if value < 0 else "±") if signed else "−" if value < 0 else ""
    size = abs(value)
    if metric.unit == "USD":
        text = money(Decimal(repr(size)))
    elif metric.unit == "ms":
        text = duration(size) if size else "0 ms"
    elif metric.unit == "share" or metric.needs_score:
        text = f"{size * 100:.1f}" + (" points" if signed else "%")
    else:
        text = f"{size:,.3g}" if size < 1000 else f"{size:,.0f}"
    return sign + text


def interval_text(low: float, high: float, metric: Metric) -> str:
    """Return both ends of an interval of differences, the unit once where that reads well."""
    first, second = (value_text(bound, metric, signed=True) for bound in (low, high))
    return f"{first.removesuffix(' points')} to {second}"


def said(effect: Effect, control: str, *, level: float) -> str:
    """Return one arm's verdict on the deciding metric, in the words of its unit."""
    metric, change, arm = effect.metric, effect.difference, effect.arm
    what = metric.title[0].lower() + metric.title[1:]
    if change.value is None or not change.bounded:
        why = f" ({change.notes[0]})" if change.notes else ""
        return f"{arm}: how its {what} differs from {control}'s can't be told{why}."
    interval = f"{level:.0%} interval {interval_text(change.low, change.high, metric)}"
    outcome, margin = effect.verdict.outcome, effect.verdict.metric.margin
    allowed = "" if margin is None else value_text(margin, metric, signed=True).lstrip("+")
    if outcome == "equivalent":
        return f"{arm} is as good as {control} in {what}, within {allowed} ({interval})."
    if outcome == "not worse":
        return f"{arm} is not worse than {control} in {what} by {allowed} or more ({interval})."
    if outcome == "can't tell":
        return (
            f"It can't be told whether {arm} differs from {control} in {what}: {interval}, "
            f"{change.n} observations."
        )
    better, worse = _WORDS.get((metric.unit, metric.better), ("better", "worse"))
    by = value_text(abs(change.value), metric, signed=True).lstrip("+")
    part = ""
    if effect.relative is not None and effect.relative.value is not None:
        part = f" ({abs(effect.relative.value):.0%})"
    word = better if outcome == "better" else worse
    return f"{arm} is {word} than {control} by {by}{part} in {what}, {interval}."
