"""Kernel distance (KID): the squared maximum mean discrepancy between features, under a cubic kernel, without bias."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stages.measure.statistics import Reference, cubic_kernel

SCOPE = "set"


def metric(features: np.ndarray, reference: Reference) -> Callable[[np.ndarray], float]:
    """Around 0 for images like the real ones, and possibly below; lower is better.

    The estimator of Binkowski et al. 2018, eq. 4, over all images. Other tools average it over random subsets of 1000
    to save time; that has the same expectation and more variance.
    """
    own = cubic_kernel(features, features)
    np.fill_diagonal(own, 0)
    across = cubic_kernel(features, reference.features).mean(1)

    def value(rows: np.ndarray) -> float:
        pairs = own[np.ix_(rows, rows)].sum() / (len(rows) * (len(rows) - 1))
        return float(pairs + reference.kernel_mean - 2 * across[rows].mean())

    return value
