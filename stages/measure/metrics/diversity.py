"""Pairwise diversity of the images of a prompt, in every feature space of `measure.features`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from stages.about import MetricAbout
from stages.measure.statistics import EPSILON, at_bound, unit

if TYPE_CHECKING:
    from stages.measure.scored import ScoredImages

ABOUT = MetricAbout("Pairwise diversity", labels={"*_diversity": "{} diversity"}, rising="more diverse")

SCOPE = "prompt"


def metric(images: ScoredImages) -> Mapping[str, float]:
    """`<model>_diversity` for every space: by cosine in [0, 2], by distance at least 0; nothing for a single image."""
    if len(images) < 2:
        return {}
    spaces = {name: values[:, None] for name, values in images.embeddings.items()} | dict(images.patches)
    found = {name: pairwise_diversity(values) for name, values in spaces.items()}
    found |= {name: mean_distance(values) for name, values in images.distances.items()}
    return {f"{name}_diversity": value for name, value in found.items()}


def mean_distance(vectors: np.ndarray) -> float:
    """Mean over pairs i < j of |v_i - v_j|^2, of vectors [n, D]: with those of `lpips`, the mean LPIPS of a prompt.

    The sum over pairs is n times the sum of squared distances from the mean vector.
    """
    values = np.asarray(vectors, np.float64)
    return float(2 * np.square(values - values.mean(0)).sum() / (len(values) - 1))


def pairwise_diversity(features: np.ndarray) -> float:
    """1 - the mean over pairs of images i < j, and over places, of the cosine of features [n, N, D].

    With one place this is the diversity of the released ImageReFL code (DinoDiversity, ClipDiversity). Patches are
    compared place by place, so the same object elsewhere counts as different. Pairs are never formed: over unit vectors
    u_i, the sum over ordered pairs i != j of u_i.u_j is |sum u_i|^2 - sum |u_i|^2. What rounding takes below 0, where
    all images are equal, is 0, and what it takes above 2, of two opposite ones, is 2.
    """
    units = unit(features)
    count, places = units.shape[:2]
    pairs = np.square(units.sum(0)).sum() - np.square(units).sum()
    value = float(1 - pairs / (places * count * (count - 1)))
    return at_bound(value, 0.0, 2.0, 64 * count * EPSILON)
