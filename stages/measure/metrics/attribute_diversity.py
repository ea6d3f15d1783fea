"""How much the images of a prompt differ in what it leaves open, as the study's oracle sees it.

In the shapes world the mean distance of place, size and background; of emoji the entropies of style, tone and gender.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from stages.about import MetricAbout

if TYPE_CHECKING:
    from stages.measure.scored import ScoredImages

ABOUT = MetricAbout(
    "Attribute diversity",
    labels={"attribute_diversity": "attribute diversity", "*_entropy": "{} entropy (nats)"},
    rising="more diverse",
)

SCOPE = "prompt"


def metric(images: ScoredImages) -> Mapping[str, float]:
    """`attribute_diversity`, and what it is made of where the oracle says; nothing for a single image."""
    if images.seen is None or len(images) < 2:
        return {}
    return images.seen.diversity()
