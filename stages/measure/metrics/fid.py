"""Frechet distance between the features of generated and of real images, each taken for a Gaussian."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stages.about import MetricAbout
from stages.measure.statistics import Gaussian, Reference, gaussian

ABOUT = MetricAbout("FID", "Heusel et al. 2017", labels={"fid": "FID"}, rising="further from real images")

SCOPE = "set"
RANGE = (0.0, float("inf"))


def metric(features: np.ndarray, reference: Reference) -> Callable[[np.ndarray], float]:
    """0 or more, lower is better. It is biased upwards for few images: compare only settings with equally many."""
    return lambda rows: frechet_distance(reference.gaussian, gaussian(features[rows]))


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a^1/2 C_b C_a^1/2)^1/2) (Heusel et al. 2017, eq. 6)."""
    overlap = np.linalg.eigvalsh(a.root @ b.covariance @ a.root)
    traces = np.trace(a.covariance) + np.trace(b.covariance) - 2 * np.sqrt(np.clip(overlap, 0, None)).sum()
    return float(np.square(a.mean - b.mean).sum() + traces)
