"""CLIPScore: cosine of an image and its prompt in the space of `measure.text_image`, neither clipped nor scaled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from stages.about import MetricAbout
from stages.measure.statistics import at_bound

if TYPE_CHECKING:
    from stages.measure.scored import ScoredImages

ABOUT = MetricAbout("CLIPScore", "Hessel et al. 2021", labels={"clipscore": "CLIPScore"}, rising="closer to the prompt")

SCOPE = "image"
ROUNDING = 1e-5
"""Rounding error of a cosine of some thousands of numbers in single precision."""


def metric(images: ScoredImages) -> Mapping[str, np.ndarray]:
    """In [-1, 1]; nothing where the study names no such model. Hessel et al. 2021 report 2.5 max(cosine, 0)."""
    if images.clipscore is None:
        return {}
    return {"clipscore": np.array([at_bound(float(cosine), -1.0, 1.0, ROUNDING) for cosine in images.clipscore])}
