"""Experiments on live traffic: which arm a call falls into, the same one for the same unit."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

HOLDOUT = "holdout"
"""The arm of units that are left as they were."""
REQUEST = "request"
"""As a unit: each request falls by a lot of its own."""


@dataclass(frozen=True, slots=True)
class LiveArm:
    """One arm: a share of the units, and what their calls get."""

    name: str
    share: float
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LiveExperiment:
    """An experiment under way.

    `unit` is `session_id`, `tag:<key>` or `request`. What the shares leave over of 1 is not in the
    experiment at all. Where a unit falls depends on it and on the label alone: not on time, process
    or machine.
    """

    label: str
    unit: str
    arms: tuple[LiveArm, ...]

    def arm(self, unit: str) -> LiveArm | None:
        """Return the arm of a unit; None: it takes no part."""
        lot = lot_of(self.label, unit)
        reached = 0.0
        for arm in self.arms:
            reached += arm.share
            if lot < reached:
                return arm
        return None

    def unit_of(self, arguments: Mapping[str, Any]) -> str | None:
        """Return whose call it is; None where it does not say."""
        if self.unit == "session_id":
            found = arguments.get("session_id")
        else:
            found = (arguments.get("tags") or {}).get(self.unit.removeprefix("tag:"))
        return None if found is None else str(found)


def lot_of(label: str, unit: str) -> float:
    """Return a number in [0, 1), uniform over units, independent between labels."""
    digest = blake2b(unit.encode("utf-8", "surrogatepass"), key=label.encode()[:64], digest_size=8)
    return int.from_bytes(digest.digest(), "big") / 2**64


def assigned(
    experiments: tuple[LiveExperiment, ...], arguments: Mapping[str, Any], random_unit: str
) -> Mapping[str, Any]:
    """Return a call's arguments as the first experiment that it falls into has them.

    A call that names an experiment itself, or states what the arms would set, takes no part: what a
    caller asked for is never changed.
    """
    if arguments.get("experiment") is not None:
        return arguments
    for experiment in experiments:
        if any(arguments.get(k) is not None for arm in experiment.arms for k in arm.arguments):
            continue
        unit = random_unit if experiment.unit == REQUEST else experiment.unit_of(arguments)
        arm = None if unit is None else experiment.arm(unit)
        if arm is not None:
            return {
                **arguments,
                **arm.arguments,
                "experiment": experiment.label,
                "arm": arm.name,
            }
    return arguments
