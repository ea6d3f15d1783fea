"""Diffusion tree sampling (Jain et al. 2025, arXiv 2506.20701): rollouts in a tree, drawn by the values of its states.

No released code was at hand. The form of the widening is the paper's; its constants are this project's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stages.about import End, StrategyAbout
from stages.sample.soft_values import drawn
from stages.sample.trees import Trees

ABOUT = StrategyAbout(
    "DTS",
    "Jain et al. 2025, arXiv 2506.20701",
    letter="m",
    plain=End(1, "M = 1"),
    lines=((0, (3, 1, 3, 1, 1, 1)),),
    markers=("1",),
    caption="DTS draws an image from a tree that M rollouts have grown, in proportion to exp(lambda reward).",
)


class Settings(Trees):
    """The tree."""

    def choose(self, values: Sequence[float], visits: Sequence[int], uniform: Callable[[], float]) -> int:
        """A child drawn in proportion to exp(lambda value)."""
        return drawn(values, self.strength, uniform())
