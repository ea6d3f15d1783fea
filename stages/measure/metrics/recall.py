"""Recall: the share of real images that lie where generated images are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stages.about import MetricAbout
from stages.measure.statistics import BLOCK, Nearest, Reference, distance_blocks, rounding

ABOUT = MetricAbout("Recall", "Kynkaanniemi et al. 2019", labels={"recall": "recall"}, rising="more modes covered")

SCOPE = "set"
RANGE = (0.0, 1.0)
NEIGHBOURS = True
SPARE = 8
"""Times as many neighbours as count are kept of every image, since the jackknife leaves some of them out."""


def metric(features: np.ndarray, reference: Reference) -> Callable[[np.ndarray], float]:
    """In [0, 1]: real images within the k-neighbour radius of some generated one (Kynkaanniemi et al. 2019, eq. 3).

    The radii grow as generated images get fewer: compare only settings with equally many.
    """
    nearest = Nearest.of(features, SPARE * (reference.neighbours + 1))
    across = np.concatenate([found for _, found in distance_blocks(features, reference.features)])
    slack = rounding(features, reference.features)

    def value(rows: np.ndarray) -> float:
        reach = nearest.radii(rows, reference.neighbours) + slack
        covered = np.zeros(across.shape[1], bool)
        for start in range(0, len(rows), BLOCK):
            some = slice(start, start + BLOCK)
            covered |= (across[rows[some]] <= reach[some, None]).any(0)
        return float(covered.mean())

    return value
