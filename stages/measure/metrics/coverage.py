"""Coverage: the share of real images whose neighbourhood holds a generated image."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stages.about import MetricAbout
from stages.measure.statistics import Reference, distance_blocks, rounding

ABOUT = MetricAbout("Coverage", "Naeem et al. 2020", labels={"coverage": "coverage"}, rising="more modes covered")

SCOPE = "set"
RANGE = (0.0, 1.0)
NEIGHBOURS = True


def metric(features: np.ndarray, reference: Reference) -> Callable[[np.ndarray], float]:
    """In [0, 1]: real images with a generated one within their k-neighbour radius (Naeem et al. 2020, eq. 7).

    Unlike recall it rests on the radii of real images alone, so a stray generated image covers nothing.
    """
    reach = reference.radii + rounding(features, reference.features)
    near = np.concatenate([found <= reach for _, found in distance_blocks(features, reference.features)])
    return lambda rows: float(near[rows].any(0).mean())
