"""Means, their covariance where observations come in clusters, and how well that is known.

For a sample of n with mean m, in clusters of h_g n each, the cluster's part of the error is

    u_g = sum of (x - m) in g / (n sqrt(1 - h_g))

and the variance of the mean the sum of u_g^2. This is CR2 (Bell & McCaffrey 2002, Survey Methodology
28) for a mean: unbiased where observations are independent after all, and s^2/n where each is its own
cluster. Two samples that share clusters (the same sessions in both arms, or pairs) covary by the sum
of u_g u'_g. Degrees of freedom are Satterthwaite's with independent errors as the working model (Bell
& McCaffrey; Imbens & Kolesár 2016, Review of Economics and Statistics 98): with r = h / sqrt(1 - h),

    1 / df = sum h^2 + (sum r^2)^2 - sum r^4

which is G - 1 for G equal clusters and less for unequal ones. For a difference of arms it becomes
Welch's formula, with the same sums across the two arms where they share clusters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from novellus_lab.experiments.stats.samples import Floats, Grouping, spread_is_none

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Moments:
    """Means of some samples, the covariance of these means, and overlaps for degrees of freedom."""

    means: Floats
    covariance: Floats
    overlap: Floats
    errors: Floats
    """`u_g`: a row a sample, a column a cluster."""
    n: int
    units: int

    def variance(self, weights: Sequence[float]) -> float:
        """Of the weighted sum of the means."""
        return float(((np.asarray(weights) @ self.errors) ** 2).sum())

    def skewness(self, weights: Sequence[float]) -> float:
        """Of the weighted sum of the means, which the central limit takes to 0."""
        error = np.asarray(weights) @ self.errors
        squares = error * error  # error**3 would be a power, a hundred times slower
        square = float(squares.sum())
        return float(squares @ error) / square**1.5 if square > 0 else 0.0

    def df(self, weights: Sequence[float]) -> float:
        """Degrees of freedom of that variance; infinite where it is none."""
        parts = np.asarray(weights) ** 2 * np.diag(self.covariance)
        below = float(parts @ self.overlap @ parts)
        return float(parts.sum()) ** 2 / below if below > 0 else math.inf


def moments(samples: Sequence[Floats], groups: Grouping) -> Moments | str:
    """Return the moments of samples whose clusters are given, or why they can't be told."""
    count = groups.count
    shares, errors = [], []
    for values, codes in zip(samples, groups.codes, strict=True):
        share = np.bincount(codes, minlength=count) / len(values)
        if share.max() >= 1:
            what = "a single observation" if len(values) == 1 else "all observations in one cluster"
            return f"{what}: nothing tells how much it varies"
        centred = values - values.mean()
        if spread_is_none(values):
            centred = np.zeros_like(values)
        summed = np.bincount(codes, weights=centred, minlength=count)
        errors.append(summed / (len(values) * np.sqrt(1 - share)))
        shares.append(share)
    error, h = np.array(errors), np.array(shares)
    r = h / np.sqrt(1 - h)
    squares = r**2
    overlap = h @ h.T + (r @ r.T) ** 2 - squares @ squares.T
    return Moments(
        means=np.array([values.mean() for values in samples]),
        covariance=error @ error.T,
        overlap=overlap,
        errors=error,
        n=sum(map(len, samples)),
        units=count,
    )
