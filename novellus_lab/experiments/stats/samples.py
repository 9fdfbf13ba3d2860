"""Arrays as they come in: checked, or refused with what is wrong and where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from novellus_lab.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Clusters = ArrayLike
"""A label for each observation; those that share one (a session, a user) are not independent."""

ArmClusters = tuple[Clusters, Clusters]
"""Labels of the control's observations, and of the treatment's."""


@dataclass(frozen=True, slots=True)
class Grouping:
    """The cluster of each observation of one or more samples, numbered from 0."""

    codes: tuple[Ints, ...]
    count: int


def checked(values: ArrayLike, name: str) -> Floats:
    """Return finite numbers in one dimension.

    Raises:
        InvalidRequestError: none, not one-dimensional, not numbers, or NaN or infinite among them.
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(
            f"{name}: expected numbers; leave out what has no value, and count it elsewhere."
        ) from error
    if array.ndim != 1:
        raise InvalidRequestError(f"{name}: expected one dimension, got shape {array.shape}.")
    if not len(array):
        raise InvalidRequestError(f"{name} is empty: there is nothing to compare.")
    if not np.isfinite(array).all():
        where = int(np.flatnonzero(~np.isfinite(array))[0])
        raise InvalidRequestError(
            f"{name}[{where}] is {array[where]}: expected a finite number. Leave out what has no "
            "value, and count it elsewhere."
        )
    return array


def checked_alike(**arrays: ArrayLike) -> tuple[Floats, ...]:
    """Return `checked` arrays that are of one length.

    Raises:
        InvalidRequestError: as `checked`, or the lengths differ.
    """
    found = {name: checked(values, name) for name, values in arrays.items()}
    lengths = {name: len(array) for name, array in found.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise InvalidRequestError(f"expected as many of each, one beside the other, got: {shown}.")
    return tuple(found.values())


def checked_within(values: ArrayLike, name: str, low: float, high: float) -> Floats:
    """Return `checked` numbers from `low` to `high`.

    Raises:
        InvalidRequestError: as `checked`, or one is outside.
    """
    array = checked(values, name)
    outside = np.flatnonzero((array < low) | (array > high))
    if len(outside):
        where = int(outside[0])
        raise InvalidRequestError(
            f"{name}[{where}] is {array[where]}: expected a number from {low:g} to {high:g}."
        )
    return array


def grouping(labels: Sequence[Clusters | None], lengths: Sequence[int]) -> Grouping:
    """Number the clusters of one or more samples; equal labels are one cluster, across samples too.

    Without labels (all None) each observation is a cluster of its own.

    Raises:
        InvalidRequestError: labels for some samples only, too few or too many, or missing ones.
    """
    if all(of_sample is None for of_sample in labels):
        ends = np.cumsum(lengths)
        codes = [np.arange(end - n, end) for end, n in zip(ends, lengths, strict=True)]
        return Grouping(tuple(codes), int(ends[-1]))
    flat: list[object] = []
    for of_sample, length in zip(labels, lengths, strict=True):
        found = [] if of_sample is None else np.asarray(of_sample, dtype=object).tolist()
        if len(found) != length:
            raise InvalidRequestError(
                f"clusters: expected a label for each of {length} observations, got {len(found)}."
            )
        flat += found
    number: dict[object, int] = {}
    codes_of_all = np.empty(len(flat), dtype=np.intp)
    for index, label in enumerate(flat):
        if label is None or label != label:  # NaN
            raise InvalidRequestError(
                f"clusters: label {index} is missing. An observation without a session is one of its "
                "own: give it a label that no other has."
            )
        codes_of_all[index] = number.setdefault(label, len(number))
    return Grouping(tuple(np.split(codes_of_all, np.cumsum(lengths)[:-1])), len(number))


def labels_of_pairs(clusters: Clusters | ArmClusters | None) -> Clusters | None:
    """Return the labels of pairs.

    Raises:
        InvalidRequestError: they are given for each arm.
    """
    if isinstance(clusters, tuple) and len(clusters) == 2 and np.ndim(clusters[0]):
        raise InvalidRequestError("clusters: paired values have one label a pair, not one an arm.")
    return cast("Clusters | None", clusters)


def labels_of_arms(clusters: Clusters | ArmClusters | None) -> list[Clusters | None]:
    """Return the labels of two arms.

    Raises:
        InvalidRequestError: it is not a tuple of two.
    """
    if clusters is None:
        return [None, None]
    if not (isinstance(clusters, tuple) and len(clusters) == 2):
        raise InvalidRequestError("clusters: expected (labels of control, labels of treatment).")
    return list(clusters)


def spread_is_none(values: Floats, scale: float | None = None) -> bool:
    """Whether all values are equal, but for the rounding of floats.

    `scale` is the size of the numbers that they were computed from; their own by default.
    """
    size = float(np.abs(values).max()) if scale is None else scale
    return bool(np.ptp(values) <= 1e-12 * size)
