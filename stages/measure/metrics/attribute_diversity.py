"""How much the images of a prompt of the shapes world differ in what it leaves open: place, size, background."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from stages.about import MetricAbout
from stages.world import oracle

if TYPE_CHECKING:
    from stages.measure.judged import Judged

ABOUT = MetricAbout("Attribute diversity", labels={"attribute_diversity": "attribute diversity"}, rising="more diverse")

SCOPE = "prompt"


def metric(images: Judged) -> Mapping[str, float]:
    """Mean pairwise distance of parsed attributes, in standard deviations of the world; nothing for a single image."""
    if images.seen is None or len(images) < 2:
        return {}
    return {"attribute_diversity": oracle.attribute_diversity(images.seen)}
