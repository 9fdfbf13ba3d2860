"""How each head is fitted. Only here, and only for forests, is scikit-learn needed."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from novellus_lab.errors import MissingDependencyError
from novellus_lab.routing.learned.heads import ForestHead, LinearHead, PairHead

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from novellus_lab.routing.learned.heads import Head

    Matrix = NDArray[np.float64]

PENALTY = 300.0
"""Ridge penalty on standardised numbers. As if 300 outcomes said that a number does not matter:
strong, since prompts of unseen topics must be told apart by what topics share."""
TREES = 100
TREES_TO_CHOOSE = 40
"""Enough to tell learners apart."""
LEAF_OUTCOMES = 12
FEATURES_TRIED = 0.3
_MAX_DEPTH = 12


def fit_linear(encoded: Matrix, qualities: Matrix, weights: Matrix) -> LinearHead:
    """Fit a ridge logistic regression for each column of `qualities`; nan rows are left out.

    Qualities between 0 and 1 are shares of right answers; estimates may lie outside (the loss is
    linear in them). Newton's method: convex, so it finds the one minimum.
    """
    fits = []
    for quality in qualities.T:
        known = ~np.isnan(quality)
        fits.append(logistic(encoded[known], quality[known], weights[known], PENALTY))
    coefficients = np.stack(fits, axis=1)
    return LinearHead(coefficients[1:], coefficients[0])


def logistic(encoded: Matrix, target: Matrix, weights: Matrix, penalty: float) -> Matrix:
    """Return intercept and weights of a ridge logistic regression; the intercept is free."""
    rows: Matrix = np.hstack([np.ones((len(encoded), 1)), encoded])
    ridge = np.full(rows.shape[1], penalty)
    # Almost free: where all targets are alike a free intercept would go to infinity.
    ridge[0] = 1e-3
    beta = np.zeros(rows.shape[1])

    def loss(beta: Matrix) -> float:
        logits = rows @ beta
        fit = weights @ (np.logaddexp(0, logits) - target * logits)
        return float(fit + beta @ (ridge * beta) / 2)

    current = loss(beta)
    for _ in range(50):
        shares = 1 / (1 + np.exp(-np.clip(rows @ beta, -50, 50)))
        gradient = rows.T @ (weights * (shares - target)) + ridge * beta
        curvature = (rows * (weights * shares * (1 - shares))[:, None]).T @ rows
        step = np.linalg.solve(curvature + np.diag(ridge), gradient)
        size = 1.0
        while loss(beta - size * step) > current and size > 1e-6:
            size /= 2
        beta = beta - size * step
        before, current = current, loss(beta)
        if before - current < 1e-9 * max(1.0, abs(before)):
            break
    return beta


def fit_forest(encoded: Matrix, qualities: Matrix, weights: Matrix, seed: int, trees: int) -> Head:
    """Fit extremely randomised trees (Geurts et al. 2006).

    To both qualities at once where all are known, so that one tree serves both; else to each, on
    the rows that have it.

    Raises:
        MissingDependencyError: scikit-learn is not installed.
    """
    known = ~np.isnan(qualities)
    if known.all():
        return _grown(encoded, qualities, weights, seed, trees)
    weak, strong = (
        _grown(encoded[rows], np.stack([quality[rows]] * 2, axis=1), weights[rows], seed, trees)
        for rows, quality in zip(known.T, qualities.T, strict=True)
    )
    return PairHead(weak, strong)


def _grown(
    encoded: Matrix, qualities: Matrix, weights: Matrix, seed: int, trees: int
) -> ForestHead:
    try:
        ensemble = import_module("sklearn.ensemble")
    except ImportError as error:
        raise MissingDependencyError(
            "training a router needs scikit-learn: pip install 'novellus_lab[learn]' "
            "(a trained one needs numpy alone)"
        ) from error
    forest = ensemble.ExtraTreesRegressor(
        trees,
        min_samples_leaf=LEAF_OUTCOMES,
        max_features=FEATURES_TRIED,
        max_depth=_MAX_DEPTH,
        random_state=seed,
        n_jobs=1,
    )
    forest.fit(encoded.astype(np.float32), qualities, sample_weight=weights)
    tables = [_table(grown.tree_) for grown in forest.estimators_]
    sizes = [len(table[0]) for table in tables]
    roots = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    columns, cuts, lefts, values = (np.concatenate(column) for column in zip(*tables, strict=True))
    return ForestHead(
        roots.astype(np.intp),
        columns.astype(np.intp),
        _rounded_down(cuts),
        (lefts + np.repeat(roots, sizes)).astype(np.intp),
        np.round(values, 5),
        max(grown.tree_.max_depth for grown in forest.estimators_),
    )


def _table(tree: Any) -> tuple[Matrix, ...]:
    """Return columns, cuts, left children and values of a tree, right children next to left ones."""
    order: list[int] = [0]
    lefts: list[int] = []
    for node in order:  # grows while it is read: breadth first
        left = int(tree.children_left[node])
        if left < 0:
            lefts.append(len(lefts))
        else:
            lefts.append(len(order))
            order += [left, int(tree.children_right[node])]
    leaf = tree.children_left[order] < 0
    return (
        np.where(leaf, 0, tree.feature[order]),
        np.where(leaf, np.inf, tree.threshold[order]),
        np.array(lefts),
        tree.value[order, :, 0],
    )


def _rounded_down(cuts: Matrix) -> NDArray[np.float32]:
    """Return cuts, which are doubles, such that singles compare with them as before."""
    single = cuts.astype(np.float32)
    return np.where(single > cuts, np.nextafter(single, np.float32(-np.inf)), single)
