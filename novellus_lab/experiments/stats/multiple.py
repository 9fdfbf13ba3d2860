"""Many comparisons: adjusted p-values, and levels at which many intervals hold together.

Holm (1979, Scandinavian Journal of Statistics 6) keeps the chance of even one false finding, whatever
the p-values share. Benjamini & Hochberg (1995, JRSS B 57) keep the expected part of findings that are
false; for p-values that are independent or positively dependent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from novellus_lab.errors import InvalidRequestError
from novellus_lab.experiments.stats.samples import Floats, checked_within

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def holm(p_values: ArrayLike) -> Floats:
    """Return adjusted p-values in the given order: reject those at most alpha.

    Raises:
        InvalidRequestError: none, or some that are not between 0 and 1.
    """
    p = checked_within(p_values, "p_values", 0.0, 1.0)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return _in_place(np.minimum(stepped, 1.0), order)


def benjamini_hochberg(p_values: ArrayLike) -> Floats:
    """Return adjusted p-values in the given order. Errors as `holm`."""
    p = checked_within(p_values, "p_values", 0.0, 1.0)
    order = np.argsort(p, kind="stable")
    ranked = p[order] * len(p) / np.arange(1, len(p) + 1)
    stepped = np.minimum.accumulate(ranked[::-1])[::-1]
    return _in_place(np.minimum(stepped, 1.0), order)


def simultaneous_level(
    level: float, comparisons: int, method: Literal["bonferroni", "sidak"] = "bonferroni"
) -> float:
    """Return the level for each of several intervals, so that all hold together at `level`.

    Bonferroni's holds always; Šidák's, a little narrower, for independent estimates.

    Raises:
        InvalidRequestError: no comparisons, or a level that is none.
    """
    if comparisons < 1 or not 0 < level < 1:
        raise InvalidRequestError(
            f"{comparisons} comparisons at level {level}: expected at least one, and a level between "
            "0 and 1."
        )
    if method == "sidak":
        return float(level ** (1 / comparisons))
    return 1 - (1 - level) / comparisons


def selected_level(level: float, selected: int, comparisons: int) -> float:
    """Return the level for intervals of the `selected` findings only, after Benjamini-Hochberg.

    At it the expected part of shown intervals that miss is at most 1 - level (Benjamini & Yekutieli
    2005, JASA 100).

    Raises:
        InvalidRequestError: not between one and all are selected, or a level that is none.
    """
    if not 1 <= selected <= comparisons or not 0 < level < 1:
        raise InvalidRequestError(
            f"{selected} of {comparisons} selected at level {level}: expected between one and all."
        )
    return 1 - (1 - level) * selected / comparisons


def _in_place(values: Floats, order: np.ndarray) -> Floats:
    found = np.empty_like(values)
    found[order] = values
    return found
