"""Spatial dispersion: how differently the images of a prompt place their objects, where an oracle sees the places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from stages.about import MetricAbout
from stages.sight import Layout

if TYPE_CHECKING:
    from stages.measure.scored import ScoredImages

ABOUT = MetricAbout(
    "Spatial dispersion index", "Chen et al. 2025, arXiv 2512.24146",
    labels={"sdi": "spatial dispersion"}, rising="more diverse",
)  # fmt: skip

SCOPE = "prompt"


def metric(images: ScoredImages) -> Mapping[str, float]:
    """`sdi`, in [0, 1]; nothing for a single image, or where no oracle sees places.

    One minus the mean similarity of the layouts of two images (Chen et al. 2025, eq. 16 to 18). The paper detects boxes
    with Grounding DINO; here the oracle reads them off the pixels.
    """
    if len(images) < 2 or not isinstance(images.seen, Layout):
        return {}
    return {"sdi": 1 - float(np.mean([similarity(a, b) for a, b in combinations(images.seen.boxes(), 2)]))}


def similarity(a: np.ndarray, b: np.ndarray) -> float:
    """Of two layouts, boxes [n, 4] and [m, 4] as left, top, right, bottom: in [0, 1] (Chen et al. 2025, eq. 16).

    The sum of IoU over the pairing of boxes for which it is largest, over the larger number of boxes; 1 where both have
    none, which the paper leaves open.
    """
    from scipy.optimize import linear_sum_assignment  # slow to import

    most = max(len(a), len(b))
    if not most:
        return 1.0
    shared = overlaps(a, b)
    rows, columns = linear_sum_assignment(shared, maximize=True)
    return float(shared[rows, columns].sum() / most)


def overlaps(a: Sequence[Sequence[float]] | np.ndarray, b: Sequence[Sequence[float]] | np.ndarray) -> np.ndarray:
    """[n, m]: intersection over union of every box of [n, 4] with every box of [m, 4], each of an area above 0."""
    first, second = np.asarray(a, np.float64).reshape(-1, 1, 4), np.asarray(b, np.float64).reshape(1, -1, 4)
    sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    both = np.clip(sides, 0, None).prod(axis=-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(axis=-1) for boxes in (first, second)]
    return both / (areas[0] + areas[1] - both)
