"""What a router is trained on: prompts, and how well either model answered them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from novellus_lab.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

MIN_OUTCOMES = 50
"""Below this nothing can be learned and little be measured."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One prompt and the quality of the answers it got, from 0 (wrong, bad) to 1 (right, good).

    Attributes:
        prompt: what was asked.
        weak: quality of the weak (cheap) model's answer; None where it was not asked.
        strong: the same of the strong model. One of both may be None: feedback on one answer.
        weight: how much the row counts.
        propensity: where only one model answered: the probability with which that model was chosen
            (`ai_requests` has it). Without it the row helps to train, but not to measure.
        group: rows of a group (a domain, a session, a user) are never split between training and
            testing, and count as one where bounds are computed. The prompt itself by default.
    """

    prompt: str
    weak: float | None = None
    strong: float | None = None
    weight: float = 1.0
    propensity: float | None = None
    group: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class OutcomeArrays:
    """The same, in columns; missing qualities and propensities are not-a-number."""

    prompts: tuple[str, ...]
    weak: NDArray[np.float64]
    strong: NDArray[np.float64]
    weights: NDArray[np.float64]
    propensities: NDArray[np.float64]
    groups: NDArray[np.intp]
    grouped: bool
    """Whether the groups were given, not just the prompts themselves."""
    sha256: str
    """Of all rows, in order."""

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def paired(self) -> NDArray[np.bool_]:
        """Which rows have the quality of both answers."""
        return ~(np.isnan(self.weak) | np.isnan(self.strong))

    @property
    def measurable(self) -> NDArray[np.bool_]:
        """Which rows both models' qualities can be estimated from without bias."""
        return self.paired | ~np.isnan(self.propensities)


def outcome_arrays(outcomes: Iterable[Outcome | Mapping[str, Any]]) -> OutcomeArrays:
    """Check outcomes and put them into columns. A mapping has the fields of `Outcome` as keys.

    Raises:
        InvalidRequestError: a row is wrong (the message says which and how), there are too few, a
            model has none, or all are alike.
    """
    rows = [_checked(number, outcome) for number, outcome in enumerate(outcomes)]
    if len(rows) < MIN_OUTCOMES:
        raise InvalidRequestError(
            f"{len(rows)} outcomes are too few to train a router: give at least {MIN_OUTCOMES}, "
            "some hundreds for bounds that are worth something."
        )
    columns = {
        name: np.array([_number(getattr(row, name)) for row in rows])
        for name in ("weak", "strong", "weight", "propensity")
    }
    for name in ("weak", "strong"):
        known = columns[name][~np.isnan(columns[name])]
        if len(known) < MIN_OUTCOMES // 2:
            raise InvalidRequestError(
                f"only {len(known)} outcomes say how good the {name} model's answer was; at least "
                f"{MIN_OUTCOMES // 2} are needed."
            )
    differ = columns["strong"] - columns["weak"]
    paired = ~np.isnan(differ)
    if paired.all() and np.ptp(differ) == 0:
        raise InvalidRequestError(
            f"strong - weak is {differ[0]:g} in all {len(rows)} outcomes: where the models never "
            "differ in any other way there is nothing to route by."
        )
    for name in ("weak", "strong"):
        known = columns[name][~np.isnan(columns[name])]
        if not paired.any() and np.ptp(known) == 0:
            raise InvalidRequestError(
                f"the {name} model's quality is {known[0]:g} in every outcome: with one class only "
                "there is nothing to learn."
            )
    keys = [row.prompt if row.group is None else f"\0{row.group}" for row in rows]
    return OutcomeArrays(
        prompts=tuple(row.prompt for row in rows),
        weak=columns["weak"],
        strong=columns["strong"],
        weights=columns["weight"] / columns["weight"].mean(),
        propensities=columns["propensity"],
        groups=np.unique(keys, return_inverse=True)[1],
        grouped=any(row.group is not None for row in rows),
        sha256=hashlib.sha256("\n".join(map(repr, rows)).encode()).hexdigest(),
    )


def _checked(number: int, given: Outcome | Mapping[str, Any]) -> Outcome:
    where = f"outcome {number}"
    if isinstance(given, Outcome):
        row = given
    elif isinstance(given, Mapping):
        known = [field.name for field in fields(Outcome)]
        unknown = sorted(set(map(str, given)) - set(known))
        if unknown or "prompt" not in given:
            raise InvalidRequestError(
                f"{where}: {f'unknown {unknown}' if unknown else 'no prompt'}; "
                f"the keys are {', '.join(known)}."
            )
        row = Outcome(**given)
    else:
        raise InvalidRequestError(
            f"{where} is a {type(given).__name__}: expected an Outcome or a mapping of its fields."
        )
    if not isinstance(row.prompt, str) or not row.prompt.strip():
        raise InvalidRequestError(f"{where}: the prompt is {row.prompt!r}, expected a text.")
    if row.weak is None and row.strong is None:
        raise InvalidRequestError(f"{where} has the quality of neither model: give weak or strong.")
    for name in ("weak", "strong"):
        _check_range(where, name, getattr(row, name), 0, 1)
    _check_range(where, "propensity", row.propensity, 0, 1)
    if row.propensity == 0:
        raise InvalidRequestError(f"{where}: what had propensity 0 can't have been chosen.")
    _check_range(where, "weight", row.weight, 0, math.inf)
    if not 0 < row.weight < math.inf:
        raise InvalidRequestError(f"{where}: weight is {row.weight}, expected more than 0.")
    return row


def _check_range(where: str, name: str, value: object, low: float, high: float) -> None:
    if value is None:
        return
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not low <= number <= high:
        raise InvalidRequestError(
            f"{where}: {name} is {value!r}, expected a number from {low:g} to {high:g}"
            + (" or None." if name != "weight" else ".")
        )


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
