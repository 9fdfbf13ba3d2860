"""Reward models for doubly robust estimates, fitted so that none predicts what it has seen.

Cross-fitting (Chernozhukov et al. 2018, Econometrics Journal 21): the log is cut into folds, sessions
whole, and each fold is predicted by a model of the others. The default is a ridge regression on all
calls with, for each model, a ridge on what is left over: a model with few calls stays near the mean of
all. Any other learner fits in as a function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from novellus_lab.errors import InvalidRequestError
from novellus_lab.experiments.stats.samples import Clusters, Floats, Ints, checked, grouping

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Predict = Callable[[Floats], Floats]
"""From features, a row a call, to rewards, a column an action."""
Fit = Callable[[Floats, Ints, Floats, int], Predict]
"""From features, actions (numbered from 0), rewards and the number of actions to a `Predict`."""


def cross_fit(
    features: ArrayLike,
    actions: ArrayLike,
    rewards: ArrayLike,
    n_actions: int,
    *,
    fit: Fit | None = None,
    folds: int = 5,
    clusters: Clusters | None = None,
    seed: int = 0,
) -> Floats:
    """Predict each call's reward with each action, by models that have not seen the call.

    `predicted[range(n), actions]` and `(predicted * target).sum(axis=1)`, with `target` the strategy's
    probabilities, are what `doubly_robust` asks for.

    Args:
        features: a row a call of what is known before it is sent.
        actions: the number of the model that was chosen, from 0.
        fit: the learner; `ridge()` by default.
        folds: as many models are fitted.
        clusters: sessions, which are not cut.

    Raises:
        InvalidRequestError: lengths that differ, NaN, actions that are none, or too few calls.
    """
    y = checked(rewards, "rewards")
    x = np.asarray(features, dtype=np.float64)
    x = x[:, None] if x.ndim == 1 else x
    chosen = np.asarray(actions)
    if x.ndim != 2 or len(x) != len(y) or not np.isfinite(x).all():
        raise InvalidRequestError(
            f"features: expected a row of finite numbers for each of {len(y)} calls, got shape "
            f"{x.shape}."
        )
    if chosen.shape != y.shape or chosen.dtype.kind not in "iu":
        raise InvalidRequestError("actions: expected a whole number a call.")
    if chosen.min() < 0 or chosen.max() >= n_actions:
        raise InvalidRequestError(f"actions: expected numbers from 0 to {n_actions - 1}.")
    groups = grouping([clusters], [len(y)])
    if not 2 <= folds <= groups.count:
        raise InvalidRequestError(
            f"folds is {folds}: expected from 2 to the number of calls (or sessions), {groups.count}."
        )
    order = np.random.default_rng(seed).permutation(groups.count)
    fold = (order % folds)[groups.codes[0]]
    learn = fit or ridge()
    predicted = np.empty((len(y), n_actions))
    for number in range(folds):
        held = fold == number
        model = learn(x[~held], chosen[~held].astype(np.intp), y[~held], n_actions)
        predicted[held] = model(x[held])
    if not np.isfinite(predicted).all():
        raise InvalidRequestError("fit: the reward model predicts NaN or infinite rewards.")
    return predicted


def ridge(penalty: float = 1.0) -> Fit:
    """Return a learner: ridge regression, pooled and then for each action on what is left over.

    Args:
        penalty: on standardised features; and, as so many calls of no surplus, on an action's mean.

    Raises:
        InvalidRequestError: the penalty is not above 0.
    """
    if not 0 < penalty < np.inf:
        raise InvalidRequestError(f"penalty is {penalty}: expected a number above 0.")

    def fit(x: Floats, actions: Ints, y: Floats, n_actions: int) -> Predict:
        middle, scale = x.mean(axis=0), x.std(axis=0)
        scale = np.where(scale > 0, scale, 1.0)
        table = (x - middle) / scale
        mean = float(y.mean())
        pooled = _solve(table, y - mean, penalty)
        left = y - mean - table @ pooled
        wide = np.column_stack([np.ones(len(table)), table])
        own = np.zeros((wide.shape[1], n_actions))
        for action in range(n_actions):
            mine = actions == action
            if mine.any():
                own[:, action] = _solve(wide[mine], left[mine], penalty)

        def predict(features: Floats) -> Floats:
            rows = (features - middle) / scale
            surplus = np.column_stack([np.ones(len(rows)), rows]) @ own
            return np.asarray(mean + (rows @ pooled)[:, None] + surplus)

        return predict

    return fit


def _solve(table: Floats, y: Floats, penalty: float) -> Floats:
    square = table.T @ table + penalty * np.eye(table.shape[1])
    return np.asarray(np.linalg.solve(square, table.T @ y))
