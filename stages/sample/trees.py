"""Searches in a tree of denoising states: settings and rules. `stages/sample/tree.py` grows the tree."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from stages.sample.search import MOST, Search, numbered, require_counts
from stages.sample.settings import SampleSettings, SweepPoint
from stages.sample.stepping import require_random

if TYPE_CHECKING:
    from stages.sample.context import Context
    from stages.sample.search import Found


class Trees(Search):
    """Rollouts, the strength of the reward, and how many children a state may have."""

    m: tuple[int, ...] = Field(min_length=1, description="numbers M of rollouts per image")
    strength: float = Field(default=10.0, gt=0, description="lambda, which multiplies rewards")
    children: int | None = Field(
        default=3, ge=1, description="children that a state may have; null: by `widening`, as it is visited more often"
    )
    widening: tuple[float, float] = Field(
        default=(2.0, 0.5),
        description="C and a: a state that N rollouts visited may have max(1, floor(C N^a)) children",
    )
    result: Literal["draw", "best"] = Field(
        default="draw",
        description="one leaf, drawn on the way down in proportion to exp(lambda value), or the one with the highest "
        "reward",
    )

    def points(self) -> list[SweepPoint]:
        """One point per M."""
        return numbered("m", self.m)

    def check(self, sample: SampleSettings) -> None:
        """Children of a state diverge only where steps are random."""
        super().check(sample)
        require_counts("m", self.m)
        if min(self.widening) <= 0:
            raise ValueError(f"widening {list(self.widening)}: expected two numbers above 0")
        require_random(sample, "children of a state")

    def limit(self, visits: int) -> int:
        """Children that a state may have after `visits` rollouts."""
        if self.children is not None:
            return self.children
        factor, power = self.widening
        try:
            return max(1, math.floor(factor * visits**power))
        except OverflowError:
            return MOST

    @abstractmethod
    def choose(self, values: Sequence[float], visits: Sequence[int], uniform: Callable[[], float]) -> int:
        """The child that a rollout goes on to, by the values and visits of all children; `uniform()` draws from
        [0, 1).
        """

    def find(self, ctx: Context, value: float) -> Found:
        """One leaf of each tree; with M = 1 plain sampling."""
        from stages.sample.tree import grown

        return grown(ctx, self, int(value))
