"""Precision: the share of generated images that lie where real images are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stages.about import MetricAbout
from stages.measure.statistics import Reference, distance_blocks, rounding

ABOUT = MetricAbout("Precision", "Kynkaanniemi et al. 2019", labels={"precision": "precision"}, rising="more realistic")

SCOPE = "set"
RANGE = (0.0, 1.0)
NEIGHBOURS = True


def metric(features: np.ndarray, reference: Reference) -> Callable[[np.ndarray], float]:
    """In [0, 1]: images within the k-neighbour radius of at least one real image (Kynkaanniemi et al. 2019, eq. 2)."""
    reach = reference.radii + rounding(features, reference.features)
    parts = [(found <= reach).any(1) for _, found in distance_blocks(features, reference.features)]
    inside = np.concatenate(parts)
    return lambda rows: float(inside[rows].mean())
