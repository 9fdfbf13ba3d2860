"""Groups of a frame as series of a figure: names, colours, and buckets of time on a clock."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from novellus_lab.plots.theme import COLOURS, OTHERS, label

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

_MOST = len(COLOURS) - 1
OTHER = "all others"
_MILLISECONDS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}


@dataclass(frozen=True, slots=True)
class Series:
    """A group, in the order in which it is drawn."""

    name: str
    """Ready for a figure."""
    colour: str
    rows: pl.DataFrame


def series(frame: pl.DataFrame, by: Sequence[str], size: str) -> list[Series]:
    """Split a frame by its labels, the largest sum of `size` first; beyond six, the others are one."""
    import polars as pl

    if not by:
        return [Series("all", COLOURS[0], frame)]
    names = [" · ".join(label(part) for part in row) for row in frame.select(by).iter_rows()]
    named = frame.with_columns(pl.Series("name_", names, dtype=pl.String))
    sizes = named.group_by("name_").agg(pl.col(size).cast(pl.Float64).sum().alias("size_"))
    order = sizes.sort("size_", "name_", descending=[True, False], nulls_last=True)["name_"]
    kept = order.to_list()
    # One more than there is room for is no "others": it would be as long as the name itself.
    kept, rest = (kept, []) if len(kept) <= _MOST else (kept[: _MOST - 1], kept[_MOST - 1 :])
    drawn = [
        Series(name, COLOURS[n], named.filter(pl.col("name_") == name))
        for n, name in enumerate(kept)
    ]
    if rest:
        drawn.append(
            Series(f"{OTHER} ({len(rest)})", OTHERS, named.filter(pl.col("name_").is_in(rest)))
        )
    return drawn


def usd(frame: pl.DataFrame, name: str) -> Decimal | None:
    """Return the sum of an amount; None where none is known."""
    known = [amount for amount in frame[name].to_list() if amount is not None]
    return sum(known, Decimal(0)) if known else None


def wall(times: Sequence[datetime]) -> list[datetime]:
    """Return times as their clock shows them: Plotly would show all of them in UTC."""
    return [time.replace(tzinfo=None) for time in times]


def period(every: str) -> dict[str, Any]:
    """Return how a bar tells Plotly for how long it stands."""
    number = int("".join(c for c in every if c.isdigit()) or 1)
    unit = "".join(c for c in every.lower() if c.isalpha())
    if unit.startswith(("mo", "q", "y")):
        months = number * {"m": 1, "q": 3, "y": 12}[unit[0]]
        return {"xperiod": f"M{months}", "xperiodalignment": "middle"}
    return {"xperiod": number * _MILLISECONDS[unit[0]], "xperiodalignment": "middle"}


def span(times: Sequence[datetime], every: str) -> dict[str, Any]:
    """Return what an axis of time needs where there is one bucket alone: else it would be of no width."""
    if len(set(times)) != 1:
        return {}
    size = period(every)["xperiod"]
    width = timedelta(milliseconds=size) if isinstance(size, int) else timedelta(days=31)
    return {"range": [times[0] - width, times[0] + width]}


def per(every: str) -> str:
    """Return a width as a rate has it: `a day`, `each 15 minutes`."""
    name = width(every)
    if name[0].isdigit():
        return f"each {name}"
    return f"an {name}" if name == "hour" else f"a {name}"


def width(every: str) -> str:
    """Return a width in words: `day`, `15 minutes`."""
    number = "".join(c for c in every if c.isdigit())
    unit = "".join(c for c in every.lower() if c.isalpha())
    short = "mo" if unit.startswith("mo") else unit[0]
    word = {
        "m": "minute",
        "h": "hour",
        "d": "day",
        "w": "week",
        "mo": "month",
        "q": "quarter",
        "y": "year",
    }[short]
    return word if number in ("", "1") else f"{number} {word}s"
