"""Recall: the share of real images that lie where generated images are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stages.measure.statistics import Reference, kth_smallest, rounding, squared_distances

SCOPE = "set"
RANGE = (0.0, 1.0)


def metric(features: np.ndarray, reference: Reference) -> Callable[[np.ndarray], float]:
    """In [0, 1]: real images within the k-neighbour radius of some generated one (Kynkaanniemi et al. 2019, eq. 3).

    The radii grow as generated images get fewer: compare only settings with equally many.
    """
    own, across = squared_distances(features, features), squared_distances(features, reference.features)
    slack = rounding(features, reference.features)

    def value(rows: np.ndarray) -> float:
        reach = kth_smallest(own[np.ix_(rows, rows)], reference.neighbours) + slack
        return float((across[rows] <= reach[:, None]).any(0).mean())

    return value
