"""Label and weight from the margin of a reward: the image that it scores higher is preferred, by as much as it is.

Weights are multiplied by the margin in units of the mean margin of the pairs, at most `most`; both are ours.
"""

from __future__ import annotations

from math import fsum
from typing import ClassVar

import numpy as np
from pydantic import Field

from stages.select.pairs import Pairs
from stages.select.step import Change, StepSettings


class Settings(StepSettings):
    """The reward, and the largest factor of a weight."""

    LABELS: ClassVar[bool] = True

    reward: str = Field(description="the reward, of score.rewards")
    most: float = Field(default=4.0, gt=0, description="largest factor of a pair's weight (our number)")

    def rewards(self) -> tuple[str, ...]:
        """The reward."""
        return (self.reward,)


def apply(pairs: Pairs, settings: Settings) -> Change:
    """The pairs with label 1 for the higher score (1/2 for equal ones), their weights times that factor."""
    gap = pairs.gap(settings.reward)
    mean = fsum(np.abs(gap)) / len(gap)
    if not mean:
        raise ValueError(f"reward: {settings.reward!r} scores both images of every pair alike, expected a margin")
    weight = np.minimum(np.abs(gap) / mean, settings.most)
    return Change(preference=(1 + np.sign(gap)) / 2, weight=pairs.weight * weight)
