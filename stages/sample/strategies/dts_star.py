"""DTS* (Jain et al. 2025, arXiv 2506.20701): the greedy form of diffusion tree sampling, for the best image.

No released code was at hand. The form of the widening is the paper's; its constants are this project's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

from pydantic import Field

from stages.about import End, StrategyAbout
from stages.sample.trees import Trees

ABOUT = StrategyAbout(
    "DTS*",
    "Jain et al. 2025, arXiv 2506.20701",
    letter="m",
    plain=End(1, "M = 1"),
    lines=((0, (3, 1, 1, 1, 3, 1)),),
    markers=("2",),
    caption="DTS* keeps the best image of a tree that M rollouts have grown where it is best or least known.",
)


class Settings(Trees):
    """The tree, and how much rollouts explore."""

    exploration: float = Field(
        default=1.0, ge=0, description="c: a rollout goes to the child with the largest value + c sqrt(log N / n), "
        "N and n being the visits of the state and of the child",
    )  # fmt: skip
    result: Literal["draw", "best"] = Field(
        default="best", description="the leaf with the highest reward, or one drawn on the way down"
    )

    def choose(self, values: Sequence[float], visits: Sequence[int], uniform: Callable[[], float]) -> int:
        """The first child with the largest upper bound."""
        total = math.log(sum(visits))
        bounds = [value + self.exploration * math.sqrt(total / n) for value, n in zip(values, visits, strict=True)]
        return bounds.index(max(bounds))
