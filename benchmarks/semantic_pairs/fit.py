"""Fit the two scores of `novellus_lab/cache/semantic/rule.json`, on the part "fit" alone.

Logistic regressions with an L2 penalty, each weight held to the sign that it must have. GPTCache's
statements are many and of one kind, and the intent data hold label noise: both count less.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import minimize

from novellus_lab.cache.semantic.pair_features import SIGNS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

WEIGHTS = {"questions": 1.0, "gptcache": 0.15, "clinc": 0.3, "banking": 0.3}
_PENALTY = 1.0


def fit(
    names: Sequence[str],
    features: NDArray[np.float64],
    labels: NDArray[np.float64],
    weights: NDArray[np.float64],
) -> dict[str, Any]:
    """Return weights of raw features by name, and the bias."""
    mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-9
    scaled = np.column_stack([(features - mean) / spread, np.ones(len(features))])
    signs = 2 * labels - 1

    def loss(w: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        margin = signs * (scaled @ w)
        gradient = -(weights * signs / (1 + np.exp(margin))) @ scaled
        gradient[:-1] += _PENALTY * w[:-1]
        value = (weights * np.logaddexp(0, -margin)).sum() + _PENALTY / 2 * (w[:-1] ** 2).sum()
        return float(value), gradient

    bounds = [{1: (0, None), -1: (None, 0), 0: (None, None)}[SIGNS[name]] for name in names]
    start = np.zeros(scaled.shape[1])
    solved = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[*bounds, (None, None)]).x
    raw = solved[:-1] / spread
    return {
        "weights": {name: round(float(w), 6) for name, w in zip(names, raw, strict=True)},
        "bias": round(float(solved[-1] - raw @ mean), 6),
    }
