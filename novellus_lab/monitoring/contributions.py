"""Which model, tag or route carries a change.

An additive measure (cost, requests, tokens): each part's share is the difference of its sums. A
ratio (error rate, mean latency, cost a request) changes in two ways, which sum exactly:

    rate effect of part i   (w_i + w'_i) / 2 * (r'_i - r_i)
    mix effect of part i    (w'_i - w_i) * ((r_i + r'_i) / 2 - (R + R') / 2)

with `w` a part's share of the denominator, `r` its ratio, `R` the whole's, primed after. Both are
exact because `sum(w r)` is `R` and shares sum to 1. It is the symmetric decomposition of E. Kitagawa
(Components of a Difference Between Two Rates, 1955), with the mix counted against the average, so
that a part that grew and is like the whole has no effect. A part that is missing on one side has no
ratio there: the other side's is taken, and all of its effect is mix.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from novellus_lab.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one value of one dimension adds to a change: `change` = `rate_effect` + `mix_effect`.

    `share` is the part of the total change, which can be negative or above 1 where parts move
    against each other; None if nothing changed in total. An additive measure has no mix. `weight` is
    the share that it would have if all changed alike: its part of the denominator, or of the sum before.
    """

    dimension: str
    value: str
    before: float | None
    after: float | None
    change: float
    share: float | None
    rate_effect: float
    mix_effect: float
    weight: float = 0.0


def contributions(
    before: Iterable[Mapping[str, object]],
    after: Iterable[Mapping[str, object]],
    dimensions: Sequence[str],
    *,
    measure: str,
    per: str | None = None,
) -> list[Contribution]:
    """Split the change of a measure between two sets of rows by each dimension alone.

    Args:
        before, after: rows (requests, or groups of them), for a Polars frame `frame.iter_rows(named=True)`.
            Before and after should cover equally long times if the measure is additive.
        dimensions: columns to split by, such as `model`. A row without a value counts as "(none)".
        measure: the column that is summed.
        per: the column that the sum is divided by; for an error rate `measure="errors"` and
            `per="requests"`. None: the measure is additive.

    Returns:
        Contributions of all dimensions, in the dimensions' order, largest first. Those of one
        dimension sum to the whole change.

    Raises:
        InvalidRequestError: there is nothing to divide by on one side, or a column is missing.
    """
    sides = (list(before), list(after))
    found = []
    for dimension in dimensions:
        old, new = (_sums(rows, dimension, measure, per) for rows in sides)
        parts = _of_ratio(old, new, measure, per) if per else _of_sum(old, new)
        total = math.fsum(rate + mix for _, _, _, rate, mix, _ in parts)
        found += sorted(
            (
                Contribution(
                    dimension=dimension,
                    value=value,
                    before=was,
                    after=now,
                    change=rate + mix,
                    share=(rate + mix) / total if total else None,
                    rate_effect=rate,
                    mix_effect=mix,
                    weight=weight,
                )
                for value, was, now, rate, mix, weight in parts
            ),
            key=lambda part: (-abs(part.change), part.value),
        )
    return found


_Sums = dict[str, tuple[float, float]]
_Part = tuple[str, float | None, float | None, float, float, float]


def _sums(
    rows: Iterable[Mapping[str, object]], dimension: str, measure: str, per: str | None
) -> _Sums:
    above: defaultdict[str, list[float]] = defaultdict(list)
    below: defaultdict[str, list[float]] = defaultdict(list)
    for row in rows:
        missing = [name for name in (dimension, measure, per) if name and name not in row]
        if missing:
            raise InvalidRequestError(f"no column {missing[0]!r}; there are: {', '.join(row)}")
        value = "(none)" if row[dimension] is None else str(row[dimension])
        above[value].append(_number(row[measure]))
        below[value].append(_number(row[per]) if per else 0.0)
    return {value: (math.fsum(above[value]), math.fsum(below[value])) for value in above}


def _number(value: object) -> float:
    return 0.0 if value is None else float(value)  # type: ignore[arg-type]


def _of_sum(old: _Sums, new: _Sums) -> list[_Part]:
    parts: list[_Part] = []
    whole = math.fsum(a for a, _ in old.values())
    for value in sorted(old.keys() | new.keys()):
        was, now = old.get(value, (0.0, 0.0))[0], new.get(value, (0.0, 0.0))[0]
        parts.append((value, was, now, now - was, 0.0, was / whole if whole else 0.0))
    return parts


def _of_ratio(old: _Sums, new: _Sums, measure: str, per: str) -> list[_Part]:
    whole_old = math.fsum(b for _, b in old.values())
    whole_new = math.fsum(b for _, b in new.values())
    if not whole_old > 0 or not whole_new > 0:
        side = "after" if whole_old > 0 else "before"
        raise InvalidRequestError(f"{measure} per {per}: the rows {side} have no {per}")
    ratio_old = math.fsum(a for a, _ in old.values()) / whole_old
    ratio_new = math.fsum(a for a, _ in new.values()) / whole_new
    middle = (ratio_old + ratio_new) / 2
    parts: list[_Part] = []
    for value in sorted(old.keys() | new.keys()):
        (above_old, below_old), (above_new, below_new) = (
            old.get(value, (0.0, 0.0)),
            new.get(value, (0.0, 0.0)),
        )
        was = above_old / below_old if below_old else None
        now = above_new / below_new if below_new else None
        r_old = was if was is not None else now if now is not None else middle
        r_new = now if now is not None else r_old
        w_old, w_new = below_old / whole_old, below_new / whole_new
        # A sum with nothing to divide it by, such as a cost without requests, has no share.
        shareless = (0.0 if below_new else above_new / whole_new) - (
            0.0 if below_old else above_old / whole_old
        )
        rate = (w_old + w_new) / 2 * (r_new - r_old) + shareless
        mix = (w_new - w_old) * ((r_old + r_new) / 2 - middle)
        parts.append((value, was, now, rate, mix, (w_old + w_new) / 2))
    return parts
