"""Kernel distance (KID): the squared maximum mean discrepancy between features, under a cubic kernel, without bias."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stages.about import MetricAbout
from stages.measure.statistics import BLOCK, Reference, cubic_kernel

ABOUT = MetricAbout("KID", "Binkowski et al. 2018", labels={"kid": "KID"}, rising="further from real images")

SCOPE = "set"


def metric(features: np.ndarray, reference: Reference) -> Callable[[np.ndarray], float]:
    """Around 0 for images like the real ones, and possibly below; lower is better.

    The estimator of Binkowski et al. 2018, eq. 4, over all images. Other tools average it over random subsets of 1000
    to save time; that has the same expectation and more variance.
    """
    count = len(features)
    own, across = np.empty((count, count)), np.empty(count)
    for start in range(0, count, BLOCK):  # one [n, n] in memory, not three
        rows = slice(start, start + BLOCK)
        own[rows] = cubic_kernel(features[rows], features)
        across[rows] = cubic_kernel(features[rows], reference.features).mean(1)
    np.fill_diagonal(own, 0)

    def value(rows: np.ndarray) -> float:
        among = np.zeros(count)
        among[rows] = 1
        pairs = (own @ among)[rows].sum() / (len(rows) * (len(rows) - 1))
        return float(pairs + reference.kernel_mean - 2 * across[rows].mean())

    return value
