"""Pairwise-cosine diversity of the images of a prompt, in every feature space of `measure.features`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from stages.measure.statistics import unit

if TYPE_CHECKING:
    from stages.measure.judged import Judged

SCOPE = "prompt"


def metric(images: Judged) -> Mapping[str, float]:
    """`<model>_diversity` for every space, in [0, 2]; nothing for a single image."""
    if len(images) < 2:
        return {}
    spaces = {name: values[:, None] for name, values in images.embeddings.items()} | dict(images.patches)
    return {f"{name}_diversity": pairwise_diversity(values) for name, values in spaces.items()}


def pairwise_diversity(features: np.ndarray) -> float:
    """1 - the mean over pairs of images i < j, and over places, of the cosine of features [n, N, D].

    With one place this is the diversity of the released ImageReFL code (DinoDiversity, ClipDiversity). Patches are
    compared place by place, so the same object elsewhere counts as different. Pairs are never formed: over unit vectors
    u_i, the sum over ordered pairs i != j of u_i.u_j is |sum u_i|^2 - sum |u_i|^2.
    """
    units = unit(features)
    count, places = units.shape[:2]
    pairs = np.square(units.sum(0)).sum() - np.square(units).sum()
    return float(1 - pairs / (places * count * (count - 1)))
