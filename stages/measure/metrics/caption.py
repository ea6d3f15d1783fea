"""Does an image of the shapes world show what its prompt says? Read off the pixels by the world's oracle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from stages.about import MetricAbout
from stages.world import oracle

if TYPE_CHECKING:
    from stages.measure.judged import Judged

ABOUT = MetricAbout(
    "Caption match",
    labels={
        "caption_accuracy": "caption accuracy",
        "shape_accuracy": "shape accuracy",
        "colour_accuracy": "colour accuracy",
        "full_caption_accuracy": "full caption accuracy",
        "empty_share": "empty share",
    },
    rising="more images as the prompt says",
)

SCOPE = "image"


def metric(images: Judged) -> Mapping[str, np.ndarray]:
    """0 or 1 an image: caption_accuracy (shape and colour), either alone, everything said, and empty_share."""
    if images.seen is None:
        return {}
    match = oracle.caption_match(images.seen, images.prompts)
    found = {
        "caption_accuracy": match.both,
        "shape_accuracy": match.shape,
        "colour_accuracy": match.colour,
        "full_caption_accuracy": match.all,
        "empty_share": images.seen.empty,
    }
    return {name: values.astype(np.float64) for name, values in found.items()}
