"""Frechet distance between the features of generated and of real images, each taken for a Gaussian."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stages.about import MetricAbout
from stages.measure.statistics import EPSILON, Gaussian, Reference, at_bound, gaussian

ABOUT = MetricAbout("FID", "Heusel et al. 2017", labels={"fid": "FID"}, rising="further from real images")

SCOPE = "set"
RANGE = (0.0, float("inf"))
ROUNDINGS = 8
"""How many roundings of the largest eigenvalue an eigenvalue may be off by."""


def metric(features: np.ndarray, reference: Reference) -> Callable[[np.ndarray], float]:
    """0 or more, lower is better. It is biased upwards for few images: compare only settings with equally many."""
    return lambda rows: frechet_distance(reference.gaussian, gaussian(features[rows]))


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a^1/2 C_b C_a^1/2)^1/2) (Heusel et al. 2017, eq. 6).

    0 for equal sets. Eigenvalues are exact to a few roundings of the largest one, and the root of one that should be 0
    is the root of such a rounding, so equal sets of fewer images than dimensions come out about 1e-7 of the trace
    below 0. Such a value is given as 0.
    """
    overlap = np.clip(np.linalg.eigvalsh(a.root @ b.covariance @ a.root), 0, None)
    spread = np.trace(a.covariance) + np.trace(b.covariance)
    value = float(np.square(a.mean - b.mean).sum() + spread - 2 * np.sqrt(overlap).sum())
    error = ROUNDINGS * EPSILON * overlap.max()
    roots = float((np.sqrt(overlap + error) - np.sqrt(overlap)).sum())
    return at_bound(value, 0.0, np.inf, 2 * roots + ROUNDINGS * EPSILON * float(spread))
