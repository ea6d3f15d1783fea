"""Reward of every model in `measure.rewards`: the training reward, the held-out one, the oracle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from stages.about import MetricAbout

if TYPE_CHECKING:
    import numpy as np

    from stages.measure.scored import ScoredImages

ABOUT = MetricAbout("Reward")

SCOPE = "image"


def metric(images: ScoredImages) -> Mapping[str, np.ndarray]:
    """Every reward under the name of its model, on the model's own scale."""
    return images.rewards
