"""CLIPScore: cosine of an image and its prompt in the space of `measure.text_image`, neither clipped nor scaled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from stages.about import MetricAbout

if TYPE_CHECKING:
    import numpy as np

    from stages.measure.judged import Judged

ABOUT = MetricAbout("CLIPScore", "Hessel et al. 2021", labels={"clipscore": "CLIPScore"}, rising="closer to the prompt")

SCOPE = "image"


def metric(images: Judged) -> Mapping[str, np.ndarray]:
    """In [-1, 1]; nothing where the study names no such model. Hessel et al. 2021 report 2.5 max(cosine, 0)."""
    return {} if images.clipscore is None else {"clipscore": images.clipscore}
