"""Does an image show what its prompt says? Read off the pixels by the oracle of the study's world."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from stages.about import MetricAbout

if TYPE_CHECKING:
    import numpy as np

    from stages.measure.scored import ScoredImages

ABOUT = MetricAbout(
    "Caption match",
    labels={
        "caption_accuracy": "caption accuracy",
        "shape_accuracy": "shape accuracy",
        "colour_accuracy": "colour accuracy",
        "full_caption_accuracy": "full caption accuracy",
        "empty_share": "empty share",
        "distance_to_real": "distance to the nearest real image",
    },
    rising="more images as the prompt says",
)

SCOPE = "image"


def metric(images: ScoredImages) -> Mapping[str, np.ndarray]:
    """`caption_accuracy`, 0 or 1 per image, and what else the oracle says of each."""
    return {} if images.seen is None else images.seen.marks(images.prompts)
