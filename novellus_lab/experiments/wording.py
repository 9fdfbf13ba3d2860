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


def said(effect: Effect, control: str, *, margin: float | None, level: float) -> str:
    """Return one arm's verdict on the deciding metric.

    Better or worse where the interval excludes no difference (and, with a margin, differences that
    do not matter); as good as the control where it lies within the margin; else that it can't be
    told, and what it might be.
    """
    metric, change, arm = effect.metric, effect.difference, effect.arm
    what = metric.title[0].lower() + metric.title[1:]
    if change.value is None or not change.bounded:
        why = f" ({change.notes[0]})" if change.notes else ""
        return f"{arm}: how its {what} differs from {control}'s can't be told{why}."
    interval = f"{level:.0%} interval {interval_text(change.low, change.high, metric)}"
    better, worse = _WORDS.get((metric.unit, metric.better), ("better", "worse"))
    towards_better = (change.value < 0) == (metric.better == "lower")
    if margin is not None and -margin < change.low and change.high < margin:
        allowed = value_text(margin, metric, signed=True).lstrip("+")
        return f"{arm} is as good as {control} in {what}, within {allowed} ({interval})."
    limit = margin or 0.0
    if change.low > limit or change.high < -limit:
        by = value_text(abs(change.value), metric, signed=True).lstrip("+")
        part = ""
        if effect.relative is not None and effect.relative.value is not None:
            part = f" ({abs(effect.relative.value):.0%})"
        return f"{arm} is {better if towards_better else worse} than {control} by {by}{part} in {what}, {interval}."
    matter = "" if margin is None else " by an amount that matters"
    return (
        f"It can't be told whether {arm} differs from {control}{matter} in {what}: "
        f"{interval}, {effect.difference.n} items."
    )
