"""What drove the change: five factors, over all models and by model."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal
from typing import TYPE_CHECKING

from novellus_lab.analytics.cost_change import FACTORS, CostChange, to_decimals, total
from novellus_lab.plots.cost_change import change_figure
from novellus_lab.reports.document import Column, Section, Table, money_digits, usd_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from novellus_lab.analytics.cost_change import ModelChange
    from novellus_lab.reports.cost_sources import Sources

_MEANINGS = {
    "volume": "more or fewer requests",
    "mix": "other models for them",
    "cache": "more or fewer of them answered by the cache",
    "length": "longer or shorter prompts and answers",
    "price": "dearer or cheaper tokens",
}
_SAID = {
    "volume": ("more requests", "fewer requests"),
    "mix": ("a dearer mix of models", "a cheaper mix of models"),
    "cache": ("fewer answers from the cache", "more answers from the cache"),
    "length": ("longer prompts and answers", "shorter prompts and answers"),
    "price": ("dearer tokens", "cheaper tokens"),
}
_MODELS = 12


def change_sentence(sources: Sources) -> list[str]:
    """Say what drove the change most, if it changed and there was something before."""
    change = sources.change
    if not change.difference_usd or not change.before_usd or not change.after_usd:
        return []
    _, _, parts, digits = _shown(change)
    order = sorted((f for f in FACTORS if parts[f]), key=lambda f: (-abs(parts[f]), f))
    told = [
        f"{_SAID[f][parts[f] < 0]} ({usd_text(parts[f], digits, signed=True)})" for f in order[:3]
    ]
    if not told:
        return []
    listed = told[0] if len(told) == 1 else f"{', '.join(told[:-1])} and {told[-1]}"
    return [f"What drove the change most: {listed}."]


def change_section(sources: Sources) -> Section:
    """Show the way from one period to the next. What is shown adds up to the cent."""
    change = sources.change
    before, after, parts, digits = _shown(change)
    texts = {f: usd_text(part, digits, signed=True) for f, part in parts.items()}
    texts |= {"before": usd_text(before, digits), "after": usd_text(after, digits)}
    text = (
        f"From {texts['before']} to {texts['after']}: "
        f"{usd_text(after - before, digits, signed=True)}. The five parts add up to it exactly.",
    )
    return Section(
        "change",
        "What drove the change",
        text,
        (
            Table(
                "drivers",
                "By cause",
                (Column("cause"), Column("which is"), Column("change", "change")),
                (
                    *((f, _MEANINGS[f], parts[f]) for f in FACTORS),
                    ("all", "the difference", after - before),
                ),
                note="Requests without a price are not in it. Rounded so that the parts add up.",
                sql=sources.change_sql,
                rounded_to=digits,
            ),
            _by_model(change, sources.change_sql, digits),
        ),
        (change_figure(before, after, parts, texts),),
    )


def _by_model(change: CostChange, sql: str, digits: int) -> Table:
    """Each row is rounded so that it adds up."""
    rows: list[tuple[str | Decimal | None, ...]] = [
        (one.model, *_row([one], digits)) for one in change.models[:_MODELS]
    ]
    if rest := change.models[_MODELS:]:
        rows.append((f"{len(rest)} others", *_row(rest, digits)))
    columns = (
        *(Column("model"), Column("before", "usd"), Column("now", "usd")),
        *(Column(f, "change") for f in FACTORS),
        Column("change", "change"),
    )
    return Table(
        "drivers_by_model",
        "By model",
        columns,
        tuple(rows),
        note="Each row adds up; columns do within a digit, for each model is rounded on its own.",
        sql=sql,
        rounded_to=digits,
        empty="No request in either period has a price.",
    )


def _row(models: Sequence[ModelChange], digits: int) -> list[Decimal]:
    unit = Decimal(1).scaleb(-digits)
    sums = (total(one.before_usd for one in models), total(one.after_usd for one in models))
    before, after = (amount.quantize(unit, ROUND_HALF_EVEN) for amount in sums)
    parts = [total(one.parts[f] for one in models) for f in FACTORS]
    return [before, after, *to_decimals(parts, after - before, digits), after - before]


def _shown(change: CostChange) -> tuple[Decimal, Decimal, dict[str, Decimal], int]:
    """Both costs and the parts, rounded to the cent (or finer where all is small), adding up."""
    digits = money_digits([change.before_usd, change.after_usd])
    unit = Decimal(1).scaleb(-digits)
    before, after = (
        amount.quantize(unit, ROUND_HALF_EVEN) for amount in (change.before_usd, change.after_usd)
    )
    parts = change.parts
    rounded = to_decimals(list(parts.values()), after - before, digits)
    return before, after, dict(zip(parts, rounded, strict=True)), digits
