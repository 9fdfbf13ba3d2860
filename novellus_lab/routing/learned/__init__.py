"""A router that learns from labelled outcomes when the strong model is worth its price (floor 1).

`train` makes a `TrainedRouter` from prompts and how well a weak and a strong model answered them.
Nothing heavy is imported before a name is used: training needs numpy and scikit-learn, a trained
router numpy alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from novellus_lab.routing.learned.outcomes import Outcome
    from novellus_lab.routing.learned.router import TrainedRouter
    from novellus_lab.routing.learned.thresholds import PredictedCurve, Threshold
    from novellus_lab.routing.learned.training import train

__all__ = ["Outcome", "PredictedCurve", "Threshold", "TrainedRouter", "train"]

_HOMES = {
    "Outcome": "outcomes",
    "PredictedCurve": "thresholds",
    "Threshold": "thresholds",
    "TrainedRouter": "router",
    "train": "training",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
